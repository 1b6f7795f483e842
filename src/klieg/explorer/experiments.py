"""The labs: what there is to try, and each of them as a job that ends as soon as nobody waits for it.

A lab is a function that nothing can interrupt, so it runs in a process of its own, which can be ended. One lab runs at a
time; the page goes on computing beside it. What a lab found is kept while the server lives.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from klieg.bench import machine
from klieg.errors import KliegError
from klieg.explorer.desk import Desk
from klieg.explorer.exports import Kind, Language, drawn, file, plain, theme
from klieg.explorer.jobs import Tell, streamed_by, worked
from klieg.explorer.spoken import line
from klieg.explorer.turns import Turn, Turns
from klieg.labs import NAMES, Finding, find
from klieg.labs.written import plain as said
from klieg.labs.written import read
from klieg.views import experiment
from klieg.views.gallery import gallery

LOOK = 0.1      # seconds between two looks at whether the process has ended
EVERY = 0.5     # seconds between two tellings of how long it runs
MOST = 8        # labs that wait for the one that runs

Name = Annotated[str, Path(max_length=50)]


def command(name: str) -> list[str]:
    """How a lab is run apart; see klieg.labs.__main__."""
    return [sys.executable, "-m", "klieg.labs", name]


class Asked(BaseModel):
    """The lab that is to be run."""

    name: str = Field(max_length=50)


class Found:
    """What labs found, and in how many seconds, since the server was started."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[Finding, float]] = {}

    def keep(self, name: str, found: Finding, seconds: float) -> None:
        self._found[name] = found, seconds

    def seconds(self, name: str) -> float | None:
        """How long a lab took; None for one that was not run."""
        return self._found[name][1] if name in self._found else None

    def of(self, name: str) -> Finding:
        """What a lab found; KliegError for one that was not run."""
        find(name)
        if name not in self._found:
            raise KliegError(f"the lab {name!r} was not run since this server was started; run it first.")
        return self._found[name][0]


def routes(desk: Desk) -> APIRouter:
    """The routes, on a desk; labs wait for each other, and for nothing else."""
    router, turns, found = APIRouter(prefix="/api"), Turns(MOST), Found()

    @router.get("/labs")
    def labs() -> dict:
        processor, threads = machine()
        return {"labs": [{**_told(name), "seconds": found.seconds(name)} for name in NAMES],
                "machine": {"name": processor, "threads": threads}}

    @router.post("/labs")
    async def run(asked: Asked, request: Request) -> StreamingResponse:
        """Events "elapsed" while it runs, then one "found"."""
        name = asked.name
        find(name)

        def job(turn: Turn, tell: Tell) -> None:
            if found.seconds(name) is None:
                found.keep(name, *apart(name, lambda seconds: _elapsed(turn, tell, seconds)))
            tell("found", {**said(found.of(name)), "seconds": found.seconds(name)})

        return await streamed_by(request, turns, job, lambda error: line(error, request))

    @router.get("/labs/{name}/pictures/{kind}")
    async def picture(name: Name, kind: Kind, request: Request, lang: Language = "en", dark: bool = False) -> Response:
        """What a lab found: its charts, its numbers, or all of it as one page."""
        def job(turn: Turn) -> bytes:
            tried, finding = find(name), found.of(name)
            if kind == "json":
                return plain({"name": name, **said(finding)})
            if kind == "html":
                return gallery([(name, tried, finding)], lang).encode()
            return drawn(experiment.page(name, tried, finding, theme(dark), language=lang), kind)

        return file(await worked(request, desk.turns, job), kind)

    return router


def _told(name: str) -> dict[str, Any]:
    """What is said of a lab before it runs."""
    tried = find(name)
    return {"name": name, "title": tried.title, "claim": tried.claim, "source": tried.source, "command": f"klieg lab {name}",
            "table": None if tried.table is None else asdict(tried.table)}


def _elapsed(turn: Turn, tell: Tell, seconds: float) -> None:
    turn.check()
    tell("elapsed", {"seconds": seconds})


def apart(name: str, step: Callable[[float], None]) -> tuple[Finding, float]:
    """Run a lab in a process of its own: what it found, and in how many seconds.

    step(seconds) is told how long it runs; the process is ended by whatever that raises. What the lab refuses is the same
    KliegError here.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        begun, due = time.perf_counter(), 0.0
        process = subprocess.Popen(command(name), stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        try:
            while process.poll() is None:
                if (now := time.perf_counter() - begun) >= due:
                    step(now)
                    due = now + EVERY
                time.sleep(LOOK)
        finally:
            process.kill()
            process.wait()
        seconds = time.perf_counter() - begun
        out.seek(0)
        err.seek(0)
        return _read(name, process.returncode, out.read(), err.read()), seconds


def _read(name: str, status: int, out: bytes, err: bytes) -> Finding:
    """What the process of a lab said; KliegError where it broke."""
    with suppress(ValueError, TypeError, KeyError):     # it says nothing, or nothing whole
        found = read(out.decode())
        if status == 0:
            return found
    last = (err.decode("utf-8", "replace").strip().splitlines() or [f"status {status}"])[-1]
    why = "".join(c if c.isprintable() else "\ufffd" for c in last)[:300]
    raise KliegError(f"the lab {name!r} ended before it found anything ({why}); try `klieg lab {name}`.")
