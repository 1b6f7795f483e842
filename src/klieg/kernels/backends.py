"""PyTorch's fused kernels on a GPU, through the operators that also return the log-sum-exp: cuDNN's, FlashAttention's
and the memory-efficient one.

`scaled_dot_product_attention` hides the log-sum-exp; the operators underneath have it. A backend that is switched off
in PyTorch (`torch.backends.cuda`, `sdpa_kernel`) is off here too. At the first use of each on a
device and in a type, output and log-sum-exp of a small call are compared with the formula: what is wrong, in another
base or of another scale is said once and never used. After that no call waits for the device.

Traps closed here: causal means first on first, a mask must lie in aligned lines and have no row that sees nothing, the
memory-efficient kernel knows no grouped heads and pads its log-sum-exp.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.backends.cuda import cudnn_sdp_enabled, flash_sdp_enabled, mem_efficient_sdp_enabled

from klieg.attention import Mask, hide, log_sum_exp, output, scores, slots, weights
from klieg.errors import KliegWarning, first_line
from klieg.kernels.fused import LARGEST_MASK, contiguous, copies, needed, plain

# The quickest first. Only the last takes a mask.
_ENABLED = {"cudnn": cudnn_sdp_enabled, "flash": flash_sdp_enabled, "efficient": mem_efficient_sdp_enabled}
_CAPABILITY = {"cudnn": (9, 0), "flash": (8, 0), "efficient": (5, 0)}
_WIDEST = {"cudnn": 128, "flash": 192, "efficient": 1024}
_OPERATORS = {"cudnn": torch.ops.aten._scaled_dot_product_cudnn_attention.default,
              "flash": torch.ops.aten._scaled_dot_product_flash_attention.default,
              "efficient": torch.ops.aten._scaled_dot_product_efficient_attention.default}

# Lines of a mask begin at multiples of so many numbers.
_LINE = 16

# What they may err in the small call, which is far from what another base or scale would give.
_NEAR = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}


@dataclass(frozen=True, eq=False)
class _Table:
    """A Mask as a table for the memory-efficient kernel."""

    additive: Tensor              # (b or 1, h or 1, i, j), 0 or -inf; a row that sees nothing is all 0
    blind: Tensor | None          # (b or 1, h or 1, i), those rows; None if there are none


# Every layer of a model asks for the same mask. Only the last shape of each is kept, and no longer than the mask itself.
_tables: WeakKeyDictionary[Mask, tuple[tuple, _Table]] = WeakKeyDictionary()

# Which kernels were right, by device and type.
_found: dict[tuple[str, torch.device, torch.dtype], bool] = {}


def refusal(q: Tensor, k: Tensor, v: Tensor, mask: Mask, *, softcap: float | None, sinks: Tensor | None,
            bias: Tensor | None) -> str | None:
    """Why none of them can answer this call exactly and in little memory; None if one can."""
    if softcap is not None or sinks is not None:
        return "it knows neither softcap nor sinks"
    if bias is not None and bias.requires_grad:
        return "it gives the bias no gradient"
    queries, keys = q.shape[2], k.shape[2]
    if (bias is not None or not plain(needed(mask, queries, keys), queries, keys)) and (
            copies(mask, bias) * queries * keys > LARGEST_MASK):
        return "this mask would be written out as an N x N tensor"
    return None if _backend(q, k, v, mask, bias) else "PyTorch has no fused kernel for such tensors on this device"


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Mask, *, scale: float, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Output (b, h, i, e) in the type of the inputs and log-sum-exp (b, h, i), float32; the output carries gradients."""
    q, k, v = (contiguous(x) for x in (q, k, v))
    queries, keys = q.shape[2], k.shape[2]
    rules, name = needed(mask, queries, keys), _backend(q, k, v, mask, bias)
    additive = blind = None
    if not (whole := plain(rules, queries, keys)):
        table = _table(mask, queries, keys, q)
        additive, blind = table.additive, table.blind
    if bias is not None:
        # A bias may blind a row too; what is added last is without effect on the others.
        bias = bias.to(q.dtype).expand(-1, -1, queries, keys)
        additive = bias if additive is None else additive + bias
        if whole and rules.rules:
            additive = additive.masked_fill(~rules.visible(slots(queries, keys, q.device), _every(keys, q.device)), -torch.inf)
        unseen = (additive == -torch.inf).all(-1)
        blind = unseen if blind is None else blind | unseen
        additive = _aligned(additive.masked_fill(unseen[..., None], 0))
    found, lse = _run(name, q, k, v, additive, len(rules.rules) > 0 and additive is None, scale)
    if blind is not None:
        found, lse = found.masked_fill(blind[..., None], 0), lse.masked_fill(blind, -torch.inf)
    return found, lse


def _backend(q: Tensor, k: Tensor, v: Tensor, mask: Mask, bias: Tensor | None) -> str | None:
    """The first that takes such a call and is right on this device."""
    queries, keys = q.shape[2], k.shape[2]
    rules = needed(mask, queries, keys)
    for name in _OPERATORS if bias is None and plain(rules, queries, keys) else ("efficient",):
        if _takes(name, q, k, v) and _right(name, q.device, q.dtype):
            return name
    return None


