"""Pooled tiles of a head's map at any zoom, out of squares that are computed once and kept while their call lives.

The survey's own map is the top of a pyramid: the whole is united from it, and parts of it are given as they are. Below
it everything is computed. A square of tokens costs a few hundredths of a second however it is pooled, so it is pooled
finely and kept; every coarser tile is united from squares, and nothing is computed twice when one zooms in or out.
Where a survey has no map, the whole is put together from all of the squares.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise
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

SIDE = 4096     # tokens along a tile
SQUARE = 2048   # tokens along a square: what is computed at once
FINE = 16       # tokens along a bucket of it
KEPT = 2048     # squares that are kept of a call, an eighth of a MiB each
WHOLE = 256     # buckets along the whole map
WHOLES = 16     # whole maps that are kept of a call, half a MiB each
MOST = 1024     # buckets along a tile

Span = tuple[int, int]


class Chunks:
    """The squares of every call that is looked at. One job at a time asks: the one whose turn it is."""

    def __init__(self) -> None:
        self._squares: WeakKeyDictionary[Call, OrderedDict[tuple[int, Span, Span], Pooled]] = WeakKeyDictionary()
        self._wholes: WeakKeyDictionary[Call, dict[tuple[int, bool], Pooled]] = WeakKeyDictionary()
        self._peaks: WeakKeyDictionary[Call, Tensor] = WeakKeyDictionary()

    def tile(self, call: Call, head: int, rows: Span, keys: Span, bucket: int, turn: Turn) -> Pooled:
        """A region of at most SIDE x SIDE tokens in buckets of `bucket` tokens, the last ones smaller; mean and max (R, C)."""
        check(call, head, rows, keys, SIDE)
        counts = _counts(rows, keys, bucket)
        if max(counts) > MOST:
            raise KliegError(f"a tile has at most {MOST} buckets along a side; ask for {max(counts)} in several.")
        if bucket < FINE or rows[0] % SQUARE or keys[0] not in (1, keys[0] // SQUARE * SQUARE):
            return pool(call, head, rows, keys, counts)
        bands: list[list[Pooled]] = []
        for down in _cut(rows):
            bands.append([])
            for across in _cut(keys):
                turn.check()
                bands[-1].append(self._square(call, head, down, across))
        return united(_joined(bands), *counts)

    def _square(self, call: Call, head: int, rows: Span, keys: Span) -> Pooled:
        """One square in buckets of FINE tokens, computed once."""
        kept, place = self._squares.setdefault(call, OrderedDict()), (head, rows, keys)
        if place not in kept:
            kept[place] = pool(call, head, rows, keys, _counts(rows, keys, FINE))
            if len(kept) > KEPT:
                kept.popitem(last=False)
        kept.move_to_end(place)
        return kept[place]

    def whole(self, call: Call, head: int, first: bool, turn: Turn) -> Pooled:
        """The whole map in at most WHOLE buckets along a side; key 0 is left out unless `first`."""
        check(call, head, (0, call.queries), (0, call.keys), None)
        kept, place = self._wholes.setdefault(call, {}), (head, first)
        if place not in kept:
            own = _own(call, head)
            found = (self._together(call, head, first, turn) if own is None
                     else _without(call, head, united(own, WHOLE, WHOLE), first, turn))
            while len(kept) >= WHOLES:
                kept.pop(next(iter(kept)))
            kept[place] = found
        return kept[place]

    def surveyed(self, call: Call, head: int, rows: Span, keys: Span, first: bool, turn: Turn) -> Pooled:
        """A part of the survey's own map, `rows` and `keys` counted in its buckets; key 0 is left out unless `first`."""
        check(call, head, (0, call.queries), (0, call.keys), None)
        own = _own(call, head)
        bounds: list[list[int]] = []
        if own is None:
            raise KliegError(f"layer {call.layer} has no pooled map; ask for tiles of it.")
        for (start, stop), every in ((rows, own.row_edges), (keys, own.key_edges)):
            count = len(every) - 1
            if not 0 <= start < stop <= count or stop - start > MOST:
                raise KliegError(f"there are no buckets {start}:{stop} to be had at once; the map of layer {call.layer} has "
                                 f"0:{count}, at most {MOST} at once.")
            bounds.append(every[start:stop + 1])
        here = slice(*rows), slice(*keys)
        return _without(call, head, Pooled(own.mean[here], own.max[here], *bounds), first, turn)

    def _together(self, call: Call, head: int, first: bool, turn: Turn) -> Pooled:
        """The whole map from all of its squares."""
        bucket = 1
        while -(-max(call.queries, call.keys) // bucket) > WHOLE:
            bucket *= 2
        bands: list[list[Pooled]] = []
        step = max(SIDE, bucket)
        for top in range(0, call.queries, step):
            tiles = []
            for left in range(0, call.keys, step):
                turn.offer()
                start = left if first or left or call.keys == 1 else 1
                rows, keys = (top, min(top + step, call.queries)), (start, min(left + step, call.keys))
                tiles.append(self.tile(call, head, rows, keys, bucket, turn) if step == SIDE
                             else pool(call, head, rows, keys, 1))
            bands.append(tiles)
        return _joined(bands)

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
        raise KliegError(f"there is no head {head}; layer {call.layer} has heads 0 to {call.heads - 1}.")
    for name, (start, stop), count in (("rows", rows, call.queries), ("keys", keys, call.keys)):
        if not 0 <= start < stop <= count:
            raise KliegError(f"there are no {name} {start}:{stop}; layer {call.layer} has {name} 0:{count}.")
        if most is not None and stop - start > most:
            raise KliegError(f"{name} {start}:{stop} are too many at once; ask for at most {most:,}.")


def stored(call: Call) -> tuple[int, int] | None:
    """Buckets along both sides of the survey's map, where it is finer than the whole is given."""
    found = None if call.survey is None else call.survey.map_mean
    return None if found is None or max(found.shape[2:]) <= WHOLE else (found.shape[2], found.shape[3])


def _own(call: Call, head: int) -> Pooled | None:
    """The survey's own map of a head, where it has one."""
    survey = call.survey
    if survey is None or survey.map_mean is None or survey.map_max is None:
        return None
    bounds = (edges(total, count) for total, count in zip((call.queries, call.keys), survey.map_mean.shape[2:], strict=True))
    return Pooled(survey.map_mean[0, head], survey.map_max[0, head], *bounds)


def _without(call: Call, head: int, found: Pooled, first: bool, turn: Turn) -> Pooled:
    """The same buckets without the weights on key 0, computed anew where they have any; as they are if it is wanted `first`."""
    if first or found.key_edges[0] > 0 or call.keys == 1:
        return found
    call.need("q", "k")
    mean, largest, stop = found.mean.clone(), found.max.clone(), found.key_edges[1]
    if stop == 1:
        return Pooled(mean[:, 1:], largest[:, 1:], found.row_edges, found.key_edges[1:])
    for n, rows in enumerate(pairwise(found.row_edges)):
        if n % 16 == 0:
            turn.offer()
        column = pool(call, head, rows, (1, stop), 1)
        mean[n, 0], largest[n, 0] = column.mean, column.max
    return Pooled(mean, largest, found.row_edges, [1, *found.key_edges[1:]])


def _cut(span: Span) -> list[Span]:
    """The parts of a span between whole multiples of SQUARE."""
    start, stop = span
    return [(max(at, start), min(at + SQUARE, stop)) for at in range(start // SQUARE * SQUARE, stop, SQUARE)]


def _joined(bands: list[list[Pooled]]) -> Pooled:
    """Regions that lie side by side as one: bands of rows, each of regions from left to right."""
    mean, largest = (torch.cat([torch.cat([getattr(part, name) for part in band], 1) for band in bands])
                     for name in ("mean", "max"))
    down, across = [band[0].row_edges for band in bands], [part.key_edges for part in bands[0]]
    return Pooled(mean, largest, *([parts[0][0], *(n for part in parts for n in part[1:])] for parts in (down, across)))


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
