from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from klieg.attention import Mask, hide, scores, weights
from klieg.errors import KliegError
from klieg.survey import SurveySpec
from klieg.trace import Trace
from klieg.views.statistics import STATISTICS, applies, farthest, heads, measured


def truth(trace: Trace, place: int) -> torch.Tensor:
    """The map of every head in float64: (h, i, j)."""
    call = trace.calls[place]
    s = hide(scores(call.q.double(), call.k.double()), call.mask)
    return weights(s, torch.logsumexp(s, -1))[0]


def expected(w: torch.Tensor) -> dict[str, torch.Tensor]:
    n = w.shape[-1]
    away = (torch.arange(n)[:, None] - torch.arange(n)).abs()
    return {"entropy": -torch.special.xlogy(w, w).sum(-1).mean(-1), "sharpest": w.amax(-1).mean(-1),
            "distance": (w * away).sum(-1).mean(-1), "first": w[..., 0].mean(-1), "own": w.diagonal(dim1=1, dim2=2).mean(-1),
            "beside": (w * (away == 1)).sum((1, 2)) / n, "received": w.sum(1).amax(-1) / n}


@pytest.mark.parametrize("name", STATISTICS)
def test_every_statistic_is_what_the_map_says(seen: Trace, name: str) -> None:
    for place, call in enumerate(seen.calls):
        torch.testing.assert_close(torch.tensor(measured(call, name), dtype=torch.float64), expected(truth(seen, place))[name],
                                   rtol=1e-4, atol=1e-6)


def test_rows_that_see_nothing_are_in_no_mean(seen: Trace) -> None:
    call = seen.calls[0]
    mask = Mask.causal() & Mask.padding(torch.arange(300)[None] >= 100)
    s = hide(scores(call.q.double(), call.k.double()), mask)
    lse = torch.logsumexp(s, -1)
    found = replace(call, mask=mask, lse=lse.float(), survey=None).surveyed(SurveySpec(top=0, map=0))
    alone = expected(weights(s, lse)[0][:, 100:, 100:])
    for name in ("entropy", "sharpest", "distance", "own"):
        assert measured(found, name) == pytest.approx(alone[name].tolist(), rel=1e-4)


def test_the_farthest_head_is_the_one_that_looks_back_most(seen: Trace) -> None:
    best = []
    for place, call in enumerate(seen.calls):
        w = truth(seen, place)
        w[..., 0] = 0
        away = (torch.arange(300)[:, None] - torch.arange(300)).abs()
        best += [((w[head] * away).sum(-1).mean().item(), call.layer, head) for head in range(call.heads)]
    call, head = farthest(seen)
    assert (call.layer, head) == max(best)[1:]


def test_the_plain_data_has_every_head_once(seen: Trace) -> None:
    said = json.loads(json.dumps(heads(seen)))
    assert [call["layer"] for call in said["calls"]] == [1, 4, 7] and set(said["units"]) == set(STATISTICS)
    assert all(len(call[name]) == 4 and all(map(math.isfinite, call[name])) for call in said["calls"] for name in STATISTICS)


def test_statistics_of_places_are_not_of_cross_attention(seen: Trace) -> None:
    mixed = [replace(seen.calls[0], kind="cross"), *seen.calls[1:]]
    said = heads(SimpleNamespace(model="", tokens=[], calls=mixed))
    placed = {"distance", "own", "beside"}
    assert set(STATISTICS) - set(said["calls"][0]) == placed and set(STATISTICS) <= set(said["calls"][1])
    assert {name for name in STATISTICS if not applies(name, mixed[0])} == placed


def test_what_there_is_not_is_named(trace: Trace, seen: Trace) -> None:
    with pytest.raises(KliegError, match="has no survey"):
        measured(trace[0], "entropy")
    with pytest.raises(KliegError, match="has no survey"):
        farthest(trace)
    with pytest.raises(KliegError, match="Did you mean 'entropy'"):
        measured(seen[1], "entropie")
