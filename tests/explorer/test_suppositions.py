"""The routes of what-if: both passes come back side by side and lie on the desk, and every refusal is one line."""

from __future__ import annotations

import copy
import json
import math
from types import SimpleNamespace

import pytest
import torch
from made import Maker, made
from starlette.testclient import TestClient
from test_models import LLAMA, lively
from test_seq2seq import lively as lively_translator

from klieg import models
from klieg.explorer.desk import Desk
from klieg.explorer.reader import Reader
from klieg.explorer.server import application
from klieg.tokenizers import train

PORT = 8137
TEXT = "I love you"


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reader]:
    folder = tmp_path_factory.mktemp("models")
    models.save(folder / "own", lively(LLAMA), train(iter(["I love you and the cat loves the moon."] * 2), 290))
    both = train(["hello world", "good night"] * 20, 300, opened=False, closed=True)
    models.save(folder / "translator", lively_translator(), both)
    foreign = Reader("neo")
    foreign._foreign = SimpleNamespace(model=torch.nn.Identity(), tokenizer=None)
    return {"own": Reader(str(folder / "own")), "translator": Reader(str(folder / "translator")), "neo": foreign}


@pytest.fixture
def desk(readers: dict[str, Reader]) -> Desk:
    known = {reader.name: reader for reader in readers.values()}
    return Desk({**known, "maker": Maker("maker")}, {"file": made("saved", TEXT)})


@pytest.fixture
def client(desk: Desk) -> TestClient:
    return TestClient(application(desk, PORT, "<p>"), base_url=f"http://127.0.0.1:{PORT}")


def silenced(model: models.Model, layer: int, head: int) -> models.Model:
    """A copy of a Llama in which the head's columns of W_O are zero."""
    other, width = copy.deepcopy(model), model.head_width
    other.model.layers[layer].self_attn.o_proj.weight[:, head * width:(head + 1) * width] = 0
    return other


@torch.no_grad()
def logarithms(model: models.Model, ids: list[int], at: int = -1) -> list[float]:
    """Of the next token's probabilities, to base 2, summed up by hand."""
    logits = model(torch.tensor([ids]))[0, at].double().tolist()
    whole = math.fsum(math.exp(x) for x in logits)
    return [x / math.log(2) - math.log2(whole) for x in logits]


def divergence(p: list[float], q: list[float]) -> float:
    return math.fsum(2 ** a * (a - b) for a, b in zip(p, q, strict=True))


def test_both_passes_lie_on_the_desk(client: TestClient, desk: Desk, readers: dict[str, Reader]) -> None:
    model, tokenizer = readers["own"].own
    with desk.turns.turn() as turn:
        id = desk.put(readers["own"].read(TEXT, None, turn))
    found = client.post("/api/suppositions", json={"id": id, "changes": ["mute 1.2"]}).json()
    ids = tokenizer.encode(TEXT)
    p, q = logarithms(model, ids), logarithms(silenced(model, 1, 2), ids)
    assert found["before"]["id"] == id and found["made"] == ["mute 1.2"]
    assert found["divergence"] == pytest.approx(divergence(p, q), abs=1e-6)
    for shift in found["changes"]:
        assert shift["before"] == pytest.approx(2 ** p[shift["id"]], abs=1e-6)
        assert shift["after"] == pytest.approx(2 ** q[shift["id"]], abs=1e-6)
    best = sorted(range(len(p)), key=lambda token: -p[token])[:8]
    assert [shift["id"] for shift in found["changes"][:8]] == best
    altered = desk.trace(found["after"]["id"])
    assert not altered[1].output[0, 2].any() and altered[1].output[0, 3].any()
    assert client.get(f"/api/traces/{found['after']['id']}").status_code == 200


def test_a_text_of_its_own_and_a_token_before_the_last(client: TestClient, desk: Desk, readers: dict[str, Reader]) -> None:
    model, tokenizer = readers["own"].own
    asked = {"text": TEXT, "model": readers["own"].name, "changes": ["replace love=hate", "mute 0.1"]}
    found = client.post("/api/suppositions", json=asked).json()
    assert [desk.trace(found[name]["id"]).text for name in ("before", "after")] == [TEXT, "I hate you"]
    asked = {"text": TEXT, "model": readers["own"].name, "changes": ["mute 0.1"], "after": 2}
    found = client.post("/api/suppositions", json=asked).json()
    ids = tokenizer.encode(TEXT)
    wanted = divergence(logarithms(model, ids, 2), logarithms(silenced(model, 0, 1), ids, 2))
    assert found["before"]["token"] == 2 and found["divergence"] == pytest.approx(wanted, abs=1e-6)


def events(answer) -> list[dict]:
    assert answer.headers["content-type"].startswith("text/event-stream")
    parts = [part.split("\n") for part in answer.text.split("\n\n") if part]
    assert {name for name, _ in parts} == {"event: head"}
    return [json.loads(data.removeprefix("data: ")) for _, data in parts]


