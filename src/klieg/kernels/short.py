"""Many short texts at once, with gradients: the kernel of training on sentences.

native/short.cpp holds a head's scores in the cache, all of them, and makes them anew on the way back. It reads
float32 or bfloat16 where they lie, computes in float32, and knows causality and padding, any widths and
grouped heads, on the CPU.
"""

from __future__ import annotations

import ctypes
from functools import cache

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from klieg.attention import Mask
from klieg.errors import KliegError
from klieg.kernels.fused import contiguous, needed
from klieg.library import native

LONGEST = 256  # queries and keys of a text; of longer ones too much would have to lie in the cache

_COUNT, _PLACE = ctypes.c_int64, ctypes.c_void_p
_KINDS = (torch.float32, torch.bfloat16)


class _Problem(ctypes.Structure):
    """klieg::Short of native/short.h, field by field."""

    _fields_ = [(name, _COUNT) for name in ("batch", "heads", "groups", "queries", "keys", "width", "value_width", "half")]
    _fields_ += [(name, _PLACE) for name in ("q", "k", "v")]
    _fields_ += [(name, _COUNT * 3) for name in ("q_strides", "k_strides", "v_strides")]
    _fields_ += [("scale", ctypes.c_float), ("causal", _COUNT), ("real", _PLACE), ("output", _PLACE), ("lse", _PLACE),
                 ("grad", _PLACE), ("grad_strides", _COUNT * 3), ("grad_q", _PLACE), ("grad_k", _PLACE), ("grad_v", _PLACE),
                 ("threads", _COUNT)]


@cache
def _library() -> ctypes.CDLL | None:
    """The library, once it is sure that both sides mean the same struct."""
    library = native()
    if library is None:
        return None
    library.klieg_short.argtypes = [ctypes.POINTER(_Problem), ctypes.c_char_p]
    library.klieg_short_size.restype = ctypes.c_size_t
    if library.klieg_short_size() != ctypes.sizeof(_Problem):
        raise KliegError("the native library is of another version than this Klieg; install Klieg anew.")
    return library


def refusal(q: Tensor, k: Tensor, v: Tensor, mask: Mask, *, softcap: float | None, sinks: Tensor | None,
            bias: Tensor | None) -> str | None:
    """Why this kernel cannot do a call; None if it can."""
    if q.device.type != "cpu" or not q.dtype == k.dtype == v.dtype or q.dtype not in _KINDS:
        return "it takes float32 or bfloat16, of one type, on the CPU"
    if max(q.shape[2], k.shape[2]) > LONGEST:
        return f"it takes at most {LONGEST} queries and keys"
    if softcap is not None or sinks is not None or bias is not None:
        return "it knows no softcap, sinks or bias"
    if any(rule.kind not in ("causal", "padding") for rule in needed(mask, q.shape[2], k.shape[2]).rules):
        return "of masks it knows causality and padding"
    if torch.compiler.is_compiling():
        return "torch.compile cannot look into it"
    return "Klieg was installed without a C++ compiler" if _library() is None else None


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Mask, *, scale: float, instructions: str | None = None,
              ) -> tuple[Tensor, Tensor]:
    """Output (b, h, i, e) in the type of the inputs and log-sum-exp (b, h, i), float32; the output carries gradients."""
    rules = needed(mask, q.shape[2], k.shape[2]).rules
    tables = [rule.table[:, :k.shape[2]].expand(len(q), -1) for rule in rules if rule.kind == "padding"]
    real = torch.stack(tables).all(0) if len(tables) > 1 else tables[0].contiguous() if tables else None
    output, lse = _Attention.apply(*(contiguous(x) for x in (q, k, v)), real, len(tables) < len(rules), scale, instructions)
    return output.transpose(1, 2), lse


class _Attention(torch.autograd.Function):
    """q, k, v -> output (b, i, h, e) and lse; real (b, j), bool, or None."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, real: Tensor | None, causal: bool, scale: float,
                instructions: str | None) -> tuple[Tensor, Tensor]:
        ctx.rest = causal, scale, instructions
        ctx.save_for_backward(q, k, v, real)
        output, lse = v.new_empty(len(q), q.shape[2], q.shape[1], v.shape[3]), q.new_empty(q.shape[:3], dtype=torch.float32)
        ctx.mark_non_differentiable(lse)
        _run(q, k, v, real, *ctx.rest, output=output, lse=lse)
        return output, lse

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor, grad_lse: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, real = ctx.saved_tensors
        grads = [x.new_empty(len(x), x.shape[2], x.shape[1], x.shape[3]) for x in (q, k, v)]
        _run(q, k, v, real, *ctx.rest, grad=contiguous(grad.transpose(1, 2)), grad_q=grads[0], grad_k=grads[1], grad_v=grads[2])
        return *(x.transpose(1, 2) for x in grads), None, None, None, None


def _run(q: Tensor, k: Tensor, v: Tensor, real: Tensor | None, causal: bool, scale: float, instructions: str | None,
         **places: Tensor) -> None:
    (batch, heads, queries, width), (groups, keys), value_width = q.shape, k.shape[1:3], v.shape[3]
    problem = _Problem(batch, heads, groups, queries, keys, width, value_width, q.dtype == torch.bfloat16)
    for name, x in {"q": q, "k": k, "v": v, **places}.items():
        setattr(problem, name, x.data_ptr())
        if hasattr(problem, f"{name}_strides"):
            setattr(problem, f"{name}_strides", (_COUNT * 3)(*x.stride()[:3]))
    problem.scale, problem.causal, problem.threads = scale, causal, torch.get_num_threads()
    problem.real = None if real is None else real.data_ptr()
    if _library().klieg_short(problem, instructions and instructions.encode()):
        raise MemoryError("the native kernel of short texts found no memory for a head")
