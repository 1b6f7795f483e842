from __future__ import annotations

import re
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path

import pytest
from messages import unpacked

from klieg.errors import KliegError
from klieg.trace import Trace
from klieg.views import html as module
from klieg.views.html import carrying, html
from klieg.views.wire import whole

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
    assert parser.found[0][0]["type"] == "application/x-klieg"
    message = b64decode(parser.found[0][1], validate=True)
    assert message == whole(hostile)
    body, tensors = unpacked(message)
    assert body["tokens"] == hostile.tokens and body["tokens"][1] == "<script>alert(1)</script>"
    assert tensors["calls.1.q"].equal(hostile[1].q[0])
    assert parser.found[1][1] == 'document.body.append("page")'


def test_nothing_is_fetched(built: Path, hostile: Trace) -> None:
    text = html(hostile)
    assert not re.search(r"https?://", text)
    assert not re.search(r"<(?:script|link|img|iframe)[^>]*\b(?:src|href)=", text)


def test_no_message_can_open_or_end_anything() -> None:
    for message in (b"</script>", b"<!--", bytes(range(256))):
        text = carrying(PAGE, message, "klieg-first")
        parser = Scripts()
        parser.feed(text)
        assert [attrs.get("id") for attrs, _ in parser.found] == ["klieg-first", None]
        assert b64decode(parser.found[0][1], validate=True) == message


def test_a_page_that_is_not_built_is_a_message(monkeypatch: pytest.MonkeyPatch, trace: Trace) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(KliegError, match="is not built"):
        html(trace)


def test_a_page_without_a_place_is_a_message(built: Path, trace: Trace) -> None:
    built.write_text("<html></html>", "utf-8")
    with pytest.raises(KliegError, match="no place for a trace"):
        html(trace)
