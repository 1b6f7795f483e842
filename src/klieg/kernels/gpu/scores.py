"""One tile of scores on the GPU: softcap(scale * q k^T) + bias, -inf where the mask forbids, in base 2.

The kernels compute 2^x where the formula has e^x, which is one instruction; scores and row maxima inside them are
therefore in bits, nats times log2(e), and turn to nats where they are stored.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl

from klieg.kernels.gpu.visible import in_tables, seen
from klieg.tiles import Scores

LOG2E = tl.constexpr(math.log2(math.e))
LN2 = tl.constexpr(math.log(2))


def padded(width: int) -> int:
    """The width of a tile in memory: a power of two, at least what a product takes."""
    return max(16, triton.next_power_of_2(width))


def arguments(scores: Scores) -> dict[str, object]:
    """What every kernel is told of the scores; q and k have a last axis without gaps. A row stands at slot row + offset
    in the counting of the keys, and query head h looks at key head h // repeat."""
    q, k, bias, cap = scores.q, scores.k, scores.bias, scores.softcap
    (batch, heads, queries, width), (groups, keys) = q.shape, k.shape[1:3]
    table = seen(scores.mask, scores.slots(slice(0, queries)), scores.keys(slice(0, keys)), q.device)
    # In bits; under a cap the product first becomes the argument of tanh.
    scale = scores.scale * math.log2(math.e) if cap is None else scores.scale / cap
    steps = (None,) * 4 if bias is None else bias.expand(batch, heads, queries, keys).stride()
    return {"q": (q, *q.stride()[:3]), "k": (k, *k.stride()[:3]), **table.arguments(), "bias": (bias, *steps),
            "scale": scale, "softcap": None if cap is None else cap * math.log2(math.e), "queries": queries, "keys": keys,
            "offset": scores.first_slot - scores.first_key, "repeat": heads // groups, "WIDTH": width}


@triton.jit
def load_tile(base: tl.tensor, start: tl.tensor, stride: tl.tensor, count: tl.tensor, LINES: tl.constexpr,
              WIDTH: tl.constexpr, PADDED: tl.constexpr, WHOLE: tl.constexpr) -> tl.tensor:
    """(LINES, PADDED) from line `start` on, 0 beyond the last of `count` lines and beyond WIDTH. WHOLE: no line is beyond."""
    line, column = tl.arange(0, LINES), tl.arange(0, PADDED)
    at = base + tl.cast(start, tl.int64) * stride + line[:, None] * stride + column[None, :]
    if WHOLE and WIDTH == PADDED:
        loaded = tl.load(at)
    elif WHOLE:
        loaded = tl.load(at, mask=(column < WIDTH)[None, :], other=0.0)
    elif WIDTH == PADDED:
        loaded = tl.load(at, mask=(start + line < count)[:, None], other=0.0)
    else:
        loaded = tl.load(at, mask=(start + line < count)[:, None] & (column < WIDTH)[None, :], other=0.0)
    return loaded


@triton.jit
def tanh(x: tl.tensor) -> tl.tensor:
    """tanh to the last digits of float32: Lambert's continued fraction near 0, where 1 - exp would cancel."""
    y = x * x
    small = tl.exp2(tl.abs(x) * (-2 * LOG2E))
    above = tl.where(y < 1, x * (135135 + y * (17325 + y * (378 + y))), tl.where(x < 0, small - 1, 1 - small))
    return above / tl.where(y < 1, 135135 + y * (62370 + y * (3150 + y * 28)), 1 + small)


@triton.jit
def capped(dot: tl.tensor, scale: tl.tensor, softcap: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """softcap(scale * dot) in bits, and its slope: the derivative of softcap(x) by x, 1 without a cap."""
    if softcap is None:
        bits, slope = dot * scale, 1.0
    else:
        t = tanh(dot * scale)
        bits, slope = t * softcap, 1 - t * t
    return bits, slope


@triton.jit
def biased(bits: tl.tensor, bias: tl.tuple, batch: tl.tensor, head: tl.tensor, rows: tl.tensor, columns: tl.tensor,
           queries: tl.tensor, keys: tl.tensor) -> tl.tensor:
    """Scores with the bias, where there is one; beyond the last row and column it is that of the last ones."""
    table, step_b, step_h, step_i, step_j = bias
    if table is not None:
        rows, columns = tl.minimum(rows, queries - 1), tl.minimum(columns, keys - 1)
        at = tl.cast(batch, tl.int64) * step_b + tl.cast(head, tl.int64) * step_h + tl.cast(rows, tl.int64) * step_i
        bits += tl.load(table + at + tl.cast(columns, tl.int64) * step_j).to(tl.float32) * LOG2E
    return bits


@triton.jit
def score_tile(dot: tl.tensor, within: tl.tensor, rows: tl.tensor, columns: tl.tensor, about: tl.tuple,
               PARTIAL: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """Scores in bits out of the products q k^T of rows and columns of shapes that broadcast to them, and their slope.

    about: (batch, head, queries, keys, scale, softcap, bias, tables). PARTIAL: -inf where they are not `within` each
    other's spans or the tables hide; else nothing is hidden but by a bias.
    """
    batch, head, queries, keys, scale, softcap, bias, tables = about
    bits, slope = capped(dot, scale, softcap)
    bits = biased(bits, bias, batch, head, rows, columns, queries, keys)
    if PARTIAL:
        seen = within & in_tables(tables, batch, head, rows, columns, queries, keys)
        bits = tl.where(seen, bits, float("-inf"))
    return bits, slope


@triton.jit
def place(base: tl.tuple, batch: tl.tensor, head: tl.tensor) -> tl.tensor:
    """Where a head of a text begins in (pointer, step along the batch, step along the heads, step along the lines)."""
    pointer, step_b, step_h, _ = base
    return pointer + tl.cast(batch, tl.int64) * step_b + tl.cast(head, tl.int64) * step_h


@triton.jit
def store_tile(target: tl.tuple, batch: tl.tensor, head: tl.tensor, lines: tl.tensor, count: tl.tensor, found: tl.tensor,
               WIDTH: tl.constexpr, PADDED: tl.constexpr) -> None:
    """Put a tile where its lines of a head belong, in the type that is kept there."""
    column = tl.arange(0, PADDED)[None, :]
    at = place(target, batch, head) + tl.cast(lines, tl.int64)[:, None] * target[3] + column
    tl.store(at, found.to(target[0].dtype.element_ty), mask=(lines < count)[:, None] & (column < WIDTH))
