"""How alike two tokens are inside a model, layer by layer: the same word in two sentences, or two words of one.

A token's vector is what stands at its place of the residual stream: the row of the embedding matrix at
first, and then what leaves every layer. Two vectors are as alike as the cosine of the angle between them,

    cos(x, y) = x . y / (|x| |y|)       1: one direction, 0: at right angles, -1: opposite

in float64. In some layers of many models any two tokens point into much the same direction, so a step also
has the mean cosine of all pairs of tokens: a number says little where that mean is as high.

    for step in similarity(klieg.trace("chat", "river bank"), 2, klieg.trace("chat", "The bank lends money"), 2):
        print(step.name, step.layer, step.cosine, step.mean)

Sources: residual streams, blocks.py; the mean as a measure of direction that all tokens share, Ethayarajh 2019,
"How Contextual are Contextualized Word Representations?".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from klieg.errors import KliegError
from klieg.trace import Trace


@dataclass(frozen=True)
class Step:
    """How alike two tokens are at one place of the stream."""

    name: str
    """"embedded": the row of the embedding matrix; "start": with what is added to it or normed before the first layer, where
    anything is; "layer": what leaves a layer."""
    layer: int | None
    """Which layer's output it is; None before the first."""
    cosine: float
    """Of the two tokens' vectors; 0 where one of them is all zeros."""
    mean: float | None
    """The cosine of every pair of a token of the one text and a token of the other, on average; in one text no token is paired
    with itself, and None where that leaves no pair."""
    lengths: tuple[float, float]
    """Of the two vectors."""


def similarity(a: Trace, token_a: int, b: Trace, token_b: int, kind: str | None = None) -> Iterator[Step]:
    """Token `token_a` of one trace beside token `token_b` of another of the same model, or of the same trace: a Step for the
    embedding and for every layer of the stack `kind`, "self" or "encoder", by default a decoder's or the only one.

    KliegError where the models differ, for two models have no vector space in common, or where a trace has no streams.
    """
    for name, layer, x, y in _states(a, b, kind):
        u, v = _directions(x), _directions(y)
        i, j = _token(token_a, x), _token(token_b, y)
        total, pairs = (u.sum(0) @ v.sum(0)).item(), len(u) * len(v)
        if a is b:
            total, pairs = total - (u * v).sum().item(), pairs - len(u)
        lengths = x[i].double().norm().item(), y[j].double().norm().item()
        yield Step(name, layer, _bounded(u[i] @ v[j]), total / pairs if pairs else None, lengths)


def neighbours(a: Trace, token: int, b: Trace, layer: int, kind: str | None = None) -> Tensor:
    """How alike one token of `a` is to every token of `b`, in what leaves a layer: (j,), float64."""
    for name, at, x, y in _states(a, b, kind):
        if name == "layer" and at == layer:
            return (_directions(y) @ _directions(x[_token(token, x)][None])[0]).clamp(-1, 1)
    known = [block.layer for block in a.stream(kind).blocks]
    raise KliegError(f"there is no layer {layer} in the stream of {a.model!r}; it has layers {known[0]} to {known[-1]}.")


def _states(a: Trace, b: Trace, kind: str | None) -> Iterator[tuple[str, int | None, Tensor, Tensor]]:
    """Where the two streams are compared: name, layer, and both texts' vectors (i, width) and (j, width)."""
    if a.model != b.model:
        raise KliegError(f"{a.model!r} and {b.model!r} have no vector space in common; compare two texts of one model.")
    one, two = a.stream(kind), b.stream(kind)
    if one.final.shape[2] != two.final.shape[2] or [x.layer for x in one.blocks] != [x.layer for x in two.blocks]:
        raise KliegError(f"the two traces are not of the same model {a.model!r}: their streams differ in width or in layers; "
                         "trace both texts with one model.")
    yield "embedded", None, one.embedded[0], two.embedded[0]
    starts = one.blocks[0].input, two.blocks[0].input
    if not (torch.equal(one.embedded, starts[0]) and torch.equal(two.embedded, starts[1])):
        yield "start", None, starts[0][0], starts[1][0]
    for x, y in zip(one.blocks, two.blocks, strict=True):
        yield "layer", x.layer, x.output[0], y.output[0]


def _directions(x: Tensor) -> Tensor:
    """Every row (i, width) at length 1, in float64; one of zeros stays zeros."""
    wide = x.double()
    if not wide.isfinite().all():
        raise KliegError("the stream holds numbers that are not finite, and those have no direction; run the model in float32.")
    return wide / wide.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)


def _bounded(cosine: Tensor) -> float:
    """Rounding may leave a cosine of 1 a little above it."""
    return min(1.0, max(-1.0, cosine.item()))


def _token(index: int, x: Tensor) -> int:
    if not 0 <= index < len(x):
        raise KliegError(f"there is no token {index}; the text has tokens 0 to {len(x) - 1}.")
    return index
