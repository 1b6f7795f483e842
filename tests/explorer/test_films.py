"""The routes of the film: tokens come as they are written, the trace is that of the whole, and nobody is starved."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
import torch
from made import Maker, made
from safetensors.torch import load
from starlette.testclient import TestClient

from klieg.errors import KliegError
from klieg.explorer.desk import Desk
from klieg.explorer.reader import Reader
from klieg.explorer.server import application
from klieg.explorer.turns import Turn
from klieg.explorer.writing import Written
from klieg.generate import Sampling, filtered, generate
from klieg.trace import Trace
from klieg.watch import trace

TEXT = "I love you"
HOST = "http://127.0.0.1:8137"


class Writer(Maker):
    """A model that writes made-up tokens, slowly where it is told to, and without end."""

    def __init__(self, name: str, pause: float = 0, breaks: int | None = None) -> None:
        super().__init__(name)
        self.pause, self.breaks = pause, breaks
        self.ended = threading.Event()

    def read(self, text: str, to: str | None, turn: Turn, written: list[int] | None = None) -> Trace:
        found = made(self.name, " ".join([text, *(f"word{id}" for id in written or ())]))
        found.ids = [0] * (len(found.tokens) - len(written or ())) + (written or [])
        return found

    def write(self, text: str, to: str | None, written: list[int], count: int, sampling: Sampling) -> Iterator[Written]:
        try:
            for n in range(count):
                time.sleep(self.pause)
                if n == self.breaks:
                    raise KliegError("it broke.")
                yield Written(n % 10, f"word{n % 10}", 0.5)
        finally:
            self.ended.set()


def events(text: str) -> list[tuple[str, dict]]:
    parts = [part.split("\n") for part in text.split("\n\n") if part]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in parts]


@pytest.fixture(scope="module")
def chat() -> Reader:
    return Reader("chat")


@pytest.fixture
def client(chat: Reader) -> Iterator[TestClient]:
    desk = Desk({"chat": chat, "broken": Writer("broken", breaks=2), "refuses": Writer("refuses", breaks=0)})
    with TestClient(application(desk, html="<html></html>"), base_url=HOST) as found:
        found.desk = desk
        yield found


def filmed(client: TestClient, **asked: object) -> str:
    answer = client.post("/api/films", json={"text": TEXT, "model": "chat", **asked})
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream")
    return answer.text


def test_tokens_come_first_and_then_the_trace_of_the_whole(client: TestClient, chat: Reader) -> None:
    model, tokenizer = chat.own
    prompt = tokenizer.encode(TEXT)
    wanted = [int(id) for id in generate(model, torch.tensor([prompt]), 6)]
    *tokens, (last, told) = events(filmed(client, count=6))
    assert [name for name, _ in tokens] == ["token"] * len(tokens) and last == "end"
    if tokenizer.eos in wanted:
        wanted = wanted[:wanted.index(tokenizer.eos) + 1]
    assert [body["id"] for _, body in tokens] == wanted
    found = client.desk.trace(told["id"])
    assert found.ids == [*prompt, *wanted] and told["start"] == len(prompt)
    whole = trace((model, tokenizer), [*prompt, *wanted])
    for n, (step, (_, token)) in enumerate(zip(told["steps"], tokens, strict=True)):
        p = whole.logits[len(prompt) + n - 1].double().softmax(-1)
        assert step["token"] == found.tokens[len(prompt) + n]
        assert step["p"] == pytest.approx(float(p[wanted[n]]), abs=1e-9) == pytest.approx(token["p"], abs=1e-4)
        best = p.argsort(descending=True)[:3].tolist()
        assert [each["id"] for each in step["candidates"][:3]] == best
        assert step["rank"] == 1 + best.index(wanted[n])


def test_a_branch_goes_on_from_another_token(client: TestClient) -> None:
    [*_, (_, first)] = events(filmed(client, count=4))
    other = first["steps"][1]["candidates"][1]["id"]
    written = [first["steps"][0]["id"], other]
    *tokens, (_, told) = events(filmed(client, count=3, written=written))
    assert [step["id"] for step in told["steps"]] == [*written, *(body["id"] for _, body in tokens)]
    assert told["steps"][1]["p"] == pytest.approx(first["steps"][1]["candidates"][1]["p"], abs=1e-4)
    assert told["start"] == first["start"]


def test_the_logits_of_a_step_are_those_of_the_trace(client: TestClient) -> None:
    [*_, (_, told)] = events(filmed(client, count=3))
    found, after = client.desk.trace(told["id"]), told["start"]
    answer = client.get(f"/api/traces/{told['id']}/logits/{after}")
    assert torch.equal(load(answer.content)["logits"], found.logits[after])
    best = filtered(found.logits[after][None], Sampling())[0].topk(100)
    length = int.from_bytes(answer.content[:8], "little")
    body = json.loads(json.loads(answer.content[8:8 + length])["__metadata__"]["klieg"])
    assert [each["id"] for each in body["candidates"]] == best.indices.tolist()
    assert client.get(f"/api/traces/{told['id']}/logits/{len(found.tokens)}").status_code == 422


def test_an_open_trace_is_told_step_by_step(client: TestClient) -> None:
    id = client.desk.put(made("random", "one two three"))
    told = client.get(f"/api/traces/{id}/steps/0").json()
    assert told["start"] == 1 and [step["token"] for step in told["steps"]] == ["one", "two", "three"]
    assert client.get(f"/api/traces/{id}/steps/3").json()["start"] == 3
    assert client.get("/api/traces/none/steps/0").status_code == 404


@pytest.mark.parametrize(("asked", "line"), [
    ({"model": "nobody"}, "was not started with the model"),
    ({"text": " "}, "only white space"),
    ({"written": [10**6]}, "there is no token 1000000"),
    ({"temperature": 1e-9}, "temperature is 1e-09"),
    ({"top_p": 0}, "top_p"),
    ({"count": 0}, "count"),
    ({"text": "word " * 600}, "positions for"),
    ({"model": "refuses"}, "it broke."),
])
def test_what_cannot_be_filmed_is_refused_in_one_line(client: TestClient, asked: dict, line: str) -> None:
    answer = client.post("/api/films", json={"text": TEXT, "model": "chat", "count": 3} | asked)
    assert answer.status_code == 422 and line in answer.json()["error"]


def test_what_goes_wrong_on_the_way_is_the_last_event(client: TestClient) -> None:
    found = events(filmed(client, model="broken"))
    assert [name for name, _ in found] == ["token", "token", "error"]
    assert found[-1][1] == {"error": "it broke."}


def asking(address: str, path: str, body: dict) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection(address.split("/")[2], timeout=20)
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    return connection


def test_a_film_ends_when_its_page_goes_and_others_are_answered_meanwhile(served) -> None:
    writer = Writer("writer", pause=0.02)
    address = served(Desk({"writer": writer, "random": Maker("random")}))
    with closing(asking(address, "/api/films", {"text": "one", "model": "writer", "count": 500})) as film:
        answer = film.getresponse()
        assert answer.readline() == b"event: token\n"
        with closing(asking(address, "/api/traces", {"text": "a b", "model": "random"})) as other:
            assert other.getresponse().status == 200
        assert not writer.ended.is_set()     # 500 tokens take ten seconds, and the turn was given between two of them
        answer.close()
    assert writer.ended.wait(5)
