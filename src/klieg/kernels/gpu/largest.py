"""The largest weights of every row, on the GPU, with their keys.

The k largest weights of a row lie in those k tiles of keys that have the largest maxima: were one of them in another
tile, each of the k would have a larger weight than it. So the sweep keeps of every row a list of tiles, and marks in
each the keys that were above the whole list when the tile came. A tile thus changes a list once, however many of its
weights are large. Afterwards the marked keys, few more than were asked for, are scored again, each by itself, and
ordered.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from klieg.kernels.gpu.lines import NOTHING
from klieg.kernels.gpu.scores import arguments, biased, capped, padded, place
from klieg.kernels.gpu.tiles import logs_of
from klieg.tiles import Scores

SCORED = 64                             # marked keys that a program of _pick() scores at once
HIDDEN = tl.constexpr(NOTHING.value / 2)    # between what a mask hides and all scores
LOWEST = tl.constexpr(-2**31)
HIGHEST = tl.constexpr(2**31 - 1)


@triton.jit
def none_yet(top: tl.tensor, ROWS: tl.constexpr, SLOTS: tl.constexpr) -> tuple[tl.tensor, ...]:
    """Empty lists of tiles: their maxima, log2 of weights, and their names, both (ROWS, SLOTS); and of every row the least
    maximum and the name that leaves next.

    A name is SLOTS times the number of a tile, and its slot: of later tiles it is larger. Slots beyond `top` are full, and
    nothing gets in.
    """
    slot = tl.arange(0, SLOTS)[None, :] + tl.zeros((ROWS, SLOTS), tl.int32)
    best = tl.where(slot < top, tl.full((ROWS, SLOTS), HIDDEN, tl.float32), float("inf"))
    return best, slot - SLOTS, tl.full((ROWS,), HIDDEN, tl.float32), tl.zeros((ROWS,), tl.int32) + (top - 1 - SLOTS)


@triton.jit
def insert(x: tl.tensor, peak: tl.tensor, at: tl.tensor, lists: tl.tuple, tops: tl.tuple, line: tl.tensor, live: tl.tensor,
           SLOTS: tl.constexpr, KEYS: tl.constexpr) -> tuple[tl.tensor, ...]:
    """The lists after the tile x (rows, KEYS) of log2 of weights, of the keys from `at` on, with the maxima `peak`.

    Of equal maxima the first tile stays. tops: the marks of even keys, those of odd ones below where the tile begins,
    and how many are asked for.
    """
    best, names, least, leaves = lists
    open = peak > least
    if tl.max(open.to(tl.int32), 0) > 0:
        column, slot = tl.arange(0, KEYS), leaves & (SLOTS - 1)
        marks = tl.where(x > least[:, None], (1 << (column // 2))[None, :], 0)
        even = (column % 2 == 0)[None, :]
        evens, odds = tl.sum(tl.where(even, marks, 0), 1), tl.sum(tl.where(even, 0, marks), 1)
        to = line * tops[2] + slot
        tl.store(tops[0] + to, evens, mask=open & live)
        tl.store(tops[1] + to, (tl.cast(at, tl.int64) << 32) | (odds.to(tl.int64) & 0xFFFFFFFF), mask=open & live)
        here = (names == leaves[:, None]) & open[:, None]
        best, names = tl.where(here, peak[:, None], best), tl.where(here, (at // KEYS * SLOTS + slot)[:, None], names)
        least = tl.min(best, 1)
        leaves = tl.max(tl.where(best == least[:, None], names, LOWEST), 1)
    return best, names, least, leaves


@triton.jit
def _lowest(marks: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """The lowest bit that is set, and its number: the exponent that it has as a float."""
    bit = marks & -marks
    return bit, (bit.to(tl.uint32, bitcast=True).to(tl.float32).to(tl.int32, bitcast=True) >> 23) - 127


@triton.jit
def _weights(q: tl.tuple, k: tl.tuple, bias: tl.tuple, scale: tl.tensor, softcap: tl.tensor, queries: tl.tensor,
             keys: tl.tensor, repeat: tl.tensor, lse: tl.tensor, heads: tl.tensor, line: tl.tensor, key: tl.tensor,
             there: tl.tensor, WIDTH: tl.constexpr, PADDED: tl.constexpr) -> tl.tensor:
    """The weight of every line's query on a key of its own, 0 where none is there."""
    # Where none is there, nothing outside the tables may be read.
    line, key, column = tl.where(there, line, 0), tl.where(there, key, 0), tl.arange(0, PADDED)
    rows, text, head = line % queries, line // queries // heads, line // queries % heads
    inside = there[:, None] & (column < WIDTH)[None, :]
    q_at, k_at = place(q, text, head) + rows * q[3], place(k, text, head // repeat) + tl.cast(key, tl.int64) * k[3]
    q_rows = tl.load(q_at[:, None] + column[None, :], mask=inside, other=0.0).to(tl.float32)
    k_rows = tl.load(k_at[:, None] + column[None, :], mask=inside, other=0.0).to(tl.float32)
    bits = biased(capped(tl.sum(q_rows * k_rows, 1), scale, softcap)[0], bias, text, head, rows, key, queries, keys)
    return tl.where(there, tl.exp2(bits - logs_of(lse, line, there)), 0.0)


@triton.jit
def _pick(q: tl.tuple, k: tl.tuple, row_spans: tl.tuple, key_spans: tl.tuple, tables: tl.tuple, bias: tl.tuple,
          scale: tl.tensor, softcap: tl.tensor, queries: tl.tensor, keys: tl.tensor, offset: tl.tensor, repeat: tl.tensor,
          lse: tl.tensor, heads: tl.tensor, lines: tl.tensor, tops: tl.tuple, WIDTH: tl.constexpr, PADDED: tl.constexpr,
          ROWS: tl.constexpr, SLOTS: tl.constexpr) -> None:
    """Some rows' lists of marked tiles become their largest weights and keys, in the same places.

    A round scores one key of every tile. A weight and its key are one whole number, larger where the weight is, or of
    equal ones the key is less; the larger ones of a falling list and a rising one are the largest of both.
    """
    marks, packed, top, weights = tops
    each = tl.arange(0, ROWS * SLOTS)
    line = tl.cast(tl.program_id(0), tl.int64) * ROWS + each // SLOTS
    at, live = line * top + each % SLOTS, (line < lines) & (each % SLOTS < top)
    evens, both = tl.load(marks + at, mask=live, other=0), tl.load(packed + at, mask=live, other=0)
    start, odds, best = (both >> 32).to(tl.int32), both.to(tl.int32), tl.zeros((ROWS, SLOTS), tl.int64)
    while tl.max((evens | odds != 0).to(tl.int32), 0) > 0:
        is_odd = evens == 0
        bit, number = _lowest(tl.where(is_odd, odds, evens))
        evens, odds = tl.where(is_odd, evens, evens ^ bit), tl.where(is_odd, odds ^ bit, odds)
        key = start + 2 * number + is_odd.to(tl.int32)
        w = _weights(q, k, bias, scale, softcap, queries, keys, repeat, lse, heads, line, key, bit != 0, WIDTH, PADDED)
        pair = (w.to(tl.int32, bitcast=True).to(tl.int64) << 32) | (key ^ HIGHEST).to(tl.int64)
        rising = tl.sort(tl.reshape(tl.where(w > 0, pair, 0), (ROWS, SLOTS)))
        best = tl.sort(tl.maximum(best, rising), descending=True)
    line, slot = tl.cast(tl.program_id(0), tl.int64) * ROWS + tl.arange(0, ROWS)[:, None], tl.arange(0, SLOTS)[None, :]
    at, live = line * top + slot, (line < lines) & (slot < top)
    tl.store(weights + at, (best >> 32).to(tl.int32).to(tl.float32, bitcast=True), mask=live)
    tl.store(packed + at, tl.where(best > 0, (best & HIGHEST) ^ HIGHEST, -1), mask=live)


class Tops:
    """Room for the `top` largest weights of every row of a map: what insert() marks, and then themselves."""

    def __init__(self, scores: Scores, top: int) -> None:
        """`top`: at least 1."""
        rows, device = scores.q.shape[:3], scores.q.device
        self.top, self.slots = top, triton.next_power_of_2(top)
        # No mark is where no tile came.
        self.weights, self.keys = (torch.zeros(*rows, top, dtype=kind, device=device) for kind in (torch.float32, torch.int64))

    def arguments(self) -> tuple:
        """What insert() is told."""
        return self.weights.view(torch.int32), self.keys, self.top

    def picked(self, scores: Scores, lse: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (b, h, i, top) in falling order, of equal ones that of the first key before, and keys; key -1 at weight 0."""
        lines, rows = lse.numel(), max(1, SCORED // self.slots)
        _pick[(triton.cdiv(lines, rows),)](**arguments(scores), lse=lse, heads=lse.shape[1], lines=lines,
                                           tops=(*self.arguments(), self.weights), PADDED=padded(scores.q.shape[3]),
                                           ROWS=rows, SLOTS=self.slots, enable_fp_fusion=True)
        return self.weights, self.keys
