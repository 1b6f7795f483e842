"""Calls of one layer are joined: what is kept of the parts is the map of the whole."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from klieg.attention import Mask, hide, log_sum_exp, output, scores
from klieg.attention import weights as weights_of
from klieg.certificate import probe_of, surveyed
from klieg.errors import KliegError
from klieg.kernels import survey as survey_of
from klieg.survey import SurveySpec
from klieg.watching.strands import ROW_SUMS, Increment, Pass, Strand

N, SPEC = 12, SurveySpec(top=3, map=4, bins=5)
NOISE = torch.Generator().manual_seed(0)
Q, K, V = (torch.randn(2, heads, N, 8, generator=NOISE) for heads in (4, 2, 2))


def strand(kept: bool = True, spec: SurveySpec | None = SPEC) -> Strand:
    return Strand(3, "self", "sdpa", 8 ** -0.5, None, None, 2, torch.float32, spec, 0, 0, kept=kept)


def mask_of(window: int | None) -> Mask:
    return Mask.causal() if window is None else Mask.causal() & Mask.window(window)


def add(to: Strand, end: int, size: int, moment: Pass, window: int | None = None, full: bool = False,
        order: Tensor | None = None) -> None:
    """The rows before `end`, as a model that has seen all before them gives them; a window's old keys are dropped."""
    start = 0 if window is None else max(0, end - size - window + 1)
    rows, keys, fresh = slice(end - size, end), slice(start, end), slice(end - size, end)
    of = torch.arange(2) if order is None else order
    q, k, v = Q[of, :, rows], K[of, :, keys], V[of, :, keys]
    mask = mask_of(window)
    s = hide(scores(q, k), mask)
    lse = log_sum_exp(s)
    given = output(weights_of(s, lse), v)
    signs, probe = probe_of(v)
    found = survey_of(q, k, lse, mask, (replace(SPEC, map=0) if end > size else SPEC) if full else ROW_SUMS, probe=probe)
    certificate = surveyed(found, given, signs, probe, layer=3)
    new = slice(fresh.start - start, fresh.stop - start)
    keep = [q, k[:, :, new], v[:, :, new], given] if to.kept else [None] * 4
    to.increments.append(Increment(moment, mask, end - start, start, *keep, None, lse, probe[:, :, new], given @ signs,
                                   certificate, found if full else None))


