"""The questions of sparse attention: what is lost is losses()'s own, what is said is that of what if, and pairs are counted."""

from __future__ import annotations

import gc
import json
import struct
import weakref

import pytest
import torch
from made import Maker, made, translated
from starlette.testclient import TestClient
from test_flows import TEXT, events, opened, readers  # noqa: F401

from klieg.analysis.sparsity import USUAL, losses
from klieg.changes import Heads, Keep
from klieg.explorer import sparsities
from klieg.explorer.desk import Desk
from klieg.explorer.reader import Reader
from klieg.explorer.server import application
from klieg.patterns import Pattern
from klieg.views import svg
from klieg.views.palette import DARK
from klieg.views.sparsity import grid
from klieg.whatif import whatif


@pytest.fixture
def desk(readers: dict[str, Reader]) -> Desk:  # noqa: F811
    known = {reader.name: reader for reader in readers.values()}
    return Desk({**known, "maker": Maker("maker")}, {"file": made("saved", TEXT), "both": translated("pair", "one two")})


@pytest.fixture
def client(desk: Desk) -> TestClient:
    return TestClient(application(desk, 8137, "<p>"), base_url="http://127.0.0.1:8137")


def unpacked(body: bytes) -> tuple[dict, list[list[int]]]:
    """A message with one tensor of bytes: what it says, and the rows."""
    (length,) = struct.unpack("<Q", body[:8])
    head = json.loads(body[8:8 + length])
    rows, columns = head["pairs"]["shape"]
    table = body[8 + length:][slice(*head["pairs"]["data_offsets"])]
    return json.loads(head["__metadata__"]["klieg"]), [list(table[i * columns:(i + 1) * columns]) for i in range(rows)]


@pytest.mark.parametrize("pattern", ["window:3", "block:2+global:1", "top:2"])
def test_what_is_lost_and_what_is_said(client: TestClient, desk: Desk, readers: dict[str, Reader], pattern: str) -> None:  # noqa: F811
    id = opened(desk, readers["own"].name)
    told = client.post("/api/sparsity", json={"id": id, "pattern": pattern}).json()
    wanted = losses(desk.trace(id), Pattern.read(pattern))
    assert told["pattern"] == pattern and told["why"] == ""
    assert [call["mean"] for call in told["calls"]] == [loss.mean.tolist() for loss in wanted]
    highest = max(x for loss in wanted for x in loss.mean.tolist())
    assert told["top"]["mean"] == highest == wanted[told["top"]["layer"]].mean[told["top"]["head"]].item()
    other = whatif(readers["own"].own, TEXT, [Keep(Heads(), Pattern.read(pattern))], count=8)
    assert told["applied"]["divergence"] == pytest.approx(other.divergence, rel=1e-4)
    assert [each["id"] for each in told["applied"]["changes"]] == [each.id for each in other.changes]
    assert [each["after"] for each in told["applied"]["changes"]] == pytest.approx([e.after for e in other.changes], rel=1e-4)
    assert told["applied"]["certificate"]["row_sum_error"] < 1e-5


