"""Exact tiles of the map on the GPU: exp(score - lse), in float32, from q, k and the log-sum-exp of some rows.

Each program makes a block of weights and stores it; the sweep of surveys.py makes the same blocks and stores only
what they add up to.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from klieg.kernels.gpu import ROOMY, on_its_card, ready, space
from klieg.kernels.gpu.lines import NOTHING
from klieg.kernels.gpu.scores import LOG2E, arguments, biased, capped, load_tile, padded, place
from klieg.kernels.gpu.visible import in_tables, span_of
from klieg.tiles import Scores

# Queries and keys in a block, and the warps that share it, so that its numbers stay in registers: of heads up to 128
# wide, of wider ones or long lists of the largest weights, and of float32, which no matrix unit multiplies exactly. A
# card with little shared memory takes half of the keys of heads wider than 128.
BLOCKS, WIDE_BLOCKS, FLOAT_BLOCKS = (128, 64, 8), (64, 64, 8), (32, 32, 4)


def blocks(q: Tensor, top: int = 0) -> dict[str, int]:
    """The block that suits the type and the width of q (b, h, i, d), and lists of `top` weights."""
    rows, keys, warps = FLOAT_BLOCKS if q.element_size() > 2 else WIDE_BLOCKS if q.shape[3] > 128 or top > 32 else BLOCKS
    return {"ROWS": rows, "KEYS": keys // 2 if q.shape[3] > 128 and space(q.device) < ROOMY else keys, "num_warps": warps}


@triton.jit
def logs_of(lse: tl.tensor, line: tl.tensor, live: tl.tensor) -> tl.tensor:
    """The log-sum-exp of some rows, in bits."""
    logs = tl.load(lse + line, mask=live, other=float("-inf")) * LOG2E
    # A row of log-sum-exp -inf sees nothing: any score less a number as large as this has the weight 0.
    return tl.where(logs == float("-inf"), -NOTHING, logs)


@triton.jit
def score_bits(dot: tl.tensor, at: tl.tensor, whole: tl.tensor, spans: tl.tuple, rows: tl.tensor, about: tl.tuple,
               KEYS: tl.constexpr) -> tl.tensor:
    """The masked scores in bits out of the products of rows and the keys from `at` on; `whole`: the mask hides none.

    about: (batch, head, queries, keys, scale, softcap, bias, tables).
    """
    batch, head, queries, keys, scale, softcap, bias, tables = about
    here = at + tl.arange(0, KEYS)
    bits = biased(capped(dot, scale, softcap)[0], bias, batch, head, rows[:, None], here[None, :], queries, keys)
    if bias[0] is not None:
        bits = tl.maximum(bits, NOTHING)                # a bias may be minus infinity
    if not whole:
        seen = (here[None, :] >= spans[0][:, None]) & (here[None, :] < spans[1][:, None])
        seen &= in_tables(tables, batch, head, rows[:, None], here[None, :], queries, keys)
        bits = tl.where(seen, bits, NOTHING)
    return bits


@triton.jit
def _block(q: tl.tuple, k: tl.tuple, row_spans: tl.tuple, key_spans: tl.tuple, tables: tl.tuple, bias: tl.tuple,
           scale: tl.tensor, softcap: tl.tensor, queries: tl.tensor, keys: tl.tensor, offset: tl.tensor, repeat: tl.tensor,
           lse: tl.tensor, heads: tl.tensor, found: tl.tensor, WIDTH: tl.constexpr, PADDED: tl.constexpr,
           ROWS: tl.constexpr, KEYS: tl.constexpr) -> None:
    """One block of weights of one head."""
    pid, at = tl.program_id(0), tl.program_id(2) * KEYS
    text, head = pid // heads, pid % heads
    rows, here = tl.program_id(1) * ROWS + tl.arange(0, ROWS), at + tl.arange(0, KEYS)
    line = tl.cast(pid, tl.int64) * queries + rows
    logs = logs_of(lse, line, rows < queries)
    q_tile = load_tile(place(q, text, head), tl.program_id(1) * ROWS, q[3], queries, ROWS, WIDTH, PADDED, False)
    k_tile = load_tile(place(k, text, head // repeat), at, k[3], keys, KEYS, WIDTH, PADDED, False)
    dot = tl.dot(q_tile, tl.trans(k_tile), input_precision="ieee")
    about = text, head, queries, keys, scale, softcap, bias, tables
    bits = score_bits(dot, at, False, span_of(row_spans, text, rows, queries), rows, about, KEYS)
    inside = (rows < queries)[:, None] & (here < keys)[None, :]
    tl.store(found + line[:, None] * keys + here[None, :], tl.exp2(bits - logs[:, None]), mask=inside)


@on_its_card
@torch.no_grad()
def tile(scores: Scores, lse: Tensor) -> Tensor:
    """The weights (b, h, i, j), float32, of a part of a map with the lse (b, h, i) of its rows."""
    q, k = ready(scores.q, scores.k)
    scores = replace(scores, q=q, k=k)
    (batch, heads, queries, width), keys = scores.q.shape, scores.k.shape[2]
    found = scores.q.new_empty(batch, heads, queries, keys, dtype=torch.float32)
    size = blocks(scores.q)
    grid = batch * heads, triton.cdiv(queries, size["ROWS"]), triton.cdiv(keys, size["KEYS"])
    _block[grid](**arguments(scores), lse=lse.float().contiguous(), heads=heads, found=found, PADDED=padded(width),
                 **size, enable_fp_fusion=True)
    return found
