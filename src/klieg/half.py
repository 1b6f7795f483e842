"""Matrices kept in bfloat16, products in float32: nothing is rounded, half the memory is read.

Models are stored in bfloat16, and a bfloat16 is a float32 with the lower half cut off. So a
matrix may stay as it was stored, and a product with it is exactly the product with its float32
copy. For the one row of a generation step the native kernel reads it directly; for more rows
it is widened on the way. Without the native kernel, matrices are widened when they are loaded.
"""

from __future__ import annotations

import ctypes
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS = 4           # beyond this many rows the library's matrix product is faster
LARGEST = 2**24    # numbers of a matrix; a larger one is worth more threads than the native kernel uses


@cache
def native() -> ctypes.CDLL | None:
    """The compiled library; None where Klieg was installed without a compiler."""
    spec = find_spec("klieg")
    for folder in spec.submodule_search_locations or ():
        for path in sorted(Path(folder, "lib").glob("*klieg_native*")):
            library = ctypes.CDLL(str(path))
            library.klieg_half_rows.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int64] * 3
            library.klieg_half_rows.restype = None
            return library
    return None


def worthwhile(matrix: Tensor) -> bool:
    """Whether a stored matrix should stay in bfloat16."""
    return matrix.dtype == torch.bfloat16 and matrix.ndim == 2 and matrix.numel() <= LARGEST and native() is not None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., inputs) W^T + b; W (outputs, inputs) of x's type or kept in bfloat16. No gradient reaches the latter."""
    if weight.dtype == x.dtype or weight.dtype != torch.bfloat16 or x.dtype != torch.float32:
        return F.linear(x, weight, bias)
    rows, library = x.numel() // x.shape[-1], native()
    if rows > ROWS or library is None or not (x.is_contiguous() and weight.is_contiguous() and x.device.type == "cpu"):
        return F.linear(x, weight.to(x.dtype), bias)
    outputs, inputs = weight.shape
    y = torch.empty(*x.shape[:-1], outputs)
    library.klieg_half_rows(x.data_ptr(), weight.data_ptr(), y.data_ptr(), rows, inputs, outputs)
    return y if bias is None else y.add_(bias)
