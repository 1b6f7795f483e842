"""Strides and global tokens: what the mask hides is never computed, though no query sees one span of keys.

Tiles that are hidden altogether are few here: with a stride of 128, nearly every tile of 64 x 64 has a pair that is
seen. But the seen pairs fall into four pieces without a pair in common, and in each of them, its tokens put in
another order, every query sees one span, which the native kernel computes alone:

    global   the global queries, over all keys
    first    the other queries, over the global keys
    near     the other queries, over the other keys of their window or block
    far      every stride-th token together, a row of them for each remainder: each sees those before it, and
             without causality also those behind it (the transposition of Child et al. 2019, section 5.2)

The parts of a row join by their log-sum-exps, exactly: output = sum over parts of exp(lse_part - lse) output_part
(Dao et al. 2022, "FlashAttention", section 3.1).
"""

from __future__ import annotations

import torch
from torch import Tensor

from klieg.attention import Mask
from klieg.kernels import native, streamed
from klieg.rules import Rule
from klieg.tiles import Scores


def refusal(q: Tensor, k: Tensor, v: Tensor, mask: Mask, *, softcap: float | None, sinks: Tensor | None,
            bias: Tensor | None) -> str | None:
    """Why this call is not a whole text under one scattered rule; None if it is."""
    if sum(rule.scattered for rule in mask.rules) != 1:
        return "its mask has no stride and no global tokens, or several rules with some; the others skip what one rule hides"
    if any(not rule.scattered and rule.kind != "causal" for rule in mask.rules):
        return "it knows no other rule than causality beside them"
    if q.shape[2] != k.shape[2]:
        return "it takes whole texts, with as many queries as keys"
    if bias is not None:
        return "it knows no bias"
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (q, k, v, sinks)):
        return "it has no backward pass"
    return None


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Mask, *, scale: float, softcap: float | None,
              sinks: Tensor | None, bias: None = None) -> tuple[Tensor, Tensor]:
    """Output (b, h, i, e) and log-sum-exp (b, h, i) in the type of the inputs, float32 or float64."""
    options = {"scale": scale, "softcap": softcap, "bias": None}
    output, lse = native.room(q, v), q.new_empty(q.shape[:3])
    for rows, keys, local in pieces(mask, k.shape[2]):
        piece = Scores(q[:, :, rows], k[:, :, keys], local, first_slot=rows.start, first_key=keys.start, **options)
        if rows.start == keys.start:
            lse[:, :, rows] = _computed(piece, v[:, :, keys], output[:, :, rows])[1]
        else:
            _add(output[:, :, rows], lse[:, :, rows], *_computed(piece, v[:, :, keys]))
    if stride := strided(mask, k.shape[2]):
        first, size = stride
        others = q[:, :, first:], k[:, :, first:], v[:, :, first:]
        for rows, far, far_lse in _far(*others, size, causal(mask), options):
            at = slice(first + rows.start, first + rows.stop)
            _add(output[:, :, at], lse[:, :, at], far, far_lse)
    if sinks is not None:
        sink = sinks.to(q.dtype)[:, None].expand_as(lse)                     # a part without values
        _add(output, lse, output.new_zeros(1).expand_as(output), sink)
    return output, lse


def pieces(mask: Mask, length: int) -> list[tuple[slice, slice, Mask]]:
    """Rows, keys and mask of the pieces global, near and first, where they are; the rows of near come before those of first."""
    rule, local = _scattered(mask), Mask(tuple(rule for rule in mask.rules if not rule.scattered))
    some = slice(0, min(rule.global_tokens, length))
    rest = slice(some.stop, length)
    near = local & Mask((Rule("window" if rule.kind == "strided" else rule.kind, rule.size),))
    found = [(some, slice(0, length), local), (rest, rest, near), (rest, some, local)]
    return [(rows, keys, left) for rows, keys, left in found if rows.start < rows.stop and keys.start < keys.stop]


def strided(mask: Mask, length: int) -> tuple[int, int] | None:
    """The first token of the piece far and its stride; None where no token is so far from another."""
    rule = _scattered(mask)
    return (rule.global_tokens, rule.size) if rule.kind == "strided" and length - rule.global_tokens > rule.size else None


def causal(mask: Mask) -> bool:
    """Whether the mask has the one other rule that refusal() lets pass."""
    return any(rule.kind == "causal" for rule in mask.rules)


def folded(x: Tensor, stride: int) -> Tensor:
    """(b, h, n, ...) -> (b, stride, h, high, ...): a row of every stride-th token. The last of some rows is no token, and 0."""
    high = -(-x.shape[2] // stride)
    x = torch.nn.functional.pad(x, (*[0] * 2 * (x.ndim - 3), 0, high * stride - x.shape[2]))
    return x.unflatten(2, (high, stride)).movedim(3, 1)


def _scattered(mask: Mask) -> Rule:
    return next(rule for rule in mask.rules if rule.scattered)


def _computed(part: Scores, v: Tensor, output: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp of one piece, by the native kernel where it can; written into `output` where that is given."""
    output = native.room(part.q, v) if output is None else output
    if native.refusal(part.q, part.k, v) is None:
        return output, native.compute(part, native.Wanted(output), v=v)["lse"]
    found, lse = streamed.compute(part, v)
    return output.copy_(found), lse


def _add(output: Tensor, lse: Tensor, more: Tensor, more_lse: Tensor) -> None:
    """Add a part over other keys to rows of the output and of the log-sum-exp, in place."""
    total = torch.logaddexp(lse, more_lse)
    # -inf where nothing is seen yet: 0 instead of it leaves both factors 0.
    base = total.masked_fill(total == -torch.inf, 0)
    output.mul_(torch.exp(lse - base)[..., None]).addcmul_(more, torch.exp(more_lse - base)[..., None])
    lse.copy_(total)


def _far(q: Tensor, k: Tensor, v: Tensor, stride: int, causal: bool, options: dict) -> list[tuple[slice, Tensor, Tensor]]:
    """Rows, output and log-sum-exp of what is seen beyond the window: of keys before, and without causality of those behind."""
    count, texts = q.shape[2], q.shape[0]
    q, k, v = (folded(x, stride).flatten(0, 1) for x in (q, k, v))           # (b * stride, h, high, d)
    high = q.shape[2]

    def rows_of(x: Tensor) -> Tensor:
        """Every stride-th token back in its place: (b, h, n, ...)."""
        return x.unflatten(0, (texts, stride)).movedim(1, 3).flatten(2, 3)

    # Each row but its first token sees all before it, and its own token is near: one step aside, that is plain causality.
    before = Scores.of(q[:, :, 1:], k[:, :, :-1], Mask.causal(), **options)
    found = [(slice(stride, count), *(rows_of(x)[:, :, :count - stride] for x in _computed(before, v[:, :, :-1])))]
    if not causal:
        real = (torch.arange(high * stride, device=q.device) < count).view(high, stride).T[:, 1:].flip(1).repeat(texts, 1)
        behind = Scores.of(q[:, :, :-1].flip(2), k[:, :, 1:].flip(2), Mask.causal() & Mask.padding(real), **options)
        output, lse = _computed(behind, v[:, :, 1:].flip(2))
        found.append((slice(0, (high - 1) * stride), rows_of(output.flip(2)), rows_of(lse.flip(2))))
    return found
