"""What a head does, in one number each: statistics of a survey, averaged over the queries of a text.

Every one is a sum that the survey holds already, so a head of 128k tokens costs what one of ten
does. Rows that see nothing are left out of every mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from klieg.errors import KliegError, nearest
from klieg.survey import Survey
from klieg.trace import Call, Trace


@dataclass(frozen=True)
class Statistic:
    """How a number is computed from a survey, for all texts and heads (b, h); its unit; and what it is, for the help."""

    of: Callable[[Survey], Tensor]
    unit: str
    """"share" (0 to 1), "nats" or "tokens"."""
    meaning: str
    placed: bool = False
    """Whether it is of places, which a target and its source do not have in common."""


def _mean(survey: Survey, values: Tensor) -> Tensor:
    """The mean of (b, h, i) over the rows that see something."""
    live = (survey.lse > -torch.inf) & (survey.mass > 0)
    return values.double().where(live, 0.0).sum(-1) / live.sum(-1).clamp(min=1)


STATISTICS: dict[str, Statistic] = {
    "entropy": Statistic(lambda s: _mean(s, s.entropy), "nats",
                         "how spread a row is: 0 looks at one key, ln n at n keys alike"),
    "sharpest": Statistic(lambda s: _mean(s, torch.exp(s.max - s.lse)), "share", "the largest weight of a row"),
    "distance": Statistic(lambda s: _mean(s, s.distance_mean), "tokens", "how far away a row looks in the mean",
                          placed=True),
    "first": Statistic(lambda s: _mean(s, s.first), "share", "the weight on the first token, where idle heads rest"),
    "own": Statistic(lambda s: _mean(s, s.own), "share", "the weight on the query's own token", placed=True),
    "beside": Statistic(lambda s: s.histogram[..., 1].double() / s.histogram.double().sum(-1).clamp(min=1e-30), "share",
                        "the weight on the tokens directly beside it: in a decoder the one before", placed=True),
    "received": Statistic(lambda s: s.received.double().amax(-1) / s.received.double().sum(-1).clamp(min=1e-30), "share",
                          "what the most attended key gets of all weight"),
}


def statistic(name: str) -> Statistic:
    """The statistic of this name."""
    if name not in STATISTICS:
        raise KliegError(f"there is no statistic {name!r}." + nearest(name, list(STATISTICS)))
    return STATISTICS[name]


def applies(name: str, call: Call) -> bool:
    """Whether a statistic says anything of a call: of cross-attention those of places do not."""
    return call.kind != "cross" or not statistic(name).placed


def measured(call: Call, name: str, batch: int = 0) -> list[float]:
    """One statistic of every head of a call, of one text."""
    if call.survey is None:
        raise KliegError(f"layer {call.layer} ({call.kind}) has no survey; trace it again with one, as klieg map does.")
    return statistic(name).of(call.survey)[batch].tolist()


def heads(trace: Trace) -> dict[str, Any]:
    """Every statistic of every head as plain data for other programs, with the unit of each; those that do not apply to a
    call are left out of it."""
    return {"model": trace.model, "tokens": len(trace.tokens),
            "units": {name: known.unit for name, known in STATISTICS.items()},
            "calls": [{"layer": call.layer, "kind": call.kind, "heads": call.heads, "kv_heads": call.kv_heads,
                       **{name: measured(call, name) for name in STATISTICS if applies(name, call)}} for call in trace.calls]}


def farthest(trace: Trace) -> tuple[Call, int]:
    """The head that looks farthest, the first token aside: by the mean over queries of weight times distance."""
    best: tuple[float, Call, int] | None = None
    for call in trace.calls:
        if call.survey is None or call.kind == "cross":
            continue
        slots = torch.arange(call.keys - call.queries, call.keys, device=call.lse.device, dtype=torch.float64)
        away = _mean(call.survey, call.survey.distance_sum - call.survey.first.double() * slots)[0]
        head = int(away.argmax())
        if best is None or away[head].item() > best[0]:
            best = away[head].item(), call, head
    if best is None:
        raise KliegError("the trace has no survey; trace it again with one, as klieg map does.")
    return best[1:]
