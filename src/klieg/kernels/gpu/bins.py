"""Weights by the distance of query and key, on the GPU: in bins of 0, 1, 2 to 3, 4 to 7, and so on."""

from __future__ import annotations

import triton
import triton.language as tl

FAR = tl.constexpr(2**31 - 1)       # beyond all distances


@triton.jit
def _bin(distance: tl.tensor, lowest: tl.tensor) -> tl.tensor:
    """The bin of a distance, given the lowest distance of every bin."""
    return tl.sum((lowest <= distance).to(tl.int32), 0) - 1


@triton.jit
def _lowest_of(bins: tl.tensor, BINS: tl.constexpr) -> tl.tensor:
    """The lowest distance of every bin: 0, 1, 2, 4, 8 ...; beyond all distances where a bin is not used."""
    number = tl.arange(0, BINS)
    lowest = tl.where(number == 0, 0, 1 << tl.minimum(tl.maximum(number - 1, 0), 30))
    return tl.where(number < bins, lowest, FAR)


@triton.jit
def alike_until(at: tl.tensor, low: tl.tensor, high: tl.tensor) -> tl.tensor:
    """Up to which key, from `at` on, all keys lie on one side of all slots from `low` to `high`, and in one bin of distance
    of all of them; `at` or less where not even that key does."""
    return tl.where(at > high, low + 2 * _power(at - high), low - _power(high - at) + 1)


@triton.jit
def _power(distance: tl.tensor) -> tl.tensor:
    """The largest power of two up to a distance, at least 1."""
    n = tl.maximum(distance, 1)
    for shift in tl.static_range(5):
        n |= n >> (1 << shift)
    return n - (n >> 1)


@triton.jit
def in_one_bin(mass: tl.tensor, distance: tl.tensor, bins: tl.tensor, BINS: tl.constexpr) -> tl.tensor:
    """All that rows have, in the bin of a distance, (BINS,) of which `bins` are used."""
    return tl.where(tl.arange(0, BINS) == _bin(distance, _lowest_of(bins, BINS)), tl.sum(mass, 0), 0.0)


@triton.jit
def by_distance(w: tl.tensor, mass: tl.tensor, at: tl.tensor, rows: tl.tensor, offset: tl.tensor, queries: tl.tensor,
                keys: tl.tensor, bins: tl.tensor, KEYS: tl.constexpr, BINS: tl.constexpr) -> tl.tensor:
    """A tile's weights by the bin of their distance, (BINS,) of which `bins` are used. Most tiles lie in one bin."""
    number, lowest = tl.arange(0, BINS), _lowest_of(bins, BINS)
    low, high = tl.min(rows, 0) + offset, tl.minimum(tl.max(rows, 0), queries - 1) + offset
    end = tl.minimum(at + KEYS, keys) - 1
    a = _bin(tl.maximum(tl.maximum(low - end, at - high), 0), lowest)
    b = _bin(tl.maximum(high - at, end - low), lowest)
    found = tl.where(number == a, tl.sum(mass, 0), 0.0)
    if a < b:
        found = tl.zeros((BINS,), tl.float32)
        distance = tl.abs((rows + offset)[:, None] - (at + tl.arange(0, KEYS))[None, :])
        for bin in range(a, b + 1):
            start = tl.sum(tl.where(number == bin, lowest, 0), 0)
            stop = tl.min(tl.where(number > bin, lowest, FAR), 0)
            some = tl.where((distance >= start) & (distance < stop), w, 0.0)
            found += tl.where(number == bin, tl.sum(tl.sum(some, 1), 0), 0.0)
    return found


@triton.jit
def store_bins(histogram: tl.tuple, band: tl.tensor, bins: tl.tensor) -> None:
    """Stores what a band has in every bin, where that is wanted; histogram: (where to, bins that are used, bands)."""
    if histogram is not None:
        line = tl.cast(tl.program_id(1), tl.int64) * histogram[2] + band
        tl.store(histogram[0] + line * bins.shape[0] + tl.arange(0, bins.shape[0]), bins)
