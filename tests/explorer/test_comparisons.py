"""The route of comparisons: its numbers are those of klieg.analysis.similarity, and what it refuses it refuses in one line."""

from __future__ import annotations

import pytest
from made import made
from starlette.testclient import TestClient
from test_similarity import streamed

from klieg.analysis.similarity import neighbours, similarity
from klieg.explorer import comparisons
from klieg.explorer.desk import Desk
from klieg.explorer.server import application
from klieg.trace import Trace


def asking(**files: Trace) -> TestClient:
    return TestClient(application(Desk({}, files), 8137, "<p>"), base_url="http://127.0.0.1:8137")


def test_the_numbers_are_those_of_the_function() -> None:
    a, b = streamed("one two three"), streamed("two and one")
    found = asking(a=a, b=b).get("/api/comparisons?a=a&b=b&token_a=2&token_b=1&layer=1").json()
    for step, wanted in zip(found["steps"], similarity(a, 2, b, 1), strict=True):
        assert step == {**vars(wanted), "lengths": list(wanted.lengths)}
    assert found["near"] == [neighbours(b, 1, a, 1).tolist(), neighbours(a, 2, b, 1).tolist()]
    assert [len(row) for row in found["near"]] == [len(a.tokens), len(b.tokens)]
    assert found["near"][0][2] == pytest.approx(found["steps"][2]["cosine"]) == pytest.approx(found["near"][1][1])


def test_a_trace_may_be_compared_with_itself() -> None:
    a = streamed("one two three")
    found = asking(a=a).get("/api/comparisons?a=a&b=a&token_a=2&token_b=1&layer=0&kind=cross").json()
    assert [step["mean"] for step in found["steps"]] == [step.mean for step in similarity(a, 2, a, 1)]


@pytest.mark.parametrize(("query", "says"), [
    ("b=b&token_a=9&token_b=1", "no token 9"), ("b=b&token_a=1&token_b=99", "no token 99"),
    ("b=b&token_a=1&token_b=1&layer=3", "no layer 3"), ("b=other&token_a=1&token_b=1", "no vector space in common"),
    ("b=bare&token_a=1&token_b=1", "was not kept"), ("b=b&token_a=1&token_b=1&kind=encoder", "was not kept"),
    ("b=b&token_a=-1&token_b=1", "greater than or equal to 0"), ("token_a=1&token_b=1", "b: Field required"),
    ("b=b&token_a=1&token_b=1&kind=none", "does not fit: kind"), (f"b={'b' * 300}&token_a=1&token_b=1", "200 characters")])
def test_what_cannot_be_answered_is_one_line(query: str, says: str) -> None:
    traces = {"a": streamed("one two three"), "b": streamed("two and one"), "other": streamed("two", model="other"),
              "bare": made("random", "one")}
    answer = asking(**traces).get(f"/api/comparisons?a=a&{query if 'layer' in query else query + '&layer=0'}")
    assert answer.status_code == 422 and says in answer.json()["error"] and "\n" not in answer.json()["error"]


def test_a_trace_that_is_not_open_and_one_that_is_too_long(monkeypatch) -> None:
    client = asking(a=streamed("one two three"))
    assert client.get("/api/comparisons?a=a&b=none&token_a=1&token_b=1&layer=0").status_code == 404
    monkeypatch.setattr(comparisons, "MOST", 3)
    assert "4 tokens is too long" in client.get("/api/comparisons?a=a&b=a&token_a=1&token_b=1&layer=0").json()["error"]
