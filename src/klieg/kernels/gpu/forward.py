"""Output, log-sum-exp and the statistics of every row on the GPU, in one pass over the scores with a running softmax.

A program has a tile of queries of one head and walks over the keys they see: first the tiles that all of them see
whole, without a thought of the mask, then those at its edges. What a row's statistics need beyond the softmax is two
sums that ride along, of w log w and of w times the distance; the weights on key 0 and on the query's own key are
made by themselves, for they are two scores a row. Nothing is added by several programs, so every run gives the same bits.

Source: Milakov & Gimelshein 2018 (online softmax); Dao 2023 (FlashAttention-2: a program for each tile of queries).
"""

from __future__ import annotations

from dataclasses import replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from klieg.kernels.gpu import ROOMY, on_its_card, space
from klieg.kernels.gpu.scores import LN2, LOG2E, arguments, load_tile, padded, place, score_tile, store_tile
from klieg.kernels.gpu.visible import partial_tile, partial_tiles, reach, span_of, tabled
from klieg.tiles import Scores

STATISTICS = ("max", "mass", "entropy", "first", "own", "distance_sum")


def tiles(queries: int, width: int, dtype: torch.dtype, dressed: bool, shared: int) -> dict[str, int]:
    """Queries and keys of a tile, warps of a program and tiles on their way, for the wider of q and v; dressed: with a
    cap or a bias, which need registers too; shared: bytes of shared memory. All but the widest fit Hopper's registers, as
    its compiler says."""
    if dtype == torch.float32:
        # Without tensor cores both operands are in registers.
        rows, keys, warps, stages = (32, 32, 4, 1) if width <= 64 else (32, 16, 8, 1)
    elif width <= 128:
        rows, keys, warps, stages = 128, 32 if dressed else 64, 8, 3 if shared >= ROOMY else 2
    else:
        rows, keys, warps, stages = 64, 64 if shared >= ROOMY else 32, 8, 2
    if queries <= 16:
        rows, warps = 16, 4
    return {"ROWS": rows, "KEYS": keys, "num_warps": warps, "num_stages": stages}


