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

CHUNK = 512       # rows whose logits are held at once in float32; twice as many in bfloat16
WIDE = 2**26      # numbers of such a chunk on a card, which wants large products: 256 MB


def picks(device: torch.device) -> bool:
    """Whether the tokens that do not count are left out. On a card all are computed: asking which ones count waits for it."""
    return device.type == "cpu"


def chunk(vocabulary: int, device: torch.device) -> int:
    """Rows whose logits are held at once."""
    return CHUNK if picks(device) else max(CHUNK, WIDE // vocabulary)


@cache
def _native() -> tuple[Callable, Callable] | None:
    """The native passes over logits, of one pass of the model and of twins; None where there is no native library."""
    library = native()
    if library is None:
        return None
    given = [ctypes.c_void_p, ctypes.c_int, *[ctypes.c_void_p] * 2, ctypes.c_int64, ctypes.c_int64, ctypes.c_float]
    library.klieg_loss.argtypes, library.klieg_loss.restype = [*given, ctypes.c_int], None
    library.klieg_twin_loss.argtypes, library.klieg_twin_loss.restype = [*given, ctypes.c_float, ctypes.c_int], None
    return library.klieg_loss, library.klieg_twin_loss


def _turned(logits: Tensor, targets: Tensor, smoothing: float, alpha: float | None) -> Tensor:
    """The sum of the losses; the logits (n, vocabulary), with alpha (2n, vocabulary), become its gradient."""
    run, twins = _native(), alpha is not None
    if run is not None and logits.device.type == "cpu" and logits.dtype in (torch.float32, torch.bfloat16):
        losses = torch.empty(len(targets))
        run[twins](logits.data_ptr(), logits.dtype == torch.bfloat16, targets.data_ptr(), losses.data_ptr(), len(targets),
                   logits.shape[1], smoothing, *([alpha] if twins else []), torch.get_num_threads())
        return losses.sum()
    wanted, rows = targets.repeat(1 + twins), torch.arange(len(logits), device=logits.device)
    share, log_p = smoothing / logits.shape[1], logits.float().log_softmax(1)
    total = -(1 - smoothing) * log_p[rows, wanted].sum() - share * log_p.sum()
    p = log_p.exp()
    grad = p - share
    grad[rows, wanted] -= 1 - smoothing
    if alpha is not None:
        # d KL(p|q) = p (ln p - ln q - KL); d KL(q|p) = p - q, and the same the other way round.
        apart, others = log_p - log_p.roll(len(targets), 0), p.roll(len(targets), 0)
        divergence = (p * apart).sum(1, keepdim=True)
        total += alpha / 2 * divergence.sum()
        grad += alpha / 2 * (p * (apart - divergence) + p - others)
    logits.copy_(grad)
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


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, targets: Tensor, smoothing: float, alpha: float | None) -> Tensor:
        if not picks(hidden.device):
            total, count, *grads = _unpicked(hidden, weight, targets, smoothing)
            ctx.save_for_backward(*(grad.div_(count).to(weight.dtype) for grad in grads))
            return total / count
        kept = (targets >= 0).nonzero().squeeze(1)
        passes = torch.arange(1 if alpha is None else 2)[:, None] * len(targets)
        count = len(passes) * len(kept)
        total = hidden.new_zeros((), dtype=torch.float32)
        grad_hidden = torch.zeros_like(hidden)
        grad_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        # Memory that is fresh for every chunk costs more than the products: this is filled again and again.
        most = CHUNK * 4 // weight.itemsize
        room = torch.empty(min(most, count), len(weight), dtype=weight.dtype, device=weight.device)
        half = weight.dtype != grad_weight.dtype
        if half:
            product, sums = torch.empty_like(weight), torch.empty_like(grad_weight)
        for picked in kept.split(most // len(passes)):
            rows = (passes + picked).flatten()
            h, logits = hidden[rows], room[:len(rows)]
            total += _turned(torch.mm(h, weight.T, out=logits), targets[picked], smoothing, alpha)
            if half:
                grad_weight.add_(sums.copy_(torch.mm(logits.T, h, out=product)))
            else:
                grad_weight.addmm_(logits.T, h)
            grad_hidden[rows] = logits @ weight
        ctx.save_for_backward(grad_hidden.div_(count), grad_weight.div_(count).to(weight.dtype))
        return total / count

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grad, grad_weight * grad, None, None, None


def token_loss(hidden: Tensor, weight: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy in nats of softmax(hidden weight^T) against targets.

    hidden (n, width), weight (vocabulary, width), targets (n,), int64; negative targets do not
    count. A share `smoothing` of what is wanted is spread over the whole vocabulary (Szegedy et
    al. 2015; Vaswani et al. 2017, section 5.4).
    """
    return _Loss.apply(hidden, weight, targets, smoothing, None)


def twin_loss(hidden: Tensor, weight: Tensor, targets: Tensor, smoothing: float, alpha: float) -> Tensor:
    """R-Drop (Liang et al. 2021): two passes with different dropout, which should also agree.

    hidden (2n, width), those of one pass and then of the other; the rest is as in token_loss(). Half of the
    paper's equation 4, so that it compares with that: the mean over both passes, plus alpha / 4 times the
    mean over targets of KL(p|q) + KL(q|p).
    """
    run = _Loss.apply if picks(hidden.device) else _unpicked_twins
    return run(hidden, weight, targets, smoothing, alpha)


def _unpicked_twins(hidden: Tensor, weight: Tensor, targets: Tensor, smoothing: float, alpha: float) -> Tensor:
    """The same over all rows, whose logits are held at once; the gradient is autograd's."""
    counts, wanted = targets >= 0, targets[:, None].clamp(min=0)
    logs = [torch.log_softmax((h @ weight.T).float(), dim=-1) for h in hidden.chunk(2)]
    apart = ((logs[0].exp() - logs[1].exp()) * (logs[0] - logs[1])).sum(1)
    rows = alpha / 2 * apart
    for log_p in logs:
        rows = rows - (1 - smoothing) * log_p.gather(1, wanted).squeeze(1) - smoothing / len(weight) * log_p.sum(1)
    return torch.where(counts, rows, 0).sum() / (2 * counts.sum())
