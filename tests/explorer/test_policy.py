"""The policy that goes with every answer: only the page's own scripts and styles, and nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib

from klieg.explorer.policy import headers

SCRIPT, STYLE = "let shown = '<b>'", "p { color: red }"
HTML = (f'<!doctype html><style>{STYLE}</style><script type="application/x-klieg" id="klieg-trace">QUJD</script>'
        f'<script type="module">{SCRIPT}</script><STYLE media="print">a{{}}</STYLE>')


def digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def rules(html: str) -> dict[str, str]:
    policy = headers(html)["Content-Security-Policy"]
    return {name: rest for name, _, rest in (rule.strip().partition(" ") for rule in policy.split(";"))}


def test_only_what_the_page_carries_runs_and_paints() -> None:
    found = rules(HTML)
    assert found["script-src"] == digest(SCRIPT)
    assert found["style-src-elem"] == f"{digest(STYLE)} {digest('a{}')}"
    assert found["default-src"] == found["frame-ancestors"] == found["base-uri"] == found["form-action"] == "'none'"
    assert found["connect-src"] == "'self'"
    everything = " ".join(found.values())
    assert "http" not in everything and "*" not in everything and "unsafe-eval" not in everything
    assert [name for name, rest in found.items() if "unsafe-inline" in rest] == ["style-src-attr"]


def test_a_page_without_scripts_runs_none() -> None:
    assert rules("<p>")["script-src"] == rules("<p>")["style-src-elem"] == "'none'"


def test_nothing_is_kept_framed_or_guessed() -> None:
    found = headers(HTML)
    assert found["X-Content-Type-Options"] == "nosniff" and found["X-Frame-Options"] == "DENY"
    assert found["Cache-Control"] == "no-store"
    assert found["Referrer-Policy"] == "no-referrer" and found["Cross-Origin-Resource-Policy"] == "same-origin"
