"""The strongest links of a region of a head's map, found without looking at every weight, and none overlooked.

Two things know a bound before a weight is computed. The survey keeps the largest weights of every row: no weight
outside a row's list exceeds the last of it. And the largest weight of a bucket of the pooled map is a bound for the
weights within. So the buckets are opened in the order of their bounds, until no bucket is left that could hold a
link stronger than those that were found.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import torch

from klieg.explorer.chunks import SIDE, Chunks, Span, check
from klieg.explorer.turns import Turn
from klieg.trace import Call

OPENED = 2**16     # weights of a bucket that is computed rather than divided
PARTS = 16         # buckets along a side into which one is divided
SLACK = 1 + 1e-5   # what two kernels may differ by in one weight


@dataclass(frozen=True)
class Link:
    """One weight and where it stands."""

    query: int
    key: int
    weight: float


@dataclass(frozen=True)
class Found:
    """The strongest links, strongest first."""

    links: list[Link]
    exact: bool
    """Whether no other link of the region is stronger than these."""


def strongest(chunks: Chunks, call: Call, head: int, rows: Span, keys: Span, count: int, turn: Turn) -> Found:
    """The `count` largest weights of a region, those on the first token and on the query itself aside."""
    check(call, head, rows, keys, None)
    known, bound = _listed(call, head, rows, keys, count)
    if (len(known) == count and known[-1].weight >= bound * SLACK) or bound == 0:
        return Found(known, True)
    if call.q is None or call.k is None:
        return Found([link for link in known if link.weight >= bound * SLACK], False)
    return Found(_searched(chunks, call, head, rows, keys, count, turn), True)


def _aside(call: Call, rows: Span) -> torch.Tensor:
    """The key that is the query itself: (i, 1); one that there is not where queries and keys are of two texts."""
    own = torch.arange(*rows)[:, None] + call.keys - call.queries
    return own if call.kind != "cross" else torch.full_like(own, -1)


def _listed(call: Call, head: int, rows: Span, keys: Span, count: int) -> tuple[list[Link], float]:
    """The largest of the weights that the survey lists, and what no weight outside its lists exceeds."""
    survey = call.survey
    if survey is None or survey.top_weights is None or survey.top_keys is None:
        return [], float("inf")
    listed, there = survey.top_weights[0, head, slice(*rows)].cpu(), survey.top_keys[0, head, slice(*rows)].cpu()
    bound = listed[:, -1].max().item() if listed.shape[1] < call.keys else 0.0
    aside = (there < max(1, keys[0])) | (there == _aside(call, rows))
    if keys[1] < call.keys:
        aside |= there >= keys[1]
    return _largest(listed.masked_fill(aside, 0), there, rows[0], count), bound


def _largest(weights: torch.Tensor, keys: torch.Tensor, top: int, count: int) -> list[Link]:
    """The largest of (i, n) weights on these keys, those of 0 aside; they stand in the rows with the largest maxima."""
    rows = weights.amax(1).topk(min(count, len(weights))).indices.sort().values
    some, wide = weights[rows], weights.shape[1]
    best, places = some.flatten().topk(min(count, some.numel()))
    return [Link(top + int(rows[at // wide]), int(keys[rows[at // wide], at % wide]), value)
            for value, at in zip(best.tolist(), places.tolist(), strict=True) if value > 0]


def _searched(chunks: Chunks, call: Call, head: int, rows: Span, keys: Span, count: int, turn: Turn) -> list[Link]:
    """Best first: the bucket that may hold the strongest link is divided, or computed where it is small."""
    waiting: list[tuple[float, Span, Span]] = [(-float("inf"), rows, keys)]
    found: list[Link] = []
    while waiting:
        bound, down, across = heapq.heappop(waiting)
        if len(found) == count and -bound * SLACK <= found[-1].weight:
            break
        turn.offer()
        tall, wide = down[1] - down[0], across[1] - across[0]
        if tall * wide <= OPENED:
            weights = call.tile(head, slice(*down), slice(*across)).cpu()
            there = torch.arange(*across).expand_as(weights)
            aside = (there == 0) | (there == _aside(call, down))
            found = sorted(found + _largest(weights.masked_fill(aside, 0), there, down[0], count),
                           key=lambda link: -link.weight)[:count]
            continue
        pooled = (chunks.whole(call, head, True, turn) if max(tall, wide) > SIDE
                  else call.pool(head, down, across, PARTS))
        for (r, c), high in zip(torch.cartesian_prod(*map(torch.arange, pooled.max.shape)).tolist(),
                                pooled.max.flatten().tolist(), strict=True):
            part = _within(pooled.row_edges[r:r + 2], down), _within(pooled.key_edges[c:c + 2], across)
            if high > 0 and all(a < b for a, b in part):
                heapq.heappush(waiting, (-high, *part))
    return found


def _within(bounds: list[int], span: Span) -> Span:
    return max(bounds[0], span[0]), min(bounds[1], span[1])
