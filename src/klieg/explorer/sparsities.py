"""The questions of sparse attention: what a pattern would lose of every head of an open text, which pairs it gives up, and
what the model says when it really reads the text under it.

What is lost is read off the trace, so it is known of any model; what is said needs a decoder of Klieg's own, which reads
the text once more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Any
from weakref import WeakKeyDictionary

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from klieg.analysis.sparsity import USUAL, Applied, Sparsity, applied, fate, losses
from klieg.errors import KliegError
from klieg.explorer.chunks import check
from klieg.explorer.desk import Desk
from klieg.explorer.exports import LONGEST, Format, Language, drawn, file, plain, theme
from klieg.explorer.jobs import Event, streamed, worked
from klieg.explorer.looks import Id, Index, call_of, packed
from klieg.explorer.reader import Reader
from klieg.explorer.spoken import line
from klieg.explorer.turns import Turn
from klieg.patterns import Pattern
from klieg.trace import Trace
from klieg.views import sparsity as views

BEST = 8      # likeliest tokens of each pass that are compared

Written = Annotated[str, Query(max_length=60)]


class Text(BaseModel):
    """An open text."""

    id: str = Field(max_length=200)


class Asked(Text):
    """And a pattern, as Pattern.read() takes it."""

    pattern: str = Field(max_length=60)


_Found = tuple[Sparsity, KliegError | None]


class Kept:
    """What was found of every open text, as long as it is open, by its patterns; and why none can be applied to it."""

    def __init__(self) -> None:
        self._found: WeakKeyDictionary[Trace, dict[str, _Found]] = WeakKeyDictionary()

    def keep(self, trace: Trace, found: Sparsity, why: KliegError | None) -> None:
        self._found.setdefault(trace, {})[str(found.pattern)] = found, why

    def of(self, trace: Trace, pattern: Pattern) -> _Found | None:
        """None for what was not computed yet."""
        return self._found.get(trace, {}).get(str(pattern))


def routes(desk: Desk) -> APIRouter:
    """The routes, on a desk."""
    router, kept = APIRouter(prefix="/api"), Kept()

    def found_of(trace: Trace, pattern: Pattern) -> _Found:
        if (known := kept.of(trace, pattern)) is None:
            lost, (said, why) = losses(trace, pattern), _applied(desk, trace, pattern)
            known = Sparsity(pattern, lost, said), why
            kept.keep(trace, *known)
        return known

    @router.post("/sparsity")
    async def lose(asked: Asked, request: Request) -> dict:
        """What every head would lose under a pattern, and what is expected next under it, or `why` that is not known."""
        pattern = Pattern.read(asked.pattern)

        def job(turn: Turn) -> dict[str, Any]:
            return _said(*found_of(_short(desk.trace(asked.id)), pattern), request)

        return await worked(request, desk.turns, job)

    @router.post("/sparsity/usual")
    async def usual(asked: Text, request: Request) -> StreamingResponse:
        """The same of a few usual patterns, an event "pattern" each."""
        def job(turn: Turn) -> Iterator[Event]:
            trace = _short(desk.trace(asked.id))
            for written in USUAL:
                yield "pattern", _said(*found_of(trace, Pattern.read(written)), request)

        return await streamed(request, desk.turns, job, lambda error: line(error, request))

    @router.get("/sparsity/{id}/heads/{call}/{head}")
    async def pairs(id: Id, call: Index, head: Index, pattern: Written, request: Request) -> Response:
        """What becomes of every pair of one head, 0 hidden, 1 given up, 2 kept; and the mass that each row loses."""
        wanted = Pattern.read(pattern)

        def job(turn: Turn) -> Response:
            at = call_of(_short(desk.trace(id)), call)
            check(at, head, (0, at.queries), (0, at.keys), None)
            table, lost = fate(at, head, wanted)
            return packed({"lost": lost.tolist()}, {"pairs": table})

        return await worked(request, desk.turns, job)

    _pictures(router, desk, found_of)
    return router


def _pictures(router: APIRouter, desk: Desk, found_of: Callable[[Trace, Pattern], _Found]) -> None:
    @router.get("/sparsity/{id}/pictures/{format}")
    async def picture(id: Id, format: Format, pattern: Written, request: Request, lang: Language = "en",
                      dark: bool = False) -> Response:
        """Every head by what it loses under a pattern, as `klieg sparse` draws it; or its numbers."""
        wanted = Pattern.read(pattern)

        def job(turn: Turn) -> bytes:
            trace = _short(desk.trace(id))
            found, _ = found_of(trace, wanted)
            if format == "json":
                return plain({"model": trace.model, "text": trace.text, "tokens": len(trace.tokens),
                              "patterns": [found.as_json()]})
            return drawn(views.grid(trace, [found], theme(dark), language=lang), format)

        return file(await worked(request, desk.turns, job), format)


def _short(trace: Trace) -> Trace:
    """A trace whose maps can be gone through while somebody waits."""
    longest = max(max(call.queries, call.keys) for call in trace.calls)
    if longest > LONGEST:
        raise KliegError(f"this text has {longest:,} tokens, and patterns are tried on up to {LONGEST:,}; take a shorter one.")
    return trace


def _applied(desk: Desk, trace: Trace, pattern: Pattern) -> tuple[Applied | None, KliegError | None]:
    """What the model says under a pattern, or why it cannot be asked."""
    try:
        reader = desk.model(trace.model)
        if not isinstance(reader, Reader) or reader.own is None:
            raise KliegError(f"{trace.model!r} is no model of Klieg's own, and its attention cannot be changed exactly; choose "
                             "another one.")
        return applied(reader.own, trace, pattern, BEST, name=trace.model), None
    except KliegError as error:
        return None, error


def _said(found: Sparsity, why: KliegError | None, request: Request) -> dict[str, Any]:
    said = found.as_json()
    loss, head = found.worst
    if found.applied is not None:
        sealed = found.applied.certificate
        said["applied"]["certificate"] = {"row_sum_error": sealed.row_sum_error, "output_error": sealed.output_error}
    return {**said, "top": {"layer": loss.layer, "kind": loss.kind, "head": head, "mean": loss.mean[head].item()},
            "why": "" if why is None else line(why, request)}
