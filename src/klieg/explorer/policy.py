"""What a browser may do with an answer: run the page's own scripts and styles, and reach nothing but this server."""

from __future__ import annotations

import re

from klieg.views.document import sources

_SCRIPT = re.compile(r"<script\b([^>]*)>(.*?)</script>", re.DOTALL | re.IGNORECASE)
_STYLE = re.compile(r"<style\b([^>]*)>(.*?)</style>", re.DOTALL | re.IGNORECASE)


def headers(html: str) -> dict[str, str]:
    """Of every answer; the page's scripts and styles are named by their hashes."""
    scripts = [text for kind, text in _SCRIPT.findall(html) if not re.search(r"type=.?application/", kind)]
    policy = (f"default-src 'none'; script-src {sources(scripts)}; "
              f"style-src-elem {sources([text for _, text in _STYLE.findall(html)])}; style-src-attr 'unsafe-inline'; "
              "connect-src 'self'; img-src 'self' data: blob:; font-src data:; base-uri 'none'; form-action 'none'; "
              "frame-ancestors 'none'")
    return {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer", "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin", "Cache-Control": "no-store"}
