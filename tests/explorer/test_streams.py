"""What the walk asks of the server, and what a file carries for it: the stream around one layer's attention."""

from __future__ import annotations

import pytest
import torch
from made import made, translated
from messages import unpacked
from starlette.testclient import TestClient
from streaming import streamed

from klieg.explorer.desk import Desk
from klieg.explorer.server import application
from klieg.trace import Trace
from klieg.views import wire

PORT = 8137


def asked(trace: Trace, path: str) -> tuple[int, dict, dict]:
    """Status, body and tensors of an answer about a trace."""
    client = TestClient(application(Desk({}, {"t": trace}), PORT, "<p>"), base_url=f"http://127.0.0.1:{PORT}")
    found = client.get(f"/api/traces/t/streams/{path}")
    return (found.status_code, found.json(), {}) if found.status_code != 200 else (200, *unpacked(found.content))


def test_the_rows_come_as_they_were_asked_for() -> None:
    trace = streamed(made("random", "one two three four"))
    status, body, tensors = asked(trace, "self/1?row=3&row=0")
    assert status == 200 and body == {"why": None, "order": "pre", "embedding_norm": False, "final_norm": True}
    block = trace.stream().blocks[1]
    for name, x in block.tensors().items():
        assert torch.equal(tensors[name], x[0, [3, 0]]), name
    assert torch.equal(tensors["start"], trace.stream().blocks[0].input[0, [3, 0]])
    assert torch.equal(tensors["positions"], trace.stream().positions[0, [3, 0]])
    by_hand = torch.cat([trace[1].output[0, head] for head in range(4)], dim=1)
    assert torch.equal(tensors["joined"], by_hand[[3, 0]])


def test_a_trace_without_streams_has_what_its_heads_gave() -> None:
    trace = made("random", "one two three")
    status, body, tensors = asked(trace, "self/0?row=1")
    assert status == 200 and "streams=True" in body["why"] and set(tensors) == {"joined"}
    trace.without_stream = {"self": "its parts have no names"}
    assert "its parts have no names" in asked(trace, "self/0?row=1")[1]["why"]


def test_a_look_at_the_source_is_in_the_decoders_stream() -> None:
    trace = streamed(translated("translator", "one two"))
    _, body, tensors = asked(trace, "cross/1?row=1")
    assert body["order"] == "pre" and torch.equal(tensors["crossed"], trace.stream("self").blocks[1].crossed[0, [1]])
    assert torch.equal(asked(trace, "encoder/0?row=1")[2]["input"], trace.stream("encoder").blocks[0].input[0, [1]])


@pytest.mark.parametrize("path, said", [
    ("self/0?row=9", "tokens 0 to 3"), ("self/7?row=0", "no layer 7"), ("cross/0?row=0", "no attention of kind 'cross'"),
    ("self/0", "row"), ("self/0?row=-1", "row"), ("odd/0?row=0", "kind"), ("self/0?" + "&".join(["row=0"] * 65), "row"),
])
def test_what_is_not_there_is_refused_in_a_line(path: str, said: str) -> None:
    status, body, _ = asked(made("random", "one two three"), path)
    assert status == 422 and said in body["error"] and "\n" not in body["error"]


def test_a_file_carries_the_streams_of_a_short_text_once() -> None:
    trace = streamed(made("random", "one two three"))
    body, tensors = unpacked(wire.whole(trace))
    for layer, block in enumerate(trace.stream().blocks):
        said = body["streams"][f"self.{layer}"]
        assert said["order"] == "pre"
        for name, x in block.tensors().items():
            assert torch.equal(tensors[said["tensors"][name]], x[0])
    places = [body["streams"][f"self.{layer}"]["tensors"] for layer in (0, 1)]
    assert places[0]["output"] == places[1]["input"] and places[0]["start"] == places[0]["input"]
    assert sum(name.startswith("streams.") for name in tensors) == 3 + 1 + 5 * 3   # embedded, positions, final; then the layers


def test_a_file_of_a_long_text_leaves_them_out() -> None:
    body, tensors = unpacked(wire.whole(streamed(made("random", "a " * wire.CARRIED))))
    assert body["streams"] == {} and not any(name.startswith("streams.") for name in tensors)
