"""One HTML file of our own making, which reaches nothing outside itself: a browser is told to run only what stands in it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from html import escape

from klieg.views.palette import LIGHT
from klieg.views.words import LANGUAGES

STYLE = (f"body{{margin:3rem auto;padding:0 1rem;font:16px/1.6 system-ui,sans-serif;color:{LIGHT.ink};"
         f"background:{LIGHT.page}}}figure{{margin:1.5rem 0;overflow-x:auto}}")


def document(title: str, body: str, style: str, script: str = "", language: str = "en") -> str:
    """A page with this title (escaped here) and body (HTML). The style comes after STYLE; the script may be left away."""
    tongue, styled = LANGUAGES.index(language), STYLE + style
    policy = (f"default-src 'none'; script-src {sources([script])}; style-src-elem {sources([styled])}; "
              "style-src-attr 'unsafe-inline'; base-uri 'none'; form-action 'none'")
    end = f"<script>{script}</script>\n" if script else ""
    return (f'<!doctype html><html lang="{("en", "zh-Hans")[tongue]}"><meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
            f'<meta name="viewport" content="width=device-width"><title>{escape(title)}</title>\n'
            f"<style>{styled}</style><h1>{escape(title)}</h1>\n{body}\n{end}</html>\n")


def sources(texts: Sequence[str]) -> str:
    """Scripts or styles as the sources of a Content-Security-Policy, by their hashes; 'none' if there are none."""
    found = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts if text]
    return " ".join(f"'sha256-{digest}'" for digest in found) or "'none'"
