"""What is kept of an attention map that is too big to keep.

With q, k and the log-sum-exp of every row, any tile of the map is exp(score - lse). A survey
walks over the tiles once, in O(N) memory, and keeps sums: of rows, of columns, by distance, by
bucket of a small map, and the largest weights of every row. Since the log-sum-exp is final,
surveys of parts of the map add up to the survey of the whole:

    survey(q, k, lse, mask, SurveySpec(top=16)).top_keys      # (b, h, i, 16)
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from klieg.attention import Mask
from klieg.errors import KliegError
from klieg.tiles import Scores

# Keys in a tile: top-k is several times quicker in long rows.
WIDE = 4096

_LARGEST = ("lse", "max", "map_max")
_TOP = ("top_weights", "top_keys")


@dataclass(frozen=True)
class SurveySpec:
    """What to keep besides the sums of rows and columns."""

    top: int = 16
    """How many of the largest weights of every row, with their keys; 0 for none."""
    map: int = 64
    """The pooled map has at most this many rows and columns; 0 for no map."""
    bins: int = 20
    """Bins of distance: 0, 1, 2-3, 4-7, 8-15 and so on; the last holds all that is farther."""

    def __post_init__(self) -> None:
        if self.top < 0 or self.map < 0 or self.bins < 1:
            raise KliegError(f"a survey got top={self.top}, map={self.map}, bins={self.bins}; expected top and map "
                             "of at least 0 and bins of at least 1.")


@dataclass(frozen=True, eq=False)
class Survey:
    """The survey of a map of weights (b, h, i, j), or of a part of it with zeros for the rest.

    A row that sees nothing has lse and max -inf and is zero in all else. With a sink the weights
    of a row sum to 1 - the sink's share, and every sum below is of these weights.
    """

    lse: Tensor
    """(b, h, i): ln of the sum of exp(score), nats."""
    max: Tensor
    """(b, h, i): the largest score a row sees."""
    mass: Tensor
    """(b, h, i): the sum of a row's weights; 1 but for sinks and rounding."""
    entropy: Tensor
    """(b, h, i): -sum of w ln w over the keys, nats."""
    received: Tensor
    """(b, h, j): the sum of a column: what a key gets from all queries."""
    first: Tensor
    """(b, h, i): the weight on key 0."""
    own: Tensor
    """(b, h, i): the weight on the key at the query's own slot."""
    distance_sum: Tensor
    """(b, h, i), float64: the sum of w |slot - key|."""
    distance_squares: Tensor
    """(b, h, i), float64: the sum of w (slot - key)^2."""
    histogram: Tensor
    """(b, h, bins): weight by distance; bin 0 is distance 0, bin n is [2^(n-1), 2^n), the last is open."""
    top_weights: Tensor | None
    """(b, h, i, top): the largest weights of a row, falling; at most as many as there are keys."""
    top_keys: Tensor | None
    """(b, h, i, top), int64: their keys; -1 where the weight is 0."""
    map_mean: Tensor | None
    """(b, h, R, C): the mean weight of each bucket of edges(), hidden cells counted as 0."""
    map_max: Tensor | None
    """(b, h, R, C): the largest weight of each bucket."""

    @property
    def distance_mean(self) -> Tensor:
        """(b, h, i): the mean of |slot - key| over a row's weights; 0 for a row that sees nothing."""
        return (self.distance_sum / _nonzero(self.mass)).to(self.lse.dtype)

    @property
    def distance_variance(self) -> Tensor:
        """(b, h, i): the variance of |slot - key| over a row's weights."""
        mass = _nonzero(self.mass)
        variance = self.distance_squares / mass - (self.distance_sum / mass).square()
        return variance.clamp(min=0).to(self.lse.dtype)

    def received_by_group(self, kv_heads: int) -> Tensor:
        """received, summed over the query heads that share a key head: (b, g, j)."""
        if kv_heads < 1 or self.received.shape[1] % kv_heads:
            raise KliegError(f"{self.received.shape[1]} heads do not divide over {kv_heads} key heads.")
        return self.received.unflatten(1, (kv_heads, -1)).sum(2)

    def share(self, batch: slice, heads: slice) -> Survey:
        """The survey of some texts and heads: views, not copies."""
        return Survey(**{field.name: None if (x := getattr(self, field.name)) is None else x[batch, heads]
                         for field in fields(self)})

    def merge(self, other: Survey) -> Survey:
        """The survey of both parts of a map; they must not overlap."""
        merged = {}
        for name in (field.name for field in fields(self) if field.name not in _TOP):
            a, b = getattr(self, name), getattr(other, name)
            if (a is None) != (b is None) or (a is not None and a.shape != b.shape):
                raise KliegError(f"surveys of different maps cannot be merged: their {name} differ in shape.")
            merged[name] = None if a is None else torch.maximum(a, b) if name in _LARGEST else a + b
        if (self.top_keys is None) != (other.top_keys is None):
            raise KliegError("surveys with and without top weights cannot be merged.")
        top = (None, None) if self.top_keys is None else _largest(
            self.top_weights.shape[3], self.top_weights, self.top_keys, other.top_weights, other.top_keys)
        return Survey(**merged, top_weights=top[0], top_keys=top[1])


