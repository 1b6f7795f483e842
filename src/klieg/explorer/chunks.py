"""Pooled tiles of a head's map at any zoom, out of squares that are computed once and kept while their call lives.

A square of SIDE tokens costs a few hundredths of a second however it is pooled, so it is pooled finely and kept; every
coarser tile of it is united from that, and nothing is computed twice when one zooms in or out. The whole map at
once is the survey's own, or is put together from all of its squares.
"""

from __future__ import annotations

from collections import OrderedDict
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from klieg.attention import weights
from klieg.errors import KliegError
from klieg.explorer.turns import Turn
from klieg.kernels import Pooled
from klieg.pool import pool
from klieg.survey import SurveySpec, edges
from klieg.trace import Call

SIDE = 4096     # tokens along a square
FINE = 16       # tokens along a bucket of it
KEPT = 512      # squares that are kept of a call, half a MiB each
WHOLE = 256     # buckets along the whole map where the survey has none
MOST = 1024     # buckets along a tile

Span = tuple[int, int]


class Chunks:
    """The squares of every call that is looked at. One job at a time asks: the one whose turn it is."""

    def __init__(self) -> None:
        self._squares: WeakKeyDictionary[Call, OrderedDict[tuple[int, Span, Span], Pooled]] = WeakKeyDictionary()
        self._peaks: WeakKeyDictionary[Call, Tensor] = WeakKeyDictionary()

    def tile(self, call: Call, head: int, rows: Span, keys: Span, bucket: int) -> Pooled:
        """A region of at most SIDE x SIDE tokens in buckets of `bucket` tokens, the last ones smaller; mean and max (R, C)."""
        check(call, head, rows, keys, SIDE)
        counts = _counts(rows, keys, bucket)
        if max(counts) > MOST:
            raise KliegError(f"a tile has at most {MOST} buckets along a side; ask for {max(counts)} in several.",
                             zh=f"一块地图每边最多 {MOST} 格；{max(counts)} 格请分几次取。")
        if bucket < FINE or rows[0] % SIDE or keys[0] not in (1, keys[0] // SIDE * SIDE):
            return pool(call, head, rows, keys, counts)
        kept = self._squares.setdefault(call, OrderedDict())
        place = head, rows, keys
        if place not in kept:
            kept[place] = pool(call, head, rows, keys, _counts(rows, keys, FINE))
            if len(kept) > KEPT:
                kept.popitem(last=False)
        kept.move_to_end(place)
        return united(kept[place], *counts)

    def whole(self, call: Call, head: int, first: bool, turn: Turn) -> Pooled:
        """The whole map in the buckets of its survey, or in WHOLE along the longer side; key 0 is left out unless `first`."""
        check(call, head, (0, call.queries), (0, call.keys), None)
        stored = None if call.survey is None else call.survey.map_mean
        if stored is None:
            return self._together(call, head, first, turn)
        found = call.pool(head, size=min(MOST, max(stored.shape[2:])))
        if first or call.keys == 1:
            return found
        call.need("q", "k")
        mean, largest = found.mean.clone(), found.max.clone()
        stop = found.key_edges[1]
        if stop == 1:
            return Pooled(mean[:, 1:], largest[:, 1:], found.row_edges, found.key_edges[1:])
        for n, rows in enumerate(zip(found.row_edges, found.row_edges[1:], strict=False)):
            if n % 16 == 0:
                turn.offer()
            column = pool(call, head, rows, (1, stop), 1)
            mean[n, 0], largest[n, 0] = column.mean, column.max
        return Pooled(mean, largest, found.row_edges, [1, *found.key_edges[1:]])

    def _together(self, call: Call, head: int, first: bool, turn: Turn) -> Pooled:
        """The whole map from all of its squares."""
        bucket = 1
        while -(-max(call.queries, call.keys) // bucket) > WHOLE:
            bucket *= 2
        bands, down, across = [], [0], []
        step = max(SIDE, bucket)
        for top in range(0, call.queries, step):
            tiles = []
            for left in range(0, call.keys, step):
                turn.offer()
                start = left if first or left or call.keys == 1 else 1
                rows, keys = (top, min(top + step, call.queries)), (start, min(left + step, call.keys))
                tiles.append(self.tile(call, head, rows, keys, bucket) if step == SIDE else pool(call, head, rows, keys, 1))
            down += tiles[0].row_edges[1:]
            across = [tiles[0].key_edges[0], *(n for tile in tiles for n in tile.key_edges[1:])]
            bands.append([torch.cat(parts, 1) for parts in zip(*((tile.mean, tile.max) for tile in tiles), strict=True)])
        mean, largest = (torch.cat(parts) for parts in zip(*bands, strict=True))
        return Pooled(mean, largest, down, across)

    def peaks(self, call: Call, head: int) -> Tensor:
        """The largest weight of every row of a head, over all keys: (i,)."""
        if call not in self._peaks:
            survey = call.surveyed(SurveySpec(top=0, map=0)).survey
            assert survey is not None
            self._peaks[call] = weights(survey.max[0, ..., None], call.lse[0])[..., 0]
        return self._peaks[call][head]


def check(call: Call, head: int, rows: Span, keys: Span, most: int | None) -> None:
    """KliegError if a head has no such region, or if it is larger than `most` x `most`."""
    if not 0 <= head < call.heads:
        raise KliegError(f"there is no head {head}; layer {call.layer} has heads 0 to {call.heads - 1}.",
                         zh=f"没有第 {head} 头；第 {call.layer} 层的头是 0 到 {call.heads - 1}。")
    for name, named, (start, stop), count in (("rows", "行", rows, call.queries), ("keys", "键", keys, call.keys)):
        if not 0 <= start < stop <= count:
            raise KliegError(f"there are no {name} {start}:{stop}; layer {call.layer} has {name} 0:{count}.",
                             zh=f"没有 {start}:{stop} 这些{named}；第 {call.layer} 层的{named}是 0:{count}。")
        if most is not None and stop - start > most:
            raise KliegError(f"{name} {start}:{stop} are too many at once; ask for at most {most:,}.",
                             zh=f"{start}:{stop} 的{named}一次太多；最多取 {most:,} 个。")


def _counts(rows: Span, keys: Span, bucket: int) -> tuple[int, int]:
    """How many buckets lie along both sides of a region."""
    return -(-(rows[1] - rows[0]) // bucket), -(-(keys[1] - keys[0]) // bucket)


def united(found: Pooled, down: int, across: int) -> Pooled:
    """The same region in fewer buckets, each a union: the mean of the means by their cells, the largest of the maxima."""
    mean, largest = found.mean, found.max
    bounds = []
    for axis, (stored, count) in enumerate(((found.row_edges, down), (found.key_edges, across))):
        if count >= len(stored) - 1:
            bounds.append(stored)
            continue
        places = torch.tensor(edges(len(stored) - 1, count))
        shape = [-1, 1] if axis == 0 else [1, -1]
        group = torch.arange(count).repeat_interleave(places.diff()).view(shape).expand(mean.shape)
        room = [*mean.shape]
        room[axis] = count
        wide = torch.tensor(stored).diff().double()
        sizes = torch.zeros(count, dtype=torch.float64).index_add_(0, group.select(1 - axis, 0), wide).view(shape)
        summed = torch.zeros(room, dtype=torch.float64).scatter_add_(axis, group, mean.double() * wide.view(shape))
        mean = (summed / sizes).to(mean.dtype)
        largest = torch.zeros(room, dtype=largest.dtype).scatter_reduce_(axis, group, largest, "amax")
        bounds.append([stored[n] for n in places.tolist()])
    return Pooled(mean, largest, *bounds)
