"""The native kernel: every instruction set that the processor has, any number of threads, forks, and the sanitizers."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from klieg.attention import Mask, hide, log_sum_exp, output, scores, weights
from klieg.errors import KliegError
from klieg.kernels import attend, native, survey
from klieg.library import native as library
from klieg.survey import SurveySpec
from klieg.tiles import Scores

ROOT = Path(__file__).parents[1]
SETS = native.instruction_sets()
MASKS = {"none": Mask(), "causal": Mask.causal(), "causal window": Mask.causal() & Mask.window(37),
         "block": Mask.block(37), "causal strided global": Mask.causal() & Mask.strided(37, 3)}


@pytest.fixture
def threads() -> Iterator[None]:
    yield
    torch.set_num_threads(1)


def random(*shapes: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator) for shape in shapes]


def test_the_library_is_there() -> None:
    """A build that silently lost its native part would pass every other test, slower."""
    assert library() is not None and SETS[-1] == "generic"
    if platform.machine() == "x86_64" and "avx512f" in Path("/proc/cpuinfo").read_text():
        assert SETS == ["avx512", "avx2", "generic"]


@pytest.mark.parametrize("instructions", SETS)
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(("queries", "keys", "width", "value_width"), [
    (1, 1, 1, 1), (3, 63, 5, 7), (64, 64, 64, 64), (65, 65, 33, 80), (130, 700, 128, 16), (5, 1500, 64, 96)])
def test_every_instruction_set(instructions: str, mask: str, queries: int, keys: int, width: int, value_width: int) -> None:
    """Below, at and above a register tile, a block of keys, a sweep of 512 and a strip of queries."""
    q, k, v = random((2, 4, queries, width), (2, 2, keys, width), (2, 2, keys, value_width))
    found = native.room(q, v)
    part = Scores.of(q, k, MASKS[mask], scale=width**-0.5, softcap=None, bias=None)
    wanted = native.Wanted(found, sums=True, bins=12, top=3, row_edges=[0, queries], key_edges=[0, keys])
    got = native.compute(part, wanted, v=v, instructions=instructions)
    s = hide(scores(q.double(), k.double()), MASKS[mask])
    lse = log_sum_exp(s)
    w = weights(s, lse)
    near = {"atol": 4e-6, "rtol": 4e-6}
    torch.testing.assert_close(found.double(), output(w, v.double()), **near)
    torch.testing.assert_close(got["lse"].double(), lse, **near)
    torch.testing.assert_close(got["received"].double(), w.sum(2), **near)
    torch.testing.assert_close(got["entropy"].double(), torch.special.entr(w).sum(-1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got["map_max"][:, :, 0, 0].double(), w.amax((2, 3)), **near)
    torch.testing.assert_close(got["map_sum"][:, :, 0, 0].double(), w.sum((2, 3)), **near)
    most = min(3, keys)
    torch.testing.assert_close(got["top_weights"][..., :most].double(), w.topk(most, dim=3).values, **near)


def test_an_instruction_set_that_is_not_there() -> None:
    q, = random((1, 1, 2, 4))
    part = Scores.of(q, q, Mask(), scale=1.0, softcap=None, bias=None)
    with pytest.raises(KliegError, match=r"no riscv; it has .*generic"):
        native.compute(part, native.Wanted(), instructions="riscv")


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("mask", [name for name in MASKS if not MASKS[name].scattered])
def test_the_same_bits_for_any_number_of_threads(mask: str) -> None:
    q, k, v = random((1, 6, 1100, 24), (1, 3, 1100, 24), (1, 3, 1100, 24))
    runs = []
    for count in (1, 2, 3, 7, 2, 1):
        torch.set_num_threads(count)
        found = attend(q, k, v, MASKS[mask], survey=SurveySpec(top=5, map=33))
        assert found.kernel == found.survey.kernel == "native"
        runs.append([found.output, *found.survey.tensors().values()])
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0], strict=True))


def test_a_panel_of_long_rows_is_low() -> None:
    """Rows of 70,000 keys: fewer queries at a time, the same numbers; and a needle is found wherever it is."""
    q, k = random((1, 1, 40, 4), (1, 1, 70_000, 4))
    k[0, 0, 69_999] = q[0, 0, 17] * 9
    found = survey(q, k, None, Mask(), SurveySpec(top=2, map=100))
    s = scores(q.double(), k.double())
    torch.testing.assert_close(found.lse.double(), log_sum_exp(s), atol=4e-6, rtol=4e-6)
    assert found.top_keys[0, 0, 17, 0] == 69_999
    w = weights(s, log_sum_exp(s))
    torch.testing.assert_close(found.received.double(), w.sum(2), atol=1e-6, rtol=1e-5)
    assert found.map_max[0, 0, 17, 99] == found.top_weights[0, 0, 17, 0]


def test_not_a_number_is_not_lost() -> None:
    """NaN in one query, one key or one bias reaches the rows that it touches, and no others."""
    q, k, v = random((1, 2, 70, 8), (1, 2, 70, 8), (1, 2, 70, 8))
    q[0, 1, 40, 3] = torch.nan
    found = attend(q, k, v, Mask.causal(), survey=SurveySpec(top=4))
    broken = torch.zeros(1, 2, 70, dtype=torch.bool)
    broken[0, 1, 40] = True
    for x in (found.output.isnan().all(-1), found.lse.isnan(), found.survey.mass.isnan(), found.survey.entropy.isnan()):
        assert torch.equal(x, broken)
    q, k, v = random((1, 1, 9, 8), (1, 1, 9, 8), (1, 1, 9, 8))
    k[0, 0, 4, 0] = torch.nan
    assert attend(q, k, v, Mask.causal(), kernel="native").lse[0, 0].isnan().tolist() == [False] * 4 + [True] * 5


def test_keys_out_of_reach_are_not_touched() -> None:
    q, k, v = random((1, 1, 3, 8), (1, 1, 900, 8), (1, 1, 900, 8))
    k[:, :, :600] = torch.nan
    v[:, :, :600] = torch.nan
    found = attend(q, k, v, Mask.causal() & Mask.window(20), kernel="native", survey=SurveySpec())
    assert found.output.isfinite().all() and found.survey.received.isfinite().all()


@pytest.mark.usefixtures("threads")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_computes_too() -> None:
    """The threads of torch's pool stay in the parent; a child that waited for them would wait for ever."""
    q, k, v = random((1, 2, 600, 16), (1, 2, 600, 16), (1, 2, 600, 16))
    code = ("import os, torch\nfrom klieg.kernels import attend\ntorch.set_num_threads(2)\n"
            "q = torch.randn(1, 2, 600, 16)\nexpected = attend(q, q, q, kernel='native').output\n"
            "child = os.fork()\nif child == 0:\n"
            "    os._exit(0 if torch.equal(attend(q, q, q, kernel='native').output, expected) else 1)\n"
            "raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n")
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], timeout=60).returncode == 0
    assert attend(q, k, v, kernel="native").output.isfinite().all()