def test_every_head_is_told_of(client: TestClient, readers: dict[str, Reader]) -> None:
    model, tokenizer = readers["own"].own
    found = events(client.post("/api/suppositions/ranks", json={"text": TEXT, "model": readers["own"].name}))
    places = [(each["layer"], each["head"], each["kind"]) for each in found]
    assert places == [(layer, head, "self") for layer in range(3) for head in range(6)]
    ids = tokenizer.encode(TEXT)
    p = logarithms(model, ids)
    best = max(range(len(p)), key=p.__getitem__)
    for each in found[::5]:
        q = logarithms(silenced(model, each["layer"], each["head"]), ids)
        assert each["divergence"] == pytest.approx(divergence(p, q), abs=1e-6)
        assert each["change"] == pytest.approx(q[best] - p[best], abs=1e-5)


def test_a_translator(client: TestClient, desk: Desk, readers: dict[str, Reader]) -> None:
    name = readers["translator"].name
    with desk.turns.turn() as turn:
        open = readers["translator"].read("hello world", None, turn)
    id = desk.put(open)
    found = client.post("/api/suppositions", json={"id": id, "changes": ["cut 1.0.2.0", "mute encoder:0.1"]}).json()
    assert found["before"]["id"] == id and found["after"]["ids"] == open.ids
    altered = desk.trace(found["after"]["id"])
    assert altered.cell(1, 0, 2, 0, kind="cross").weight == 0 and not altered[0, "encoder"].output[0, 1].any()
    kinds = [each["kind"] for each in events(client.post("/api/suppositions/ranks", json={"id": id}))]
    stacks = {kind: sum(call.heads for call in open.calls if call.kind == kind) for kind in ("encoder", "self", "cross")}
    assert {kind: kinds.count(kind) for kind in stacks} == stacks and name in desk.models


@pytest.mark.parametrize(("asked", "status", "says"), [
    ({"changes": ["mute 0.1"]}, 422, "neither one open text nor one text and its model"),
    ({"id": "file", "text": TEXT, "model": "own", "changes": ["mute 0.1"]}, 422, "name one of both"),
    ({"id": "nothing", "changes": ["mute 0.1"]}, 404, "not open any more"),
    ({"id": "file", "changes": ["mute 0.1"]}, 422, "not started with the model 'saved'"),
    ({"text": TEXT, "model": "maker", "changes": ["mute 0.1"]}, 422, "'maker' is no model that can run again"),
    ({"text": TEXT, "model": "neo", "changes": ["mute 0.1"]}, 422, "neo is no model of Klieg's own"),
    ({"text": TEXT, "model": "own", "changes": []}, 422, "changes"),
    ({"text": TEXT, "model": "own", "changes": ["mute 0.1"] * 101}, 422, "changes"),
    ({"text": TEXT, "model": "own", "changes": ["paste 0.1"]}, 422, "there is no change 'paste'"),
    ({"text": TEXT, "model": "own", "changes": ["mute 9.1"]}, 422, "there is no layer 9"),
    ({"text": TEXT, "model": "own", "changes": ["cut 0.0.0.0"]}, 422, "would see nothing"),
    ({"text": TEXT, "model": "own", "changes": ["sharpen all=9e999"]}, 422, "between 0 and 100"),
    ({"text": TEXT, "model": "own", "changes": ["replace love=\ud800"]}, 422, "unicode"),
    ({"text": TEXT, "model": "own", "changes": ["mute 0.1"], "after": 99}, 422, "no token 99"),
])
def test_what_cannot_be_is_one_line(client: TestClient, readers: dict[str, Reader], asked: dict, status: int,
                                    says: str) -> None:
    if asked.get("model") == "own":
        asked = {**asked, "model": readers["own"].name}
    answer = client.post("/api/suppositions", content=json.dumps(asked), headers={"content-type": "application/json"})
    assert answer.status_code == status and list(answer.json()) == ["error"] and says in answer.json()["error"]


def test_a_ranking_that_cannot_be_is_one_line_before_anything_is_sent(client: TestClient) -> None:
    known = [({}, "neither"), ({"id": "file"}, "'saved'"), ({"text": TEXT, "model": "neo"}, "no model of Klieg's own")]
    for asked, says in known:
        answer = client.post("/api/suppositions/ranks", json=asked)
        assert answer.status_code == 422 and says in answer.json()["error"]


def test_whether_anything_can_be_changed_is_known_before_anybody_tries(client: TestClient, desk: Desk,
                                                                        readers: dict[str, Reader]) -> None:
    ids = {name: desk.put(made(name, TEXT)) for name in (readers["own"].name, "neo", "maker", "gone")}
    assert client.get(f"/api/suppositions/{ids[readers['own'].name]}").json() == {}
    for name, says in (("neo", "no model of Klieg's own"), ("maker", "no model that can run again"),
                       ("gone", "not started with the model")):
        answer = client.get(f"/api/suppositions/{ids[name]}")
        assert answer.status_code == 422 and says in answer.json()["error"]
    assert client.get("/api/suppositions/none").status_code == 404
