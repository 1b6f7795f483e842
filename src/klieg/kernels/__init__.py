"""attend(): the one door to attention, and the choice of the kernel behind it.

    attention = attend(q, k, v, Mask.causal())
    attention.output, attention.lse, attention.kernel

Every kernel gives the output and the log-sum-exp of every row. Types narrower than float32 are
widened before the kernel runs, and its output is narrowed afterwards, so that a log-sum-exp always
has enough digits to rebuild the map from. The kernels on a GPU, and the one for short texts on the
CPU, read narrow types as they are: products of narrow numbers are exact there, and summed in
float32. On a GPU, `fused` stands for the quickest of PyTorch's own kernels.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from klieg.attention import Mask
from klieg.device import full_precision, narrowed
from klieg.errors import KliegError, KliegWarning, nearest
from klieg.kernels import backends, dense, few, fused, gpu, native, packed, short, sparse, streamed, surveys
from klieg.kernels.surveys import Pooled, pooled, survey, together
from klieg.survey import Survey, SurveySpec

__all__ = ["KERNELS", "Attention", "Pooled", "attend", "choose", "pooled", "survey"]

KERNELS = ("dense", "few", "fused", "gpu", "native", "packed", "short", "sparse", "streamed")
EVERYTHING = Mask()

# From so many queries on, the native kernel is faster than torch's fused one (benchmarks/attention.py).
MANY = 128

# Up to so many queries of several texts, meeting the keys where they lie is faster than torch's fused kernel.
FEW = 8

# Up to this many weights the whole map is one tile, and walking over tiles gains nothing.
SMALL = 2**18


@dataclass(frozen=True, eq=False)
class Attention:
    """What attend() gives."""

    output: Tensor
    """(b, h, i, e), in the type of v."""
    lse: Tensor
    """(b, h, i), nats, float32 or wider: the log-sum-exp of every row's scores; -inf for a row that sees nothing."""
    survey: Survey | None
    """What was kept of the map, if it was asked for."""
    kernel: str
    """The one of KERNELS that ran."""


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Mask = EVERYTHING, *, scale: float | None = None,
           softcap: float | None = None, sinks: Tensor | None = None, bias: Tensor | None = None,
           survey: SurveySpec | None = None, kernel: str | None = None) -> Attention:
    """softmax(softcap(scale * q k^T) + bias, over the keys the mask leaves) v, by the best kernel for the call.

    q (b, h, i, d), k (b, g, j, d) and v (b, g, j, e), where h is a multiple of g; the axes and sources are those of
    attention.py. `scale` is 1/sqrt(d) by default; `softcap` c turns a score s into c * tanh(s / c); `sinks` (h,) are
    scores that join every row's sum without a value; `bias` broadcasts to (b, h, i, j). With a SurveySpec the result
    also has a survey of the map. `kernel` names one of KERNELS instead of the one that choose() finds.

    The output has the type of v and carries gradients to q, k, v, sinks and bias; the log-sum-exp and the survey
    carry none. A mask's tables may be read once for many calls, so make a new Mask rather than write into one. Shapes
    that do not fit raise a KliegError, and so does a named kernel that cannot do the call.
    """
    if narrowed(q.device.type):
        with full_precision():
            return attend(q, k, v, mask, scale=scale, softcap=softcap, sinks=sinks, bias=bias,
                          survey=survey, kernel=kernel)
    _check(q, k, v, mask, softcap, sinks, bias)
    if bias is not None and bias.ndim < 4:
        bias = bias[(None,) * (4 - bias.ndim)]
    dtype, named, there = v.dtype, kernel, q.device.type == "cuda"
    if not q.dtype == k.dtype == dtype:
        q, k, v = _widened(q, k, v, torch.promote_types(torch.promote_types(q.dtype, k.dtype), dtype))
    if kernel is None and there:
        kernel = choose(q, k, v, mask, softcap=softcap, sinks=sinks, bias=bias, surveyed=survey is not None)
    elif kernel is None and survey is None and _reads("short", q, k, v, mask, softcap, sinks, bias):
        kernel = "short"
    as_it_is = (there or survey is None) and _reads(kernel, q, k, v, mask, softcap, sinks, bias)
    if not as_it_is:
        q, k, v = _widened(q, k, v, torch.promote_types(q.dtype, torch.float32))
    scale = q.shape[3] ** -0.5 if scale is None else scale
    if scale <= 0:
        # The fused kernel multiplies minus infinity by it. A changed sign is exact in every type.
        q, scale = (-q, -scale) if scale else (q * 0, 1.0)
    if kernel is None:
        kernel = choose(q, k, v, mask, softcap=softcap, sinks=sinks, bias=bias, surveyed=survey is not None)
    elif named and (why := _refusal(kernel, q, k, v, mask, softcap, sinks, bias)):
        raise KliegError(f"the {kernel} kernel cannot do this call: {why}; leave the kernel open or name another.")
    output, lse, found, lines = _run(kernel, q, k, v, mask, survey, scale=scale, softcap=softcap, sinks=sinks, bias=bias)
    lse = lse.detach()
    if survey is not None and found is None:
        maker = "streamed" if kernel == "streamed" else "gpu" if named == "gpu" else None
        found = surveys.survey(q, k, lse, mask, survey, scale=scale, softcap=softcap, bias=bias, kernel=maker, lines=lines)
    return Attention(output if output.dtype == dtype else output.to(dtype), lse, found, kernel)


