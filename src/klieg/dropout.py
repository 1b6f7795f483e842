"""Dropout in one pass over the numbers, with nothing stored for the way back.

torch draws its masks on one thread and keeps them; in a small model that takes a tenth of a
training step. Here a mask is a hash of a seed and of each number's place, made anew for the
gradient. The seed comes from torch's generator, so `torch.manual_seed` decides it as it always does.

Source: Srivastava et al. 2014, "Dropout".
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from klieg.library import native


@cache
def _native() -> Callable | None:
    """The native pass; None where there is no native library."""
    library = native()
    if library is None:
        return None
    library.klieg_dropout.argtypes = [*[ctypes.c_void_p] * 2, ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_int64,
                                      ctypes.c_uint64, ctypes.c_uint32, ctypes.c_float, ctypes.c_int]
    library.klieg_dropout.restype = None
    return library.klieg_dropout


def _dropped(base: Tensor | None, x: Tensor, share: float, seed: int, dtype: torch.dtype) -> Tensor:
    y = torch.empty_like(x, dtype=dtype)
    _native()(None if base is None else base.data_ptr(), x.data_ptr(), x.dtype == torch.bfloat16, y.data_ptr(),
              dtype == torch.bfloat16, x.numel(), seed, int(share * 2**32), 1 / (1 - share), torch.get_num_threads())
    return y


class _Add(torch.autograd.Function):
    @staticmethod
    def forward(ctx, base: Tensor | None, x: Tensor, share: float) -> Tensor:
        ctx.share, ctx.dtype, ctx.seed = share, x.dtype, int(torch.randint(2**62, ()))
        return _dropped(None if base is None else base.contiguous(), x.contiguous(), share, ctx.seed, torch.float32)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor, None]:
        to_x = _dropped(None, grad.contiguous(), ctx.share, ctx.seed, ctx.dtype)
        return grad if ctx.needs_input_grad[0] else None, to_x, None


def add(base: Tensor | None, x: Tensor, share: float, training: bool) -> Tensor:
    """base + dropout(x), both of one shape; without a base dropout(x) alone. In float32 where anything is dropped."""
    if not training or share == 0:
        return x if base is None else base + x
    fits = (x.device.type == "cpu" and x.numel() < 2**32 and x.dtype in (torch.float32, torch.bfloat16)
            and (base is None or base.dtype == torch.float32))
    if _native() is None or not fits or torch.compiler.is_compiling():
        x = F.dropout(x, share)
        return x if base is None else base + x
    return _Add.apply(base, x, share)
