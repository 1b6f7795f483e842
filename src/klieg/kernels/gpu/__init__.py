"""The kernel on the GPU, in Triton: output, log-sum-exp and row statistics of exact attention in one pass.

bfloat16, float16 and float32, each in products as exact as it can be; every mask but strides and global tokens,
softcap, sinks, bias, widths up to 256, and gradients. This file is for everyone to ask; its neighbours import Triton
and are imported when there is work. On a CPU the kernel runs in Triton's interpreter, where TRITON_INTERPRET=1 is set
before Triton is imported: right to the digit, thousands of times too slow, and meant for tests.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import cache, wraps
from importlib.util import find_spec
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from klieg.attention import Mask
from klieg.tiles import Scores

TYPES = (torch.bfloat16, torch.float16, torch.float32)
WIDEST = 256
EVERYTHING = Mask()

# Bytes of shared memory for a program from which on the tiles that suit Hopper fit. The cards of compute capability 8.6,
# 8.9 and 12.0 have 99 KB and get smaller tiles; tests/test_cards.py has all of them compiled for each.
ROOMY = 160 * 2**10

# What a launch can count of texts and of heads.
_MANY = 65535

A, B, P = TypeVar("A", bound=Tensor | Scores), TypeVar("B"), ParamSpec("P")


def interpreted() -> bool:
    """Whether Triton interprets its kernels in Python, on the CPU."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "y", "yes")


def refusal(q: Tensor, k: Tensor, v: Tensor | None = None, mask: Mask = EVERYTHING, *others: Tensor | None) -> str | None:
    """Why the kernel cannot do this call; None if it can. `others` are sinks and bias. Imports no Triton."""
    if why := _missing(q.device):
        return why
    types = {x.dtype for x in (q, k, v) if x is not None}
    if len(types) > 1 or q.dtype not in TYPES:
        names = ", ".join(sorted(str(x).removeprefix("torch.") for x in types))
        return f"it takes q, k and v of one type, bfloat16, float16 or float32, not {names}"
    widest = max(q.shape[3], k.shape[3] if v is None else v.shape[3])
    if widest > WIDEST:
        return f"it takes heads of a width up to {WIDEST}, not {widest}"
    if v is None and q.shape[0] * q.shape[1] > _MANY:
        return f"it looks at up to {_MANY} heads of all texts together"
    if max(q.shape[:2]) > _MANY:
        return f"it takes up to {_MANY} texts and heads"
    return "strides and global tokens would need a table of all pairs" if mask.scattered else None


def _missing(device: torch.device) -> str | None:
    """What this machine lacks to run the kernel on a device."""
    if device.type != "cuda" and not (device.type == "cpu" and interpreted()):
        return f"it runs on a CUDA GPU, and the tensors are on {device}"
    if find_spec("triton") is None:
        return "Triton is not installed (pip install 'klieg[gpu]')"
    return None if device.type == "cpu" else _too_old(device)


@cache
def _too_old(device: torch.device) -> str | None:
    if torch.version.cuda is None:
        return "it is made for GPUs of NVIDIA"
    major, minor = torch.cuda.get_device_capability(device)
    return None if major >= 8 else f"the GPU has compute capability {major}.{minor}, and it needs 8.0"


@cache
def space(device: torch.device) -> int:
    """Bytes of shared memory that a program may take there; on a CPU, where kernels are interpreted, as many as it likes."""
    return torch.cuda.get_device_properties(device).shared_memory_per_block_optin if device.type == "cuda" else sys.maxsize


def on_its_card(launch: Callable[Concatenate[A, P], B]) -> Callable[Concatenate[A, P], B]:
    """Triton launches on torch's current device: while this function runs, that is the one of its first tensor."""
    @wraps(launch)
    def run(first: A, *given: P.args, **more: P.kwargs) -> B:
        with torch.cuda.device_of(first.q if isinstance(first, Scores) else first):
            return launch(first, *given, **more)
    return run


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Mask, *, scale: float, softcap: float | None, sinks: Tensor | None,
              bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Output (b, h, i, e) in the type of v, and log-sum-exp (b, h, i) in float32."""
    dtype = v.dtype
    output, lse = _Attention.apply(*ready(q, k, v), sinks, bias, mask, scale, softcap)
    return output.to(dtype), lse


@torch.no_grad()
def attended(q: Tensor, k: Tensor, v: Tensor, mask: Mask, *, scale: float, softcap: float | None, sinks: Tensor | None,
             bias: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
    """Output (b, h, i, e), and the log-sum-exp and what forward.STATISTICS names of every row: (b, h, i), float32."""
    from klieg.kernels.gpu import forward

    dtype = v.dtype
    q, k, v = ready(q, k, v)
    scores = Scores.of(q, k, mask, scale=scale, softcap=softcap, bias=bias)
    output, found = forward.compute(scores, v, sinks, statistics=True)
    return output.to(dtype), found


@torch.no_grad()
def log_sum_exp(scores: Scores, sinks: Tensor | None) -> Tensor:
    """The log-sum-exp (b, h, i) alone, float32, also of a part of a longer text."""
    from dataclasses import replace

    from klieg.kernels.gpu import forward

    q, k, nothing = ready(scores.q, scores.k, scores.k.new_zeros(1, 1, 1, 1).expand(*scores.k.shape[:3], 1))
    return forward.compute(replace(scores, q=q, k=k), nothing, sinks, statistics=False)[1]["lse"]


def ready(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors as the kernel reads them: their last axis without gaps. Triton's interpreter would multiply the bits
    of a bfloat16 as whole numbers, so there they are widened."""
    wide = interpreted() and tensors[0].dtype == torch.bfloat16
    return tuple(x.float() if wide else x if x.stride(3) == 1 else x.contiguous() for x in tensors)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, bias: Tensor | None, mask: Mask,
                scale: float, softcap: float | None) -> tuple[Tensor, Tensor]:
        from klieg.kernels.gpu import forward

        scores = Scores.of(q, k, mask, scale=scale, softcap=softcap, bias=bias)
        output, found = forward.compute(scores, v, sinks, statistics=False)
        ctx.save_for_backward(q, k, v, sinks, bias, output, found["lse"])
        ctx.options = mask, scale, softcap
        ctx.mark_non_differentiable(found["lse"])
        return output, found["lse"]

    @staticmethod
    @once_differentiable
    def backward(ctx, d_output: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        from klieg.kernels.gpu import backward

        q, k, v, sinks, bias, output, lse = ctx.saved_tensors
        mask, scale, softcap = ctx.options
        scores = Scores.of(q, k, mask, scale=scale, softcap=softcap, bias=bias)
        d_output = d_output if d_output.stride(3) == 1 else d_output.contiguous()
        delta = backward.delta(output, d_output)
        d_q, d_k, d_v = backward.compute(scores, v, lse, d_output, delta)
        d_sinks = d_bias = None
        if ctx.needs_input_grad[3]:
            # The sink's weight, times what every row loses to it.
            share = torch.exp(sinks.float()[:, None] - lse)
            d_sinks = -(share * delta).sum((0, 2)).to(sinks.dtype)
        if ctx.needs_input_grad[4]:
            d_bias = backward.of_bias(scores, v, lse, d_output, delta).to(bias.dtype)
        return d_q, d_k, d_v, d_sinks, d_bias, None, None, None
