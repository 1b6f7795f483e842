"""The questions of coreference: words with their places, where heads look, and what the model itself says."""

from __future__ import annotations

import math

import pytest
import torch
from made import Maker, made
from starlette.testclient import TestClient
from test_flows import opened
from test_models import GPT2, lively
from test_seq2seq import lively as lively_translator

from klieg import models
from klieg.explorer import coreferences
from klieg.explorer.desk import Desk
from klieg.explorer.reader import Reader
from klieg.explorer.server import application
from klieg.tokenizers import train
from klieg.views import svg
from klieg.views.coreference import one_grid
from klieg.views.palette import LIGHT

TEXT = "I love the cat and the moon, it loves you. 小明看他"
IT, MOON, CAT = (29, 31), (23, 27), (11, 14)


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reader]:
    folder = tmp_path_factory.mktemp("models")
    models.save(folder / "own", lively(GPT2), train(iter(["I love the cat and the moon, it loves you. 小明看他"] * 2), 290))
    both = train(["hello world", "good night"] * 20, 300, opened=False, closed=True)
    models.save(folder / "translator", lively_translator(), both)
    return {name: Reader(str(folder / name)) for name in ("own", "translator")}


@pytest.fixture
def desk(readers: dict[str, Reader]) -> Desk:
    known = {reader.name: reader for reader in readers.values()}
    return Desk({**known, "maker": Maker("maker")}, {"file": made("saved", "one two")})


@pytest.fixture
def client(desk: Desk) -> TestClient:
    return TestClient(application(desk, 8137, "<p>"), base_url="http://127.0.0.1:8137")


def test_words_are_joined_from_their_tokens(client: TestClient, desk: Desk, readers: dict[str, Reader]) -> None:
    id = opened(desk, readers["own"].name, TEXT)
    words = client.get(f"/api/coreferences/{id}").json()["words"]
    labels = [word["label"] for word in words]
    assert labels[1:12] == ["I", "love", "the", "cat", "and", "the", "moon", ",", "it", "loves", "you"]
    assert words[0]["place"] is None and labels[0] == "⟨s⟩" and "".join(labels[-4:]) in TEXT
    for word in words[1:]:
        assert word["place"] is None or TEXT[slice(*word["place"])] == word["label"]
    assert [token for word in words for token in word["tokens"]] == list(range(len(desk.trace(id).tokens)))


def test_where_every_head_looks(client: TestClient, desk: Desk, readers: dict[str, Reader]) -> None:
    id = opened(desk, readers["own"].name, TEXT)
    tokens = {word["label"]: word["tokens"] for word in client.get(f"/api/coreferences/{id}").json()["words"]}
    told = client.post("/api/coreferences", json={"id": id, "pronoun": IT, "candidates": [MOON, CAT]}).json()
    assert [(each["phrase"], each["right"], each["tokens"]) for each in told["candidates"]] == [
        ("cat", False, tokens["cat"]), ("moon", True, tokens["moon"])]
    trace, looked = desk.trace(id), {each["name"]: each for each in told["readings"]}
    assert looked["pronoun"]["tokens"] == tokens["it"] and looked["clause"]["tokens"] == tokens["you"][-1:]
    w = torch.stack([call.weights(head).double() for call in trace.calls for head in range(call.heads)])
    for each in told["readings"]:
        rows = w[:, each["tokens"]].mean(1)
        wanted = torch.stack([rows[:, tokens[name]].sum(1) for name in ("cat", "moon")], 1)
        torch.testing.assert_close(torch.tensor(each["weights"], dtype=torch.float64), wanted, atol=1e-9, rtol=0)
        assert each["shares"] == pytest.approx((wanted[:, 1] / wanted.sum(1)).tolist(), abs=1e-9)
        assert (each["most"], each["blind"]) == (int((wanted[:, 1] > wanted[:, 0]).sum()), 0)
    assert [(row["layer"], row["heads"]) for row in told["rows"]] == [(n, GPT2.n_head) for n in range(GPT2.n_layer)]