def _takes(name: str, q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether a kernel is made for such tensors, is switched on, and trains in the same order each time if that is asked."""
    widths, half = (q.shape[3], v.shape[3]), q.dtype in (torch.bfloat16, torch.float16)
    trained = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    return (_enabled(name, q.device) and q.dtype == k.dtype == v.dtype and q.device == k.device == v.device
            and (half or (name == "efficient" and q.dtype == torch.float32))
            and max(widths) <= _WIDEST[name] and all(width % (8 if half else 4) == 0 for width in widths)
            and (widths[0] == widths[1] or name == "efficient") and (q.shape[2] > 1 or name != "cudnn")
            and not (trained and name != "flash" and torch.are_deterministic_algorithms_enabled()))


def _enabled(name: str, device: torch.device) -> bool:
    """While a model is compiled nothing can be asked but the device: it takes what is not known to be wrong."""
    on = torch.compiler.is_compiling() or _ENABLED[name]()
    return on and torch.cuda.get_device_capability(device) >= _CAPABILITY[name]


def _run(name: str, q: Tensor, k: Tensor, v: Tensor, additive: Tensor | None, causal: bool, scale: float,
         ) -> tuple[Tensor, Tensor]:
    batch, heads, queries, _ = q.shape
    if name == "flash":
        found = _OPERATORS[name](q, k, v, 0.0, causal, False, scale=scale)
    else:
        if name == "efficient" and k.shape[1] < heads:
            k, v = (x.repeat_interleave(heads // k.shape[1], dim=1) for x in (k, v))
        if additive is not None:
            additive = additive.expand(batch, heads, -1, -1)
        found = _OPERATORS[name](q, k, v, additive, True, 0.0, causal, scale=scale)
    return found[0], found[1].reshape(batch, heads, -1)[:, :, :queries]


def _right(name: str, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a kernel gives output and log-sum-exp of a small call as the formula does; found out at its first use."""
    known = name, device, dtype
    if known not in _found and not torch.compiler.is_compiling() and not _recording(device):
        _found[known] = _compared(*known)
    return _found.get(known, True)


def _compared(name: str, device: torch.device, dtype: torch.dtype) -> bool:
    random, scale = torch.Generator().manual_seed(0), 0.3
    q, k, v = (torch.randn(1, 2, 40, 64, generator=random, device="cpu").to(dtype) for _ in range(3))
    s = hide(scores(q.double(), k.double(), scale=scale), Mask.causal())
    lse = log_sum_exp(s)
    truth = output(weights(s, lse), v.double()), lse
    try:
        with torch.no_grad():
            hidden = None
            if name == "efficient":
                hidden = _aligned(hide(torch.zeros(1, 1, 40, 40, dtype=dtype, device=device), Mask.causal()))
            found = _run(name, *(x.to(device) for x in (q, k, v)), hidden, hidden is None, scale)
        off = [(a.cpu().double() - b).abs().max().item() for a, b in zip(found, truth, strict=True)]
        right = all(x <= _NEAR[dtype] for x in off)
        why = None if right else f"output and log-sum-exp are off by {off[0]:.1e} and {off[1]:.1e} from the formula"
    except RuntimeError as e:
        why = first_line(e)[:160]
    if why:
        warnings.warn(f"PyTorch's {name} kernel is not used on {device} in {str(dtype).removeprefix('torch.')}: {why}.",
                      KliegWarning, stacklevel=2)
    return why is None


def _table(mask: Mask, queries: int, keys: int, q: Tensor) -> _Table:
    # What is made while a graph is recorded exists only when that runs.
    if torch.compiler.is_compiling() or _recording(q.device):
        return _build(mask, queries, keys, q)
    shape = queries, keys, q.dtype, q.device
    known = _tables.get(mask)
    if known is None or known[0] != shape:
        with torch.inference_mode(False):                        # it may serve training later
            known = _tables[mask] = shape, _build(mask, queries, keys, q)
    return known[1]


def _build(mask: Mask, queries: int, keys: int, q: Tensor) -> _Table:
    rules = needed(mask, queries, keys)
    seen, blind = rules.visible(slots(queries, keys, q.device), _every(keys, q.device)), None
    if queries > keys or any(rule.table is not None for rule in rules.rules):
        blind = ~seen.any(-1)
        seen = seen | blind[..., None]
    return _Table(_aligned(torch.zeros(seen.shape, dtype=q.dtype, device=q.device).masked_fill(~seen, -torch.inf)), blind)


def _recording(device: torch.device) -> bool:
    """Whether calls on the device are recorded for a CUDA graph now, and nothing can be waited for."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _every(keys: int, device: torch.device) -> Tensor:
    return torch.arange(keys, device=device)


def _aligned(additive: Tensor) -> Tensor:
    """The same numbers in lines that begin where the kernel can read them."""
    keys = additive.shape[3]
    return torch.nn.functional.pad(additive, (0, -keys % _LINE))[..., :keys]
