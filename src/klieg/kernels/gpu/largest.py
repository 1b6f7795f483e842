"""The largest weights of every row of a block, on the GPU, with their keys.

A row keeps a list without order. A weight larger than the list's least takes that one's place; in a long row few
weights are, so a tile costs little more than one comparison of its largest weights. At the end the lists are ordered.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def none_yet(top: tl.tensor, ROWS: tl.constexpr, SLOTS: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """Lists of weight 0 and keys that tell them apart, (ROWS, SLOTS). Slots beyond `top` are full: nothing gets in."""
    slot = tl.arange(0, SLOTS)[None, :] + tl.zeros((ROWS, SLOTS), tl.int32)
    return tl.where(slot < top, 0.0, float("inf")), -1 - slot


@triton.jit
def insert(w: tl.tensor, at: tl.tensor, best: tl.tensor, places: tl.tensor, SLOTS: tl.constexpr,
           KEYS: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """Lists and their keys after a tile of weights (rows, KEYS) of the keys from `at` on; of equal ones the first stays."""
    column = tl.arange(0, KEYS)
    peak, least = tl.max(w, 1), tl.min(best, 1)
    while tl.max((peak > least).to(tl.int32), 0) > 0:
        place = tl.argmax(w, 1)
        last = tl.max(tl.where(best == least[:, None], places, -2147483647), 1)         # of equal ones the first stay
        open = (best == least[:, None]) & (places == last[:, None]) & (peak > least)[:, None]
        best = tl.where(open, peak[:, None], best)
        places = tl.where(open, (at + place)[:, None], places)
        w = tl.where(column[None, :] == place[:, None], 0.0, w)
        peak, least = tl.max(w, 1), tl.min(best, 1)
    return best, places


@triton.jit
def written(tops: tl.tuple, line: tl.tensor, live: tl.tensor, best: tl.tensor, places: tl.tensor,
            SLOTS: tl.constexpr) -> None:
    """Stores every list in falling order, of equal weights the one with the first key before; key -1 at weight 0."""
    weights, keys, top = tops
    slot = tl.arange(0, SLOTS)
    best = tl.where(slot[None, :] < top, best, -1.0)
    for n in range(top):
        peak = tl.max(best, 1)
        place = tl.min(tl.where(best == peak[:, None], places, 2147483647), 1)
        at = line * top + n
        tl.store(weights + at, peak, mask=live)
        tl.store(keys + at, tl.where(peak > 0, place, -1).to(tl.int64), mask=live)
        best = tl.where((best == peak[:, None]) & (places == place[:, None]), -1.0, best)
