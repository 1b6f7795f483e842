"""The questions of whole sets and of grammar: numbers are those of the terminal, found once, with progress; and an end."""

from __future__ import annotations

import gzip
import json
import threading
from pathlib import Path

import pytest
import torch
from made import Maker
from starlette.testclient import TestClient
from test_cli_coref import record
from test_coreferences import readers  # noqa: F401
from test_flows import events
from test_grammar import line

from klieg.analysis.coreference import coreference
from klieg.analysis.coreference.riddles import riddles
from klieg.analysis.grammar import FILE, contrast, grammar, read_pairs
from klieg.analysis.likelihood import Scorer
from klieg.explorer import grammars
from klieg.explorer import riddles as module
from klieg.explorer.coreferences import analysed
from klieg.explorer.desk import Desk
from klieg.explorer.jobs import in_turn
from klieg.explorer.reader import Reader
from klieg.explorer.server import application
from klieg.explorer.turns import Gone
from klieg.views import grammar as views
from klieg.views import svg
from klieg.views.coreference import set_grid
from klieg.views.palette import DARK


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of public texts with one set and a few pairs."""
    (tmp_path / "eval/winograd").mkdir(parents=True)
    (tmp_path / "eval/winograd/wsc273.txt").write_text("".join(map(record, range(9))), "utf-8")
    (tmp_path / FILE).parent.mkdir()
    pairs = [line(f"I love the cat{n}.", f"I love cat{n} the.", "binding", "one") for n in range(3)]
    pairs += [line(f"The moon loves you{n}.", f"Moon the loves you{n}.", "my own", "two") for n in range(3)]
    with gzip.open(tmp_path / FILE, "wt", encoding="utf-8") as file:
        file.write("".join(pairs))
    monkeypatch.setenv("KLIEG_DATA", str(tmp_path))
    return tmp_path


@pytest.fixture
def desk(readers: dict[str, Reader]) -> Desk:  # noqa: F811
    return Desk({reader.name: reader for reader in readers.values()} | {"maker": Maker("maker")})


@pytest.fixture
def client(desk: Desk) -> TestClient:
    return TestClient(application(desk, 8137, "<p>"), base_url="http://127.0.0.1:8137")


def test_the_sets_that_are_there(client: TestClient, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert client.get("/api/riddles").json() == {"sets": ["wsc273"]} and client.get("/api/grammar").json() == {"there": True}
    monkeypatch.delenv("KLIEG_DATA")
    assert client.get("/api/riddles").json() == {"sets": []} and client.get("/api/grammar").json() == {"there": False}


def test_a_set_is_gone_through_once(client: TestClient, desk: Desk, readers: dict[str, Reader], data: Path,  # noqa: F811
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    name = readers["own"].name
    told = events(client.post("/api/riddles", json={"name": "wsc273", "model": name}))
    wanted = coreference(analysed(desk, name), riddles("wsc273", data))
    assert [body["done"] for kind, body in told[:-1] if kind == "progress"] == list(range(1, 10))
    kind, found = told[-1]
    assert kind == "found" and {key: x for key, x in found.items() if key != "rows"} == json.loads(json.dumps(wanted.as_json()))
    monkeypatch.setattr(module, "coreference", None)
    assert events(client.post("/api/riddles", json={"name": "wsc273", "model": name})) == [("found", found)]
    address = f"/api/riddles/wsc273/pictures/{{}}?model={name}&dark=true&lang=zh"
    assert client.get(address.format("svg")).text == svg.lower(set_grid(wanted, DARK, language="zh"))
    assert client.get(address.format("json")).json()["test"] == found["test"]
    assert "do that first" in client.get("/api/riddles/gap/pictures/svg?model=x").json()["error"]


def test_grammar_is_gone_through_once(client: TestClient, desk: Desk, readers: dict[str, Reader], data: Path,  # noqa: F811
                                      monkeypatch: pytest.MonkeyPatch) -> None:
    name = readers["own"].name
    told = events(client.post("/api/grammar", json={"model": name, "pairs": 2}))
    wanted = grammar(Scorer.of(analysed(desk, name)), read_pairs(data / FILE, 2))
    assert told[-2] == ("progress", {"done": 8, "expected": 8}) and told[-1][0] == "found"
    found = told[-1][1]
    assert found["total"] == wanted.total.as_json() and found["total"]["count"] == 4
    assert {each["name"][0]: each["share"] for each in found["phenomena"]} == {
        name: rate.share for name, rate in wanted.phenomena.items()}
    assert found["phenomena"][0]["share"] >= found["phenomena"][1]["share"]
    monkeypatch.setattr(grammars, "grammar", None)
    assert events(client.post("/api/grammar", json={"model": name, "pairs": 2})) == told[-1:]
    address = f"/api/grammar/pictures/{{}}?model={name}&pairs=2&lang=zh"
    drawn = svg.lower(views.picture(name, wanted.total, wanted.phenomena, language="zh"))
    assert client.get(address.format("svg")).text == drawn
    assert client.get(address.format("json")).json() == json.loads(json.dumps(wanted.as_json()))
    assert "do that first" in client.get(f"/api/grammar/pictures/svg?model={name}&pairs=3").json()["error"]


def test_two_sentences(client: TestClient, desk: Desk, readers: dict[str, Reader]) -> None:  # noqa: F811
    name = readers["own"].name
    told = client.post("/api/grammar/pair", json={"model": name, "one": "I love the cat.", "other": "I loves the cat."}).json()
    wanted = contrast(Scorer.of(analysed(desk, name)), "I love the cat.", "I loves the cat.")
    assert told == json.loads(json.dumps(wanted.as_json()))
    totals = Scorer.of(analysed(desk, name)).total(["I love the cat.", "I loves the cat."]) / torch.tensor(2.0).log()
    assert told["difference"] == pytest.approx((totals[0] - totals[1]).item(), abs=1e-4)


@pytest.mark.parametrize("asked", [("riddles", {"name": "wsc273"}), ("grammar", {"pairs": 2})])
def test_it_ends_when_nobody_waits(desk: Desk, readers: dict[str, Reader], data: Path, asked: tuple) -> None:  # noqa: F811
    """A page that is left before the second riddle or batch: Gone, and nothing is kept."""
    gone = threading.Event()

    def step(done: int, expected: int) -> None:
        gone.set()
        turn.offer()

    with pytest.raises(Gone), desk.turns.turn(gone) as turn:
        if asked[0] == "riddles":
            coreference(analysed(desk, readers["own"].name), riddles("wsc273", data), step)
        else:
            grammar(Scorer.of(analysed(desk, readers["own"].name)), read_pairs(data / FILE), step)
    assert in_turn(desk.turns, threading.Event(), lambda _: 7) == 7        # the turn was given back


@pytest.mark.parametrize(("path", "body", "says"), [
    ("riddles", {"name": "wsc999", "model": "{own}"}, "no set 'wsc999'"),
    ("riddles", {"name": "gap", "model": "{own}"}, "the texts of 'gap' are not there"),
    ("riddles", {"name": "wsc273", "model": "{translator}"}, "does not read one text"),
    ("riddles", {"name": "wsc273", "model": "other"}, "not started with the model 'other'"),
    ("grammar", {"model": "{translator}", "pairs": 1}, "does not read one text"),
    ("grammar", {"model": "{own}", "pairs": 0}, "the request does not fit"),
    ("grammar/pair", {"model": "{own}", "one": " ", "other": "I love"}, "text"),
    ("grammar/pair", {"model": "{own}", "one": "cat " * 400, "other": "I love"}, "positions"),
    ("grammar/pair", {"model": "maker", "one": "I love", "other": "I love"}, "does not read one text")])
def test_what_cannot_be_is_one_line(client: TestClient, data: Path, readers: dict[str, Reader], path: str,  # noqa: F811
                                    body: dict, says: str) -> None:
    name = body["model"].strip("{}")
    answer = client.post(f"/api/{path}", json={**body, "model": readers[name].name if name in readers else name})
    assert answer.status_code == 422 and says in answer.json()["error"], answer.text