def _widened(q: Tensor, k: Tensor, v: Tensor, wide: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    return q.to(wide), k.to(wide), v.to(wide)


def _run(kernel: str, q: Tensor, k: Tensor, v: Tensor, mask: Mask, spec: SurveySpec | None, *, scale: float,
         softcap: float | None, sinks: Tensor | None,
         bias: Tensor | None) -> tuple[Tensor, Tensor, Survey | None, dict[str, Tensor] | None]:
    """Output and log-sum-exp by this kernel; and what it finds for a survey in the same pass: all of it, or lines of rows."""
    found = lines = None
    if kernel == "fused":
        output, lse = (backends if q.device.type == "cuda" else fused).attention(q, k, v, mask, scale=scale, bias=bias)
    elif kernel in ("few", "packed", "short"):
        output, lse = {"few": few, "packed": packed, "short": short}[kernel].attention(q, k, v, mask, scale=scale)
    elif kernel == "native" and spec is not None:
        output, found = surveys.attended(q, k, v, mask, spec, scale=scale, softcap=softcap, sinks=sinks, bias=bias)
        lse = found.lse
    elif kernel == "gpu" and spec is not None and not _trained(q, k, v, sinks, bias):
        output, lines = gpu.attended(q, k, v, mask, scale=scale, softcap=softcap, sinks=sinks, bias=bias)
        lse = lines.pop("lse")
        # A survey adds up distances in float64, for the sake of their squares.
        del lines["distance_sum"]
    else:
        run = {"dense": dense, "gpu": gpu, "native": native, "sparse": sparse, "streamed": streamed}[kernel].attention
        output, lse = run(q, k, v, mask, scale=scale, softcap=softcap, sinks=sinks, bias=bias)
    return output, lse, found, lines


def choose(q: Tensor, k: Tensor, v: Tensor, mask: Mask, *, softcap: float | None, sinks: Tensor | None,
           bias: Tensor | None, surveyed: bool = False) -> str:
    """The quickest kernel that is exact for this call; after any but the native one, a survey is a pass of its own.

    On a GPU it is one of PyTorch's fused kernels, or Klieg's own kernel for what those do not take. What that one refuses
    too is computed by plain PyTorch, as exactly and more slowly, and a warning says why. On the CPU the tensors are
    float32 or float64; short texts in bfloat16 are not asked about here: attend() gives them to their kernel as they are.
    """
    if q.device.type == "cuda":
        if backends.refusal(q, k, v, mask, softcap=softcap, sinks=sinks, bias=bias) is None:
            return "fused"
        why = gpu.refusal(q, k, v, mask, sinks, bias)
        if why is None:
            return "gpu"
        warnings.warn(f"the gpu kernel cannot do this call: {why}; plain PyTorch does it, exactly and more slowly.",
                      KliegWarning, stacklevel=3)
    if q.shape[2] >= MANY and sparse.refusal(q, k, v, mask, softcap=softcap, sinks=sinks, bias=bias) is None:
        return "sparse"
    # A table of all pairs is what the native kernel would need for a scattered rule.
    natively = native.refusal(q, k, v, sinks, bias) is None and not mask.scattered
    if natively and (surveyed or q.shape[2] >= MANY):
        return "native"
    if q.shape[2] <= FEW and q.shape[0] > 1 and few.refusal(q, k, v, mask, softcap=softcap, sinks=sinks, bias=bias) is None:
        return "few"
    if packed.refusal(q, k, v, mask, softcap=softcap, sinks=sinks, bias=bias) is None:
        return "packed"
    if fused.refusal(q, k, v, mask, softcap=softcap, sinks=sinks, bias=bias) is None:
        return "fused"
    if natively:
        return "native"
    return "dense" if q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2] <= SMALL else "streamed"


def _reads(kernel: str | None, q: Tensor, k: Tensor, v: Tensor, mask: Mask, softcap: float | None, sinks: Tensor | None,
           bias: Tensor | None) -> bool:
    """Whether this kernel takes the tensors in the types that they have.

    On the CPU the kernel for short texts is taken for bfloat16 alone: it saves widening and narrowing, and in float32 the
    fused one is as fast.
    """
    if kernel == "short":
        return q.dtype == torch.bfloat16 and short.refusal(q, k, v, mask, softcap=softcap, sinks=sinks, bias=bias) is None
    return (kernel == "fused" and q.device.type == "cuda") or (
        kernel == "gpu" and gpu.refusal(q, k, v, mask, sinks, bias) is None)


