"""Attention, as the formula says it: read this file first.

    output = softmax(softcap(scale * q k^T) + bias, over the keys the mask leaves) v

Everything else in Klieg computes the same numbers faster, draws them, or trains a
model around them, and is tested against these few lines run in float64.

Axis legend of the whole project:

    b  batch          h  query heads      g  key/value heads (h is a multiple of g)
    i  queries        j  keys             d  width of q and k     e  width of v

    q (b, h, i, d)    k (b, g, j, d)      v (b, g, j, e)          scores (b, h, i, j)

Source: Vaswani et al. 2017, "Attention Is All You Need", equation 1; grouped heads:
Ainslie et al. 2023 (GQA); softcap: Gemma 2 (2024); sinks: Xiao et al. 2023, gpt-oss.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from klieg.rules import Rule


@dataclass(frozen=True, eq=False)
class Mask:
    """Which query may attend to which key; rules compose with `&`, and True = may attend.

    Queries and keys are counted in *slots*, the positions of the keys. The i-th of `queries`
    rows stands at slot keys - queries + i, so the last query sees the last key: right for
    decoding from a cache and for prefill in chunks alike. An empty Mask hides nothing.
    """

    rules: tuple[Rule, ...] = ()

    @staticmethod
    def causal() -> Mask:
        """A query sees its own slot and the slots before it."""
        return Mask((Rule("causal"),))

    @staticmethod
    def window(size: int, global_tokens: int = 0) -> Mask:
        """A query sees slots nearer than `size`, on both sides; compose with causal(). The first `global_tokens` slots
        see all and are seen by all."""
        return Mask((Rule("window", size, global_tokens=global_tokens),))

    @staticmethod
    def block(size: int, global_tokens: int = 0) -> Mask:
        """A query sees the block of `size` slots that it stands in; global tokens as in window()."""
        return Mask((Rule("block", size, global_tokens=global_tokens),))

    @staticmethod
    def strided(size: int, global_tokens: int = 0) -> Mask:
        """A query sees slots nearer than `size`, and beyond them every `size`-th; global tokens as in window()."""
        return Mask((Rule("strided", size, global_tokens=global_tokens),))

    @staticmethod
    def prefix(length: int) -> Mask:
        """Causal, but the first `length` slots are seen by everyone (prefix language model)."""
        return Mask((Rule("prefix", length),))

    @staticmethod
    def padding(real: Tensor) -> Mask:
        """real (b, j), bool: False marks a padding key, which nobody sees."""
        return Mask((Rule("padding", table=real.bool()),))

    @staticmethod
    def documents(ids: Tensor) -> Mask:
        """ids (b, j), int: several documents packed in one row see only themselves."""
        return Mask((Rule("documents", table=ids),))

    @staticmethod
    def explicit(allowed: Tensor, first_slot: int = 0) -> Mask:
        """allowed (b or 1, h or 1, i, j), bool; its first row belongs to the query at `first_slot`."""
        return Mask((Rule("explicit", first_slot, allowed.bool()),))

    @property
    def scattered(self) -> bool:
        """Whether a stride or global tokens scatter what a query sees; see Rule."""
        return any(rule.scattered for rule in self.rules)

    def __and__(self, other: Mask) -> Mask:
        return Mask(self.rules + other.rules)

    def visible(self, slots: Tensor, keys: Tensor) -> Tensor:
        """slots (i,), keys (j,), int64 -> bool, broadcastable to (b, h, i, j)."""
        i, j = slots[:, None], keys[None, :]
        seen = torch.ones(1, 1, len(slots), len(keys), dtype=torch.bool, device=keys.device)
        for rule in self.rules:
            seen = seen & rule.sees(i, j)
        return seen

    def reason(self, slot: int, key: int, batch: int = 0, head: int = 0) -> str | None:
        """Why the query at `slot` may not see `key`; None if it may."""
        for rule in self.rules:
            device = rule.table.device if rule.table is not None else None
            seen = Mask((rule,)).visible(torch.tensor([slot], device=device), torch.tensor([key], device=device))
            if not seen[batch % len(seen), head % seen.shape[1], 0, 0]:
                return rule.reason
        return None


def slots(queries: int, keys: int, device: torch.device | None = None) -> Tensor:
    """The slots of `queries` rows over `keys` keys, last on last: (i,), int64."""
    return torch.arange(keys - queries, keys, device=device)


def scores(q: Tensor, k: Tensor, *, scale: float | None = None, softcap: float | None = None,
           bias: Tensor | None = None) -> Tensor:
    """softcap(scale * q k^T) + bias, before any mask: (b, h, i, j). scale defaults to 1/sqrt(d)."""
    groups = q.unflatten(1, (k.shape[1], -1)).flatten(2, 3)           # (b, g, h/g * i, d)
    s = (groups @ k.transpose(-1, -2)).view(*q.shape[:3], -1)         # (b, h, i, j)
    s = s * (q.shape[-1] ** -0.5 if scale is None else scale)
    if softcap is not None:
        s = softcap * torch.tanh(s / softcap)
    return s if bias is None else s + bias


def hide(s: Tensor, mask: Mask) -> Tensor:
    """-inf wherever the mask forbids."""
    i, j = s.shape[-2:]
    return s.masked_fill(~mask.visible(slots(i, j, s.device), torch.arange(j, device=s.device)), -torch.inf)


def log_sum_exp(s: Tensor, sinks: Tensor | None = None) -> Tensor:
    """ln sum_j exp(s): (b, h, i). A sink (h,) joins the sum as a key without a value; -inf if nothing is seen."""
    if sinks is not None:
        s = torch.cat([s, sinks.to(s)[None, :, None, None].expand(*s.shape[:-1], 1)], dim=-1)
    return torch.logsumexp(s, dim=-1)


def weights(s: Tensor, lse: Tensor) -> Tensor:
    """exp(s - lse): the attention map, or any tile of it. A row that sees nothing is all zeros."""
    return torch.exp(s - lse.masked_fill(lse == -torch.inf, 0)[..., None])


def output(w: Tensor, v: Tensor) -> Tensor:
    """w v, each query head with the values of its group: (b, h, i, e)."""
    return (w.unflatten(1, (v.shape[1], -1)).flatten(2, 3) @ v).view(*w.shape[:3], -1)
