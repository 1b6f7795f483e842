"""The question of the screen that compares: how alike two tokens are inside their model, layer by layer."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query, Request

from klieg.analysis.similarity import neighbours, similarity
from klieg.errors import KliegError
from klieg.explorer.desk import Desk
from klieg.explorer.jobs import worked
from klieg.explorer.streams import Kind
from klieg.explorer.turns import Turn

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
            stack = "self" if kind == "cross" else kind
            for trace in (one, two):
                count = trace.stream(stack).final.shape[1]
                if count > MOST:
                    raise KliegError(f"a text of {count:,} tokens is too long to compare; give up to {MOST:,}.")
            steps = []
            for step in similarity(one, token_a, two, token_b, stack):
                steps.append(asdict(step))
                turn.offer()
            near = [neighbours(two, token_b, one, layer, stack), neighbours(one, token_a, two, layer, stack)]
            return {"steps": steps, "near": [row.tolist() for row in near]}

        return await worked(request, desk.turns, job)

    return router
