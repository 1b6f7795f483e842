from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from klieg.errors import KliegError
from klieg.trace import Trace
from klieg.views import html as module
from klieg.views.html import html, inline
from klieg.views.wire import wire

PAGE = ('<!doctype html><html><head><meta charset="utf-8"><title>t</title>\n<!-- klieg-trace -->\n'
        '<script type="module">document.body.append("page")</script></head><body></body></html>')


class Scripts(HTMLParser):
    """What a browser takes for scripts: their attributes and text."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[dict, str]] = []
        self._open = False

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self._open = tag == "script"
        if self._open:
            self.found.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self._open = False

    def handle_data(self, data: str) -> None:
        if self._open:
            self.found[-1] = (self.found[-1][0], self.found[-1][1] + data)


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "index.html"
    path.write_text(PAGE, "utf-8")
    monkeypatch.setattr(module, "page", lambda: path)
    return path


def test_the_trace_comes_back_exactly_whatever_its_tokens_are(built: Path, hostile: Trace) -> None:
    parser = Scripts()
    parser.feed(html(hostile))
    assert [attrs.get("id") for attrs, _ in parser.found] == ["klieg-trace", None]
    assert parser.found[0][0]["type"] == "application/json"
    assert json.loads(parser.found[0][1]) == wire(hostile)
    assert json.loads(parser.found[0][1])["tokens"][1] == "<script>alert(1)</script>"
    assert parser.found[1][1] == 'document.body.append("page")'


def test_nothing_is_fetched(built: Path, hostile: Trace) -> None:
    text = html(hostile)
    assert not re.search(r"https?://", text)
    assert not re.search(r"<(?:script|link|img|iframe)[^>]*\b(?:src|href)=", text)


def test_json_in_a_script_can_open_or_end_nothing() -> None:
    nasty = ["</script>", "<!--", "<script", "]]>", "\u2028", "小"]
    assert not set("<>&\u2028") & set(inline(nasty)) and json.loads(inline(nasty)) == nasty
    with pytest.raises(ValueError, match="JSON compliant"):
        inline(float("nan"))


def test_a_page_that_is_not_built_is_a_message(monkeypatch: pytest.MonkeyPatch, trace: Trace) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(KliegError, match="is not built"):
        html(trace)


def test_a_page_without_a_place_is_a_message(built: Path, trace: Trace) -> None:
    built.write_text("<html></html>", "utf-8")
    with pytest.raises(KliegError, match="no place for a trace"):
        html(trace)
