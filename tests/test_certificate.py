"""The certificate: it passes what is exact, and names the row of everything that is not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_pool import call

from klieg.attention import Mask, hide, log_sum_exp, output, scores, weights
from klieg.certificate import Certificate, joined, limit, probe_of, recomputed, surveyed
from klieg.errors import KliegError
from klieg.kernels import survey
from klieg.survey import SurveySpec

SPEC = SurveySpec(top=0, map=0)


def projected(kept, *, lse=None, given=None, values=None, mask=None, sinks=None) -> Certificate:
    """The certificate in O(N), of a call that may be spoiled."""
    values = kept.v if values is None else values
    signs, probe = probe_of(values)
    found = survey(kept.q, kept.k, kept.lse if lse is None else lse, mask or kept.mask, SPEC, softcap=kept.softcap, probe=probe)
    return surveyed(found, kept.output if given is None else given, signs, probe, layer=3, kind="cross", sinks=sinks)


def test_random_signs_are_the_same_every_time_and_for_every_batch() -> None:
    v = torch.randn(2, 3, 7, 64)
    signs, probe = probe_of(v)
    assert set(signs.tolist()) == {-1.0, 1.0} and torch.equal(signs, probe_of(v[:1].bfloat16())[0])
    torch.testing.assert_close(probe.double(), (v.double() * signs.double()).sum(-1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"softcap": 2.0}, {"sinks": torch.linspace(-1, 1, 6)}])
def test_what_is_exact_passes_both_ways(options: dict) -> None:
    kept, _ = call(**options)
    for found in (recomputed(kept), projected(kept, sinks=kept.sinks)):
        assert found.passed and found.heads == 12 and found.row_sum_error < 1e-5 and found.output_error < 1e-5
    found.check("it")


def test_a_forgotten_sink_fails() -> None:
    kept, _ = call(sinks=torch.linspace(-1, 1, 6))
    assert not projected(kept).passed and not recomputed(replace(kept, sinks=None)).passed


def spoiled(kept, fault: str):
    """One fault at text 1, head 4, row 50, or everywhere where it cannot be at one place."""
    lse, given = kept.lse.clone(), kept.output.clone()
    if fault == "lse":
        lse[1, 4, 50] += 0.01
    elif fault == "lse nan":
        lse[1, 4, 50] = torch.nan
    elif fault == "lse infinite":
        lse[1, 4, 50] = torch.inf
    elif fault == "output":
        given[1, 4, 50] *= 1.01
    elif fault == "one number":
        given[1, 4, 50, 2] += 0.01
    elif fault == "output nan":
        given[1, 4, 50, 2] = torch.nan
    return lse, given


@pytest.mark.parametrize("fault", ["lse", "lse nan", "lse infinite", "output", "one number", "output nan"])
def test_one_spoiled_row_is_named_by_both_ways(fault: str) -> None:
    kept, _ = call()
    lse, given = spoiled(kept, fault)
    for found, layer in ((recomputed(replace(kept, lse=lse, output=given)), "layer 0 (self)"),
                         (projected(kept, lse=lse, given=given), "layer 3 (cross)")):
        with pytest.raises(KliegError) as caught:
            found.check("the trace of 'm'")
        assert f"the trace of 'm' fails its certificate at {layer}, text 1, head 4, row 50: |" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_lost_mask_and_a_kernel_that_is_one_percent_off_fail() -> None:
    kept, _ = call()
    assert not projected(kept, mask=Mask()).passed and not recomputed(replace(kept, mask=Mask())).passed
    assert not projected(kept, given=kept.output * 1.01).passed
    assert not projected(kept, lse=kept.lse / torch.tensor(2.0).log()).passed


def test_a_row_that_sees_nothing_has_no_output_to_compare() -> None:
    mask = Mask.causal() & Mask.padding(torch.arange(100).expand(2, -1) >= torch.tensor([[0], [40]]))
    kept, _ = call(mask=mask)
    assert (kept.lse == -torch.inf).any()
    kept.output[kept.lse == -torch.inf] = torch.nan
    assert projected(kept).passed and recomputed(kept).passed
    first = int((kept.lse[1, 0] > -torch.inf).nonzero()[0])
    kept.output[1, 0, first] += 1
    assert projected(kept).output_at.row == recomputed(kept).output_at.row == first


def test_an_output_in_a_narrow_type_is_rounded_and_no_more() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, heads, 64, 16).bfloat16() for heads in (4, 2, 2))
    s = hide(scores(q.double(), k.double()), Mask.causal())
    lse = log_sum_exp(s)
    exact = output(weights(s, lse), v.double())
    signs, probe = probe_of(v)
    found = survey(q.float(), k.float(), lse.float(), Mask.causal(), SPEC, probe=probe)
    assert surveyed(found, exact.bfloat16(), signs, probe, layer=0).passed
    assert not surveyed(found, (exact * 1.05).bfloat16(), signs, probe, layer=0).passed
    assert limit(v, torch.bfloat16) > limit(v, torch.float32) == 1e-4 * v.abs().max()


def test_some_rows_are_checked_and_named_by_their_number() -> None:
    kept, _ = call()
    _, given = spoiled(kept, "output")
    broken = replace(kept, output=given)
    assert recomputed(broken, torch.tensor([0, 49, 51, 89])).passed
    assert recomputed(broken, torch.tensor([0, 50, 89])).output_at.row == 50
    rows = recomputed(replace(kept, v=None, output=None, lse=spoiled(kept, "lse")[0]), torch.tensor([50]))
    assert rows.row_sum_at.row == 50 and not rows.passed and rows.output_error == 0


def test_one_failure_among_many_is_not_hidden_by_a_larger_limit() -> None:
    good = Certificate(1e-6, 0.5, 4, allowed=1.0)
    bad = Certificate(1e-6, 0.1, 4, allowed=1e-4)
    whole = joined([good, bad, good])
    assert not whole.passed and whole.heads == 12 and whole.output_error == 0.1
    assert joined([good, good]).passed and joined([good, good]).output_error == 0.5
    assert not Certificate(float("inf"), 0.0, 1, 1.0).passed
