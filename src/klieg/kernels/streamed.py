"""Attention tile by tile with a running softmax: plain torch, any device, never an N x N tensor.

The backward pass computes every tile again from q, k and the log-sum-exp, so training needs
O(N) memory too. An explicit table or a bias is N x N by itself, and is the caller's.

Source: Milakov & Gimelshein 2018 (online softmax); Dao et al. 2022 (FlashAttention's backward).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from klieg.attention import Mask
from klieg.tiles import Scores, part

# Keys in a tile: so few that the tile has many rows, which the products with v and k like.
KEYS = 256


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Mask, *, scale: float, softcap: float | None,
              sinks: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Output (b, h, i, e) and log-sum-exp (b, h, i) in the type of the inputs, float32 or float64."""
    return _Streamed.apply(q, k, v, sinks, bias, mask, scale, softcap)


def compute(scores: Scores, v: Tensor, sinks: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The same of a part of a longer text, with the values (b, g, j, e) of its keys."""
    output, lse = scores.q.new_empty(*scores.q.shape[:3], v.shape[3]), scores.q.new_empty(scores.q.shape[:3])
    for rows in scores.rows(KEYS):
        output[:, :, rows], lse[:, :, rows] = _forward(scores, v, sinks, rows)
    return output, lse


def log_sum_exp(scores: Scores, sinks: Tensor | None) -> Tensor:
    """The log-sum-exp (b, h, i) alone, also of a part of a longer text."""
    narrow = scores.k.new_zeros(*scores.k.shape[:3], 1)         # values, of which it asks nothing
    return compute(scores, narrow, sinks)[1]


class _Streamed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, bias: Tensor | None, mask: Mask,
                scale: float, softcap: float | None) -> tuple[Tensor, Tensor]:
        scores = Scores.of(q, k, mask, scale=scale, softcap=softcap, bias=bias)
        output, lse = compute(scores, v, sinks)
        ctx.save_for_backward(q, k, v, sinks, bias, output, lse)
        ctx.options = mask, scale, softcap
        ctx.mark_non_differentiable(lse)
        return output, lse

    @staticmethod
    @once_differentiable
    def backward(ctx, d_output: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, sinks, bias, output, lse = ctx.saved_tensors
        mask, scale, softcap = ctx.options
        scores = Scores.of(q, k, mask, scale=scale, softcap=softcap, bias=bias)
        delta = (d_output * output).sum(-1, keepdim=True)                       # (b, h, i, 1)
        gradients = _Gradients(q, k, v, bias if ctx.needs_input_grad[4] else None)
        for rows in scores.rows(KEYS):
            for columns in scores.columns(rows, KEYS):
                gradients.add(scores, v, lse, d_output, delta, rows, columns)
        d_sinks = None
        if ctx.needs_input_grad[3]:
            share = torch.exp(sinks[:, None] - _finite(lse))                    # the sink's weight: (b, h, i)
            d_sinks = -(share * delta[..., 0]).sum((0, 2)).to(sinks.dtype)
        d_bias = None if gradients.bias is None else gradients.bias.to(bias.dtype)
        return gradients.q.mul_(scale), gradients.k, gradients.v, d_sinks, d_bias, None, None, None


def _forward(scores: Scores, v: Tensor, sinks: Tensor | None, rows: slice) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp of a block of queries; a sink is the first thing in the running sum."""
    q = scores.q[:, :, rows]
    top = q.new_full(q.shape[:3], -torch.inf) if sinks is None else sinks.to(q.dtype)[:, None].expand(q.shape[:3])
    total = torch.exp(top - _finite(top))
    mixed = q.new_zeros(*q.shape[:3], v.shape[3])
    for columns in scores.columns(rows, KEYS):
        s = scores.tile(rows, columns)
        old, top = top, torch.maximum(top, s.amax(-1))
        fade = torch.exp(old - _finite(top))
        w = _exp(s.sub_(_finite(top)[..., None]))
        total = total * fade + w.sum(-1)
        mixed = mixed * fade[..., None] + _grouped(w, v.shape[1]).matmul(v[:, :, columns]).view(mixed.shape)
    return mixed / total.masked_fill(total == 0, 1)[..., None], _finite(top) + total.log()


class _Gradients:
    """Sums of the gradients of q (before the scale), k, v and the bias over tiles."""

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> None:
        self.q, self.k, self.v = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        self.bias = None if bias is None else torch.zeros_like(bias, dtype=q.dtype)

    def add(self, scores: Scores, v: Tensor, lse: Tensor, d_output: Tensor, delta: Tensor,
            rows: slice, columns: slice) -> None:
        groups = v.shape[1]
        capped = scores.capped(rows, columns)
        w = _exp(scores.masked(capped, rows, columns) - _finite(lse[:, :, rows])[..., None])
        d_out = _grouped(d_output[:, :, rows], groups)
        self.v[:, :, columns] += _grouped(w, groups).mT @ d_out
        d_w = (d_out @ v[:, :, columns].mT).view(w.shape)
        d_s = w.mul_(d_w.sub_(delta[:, :, rows]))
        if self.bias is not None:
            target = part(self.bias, rows, columns)
            target += d_s.sum_to_size(target.shape)
        if scores.softcap is not None:
            d_s = d_s * (1 - (capped / scores.softcap).square_())
        d_s = _grouped(d_s, groups)
        self.q[:, :, rows] += (d_s @ scores.k[:, :, columns]).view(self.q[:, :, rows].shape)
        self.k[:, :, columns] += d_s.mT @ _grouped(scores.q[:, :, rows] * scores.scale, groups)


def _exp(x: Tensor) -> Tensor:
    """exp() in place, by exp2: exp takes many times as long where it gives 0, which it does of all that is hidden."""
    return x.mul_(1 / math.log(2)).exp2_()


def _finite(x: Tensor) -> Tensor:
    """0 where nothing was seen, so that -inf minus it stays -inf and its exp is 0."""
    return x.masked_fill(x == -torch.inf, 0)


def _grouped(x: Tensor, groups: int) -> Tensor:
    """(b, h, i, n) -> (b, g, h/g * i, n): the rows of all heads that share keys."""
    return x.unflatten(1, (groups, -1)).flatten(2, 3)
