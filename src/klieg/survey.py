"""What is kept of an attention map that is too big to keep.

With q, k and the log-sum-exp of every row, any tile of the map is exp(score - lse). A survey
walks over the map once, in O(N) memory, and keeps sums: of rows, of columns, by distance, by
bucket of a small map, and the largest weights of every row. Since the log-sum-exp is final,
surveys of parts of the map add up to the survey of the whole. The kernels make surveys; this
file says what is in one.

    klieg.kernels.survey(q, k, lse, mask, SurveySpec(top=16)).top_keys      # (b, h, i, 16)
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from klieg.errors import KliegError

LARGEST = ("lse", "max", "map_max")
TOP = ("top_weights", "top_keys")


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
    probed: Tensor | None = None
    """(b, h, i): the sum of w times a number of every key, where such numbers were given."""
    kernel: str = ""
    """What made it: native, or streamed, which is plain torch; joined where parts differ."""

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
        return replace(self, **{name: x[batch, heads] for name, x in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """The fields that are there, by name."""
        return {field.name: x for field in fields(self) if isinstance(x := getattr(self, field.name), Tensor)}

    def merge(self, other: Survey) -> Survey:
        """The survey of both parts of a map; they must not overlap."""
        merged = {}
        for name in (field.name for field in fields(self) if field.name not in (*TOP, "kernel")):
            a, b = getattr(self, name), getattr(other, name)
            if (a is None) != (b is None) or (a is not None and a.shape != b.shape):
                raise KliegError(f"surveys of different maps cannot be merged: their {name} differ in shape.")
            merged[name] = None if a is None else torch.maximum(a, b) if name in LARGEST else a + b
        if (self.top_keys is None) != (other.top_keys is None):
            raise KliegError("surveys with and without top weights cannot be merged.")
        top = (None, None) if self.top_keys is None else largest(
            self.top_weights.shape[3], self.top_weights, self.top_keys, other.top_weights, other.top_keys)
        kernels = dict.fromkeys([*self.kernel.split(" + "), *other.kernel.split(" + ")])
        return Survey(**merged, top_weights=top[0], top_keys=top[1], kernel=" + ".join(filter(None, kernels)))


def edges(length: int, cells: int) -> list[int]:
    """The bounds of the buckets of a pooled map: bucket n holds edges[n] <= x < edges[n + 1].

    There are min(cells, length) of them, as equal as whole numbers allow.
    """
    count = min(cells, length)
    return [n * length // count for n in range(count + 1)]


def empty(lse: Tensor, rows: slice, queries: int, keys: int, spec: SurveySpec, probed: bool = False) -> Survey:
    """The survey of nothing yet of a map (b, h, queries, keys), with the lse of its `rows`."""
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
        map_max=lse.new_zeros(*lead, *cells) if spec.map else None,
        probed=lse.new_zeros(*lead, queries) if probed else None)


def largest(count: int, *lists: Tensor) -> tuple[Tensor, Tensor]:
    """The `count` largest weights of two lists (weights, keys, weights, keys), with their keys."""
    weights, order = torch.cat(lists[::2], dim=3).topk(count, dim=3)
    return weights, torch.cat(lists[1::2], dim=3).gather(3, order).masked_fill(weights == 0, -1)


def _nonzero(x: Tensor) -> Tensor:
    return x.masked_fill(x == 0, 1)
