"""The next-token loss, without ever holding all logits at once.

A vocabulary of 8,000 pieces makes the logits the largest tensor of a training step, four
times over with their softmax and gradients. Here a chunk of tokens is turned into logits,
its loss *and* its gradient while it is still in the processor's cache, and forgotten: the
gradient of cross-entropy, softmax minus the wanted distribution, needs nothing from later.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from klieg.library import native

CHUNK = 512       # tokens whose logits are held at once in float32; twice as many in bfloat16
WIDE = 2**26      # numbers of such a chunk on a card, which wants large products: 256 MB


def picks(device: torch.device) -> bool:
    """Whether the tokens that do not count are left out. On a card all are computed: asking which ones count waits for it."""
    return device.type == "cpu"


def chunk(vocabulary: int, device: torch.device) -> int:
    """Tokens whose logits are held at once."""
    return CHUNK if picks(device) else max(CHUNK, WIDE // vocabulary)


@cache
def _native() -> Callable | None:
    """The native pass over logits; None where there is no native library."""
    library = native()
    if library is None:
        return None
    library.klieg_loss.argtypes = [ctypes.c_void_p, ctypes.c_int, *[ctypes.c_void_p] * 2, ctypes.c_int64, ctypes.c_int64,
                                   ctypes.c_float, ctypes.c_int]
    library.klieg_loss.restype = None
    return library.klieg_loss


def _turned(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """The sum of the losses; the logits (n, vocabulary) become its gradient."""
    run = _native()
    if run is not None and logits.device.type == "cpu" and logits.dtype in (torch.float32, torch.bfloat16):
        losses = torch.empty(len(targets))
        run(logits.data_ptr(), logits.dtype == torch.bfloat16, targets.data_ptr(), losses.data_ptr(), *logits.shape, smoothing,
            torch.get_num_threads())
        return losses.sum()
    share, rows, z = smoothing / logits.shape[1], torch.arange(len(targets), device=logits.device), logits.float()
    lse = z.logsumexp(1)
    total = (lse - (1 - smoothing) * z[rows, targets] - share * z.sum(1)).sum()
    z.sub_(lse[:, None]).exp_().sub_(share)
    z[rows, targets] -= 1 - smoothing
    logits.copy_(z)
    return total


def _unpicked(hidden: Tensor, weight: Tensor, targets: Tensor, smoothing: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The sum of the losses, their number, and the sum's gradients for hidden and weight; all rows are computed."""
    counts, share = targets >= 0, smoothing / len(weight)
    total = torch.zeros((), dtype=torch.float32, device=hidden.device)
    grad_hidden = torch.empty_like(hidden)
    grad_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
    most = chunk(len(weight), hidden.device)
    for start in range(0, len(targets), most):
        rows = slice(start, start + most)
        wanted, counted = targets[rows, None].clamp(min=0), counts[rows]
        logits = (hidden[rows] @ weight.T).float()
        lse = logits.logsumexp(1)
        losses = lse - (1 - smoothing) * logits.gather(1, wanted).squeeze(1) - share * logits.sum(1)
        total += torch.where(counted, losses, 0).sum()
        grad = logits.sub_(lse[:, None]).exp_().sub_(share)
        grad.scatter_add_(1, wanted, torch.full_like(lse[:, None], smoothing - 1))
        grad = torch.where(counted[:, None], grad, 0).to(weight.dtype)
        grad_hidden[rows] = grad @ weight
        grad_weight += grad.T @ hidden[rows]
    return total, counts.sum(), grad_hidden, grad_weight


class _TokenLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        if not picks(hidden.device):
            total, count, *grads = _unpicked(hidden, weight, targets, smoothing)
            ctx.save_for_backward(*(grad.div_(count).to(weight.dtype) for grad in grads))
            return total / count
        kept = (targets >= 0).nonzero().squeeze(1)
        total = hidden.new_zeros((), dtype=torch.float32)
        grad_hidden = torch.zeros_like(hidden)
        grad_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        # Memory that is fresh for every chunk costs more than the products: this is filled again and again.
        most = CHUNK * 4 // weight.itemsize
        room = torch.empty(min(most, len(kept)), len(weight), dtype=weight.dtype, device=weight.device)
        half = weight.dtype != grad_weight.dtype
        if half:
            product, sums = torch.empty_like(weight), torch.empty_like(grad_weight)
        for picked in kept.split(most):
            h, logits = hidden[picked], room[:len(picked)]
            total += _turned(torch.mm(h, weight.T, out=logits), targets[picked], smoothing)
            if half:
                grad_weight.add_(sums.copy_(torch.mm(logits.T, h, out=product)))
            else:
                grad_weight.addmm_(logits.T, h)
            grad_hidden[picked] = logits @ weight
        ctx.save_for_backward(grad_hidden.div_(len(kept)), grad_weight.div_(len(kept)).to(weight.dtype))
        return total / len(kept)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grad, grad_weight * grad, None, None