@torch.no_grad()
def test_the_model_itself(client: TestClient, desk: Desk, readers: dict[str, Reader]) -> None:
    id = opened(desk, readers["own"].name, TEXT)
    told = client.post("/api/coreferences", json={"id": id, "pronoun": IT, "candidates": [MOON, CAT]}).json()
    model, tokenizer = readers["own"].own
    scores = []
    for name in ("the cat", "the moon"):
        ids, places = tokenizer.placed(TEXT[:IT[0]] + name + TEXT[IT[1]:])
        p = model(torch.tensor([ids]))[0].double().log_softmax(-1)
        scores.append(sum(float(p[n - 1, ids[n]]) for n in range(1, len(ids)) if places[n][1] > IT[0] + len(name)))
    parts = [math.exp(score - max(scores)) for score in scores]
    assert told["itself"] == pytest.approx([part / sum(parts) for part in parts], rel=1e-4)


def test_it_is_drawn_as_in_the_terminal(client: TestClient, desk: Desk, readers: dict[str, Reader]) -> None:
    id = opened(desk, readers["own"].name, TEXT)
    told = client.post("/api/coreferences", json={"id": id, "pronoun": IT, "candidates": [CAT, MOON], "right": 1}).json()
    asked = f"/api/coreferences/{id}/pictures/{{}}?pronoun=29-31&candidates=11-14,23-27&right=1&at=end"
    said = client.get(asked.format("json")).json()
    end = told["readings"][2]
    assert [each["end"] for each in said["heads"]] == end["weights"] and said["itself"] == told["itself"]
    assert (said["pronoun"], said["candidates"], said["right"]) == ("it", ["cat", "moon"], [False, True])
    reader = coreferences.analysed(desk, readers["own"].name)
    rows = coreferences.look(reader, coreferences.marked(TEXT, IT, [CAT, MOON], 1)).rows
    wanted = one_grid(reader.name, rows, end["shares"], "end", "it", ["moon", "cat"], LIGHT)
    assert client.get(asked.format("svg")).text == svg.lower(wanted)


@pytest.mark.parametrize(("change", "status", "says"), [
    ({"id": "nothing"}, 404, "not open any more"), ({"candidates": [MOON]}, 422, "at least two candidates"),
    ({"right": 2}, 422, "one of which is right"), ({"candidates": [MOON, (24, 30)]}, 422, "share words"),
    ({"pronoun": (28, 29)}, 422, "no words at 28 to 29"), ({"pronoun": (9, 9999)}, 422, "no words at 9 to 9999"),
    ({"id": "file"}, 422, "not started with the model 'saved'"), ({"id": "{translator}"}, 422, "does not read one text"),
    ({"id": "{maker}"}, 422, "does not read one text"), ({"id": "{written}"}, 422, "written by the model")])
def test_what_cannot_be_is_one_line(client: TestClient, desk: Desk, readers: dict[str, Reader], change: dict, status: int,
                                    says: str) -> None:
    asked = {"id": "{own}", "pronoun": IT, "candidates": [MOON, CAT], **change}
    name = asked["id"].strip("{}")
    if name == "maker":
        asked["id"] = desk.put(made("maker", TEXT))
    elif name == "written":
        with desk.turns.turn() as turn:
            letters = [readers["own"].own[1].encode(letter, bos=False)[0] for letter in " the cat"]
            asked["id"] = desk.put(desk.models[readers["own"].name].read("I love", None, turn, letters))
    elif name in readers:
        asked["id"] = opened(desk, readers[name].name, TEXT if name == "own" else "hello world")
    answer = client.post("/api/coreferences", json=asked)
    assert answer.status_code == status and says in answer.json()["error"]


def test_a_long_text_is_refused_before_anything_is_computed(client: TestClient, desk: Desk, readers: dict[str, Reader],
                                                            monkeypatch) -> None:
    monkeypatch.setattr(coreferences, "LONGEST", 3)
    answer = client.get(f"/api/coreferences/{opened(desk, readers['own'].name, TEXT)}")
    assert answer.status_code == 422 and "up to 3" in answer.json()["error"]


def test_a_picture_of_more_candidates_than_there_may_be_is_refused(client: TestClient, desk: Desk,
                                                                   readers: dict[str, Reader]) -> None:
    many = ",".join(["11-14"] * (coreferences.MOST + 1))
    id = opened(desk, readers["own"].name, TEXT)
    assert client.get(f"/api/coreferences/{id}/pictures/svg?pronoun=29-31&candidates={many}").status_code == 422
