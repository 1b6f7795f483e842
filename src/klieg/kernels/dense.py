"""The formula of attention.py as a kernel: the whole map at once, and its gradient by autograd."""

from __future__ import annotations

import torch
from torch import Tensor

from klieg.attention import Mask, hide, log_sum_exp, output, scores, weights


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Mask, *, scale: float, softcap: float | None,
              sinks: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Output (b, h, i, e) and log-sum-exp (b, h, i) in the type of the inputs, float32 or float64."""
    s = hide(scores(q, k, scale=scale, softcap=softcap, bias=None if bias is None else bias.to(q.dtype)), mask)
    lse = log_sum_exp(s, sinks).detach()
    w = weights(s, lse)
    total = w.sum(-1)
    if sinks is not None:
        total = total + torch.exp(sinks.to(q.dtype)[:, None] - lse)
    # The total is 1 but for the rounding of lse, which all weights of a row share. Dividing takes
    # it out, and makes lse a constant to the gradient, where minus infinity would do harm.
    return output(w, v) / total.masked_fill(total == 0, 1)[..., None], lse