def token_loss(hidden: Tensor, weight: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy in nats of softmax(hidden weight^T) against targets.

    hidden (n, width), weight (vocabulary, width), targets (n,), int64; negative targets do not
    count. A share `smoothing` of what is wanted is spread over the whole vocabulary (Szegedy et
    al. 2015; Vaswani et al. 2017, section 5.4).
    """
    return _TokenLoss.apply(hidden, weight, targets, smoothing)


class _TwinLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden: Tensor, twin: Tensor, weight: Tensor, targets: Tensor, smoothing: float, alpha: float) -> Tensor:
        kept = (targets >= 0).nonzero().squeeze(1)
        total = hidden.new_zeros((), dtype=torch.float32)
        streams = hidden, twin
        grads = [torch.zeros_like(h) for h in streams]
        grad_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        share, scale = smoothing / len(weight), 1 / (2 * max(1, len(kept)))
        for picked in kept.split(CHUNK):
            target = targets[picked]
            logs = [torch.log_softmax((h[picked] @ weight.T).float(), dim=-1) for h in streams]
            apart = logs[0] - logs[1]
            for side, log_p in enumerate(logs):
                sign = 1 - 2 * side
                p = log_p.exp()
                divergence = (p * apart).sum(1, keepdim=True).mul_(sign)         # KL of this side from the other
                total -= (1 - smoothing) * log_p.gather(1, target[:, None]).sum() + share * log_p.sum()
                total += alpha / 2 * divergence.sum()
                # d KL(p|q) = p (ln p - ln q - KL); d KL(q|p) = p - q, of which this side takes its own part.
                grad = p - share
                grad[torch.arange(len(picked), device=target.device), target] -= 1 - smoothing
                grad += alpha / 2 * (p * (sign * apart - divergence) + p - logs[1 - side].exp())
                grad = grad.to(weight.dtype)
                grads[side][picked] = grad @ weight
                grad_weight += grad.T @ streams[side][picked]
        ctx.save_for_backward(*(g.mul_(scale) for g in grads), grad_weight.mul_(scale).to(weight.dtype))
        return total * scale

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        first, second, grad_weight = ctx.saved_tensors
        return first * grad, second * grad, grad_weight * grad, None, None, None


def twin_loss(hidden: Tensor, twin: Tensor, weight: Tensor, targets: Tensor, smoothing: float, alpha: float) -> Tensor:
    """R-Drop (Liang et al. 2021): two passes with different dropout, which should also agree.

    Half of the paper's equation 4, so that it compares with token_loss(): the mean of that over both
    passes, plus alpha / 4 times the mean over targets of KL(p|q) + KL(q|p). Shapes as in token_loss().
    """
    run = _TwinLoss.apply if picks(hidden.device) else _unpicked_twins
    return run(hidden, twin, weight, targets, smoothing, alpha)


def _unpicked_twins(hidden: Tensor, twin: Tensor, weight: Tensor, targets: Tensor, smoothing: float, alpha: float) -> Tensor:
    """The same over all rows, whose logits are held at once; the gradient is autograd's."""
    counts, wanted = targets >= 0, targets[:, None].clamp(min=0)
    logs = [torch.log_softmax((h @ weight.T).float(), dim=-1) for h in (hidden, twin)]
    apart = ((logs[0].exp() - logs[1].exp()) * (logs[0] - logs[1])).sum(1)
    rows = alpha / 2 * apart
    for log_p in logs:
        rows = rows - (1 - smoothing) * log_p.gather(1, wanted).squeeze(1) - smoothing / len(weight) * log_p.sum(1)
    return torch.where(counts, rows, 0).sum() / (2 * counts.sum().clamp(min=1))
