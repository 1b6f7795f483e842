"""A call is kept with a proof or refused with a reason: sabotage of every part of it must be seen."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from klieg.attention import Mask, hide, log_sum_exp, output, scores
from klieg.attention import weights as weights_of
from klieg.errors import KliegError
from klieg.survey import SurveySpec
from klieg.watching.masks import Reading
from klieg.watching.measure import measure
from klieg.watching.registry import Heard
from klieg.watching.strands import ROW_SUMS

REAL = torch.ones(2, 9, dtype=torch.bool)
REAL[0, :3] = False
MASK = Mask.causal() & Mask.padding(REAL)


def call(softcap: float | None = None, sinks: Tensor | None = None, **changed: Any) -> tuple[Heard, Reading]:
    """A call as an exact kernel makes it, and its mask."""
    noise = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, heads, 9, 8, generator=noise) for heads in (4, 2, 2))
    s = hide(scores(q, k, softcap=softcap), MASK)
    lse = log_sum_exp(s, sinks)
    blind = ~MASK.visible(torch.arange(9), torch.arange(9)).any(-1)
    # A fused kernel reports 0 for rows that see nothing.
    given = lse.masked_fill(blind, 0) if sinks is None and softcap is None else None
    options = {"scaling": 8 ** -0.5, "softcap": softcap, "s_aux": sinks}
    made = Heard(nn.Identity(), "eager", "eager", q, k, v, None, options, output(weights_of(s, lse), v), given, None)
    return replace(made, **changed), Reading(9, MASK, None, blind)


@pytest.mark.parametrize("options", [{}, {"softcap": 2.0}, {"sinks": torch.tensor([0.5, -1.0, 2.0, 0.0])}], ids=str)
def test_an_exact_call_is_measured(options: dict[str, Any]) -> None:
    heard, reading = call(**options)
    found = measure(heard, reading, 3, "self", 0, SurveySpec(top=2, map=4))
    s = hide(scores(heard.q.double(), heard.k.double(), softcap=options.get("softcap")), MASK)
    w = weights_of(s, log_sum_exp(s, options.get("sinks")))
    assert (found.survey.received - w.sum(2)).abs().max() < 1e-5 and found.certificate.passed
    assert (found.survey.lse == -torch.inf).sum() == (0 if "sinks" in options else 12)
    assert found.probe.shape == (2, 2, 9) and found.mixed.shape == (2, 4, 9)


SABOTAGE: dict[str, Callable[[Heard, Reading], tuple[Heard, Reading]]] = {
    "a scale off by 1 %": lambda c, r: (replace(c, options=c.options | {"scaling": 1.01 * 8 ** -0.5}, lse=None), r),
    "an output off by 1 %": lambda c, r: (replace(c, output=1.01 * c.output), r),
    "a lost mask": lambda c, r: (replace(c, lse=None), Reading(9, Mask.causal())),
    "a lost causality": lambda c, r: (replace(c, lse=None), Reading(9, Mask.padding(REAL), None, r.blind)),
    "a log-sum-exp of base 2": lambda c, r: (replace(c, lse=c.lse / math.log(2)), r),
    "weights in the place of the log-sum-exp": lambda c, r: (replace(c, lse=torch.rand(c.lse.shape)), r),
    "heads in another order": lambda c, r: (replace(c, output=c.output.flip(1)), r),
    "one number of one row": lambda c, r: (replace(c, output=c.output.index_put(
        (torch.tensor(1), torch.tensor(2), torch.tensor(5), torch.tensor(3)), torch.tensor(2.0), accumulate=True)), r),
    "an unknown bias": lambda c, r: (c, replace(r, bias=torch.rand(1, 4, 9, 9))),
}


@pytest.mark.parametrize("what", SABOTAGE)
def test_sabotage_is_seen(what: str) -> None:
    with pytest.raises(KliegError, match=r"layer 3 \(cross\), .*head \d, row \d+:") as refused:
        measure(*SABOTAGE[what](*call()), 3, "cross", 10, ROW_SUMS)
    assert "\n" not in str(refused.value)
    if what == "one number of one row":
        assert "text 1, head 2, row 15" in str(refused.value)


@pytest.mark.parametrize("name", ["q", "k", "v"])
def test_nan_is_named_with_its_place(name: str) -> None:
    heard, reading = call()
    bad = getattr(heard, name).clone()
    bad[1, 1, 4] = torch.nan
    with pytest.raises(KliegError, match=rf"layer 0 \(self\), text 1, head \d, row \d.*{name} holds NaN"):
        measure(replace(heard, **{name: bad}, lse=None), reading, 0, "self", 0, ROW_SUMS)


def test_keywords_that_nobody_knows_are_named() -> None:
    heard, reading = call()
    with pytest.raises(KliegError, match="also given block_indices"):
        strange = heard.options | {"block_indices": [1], "position_ids": 3}
        measure(replace(heard, output=heard.output * 2, options=strange), reading, 0, "self", 0, ROW_SUMS)


def test_narrow_types_are_measured_by_their_last_digit() -> None:
    heard, reading = call()
    narrow = {name: getattr(heard, name).bfloat16() for name in ("q", "k", "v", "output")}
    q, k, v = (narrow[name].float() for name in ("q", "k", "v"))
    s = hide(scores(q, k), MASK)
    narrow["output"] = output(weights_of(s, log_sum_exp(s)), v).bfloat16()
    found = measure(replace(heard, **narrow, lse=None), reading, 0, "self", 0, ROW_SUMS)
    assert found.survey.lse.dtype == torch.float32 and found.certificate.row_sum_error < 1e-5
    with pytest.raises(KliegError, match="A V"):
        measure(replace(heard, **narrow | {"output": narrow["output"] * 1.2}, lse=None), reading, 0, "self", 0, ROW_SUMS)
