"""PyTorch's fused CPU kernel, through the operator that also returns the log-sum-exp.

`scaled_dot_product_attention` hides the log-sum-exp; the operator underneath has it, and traps.
Each was seen in torch 2.13 and is closed here: causal means first on first (wrong with a
cache), boolean masks are refused, a row that sees nothing reports 0 instead of -inf, a last
axis that is not contiguous is read wrongly, zero keys end the process, V must be as wide as K,
and a mask gets no gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from klieg.attention import Mask, slots
from klieg.tiles import narrow

_OPERATOR = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default

# An additive mask of more numbers (64 MB) is no longer small beside q, k and v.
LARGEST_MASK = 2**24


@dataclass(frozen=True, eq=False)
class _Prepared:
    """A Mask as the operator wants it."""

    causal: bool
    additive: Tensor | None       # (b or 1, h or 1, i, j), 0 or -inf
    blind: Tensor | None          # (b or 1, h or 1, i), the rows that see nothing; None if there are none


# Every layer of a model asks for the same mask. Only the last shape of each is kept, and no
# longer than the mask itself.
_prepared: WeakKeyDictionary[Mask, tuple[tuple, _Prepared]] = WeakKeyDictionary()


def refusal(q: Tensor, k: Tensor, v: Tensor, mask: Mask, *, softcap: float | None, sinks: Tensor | None,
            bias: Tensor | None) -> str | None:
    """Why the operator cannot answer this call exactly and in little memory; None if it can."""
    if q.device.type != "cpu":
        return "it runs on the CPU only"
    if softcap is not None or sinks is not None:
        return "it knows neither softcap nor sinks"
    if v.shape[3] != k.shape[3]:
        return "it wants v as wide as k"
    if bias is not None and bias.requires_grad:
        return "it gives the bias no gradient"
    batch, heads, queries, _ = q.shape
    keys = k.shape[2]
    if (batch * heads * queries * keys > LARGEST_MASK and copies(mask) * queries * keys > LARGEST_MASK
            and not plain(needed(mask, queries, keys), queries, keys)):
        return "this mask would be written out as an N x N tensor"
    return None


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Mask, *, scale: float, bias: Tensor | None,
              ) -> tuple[Tensor, Tensor]:
    """Output (b, h, i, e) and log-sum-exp (b, h, i) in the type of the inputs, float32 or float64."""
    queries, keys = q.shape[2], k.shape[2]
    ready = _prepare(mask, queries, keys, q.dtype)
    additive, blind = ready.additive, ready.blind
    if bias is not None:
        bias = bias.to(q.dtype).expand(-1, -1, queries, keys)
        additive = bias if additive is None else bias + additive
        blind = _blind(additive, ready.causal)
    output, lse = _OPERATOR(
        contiguous(q), contiguous(k), contiguous(v), 0.0, ready.causal, attn_mask=additive, scale=scale)
    return output, lse if blind is None else lse.masked_fill(blind, -torch.inf)


def _blind(additive: Tensor, causal: bool) -> Tensor:
    """The rows whose every key is at -inf: (b or 1, h or 1, i)."""
    hidden = additive == -torch.inf
    return ((hidden | hidden.new_ones(hidden.shape[-2:]).triu(1)) if causal else hidden).all(-1)


def contiguous(x: Tensor) -> Tensor:
    """x as the operator reads it right: its last axis without gaps, the others as they are."""
    return x if x.stride(3) == 1 else x.contiguous()


def needed(mask: Mask, queries: int, keys: int) -> Mask:
    """Without the rules that hide nothing here: one query at the end of a cache needs no causality."""
    return narrow(mask, range(keys - queries, keys), range(keys))


def plain(rules: Mask, queries: int, keys: int) -> bool:
    """Whether the operator's own causality, or none, says the same as needed rules."""
    return len(rules.rules) == 0 or (queries == keys and all(rule.kind == "causal" for rule in rules.rules))


def copies(mask: Mask, bias: Tensor | None = None) -> int:
    """In how many copies a mask over queries and keys is written out, together with a bias: at most batch times heads."""
    lead = [(len(rule.table), rule.table.shape[1] if rule.kind == "explicit" else 1)
            for rule in mask.rules if rule.table is not None]
    return prod(torch.broadcast_shapes((1, 1), *lead, *([] if bias is None else [bias.shape[:2]])))


def _prepare(mask: Mask, queries: int, keys: int, dtype: torch.dtype) -> _Prepared:
    if torch.compiler.is_compiling():
        return _build(mask, queries, keys, dtype)
    shape = queries, keys, dtype
    known = _prepared.get(mask)
    if known is None or known[0] != shape:
        with torch.inference_mode(False):                        # it may serve training later
            known = _prepared[mask] = shape, _build(mask, queries, keys, dtype)
    return known[1]


def _build(mask: Mask, queries: int, keys: int, dtype: torch.dtype) -> _Prepared:
    rules = needed(mask, queries, keys)
    if plain(rules, queries, keys):
        return _Prepared(len(rules.rules) > 0, None, None)
    seen = rules.visible(slots(queries, keys), torch.arange(keys))
    additive = torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, -torch.inf)
    blind = ~seen.any(-1)
    return _Prepared(False, additive, blind if torch.compiler.is_compiling() or blind.any() else None)
