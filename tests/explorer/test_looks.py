"""The questions about one text: the answers are messages of views.wire, and a mistake is one line."""

from __future__ import annotations

import pytest
import torch
from made import SCRIPT, Maker, made, translated
from messages import unpacked
from starlette.testclient import TestClient

from klieg.explorer.desk import Desk
from klieg.explorer.server import application
from klieg.explorer.turns import Gone, Turn
from klieg.trace import Trace
from klieg.views import wire

PORT = 8137


@pytest.fixture
def desk() -> Desk:
    return Desk({"random": Maker("random"), "translator": Maker("translator")}, {"long.klieg": made("saved", "a saved text")})


@pytest.fixture
def client(desk: Desk) -> TestClient:
    return TestClient(application(desk, PORT, "<p>"), base_url=f"http://127.0.0.1:{PORT}")


def read(client: TestClient, **asked: str) -> tuple[dict, dict[str, torch.Tensor]]:
    answer = client.post("/api/traces", json={"model": "random", **asked})
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/octet-stream"
    return unpacked(answer.content)


def test_what_the_server_has(client: TestClient) -> None:
    assert client.get("/api/models").json() == {"models": ["random", "translator"], "files": ["long.klieg"]}


def test_a_text_is_read_looked_at_and_closed(client: TestClient, desk: Desk) -> None:
    text = f"one {SCRIPT} \u202e小 \U0001f600"
    wanted = made("random", text)
    body, tensors = read(client, text=text)
    outline = wire.outline(wanted)
    assert body == {**unpacked(wire.pack(*outline))[0], "id": body["id"], "languages": [], "to": None}
    assert body["tokens"] == ["⟨s⟩", "one", SCRIPT, "\u202e小", "\U0001f600"]
    for name, x in outline[1].items():
        assert torch.equal(tensors[name], x)
    for call, head in ((0, 0), (2, 3)):
        _, one = unpacked(client.get(f"/api/traces/{body['id']}/heads/{call}/{head}").content)
        assert torch.equal(one["q"], wanted[call].q[0, head]) and torch.equal(one["k"], wanted[call].k[0, head // 2])
    found = client.get(f"/api/traces/{body['id']}/next/2?count=3").json()
    assert found == {"candidates": wire.candidates(wanted, 2, 3)} and len(found["candidates"]) == 3
    assert unpacked(client.get(f"/api/traces/{body['id']}").content)[0] == body
    assert client.delete(f"/api/traces/{body['id']}").status_code == 200
    gone = client.get(f"/api/traces/{body['id']}/heads/0/0")
    assert gone.status_code == 404 and "not open any more" in gone.json()["error"]
    assert not desk._traces


def test_a_file_of_the_start_is_opened_by_its_name(client: TestClient) -> None:
    body, _ = unpacked(client.get("/api/traces/long.klieg").content)
    assert body["text"] == "a saved text" and body["id"] == "long.klieg"
    assert client.delete("/api/traces/long.klieg").status_code == 200
    assert client.get("/api/traces/long.klieg/heads/1/1").status_code == 200


def test_a_translator_is_asked_for_a_language(client: TestClient) -> None:
    first, _ = read(client, text="the cat", model="translator")
    assert first["languages"] == ["zh", "de"] and first["to"] == "zh" and first["translation"]["tokens"][0] == "⟨zh⟩"
    other, _ = read(client, text="the cat", model="translator", to="de")
    assert other["to"] == "de" and other["translation"]["tokens"] == translated("translator", "the cat", "de").source.tokens


@pytest.mark.parametrize(("path", "status", "says"), [
    ("heads/3/0", 422, "calls 0 to 2"), ("heads/0/4", 422, "heads 0 to 3"), ("heads/-1/0", 422, "does not fit: call"),
    ("heads/0/x", 422, "does not fit: head"), (f"heads/{1 << 40}/0", 422, "does not fit: call"),
    ("next/3", 422, "tokens 0 to 2"), ("next/0?count=0", 422, "does not fit: count"),
    ("next/0?count=1001", 422, "does not fit: count"), ("nothing", 404, "Not Found")])
def test_what_is_not_there_is_one_line(client: TestClient, path: str, status: int, says: str) -> None:
    body, _ = read(client, text="one two")
    answer = client.get(f"/api/traces/{body['id']}/{path}")
    assert answer.status_code == status and says in answer.json()["error"]


@pytest.mark.parametrize(("body", "says"), [
    ({"text": "", "model": "random"}, "the text is empty"), ({"text": 1, "model": "random"}, "does not fit: text"),
    ({"text": "a", "model": "../random"}, "It has: random, translator."),
    ({"text": "a", "model": "random", "to": ["zh"]}, "does not fit: to"),
    ({"text": "a" * 1_000_001, "model": "random"}, "longer than"), ({"model": "random"}, "does not fit: text"),
    ({"text": "a", "model": "m" * 501}, "does not fit: model"),
    ({"text": "a", "model": "random", "written": [0] * 1025}, "fit: written"), (["a"], "does not fit: its body")])
def test_a_mistake_is_one_line(client: TestClient, body: object, says: str) -> None:
    answer = client.post("/api/traces", json=body)
    assert answer.status_code in (413, 422)
    assert says in answer.json()["error"] and answer.json()["error"].isprintable()


def test_what_was_written_after_a_text_is_read_with_it(client: TestClient, desk: Desk) -> None:
    class Listening(Maker):
        def read(self, text: str, to: str | None, turn: Turn, written: list[int] | None = None) -> Trace:
            asked.append((text, written))
            return super().read(text, to, turn)

    asked: list[tuple[str, list[int] | None]] = []
    desk.models["random"] = Listening("random")
    for more in ({}, {"written": [3, 1, 2]}):
        assert client.post("/api/traces", json={"text": "a", "model": "random", **more}).status_code == 200
    assert asked == [("a", []), ("a", [3, 1, 2])]


def test_a_text_whose_page_closed_while_it_was_read_is_not_kept(desk: Desk, client: TestClient) -> None:
    class Slow(Maker):
        def read(self, text: str, to: str | None, turn: Turn, written: list[int] | None = None) -> Trace:
            turn._gone.set()  # the page is closed just as the model is done
            return super().read(text, to, turn)

    desk.models["random"] = Slow("random")
    assert client.post("/api/traces", json={"text": "a", "model": "random"}).status_code == 499
    assert not desk._traces
    with pytest.raises(Gone), desk.turns.turn() as turn:
        turn._gone.set()
        turn.check()
