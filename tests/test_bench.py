"""The table of what watching costs: figures are of checked runs, and a wrong number voids its figure."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from card import card as card

from klieg import bench
from klieg.bench import Case, extra_memory, measure
from klieg.errors import KliegError
from klieg.kernels import Attention, attend
from klieg.survey import SurveySpec

SMALL = Case(2, 1, 16, 300, SurveySpec(top=3, map=8))


@pytest.mark.parametrize("case", [SMALL, replace(SMALL, spec=None), replace(SMALL, plain=True),
                                  replace(SMALL, causal=False, kernel="native")], ids=lambda case: case.name)
def test_a_figure_is_a_ratio_of_times(case: Case) -> None:
    found = measure(case, repetitions=3)
    assert found.ratio > 0 and found.seconds > 0 and found.beside > 0 and found.repetitions == 3
    assert found.kernel == ("fused" if case.plain else "native")


@pytest.mark.parametrize("spoil", ["output", "lse", "mass", "received", "entropy", "top_weights"])
def test_a_wrong_number_voids_the_figure(spoil: str) -> None:
    def wrong(*args: object, **given: object) -> Attention:
        found = attend(*args, **given)
        broken = getattr(found, spoil, None) if hasattr(found, spoil) else getattr(found.survey, spoil)
        broken.mul_(1.01)
        return found

    with patch.object(bench, "attend", wrong), pytest.raises(KliegError, match=r"is off by .* this figure is void"):
        measure(SMALL, repetitions=1)


def test_nothing_is_left_over_from_an_earlier_run() -> None:
    """A kernel that writes nothing would find the right numbers of the run before, were they not overwritten."""
    kept: list[Attention] = []

    def lazy(*args: object, **given: object) -> Attention:
        if not kept:
            kept.append(attend(*args, **given))
        return kept[0]

    with patch.object(bench, "attend", lazy), pytest.raises(KliegError, match="this figure is void"):
        measure(replace(SMALL, spec=None), repetitions=2)


def test_the_memory_beyond_the_inputs() -> None:
    """Top-k of every row is a size that can be counted: 4 + 8 bytes for each of its numbers."""
    case = Case(4, 4, 16, 4096, SurveySpec(top=64, map=0))
    least = 4 * 4096 * 64 * (4 + 8)
    assert least < extra_memory(case) < 3 * least


def test_the_usual_table_covers_what_it_says() -> None:
    assert {(case.spec is None, case.plain) for case in bench.USUAL} == {(True, False), (False, False), (False, True)}
    assert len({case.name for case in bench.USUAL}) == len(bench.USUAL)
    assert torch.equal(SMALL.inputs()[0], SMALL.inputs()[0])


def test_a_figure_of_the_gpu_s_kernel() -> None:
    """In Triton's interpreter where there is no GPU; its type is that of the case."""
    pytest.importorskip("triton", reason="Triton is not installed")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    case = Case(2, 1, 16, 40, SurveySpec(top=2, map=3), kernel="gpu", device=device, type="float16")
    assert case.inputs()[0].dtype == torch.float16 and case.name.endswith(f", kernel gpu, float16 on {device}")
    assert measure(case, repetitions=1).kernel == "gpu"


def test_the_table_of_a_device_that_is_there_or_not(card: torch.device) -> None:
    assert bench.cases("cpu") == bench.USUAL
    assert {case.device for case in bench.cases("cuda")} == {"cuda:0"}
    with pytest.raises(KliegError, match="no device 'tpu'"):
        bench.cases("tpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_the_table_of_a_gpu() -> None:
    assert all(measure(case, repetitions=1).kernel == "gpu" for case in bench.cases("cuda"))
