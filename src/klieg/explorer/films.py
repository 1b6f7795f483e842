"""The film: a text that a model goes on with, token by token, and what its attention saw of the whole.

Tokens are sent as they are chosen. Then one pass over all of them is certified and stays on the desk;
the numbers of the film are those of that pass.
"""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from klieg.errors import KliegError
from klieg.explorer.chunks import check
from klieg.explorer.desk import Desk
from klieg.explorer.exports import LONGEST, Format, Head, Language, Other, Place, drawn, file, plain, theme
from klieg.explorer.jobs import Event, streamed, worked
from klieg.explorer.looks import WRITTEN, Id, Index, call_of, packed
from klieg.explorer.spoken import line
from klieg.explorer.turns import Turn
from klieg.generate import Sampling
from klieg.trace import Trace
from klieg.views import film, wire

LABELLED = 100  # candidates that have a label beside the logits


class Wanted(BaseModel):
    """A text, what was written after it so far, and how the next tokens are to be chosen."""

    text: str = Field(max_length=1_000_000)
    model: str = Field(max_length=500)
    to: str | None = Field(None, max_length=20)
    written: list[int] = Field(default_factory=list, max_length=WRITTEN)
    count: int = Field(16, ge=1, le=WRITTEN)
    temperature: float = Field(0, ge=0, le=1000, allow_inf_nan=False)
    top_k: int = Field(0, ge=0, le=1 << 30)
    top_p: float = Field(1, gt=0, le=1, allow_inf_nan=False)
    seed: int = Field(0, ge=0, lt=1 << 53)


def routes(desk: Desk) -> APIRouter:
    """The routes, on a desk."""
    router = APIRouter(prefix="/api")

    @router.post("/films")
    async def write(wanted: Wanted, request: Request) -> Response:
        model = desk.model(wanted.model)
        sampling = Sampling(wanted.temperature, wanted.top_k, wanted.top_p, wanted.seed)

        def job(turn: Turn) -> Iterator[Event]:
            written = list(wanted.written)
            for found in model.write(wanted.text, wanted.to, written, min(wanted.count, WRITTEN - len(written)), sampling):
                written.append(found.id)
                yield "token", {"id": found.id, "token": found.token, "p": found.p}
            trace = model.read(wanted.text, wanted.to, turn, written)
            turn.check()  # or nobody would ever close it
            yield "end", {"id": desk.put(trace), **film.told(trace, len(trace.tokens) - len(written))}

        return await streamed(request, desk.turns, job, lambda error: line(error, request))

    @router.get("/traces/{id}/steps/{start}")
    async def steps(id: Id, start: Index, request: Request) -> dict:
        return await worked(request, desk.turns, lambda turn: film.told(desk.trace(id), start))

    @router.get("/traces/{id}/steps/{start}/pictures/{format}")
    async def picture(id: Id, start: Index, format: Format, request: Request, stop: Place = None, call: Place = None,
                      head: Head = 0, other: Other = None, lang: Language = "en", dark: bool = False) -> Response:
        """The steps from `start` to before `stop`, as far as the film was played, and of the `other` trace where it branched,
        with the rows of weights of a head; or these numbers."""
        def job(turn: Turn) -> bytes:
            traces = [desk.trace(each) for each in (id, other) if each is not None]
            if any(len(trace.tokens) > LONGEST for trace in traces):
                raise KliegError(f"a film on paper has up to {LONGEST:,} tokens; save a shorter text.")
            strips = [_strip(trace, start, stop, call, head, name)
                      for trace, name in zip(traces, "AB" if other is not None else [""], strict=True)]
            if format == "json":
                return plain(film.numbers(strips))
            return drawn(film.page(strips, theme(dark), language=lang), format)

        return file(await worked(request, desk.turns, job), format)

    @router.get("/traces/{id}/logits/{after}")
    def logits(id: Id, after: Index) -> Response:
        trace = desk.trace(id)
        best = wire.candidates(trace, after, LABELLED)
        row = after - len(trace.tokens)
        return packed({"candidates": best}, {"logits": trace.logits[row]})

    return router


def _strip(trace: Trace, start: int, stop: int | None, call: int | None, head: int, name: str) -> film.Strip:
    """A strip of the film, as far as its trace goes."""
    found = call_of(trace, call) if call is not None else trace.stack[0]
    check(found, head, (0, found.queries), (0, found.keys), None)
    return film.Strip(trace, start, len(trace.tokens) if stop is None else stop, found, head, name)
