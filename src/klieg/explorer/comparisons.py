"""The questions of the screen that compares: how alike two tokens are inside their model, layer by layer, and all of it as a
file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response

from klieg.analysis.similarity import Step, neighbours, similarity
from klieg.errors import KliegError
from klieg.explorer.desk import Desk
from klieg.explorer.exports import LONGEST, SCALES, Format, Head, Language, Place, Scale, drawn, file, plain, theme
from klieg.explorer.jobs import worked
from klieg.explorer.looks import call_of
from klieg.explorer.streams import Kind
from klieg.explorer.turns import Turn
from klieg.trace import Call, Trace
from klieg.views import comparison

MOST = 4096   # tokens of a text that is compared

Name = Annotated[str, Query(max_length=200, description="A trace.")]
Token = Annotated[int, Query(ge=0, le=1 << 30, description="A token of it, from 0.")]
Layer = Annotated[int, Query(ge=0, le=1 << 30, description="Where `near` is measured.")]


def routes(desk: Desk) -> APIRouter:
    """The routes, on a desk."""
    router = APIRouter(prefix="/api")

    @router.get("/comparisons")
    async def compare(a: Name, b: Name, token_a: Token, token_b: Token, layer: Layer, request: Request,
                      kind: Kind = "self") -> dict:
        """The steps of analysis.similarity, and `near`: of every token of `a` the cosine with token_b after one layer, and
        of every token of `b` that with token_a. Cross-attention is compared by its decoder's stream."""
        def job(turn: Turn) -> dict:
            one, two = desk.trace(a), desk.trace(b)
            steps = [asdict(step) for step in _steps(one, token_a, two, token_b, kind, turn)]
            stack = _stack(kind)
            near = [neighbours(two, token_b, one, layer, stack), neighbours(one, token_a, two, layer, stack)]
            return {"steps": steps, "near": [row.tolist() for row in near]}

        return await worked(request, desk.turns, job)

    @router.get("/comparisons/pictures/{format}")
    async def picture(format: Format, a: Name, b: Name, token_a: Token, token_b: Token, request: Request, call: Place = None,
                      head: Head = 0, scale: Scale = "linear", lang: Language = "en", dark: bool = False) -> Response:
        """Both texts, their similarity, what comes next, and the maps of a head of `a` and of the same of `b`."""
        def job(turn: Turn) -> bytes:
            one, two = desk.trace(a), desk.trace(b)
            first = call_of(one, call) if call is not None else one.stack[0]
            sides = _side(one, token_a, first, head, "A"), _side(two, token_b, _like(first, one, two), head, "B")
            why = ("not alike" if one.model != two.model else
                   "" if all(_stack(first.kind) in (trace.streams or {}) for trace in (one, two)) else "no vectors")
            steps = None if why else list(_steps(one, token_a, two, token_b, first.kind, turn))
            known = comparison.Comparison(*sides, steps, why)
            if format == "json":
                return plain(comparison.numbers(known))
            return drawn(comparison.page(known, theme(dark), scale=SCALES[scale], language=lang), format)

        return file(await worked(request, desk.turns, job), format)

    return router


def _stack(kind: str) -> str:
    """Whose stream is compared: cross-attention has none of its own."""
    return "self" if kind == "cross" else kind


def _steps(one: Trace, token_a: int, two: Trace, token_b: int, kind: str, turn: Turn) -> Iterator[Step]:
    """The steps of a similarity; the turn is offered between them."""
    for trace in (one, two):
        count = trace.stream(_stack(kind)).final.shape[1]
        if count > MOST:
            raise KliegError(f"a text of {count:,} tokens is too long to compare; give up to {MOST:,}.")
    for step in similarity(one, token_a, two, token_b, _stack(kind)):
        yield step
        turn.offer()


def _like(call: Call, one: Trace, two: Trace) -> Call:
    """The call of another trace at the same place, or the nearest that it has: of the kind that the page shows of it."""
    calls = two.of(call.kind) if two.source is not None and one.source is not None else two.stack
    return calls[min(one.of(call.kind).index(call), len(calls) - 1)]


def _side(trace: Trace, token: int, call: Call, head: int, name: Literal["A", "B"]) -> comparison.Side:
    """One side; its own last head, where it has fewer."""
    if max(call.queries, call.keys) > LONGEST:
        raise KliegError(f"a comparison on paper has texts of up to {LONGEST:,} tokens; save shorter ones.")
    if token >= call.queries:
        raise KliegError(f"there is no token {token}; the text has tokens 0 to {call.queries - 1}.")
    return comparison.Side(trace, token, call, min(head, call.heads - 1), name)
