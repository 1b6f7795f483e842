"""Whether the log-sum-exp of somebody else's kernel is what it is taken for: found out at its first use.

flash-attn, cuDNN and torch give it in nats, FlashInfer in bits, and a backend of FlexAttention once mixed both up
(pytorch issue 181645). So some rows of the first call that a kernel makes on a device, in one type and one width, are
computed in float64. A log-sum-exp in bits is turned into nats; one that is neither is not used, and made anew.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from klieg.attention import Mask, scores, slots

ROWS, KEYS = 8, 2**16        # that are compared, and so many keys at a time
NEAR = 2e-3         # of a log-sum-exp in a type narrower than float32; a wrong unit is off by a third

_known: dict[tuple[str, str, torch.dtype, int], float | None] = {}


def in_nats(lse: Tensor, operator: str, q: Tensor, k: Tensor, mask: Mask, *, scale: float,
            bias: Tensor | None) -> Tensor | None:
    """lse (b, h, i) of q (b, h, i, d), k (b, g, j, d) in nats; None if it is no log-sum-exp of these scores."""
    device = torch.cuda.get_device_name(q.device) if q.device.type == "cuda" else q.device.type
    at = operator, device, q.dtype, q.shape[3]
    if at not in _known:
        truth, rows = _some(q, k, mask, scale, bias)
        given = lse[:1, [0, -1]][:, :, rows].double()
        live = truth.abs() > 0.1                   # near 0 nats and bits are alike; -inf is no number to compare
        if not (live & truth.isfinite()).any():
            return None
        given, truth = given[live & truth.isfinite()], truth[live & truth.isfinite()]
        _known[at] = next((unit for unit in (1.0, math.log(2)) if _same(given * unit, truth)), None)
    unit = _known[at]
    return None if unit is None else lse if unit == 1 else lse * unit


def _same(given: Tensor, truth: Tensor) -> bool:
    return bool(((given - truth).abs() <= NEAR * (1 + truth.abs())).all())


def _some(q: Tensor, k: Tensor, mask: Mask, scale: float, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """The log-sum-exp (1, 2, n) of some rows of the first and the last head of the first text, in float64; the rows (n,)."""
    heads, queries, keys, ends = q.shape[1], q.shape[2], k.shape[2], [0, -1]
    rows = torch.linspace(0, queries - 1, min(ROWS, queries), device=q.device).long()
    some, stand = q[:1, ends][:, :, rows].double(), slots(queries, keys, q.device)[rows]
    added = None if bias is None else bias.expand(-1, heads, queries, keys)[:1, ends][:, :, rows].double()
    parts = []
    for at in range(0, keys, KEYS):
        here = torch.arange(at, min(at + KEYS, keys), device=q.device)
        s = scores(some, k[:1, ends, at:at + KEYS].double(), scale=scale, bias=None if added is None else added[..., here])
        seen = mask.visible(stand, here)
        parts.append(torch.logsumexp(s.masked_fill(~seen.expand(-1, heads, -1, -1)[:1, ends], -torch.inf), dim=-1))
    return torch.logsumexp(torch.stack(parts), dim=0), rows
