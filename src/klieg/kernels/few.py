"""A few queries over a few keys, of many texts: what each step of a search asks.

native/search.cpp meets the keys where they lie in the cache. It takes padding, any widths and grouped
heads, in float32 on the CPU, and has no backward pass.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from klieg.attention import Mask
from klieg.kernels.fused import contiguous
from klieg.library import native
from klieg.tiles import narrow

KEYS = 1024  # the most that it keeps the scores of: MOST_KEYS of native/search.cpp


@cache
def _native() -> Callable | None:
    """The native pass; None where there is no native library."""
    library = native()
    if library is None:
        return None
    library.klieg_few.argtypes = [*[ctypes.c_int64] * 7, *[ctypes.c_void_p] * 5, ctypes.c_float, *[ctypes.c_void_p] * 2,
                                  ctypes.c_int]
    library.klieg_few.restype = None
    return library.klieg_few


def refusal(q: Tensor, k: Tensor, v: Tensor, mask: Mask, *, softcap: float | None, sinks: Tensor | None,
            bias: Tensor | None) -> str | None:
    """Why this kernel cannot do a call; None if it can."""
    if q.device.type != "cpu" or not q.dtype == k.dtype == v.dtype == torch.float32:
        return "it computes in float32 on the CPU"
    if k.shape[2] > KEYS:
        return f"it takes at most {KEYS:,} keys"
    if softcap is not None or sinks is not None or bias is not None:
        return "it knows no softcap, sinks or bias"
    if any(rule.kind != "padding" for rule in _needed(q, k, mask).rules):
        return "of masks it knows padding, and causality that hides nothing"
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
        return "it has no backward pass"
    return "Klieg was installed without a C++ compiler" if _native() is None else None


def _needed(q: Tensor, k: Tensor, mask: Mask) -> Mask:
    """Without the rules that hide nothing here: one query at the end of a cache needs no causality."""
    queries, keys = q.shape[2], k.shape[2]
    return narrow(mask, range(keys - queries, keys), range(keys))


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Mask, *, scale: float) -> tuple[Tensor, Tensor]:
    """Output (b, h, i, e) and log-sum-exp (b, h, i), float32."""
    (batch, heads, queries, width), (groups, keys), value_width = q.shape, k.shape[1:3], v.shape[3]
    tables = [rule.table[:, :keys].expand(batch, -1) for rule in _needed(q, k, mask).rules]
    real = torch.stack(tables).all(0) if len(tables) > 1 else tables[0].contiguous() if tables else None
    q, k, v = (contiguous(x) for x in (q, k, v))
    output, lse = q.new_empty(batch, queries, heads, value_width), q.new_empty(batch, heads, queries)
    strides = (ctypes.c_int64 * 9)(*q.stride()[:3], *k.stride()[:3], *v.stride()[:3])
    _native()(batch, heads, groups, queries, keys, width, value_width, q.data_ptr(), k.data_ptr(), v.data_ptr(), strides,
              None if real is None else real.data_ptr(), scale, output.data_ptr(), lse.data_ptr(), torch.get_num_threads())
    return output.transpose(1, 2), lse
