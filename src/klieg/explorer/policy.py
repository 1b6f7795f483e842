"""What a browser may do with an answer: run the page's own scripts and styles, and reach nothing but this server."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence

_SCRIPT = re.compile(r"<script\b([^>]*)>(.*?)</script>", re.DOTALL | re.IGNORECASE)
_STYLE = re.compile(r"<style\b([^>]*)>(.*?)</style>", re.DOTALL | re.IGNORECASE)


def headers(html: str) -> dict[str, str]:
    """Of every answer; the page's scripts and styles are named by their hashes."""
    scripts = [text for kind, text in _SCRIPT.findall(html) if not re.search(r"type=.?application/", kind)]
    policy = (f"default-src 'none'; script-src {_hashes(scripts)}; "
              f"style-src-elem {_hashes([text for _, text in _STYLE.findall(html)])}; style-src-attr 'unsafe-inline'; "
              "connect-src 'self'; img-src 'self' data: blob:; font-src data:; base-uri 'none'; form-action 'none'; "
              "frame-ancestors 'none'")
    return {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer", "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin", "Cache-Control": "no-store"}


def _hashes(texts: Sequence[str]) -> str:
    """Each as a source of a Content-Security-Policy; 'none' if there are none."""
    found = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts if text]
    return " ".join(f"'sha256-{digest}'" for digest in found) or "'none'"