@pytest.mark.parametrize(("pattern", "keeps"), [
    ("window:2", lambda i, j, row: abs(i - j) < 2), ("block:3", lambda i, j, row: i // 3 == j // 3),
    ("strided:3+global:1", lambda i, j, row: abs(i - j) < 3 or (i - j) % 3 == 0 or i == 0 or j == 0),
    ("top:2", lambda i, j, row: row[j] >= sorted(row, reverse=True)[min(1, len(row) - 1)])])
def test_what_becomes_of_every_pair(client: TestClient, desk: Desk, pattern: str, keeps) -> None:
    body = client.get(f"/api/sparsity/file/heads/1/2?pattern={pattern.replace('+', '%2B')}").content
    said, pairs = unpacked(body)
    w = desk.files["file"].calls[1].weights(2).double().tolist()
    for i, row in enumerate(w):
        seen = row[:i + 1]
        assert pairs[i] == [(2 if keeps(i, j, seen) else 1) if j <= i else 0 for j in range(len(row))]
        assert said["lost"][i] == pytest.approx(sum(x for j, x in enumerate(seen) if pairs[i][j] == 1), abs=1e-12)


def test_usual_patterns_come_one_by_one_and_are_kept(client: TestClient, desk: Desk, readers: dict[str, Reader],  # noqa: F811
                                                     monkeypatch) -> None:
    id = opened(desk, readers["own"].name)
    told = events(client.post("/api/sparsity/usual", json={"id": id}))
    assert [kind for kind, _ in told] == ["pattern"] * len(USUAL)
    monkeypatch.setattr(sparsities, "losses", None)
    for _, each in told:
        assert client.post("/api/sparsity", json={"id": id, "pattern": each["pattern"]}).json() == each
    wanted = client.get(f"/api/sparsity/{id}/pictures/json?pattern=top:8").json()
    assert wanted["patterns"][0]["mean"] == told[-1][1]["mean"] and wanted["text"] == TEXT


def test_a_saved_trace_loses_too_but_says_nothing(client: TestClient, desk: Desk) -> None:
    told = client.post("/api/sparsity", json={"id": "file", "pattern": "window:2"}).json()
    assert told["applied"] is None and "not started with the model 'saved'" in told["why"]
    wanted = losses(desk.files["file"], Pattern("window", 2))
    assert told["mean"] == pytest.approx(torch.cat([loss.mean for loss in wanted]).mean().item())
    said = client.post("/api/sparsity", json={"id": "file", "pattern": "window:2"}, headers={"Accept-Language": "zh"}).json()
    assert "没有给它模型" in said["why"]      # a refusal is not kept with the numbers
    cross = client.post("/api/sparsity", json={"id": "both", "pattern": "window:2"}).json()
    assert "cross" not in {call["kind"] for call in cross["calls"]}


def test_it_is_drawn_as_in_the_terminal(client: TestClient, desk: Desk) -> None:
    client.post("/api/sparsity", json={"id": "file", "pattern": "window:2"})
    trace = desk.files["file"]
    wanted = sparsities.Sparsity(Pattern("window", 2), losses(trace, Pattern("window", 2)), None)
    picture = client.get("/api/sparsity/file/pictures/svg?pattern=window:2&dark=true&lang=zh").text
    assert picture == svg.lower(grid(trace, [wanted], DARK, language="zh"))


def test_a_text_that_is_closed_is_given_back(client: TestClient, desk: Desk, readers: dict[str, Reader]) -> None:  # noqa: F811
    id = opened(desk, readers["own"].name)
    client.post("/api/sparsity", json={"id": id, "pattern": "top:2"})
    held = weakref.ref(desk.trace(id))
    client.delete(f"/api/traces/{id}")
    gc.collect()
    assert held() is None


@pytest.mark.parametrize(("path", "body", "status", "says"), [
    ("sparsity", {"id": "nothing", "pattern": "top:2"}, 404, "not open any more"),
    ("sparsity", {"id": "file", "pattern": "wide:2"}, 422, "no pattern 'wide'"),
    ("sparsity", {"id": "file", "pattern": "top:2+global:1"}, 422, "top has no global tokens"),
    ("sparsity/file/heads/9/0?pattern=top:2", None, 422, "no call 9"),
    ("sparsity/file/heads/0/9?pattern=top:2", None, 422, "head 9"),
    ("sparsity/file/heads/0/0?pattern=top", None, 422, "a pattern is given as 'top'")])
def test_what_cannot_be_is_one_line(client: TestClient, path: str, body: dict | None, status: int, says: str) -> None:
    answer = client.get(f"/api/{path}") if body is None else client.post(f"/api/{path}", json=body)
    assert answer.status_code == status and says in answer.json()["error"]


def test_a_long_text_is_refused_before_anything_is_computed(client: TestClient, monkeypatch) -> None:
    monkeypatch.setattr(sparsities, "LONGEST", 3)
    answer = client.post("/api/sparsity", json={"id": "file", "pattern": "top:2"})
    assert answer.status_code == 422 and "up to 3" in answer.json()["error"]
