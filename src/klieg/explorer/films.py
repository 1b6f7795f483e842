"""The film: a text that a model goes on with, token by token, and what its attention saw of the whole.

Tokens are sent as they are chosen. Then one pass over all of them is certified and stays on the desk;
the numbers of the film are those of that pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from klieg.errors import KliegError
from klieg.explorer.desk import Desk
from klieg.explorer.jobs import Event, streamed, worked
from klieg.explorer.looks import Id, Index, packed
from klieg.explorer.turns import Turn
from klieg.generate import Sampling
from klieg.trace import Trace
from klieg.views import wire

MOST = 1024     # tokens of a film
BESIDE = 12     # candidates of every step that are told at once
LABELLED = 100  # candidates that have a label beside the logits


class Wanted(BaseModel):
    """A text, what was written after it so far, and how the next tokens are to be chosen."""

    text: str = Field(max_length=1_000_000)
    model: str = Field(max_length=500)
    to: str | None = Field(None, max_length=20)
    written: list[int] = Field(default_factory=list, max_length=MOST)
    count: int = Field(16, ge=1, le=MOST)
    temperature: float = Field(0, ge=0, le=1000, allow_inf_nan=False)
    top_k: int = Field(0, ge=0, le=1 << 30)
    top_p: float = Field(1, gt=0, le=1, allow_inf_nan=False)
    seed: int = Field(0, ge=0, lt=1 << 53)


def routes(desk: Desk) -> APIRouter:
    """The routes, on a desk."""
    router = APIRouter(prefix="/api")

    @router.post("/films")
    async def film(wanted: Wanted, request: Request) -> Response:
        model = desk.model(wanted.model)
        sampling = Sampling(wanted.temperature, wanted.top_k, wanted.top_p, wanted.seed)

        def job(turn: Turn) -> Iterator[Event]:
            written = list(wanted.written)
            for found in model.write(wanted.text, wanted.to, written, min(wanted.count, MOST - len(written)), sampling):
                written.append(found.id)
                yield "token", {"id": found.id, "token": found.token, "p": found.p}
            trace = model.read(wanted.text, wanted.to, turn, written)
            turn.check()  # or nobody would ever close it
            yield "end", {"id": desk.put(trace), **told(trace, len(trace.tokens) - len(written))}

        return await streamed(request, desk.turns, job)

    @router.get("/traces/{id}/steps/{start}")
    async def steps(id: Id, start: Index, request: Request) -> dict:
        return await worked(request, desk.turns, lambda turn: told(desk.trace(id), start))

    @router.get("/traces/{id}/logits/{after}")
    def logits(id: Id, after: Index) -> Response:
        trace = desk.trace(id)
        best = wire.candidates(trace, after, LABELLED)
        row = after - len(trace.tokens)
        return packed({"candidates": best}, {"logits": trace.logits[row]})

    return router


def told(trace: Trace, start: int) -> dict[str, Any]:
    """Where the film begins, and of each of its tokens the probability that it had and what stood beside it."""
    if not trace.predicts or trace.kind == "encoder":
        raise KliegError("this model expects no next token, so it has no film.")
    known = range(max(start, 1, len(trace.tokens) - len(trace.logits) + 1), len(trace.tokens))
    return {"start": known.start, "steps": [_step(trace, at) for at in known]}


def _step(trace: Trace, at: int) -> dict[str, Any]:
    chosen = trace.candidate(trace.ids[at], at - 1)
    return {"id": chosen.id, "token": trace.tokens[at], "p": chosen.p, "rank": chosen.rank,
            "candidates": wire.candidates(trace, at - 1, BESIDE)}
