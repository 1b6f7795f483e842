"""What computes for the page: in a thread, in its turn, and no longer than somebody waits for it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import Request
from fastapi.responses import StreamingResponse

from klieg.errors import KliegError
from klieg.explorer.turns import Gone, Turn, Turns

T = TypeVar("T")
Event = tuple[str, dict[str, Any]]
Tell = Callable[[str, dict[str, Any]], None]
LOOK = 0.03  # seconds between two looks at whether the asker is still there


async def worked(request: Request, turns: Turns, job: Callable[[Turn], T], threads: int | None = None) -> T:
    """What `job(turn)` gives, once it is its turn, by so many threads or by all; Gone if the asker went away first."""
    gone = threading.Event()
    watching = asyncio.create_task(_watch(request, gone))
    try:
        # A thread for each: a pool full of jobs that wait would keep the next one from even asking for its turn.
        return await to_thread.run_sync(lambda: in_turn(turns, gone, job, threads), abandon_on_cancel=True,
                                        limiter=CapacityLimiter(1))
    finally:
        gone.set()  # also where the server ends before the job
        watching.cancel()


def in_turn(turns: Turns, gone: threading.Event, job: Callable[[Turn], T], threads: int | None = None) -> T:
    """What `job(turn)` gives, begun in this thread; a lack of memory is a KliegError."""
    with turns.turn(gone, threads) as turn:
        try:
            return job(turn)
        except (MemoryError, RuntimeError) as e:
            if not isinstance(e, MemoryError) and not ("memory" in str(e) and "alloc" in str(e)):  # torch has no other sign
                raise
            raise KliegError("this machine has not enough memory for that; shorten the text.") from None


async def streamed(request: Request, turns: Turns, job: Callable[[Turn], Iterator[Event]],
                   said: Callable[[KliegError], str] = str) -> StreamingResponse:
    """What `job(turn)` yields, (name, body) each, as server-sent events while it runs; its turn is offered after every one."""
    def steps(turn: Turn, tell: Tell) -> None:
        for event in job(turn):
            tell(*event)
            turn.offer()

    return await streamed_by(request, turns, steps, said)


async def streamed_by(request: Request, turns: Turns, job: Callable[[Turn, Tell], None],
                      said: Callable[[KliegError], str] = str) -> StreamingResponse:
    """What `job(turn, tell)` tells, a name and a body each, as server-sent events while it runs.

    What goes wrong before the first event is raised here; a KliegError after it is an event "error", as it is `said`.
    """
    gone, loop = threading.Event(), asyncio.get_running_loop()
    events: asyncio.Queue[Event | Exception | None] = asyncio.Queue()

    def put(event: Event | Exception | None) -> None:
        with suppress(RuntimeError):  # the server has ended, and its loop with it
            loop.call_soon_threadsafe(events.put_nowait, event)

    def run() -> None:
        try:
            in_turn(turns, gone, lambda turn: job(turn, lambda name, body: put((name, body))))
            put(None)
        except Exception as e:  # it is said to who listens
            put(e)

    watching = asyncio.create_task(_watch(request, gone))
    threading.Thread(target=run, daemon=True).start()
    try:
        first = await events.get()
        if isinstance(first, Exception):
            raise first
    except BaseException:
        gone.set()
        watching.cancel()
        raise

    async def lines() -> AsyncIterator[str]:
        event: Event | Exception | None = first
        try:
            while isinstance(event, tuple):
                yield _line(*event)
                event = await events.get()
            if isinstance(event, KliegError):
                yield _line("error", {"error": said(event)})
            elif event is not None and not isinstance(event, Gone):
                raise event
        finally:
            gone.set()
            watching.cancel()

    return StreamingResponse(lines(), media_type="text/event-stream")


def _line(name: str, body: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(body, allow_nan=False, ensure_ascii=False)}\n\n"


async def _watch(request: Request, gone: threading.Event) -> None:
    while not await request.is_disconnected():
        await asyncio.sleep(LOOK)
    gone.set()