def edges(length: int, cells: int) -> list[int]:
    """The bounds of the buckets of a pooled map: bucket n holds edges[n] <= x < edges[n + 1].

    There are min(cells, length) of them, as equal as whole numbers allow.
    """
    count = min(cells, length)
    return [n * length // count for n in range(count + 1)]


@torch.no_grad()
def survey(q: Tensor, k: Tensor, lse: Tensor, mask: Mask, spec: SurveySpec = SurveySpec(), *,
           scale: float | None = None, softcap: float | None = None, bias: Tensor | None = None,
           rows: slice | None = None, keys: slice | None = None, shape: tuple[int, int] | None = None) -> Survey:
    """Survey the map of q (b, h, i, d) and k (b, g, j, d), given the final lse (b, h, i) of every row.

    For a part of a map, q, k, lse and bias are those of the part, `rows` and `keys` say where it
    lies, and `shape` is (queries, keys) of the whole; mask is always the mask of the whole.
    """
    queries, total = shape or (q.shape[2], k.shape[2])
    rows, keys = rows or slice(0, queries), keys or slice(0, total)
    if (rows.stop - rows.start, keys.stop - keys.start) != (q.shape[2], k.shape[2]) or lse.shape != q.shape[:3]:
        raise KliegError(f"a survey got q {tuple(q.shape)}, k {tuple(k.shape)}, lse {tuple(lse.shape)} for rows "
                         f"{rows.start}:{rows.stop} and keys {keys.start}:{keys.stop}; expected as many of each.")
    if bias is not None:
        bias = bias[(None,) * (4 - bias.ndim)]
    scores = Scores(q.to(lse.dtype), k.to(lse.dtype), mask, q.shape[3] ** -0.5 if scale is None else scale,
                    softcap, bias, total - queries + rows.start, keys.start)
    found = _empty(lse, rows, queries, total, spec)
    for batch, heads, share in scores.groups():
        walk = _Walk(share, found.share(batch, heads), lse[batch, heads], rows.start)
        for block in share.rows(WIDE):
            for columns in share.columns(block, WIDE):
                walk.add(block, columns)
    return found


def _empty(lse: Tensor, rows: slice, queries: int, keys: int, spec: SurveySpec) -> Survey:
    """The survey of nothing yet, with the lse of its rows."""
    lead = lse.shape[:2]
    # Squares of distances go beyond the digits of float32, which is all that some devices have.
    wide = torch.float32 if lse.device.type == "mps" else torch.float64
    top, cells = min(spec.top, keys), (min(spec.map, queries), min(spec.map, keys))
    every = lse.new_full((*lead, queries), -torch.inf)
    every[:, :, rows] = lse
    row = [lse.new_zeros(*lead, queries) for _ in range(4)]
    moments = [torch.zeros(*lead, queries, dtype=wide, device=lse.device) for _ in range(2)]
    return Survey(
        lse=every, max=torch.full_like(every, -torch.inf), mass=row[0], entropy=row[1], first=row[2], own=row[3],
        received=lse.new_zeros(*lead, keys), distance_sum=moments[0], distance_squares=moments[1],
        histogram=lse.new_zeros(*lead, spec.bins),
        top_weights=lse.new_zeros(*lead, queries, top) if top else None,
        top_keys=lse.new_full((*lead, queries, top), -1, dtype=torch.int64) if top else None,
        map_mean=lse.new_zeros(*lead, *cells) if spec.map else None,
        map_max=lse.new_zeros(*lead, *cells) if spec.map else None)


@dataclass(frozen=True, eq=False)
class _Walk:
    """Adds tile after tile, in place, to the tensors of one survey."""

    scores: Scores
    found: Survey
    lse: Tensor
    first_row: int

    def add(self, block: slice, columns: slice) -> None:
        """`block` and `columns` count from the part's own corner."""
        found, slots, keys = self.found, self.scores.slots(block), self.scores.keys(columns)
        rows = slice(self.first_row + block.start, self.first_row + block.stop)
        s = self.scores.tile(block, columns)
        lse = self.lse[:, :, block]
        highest = s.amax(-1)
        # ln w. By rounding alone a score may be above its row's log-sum-exp; and e^-1000 is 0 in
        # every type, while a hidden -inf times its weight 0 would be NaN in the entropy.
        log = s.sub_(lse.masked_fill(lse == -torch.inf, 0)[..., None]).clamp_(-1000, 0)
        w = log.exp()

        found.max[:, :, rows] = torch.maximum(found.max[:, :, rows], highest)
        found.entropy[:, :, rows] -= log.mul_(w).sum(-1)
        if keys.start == 0:
            found.first[:, :, rows] = w[..., 0]
        low, high = max(slots.start, keys.start), min(slots.stop, keys.stop)
        if low < high:
            at = slice(low - slots.start + rows.start, high - slots.start + rows.start)
            square = w[:, :, low - slots.start:high - slots.start, low - keys.start:high - keys.start]
            found.own[:, :, at] = square.diagonal(dim1=2, dim2=3)
        self._sums(w, rows, slots, keys)
        self._histogram(w, slots, keys)
        self._columns(w, rows, keys)
        if found.top_keys is not None:
            self._top(w, rows, keys)

    def _sums(self, w: Tensor, rows: slice, slots: range, keys: range) -> None:
        """Mass and moments of every row: one thin product with 1, key and key squared."""
        found = self.found
        wide = found.distance_sum.dtype
        key = torch.arange(keys.start, keys.stop, dtype=wide, device=w.device)
        slot = torch.arange(slots.start, slots.stop, dtype=wide, device=w.device)
        powers = torch.stack([torch.ones_like(key), key, key * key], dim=1)
        mass, at, squares = (w.to(wide) @ powers).unbind(-1)
        found.mass[:, :, rows] += mass
        found.distance_squares[:, :, rows] += slot * slot * mass - 2 * slot * at + squares
        # Keys behind the slot count slot - key, and keys ahead of it the other way round.
        if keys[0] > slots[-1]:
            found.distance_sum[:, :, rows] += at - slot * mass
            return
        found.distance_sum[:, :, rows] += slot * mass - at
        if keys[-1] > slots[0] and not any(rule.kind == "causal" for rule in self.scores.mask.rules):
            mass, at, _ = (w.triu(slots[0] - keys[0] + 1).to(wide) @ powers).unbind(-1)
            found.distance_sum[:, :, rows] += 2 * (at - slot * mass)

    def _histogram(self, w: Tensor, slots: range, keys: range) -> None:
        """The weights of a tile by diagonal, and the diagonals by bin."""
        histogram = self.found.histogram
        last = histogram.shape[2] - 1
        near = max(0, keys[0] - slots[-1], slots[0] - keys[-1]).bit_length()
        far = max(slots[-1] - keys[0], keys[-1] - slots[0]).bit_length()
        if min(near, last) == min(far, last):
            histogram[:, :, min(near, last)] += w.sum((2, 3))
            return
        i, j = w.shape[2:]
        # Every row one further to the left than the one above, so that diagonals become columns.
        skewed = w.new_zeros(*w.shape[:2], i, i + j)
        skewed.as_strided(w.shape, (*skewed.stride()[:2], i + j - 1, 1), i - 1).copy_(w)
        distance = (torch.arange(1 - i, j + 1, device=w.device) + (keys[0] - slots[0])).abs()
        bins = torch.frexp(distance.float()).exponent.clamp(max=last).long()     # the number of binary digits
        histogram.index_add_(2, bins, skewed.sum(2))

    def _columns(self, w: Tensor, rows: slice, keys: range) -> None:
        """Column sums, and the pooled map: first over the rows of a bucket, then over its keys."""
        found, here = self.found, slice(keys.start, keys.stop)
        if found.map_mean is None:
            found.received[:, :, here] += w.sum(2)
            return
        height, width = found.map_mean.shape[2:]
        across = torch.tensor(edges(found.received.shape[2], width), device=w.device)
        bucket = torch.bucketize(torch.arange(keys.start, keys.stop, device=w.device), across, right=True) - 1
        down = edges(found.lse.shape[2], height)
        buckets = slice(bisect_right(down, rows.start) - 1, bisect_left(down, rows.stop))
        bands = [w[:, :, max(down[n], rows.start) - rows.start:min(down[n + 1], rows.stop) - rows.start]
                 for n in range(buckets.start, buckets.stop)]
        columns = torch.stack([band.sum(2) for band in bands], dim=2)
        highest = torch.stack([band.amax(2) for band in bands], dim=2)
        found.received[:, :, here] += columns.sum(2)
        sizes = torch.tensor(down, device=w.device).diff()[buckets, None] * across.diff()[bucket]
        found.map_mean[:, :, buckets].index_add_(3, bucket, columns / sizes)
        found.map_max[:, :, buckets].scatter_reduce_(3, bucket.expand_as(highest), highest, "amax")

    def _top(self, w: Tensor, rows: slice, keys: range) -> None:
        weights, places = self.found.top_weights[:, :, rows], self.found.top_keys[:, :, rows]
        if not (w.amax(-1) > weights[..., -1]).any():
            return
        new, at = w.topk(min(weights.shape[3], w.shape[3]), dim=3)
        best, best_keys = _largest(weights.shape[3], weights, places, new, at + keys.start)
        weights.copy_(best)
        places.copy_(best_keys)


def _largest(count: int, *lists: Tensor) -> tuple[Tensor, Tensor]:
    """The `count` largest weights of two lists (weights, keys, weights, keys), with their keys."""
    weights, order = torch.cat(lists[::2], dim=3).topk(count, dim=3)
    return weights, torch.cat(lists[1::2], dim=3).gather(3, order).masked_fill(weights == 0, -1)


def _nonzero(x: Tensor) -> Tensor:
    return x.masked_fill(x == 0, 1)