@on_its_card
def compute(scores: Scores, v: Tensor, sinks: Tensor | None, *, statistics: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """Output (b, h, i, e) in the type of v, and by name lse and, if asked for, STATISTICS: (b, h, i), float32, nats.

    Shapes and meanings by klieg.survey.Survey, of these queries and keys alone.
    """
    if scores.scale <= 0:
        # The running maximum is taken before the scale; a changed sign is exact.
        scores = replace(scores, q=-scores.q if scores.scale else scores.q * 0, scale=-scores.scale or 1.0)
    q = scores.q
    batch, heads, queries, width = q.shape
    output = v.new_empty(batch, queries, heads, v.shape[3]).transpose(1, 2)
    names = ("lse", *STATISTICS) if statistics else ("lse",)
    found = {name: q.new_empty(q.shape[:3], dtype=torch.float32) for name in names}
    room = tuple(found.get(name) for name in STATISTICS)
    dressed = scores.softcap is not None or scores.bias is not None
    size = tiles(queries, max(width, v.shape[3]), q.dtype, dressed, space(q.device))
    grid = triton.cdiv(queries, size["ROWS"]), heads, batch
    sinks = None if sinks is None else sinks.contiguous()
    _forward[grid](**arguments(scores), v=(v, *v.stride()[:3]), sinks=sinks, output=(output, *output.stride()[:3]),
                   lse=found["lse"], statistics=room, PADDED=padded(width), VALUES=v.shape[3],
                   VALUES_PADDED=padded(v.shape[3]), **size, enable_fp_fusion=True)
    return output, found


@triton.jit
def _forward(q: tl.tuple, k: tl.tuple, v: tl.tuple, row_spans: tl.tuple, key_spans: tl.tuple, tables: tl.tuple,
             bias: tl.tuple, scale: tl.tensor, softcap: tl.tensor, sinks: tl.tensor, queries: tl.tensor, keys: tl.tensor,
             offset: tl.tensor, repeat: tl.tensor, output: tl.tuple, lse: tl.tensor, statistics: tl.tuple,
             WIDTH: tl.constexpr, PADDED: tl.constexpr, VALUES: tl.constexpr, VALUES_PADDED: tl.constexpr,
             ROWS: tl.constexpr, KEYS: tl.constexpr) -> None:
    SURVEYED: tl.constexpr = statistics[0] is not None
    # The last tiles of a causal text have the most to do, and begin first.
    row = (tl.num_programs(0) - 1 - tl.program_id(0)) * ROWS
    head, batch = tl.program_id(1), tl.program_id(2)
    # Without a cap and a bias the scale waits, and is one instruction with the subtraction of the maximum.
    if softcap is None and bias[0] is None:
        about, unit = (batch, head, queries, keys, 1.0, softcap, bias, tables), scale
    else:
        about, unit = (batch, head, queries, keys, scale, softcap, bias, tables), 1.0
    rows = row + tl.arange(0, ROWS)
    first, last = span_of(row_spans, batch, rows, queries)
    k_at, v_at = place(k, batch, head // repeat), place(v, batch, head // repeat)
    q_tile = load_tile(place(q, batch, head), row, q[3], queries, ROWS, WIDTH, PADDED, False)
    top, total = tl.full((ROWS,), float("-inf"), tl.float32), tl.zeros((ROWS,), tl.float32)
    mixed = tl.zeros((ROWS, VALUES_PADDED), tl.float32)
    surprise, far = total, total

    start, whole_start, whole_stop, stop = reach(first, last, KEYS, tabled(tables))
    if SURVEYED:
        # Whole tiles shall lie before all slots, so that their distances have one sign.
        whole_stop = tl.maximum(tl.minimum(whole_stop, (row + offset + 1) // KEYS * KEYS), whole_start)
    for at in range(whole_start, whole_stop, KEYS):
        k_tile = load_tile(k_at, at, k[3], keys, KEYS, WIDTH, PADDED, True)
        v_tile = load_tile(v_at, at, v[3], keys, KEYS, VALUES, VALUES_PADDED, True)
        top, total, mixed, surprise, far = _add(q_tile, k_tile, v_tile, rows, at, first, last, offset, about, unit,
                                                top, total, mixed, surprise, far, False, SURVEYED)
    for number in range(0, partial_tiles(start, whole_start, whole_stop, stop, KEYS)):
        at = partial_tile(number, start, whole_start, whole_stop, KEYS)
        k_tile = load_tile(k_at, at, k[3], keys, KEYS, WIDTH, PADDED, False)
        v_tile = load_tile(v_at, at, v[3], keys, KEYS, VALUES, VALUES_PADDED, False)
        top, total, mixed, surprise, far = _add(q_tile, k_tile, v_tile, rows, at, first, last, offset, about, unit,
                                                top, total, mixed, surprise, far, True, SURVEYED)

    highest, with_sink = top, total
    if sinks is not None:
        # A sink is one more score, without a value.
        sink = tl.load(sinks + head).to(tl.float32) * LOG2E
        top = tl.maximum(top, sink)
        fade = tl.exp2(highest - top)
        surprise = fade * (surprise + _fall(highest, top) * total)
        total, far, mixed = total * fade, far * fade, mixed * fade[:, None]
        with_sink = total + tl.exp2(sink - top)
    seeing = with_sink > 0
    with_sink = tl.where(seeing, with_sink, 1.0)
    lse_bits = tl.where(seeing, top + tl.log2(with_sink), float("-inf"))
    at = (tl.cast(batch, tl.int64) * tl.num_programs(1) + head) * queries + rows
    share = 1 / with_sink
    tl.store(lse + at, lse_bits * LN2, mask=rows < queries)
    store_tile(output, batch, head, rows, queries, mixed * share[:, None], VALUES, VALUES_PADDED)
    if SURVEYED:
        entropy = (tl.log2(with_sink) * total - surprise) * share * LN2
        first_weight, own = _two_weights(q_tile, k_at, k[3], rows, first, last, offset, lse_bits, about, unit, WIDTH, PADDED)
        found = (highest * LN2, total * share, entropy, first_weight, own, far * share)
        for n in tl.static_range(6):
            tl.store(statistics[n] + at, found[n], mask=rows < queries)


@triton.jit
def _add(q_tile: tl.tensor, k_tile: tl.tensor, v_tile: tl.tensor, rows: tl.tensor, start: tl.tensor, first: tl.tensor,
         last: tl.tensor, offset: tl.tensor, about: tl.tuple, unit: tl.tensor, top: tl.tensor, total: tl.tensor,
         mixed: tl.tensor, surprise: tl.tensor, far: tl.tensor, PARTIAL: tl.constexpr,
         SURVEYED: tl.constexpr) -> tuple[tl.tensor, ...]:
    """The running sums with one more tile of keys: maximum in bits, sum of w, of w v, of w log2 w, of w |slot - key|,
    where w = 2^(score - maximum)."""
    KEYS: tl.constexpr = k_tile.shape[0]
    columns = (start + tl.arange(0, KEYS))[None, :]
    within = (columns >= first[:, None]) & (columns < last[:, None]) if PARTIAL else True
    dot = tl.dot(q_tile, k_tile.T, input_precision="ieee")
    scores, _ = score_tile(dot, within, rows[:, None], columns, about, PARTIAL)
    old, top = top, tl.maximum(top, tl.max(scores, 1) * unit)
    # Where nothing is seen yet, -inf less 0 stays -inf.
    anchor = tl.where(top > float("-inf"), top, 0.0)
    logs = scores * unit - anchor[:, None]
    w, fade = tl.exp2(logs), tl.exp2(old - anchor)
    tile_total = tl.sum(w, 1)
    if SURVEYED:
        # 0 times log 0 is 0.
        surprise = fade * (surprise + _fall(old, anchor) * total) + tl.sum(w * tl.maximum(logs, -1000.0), 1)
        ahead = rows + offset - start
        if PARTIAL:
            distance = tl.abs(ahead[:, None] - tl.arange(0, KEYS)[None, :]).to(tl.float32)
            far = far * fade + tl.sum(w * distance, 1)
        else:
            behind = tl.arange(0, KEYS).to(tl.float32)[None, :]
            far = far * fade + (ahead.to(tl.float32) * tile_total - tl.sum(w * behind, 1))
    mixed = tl.dot(w.to(v_tile.dtype), v_tile, mixed * fade[:, None], input_precision="ieee")
    return top, total * fade + tile_total, mixed, surprise, far


@triton.jit
def _fall(old: tl.tensor, new: tl.tensor) -> tl.tensor:
    """By how much every log2 w falls as the maximum rises; 0 where there was none yet."""
    return tl.where(old > float("-inf"), old, new) - new


@triton.jit
def _two_weights(q_tile: tl.tensor, k_at: tl.tensor, step: tl.tensor, rows: tl.tensor, first: tl.tensor, last: tl.tensor,
                 offset: tl.tensor, lse_bits: tl.tensor, about: tl.tuple, unit: tl.tensor,
                 WIDTH: tl.constexpr, PADDED: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """What every row gives to key 0, and to the key at its own slot."""
    column = tl.arange(0, PADDED)
    slots, zeros, q_wide = rows + offset, rows * 0, q_tile.to(tl.float32)
    key = tl.load(k_at + column, mask=column < WIDTH, other=0.0).to(tl.float32)
    first_score, _ = score_tile(tl.sum(q_wide * key[None, :], 1), (first <= 0) & (last > 0), rows, zeros, about, True)
    own_at = k_at + tl.cast(tl.maximum(slots, 0), tl.int64)[:, None] * step + column[None, :]
    real = (slots >= 0) & (slots < about[3])
    own_keys = tl.load(own_at, mask=real[:, None] & (column < WIDTH)[None, :], other=0.0).to(tl.float32)
    within = real & (first <= slots) & (last > slots)
    own_score, _ = score_tile(tl.sum(q_wide * own_keys, 1), within, rows, tl.maximum(slots, 0), about, True)
    anchor = tl.where(lse_bits > float("-inf"), lse_bits, 0.0)
    return tl.minimum(tl.exp2(first_score * unit - anchor), 1.0), tl.minimum(tl.exp2(own_score * unit - anchor), 1.0)
