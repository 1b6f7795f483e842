"""Surveys against the whole map, which these sizes allow, and against the identities between their parts."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from klieg import tiles
from klieg.attention import Mask
from klieg.errors import KliegError
from klieg.kernels import KERNELS, attend, pooled, survey, walked
from klieg.survey import Survey, SurveySpec, edges

SUMS = ["mass", "entropy", "received", "first", "own", "distance_sum", "distance_squares", "histogram", "map_mean"]
ALL = [*SUMS, "lse", "max", "map_max", "top_weights", "distance_mean", "distance_variance"]


# The survey in plain torch is tested in float64, the native one in float32, which is what it takes; with their tolerances.
MAKERS = {"streamed": (torch.float64, 1e-12), "native": (torch.float32, 5e-6)}


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of at most 24 keys with top-k and of 6 without, so that short texts have many."""
    monkeypatch.setattr(walked, "WIDE", 24)
    monkeypatch.setattr(tiles, "_CPU_TILE", 16)


def whole_map(q: Tensor, k: Tensor, seen: Tensor, sinks: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Weights (b, h, i, j), log-sum-exp and scores, in the plainest way."""
    s = q @ k.repeat_interleave(q.shape[1] // k.shape[1], dim=1).mT / math.sqrt(q.shape[3])
    s = s.masked_fill(~seen, -torch.inf)
    total = s.exp().sum(-1) + (0 if sinks is None else sinks.exp()[:, None])
    return s.exp() / total.masked_fill(total == 0, 1)[..., None], total.log(), s


def from_the_map(w: Tensor, lse: Tensor, s: Tensor, spec: SurveySpec) -> dict[str, Tensor]:
    """What a survey says, from the map itself, one definition after the other."""
    queries, keys = w.shape[2:]
    slot = torch.arange(keys - queries, keys)
    distance = (slot[:, None] - torch.arange(keys)).abs().double()
    mass = w.sum(-1)
    share = w / mass.masked_fill(mass == 0, 1)[..., None]
    mean = (share * distance).sum(-1)
    lower = [0, *(2**n for n in range(spec.bins - 1))]
    bins = [(distance >= a) & (distance < b) for a, b in zip(lower, [*lower[1:], math.inf], strict=True)]
    found = {
        "lse": lse, "max": s.amax(-1), "mass": mass, "entropy": torch.special.entr(w).sum(-1), "received": w.sum(2),
        "first": w[..., 0], "own": torch.stack([w[:, :, i, slot[i]] for i in range(queries)], dim=2),
        "distance_sum": (w * distance).sum(-1), "distance_squares": (w * distance**2).sum(-1),
        "distance_mean": mean, "distance_variance": (share * (distance - mean[..., None])**2).sum(-1),
        "histogram": torch.stack([(w * which).sum((2, 3)) for which in bins], dim=2)}
    if spec.top:
        found["top_weights"] = w.sort(dim=3, descending=True).values[..., :spec.top]
    if spec.map:
        down, across = edges(queries, spec.map), edges(keys, spec.map)
        cells = [[w[:, :, a:b, c:d] for c, d in zip(across, across[1:], strict=False)]
                 for a, b in zip(down, down[1:], strict=False)]
        for name, pool in (("map_mean", torch.mean), ("map_max", torch.amax)):
            found[name] = torch.stack([torch.stack([pool(x, (2, 3)) for x in row], dim=2) for row in cells], dim=2)
    return found


def visible(mask: Mask, batch: int, heads: int, queries: int, keys: int) -> Tensor:
    return mask.visible(torch.arange(keys - queries, keys), torch.arange(keys)).expand(batch, heads, -1, -1)


@st.composite
def cases(draw: st.DrawFn, largest: int = 60) -> tuple[Tensor, Tensor, Mask, Tensor | None]:
    """q, k, mask and sinks in float64."""
    keys = draw(st.integers(1, largest))
    queries = draw(st.integers(1, keys))
    batch, groups, repeat = (draw(st.integers(1, 2)) for _ in range(3))
    random = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    q, k = (torch.randn(batch, h, n, 4, dtype=torch.float64, generator=random)
            for h, n in ((groups * repeat, queries), (groups, keys)))
    rules = [Mask.causal(), Mask.window(draw(st.integers(1, keys))), Mask.block(draw(st.integers(1, keys))),
             Mask.prefix(draw(st.integers(0, keys))),
             Mask.padding(torch.rand(batch, keys, generator=random) < 0.7),
             Mask.documents(torch.randint(0, 3, (batch, keys), generator=random)),
             Mask.explicit(torch.rand(batch, groups * repeat, keys, keys, generator=random) < 0.5)]
    mask = Mask()
    for rule in draw(st.lists(st.sampled_from(rules), max_size=2)):
        mask = mask & rule
    sinks = torch.randn(groups * repeat, dtype=torch.float64, generator=random) if draw(st.booleans()) else None
    return q, k, mask, sinks


specs = st.builds(SurveySpec, top=st.integers(0, 5), map=st.integers(0, 9), bins=st.integers(1, 8))


def assert_same(found: Survey, expected: dict[str, Tensor], tolerance: float) -> None:
    for name, truth in expected.items():
        torch.testing.assert_close(getattr(found, name).double(), truth, atol=tolerance * (1 + _size(truth)), rtol=0,
                                   msg=lambda text, name=name: f"{name}: {text}")


def assert_tops(found: Survey, w: Tensor, tolerance: float) -> None:
    """The largest weights are those of their keys in the map w (b, h, i, j), no key is there twice, and -1 stands for none."""
    at = found.top_keys
    assert ((at == -1) == (found.top_weights == 0)).all()
    torch.testing.assert_close(w.gather(3, at.clamp(min=0)).masked_fill(at == -1, 0), found.top_weights.double(),
                               atol=tolerance, rtol=0)
    live = [row[row >= 0].tolist() for row in at.flatten(0, 2)]
    assert all(len(set(row)) == len(row) for row in live)


def _size(x: Tensor) -> float:
    return x.masked_fill(torch.isinf(x), 0).abs().max().item()


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("known", [True, False], ids=["lse given", "lse found"])
@pytest.mark.usefixtures("small_tiles")
@given(cases(), specs)
def test_a_survey_says_what_the_map_says(maker: str, known: bool, case, spec: SurveySpec) -> None:
    q, k, mask, sinks = case
    dtype, tolerance = MAKERS[maker]
    q, k, sinks = (x if x is None else x.to(dtype) for x in (q, k, sinks))
    seen = visible(mask, *q.shape[:3], k.shape[2])
    w, lse, s = whole_map(q.double(), k.double(), seen, None if sinks is None else sinks.double())
    probe = k[..., 0]
    found = survey(q, k, lse.to(dtype) if known else None, mask, spec, sinks=sinks, probe=probe)
    assert found.kernel == maker
    expected = from_the_map(w, lse, s, spec)
    expected["probed"] = (w @ probe.double().repeat_interleave(q.shape[1] // k.shape[1], dim=1)[..., None])[..., 0]
    assert_same(found, expected, tolerance)
    if spec.top:
        assert_tops(found, w, tolerance)
    else:
        assert found.top_weights is found.top_keys is None
    if not spec.map:
        assert found.map_mean is found.map_max is None


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.usefixtures("small_tiles")
@given(cases())
def test_identities(maker: str, case) -> None:
    q, k, mask, sinks = case
    dtype, tolerance = MAKERS[maker]
    q, k, sinks = (x if x is None else x.to(dtype) for x in (q, k, sinks))
    queries, keys = q.shape[2], k.shape[2]
    found = attend(q, k, k, mask, sinks=sinks, survey=SurveySpec(top=keys, map=7)).survey
    live = visible(mask, *q.shape[:3], keys).any(-1)
    sunk = 0 if sinks is None else torch.exp(sinks[:, None] - found.lse)
    near = {"atol": tolerance * 4, "rtol": tolerance}
    torch.testing.assert_close(found.mass, (1.0 - sunk) * live.to(dtype), **near)
    torch.testing.assert_close(found.received.sum(2), found.mass.sum(2), **near)
    torch.testing.assert_close(found.histogram.sum(2), found.mass.sum(2), **near)
    torch.testing.assert_close(found.top_weights.sum(3), found.mass, **near)
    assert (found.top_weights.diff(dim=3) <= 0).all()
    assert (found.entropy >= 0).all()
    if sinks is None:
        assert (found.entropy <= visible(mask, *q.shape[:3], keys).sum(-1).clamp(min=1).log() + tolerance).all()
        torch.testing.assert_close(found.received.sum(2), live.to(dtype).sum(2), **near)
    cells = [torch.tensor(edges(n, 7)).diff() for n in (queries, keys)]
    sums = found.map_mean * cells[0][:, None] * cells[1]
    torch.testing.assert_close(sums.sum((2, 3)), found.mass.sum(2), **near)
    assert (found.map_max >= found.map_mean - tolerance).all()
    torch.testing.assert_close(found.map_max.amax((2, 3)), found.top_weights[..., 0].amax(2), **near)
    assert (found.distance_variance >= 0).all() and (found.distance_mean <= keys - 1 + 60 * tolerance).all()


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.usefixtures("small_tiles")
@given(cases(), specs, st.data())
def test_surveys_of_parts_merge_to_the_whole(maker: str, case, spec: SurveySpec, data: st.DataObject) -> None:
    q, k, mask, sinks = case
    dtype, tolerance = MAKERS[maker]
    shape = q.shape[2], k.shape[2]
    _, lse, _ = whole_map(q, k, visible(mask, *q.shape[:3], k.shape[2]), sinks)
    q, k, lse = (x.to(dtype) for x in (q, k, lse))
    whole = survey(q, k, lse, mask, spec)
    row, key = (data.draw(st.integers(1, n - 1)) if n > 1 else n for n in shape)
    parts = [survey(q[:, :, rows], k[:, :, keys], lse[:, :, rows], mask, spec, rows=rows, keys=keys, shape=shape)
             for rows in (slice(0, row), slice(row, shape[0])) for keys in (slice(0, key), slice(key, shape[1]))
             if rows.stop > rows.start and keys.stop > keys.start]
    merged = parts[-1]
    for part in reversed(parts[:-1]):
        merged = merged.merge(part)
    expected = {name: getattr(whole, name).double() for name in ALL if getattr(whole, name) is not None}
    assert_same(merged, expected, tolerance)
    assert merged.kernel == maker
    if spec.top and maker == "streamed":
        ties = (whole.top_weights.diff(dim=3) == 0).any()
        assert ties or torch.equal(merged.top_keys, whole.top_keys)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_every_kernel_gives_the_survey(kernel: str, dtype: torch.dtype) -> None:
    """In tiles of the real size, two documents in each row; a short one where Triton interprets its kernel."""
    random = torch.Generator().manual_seed(0)
    count = {"gpu": 40, "short": 200}.get(kernel, 700)
    q, k = (torch.randn(2, h, count, 16, generator=random).to(dtype) for h in (4, 2))
    ids = (torch.arange(count) > 3 * count // 7).long().expand(2, -1)
    masks = {"few": Mask.padding(ids == 1), "short": Mask.causal(), "sparse": Mask.causal() & Mask.strided(40, 3)}
    mask, spec = masks.get(kernel, Mask.causal() & Mask.documents(ids)), SurveySpec(map=16)
    q = q[:, :, -5:] if kernel == "few" else q
    if kernel == "gpu":
        pytest.importorskip("triton", reason="Triton is not installed")
        spec = SurveySpec(top=4, map=8)
    expected = from_the_map(*whole_map(q.double(), k.double(), visible(mask, 2, 4, q.shape[2], count)), spec)
    found = attend(q, k, k, mask, survey=spec, kernel=kernel)
    assert found.kernel == kernel
    assert_same(found.survey, expected, 4e-6)
    assert (found.survey.entropy >= 0).all() and (found.survey.top_weights <= 1).all()


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.usefixtures("small_tiles")
@given(st.integers(1, 60), st.integers(1, 20), st.sampled_from([0, 1, 7]), st.sampled_from(["window", "block", "strided"]),
       st.booleans())
def test_surveys_under_strides_and_global_tokens(maker: str, count: int, size: int, shared: int, kind: str,
                                                 causal: bool) -> None:
    """By a kernel that is named, over all pairs or tile by tile; where it is open, test_strides.py. And pooled maps."""
    dtype, tolerance = MAKERS[maker]
    q, k = (torch.randn(1, h, count, 4, dtype=dtype, generator=torch.Generator().manual_seed(h)) for h in (4, 2))
    mask = getattr(Mask, kind)(size, shared) & (Mask.causal() if causal else Mask())
    w, lse, s = whole_map(q.double(), k.double(), visible(mask, 1, 4, count, count))
    spec = SurveySpec(top=3, map=5)
    assert_same(survey(q, k, None, mask, spec, kernel=maker), from_the_map(w, lse, s, spec), tolerance)
    part = pooled(q, k, lse.to(dtype), mask, rows=slice(0, count), keys=slice(0, count), size=5, shape=(count, count))
    torch.testing.assert_close(part.mean.double(), from_the_map(w, lse, s, spec)["map_mean"], atol=tolerance, rtol=0)


def test_more_queries_than_keys() -> None:
    """Cross-attention to a shorter text: the first queries stand before key 0 and have no key of their own."""
    random = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 2, n, 4, dtype=torch.float64, generator=random) for n in (9, 5))
    w, lse, s = whole_map(q, k, torch.ones(1, 2, 9, 5, dtype=torch.bool))
    found = survey(q, k, lse, Mask())
    expected = from_the_map(w, lse, s, SurveySpec(map=64))
    expected["own"][:, :, :4] = 0
    expected["top_weights"] = expected["top_weights"][..., :5]
    assert_same(found, expected, 1e-12)


def test_softcap_bias_and_scale_are_in_the_scores() -> None:
    random = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 2, 9, 4, dtype=torch.float64, generator=random) for _ in range(2))
    bias = torch.randn(2, 9, 9, dtype=torch.float64, generator=random)
    found = attend(q, k, k, softcap=1.3, bias=bias, scale=2.0, survey=SurveySpec(top=0, map=9)).survey
    w = torch.softmax(1.3 * torch.tanh(2 * q @ k.mT / 1.3) + bias, dim=-1)
    torch.testing.assert_close(found.map_mean, w)
    torch.testing.assert_close(found.map_max, w)


def test_received_by_group_sums_over_the_heads_that_share_keys() -> None:
    q, k = torch.randn(1, 6, 5, 4), torch.randn(1, 2, 5, 4)
    found = attend(q, k, k, survey=SurveySpec(top=0, map=0)).survey
    by_group = found.received_by_group(2)
    torch.testing.assert_close(by_group[:, 0], found.received[:, :3].sum(1))
    torch.testing.assert_close(by_group[:, 1], found.received[:, 3:].sum(1))
    with pytest.raises(KliegError, match="6 heads do not divide over 4"):
        found.received_by_group(4)


@given(st.integers(1, 500), st.integers(1, 70))
def test_buckets_cover_everything_once_and_are_as_equal_as_they_can_be(length: int, cells: int) -> None:
    bounds = edges(length, cells)
    sizes = [b - a for a, b in zip(bounds, bounds[1:], strict=False)]
    assert bounds[0] == 0 and bounds[-1] == length and len(sizes) == min(cells, length)
    assert min(sizes) >= 1 and max(sizes) - min(sizes) <= 1


def test_a_survey_needs_no_map_of_its_own() -> None:
    """4096 queries and keys: the survey is kept in a thousandth of the map."""
    q = torch.randn(1, 1, 4096, 4)
    found = attend(q, q, q, Mask.causal(), survey=SurveySpec(top=4, map=8)).survey
    kept = sum(x.numel() for x in found.tensors().values())
    assert kept < 4096**2 / 100
    torch.testing.assert_close(found.received.sum(2), torch.tensor([[4096.0]]))


@pytest.mark.parametrize("given", [{"top": -1}, {"map": -1}, {"bins": 0}])
def test_a_specification_that_makes_no_sense(given: dict) -> None:
    with pytest.raises(KliegError, match="a survey got"):
        SurveySpec(**given)


def test_what_does_not_fit() -> None:
    q = torch.randn(1, 2, 6, 4)
    lse = torch.zeros(1, 2, 6)
    with pytest.raises(KliegError, match="expected as many of each"):
        survey(q, q, lse[:, :, :5], Mask())
    with pytest.raises(KliegError, match="rows 0:6 and keys 0:3"):
        survey(q, q, lse, Mask(), keys=slice(0, 3), shape=(6, 6))
    whole = survey(q, q, lse, Mask())
    with pytest.raises(KliegError, match="their lse differ"):
        whole.merge(survey(q[:, :1], q[:, :1], lse[:, :1], Mask()))
    with pytest.raises(KliegError, match="with and without top weights"):
        whole.merge(survey(q, q, lse, Mask(), SurveySpec(top=0)))


@pytest.mark.parametrize("maker", MAKERS)
def test_a_row_that_is_said_to_see_nothing_has_no_weights(maker: str) -> None:
    q = torch.randn(1, 1, 6, 4, dtype=MAKERS[maker][0])
    lse = survey(q, q, None, Mask()).lse
    lse[0, 0, 2] = -torch.inf
    found = survey(q, q, lse, Mask(), SurveySpec(top=2, map=3), kernel=maker)
    assert found.lse[0, 0, 2] == -torch.inf and found.mass[0, 0, 2] == 0 and found.mass.sum().round() == 5
    assert torch.allclose(found.received.sum(), found.mass.sum()) and (found.top_keys[0, 0, 2] == -1).all()


@pytest.mark.parametrize("maker", MAKERS)
def test_the_log_sum_exp_of_a_part_is_found_too(maker: str) -> None:
    """Rows in the middle of a text stand at their own slots."""
    q = torch.randn(1, 2, 9, 4, dtype=MAKERS[maker][0])
    whole = survey(q, q, None, Mask.causal(), SurveySpec(top=0, map=0))
    rows = slice(2, 5)
    part = survey(q[:, :, rows], q, None, Mask.causal(), SurveySpec(top=0, map=0), rows=rows, keys=slice(0, 9), shape=(9, 9),
                  kernel=maker)
    torch.testing.assert_close(part.lse[:, :, rows], whole.lse[:, :, rows])
