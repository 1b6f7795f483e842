"""The survey of a map tile by tile, in plain torch: on any device, and where there is no compiler.

Every statistic is one pass over a tile, and the passes together cost more than the product that makes
it. So a tile is small enough to stay near the core, and what depends on places alone is made once.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise

import torch
from torch import Tensor

from klieg.survey import Survey, edges, largest
from klieg.tiles import Scores, blocks

# Keys in a tile where top-k is asked for, which is several times quicker in long rows.
# Else a fourth of them, and more rows: fewer tiles meet the diagonal, where they are masked.
WIDE = 4096

# What a survey has a number of, or a list, for every row.
_LINES = {"max", "mass", "entropy", "first", "own", "distance_sum", "distance_squares", "top_weights", "top_keys", "probed"}


def survey(scores: Scores, lse: Tensor, found: Survey, first_row: int, probe: Tensor | None) -> None:
    """Add the survey of a part of a map to `found`, the survey of the whole; the part's row 0 is its row `first_row`."""
    wide = WIDE // 4 if found.top_keys is None else WIDE
    bins, desk, lse = _bins(scores, found.histogram.shape[2]), _Desk(lse), _finite(lse)
    for batch, heads, share in scores.scaled().groups():
        some = found.share(batch, heads)
        walk = _Walk(share, some, lse[batch, heads], first_row, _of(probe, batch, heads, lse.shape[1]), bins, _map(some), desk)
        for block, tiles in groupby(_tiles(share, wide), lambda tile: tile[0]):
            walk.add(block, [columns for _, columns in tiles])


