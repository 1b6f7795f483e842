"""The desk: what was named at the start, what was put there since, and how much of it is kept."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from made import Maker, made

from klieg.errors import KliegError
from klieg.explorer.desk import Closed, Desk, size
from klieg.trace import Trace


def test_only_what_was_named_at_the_start_is_opened() -> None:
    model = Maker("chat")
    desk = Desk({"chat": model, "other": Maker("other")})
    assert desk.model("chat") is model
    for name in ("../chat", "/etc/passwd", "https://evil.example/model", "", "CHAT"):
        with pytest.raises(KliegError, match=r"It has: chat, other\."):
            desk.model(name)
    with pytest.raises(KliegError, match=r"It has: none\."):
        Desk({}).model("chat")


def test_a_trace_is_open_until_it_is_closed() -> None:
    desk, trace = Desk({}), made("a", "one two")
    id = desk.put(trace)
    assert desk.trace(id) is trace and len(id) >= 16 and desk.put(trace) != id
    desk.close(id)
    desk.close(id)
    desk.close("never there")
    with pytest.raises(Closed, match="show it again"):
        desk.trace(id)


def test_files_stay() -> None:
    trace = made("a", "one")
    desk = Desk({}, {"long.klieg": trace}, room=1)
    desk.close("long.klieg")
    desk.put(made("a", "two"))
    assert desk.trace("long.klieg") is trace


def test_the_one_looked_at_longest_ago_makes_room() -> None:
    traces = [made("a", f"word {n}") for n in range(4)]
    desk = Desk({}, room=3 * size(traces[0]))
    ids = [desk.put(trace) for trace in traces[:3]]
    desk.trace(ids[0])
    ids.append(desk.put(traces[3]))
    with pytest.raises(Closed):
        desk.trace(ids[1])
    assert [desk.trace(ids[n]) for n in (0, 2, 3)] == [traces[n] for n in (0, 2, 3)]
    alone = desk.put(made("a", "many words " * 60))  # larger than all the room: it is there, and nothing else
    assert desk.trace(alone)
    with pytest.raises(Closed):
        desk.trace(ids[3])


def test_what_is_closed_is_free() -> None:
    desk = Desk({})
    trace = made("a", "one two")
    held, id = weakref.ref(trace), desk.put(trace)
    del trace
    assert held() is not None
    desk.close(id)
    gc.collect()
    assert held() is None


def bytes_of(*tensors: torch.Tensor) -> int:
    return sum(4 * x.numel() for x in tensors)


def test_a_size_is_that_of_the_memory_behind() -> None:
    trace = made("a", "one two three")  # four tokens, a vocabulary of 16
    alone = bytes_of(trace.logits, *(x for call in trace.calls for x in (call.q, call.k, call.v, call.lse, call.output)))
    assert size(trace) == alone
    again = Trace("a", trace.text, trace.ids, trace.tokens, [*trace.calls, replace(trace[0], layer=3)], trace.logits,
                  trace.vocabulary)
    assert size(again) == alone, "what calls share counts once"
    trace.logits = torch.zeros(100, 16)[:4]
    assert size(trace) == alone + 4 * 16 * 96, "a part holds all that it is a part of"