def _refusal(kernel: str, q: Tensor, k: Tensor, v: Tensor, mask: Mask, softcap: float | None, sinks: Tensor | None,
             bias: Tensor | None) -> str | None:
    """Why a kernel that was asked for by name cannot do this call; None if it can."""
    if kernel not in KERNELS:
        raise KliegError(f"there is no kernel {kernel!r}." + nearest(kernel, list(KERNELS)))
    if kernel == "native":
        return native.refusal(q, k, v, sinks, bias)
    if kernel == "gpu":
        return gpu.refusal(q, k, v, mask, sinks, bias)
    if kernel == "fused" and q.device.type == "cuda":
        return backends.refusal(q, k, v, mask, softcap=softcap, sinks=sinks, bias=bias)
    module = {"few": few, "fused": fused, "packed": packed, "short": short, "sparse": sparse}.get(kernel)
    return module and module.refusal(q, k, v, mask, softcap=softcap, sinks=sinks, bias=bias)


def _trained(*tensors: Tensor | None) -> bool:
    """Whether any of them asks for a gradient."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)


def _check(q: Tensor, k: Tensor, v: Tensor, mask: Mask, softcap: float | None, sinks: Tensor | None,
           bias: Tensor | None) -> None:
    """One line that says what does not fit, before a kernel fails deep inside."""
    if not q.ndim == k.ndim == v.ndim == 4:
        raise KliegError(f"attend() got {_shapes(q, k, v)}; expected q (b, h, i, d), k (b, g, j, d), v (b, g, j, e).")
    batch, heads, queries, width = q.shape
    batch_k, groups, keys, width_k = k.shape
    if batch_k != batch or width_k != width or v.shape[:3] != k.shape[:3]:
        raise KliegError(f"attend() got {_shapes(q, k, v)}; expected one batch, q and k of one width, k and v of the "
                         "same heads and keys.")
    if not q.numel() or not k.numel():
        raise KliegError(f"attend() got {_shapes(q, k, v)}; expected at least one query and one key.")
    if heads % groups:
        raise KliegError(f"attend() got {heads} query heads over {groups} key heads; expected a multiple.")
    if softcap is not None and not softcap > 0:
        raise KliegError(f"attend() got softcap {softcap}; expected a positive number, or None for no cap.")
    if sinks is not None and sinks.shape != (heads,):
        raise KliegError(f"attend() got sinks {tuple(sinks.shape)}; expected one for each head, ({heads},).")
    together(q, mask, k=k, v=v, sinks=sinks, bias=bias)
    full = batch, heads, queries, keys
    if bias is not None and not _broadcasts(bias.shape, full):
        raise KliegError(f"attend() got bias {tuple(bias.shape)}; expected a shape that broadcasts to {full}.")
    for rule in mask.rules:
        if rule.kind in ("block", "strided") and rule.size < 1:
            raise KliegError(f"Mask.{rule.kind}() got size {rule.size}; expected at least 1.")
        if rule.table is not None:
            _check_table(rule.kind, rule.table, rule.size, full)


def _check_table(kind: str, table: Tensor, first_slot: int, full: tuple[int, int, int, int]) -> None:
    """A table covers all keys, and an explicit one all queries too; it may be longer."""
    batch, _, queries, keys = full
    if kind != "explicit":
        if table.ndim != 2 or table.shape[0] not in (1, batch) or table.shape[1] < keys:
            raise KliegError(f"Mask.{kind}() got {tuple(table.shape)}; expected (b, j) = ({batch}, {keys}).")
        if kind == "documents" and queries > keys:
            raise KliegError(f"Mask.documents() got {queries} queries over {keys} keys; expected one text with itself.")
        return
    rows = table.shape[2] if table.ndim == 4 else 0
    if (not _broadcasts(table.shape[:2], full[:2]) or first_slot > keys - queries or first_slot + rows < keys
            or table.shape[3] < keys):
        raise KliegError(f"Mask.explicit() got {tuple(table.shape)} from slot {first_slot}; expected (b or 1, h or 1, "
                         f"i, j) that covers slots {keys - queries} to {keys - 1} and {keys} keys.")


def _broadcasts(shape: tuple[int, ...], full: tuple[int, ...]) -> bool:
    return len(shape) <= len(full) and all(a in (1, b) for a, b in zip(reversed(shape), reversed(full), strict=False))


def _shapes(q: Tensor, k: Tensor, v: Tensor) -> str:
    return f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
