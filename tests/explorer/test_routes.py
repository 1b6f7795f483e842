"""Every route, asked with whatever its schema allows and with what it does not: an answer or one line, and never a failure.

The routes and their parameters are read from the application itself, so that a new one is asked too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made import SCRIPT, gathered, made, translated
from starlette.testclient import TestClient

from klieg import models
from klieg.explorer.desk import Desk
from klieg.explorer.reader import Reader
from klieg.explorer.server import application
from klieg.survey import SurveySpec

pytestmark = pytest.mark.skipif("chat" not in models.bundled(), reason="the bundled model is not there")

PORT = 8137
TEXT = "I love you so very much my dear"
WILD = [-1, 1 << 70, 1e308, "", "\0", "\ud800", "\u202e", "é" * 10_000, None, True, [], {}, [[[[]]]], {"$ref": "#"}, "NaN",
        "-0", "../../etc/passwd", "%2e%2e%2f", "http://127.0.0.1:1/", SCRIPT, "0x10", "١", "1e400", float("nan"), float("inf"),
        "a\r\nb: c"]
IDS = ["{0}", "{0}", "{1}", "{2}", "file"]  # of open traces, by their number
CHANGES = ["mute 0.1", "mute all", "cut 1.2.3.1", "cut all.0.0", "hide-first all", "sharpen 0.0=2", "sharpen all=9e999",
           "sharpen all=0", "keep all=strided:2+global:1", "keep 0.1=top:2", "replace love=hate", "replace love="]
KNOWN = {"id": IDS, "a": IDS, "b": IDS, "model": ["chat"], "text": [TEXT, "a"], "to": ["zh"], "changes": CHANGES,
         "name": ["ages", "ages", "atlas"], "score": ["first", "first", "own"], "pattern": ["window:2", "top:2"],
         "pronoun": ["24-26", [24, 26]], "candidates": ["0-1,7-10", [[0, 1], [7, 10]]]}
# Sets that somebody else made: without them there is nothing to answer, and with them it takes minutes.
SETS = ("post /api/riddles", "get /api/riddles/{name}/pictures/{format}", "post /api/grammar",
        "get /api/grammar/pictures/{format}")
SHORT = 3  # texts, lists and numbers up to here, where the schema allows them


class Server:
    """An application with models and traces, and what is known of them."""

    def __init__(self) -> None:
        saved = made("saved", TEXT)
        saved.calls = [call.surveyed(SurveySpec(top=2, map=8)) for call in saved.calls]
        self.desk = Desk({"chat": Reader("chat")}, {"file": saved}, atlases={"atlas": gathered()})
        app = application(self.desk, PORT, "<p>")
        self.schema = app.openapi()
        self.client = TestClient(app, base_url=f"http://127.0.0.1:{PORT}")
        with self.desk.turns.turn() as turn:
            self.traces = [self.desk.model("chat").read(TEXT, None, turn), made("random", TEXT), translated("translator", TEXT)]

    def ids(self) -> list[str]:
        """Traces that are open: a route may have closed those of before."""
        self.desk._traces.clear()
        return [*(self.desk.put(trace) for trace in self.traces), "file"]

    def routes(self) -> list[tuple[str, str]]:
        return [(method, path) for path, known in self.schema["paths"].items() for method in known]


SERVER = Server.__new__(Server)


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("KLIEG_DATA", raising=False)
        SERVER.__init__()
        yield SERVER


def plain(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema without its reference."""
    while "$ref" in schema:
        schema = SERVER.schema["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def texts(schema: dict[str, Any], name: str) -> st.SearchStrategy:
    """What a page would send under this name; else by its pattern, with small and rising numbers in it; or any text."""
    if name in KNOWN:
        return st.sampled_from([one for one in KNOWN[name] if isinstance(one, str)])
    if "pattern" in schema:
        return st.from_regex(schema["pattern"], fullmatch=True).map(rising)
    known = st.sampled_from([one for every in KNOWN.values() for one in every if isinstance(one, str)])
    return st.one_of(known, st.text(max_size=min(schema.get("maxLength", SHORT), SHORT)))


def rising(text: str) -> str:
    """The same with numbers of at most two digits, each larger than the one before it."""
    last = -1

    def small(digits: re.Match) -> str:
        nonlocal last
        last += 1 + int(digits[0]) % 3
        return str(last)

    return re.sub(r"\d+", small, text)


def values(schema: dict[str, Any], name: str = "") -> st.SearchStrategy:
    """What a schema allows; of large ranges only their beginning, so that an answer takes no time."""
    schema = plain(schema)
    if "anyOf" in schema or "oneOf" in schema:
        return st.one_of(*(values(one, name) for one in schema.get("anyOf", schema.get("oneOf"))))
    if "enum" in schema or "const" in schema:
        return st.sampled_from(schema.get("enum", [schema.get("const")]))
    kind = schema.get("type")
    if kind in ("integer", "number"):
        least = schema.get("minimum", schema.get("exclusiveMinimum", 0))
        most = min(schema.get("maximum", schema.get("exclusiveMaximum", least + SHORT)), least + SHORT)
        return st.integers(int(least), int(most)) if kind == "integer" else st.floats(least, most)
    if kind == "array":
        if lists := [one for one in KNOWN.get(name, []) if isinstance(one, list)]:
            return st.sampled_from(lists)
        count = schema.get("maxItems", SHORT)
        if "prefixItems" in schema:
            return st.tuples(*(values(one, name) for one in schema["prefixItems"])).map(list)
        return st.lists(values(schema["items"], name), min_size=schema.get("minItems", 0), max_size=min(count, SHORT))
    if kind == "object":
        known = {key: values(one, key) for key, one in schema.get("properties", {}).items()}
        needed = {key: known.pop(key) for key in schema.get("required", [])}
        return st.fixed_dictionaries(needed, optional=known)
    return {"string": texts(schema, name), "boolean": st.booleans(), "null": st.none()}.get(kind, st.sampled_from(WILD))


@st.composite
def requests(draw: st.DrawFn, method: str, path: str) -> tuple[str, bytes | None]:
    """An address and a body; in every third of them one thing is not as the schema says."""
    facts = SERVER.schema["paths"][path][method]
    known = {(one["in"], one["name"]): one for one in facts.get("parameters", [])}
    body = facts.get("requestBody", {}).get("content", {}).get("application/json")
    taken = {place: one["schema"] for place, one in known.items() if one["required"] or draw(st.booleans())}
    found = {place: draw(values(one, place[1])) for place, one in taken.items()}
    sent = draw(values(body["schema"])) if body else None
    places: list[Any] = [*known, *(sent if isinstance(sent, dict) else []), None]
    wrong = draw(st.sampled_from(places)) if draw(st.integers(0, 2)) == 0 else None
    if wrong in known:
        found[wrong] = draw(st.sampled_from(WILD))
    elif wrong is not None:
        sent[wrong] = draw(st.sampled_from(WILD))
    elif body and draw(st.integers(0, 9)) == 0:
        sent = draw(st.sampled_from(WILD))
    raw = json.dumps(sent).encode() if body else None
    ids = SERVER.ids()

    def named(text: str) -> str:
        return ids[int(text[1])] if re.fullmatch(r"\{[0-9]\}", text) and int(text[1]) < len(ids) else text

    def escaped(value: Any) -> str:
        said = str(value).lower() if isinstance(value, bool) else named(str(value))
        return quote(said, safe="", errors="surrogatepass")

    address = re.sub(r"\{(\w+)\}", lambda name: escaped(found.get(("path", name[1]), "")), path)
    pairs = [(name, one) for (place, name), value in found.items() if place == "query"
             for one in (value if isinstance(value, list) else [value]) if one is not None]
    query = "&".join(f"{name}={escaped(one)}" for name, one in pairs)
    if raw:
        raw = re.sub(rb'"(\{[0-9]\})"', lambda name: json.dumps(named(name[1].decode())).encode(), raw)
    return f"{address}?{query}" if query else address, raw


def asked(method: str, path: str, examples: int) -> int:
    """Ask a route so often; how often it gave an answer."""
    answered = 0

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck), database=None)
    @given(st.data())
    def ask(data: st.DataObject) -> None:
        nonlocal answered
        address, body = data.draw(requests(method, path))
        kind = {} if body is None else {"content": body, "headers": {"content-type": "application/json"}}
        answer = SERVER.client.request(method.upper(), address, **kind)
        assert answer.status_code < 500, answer.text
        if answer.status_code < 400:
            answered += 1
        else:
            assert list(answer.json()) == ["error"] and answer.json()["error"].isprintable(), answer.text

    ask()
    return answered


def test_no_route_fails() -> None:
    routes = SERVER.routes()
    assert len(routes) >= 6
    never = [(method, path) for method, path in routes
             if not asked(method, path, 10) and f"{method} {path}" not in SETS and not asked(method, path, 60)]
    assert never == [], "these were only ever refused, so nothing was tried"


@pytest.mark.slow
def test_no_route_fails_when_it_is_asked_for_long() -> None:
    for method, path in SERVER.routes():
        asked(method, path, 400)


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 100_000, b"\xff\xfe", b"1" * 10_000, b'{"a": NaN}', b'"\\ud800"', b"null",
                                  b"[]", b'{"text": "a", "text": "b"}', b'{"text":' * 50_000])
def test_a_body_that_is_no_json_is_refused_everywhere(body: bytes) -> None:
    for method, path in SERVER.routes():
        if "requestBody" in SERVER.schema["paths"][path][method]:
            address = re.sub(r"\{\w+\}", "0", path)
            answer = SERVER.client.request(method.upper(), address, content=body, headers={"content-type": "application/json"})
            assert 400 <= answer.status_code < 500 and list(answer.json()) == ["error"]
