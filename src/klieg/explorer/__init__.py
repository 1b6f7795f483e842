"""The Explorer: the page in the browser, built from web/ into static/, and the server behind it."""

from __future__ import annotations
