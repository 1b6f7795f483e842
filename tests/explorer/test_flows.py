"""The questions of the flow: the numbers are flow()'s own, of the tokens that are open; they are kept with their text."""

from __future__ import annotations

import gc
import json
import weakref
from dataclasses import asdict

import pytest
from made import Maker, made
from starlette.testclient import TestClient
from test_models import GPT2, lively
from test_seq2seq import lively as lively_translator

from klieg import models
from klieg.analysis.flow import flow
from klieg.explorer import flows
from klieg.explorer.desk import Desk
from klieg.explorer.reader import Reader
from klieg.explorer.server import application
from klieg.tokenizers import train
from klieg.views import svg
from klieg.views.flow import flow as picture_of
from klieg.views.palette import DARK

TEXT = "I love you and the cat"


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reader]:
    folder = tmp_path_factory.mktemp("models")
    models.save(folder / "own", lively(GPT2), train(iter(["I love you and the cat loves the moon."] * 2), 290))
    both = train(["hello world", "good night"] * 20, 300, opened=False, closed=True)
    models.save(folder / "translator", lively_translator(), both)
    return {name: Reader(str(folder / name)) for name in ("own", "translator")}


@pytest.fixture
def desk(readers: dict[str, Reader]) -> Desk:
    known = {reader.name: reader for reader in readers.values()}
    return Desk({**known, "maker": Maker("maker")}, {"file": made("saved", TEXT)})


@pytest.fixture
def client(desk: Desk) -> TestClient:
    return TestClient(application(desk, 8137, "<p>"), base_url="http://127.0.0.1:8137")


def opened(desk: Desk, name: str, text: str = TEXT, written: list[int] | None = None) -> str:
    with desk.turns.turn() as turn:
        return desk.put(desk.models[name].read(text, None, turn, written))


def events(answer) -> list[tuple[str, dict]]:
    parts = [part.split("\n") for part in answer.text.split("\n\n") if part]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in parts]


@pytest.mark.parametrize(("token", "without_first"), [(None, False), (5, True)])
def test_the_numbers_are_those_of_flow(client: TestClient, desk: Desk, readers: dict[str, Reader], token: int | None,
                                       without_first: bool) -> None:
    id = opened(desk, readers["own"].name)
    told = events(client.post("/api/flows", json={"id": id, "token": token, "without_first": without_first}))
    wanted = flow(readers["own"].own, TEXT, token, without_first=without_first, name=readers["own"].name)
    assert {kind for kind, _ in told[:-1]} == {"progress"} and told[-1][0] == "found"
    assert told[-2][1]["done"] == told[-2][1]["expected"] == wanted.token
    assert told[-1][1] == {"token": wanted.token, "without_first": without_first, "effects": wanted.effects,
                           "ways": [asdict(way) for way in wanted.ways]}


def test_it_is_computed_once_and_saved(client: TestClient, desk: Desk, readers: dict[str, Reader], monkeypatch) -> None:
    id = opened(desk, readers["own"].name)
    assert "compute it first" in client.get(f"/api/flows/{id}/pictures/svg").json()["error"]
    found = events(client.post("/api/flows", json={"id": id}))[-1][1]
    monkeypatch.setattr(flows, "flow", None)
    assert [kind for kind, _ in events(client.post("/api/flows", json={"id": id}))] == ["found"]
    said = client.get(f"/api/flows/{id}/pictures/json").json()
    assert said["effects"] == found["effects"] and said["ways"] == found["ways"] and said["text"] == desk.trace(id).text
    wanted = flow(readers["own"].own, TEXT, name=readers["own"].name)
    picture = client.get(f"/api/flows/{id}/pictures/svg?dark=true&lang=zh&token={wanted.token}").text
    assert picture == svg.lower(picture_of(wanted, DARK, language="zh"))
    assert client.get(f"/api/flows/{id}/pictures/png").content.startswith(b"\x89PNG")
    assert client.get(f"/api/flows/{id}/pictures/svg?without_first=true").status_code == 422


def test_what_a_model_has_written_flows_by_its_own_ids(client: TestClient, desk: Desk, readers: dict[str, Reader]) -> None:
    id = opened(desk, readers["own"].name, written=[5, 5, 200])
    trace = desk.trace(id)
    found = events(client.post("/api/flows", json={"id": id}))[-1][1]
    assert found["token"] == len(trace.ids) - 1 and trace.ids[-3:] == [5, 5, 200]
    assert found["effects"] == flow(readers["own"].own, trace.ids).effects


def test_a_text_that_is_closed_is_given_back(client: TestClient, desk: Desk, readers: dict[str, Reader]) -> None:
    id = opened(desk, readers["own"].name)
    client.post("/api/flows", json={"id": id})
    held = weakref.ref(desk.trace(id))
    client.delete(f"/api/traces/{id}")
    gc.collect()
    assert held() is None


@pytest.mark.parametrize(("asked", "status", "says"), [
    ({"id": "nothing"}, 404, "not open any more"), ({"id": "file"}, 422, "not started with the model 'saved'"),
    ({"id": "{own}", "token": 99}, 422, "99"), ({"id": "{own}", "token": 0}, 422, "nothing flows to token 0"),
    ({"id": "{translator}"}, 422, "no decoder of Klieg's own"), ({"id": "{maker}"}, 422, "no decoder of Klieg's own")])
def test_what_cannot_be_is_one_line(client: TestClient, desk: Desk, readers: dict[str, Reader], asked: dict, status: int,
                                    says: str) -> None:
    if asked["id"] == "{maker}":
        asked["id"] = desk.put(made("maker", TEXT))
    elif asked["id"].startswith("{"):
        asked["id"] = opened(desk, readers[asked["id"][1:-1]].name, TEXT if "own" in asked["id"] else "hello world")
    answer = client.post("/api/flows", json=asked)
    assert answer.status_code == status and list(answer.json()) == ["error"] and says in answer.json()["error"]


def test_too_long_a_text_is_refused_before_anything_is_computed(client: TestClient, desk: Desk, readers: dict[str, Reader],
                                                                monkeypatch) -> None:
    monkeypatch.setattr(flows, "LONGEST", 3)
    answer = client.post("/api/flows", json={"id": opened(desk, readers["own"].name)})
    assert answer.status_code == 422 and "up to 3" in answer.json()["error"]
