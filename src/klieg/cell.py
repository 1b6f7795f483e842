"""One weight written out: every number between q, k and the share of the output, in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from klieg.attention import weights

if TYPE_CHECKING:
    from klieg.trace import Call


@dataclass(frozen=True)
class Arithmetic:
    """One weight written out; vectors in float64, every number recomputable from those before it."""

    layer: int
    kind: str
    """"self", "encoder" or "cross", as the call says."""
    head: int
    query: int
    key: int
    query_token: str
    key_token: str
    unrotated_q: Tensor | None
    q: Tensor
    unrotated_k: Tensor | None
    k: Tensor
    products: Tensor
    """(d,): q times k, width by width."""
    dot: float
    """The sum of the products."""
    scale: float
    scaled: float
    """scale * dot, then softcap and bias where the model has them."""
    softcap: float | None
    bias: float
    reason: str | None
    """Why the mask hides this key, or None where it is seen."""
    score: float
    """What enters the softmax: scaled, or -inf where hidden."""
    row_scores: Tensor
    """(j,): the scores of the whole row."""
    row_max: float
    row_sum: float
    """Sum over the row of exp(score - row_max), the sink included."""
    weight: float
    v: Tensor
    contribution: Tensor
    """(e,): weight * v."""
    output: Tensor
    """(e,): what the head gave at this query, by the model."""
    share: float
    """contribution . output / output . output; the shares of a row sum to 1."""
    model_weight: float
    """exp(score - lse) with the lse of the kernel that ran."""
    difference: float
    """|weight - model_weight|."""


def arithmetic(call: Call, queries: list[str], keys: list[str], head: int, query: int, key: int, batch: int = 0) -> Arithmetic:
    """The whole arithmetic of one weight of a call that kept q, k, v and the output; queries and keys are the labels."""
    call.need("q", "k", "v", "output")
    group, rows = call.group(head), slice(query, query + 1)
    q, k = call.q[batch, head, query].double(), call.k[batch, group, key].double()
    v, own = call.v[batch, group, key].double(), call.output[batch, head, query].double()
    seen = call.visible(head, rows, slice(None), batch)
    row = call.scaled(head, rows, batch=batch)[0]
    scaled, row = row[key].item(), row.masked_fill(~seen[0], -torch.inf)
    sink = call.sinks[head].double() if call.sinks is not None else row.new_tensor(-torch.inf)
    row_max = torch.maximum(row.max(), sink)
    row_max = row_max.masked_fill(row_max == -torch.inf, 0)
    row_sum = torch.exp(row - row_max).sum() + torch.exp(sink - row_max)
    weight = (torch.exp(row[key] - row_max) / row_sum).item() if row_sum > 0 else 0.0
    model_weight = weights(row, call.lse[batch, head, query].double())[key].item()
    contribution = weight * v
    bias = 0.0 if call.bias is None else call.bias.expand(*call.q.shape[:3], call.keys)[batch, head, query, key].item()
    return Arithmetic(
        call.layer, call.kind, head, query, key, queries[query], keys[key],
        None if call.unrotated_q is None else call.unrotated_q[batch, head, query].double(), q,
        None if call.unrotated_k is None else call.unrotated_k[batch, group, key].double(), k,
        products=q * k, dot=(q @ k).item(), scale=call.scale, scaled=scaled, softcap=call.softcap, bias=bias,
        reason=call.reason(head, query, key, batch), score=row[key].item(), row_scores=row,
        row_max=row_max.item(), row_sum=row_sum.item(), weight=weight, v=v, contribution=contribution,
        output=own, share=(contribution @ own / (own @ own)).item() if own.any() else 0.0, model_weight=model_weight,
        difference=abs(weight - model_weight))
