"""Surveys under strides and global tokens, piece by piece, against the whole map; and that what is hidden is not computed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_survey import SUMS, assert_same, assert_tops, from_the_map, visible, whole_map

from klieg.attention import Mask
from klieg.kernels import attend, native, strides, survey, surveys
from klieg.survey import SurveySpec

TYPES = {"native": (torch.float32, 5e-6), "streamed": (torch.float64, 1e-12)}


def called(kind: str, size: int, shared: int, causal: bool) -> Mask:
    return getattr(Mask, kind)(size, shared) & (Mask.causal() if causal else Mask())


@pytest.mark.parametrize("maker", TYPES)
@given(st.sampled_from([40, 2**18]), st.integers(1, 70), st.integers(1, 2), st.integers(1, 20), st.sampled_from([0, 1, 7]),
       st.sampled_from(["window", "block", "strided"]), st.booleans(), st.booleans(), st.integers(0, 5), st.integers(0, 9),
       st.integers(1, 8))
def test_pieces_say_what_the_map_says(maker: str, room: int, count: int, batch: int, size: int, shared: int, kind: str,
                                      causal: bool, sunk: bool, top: int, cells: int, bins: int) -> None:
    dtype, tolerance = TYPES[maker]
    random = torch.Generator().manual_seed(count)
    q, k = (torch.randn(batch, h, count, 4, dtype=dtype, generator=random) for h in (4, 2))
    sinks = torch.randn(4, dtype=dtype, generator=random) if sunk else None
    mask, spec, probe = called(kind, size, shared or int(kind != "strided"), causal), SurveySpec(top, cells, bins), k[..., 0]
    seen = visible(mask, batch, 4, count, count)
    w, lse, s = whole_map(q.double(), k.double(), seen, sinks if sinks is None else sinks.double())
    expected = from_the_map(w, lse, s, spec)
    expected["probed"] = (w @ probe.double().repeat_interleave(2, dim=1)[..., None])[..., 0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strides, "ROOM", room)
        for known in (None, lse.to(dtype)):
            found = survey(q, k, known, mask, spec, sinks=sinks, probe=probe)
            assert_same(found, expected, tolerance)
            assert set(found.kernel.split(" + ")) <= {maker, "streamed"}
            if top:
                assert_tops(found, w, tolerance)


def test_softcap_and_scale_are_in_the_pieces_too() -> None:
    q, k = (torch.randn(1, 2, 50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(n)) for n in range(2))
    found = attend(q, k, k, called("strided", 6, 2, True), softcap=1.3, scale=2.0, survey=SurveySpec(top=0, map=50),
                   kernel="sparse").survey
    s = 1.3 * torch.tanh(2 * q @ k.mT / 1.3)
    w = torch.softmax(s.masked_fill(~visible(called("strided", 6, 2, True), 1, 2, 50, 50), -torch.inf), dim=-1)
    torch.testing.assert_close(found.map_mean, w)
    torch.testing.assert_close(found.map_max, w)


def test_column_sums_alone_come_from_the_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    q = torch.randn(1, 2, 90, 4)
    mask = called("strided", 7, 2, True)
    lse = attend(q, q, q, mask).lse
    expected = survey(q, q, lse, mask, kernel="streamed").received
    monkeypatch.setattr(surveys.walked, "survey", None)
    torch.testing.assert_close(surveys.received(q, q, lse, mask), expected)


@pytest.mark.parametrize(("mask", "most"), [
    # Global queries, global keys, and the window, a span whose outside the native kernel skips by itself.
    (called("strided", 9, 5, True), 5 * 2048 + 2043 * 5 + 2043**2), (called("window", 9, 5, False), 5 * 2048 + 2043 * 2048)])
def test_what_is_hidden_is_not_computed(mask: Mask, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, far, real, scores = [], [], native.compute, strides.scores
    monkeypatch.setattr(native, "compute", lambda part, *given, **more: asked.append(part) or real(part, *given, **more))
    monkeypatch.setattr(strides, "scores", lambda q, k, **given: far.append(q.numel() // 4 * k.shape[2]) or scores(
        q, k, **given))
    q = torch.randn(1, 1, 2048, 4)
    lse = attend(q, q, q, mask, kernel="sparse").lse
    asked.clear()
    found = survey(q, q, lse, mask)
    assert all(part.mask.scattered is False for part in asked)
    assert sum(part.q.shape[2] * part.k.shape[2] for part in asked) == most
    # Nine rows of every ninth token.
    assert sum(far) <= (9 * 228**2 if any(rule.kind == "strided" for rule in mask.rules) else 0)
    torch.testing.assert_close(found.mass, torch.ones(1, 1, 2048))


def test_a_row_that_is_said_to_see_nothing_has_no_weights() -> None:
    q = torch.randn(1, 1, 40, 4)
    mask = called("strided", 5, 0, True)
    lse = attend(q, q, q, mask).lse.clone()
    lse[0, 0, 20] = -torch.inf
    found = survey(q, q, lse, mask, SurveySpec(top=2, map=3))
    assert found.mass[0, 0, 20] == 0 and (found.top_keys[0, 0, 20] == -1).all() and found.mass.sum().round() == 39
    assert all(getattr(found, name).isfinite().all() for name in SUMS)


def test_a_part_of_a_map_and_a_bias_go_the_old_way() -> None:
    """Only whole texts fall into pieces; what is left is walked over, exactly too."""
    q = torch.randn(1, 1, 30, 4, dtype=torch.float64)
    mask, spec = called("strided", 5, 2, True), SurveySpec(top=3, map=4)
    w, lse, s = whole_map(q, q, visible(mask, 1, 1, 30, 30))
    halves = [survey(q[:, :, rows], q, lse[:, :, rows], mask, spec, rows=rows, keys=slice(0, 30), shape=(30, 30))
              for rows in (slice(0, 11), slice(11, 30))]
    assert halves[0].kernel == "streamed"
    assert_same(halves[0].merge(halves[1]), from_the_map(w, lse, s, spec), 1e-12)
    half = slice(15, 30)
    corner = survey(q[:, :, half], q[:, :, half], lse[:, :, half], mask, spec, rows=half, keys=half, shape=(30, 30))
    torch.testing.assert_close(corner.received[:, :, half], w[:, :, half, half].sum(2))
    assert survey(q, q, lse, mask, spec, bias=torch.zeros(1, 1, 30, 30, dtype=torch.float64)).kernel == "streamed"
