"""Documents packed in one row, each attended by itself: the kernel of training.

A mask over the whole row would compute every pair of strangers and throw it away. Here the
fused kernel runs once a document, where plain causality is all there is to know; for rows of
four documents that is an eighth of the work. It is one operator to torch, so torch.compile
takes it whole.
"""

from __future__ import annotations

import torch
from torch import Tensor

from klieg.attention import Mask
from klieg.kernels.fused import contiguous

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def refusal(q: Tensor, k: Tensor, v: Tensor, mask: Mask, *, softcap: float | None, sinks: Tensor | None,
            bias: Tensor | None) -> str | None:
    """Why this call is not causal self-attention over packed documents; None if it is."""
    if q.device.type != "cpu":
        return f"it runs on the CPU and the tensors are on {q.device.type}"
    if sorted(rule.kind for rule in mask.rules) != ["causal", "documents"] or q.shape[2] != k.shape[2]:
        return "it takes whole rows under a mask of causality and documents"
    if softcap is not None or sinks is not None or bias is not None:
        return "it knows no softcap, sinks or bias"
    return None if v.shape[3] == k.shape[3] else "its values must be as wide as its keys"


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Mask, *, scale: float) -> tuple[Tensor, Tensor]:
    """Output (b, h, i, e) and log-sum-exp (b, h, i)."""
    documents = next(rule.table for rule in mask.rules if rule.kind == "documents")
    q, k, v = (contiguous(x) for x in (q, k, v))
    return packed_attention(q, k, v, documents[:, :k.shape[2]].expand(q.shape[0], -1), scale)


def _places(documents: Tensor) -> list[tuple[int, slice | Tensor]]:
    """Row and slots of every document; a slice, unless the document lies in several pieces."""
    places: list[tuple[int, slice | Tensor]] = []
    for row, ids in enumerate(documents):
        for document in ids.unique().tolist():
            at = (ids == document).nonzero().squeeze(1)
            start, stop = at[0].item(), at[-1].item() + 1
            places.append((row, slice(start, stop) if stop - start == len(at) else at))
    return places


@torch.library.custom_op("klieg::packed_attention", mutates_args=())
def packed_attention(q: Tensor, k: Tensor, v: Tensor, documents: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """The forward pass, a document at a time."""
    b, h, i, d = q.shape
    output = q.new_empty(b, i, h, d).transpose(1, 2)
    lse = q.new_empty(b, i, h).transpose(1, 2)
    for row, at in _places(documents):
        o, l = _forward(*(x[row:row + 1, :, at] for x in (q, k, v)), 0.0, True, scale=scale)
        output[row, :, at], lse[row, :, at] = o[0], l[0]
    return output, lse


@packed_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, documents: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    b, h, i, d = q.shape
    return q.new_empty(b, i, h, d).transpose(1, 2), q.new_empty(b, i, h).transpose(1, 2)


@torch.library.custom_op("klieg::packed_attention_backward", mutates_args=())
def packed_attention_backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, output: Tensor, lse: Tensor,
                              documents: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, a document at a time."""
    grads = tuple(x.new_empty(x.shape[0], x.shape[2], x.shape[1], x.shape[3]).transpose(1, 2) for x in (q, k, v))
    for row, at in _places(documents):
        part = _backward(*(x[row:row + 1, :, at] for x in (grad, q, k, v, output, lse)), 0.0, True, scale=scale)
        for whole, piece in zip(grads, part, strict=True):
            whole[row, :, at] = piece[0]
    return grads


@packed_attention_backward.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, output: Tensor, lse: Tensor, documents: Tensor,
      scale: float) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(x.new_empty(x.shape[0], x.shape[2], x.shape[1], x.shape[3]).transpose(1, 2) for x in (q, k, v))


def _keep(ctx, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    q, k, v, documents, ctx.scale = inputs
    ctx.save_for_backward(q, k, v, *output, documents)


def _gradients(ctx, grad: Tensor, grad_lse: Tensor) -> tuple:
    q, k, v, output, lse, documents = ctx.saved_tensors
    return *packed_attention_backward(grad, q, k, v, output, lse, documents, ctx.scale), None, None


packed_attention.register_autograd(_gradients, setup_context=_keep)
