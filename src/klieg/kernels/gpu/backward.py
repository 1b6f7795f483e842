"""The gradients of attention on the GPU, from q, k, v and the log-sum-exp: every tile of weights is made again.

One kernel goes by tiles of queries and gives the gradient of q, one by tiles of keys, over all query heads that share
them, and gives those of k and v. Each number is summed by one program in one order, so every run gives the same bits.
A bias gets its gradient from a third, which no call without a trained bias pays for.

Source: Dao et al. 2022, "FlashAttention", algorithm 4; Dao 2023, "FlashAttention-2", section 3.1.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from klieg.kernels.gpu import ROOMY, on_its_card, space
from klieg.kernels.gpu.scores import LOG2E, arguments, load_tile, padded, place, score_tile, store_tile
from klieg.kernels.gpu.visible import partial_tile, partial_tiles, reach, span_of, tabled
from klieg.tiles import Scores


def tiles(width: int, dtype: torch.dtype, shared: int) -> tuple[int, int, dict[str, int]]:
    """Lines of the tile that a program keeps and of those that it walks over, and its warps and tiles on their way, for
    the wider of q and v, and bytes of shared memory. The kept one has the 64 lines that Hopper's matrix unit wants."""
    less = 2 if width > 128 and shared < ROOMY else 1
    if dtype == torch.float32:
        small, wide = {"num_warps": 4, "num_stages": 1}, {"num_warps": 8, "num_stages": 1}
        return (32, 32, small) if width <= 64 else (32 // less, 16, wide)
    return 64, 32 // less, {"num_warps": 4 if width <= 64 else 8, "num_stages": 2 if width <= 128 else 1}


@on_its_card
def delta(output: Tensor, d_output: Tensor) -> Tensor:
    """(b, h, i), float32: what a row's weights lose together, the sum of output times its gradient."""
    batch, heads, queries, width = output.shape
    found = output.new_empty(output.shape[:3], dtype=torch.float32)
    _delta[triton.cdiv(queries, 64), heads, batch](
        (output, *output.stride()[:3]), (d_output, *d_output.stride()[:3]), found, queries, WIDTH=width,
        PADDED=padded(width), ROWS=64, num_warps=4, enable_fp_fusion=True)
    return found


@on_its_card
def compute(scores: Scores, v: Tensor, lse: Tensor, d_output: Tensor, delta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q (b, h, i, d), k (b, g, j, d) and v (b, g, j, e), in their types."""
    q, k = scores.q, scores.k
    d_q, d_k, d_v = (x.new_empty(x.shape[0], x.shape[2], x.shape[1], x.shape[3]).transpose(1, 2) for x in (q, k, v))
    given, kept, walked = _arguments(scores, v, lse, d_output, delta)
    batch, heads, queries, _ = q.shape
    groups, keys = k.shape[1:3]
    _of_queries[triton.cdiv(queries, kept), heads, batch](
        **given, d_q=(d_q, *d_q.stride()[:3]), ROWS=kept, KEYS=walked, enable_fp_fusion=True)
    _of_keys[triton.cdiv(keys, kept), groups, batch](
        **given, d_k=(d_k, *d_k.stride()[:3]), d_v=(d_v, *d_v.stride()[:3]), ROWS=walked, KEYS=kept, enable_fp_fusion=True)
    return d_q, d_k, d_v


@on_its_card
def of_bias(scores: Scores, v: Tensor, lse: Tensor, d_output: Tensor, delta: Tensor) -> Tensor:
    """The gradient of the bias (b or 1, h or 1, i or 1, j or 1), float32."""
    q, bias = scores.q, scores.bias
    (batch, heads, queries, _), keys = q.shape, scores.k.shape[2]
    given, rows, columns = _arguments(scores, v, lse, d_output, delta)
    down, across = triton.cdiv(queries, rows), triton.cdiv(keys, columns)
    shared = [n == 1 for n in bias.shape]
    # Along an axis that the bias has not, a tile gives one sum, and the tiles are added after.
    parts = q.new_empty(*bias.shape[:2], down if shared[2] else queries, across if shared[3] else keys, dtype=torch.float32)
    _of_bias[down * across, bias.shape[1], bias.shape[0]](
        **given, ROWS=rows, KEYS=columns, d_bias=(parts, *parts.stride()[:3]), across=across, texts=batch if shared[0] else 1,
        sharing=heads if shared[1] else 1, BY_ROW=not shared[2], BY_KEY=not shared[3], enable_fp_fusion=True)
    return parts.sum_to_size(bias.shape)


def _arguments(scores: Scores, v: Tensor, lse: Tensor, d_output: Tensor, delta: Tensor) -> tuple[dict, int, int]:
    """What all three kernels are told, and the lines of the tiles that they keep and walk over."""
    width, values = scores.q.shape[3], v.shape[3]
    kept, walked, more = tiles(max(width, values), scores.q.dtype, space(scores.q.device))
    given = {**arguments(scores), **more, "v": (v, *v.stride()[:3]), "lse": lse, "delta": delta,
             "d_output": (d_output, *d_output.stride()[:3]), "steepness": scores.scale, "PADDED": padded(width),
             "VALUES": values, "VALUES_PADDED": padded(values)}
    return given, kept, walked


@triton.jit
def _delta(output: tl.tuple, d_output: tl.tuple, delta: tl.tensor, queries: tl.tensor, WIDTH: tl.constexpr,
           PADDED: tl.constexpr, ROWS: tl.constexpr) -> None:
    row, head, batch = tl.program_id(0) * ROWS, tl.program_id(1), tl.program_id(2)
    a = load_tile(place(output, batch, head), row, output[3], queries, ROWS, WIDTH, PADDED, False)
    b = load_tile(place(d_output, batch, head), row, d_output[3], queries, ROWS, WIDTH, PADDED, False)
    rows = row + tl.arange(0, ROWS)
    at = (tl.cast(batch, tl.int64) * tl.num_programs(1) + head) * queries + rows
    tl.store(delta + at, tl.sum(a.to(tl.float32) * b.to(tl.float32), 1), mask=rows < queries)


@triton.jit
def _of_queries(q: tl.tuple, k: tl.tuple, v: tl.tuple, row_spans: tl.tuple, key_spans: tl.tuple, tables: tl.tuple,
                bias: tl.tuple, scale: tl.tensor, softcap: tl.tensor, queries: tl.tensor, keys: tl.tensor,
                offset: tl.tensor, repeat: tl.tensor, lse: tl.tensor, delta: tl.tensor, d_output: tl.tuple,
                steepness: tl.tensor, d_q: tl.tuple, WIDTH: tl.constexpr, PADDED: tl.constexpr, VALUES: tl.constexpr,
                VALUES_PADDED: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr) -> None:
    row = (tl.num_programs(0) - 1 - tl.program_id(0)) * ROWS
    head, batch = tl.program_id(1), tl.program_id(2)
    about = (batch, head, queries, keys, scale, softcap, bias, tables)
    rows = row + tl.arange(0, ROWS)
    first, last = span_of(row_spans, batch, rows, queries)
    k_at, v_at = place(k, batch, head // repeat), place(v, batch, head // repeat)
    q_tile = load_tile(place(q, batch, head), row, q[3], queries, ROWS, WIDTH, PADDED, False)
    d_out = load_tile(place(d_output, batch, head), row, d_output[3], queries, ROWS, VALUES, VALUES_PADDED, False)
    ends, lost = _of_rows(lse, delta, (tl.cast(batch, tl.int64) * tl.num_programs(1) + head) * queries, rows, queries)
    found = tl.zeros((ROWS, PADDED), tl.float32)
    start, whole_start, whole_stop, stop = reach(first, last, KEYS, tabled(tables))
    for at in range(whole_start, whole_stop, KEYS):
        k_tile = load_tile(k_at, at, k[3], keys, KEYS, WIDTH, PADDED, True)
        v_tile = load_tile(v_at, at, v[3], keys, KEYS, VALUES, VALUES_PADDED, True)
        column = (at + tl.arange(0, KEYS))[None, :]
        _, d_s, slope = _tile(q_tile, k_tile.T, d_out, v_tile.T, True, rows[:, None], column, ends[:, None],
                              lost[:, None], about, False)
        found = tl.dot((d_s * slope).to(k_tile.dtype), k_tile, found, input_precision="ieee")
    for number in range(0, partial_tiles(start, whole_start, whole_stop, stop, KEYS)):
        at = partial_tile(number, start, whole_start, whole_stop, KEYS)
        k_tile = load_tile(k_at, at, k[3], keys, KEYS, WIDTH, PADDED, False)
        v_tile = load_tile(v_at, at, v[3], keys, KEYS, VALUES, VALUES_PADDED, False)
        column = (at + tl.arange(0, KEYS))[None, :]
        within = (column >= first[:, None]) & (column < last[:, None])
        _, d_s, slope = _tile(q_tile, k_tile.T, d_out, v_tile.T, within, rows[:, None], column, ends[:, None],
                              lost[:, None], about, True)
        found = tl.dot((d_s * slope).to(k_tile.dtype), k_tile, found, input_precision="ieee")
    store_tile(d_q, batch, head, rows, queries, found * steepness, WIDTH, PADDED)


@triton.jit
def _of_keys(q: tl.tuple, k: tl.tuple, v: tl.tuple, row_spans: tl.tuple, key_spans: tl.tuple, tables: tl.tuple,
             bias: tl.tuple, scale: tl.tensor, softcap: tl.tensor, queries: tl.tensor, keys: tl.tensor, offset: tl.tensor,
             repeat: tl.tensor, lse: tl.tensor, delta: tl.tensor, d_output: tl.tuple, steepness: tl.tensor, d_k: tl.tuple,
             d_v: tl.tuple, WIDTH: tl.constexpr, PADDED: tl.constexpr, VALUES: tl.constexpr,
             VALUES_PADDED: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr) -> None:
    key, group, batch = tl.program_id(0) * KEYS, tl.program_id(1), tl.program_id(2)
    columns = key + tl.arange(0, KEYS)
    first, last = span_of(key_spans, batch, columns, keys)
    k_tile = load_tile(place(k, batch, group), key, k[3], keys, KEYS, WIDTH, PADDED, False)
    v_tile = load_tile(place(v, batch, group), key, v[3], keys, KEYS, VALUES, VALUES_PADDED, False)
    found_k, found_v = tl.zeros((KEYS, PADDED), tl.float32), tl.zeros((KEYS, VALUES_PADDED), tl.float32)
    start, whole_start, whole_stop, stop = reach(first, last, ROWS, tabled(tables))
    for head in range(group * repeat, (group + 1) * repeat):
        about = (batch, head, queries, keys, scale, softcap, bias, tables)
        q_at, d_at = place(q, batch, head), place(d_output, batch, head)
        line = (tl.cast(batch, tl.int64) * tl.num_programs(1) * repeat + head) * queries
        for at in range(whole_start, whole_stop, ROWS):
            found_k, found_v = _add_rows(found_k, found_v, k_tile, v_tile, q_at, q[3], d_at, d_output[3], lse, delta, line, at,
                                         columns, first, last, about, WIDTH, PADDED, VALUES, VALUES_PADDED, ROWS, False)
        for number in range(0, partial_tiles(start, whole_start, whole_stop, stop, ROWS)):
            at = partial_tile(number, start, whole_start, whole_stop, ROWS)
            found_k, found_v = _add_rows(found_k, found_v, k_tile, v_tile, q_at, q[3], d_at, d_output[3], lse, delta, line, at,
                                         columns, first, last, about, WIDTH, PADDED, VALUES, VALUES_PADDED, ROWS, True)
    store_tile(d_k, batch, group, columns, keys, found_k * steepness, WIDTH, PADDED)
    store_tile(d_v, batch, group, columns, keys, found_v, VALUES, VALUES_PADDED)


@triton.jit
def _add_rows(found_k: tl.tensor, found_v: tl.tensor, k_tile: tl.tensor, v_tile: tl.tensor, q_at: tl.tensor,
              q_step: tl.tensor, d_at: tl.tensor, d_step: tl.tensor, lse: tl.tensor, delta: tl.tensor, line: tl.tensor,
              start: tl.tensor, columns: tl.tensor, first: tl.tensor, last: tl.tensor, about: tl.tuple,
              WIDTH: tl.constexpr, PADDED: tl.constexpr, VALUES: tl.constexpr, VALUES_PADDED: tl.constexpr,
              ROWS: tl.constexpr, PARTIAL: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """The gradients of a tile of keys and values with what one more tile of queries adds."""
    queries = about[2]
    rows = start + tl.arange(0, ROWS)
    q_tile = load_tile(q_at, start, q_step, queries, ROWS, WIDTH, PADDED, not PARTIAL)
    d_out = load_tile(d_at, start, d_step, queries, ROWS, VALUES, VALUES_PADDED, not PARTIAL)
    ends, lost = _of_rows(lse, delta, line, rows, queries)
    within = (rows[None, :] >= first[:, None]) & (rows[None, :] < last[:, None]) if PARTIAL else True
    w, d_s, slope = _tile(k_tile, q_tile.T, v_tile, d_out.T, within, rows[None, :], columns[:, None], ends[None, :],
                          lost[None, :], about, PARTIAL)
    found_v = tl.dot(w.to(d_out.dtype), d_out, found_v, input_precision="ieee")
    found_k = tl.dot((d_s * slope).to(q_tile.dtype), q_tile, found_k, input_precision="ieee")
    return found_k, found_v


@triton.jit
def _of_bias(q: tl.tuple, k: tl.tuple, v: tl.tuple, row_spans: tl.tuple, key_spans: tl.tuple, tables: tl.tuple,
             bias: tl.tuple, scale: tl.tensor, softcap: tl.tensor, queries: tl.tensor, keys: tl.tensor, offset: tl.tensor,
             repeat: tl.tensor, lse: tl.tensor, delta: tl.tensor, d_output: tl.tuple, steepness: tl.tensor,
             d_bias: tl.tuple, across: tl.tensor, texts: tl.tensor, sharing: tl.tensor, WIDTH: tl.constexpr,
             PADDED: tl.constexpr, VALUES: tl.constexpr, VALUES_PADDED: tl.constexpr, ROWS: tl.constexpr,
             KEYS: tl.constexpr, BY_ROW: tl.constexpr, BY_KEY: tl.constexpr) -> None:
    down, over = tl.program_id(0) // across, tl.program_id(0) % across
    rows, columns = down * ROWS + tl.arange(0, ROWS), over * KEYS + tl.arange(0, KEYS)
    heads = tl.num_programs(1) * sharing
    found = tl.zeros((ROWS, KEYS), tl.float32)
    # All texts and heads that share this bias, one after the other.
    for number in range(0, texts * sharing):
        batch, head = tl.program_id(2) + number // sharing, tl.program_id(1) + number % sharing
        about = (batch, head, queries, keys, scale, softcap, bias, tables)
        first, last = span_of(row_spans, batch, rows, queries)
        q_tile = load_tile(place(q, batch, head), down * ROWS, q[3], queries, ROWS, WIDTH, PADDED, False)
        d_out = load_tile(place(d_output, batch, head), down * ROWS, d_output[3], queries, ROWS, VALUES, VALUES_PADDED, False)
        k_tile = load_tile(place(k, batch, head // repeat), over * KEYS, k[3], keys, KEYS, WIDTH, PADDED, False)
        v_tile = load_tile(place(v, batch, head // repeat), over * KEYS, v[3], keys, KEYS, VALUES, VALUES_PADDED, False)
        ends, lost = _of_rows(lse, delta, (tl.cast(batch, tl.int64) * heads + head) * queries, rows, queries)
        column = columns[None, :]
        within = (column >= first[:, None]) & (column < last[:, None])
        _, d_s, _ = _tile(q_tile, k_tile.T, d_out, v_tile.T, within, rows[:, None], column, ends[:, None], lost[:, None],
                          about, True)
        found += d_s
    at, real_row, real_key = place(d_bias, tl.program_id(2), tl.program_id(1)), rows < queries, columns < keys
    step = tl.cast(d_bias[3], tl.int64)
    if BY_ROW and BY_KEY:
        tl.store(at + rows[:, None] * step + columns[None, :], found, mask=real_row[:, None] & real_key[None, :])
    elif BY_ROW:
        tl.store(at + rows * step + over, tl.sum(found, 1), mask=real_row)
    elif BY_KEY:
        tl.store(at + down * step + columns, tl.sum(found, 0), mask=real_key)
    else:
        tl.store(at + down * step + over, tl.sum(tl.sum(found, 1), 0))


@triton.jit
def _of_rows(lse: tl.tensor, delta: tl.tensor, line: tl.tensor, rows: tl.tensor,
             queries: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """The log-sum-exp of rows in bits, and their delta. Beyond the last row, and for one that sees nothing, it is such
    that every weight is 0."""
    ends = tl.load(lse + line + rows, mask=rows < queries, other=float("-inf"))
    lost = tl.load(delta + line + rows, mask=rows < queries, other=0.0)
    return tl.where(ends > float("-inf"), ends * LOG2E, float("inf")), lost


@triton.jit
def _tile(a: tl.tensor, b: tl.tensor, c: tl.tensor, d: tl.tensor, within: tl.tensor, rows: tl.tensor, columns: tl.tensor,
          ends: tl.tensor, lost: tl.tensor, about: tl.tuple, PARTIAL: tl.constexpr) -> tuple[tl.tensor, ...]:
    """Weights, the gradient of their scores, and the scores' slope, of a tile whose products are a b, and whose values
    times the gradient of the output are c d."""
    bits, slope = score_tile(tl.dot(a, b, input_precision="ieee"), within, rows, columns, about, PARTIAL)
    w = tl.exp2(bits - ends)
    return w, w * (tl.dot(c, d, input_precision="ieee") - lost), slope
