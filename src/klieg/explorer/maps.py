"""The questions of the map: the survey's own, pooled tiles at any zoom, single cells, the strongest links in view, and one
weight written out."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

import torch
from fastapi import APIRouter, Query, Request, Response

from klieg.explorer.chunks import Chunks, Span, check, stored
from klieg.explorer.desk import Desk
from klieg.explorer.jobs import worked
from klieg.explorer.links import strongest
from klieg.explorer.looks import Id, Index, call_of, packed
from klieg.explorer.turns import Turn
from klieg.explorer.written import written
from klieg.kernels import Pooled
from klieg.trace import Call

CELLS = 256   # rows and keys of cells that are sent at once
LINKS = 100

Range = Annotated[str, Query(pattern=r"^[0-9]{1,10}:[0-9]{1,10}$", description="From a token to before another.")]
Bucket = Annotated[int, Query(ge=1, le=1 << 30, description="Tokens along a side of a bucket.")]
Count = Annotated[int, Query(ge=1, le=LINKS)]


def span(given: str) -> Span:
    """FROM:TO, as the pattern has it."""
    start, stop = given.split(":")
    return int(start), int(stop)


def routes(desk: Desk) -> APIRouter:
    """The routes, on a desk."""
    router, chunks = APIRouter(prefix="/api/traces/{id}"), Chunks()

    @router.get("/whole/{call}/{head}")
    async def whole(id: Id, call: Index, head: Index, request: Request, first: bool = True) -> Response:
        """The whole map in a few buckets, without the first token unless `first`; and how many buckets there are along both
        sides of the survey's map, `stored`, where it is finer."""
        def job(turn: Turn) -> Response:
            found = call_of(desk.trace(id), call)
            return _tile(chunks, found, head, chunks.whole(found, head, first, turn), {"stored": stored(found)})

        return await worked(request, desk.turns, job, threads=1)

    @router.get("/surveyed/{call}/{head}")
    async def surveyed(id: Id, call: Index, head: Index, rows: Range, keys: Range, request: Request,
                       first: bool = True) -> Response:
        """A part of the survey's own map, counted in its buckets, as a tile."""
        def job(turn: Turn) -> Response:
            found = call_of(desk.trace(id), call)
            return _tile(chunks, found, head, chunks.surveyed(found, head, span(rows), span(keys), first, turn))

        return await worked(request, desk.turns, job, threads=1)

    @router.get("/tiles/{call}/{head}")
    async def tile(id: Id, call: Index, head: Index, rows: Range, keys: Range, bucket: Bucket, request: Request) -> Response:
        """A region in buckets: mean and max (R, C), the edges of the buckets, and `top` (R,): the largest weight of their
        rows over all keys."""
        def job(turn: Turn) -> Response:
            found = call_of(desk.trace(id), call)
            return _tile(chunks, found, head, chunks.tile(found, head, span(rows), span(keys), bucket, turn))

        return await worked(request, desk.turns, job, threads=1)

    @router.get("/cells/{call}/{head}")
    async def cells(id: Id, call: Index, head: Index, rows: Range, keys: Range, request: Request) -> Response:
        """Exact weights and masked scores (i, j) of a small region, and lse and `top` (i,) of its rows."""
        def job(turn: Turn) -> Response:
            return _cells(chunks, call_of(desk.trace(id), call), head, span(rows), span(keys))

        return await worked(request, desk.turns, job, threads=1)

    @router.get("/cells/{call}/{head}/{query}/{key}")
    async def one(id: Id, call: Index, head: Index, query: Index, key: Index, request: Request) -> Response:
        """One weight written out: see written.py."""
        def job(turn: Turn) -> Response:
            return packed(*written(call_of(desk.trace(id), call), head, query, key))

        return await worked(request, desk.turns, job, threads=1)

    @router.get("/links/{call}/{head}")
    async def links(id: Id, call: Index, head: Index, rows: Range, keys: Range, request: Request, count: Count = 12) -> dict:
        """The strongest links of a region, and whether none stronger is left out."""
        def job(turn: Turn) -> dict:
            found = strongest(chunks, call_of(desk.trace(id), call), head, span(rows), span(keys), count, turn)
            return {"links": [[link.query, link.key, link.weight] for link in found.links], "exact": found.exact}

        return await worked(request, desk.turns, job, threads=1)

    return router


def _tile(chunks: Chunks, call: Call, head: int, found: Pooled, body: dict | None = None) -> Response:
    peaks = chunks.peaks(call, head).cpu()
    top = torch.stack([peaks[a:b].max() for a, b in pairwise(found.row_edges)])
    return packed(body or {}, {"mean": found.mean, "max": found.max, "top": top, "rows": torch.tensor(found.row_edges),
                       "keys": torch.tensor(found.key_edges)})


def _cells(chunks: Chunks, call: Call, head: int, rows: Span, keys: Span) -> Response:
    check(call, head, rows, keys, CELLS)
    here, there = slice(*rows), slice(*keys)
    score = call.scaled(head, here, there).masked_fill(~call.visible(head, here, there), -torch.inf)
    return packed({}, {"weight": call.tile(head, here, there), "score": score, "lse": call.lse[0, head, here],
                       "top": chunks.peaks(call, head)[here]})
