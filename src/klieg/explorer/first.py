"""What the page shows before anything was computed: a trace that ships with Klieg, the bundled model's own numbers.

docs/refresh.py writes it anew after new weights; a test compares it with what the model computes now.
"""

from __future__ import annotations

from pathlib import Path

from klieg.views.html import SLOT, carrying

MODEL, TEXT = "chat", "I love you"
FILE = Path(__file__).with_name("first.klieg-wire")  # a message of views.wire.whole()


def within(page: str) -> str:
    """The built page with that trace in it, for the time until the server's first answer."""
    return carrying(page, FILE.read_bytes(), "klieg-first") if SLOT in page else page
