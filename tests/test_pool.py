"""Regions of a map in buckets: against the formula in float64, from the survey's map and from q and k."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from klieg.attention import Mask, hide, log_sum_exp, output, scores, weights
from klieg.errors import KliegError
from klieg.kernels import survey
from klieg.pool import tile
from klieg.survey import SurveySpec
from klieg.trace import Call

QUERIES, KEYS = 90, 100


def call(spec: SurveySpec | None = None, needle: bool = False, mask: Mask | None = None, **options) -> tuple[Call, Tensor]:
    """A call of random numbers for two texts, six heads over two, and its map in float64."""
    random = torch.Generator().manual_seed(4)
    draw = lambda *shape: torch.randn(*shape, generator=random)  # noqa: E731
    q, k, v = draw(2, 6, QUERIES, 8), draw(2, 2, KEYS, 8), draw(2, 2, KEYS, 5)
    if needle:
        q[:, :, 71], k[:, :, 3] = 6.0, 6.0
    mask = mask or Mask.causal()
    s = hide(scores(q.double(), k.double(), softcap=options.get("softcap"), bias=options.get("bias")), mask)
    lse = log_sum_exp(s, options.get("sinks"))
    truth = weights(s, lse)
    found = survey(q, k, lse.float(), mask, spec, softcap=options.get("softcap"), bias=options.get("bias")) if spec else None
    return Call(0, "self", q, k, v, lse.float(), output(truth, v.double()).float(), mask, 8 ** -0.5, "dense", survey=found,
                **options), truth


def bucketed(truth: Tensor, rows: list[int], keys: list[int]) -> tuple[Tensor, Tensor]:
    parts = [[truth[a:b, c:d] for c, d in zip(keys, keys[1:], strict=False)] for a, b in zip(rows, rows[1:], strict=False)]
    return (torch.stack([torch.stack([part.mean() for part in line]) for line in parts]),
            torch.stack([torch.stack([part.max() for part in line]) for line in parts]))


def check(found, truth: Tensor) -> None:
    mean, largest = bucketed(truth, found.row_edges, found.key_edges)
    assert found.mean.shape == found.max.shape == mean.shape
    torch.testing.assert_close(found.mean.double(), mean, rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(found.max.double(), largest, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize(("cells", "rows", "keys", "size"), [
    (10, None, None, 1), (10, None, None, 3), (10, None, None, 10), (10, (0, 90), (0, 100), 9), (10, (0, 45), (50, 100), 5),
    (10, (0, 45), (50, 100), 2), (10, (9, 81), (10, 20), 1), (7, None, None, 1), (7, None, None, 3), (7, (25, 90), (0, 71), 2)])
def test_unions_of_the_surveys_buckets_are_exact_without_q_and_k(cells: int, rows, keys, size: int) -> None:
    kept, truth = call(SurveySpec(map=cells))
    bare = replace(kept, q=None, k=None, v=None, output=None, groups=2)
    found = bare.pool(5, rows, keys, size, batch=1)
    check(found, truth[1, 5])
    assert len(found.row_edges) <= size + 1 and (found.row_edges[0], found.row_edges[-1]) == (rows or (0, 90))
    assert found.key_edges[0] >= (keys or (0, 100))[0] and found.key_edges[-1] == (keys or (0, 100))[1]


BIAS = torch.linspace(-1, 1, QUERIES * KEYS).view(1, 1, QUERIES, KEYS)
LEFT = Mask.padding(torch.arange(KEYS).expand(2, -1) >= torch.tensor([[0], [40]]))


@pytest.mark.parametrize("options", [{}, {"softcap": 2.0}, {"bias": BIAS}, {"sinks": torch.linspace(-1, 1, 6)},
                                     {"mask": Mask.causal() & Mask.window(30)}, {"mask": Mask.causal() & LEFT}])
@pytest.mark.parametrize(("rows", "keys", "size"), [((1, 90), (0, 100), 10), ((13, 57), (5, 77), 8), ((70, 90), (0, 21), 64),
                                                    ((0, 90), (0, 100), 64), ((89, 90), (99, 100), 512)])
def test_everything_else_is_computed_anew(options: dict, rows, keys, size: int) -> None:
    kept, truth = call(SurveySpec(map=10), **options)
    for batch in (0, 1):
        found = kept.pool(4, rows, keys, size, batch)
        check(found, truth[batch, 4])
        assert found.mean.shape == (min(size, rows[1] - rows[0]), min(size, keys[1] - keys[0]))
    check(replace(kept, survey=None).pool(4, rows, keys, size, 1), truth[1, 4])


@pytest.mark.parametrize("size", [1, 2, 5, 9, 10, 16, 64])
def test_a_needle_is_in_the_largest_weights_at_every_zoom(size: int) -> None:
    kept, truth = call(SurveySpec(map=10), needle=True)
    assert truth[0, 1, 71, 3] > 0.99
    for rows, keys in [(None, None), ((60, 90), (0, 50)), ((71, 72), (3, 4))]:
        found = kept.pool(1, rows, keys, size)
        r = next(n for n in range(len(found.row_edges) - 1) if found.row_edges[n] <= 71 < found.row_edges[n + 1])
        c = next(n for n in range(len(found.key_edges) - 1) if found.key_edges[n] <= 3 < found.key_edges[n + 1])
        assert found.max[r, c] > 0.99


def test_what_was_not_kept_or_is_not_there_is_named() -> None:
    kept, _ = call(SurveySpec(map=10))
    bare = replace(kept, q=None, k=None, groups=2)
    anew = r"q and k were not kept; .*keep_qk=\[0\].*--keep 0, or ask for at most 5 "
    for ask, said in [(lambda: bare.pool(0, (0, 45), (0, 50), 64), anew),
                      (lambda: bare.pool(0, (1, 45), (0, 50), 2), "not kept"),
                      (lambda: kept.pool(6), "no head 6"), (lambda: kept.pool(0, batch=2), "no text 2"),
                      (lambda: kept.pool(0, (0, 91)), "no rows 0:91; layer 0 has rows 0:90"),
                      (lambda: kept.pool(0, (5, 5)), "no rows 5:5"), (lambda: kept.pool(0, keys=(-1, 5)), "no keys -1:5"),
                      (lambda: kept.pool(0, size=0), "at least 1")]:
        with pytest.raises(KliegError, match=said):
            ask()


BIAS = torch.randn(1, 6, QUERIES, KEYS, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("options", [{}, {"softcap": 2.0}, {"mask": Mask.causal() & Mask.window(40)}, {"bias": BIAS}],
                         ids=["plain", "softcap", "window", "bias"])
def test_a_tile_of_one_head(options: dict) -> None:
    kept, truth = call(**options)
    rows, keys = slice(20, 85), slice(13, 99)
    torch.testing.assert_close(tile(kept, 5, rows, keys, 1).double(), truth[1, 5, rows, keys], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(tile(kept, 5, rows, keys, 1), kept.tile(5, rows, keys, 1), rtol=1e-5, atol=1e-7)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_what_was_kept_elsewhere_comes_to_the_gpu() -> None:
    kept, truth = call(SurveySpec(map=0))
    moved = replace(kept, lse=kept.lse.cuda(), survey=None)
    torch.testing.assert_close(moved.tile(4, slice(3, 80), slice(None)).cpu().double(), truth[0, 4, 3:80], rtol=1e-4, atol=1e-7)
    found = moved.pool(4, size=7)
    check(replace(found, mean=found.mean.cpu(), max=found.max.cpu()), truth[0, 4])
    assert moved.surveyed(SurveySpec(top=2)).survey.kernel == "gpu"