@pytest.mark.usefixtures("threads")
def test_the_threads_are_those_of_torch() -> None:
    """After torch's pool is awake, a native call starts no thread of its own."""
    if not hasattr(ctypes.CDLL(None), "GOMP_parallel"):
        pytest.skip("torch brings no OpenMP runtime with GCC's entry here")
    torch.set_num_threads(2)
    q, = random((1, 4, 600, 32))
    torch.nn.functional.scaled_dot_product_attention(q, q, q)
    tasks = Path("/proc/self/task")
    before = len(list(tasks.iterdir()))
    for _ in range(3):
        attend(q, q, q, kernel="native")
        assert len(list(tasks.iterdir())) == before


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ here to compile with sanitizers")
def test_sanitizers_find_nothing(tmp_path: Path) -> None:
    """Random calls with every tensor in memory of exactly its size, under the address and undefined-behaviour sanitizers."""
    # The kernel as it is written: what an optimizer takes out cannot be seen. The formula beside it may be fast.
    flags = ["-std=c++17", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-pthread"]
    x86 = platform.machine() == "x86_64"
    versions = {"generic": [], **({"v3": ["-march=x86-64-v3"], "v4": ["-march=x86-64-v4"]} if x86 else {})}
    jobs, objects = [], []
    for name, more in versions.items():
        for kernel in ("attention", "short"):
            objects.append(tmp_path / f"{kernel}-{name}.o")
            jobs.append(["g++", *flags, *more, f"-DKLIEG_SET={name}", "-c", ROOT / f"native/{kernel}.cpp", "-o", objects[-1]])
    sources = [*(ROOT / f"native/{name}.cpp" for name in ("native", "team")),
               *(ROOT / f"tests/{name}_check.cpp" for name in ("native", "short"))]
    running = [subprocess.Popen(job) for job in jobs]
    assert [process.wait(120) for process in running] == [0] * len(jobs)
    program = tmp_path / "check"
    known = ["-DKLIEG_X86"] if x86 else []
    subprocess.run(["g++", *flags, "-O1", *known, *objects, *sources, "-o", program], check=True, timeout=120)
    done = subprocess.run([program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == f"{60 * len(SETS)} and {40 * len(SETS)} calls\n"


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ here to compile with sanitizers")
def test_sanitizers_find_nothing_in_what_training_and_search_use(tmp_path: Path) -> None:
    """Dropout, loss and cutting, and the likeliest and the few of a search, as the attention kernel above."""
    flags = ["-std=c++17", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-pthread",
             "-DKLIEG_PLAIN"]
    used = "search", "segments", "team", "training"
    sources = [*(ROOT / f"native/{name}.cpp" for name in used), ROOT / "tests/training_check.cpp"]
    program = tmp_path / "check"
    subprocess.run(["g++", *flags, *sources, "-o", program], check=True, timeout=120)
    done = subprocess.run([program], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "1200 calls\n"), done.stdout + done.stderr