def pooled(scores: Scores, lse: Tensor, down: list[int], across: list[int]) -> tuple[Tensor, Tensor]:
    """Sums and maxima (b, h, R, C) of the buckets between these bounds of rows and keys, of the part's own counting."""
    lead = lse.shape[:2]
    total = lse.new_zeros(*lead, len(down) - 1, len(across) - 1)
    highest, lse = torch.zeros_like(total), _finite(lse)
    for batch, heads, share in scores.scaled().groups():
        pool = _Pool(total[batch, heads], highest[batch, heads], down, _buckets(across, total))
        for block, columns in _tiles(share, WIDE // 4):
            pool.add(_logs(share.tile(block, columns), lse[batch, heads, block]).exp2_(), block, columns)
    return total, highest


def _tiles(scores: Scores, wide: int) -> Iterator[tuple[slice, slice]]:
    """Rows and keys of every tile that is not hidden, at most `wide` of each: the skew below takes rows squared.

    Where they are many, keys are cut around the slots of the rows, so that few tiles meet the diagonal.
    """
    for rows in scores.rows(wide):
        for start in range(rows.start, rows.stop, wide):
            block = slice(start, min(start + wide, rows.stop))
            seen, slots = scores.seen(block), scores.slots(block)
            cuts = [min(max(n - scores.first_key, seen.start), seen.stop) for n in (slots.start, slots.stop)]
            cuts = [seen.start, *(cuts if seen.stop - seen.start > wide else []), seen.stop]
            yield from ((block, columns) for a, b in pairwise(cuts) for columns in blocks(a, b, wide)
                        if not scores.skipped(block, columns))


def _of(probe: Tensor | None, batch: slice, heads: slice, count: int) -> Tensor | None:
    """The probe (b, g, j) of some texts and heads, for each query head: (b, h, j)."""
    return None if probe is None else probe.repeat_interleave(count // probe.shape[1], dim=1)[batch, heads]


def _finite(lse: Tensor) -> Tensor:
    """A row of lse -inf sees nothing: any score less a number as large as there is has the weight 0."""
    return lse.masked_fill(lse == -torch.inf, torch.finfo(lse.dtype).max / 4)


def _logs(s: Tensor, lse: Tensor) -> Tensor:
    """log2 w of masked scores, in place: exp2 is many times quicker than exp where it gives 0, and never slower."""
    return s.sub_(lse[..., None]).mul_(1 / math.log(2))


class _Desk:
    """Room for tiles that is used again and again: memory that is fresh for every tile costs as much as its numbers."""

    def __init__(self, like: Tensor) -> None:
        self._like, self._kept = like, {}

    def room(self, name: str, *shape: int) -> Tensor:
        """A tensor of this shape that holds whatever was there before."""
        if (name, shape) not in self._kept:
            self._kept[name, shape] = self._like.new_empty(shape)
        return self._kept[name, shape]

    def skew(self, *shape: int) -> tuple[Tensor, Tensor]:
        """Zeros (b, h, i, i + j), and room in them for a tile (b, h, i, j), whose diagonals are columns of the zeros."""
        if ("skewed", shape) not in self._kept:
            *lead, i, j = shape
            skewed = self._like.new_zeros(*lead, i, i + j)
            # Every row lies one further to the left than the one above. A tile covers all that a like one has filled.
            tile = skewed.as_strided(shape, (*skewed.stride()[:2], i + j - 1, 1), i - 1)
            self._kept["skewed", shape] = skewed, tile
        return self._kept["skewed", shape]

    def steps(self, nearest: Tensor, first: int, count: int) -> Tensor:
        """Steps to each of `count` keys from the one nearest (i,) to every row, of which the first stands at key `first`."""
        if ("steps", first, len(nearest), count) not in self._kept:
            key = torch.arange(count, dtype=self._like.dtype, device=self._like.device)
            self._kept["steps", first, len(nearest), count] = (key - nearest[:, None].to(key)).abs_()
        return self._kept["steps", first, len(nearest), count]

    def powers(self, count: int, behind: bool) -> Tensor:
        """Ones, the steps to each of `count` keys from the last of them, or from the first if they lie `behind`, and their
        squares: (3, j)."""
        if ("powers", count, behind) not in self._kept:
            steps = torch.arange(count, device=self._like.device)
            steps = (steps if behind else steps.flip(0)).to(self._like)
            self._kept["powers", count, behind] = torch.stack([torch.ones_like(steps), steps, steps.square()])
        return self._kept["powers", count, behind]


def _bins(scores: Scores, count: int) -> Tensor:
    """The bin of distance of every diagonal of a part, from its lower left corner to its upper right one: (i + j,)."""
    offset = scores.first_key - scores.first_slot
    distance = torch.arange(1 - scores.q.shape[2], scores.k.shape[2] + 1, device=scores.q.device).add_(offset).abs_()
    bounds = torch.tensor([2**n for n in range(min(count - 1, 62))], dtype=torch.int64, device=distance.device)
    return torch.bucketize(distance, bounds, right=True)


def _bin(slots: range, keys: range, count: int) -> int | None:
    """The bin of all distances from these slots to these keys; None if they are of several bins."""
    nearest = max(slots[0] - keys[-1], keys[0] - slots[-1], 0)
    farthest = max(slots[-1] - keys[0], keys[-1] - slots[0])
    first, last = (min(distance.bit_length(), count - 1) for distance in (nearest, farthest))
    return first if first == last else None


def _buckets(across: list[int], like: Tensor) -> Tensor:
    """The bucket of every key between these bounds: (j,)."""
    bounds = torch.tensor(across, device=like.device)
    return torch.arange(len(across) - 1, device=like.device).repeat_interleave(bounds.diff())


def _map(found: Survey) -> _Pool | None:
    """The pooled map of a survey, where one is kept."""
    if found.map_mean is None:
        return None
    height, width = found.map_mean.shape[2:]
    # Sums for now: the caller divides by the sizes of the buckets when all are there.
    return _Pool(found.map_mean, found.map_max, edges(found.lse.shape[2], height),
                 _buckets(edges(found.received.shape[2], width), found.received))


@dataclass(frozen=True, eq=False)
class _Pool:
    """Adds tile after tile, in place, to the sums and maxima (b, h, R, C) of buckets of a map."""

    total: Tensor
    highest: Tensor
    down: list[int]
    """The bounds of the buckets of rows."""
    bucket: Tensor
    """(j,): the bucket of every key."""

    def add(self, w: Tensor, rows: slice, keys: slice) -> Tensor:
        """Also returns the tile's sums of columns (b, h, j)."""
        touched = slice(bisect_right(self.down, rows.start) - 1, bisect_left(self.down, rows.stop))
        cuts = [min(max(n, rows.start), rows.stop) - rows.start for n in self.down[touched.start:touched.stop + 1]]
        heights = {b - a for a, b in pairwise(cuts)}
        if len(heights) == 1:
            bands = w.unflatten(2, (-1, *heights))
            columns, peaks = bands.sum(3), bands.amax(3)
        else:
            bands = [w[:, :, a:b] for a, b in pairwise(cuts)]
            columns = torch.stack([band.sum(2) for band in bands], dim=2)
            peaks = torch.stack([band.amax(2) for band in bands], dim=2)
        bucket = self.bucket[keys].expand_as(columns)
        self.total[:, :, touched].scatter_add_(3, bucket, columns)
        self.highest[:, :, touched].scatter_reduce_(3, bucket, peaks, "amax")
        return columns.sum(2)


@dataclass(frozen=True, eq=False)
class _Walk:
    """Adds tile after tile, in place, to the tensors of one survey."""

    scores: Scores
    found: Survey
    lse: Tensor
    first_row: int
    probe: Tensor | None
    bins: Tensor
    map: _Pool | None
    desk: _Desk

    def add(self, block: slice, tiles: list[slice]) -> None:
        """A block of rows and its keys, tile by tile; both count from the part's own corner."""
        rows = slice(self.first_row + block.start, self.first_row + block.stop)
        lines = {name: x[:, :, rows] for name, x in self.found.tensors().items() if name in _LINES}
        for columns in tiles:
            self._tile(lines, block, columns, rows)

    def _tile(self, lines: dict[str, Tensor], block: slice, columns: slice, rows: slice) -> None:
        """`lines` are the block's own part of the survey."""
        found, slots, keys = self.found, self.scores.slots(block), self.scores.keys(columns)
        lse, here = self.lse[:, :, block], slice(keys.start, keys.stop)
        shape = *lse.shape, columns.stop - columns.start
        s = self.scores.tile(block, columns, self.desk.room("scores", *shape))
        torch.maximum(lines["max"], s.amax(-1), out=lines["max"])
        log = _logs(s, lse)
        if self.scores.hides(block, columns):
            log.clamp_(min=-1100)                   # 2^-1100 is 0 in every type; -inf times 0 would be NaN in the entropy
        bin = _bin(slots, keys, found.histogram.shape[2])
        skewed, w = self.desk.skew(*shape) if bin is None else (None, self.desk.room("weights", *shape))
        torch.exp2(log, out=w)

        lines["entropy"].sub_(log.mul_(w).sum(-1), alpha=math.log(2))
        mass = self._moments(w, lines, slots, keys)
        if bin is None:
            corner = columns.start - block.stop + self.scores.q.shape[2]
            found.histogram.index_add_(2, self.bins[corner:corner + skewed.shape[3]], skewed.sum(2))
        else:
            found.histogram[:, :, bin] += mass.sum(-1)
        self._single(w, lines, slots, keys)
        found.received[:, :, here] += w.sum(2) if self.map is None else self.map.add(w, rows, here)
        if found.top_keys is not None:
            self._top(w, lines, keys)
        if self.probe is not None:
            lines["probed"] += (w @ self.probe[:, :, columns, None].to(w))[..., 0]

    def _moments(self, w: Tensor, lines: dict[str, Tensor], slots: range, keys: range) -> Tensor:
        """Mass and distances; also returns the mass that the tile adds.

        A distance is the gap from the slot to the nearest key of the tile and the steps from there: nothing cancels.
        """
        wide = lines["distance_sum"].dtype
        slot = torch.arange(slots.start - keys.start, slots.stop - keys.start, dtype=wide, device=w.device)
        behind = keys[0] >= slots[-1]
        if behind or keys[-1] <= slots[0]:
            # Beside the diagonal one key is the nearest for all rows, and all three sums are one product.
            gap = -slot if behind else slot.sub_(len(keys) - 1)
            powers = self.desk.powers(len(keys), behind)
            mass, once, twice = (powers.expand(*w.shape[:2], -1, -1) @ w.mT).unbind(2)
        else:
            nearest = slot.clamp(0, len(keys) - 1)
            gap = (slot - nearest).abs_()
            steps = self.desk.steps(nearest, slots.start - keys.start, len(keys))
            product = torch.mul(w, steps, out=self.desk.room("product", *w.shape))
            mass, once, twice = w.sum(-1), product.sum(-1), product.mul_(steps).sum(-1)
        far = gap * mass
        lines["mass"] += mass
        lines["distance_sum"].add_(far).add_(once)
        lines["distance_squares"].addcmul_(gap, far.add_(once, alpha=2)).add_(twice)
        return mass

    def _single(self, w: Tensor, lines: dict[str, Tensor], slots: range, keys: range) -> None:
        """The weights on key 0 and on the row's own key."""
        if keys.start == 0:
            lines["first"].copy_(w[..., 0])
        low, high = max(slots.start, keys.start), min(slots.stop, keys.stop)
        if low < high:
            square = w[:, :, low - slots.start:high - slots.start, low - keys.start:high - keys.start]
            lines["own"][:, :, low - slots.start:high - slots.start] = square.diagonal(dim1=2, dim2=3)

    def _top(self, w: Tensor, lines: dict[str, Tensor], keys: range) -> None:
        weights, places = lines["top_weights"], lines["top_keys"]
        if not (w.amax(-1) > weights[..., -1]).any():
            return
        new, at = w.topk(min(weights.shape[3], w.shape[3]), dim=3)
        best, best_keys = largest(weights.shape[3], weights, places, new, at + keys.start)
        weights.copy_(best)
        places.copy_(best_keys)
