"""Jobs: they run while their asker listens, side by side with others', and what goes wrong in them is one line."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
import torch
from loops import finished

from klieg.errors import KliegError
from klieg.explorer.jobs import Event, streamed, streamed_by, worked
from klieg.explorer.turns import Gone, Turn, Turns


class Asker:
    """What a job sees of a request: whether somebody listens still."""

    def __init__(self) -> None:
        self.here = True

    async def is_disconnected(self) -> bool:
        return not self.here


def test_a_job_gives_its_answer_and_its_mistakes() -> None:
    assert finished(worked(Asker(), Turns(), lambda turn: turn.held)) is True

    def wrong(turn: Turn) -> None:
        raise KliegError("no such text.")

    with pytest.raises(KliegError, match="no such text"):
        finished(worked(Asker(), Turns(), wrong))


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError(
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB.")])
def test_a_lack_of_memory_says_what_to_do(error: Exception) -> None:
    def big(turn: Turn) -> None:
        raise error

    with pytest.raises(KliegError, match="not enough memory for that; shorten the text"):
        finished(worked(Asker(), Turns(), big))
    with pytest.raises(RuntimeError, match="shapes differ"):
        finished(worked(Asker(), Turns(), lambda turn: (_ for _ in ()).throw(RuntimeError("shapes differ"))))


def test_a_job_ends_when_its_asker_goes() -> None:
    asker, steps = Asker(), []

    def endless(turn: Turn) -> None:
        while True:
            steps.append(1)
            asker.here = False
            time.sleep(0.005)
            turn.offer()

    with pytest.raises(Gone):
        finished(worked(asker, Turns(), endless))
    assert steps


def test_a_job_ends_when_the_server_does() -> None:
    ended, begun = threading.Event(), threading.Event()

    def endless(turn: Turn) -> None:
        begun.set()
        try:
            while True:
                time.sleep(0.005)
                turn.offer()
        finally:
            ended.set()

    async def stopped() -> None:
        task = asyncio.create_task(worked(Asker(), Turns(), endless))
        while not begun.is_set():
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    finished(stopped())
    assert ended.wait(20)


def test_jobs_that_wait_keep_no_other_from_asking() -> None:
    """Forty askers of long jobs, which is more than a pool of threads has, and one of a short job."""
    turns, over = Turns(), threading.Event()

    def long(turn: Turn) -> None:
        while not over.is_set():
            time.sleep(0.0005)
            turn.offer()

    async def all_of_them() -> float:
        tasks = [asyncio.create_task(worked(Asker(), turns, long)) for _ in range(40)]
        while len(turns._queue) < 39:
            await asyncio.sleep(0.005)
        started = time.monotonic()
        await worked(Asker(), turns, lambda turn: None)
        took = time.monotonic() - started
        over.set()
        await asyncio.gather(*tasks)
        return took

    assert finished(all_of_them()) < 10


def test_a_job_computes_with_as_many_threads_as_it_says() -> None:
    def counted(turn: Turn) -> int:
        return torch.get_num_threads()

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        turns = Turns()
        assert [finished(worked(Asker(), turns, counted, threads)) for threads in (1, None, 2, None)] == [1, 3, 2, 3]

        begun = threading.Event()

        def long(turn: Turn) -> list[int]:
            begun.set()
            while not turns.wanted:
                time.sleep(0.0005)
            turn.offer()
            return [torch.get_num_threads()]

        async def side_by_side() -> list:
            first = asyncio.create_task(worked(Asker(), turns, long, 1))
            while not begun.is_set():  # the other may not take its turn before this one, who would then wait for ever
                await asyncio.sleep(0.0005)
            return await asyncio.gather(first, worked(Asker(), turns, counted))

        assert finished(side_by_side()) == [[1], 3]
    finally:
        torch.set_num_threads(before)


def test_what_a_job_held_is_free_when_it_has_ended() -> None:
    class Big:
        pass

    held: list[weakref.ref] = []

    def job(turn: Turn) -> int:
        big = Big()
        held.append(weakref.ref(big))
        turn.offer()
        return 1

    def gone(turn: Turn) -> int:
        job(turn)
        raise Gone

    call: Callable[[Turn], int]
    for call in (job, gone):
        with suppress(Gone):
            finished(worked(Asker(), Turns(), call))
    gc.collect()
    assert [ref() for ref in held] == [None, None]


async def lines(asker: Asker, turns: Turns, job: Callable[[Turn], Iterator[Event]]) -> list[str]:
    return [line async for line in (await streamed(asker, turns, job)).body_iterator]


def test_events_come_as_they_are_made_and_a_mistake_is_the_last_of_them() -> None:
    def job(turn: Turn) -> Iterator[Event]:
        yield "token", {"n": 1, "text": "a\nb"}
        yield "token", {"n": 2}
        raise KliegError("the text ends here.")

    said = finished(lines(Asker(), Turns(), job))
    assert said == ['event: token\ndata: {"n": 1, "text": "a\\nb"}\n\n', 'event: token\ndata: {"n": 2}\n\n',
                    'event: error\ndata: {"error": "the text ends here."}\n\n']


def test_a_mistake_before_the_first_event_is_raised() -> None:
    def job(turn: Turn) -> Iterator[Event]:
        raise KliegError("no such model.")
        yield

    with pytest.raises(KliegError, match="no such model"):
        finished(lines(Asker(), Turns(), job))


def test_a_stream_ends_when_its_asker_goes() -> None:
    asker, turns = Asker(), Turns()

    def endless(turn: Turn) -> Iterator[Event]:
        while True:
            yield "step", {}
            asker.here = False
            time.sleep(0.005)

    assert finished(lines(asker, turns, endless))
    with turns.turn():
        pass


def test_a_job_that_tells_keeps_its_turn_until_it_offers_it() -> None:
    """What is told by hand is sent as it comes, and nothing but the job itself gives its turn on."""
    turns, seen = Turns(), []

    def job(turn: Turn, tell: Callable) -> None:
        tell("first", {"n": 1})
        seen.append(turn.held)
        tell("last", {"n": 2})

    async def asked() -> list[str]:
        answer = await streamed_by(Asker(), turns, job)
        return [piece async for piece in answer.body_iterator]

    assert finished(asked()) == ['event: first\ndata: {"n": 1}\n\n', 'event: last\ndata: {"n": 2}\n\n'] and seen == [True]
