"""One weight of a row that is too long to send: its score, and the row's largest exponentials with the sum of the rest."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from klieg.attention import weights
from klieg.explorer.chunks import check
from klieg.trace import Call

TERMS = 32   # exponentials of the row that are sent one by one


def written(call: Call, head: int, query: int, key: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Every number of one weight, in float64 from q (d,) and k (d,), which are sent beside them.

    `terms` are [key, score, exp(score - row_max)], the largest first and that of the key itself among them; `rest` is
    the sum over the other keys that are seen, `others` of them, and a learned sink adds `sink`.
    """
    check(call, head, (query, query + 1), (key, key + 1), None)
    call.need("q", "k")
    assert call.q is not None and call.k is not None
    group, row = call.group(head), slice(query, query + 1)
    q, k = call.q[0, head, query], call.k[0, group, key]
    scores, seen = call.scaled(head, row)[0], call.visible(head, row, slice(None))[0]
    scaled, scores = scores[key].item(), scores.masked_fill(~seen, -torch.inf)
    learned = call.sinks[head].item() if call.sinks is not None else -math.inf
    row_max = max(scores.max().item(), learned)
    row_max = row_max if row_max > -math.inf else 0.0
    powers = torch.exp(scores - row_max)
    sink = math.exp(learned - row_max)
    row_sum = powers.sum().item() + sink
    count = int(seen.sum())
    top = powers.masked_fill(~seen, -1).topk(min(TERMS, count)).indices.tolist()
    if seen[key] and key not in top:
        top[-1] = key
    terms = [[j, scores[j].item(), powers[j].item()] for j in top]
    bias = None if call.bias is None else call.bias.expand(*call.lse.shape, call.keys)[0, head, query, key].item()
    lse = call.lse[0, head, query].double()
    body = {
        "dot": (q.double() @ k.double()).item(), "scaled": scaled, "bias": bias, "reason": call.reason(head, query, key),
        "score": _finite(scores[key].item()), "lse": _finite(lse.item()), "row_max": row_max, "row_sum": row_sum, "sink": sink,
        "weight": powers[key].item() / row_sum if row_sum else 0.0, "model_weight": weights(scores[key], lse[None])[0].item(),
        "terms": terms, "others": count - len(terms), "rest": max(row_sum - sink - math.fsum(t[2] for t in terms), 0.0),
    }
    return body, {"q": q, "k": k}


def _finite(value: float) -> float | None:
    """JSON has no infinity: a score that is hidden is nothing."""
    return value if math.isfinite(value) else None