def whole(window: int | None, order: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Weights (b, h, i, j) and log-sum-exp in float64."""
    of = torch.arange(2) if order is None else order
    s = hide(scores(Q[of].double(), K[of].double()), mask_of(window))
    return weights_of(s, log_sum_exp(s)), log_sum_exp(s)


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("sizes", [(12,), (9, 1, 1, 1), (5, 4, 3), (1,) * 12], ids=str)
@pytest.mark.parametrize("kept", [True, False])
def test_the_parts_are_the_whole(sizes: tuple[int, ...], window: int | None, kept: bool) -> None:
    found, end = strand(kept), 0
    for size in sizes:
        end += size
        add(found, end, size, Pass(2), window, full=not kept or not end > size)
    call, (w, lse) = found.call(0, None, {}), whole(window)
    assert (call.layer, call.queries, call.keys, call.kv_heads) == (3, N, N, 2)
    assert (call.lse - lse).abs().max() < 1e-5
    survey = call.survey
    assert (survey.received - w.sum(2)).abs().max() < 1e-5 and (survey.mass - 1).abs().max() < 1e-5
    assert (survey.top_weights - w.topk(3).values).abs().max() < 1e-5
    live = survey.top_keys >= 0
    assert (w.gather(3, survey.top_keys.clamp(min=0)) - survey.top_weights)[live].abs().max() < 1e-5
    assert (survey.first - w[..., 0]).abs().max() < 1e-5
    assert (survey.own - w.diagonal(dim1=2, dim2=3)).abs().max() < 1e-5
    distance = (torch.arange(N)[:, None] - torch.arange(N)).abs()
    assert (survey.distance_sum - (w * distance).sum(-1)).abs().max() < 1e-4
    assert (survey.histogram.sum(-1) - N).abs().max() < 1e-4
    if kept:
        assert (call.every(slice(0, N)) - w).abs().max() < 1e-5 and survey.map_mean.shape == (2, 4, 4, 4)
        assert call.certificate.passed and call.v is not None
    else:
        assert (survey.map_mean is None) == (len(sizes) > 1) and call.k is None
        with pytest.raises(KliegError, match="keep_qk"):
            call.tile(0, slice(0, 1), slice(0, 1))


def test_rows_follow_their_texts() -> None:
    """A beam's first rows are those of the text that it came from."""
    order, found, first, later = torch.tensor([1, 1]), strand(), Pass(2), Pass(2)
    add(found, 9, 9, first)
    first.order = order
    add(found, N, 3, later, order=order)
    call, (w, _) = found.call(1, None, {}), whole(None, order)
    assert (call.every(slice(0, N)) - w).abs().max() < 1e-5


def test_a_wrong_order_of_texts_is_noticed() -> None:
    found, first = strand(), Pass(2)
    add(found, 9, 9, first)
    first.order = torch.tensor([1, 0])
    add(found, N, 3, Pass(2))
    with pytest.raises(KliegError, match=r"the joined run fails its certificate at layer 3"):
        found.call(0, None, {})


def test_what_a_cache_forgets_is_forgotten() -> None:
    found = strand()
    add(found, 6, 6, Pass(2))
    add(found, 11, 5, Pass(2))
    found.truncate(8)
    assert (found.rows, found.keys) == (8, 8)
    add(found, N, 4, Pass(2))
    assert (found.call(0, None, {}).every(slice(0, N)) - whole(None)[0]).abs().max() < 1e-5
    found.truncate(6)
    assert len(found.increments) == 1


def test_texts_that_ended_have_rows_that_see_nothing() -> None:
    found = strand()
    add(found, 9, 9, Pass(2))
    for end in (10, 11, 12):
        add(found, end, 1, Pass(2, step=end - 9, dead=torch.tensor([end > 10, False])))
    call, (w, _) = found.call(0, None, {}), whole(None)
    assert (call.every(slice(0, N))[1] - w[1]).abs().max() < 1e-5
    assert (call.every(slice(0, 10))[0] - w[0, :, :10]).abs().max() < 1e-5
    assert not call.every(slice(10, N))[0].any() and (call.lse[0, :, 10:] == -torch.inf).all()
    assert not call.survey.received[0, :, 10:].any() and call.certificate.passed
    assert call.visible(0, slice(0, N), slice(0, N), batch=0)[10:].sum() == 0
    assert found.call(1, 2, {}).queries == 10, "steps after the last are left out"


def test_q_and_k_are_given_away_after_their_surveys_are_made() -> None:
    found = strand()
    add(found, 9, 9, Pass(2), full=True)
    add(found, 10, 1, Pass(2))
    found.forget()
    assert all(part.q is part.k is None and part.survey is not None for part in found.increments)
    for end in (11, 12):
        add(found, end, 1, Pass(2), full=True)
    call, (w, _) = found.call(0, None, {}), whole(None)
    assert (call.survey.received - w.sum(2)).abs().max() < 1e-5
    assert (call.survey.top_weights - w.topk(3).values).abs().max() < 1e-5


def test_a_survey_is_made_only_if_it_is_wanted() -> None:
    found = strand(spec=None)
    add(found, 9, 9, Pass(2))
    add(found, 12, 3, Pass(2))
    assert found.call(0, None, {}).survey is None and found.call(0, None, {}).certificate.passed


def test_what_is_given_away_late_is_of_the_texts_as_they_were() -> None:
    found, passes, history = strand(), [Pass(2, step=n) for n in range(3)], [torch.tensor([1, 1]), torch.tensor([0, 0])]
    add(found, 9, 9, passes[0], full=True)
    add(found, 10, 1, passes[1], order=torch.tensor([1, 1]))
    add(found, 11, 1, passes[2], order=torch.tensor([1, 1]))
    found.forget(history)
    row = whole(None)[0][1, :, 9, :10]
    assert (found.increments[1].survey.top_weights[:, :, 0] - row.topk(3).values).abs().max() < 1e-5
