"""The atlases of a server: the numbers are those of the atlas, and every refusal is one line."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import pytest
from made import gathered, parsed
from starlette.testclient import TestClient

from klieg.analysis.atlas import SCORES
from klieg.analysis.behaviour import UNITS
from klieg.explorer.desk import Desk
from klieg.explorer.server import application
from klieg.views import svg
from klieg.views import syntax as relations
from klieg.views.atlas import grid
from klieg.views.palette import DARK


@pytest.fixture
def desk() -> Desk:
    return Desk({}, atlases={"one": gathered(), "un<b>": gathered(1, "other"), "trees": parsed("other")})


@pytest.fixture
def client(desk: Desk) -> TestClient:
    return TestClient(application(desk, 8137, "<p>"), base_url="http://127.0.0.1:8137")


def test_what_there_is(client: TestClient) -> None:
    one, other, _ = client.get("/api/atlases").json()["atlases"]
    assert (one["name"], one["model"], one["tokens"], one["texts"], one["whole"]) == ("one", "chat", 320, 5, False)
    assert one["rows"] == [{"layer": layer, "kind": "self", "heads": 4, "kv_heads": 2} for layer in range(3)]
    assert [score["name"] for score in one["scores"]] == [name for name in SCORES if name in ("own", "first", "entropy")]
    assert all(score["unit"] == UNITS[score["name"]] and len(set(score["words"])) == 2 for score in one["scores"])
    assert other["model"] == "other" and TestClient(application(Desk({}), 8137, "<p>"), base_url="http://127.0.0.1:8137").get(
        "/api/atlases").json() == {"atlases": []}


@pytest.mark.parametrize("score", ["first", "own"])
def test_the_lines_are_those_of_the_table(client: TestClient, desk: Desk, score: str) -> None:
    told = client.get(f"/api/atlases/one/scores/{score}").json()
    wanted = [asdict(line) for line in desk.atlas("one").table(score)]
    assert len(told["lines"]) == 12 and told["unit"] == UNITS[score]
    for line, known in zip(told["lines"], wanted, strict=True):
        assert line == {name: None if isinstance(x, float) and math.isnan(x) else x for name, x in known.items()}
    assert (told["lines"][0]["low"] is None) == (score == "own")     # the interval of a single text


def test_saved(client: TestClient, desk: Desk) -> None:
    said = json.loads(client.get("/api/atlases/one/scores/first/pictures/json").content)
    assert said["lines"] == client.get("/api/atlases/one/scores/first").json()["lines"] and said["model"] == "chat"
    found = desk.atlas("one")
    wanted = grid("chat", "first", UNITS["first"], found.rows, found.means("first"), DARK, language="zh")
    assert client.get("/api/atlases/one/scores/first/pictures/svg?dark=true&lang=zh").text == svg.lower(wanted)
    assert client.get("/api/atlases/un<b>/scores/first/pictures/png").content.startswith(b"\x89PNG")


def test_a_treebank_has_a_score_for_each_relation_and_side(client: TestClient) -> None:
    found, told = parsed("other"), client.get("/api/atlases").json()["atlases"][2]
    assert (told["of"], told["model"], told["texts"], told["whole"]) == ("treebank", "other", 21, True) and "tokens" not in told
    assert [score["name"] for score in told["scores"]] == ["all.head", "all.dependent", "ns<b>ubj.head", "ns<b>ubj.dependent"]
    assert told["scores"][2]["words"] == ["ns<b>ubj: a word's head", "ns<b>ubj：找支配词"]
    said, one = client.get("/api/atlases/trees/scores/ns<b>ubj.dependent").json(), found.relations[3]
    wanted = [line for line in found.lines() if (line.relation, line.to) == ("ns<b>ubj", "dependent")]
    assert {(line["layer"], line["head"]): line["mean"] for line in said["lines"]} == {
        (line.layer, line.head): line.share for line in wanted}
    assert [line["mean"] for line in said["lines"]] == sorted((rate.share for rate in one.every), reverse=True)
    line = next(line for line in said["lines"] if (line["layer"], line["head"]) == (2, 3))
    assert (line["low"], line["high"], line["chance"], line["texts"]) == (*one.every[11].interval, one.chance[11], 12)
    assert said["gold"] == {"chosen": {"layer": 1, "kind": "self", "head": 2}, "share": one.every[6].share, "development": 0.95,
                            "offset": 2, "baseline": 0.25, "p": 0.125}
    address = "/api/atlases/trees/scores/ns<b>ubj.dependent/pictures/"
    assert client.get(address + "svg?dark=true&lang=zh").text == svg.lower(relations.grid(found, one, DARK, "zh"))
    assert client.get(address + "json").json()["gold"] == said["gold"]


@pytest.mark.parametrize(("path", "status", "says", "zh"), [
    ("trees/scores/induction", 422, "has no score 'induction'. It has: all.head, all.dependent", "没有指标"),
    ("none/scores/first", 422, "not started with the atlas 'none'", "没有给它图谱"),
    ("one/scores/induction", 422, "has no score 'induction'. It has: own, first, entropy", "没有指标"),
    ("one/scores/nothing", 422, "has no score 'nothing'", "没有指标"),
    ("one/scores/first/pictures/html", 422, "format", "不合要求"),
    (f"{'a' * 400}/scores/first", 422, "name", "最多 300 个字符")])
def test_what_is_not_there_is_refused_in_one_line(client: TestClient, path: str, status: int, says: str, zh: str) -> None:
    answer = client.get(f"/api/atlases/{path}")
    assert answer.status_code == status and list(answer.json()) == ["error"] and says in answer.json()["error"]
    assert zh in client.get(f"/api/atlases/{path}", headers={"Accept-Language": "zh"}).json()["error"]
