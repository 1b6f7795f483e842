"""The benchmark of the GPU before it meets one: it refuses without, voids wrong figures, and goes on after a row that fails."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from klieg.attention import Mask
from klieg.errors import KliegError
from klieg.kernels import attend
from klieg.survey import SurveySpec

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from on_gpu.harness import TOY, Problem, Table, ratio, turns  # noqa: E402


@pytest.fixture(scope="module")
def problem() -> Problem:
    return Problem(TOY, 24, 16, 1)


def answer(problem: Problem, spec: SurveySpec | None = None) -> object:
    """By another kernel, which is as good for the check."""
    return attend(problem.q, problem.k, problem.v, Mask.causal(), survey=spec)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU")
def test_without_a_gpu_nothing_is_measured(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "benchmarks/gpu.py", "--out", tmp_path / "x.md"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == "" and not (tmp_path / "x.md").exists()
    assert done.stderr.strip().endswith("nothing was measured: this machine has no CUDA GPU that torch can use (--interpret "
                                        "only tests this file).")


def test_a_right_answer_passes_and_is_overwritten(problem: Problem) -> None:
    found = answer(problem, SurveySpec(top=0, map=0))
    assert 0 < problem.check("ours", found) < 2e-2
    assert found.output.isnan().all() and found.survey.received.isnan().all()


@pytest.mark.parametrize(("what", "spoil"), [
    ("output", lambda found: found.output.mul_(1.5)), ("entropy", lambda found: found.survey.entropy.add_(0.001)),
    ("column sums", lambda found: found.survey.received.mul_(1.001)), ("output", lambda found: found.output.fill_(torch.nan))])
def test_a_wrong_answer_voids_the_figure(problem: Problem, what: str, spoil: object) -> None:
    found = answer(problem, SurveySpec(top=0, map=0))
    spoil(found)
    with pytest.raises(KliegError, match=f"ours: the {what} is off by .*the figure is void"):
        problem.check("ours", found)


def test_turns_alternate_after_one_that_warms_up() -> None:
    order: list[str] = []
    runs = {name: lambda name=name: order.append(name) for name in "ab"}
    times, errors = turns(runs, 2, lambda name, _: float(order.count(name)))
    assert order == list("ababab") and errors == {"a": 3.0, "b": 3.0}
    assert {name: len(x) for name, x in times.items()} == {"a": 2, "b": 2}
    assert ratio([2.0, 6.0, 9.0], [1.0, 2.0, 1.0]) == 3.0


def test_a_row_that_fails_says_why_and_the_next_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(time.monotonic() + 60)

    def fails() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 70 TiB\nmore")

    table.part("the map", fails)
    table.part("another", lambda: table.add("another", "<= 2x", "1.5x", True))
    replace(table, until=0.0).part("a third", fails)
    assert table.lines == ["| the map |  | failed: OutOfMemoryError: CUDA out of memory. Tried to allocate 70 TiB |  |",
                           "| another | <= 2x | 1.5x | yes |", "| a third |  | not measured: the time was over |  |"]
    assert capsys.readouterr().out.splitlines() == table.lines


@pytest.mark.slow
def test_every_row_is_made_in_the_interpreter(tmp_path: Path) -> None:
    """As it is on a GPU, at toy sizes, so that no row fails there for a reason that could be found here."""
    pytest.importorskip("triton", reason="Triton is not installed")
    command = [sys.executable, ROOT / "benchmarks/gpu.py", "--interpret", "--out", tmp_path / "x.md"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = (tmp_path / "x.md").read_text()
    assert "failed" not in said and "not measured" not in said and "no figures" in said and "| NO |" not in said
    for row in ("row statistics on top", "our plain forward against", "output + column sums", "output + the whole survey",
                "the same bits on every run |", "eager with weights", "training step", "one layer", "error against float64"):
        assert row in said, row
