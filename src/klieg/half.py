"""Matrices kept in bfloat16, products in float32: nothing is rounded, half the memory is read.

Models are stored in bfloat16, and a bfloat16 is a float32 with the lower half cut off. So a
matrix may stay as it was stored, and a product with it is exactly the product with its float32
copy. For the one row of a generation step the native kernel reads it directly; for more rows
it is widened on the way. Without the native kernel, matrices are widened when they are loaded.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from klieg.library import native

JOINED = 256       # from so many rows on, copying matrices side by side pays
ROWS = 4           # beyond this many rows the library's matrix product is faster
LARGEST = 2**24    # numbers of a matrix; a larger one is worth more threads than the native kernel uses


@cache
def _rows() -> Callable | None:
    """The native product of a few rows; None where there is no native library."""
    library = native()
    if library is None:
        return None
    library.klieg_half_rows.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int64] * 3
    library.klieg_half_rows.restype = None
    return library.klieg_half_rows


def worthwhile(matrix: Tensor) -> bool:
    """Whether a stored matrix should stay in bfloat16."""
    return matrix.dtype == torch.bfloat16 and matrix.ndim == 2 and matrix.numel() <= LARGEST and native() is not None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., inputs) W^T + b; W (outputs, inputs) of x's type or kept in bfloat16. No gradient reaches the latter."""
    if weight.dtype == x.dtype or weight.dtype != torch.bfloat16 or x.dtype != torch.float32:
        return F.linear(x, weight, bias)
    rows = _rows()
    if rows is None or not _few_rows(x) or not weight.is_contiguous():
        return F.linear(x, weight.to(x.dtype), bias)
    y = torch.empty(*x.shape[:-1], weight.shape[0])
    rows(x.data_ptr(), weight.data_ptr(), y.data_ptr(), x.numel() // x.shape[-1], *weight.shape[::-1])
    return y if bias is None else y.add_(bias)


def together(x: Tensor, *layers: nn.Linear) -> list[Tensor]:
    """Several layers of one x, all with a bias or none. A single row by kept matrices skips what torch does around each."""
    weights = [layer.weight for layer in layers]
    kept = x.dtype == torch.float32 and all(w.dtype == torch.bfloat16 and layer.bias is None
                                            for w, layer in zip(weights, layers, strict=True))
    rows = _rows() if kept and x.numel() == x.shape[-1] else None
    if rows is None or not _few_rows(x) or not all(w.is_contiguous() for w in weights):
        return _joined(x, layers) if x.numel() >= JOINED * x.shape[-1] else [layer(x) for layer in layers]
    y = torch.empty(*x.shape[:-1], sum(w.shape[0] for w in weights))
    source, target = x.data_ptr(), y.data_ptr()
    for w in weights:
        rows(source, w.data_ptr(), target, 1, w.shape[1], w.shape[0])
        target += 4 * w.shape[0]
    return list(y.split([w.shape[0] for w in weights], dim=-1))


def _joined(x: Tensor, layers: tuple[nn.Linear, ...]) -> list[Tensor]:
    """One product with all matrices side by side: a narrow product costs nearly as much as a wide one."""
    weights = [layer.weight if layer.weight.dtype == x.dtype or x.dtype != torch.float32 else layer.weight.float()
               for layer in layers]
    bias = None if layers[0].bias is None else torch.cat([layer.bias for layer in layers])
    return list(F.linear(x, torch.cat(weights), bias).split([len(w) for w in weights], dim=-1))


def _few_rows(x: Tensor) -> bool:
    """Whether the native kernel can read x and is the quicker one for it."""
    return x.numel() <= ROWS * x.shape[-1] and x.is_contiguous() and x.device.type == "cpu"
