"""Sums and largest weights of buckets of a map, on the GPU.

A band of queries keeps one open bucket of keys. When it ends, what the rows have in it is stored for every bucket of
rows that the band touches; what several bands have of one bucket is united afterwards, in their order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

CELLS = 64      # that one program of _united() unites


@triton.jit
def opened(pool: tl.tuple, start: tl.tensor, keys: tl.tensor) -> tl.tensor:
    """The bucket of keys in which a band begins."""
    found = start * 0
    if pool is not None:
        found = tl.load(pool[3] + tl.minimum(start, keys - 1))
    return found


@triton.jit
def stored(sums: tl.tensor, peaks: tl.tensor, bucket: tl.tensor, band: tl.tensor, rows: tl.tensor, queries: tl.tensor,
           pool: tl.tuple) -> None:
    """Stores what the rows have in a bucket of keys, for every bucket of rows that the band touches.

    Bands and buckets both divide the rows in their order, so band + bucket names each pair of them once.
    """
    down, row_bucket, total, most, lines, cells = pool[0], pool[2], pool[4], pool[5], pool[6], pool[7]
    last = tl.load(row_bucket + tl.minimum(tl.max(rows, 0), queries - 1))
    for r in range(tl.load(row_bucket + tl.min(rows, 0)), last + 1):
        inside = (rows >= tl.load(down + r)) & (rows < tl.load(down + r + 1))
        at = (tl.cast(tl.program_id(1), tl.int64) * lines + band + r) * cells + bucket
        tl.store(total + at, tl.sum(tl.where(inside, sums, 0.0), 0))
        tl.store(most + at, tl.max(tl.where(inside, peaks, 0.0), 0))


@triton.jit
def closed(sums: tl.tensor, peaks: tl.tensor, bucket: tl.tensor, at: tl.tensor, band: tl.tensor, rows: tl.tensor,
           queries: tl.tensor, pool: tl.tuple) -> tuple[tl.tensor, ...]:
    """Stores the open bucket where it ends at a key. Sums, maxima and the open bucket, and where that ends."""
    edge = tl.load(pool[1] + bucket + 1)
    if edge == at:
        stored(sums, peaks, bucket, band, rows, queries, pool)
        sums, peaks, bucket = sums * 0, peaks * 0, bucket + 1
        edge = tl.load(pool[1] + bucket + 1)
    return sums, peaks, bucket, edge


@triton.jit
def pooled(w: tl.tensor, mass: tl.tensor, at: tl.tensor, sums: tl.tensor, peaks: tl.tensor, bucket: tl.tensor,
           band: tl.tensor, rows: tl.tensor, queries: tl.tensor, keys: tl.tensor, pool: tl.tuple,
           KEYS: tl.constexpr) -> tuple[tl.tensor, ...]:
    """Adds a tile to the open bucket; buckets that end within the tile are stored. Sums, maxima and the open bucket."""
    across, here, end = pool[1], at + tl.arange(0, KEYS), tl.minimum(at + KEYS, keys)
    low, edge = at, tl.load(across + bucket + 1)
    while edge < end:
        some = tl.where((here >= low)[None, :] & (here < edge)[None, :], w, 0.0)
        stored(sums + tl.sum(some, 1), tl.maximum(peaks, tl.max(some, 1)), bucket, band, rows, queries, pool)
        sums, peaks, low, bucket = sums * 0, peaks * 0, edge, bucket + 1
        edge = tl.load(across + bucket + 1)
    if low == at:
        sums, peaks = sums + mass, tl.maximum(peaks, tl.max(w, 1))
    else:
        some = tl.where((here >= low)[None, :], w, 0.0)
        sums, peaks = sums + tl.sum(some, 1), tl.maximum(peaks, tl.max(some, 1))
    return sums, peaks, bucket


@triton.jit
def _united(total: tl.tensor, most: tl.tensor, down: tl.tensor, lines: tl.tensor, cells: tl.tensor, found_total: tl.tensor,
            found_most: tl.tensor, ROWS: tl.constexpr, CELLS: tl.constexpr) -> None:
    """One bucket of rows of one head: what its bands have, added in their order."""
    bucket, pid = tl.program_id(0), tl.program_id(1)
    cell = tl.program_id(2) * CELLS + tl.arange(0, CELLS)
    sums, peaks = tl.zeros((CELLS,), tl.float32), tl.zeros((CELLS,), tl.float32)
    last = (tl.load(down + bucket + 1) - 1) // ROWS
    for band in range(tl.load(down + bucket) // ROWS, last + 1):
        at = (tl.cast(pid, tl.int64) * lines + band + bucket) * cells + cell
        sums += tl.load(total + at, mask=cell < cells, other=0.0)
        peaks = tl.maximum(peaks, tl.load(most + at, mask=cell < cells, other=0.0))
    at = (tl.cast(pid, tl.int64) * tl.num_programs(0) + bucket) * cells + cell
    tl.store(found_total + at, sums, mask=cell < cells)
    tl.store(found_most + at, peaks, mask=cell < cells)


class Pool:
    """The workspace of one map (b, h, R, C) between bounds of rows and of keys."""

    def __init__(self, lead: tuple[int, int], row_edges: list[int], key_edges: list[int], rows: int,
                 device: torch.device) -> None:
        """`rows`: those of a band."""
        self._lead, self._cells, self._rows = lead, (len(row_edges) - 1, len(key_edges) - 1), rows
        bands = triton.cdiv(row_edges[-1], rows)
        self._edges = [torch.tensor(edges, dtype=torch.int32, device=device) for edges in (row_edges, key_edges)]
        self._bucket = [torch.arange(len(edges) - 1, dtype=torch.int32, device=device).repeat_interleave(
            edges.diff(), output_size=count) for edges, count in zip(self._edges, (row_edges[-1], key_edges[-1]), strict=True)]
        # What no band reaches is 0.
        self._total, self._most = torch.zeros(2, lead[0] * lead[1], bands + self._cells[0], self._cells[1],
                                              dtype=torch.float32, device=device)

    def arguments(self) -> tuple:
        """What pooled() is told."""
        return (*self._edges, *self._bucket, self._total, self._most, *self._total.shape[1:])

    def united(self) -> tuple[Tensor, Tensor]:
        """Sums and maxima of every bucket: (b, h, R, C)."""
        found = self._total.new_empty(2, *self._lead, *self._cells)
        grid = self._cells[0], len(self._total), triton.cdiv(self._cells[1], CELLS)
        _united[grid](self._total, self._most, self._edges[0], *self._total.shape[1:], *found, ROWS=self._rows, CELLS=CELLS,
                      enable_fp_fusion=True)
        return found[0], found[1]
