"""The next-token loss, without ever holding all logits at once.

A vocabulary of 8,000 pieces makes the logits the largest tensor of a training step, four
times over with their softmax and gradients. Here a chunk of tokens is turned into logits,
its loss *and* its gradient while it is still in the processor's cache, and forgotten: the
gradient of cross-entropy, softmax minus one-hot, needs nothing from later.
"""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 512  # tokens whose logits are held at once


class _TokenLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        kept = (targets >= 0).nonzero().squeeze(1)
        total = hidden.new_zeros((), dtype=torch.float32)
        grad_hidden, grad_weight = torch.zeros_like(hidden), torch.zeros(weight.shape, dtype=torch.float32)
        for picked in kept.split(CHUNK):
            h, target = hidden[picked], targets[picked]
            logits = (h @ weight.T).float()
            p = torch.softmax(logits, dim=-1)
            top = logits.max(dim=-1)
            lse = top.values - p.gather(1, top.indices[:, None]).squeeze(1).log()
            total += (lse - logits.gather(1, target[:, None]).squeeze(1)).sum()
            p = p.to(weight.dtype)
            p[torch.arange(len(picked)), target] -= 1
            grad_hidden[picked] = p @ weight
            grad_weight += p.T @ h
        ctx.save_for_backward(grad_hidden.div_(len(kept)), grad_weight.div_(len(kept)).to(weight.dtype))
        return total / len(kept)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grad, grad_weight * grad, None


def token_loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats of softmax(hidden weight^T) against targets.

    hidden (n, width), weight (vocabulary, width), targets (n,), int64; negative targets do not count.
    """
    return _TokenLoss.apply(hidden, weight, targets)
