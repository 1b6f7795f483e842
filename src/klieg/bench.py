"""What watching costs on this machine: attention with its survey beside torch's own attention alone.

Both take turns within each repetition, and the ratio of the two is taken there, so that whatever
else the machine does falls on both; the median of the ratios is the figure. What was computed is
checked against the formula in float64 after every run and then overwritten with NaN, so that no
later run can pass with what an earlier one left behind.
"""

from __future__ import annotations

import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from klieg.attention import Mask, log_sum_exp, output, scores, weights
from klieg.device import CPU, device
from klieg.errors import KliegError
from klieg.kernels import Attention, attend, gpu, survey
from klieg.survey import SurveySpec

ROWS = 16             # that are computed in float64 to check a run, in every head
SUMS, TOP = SurveySpec(top=0, map=64), SurveySpec(top=16, map=64)


@dataclass(frozen=True)
class Case:
    """Attention of one text, causal or of every query over every key; spec None is the output alone. `plain` does
    without the native library; `kernel` is one of attend()'s, where the choice is not left to it; `type` is torch's."""

    heads: int
    groups: int
    width: int
    length: int
    spec: SurveySpec | None
    plain: bool = False
    kernel: str | None = None
    causal: bool = True
    device: str = "cpu"
    type: str = "float32"

    @property
    def name(self) -> str:
        what = "output" if self.spec is None else "output + survey" + (f" + top-{self.spec.top}" if self.spec.top else "")
        heads = "1 head" if self.heads == 1 else f"{self.heads} heads"
        shared = "" if self.heads == self.groups else f" over {self.groups} K/V"
        plain = ", without a compiler" if self.plain else ""
        kernel = f", kernel {self.kernel}" if self.kernel else ""
        whole = "" if self.causal else ", not causal"
        there = "" if (self.device, self.type) == ("cpu", "float32") else f", {self.type} on {self.device}"
        return f"{what}, {heads}{shared}, d {self.width}, {self.length:,} tokens{whole}{plain}{kernel}{there}"

    @property
    def mask(self) -> Mask:
        return Mask.causal() if self.causal else Mask()

    def run(self, q: Tensor, k: Tensor, v: Tensor) -> Attention:
        """What is measured. Without a compiler the output is torch's, and the survey is made in plain torch."""
        if not self.plain:
            return attend(q, k, v, self.mask, survey=self.spec, kernel=self.kernel)
        found = attend(q, k, v, self.mask, kernel="fused")
        return replace(found, survey=self.spec and survey(q, k, found.lse, self.mask, self.spec, kernel="streamed"))

    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        random = torch.Generator().manual_seed(0)
        shapes = ((self.heads, self.length), (self.groups, self.length), (self.groups, self.length))
        return tuple(torch.randn(1, h, n, self.width, generator=random).to(self.device, getattr(torch, self.type))
                     for h, n in shapes)


@dataclass(frozen=True)
class Figure:
    """Seconds of both in the middle of all repetitions, and the median of the ratios."""

    case: Case
    ratio: float
    seconds: float
    beside: float
    repetitions: int
    kernel: str


USUAL = [Case(12, 12, 64, 2048, None), Case(12, 12, 64, 8192, None), Case(12, 12, 64, 2048, SUMS),
         Case(12, 12, 64, 8192, SUMS), Case(8, 2, 128, 8192, SUMS), Case(12, 12, 64, 8192, TOP), Case(1, 1, 64, 32768, TOP),
         Case(12, 12, 64, 8192, SUMS, plain=True)]
ON_A_GPU = [Case(heads, groups, width, length, spec, device="cuda", type="bfloat16") for heads, groups, width, length, spec in (
    (32, 32, 128, 8192, None), (32, 32, 64, 8192, None), (32, 32, 128, 8192, SUMS), (32, 32, 64, 8192, SUMS),
    (32, 8, 128, 16384, SUMS), (32, 8, 128, 32768, SurveySpec(top=32, map=64)))]
# How far numbers of a narrower type may be from the formula; what is summed in float32 is held to that.
NEAR = {"float32": 2e-5, "bfloat16": 2e-2, "float16": 4e-3}


def cases(name: str) -> list[Case]:
    """The usual table of a device, cpu, cuda or cuda:1; KliegError if this machine has no such device."""
    place = device(name)
    if place == CPU:
        return USUAL
    if why := gpu.refusal(torch.empty(1, 1, 1, 64, device=place), torch.empty(1, 1, 1, 64, device=place)):
        raise KliegError(f"the gpu kernel cannot run here: {why}; leave --device away.")
    return [replace(case, device=str(place)) for case in ON_A_GPU]


@torch.no_grad()
def measure(case: Case, repetitions: int = 7) -> Figure:
    """Time the case and torch's attention in turns; KliegError if what came out is not what the formula says."""
    q, k, v = case.inputs()
    check = _Check(case, q, k, v)

    def plain() -> Tensor:
        return scaled_dot_product_attention(q, k, v, is_causal=case.causal, enable_gqa=case.heads != case.groups)

    times: list[tuple[float, float]] = []
    for n in range(repetitions + 1):
        beside, reference = _timed(plain, q.device)
        took, found = _timed(lambda: case.run(q, k, v), q.device)
        check(found, reference)
        if n:                                             # the first of each wakes threads and caches
            times.append((took, beside))
    return Figure(case, median(a / b for a, b in times), median(a for a, _ in times), median(b for _, b in times), repetitions,
                  found.kernel)


def _timed(run: Callable, there: torch.device) -> tuple[float, object]:
    """Seconds, until whatever device computes is done, and what came out."""
    _wait(there)
    start = time.perf_counter()
    found = run()
    _wait(there)
    return time.perf_counter() - start, found


def _wait(there: torch.device) -> None:
    if there.type == "cuda":
        torch.cuda.synchronize(there)


class _Check:
    """Some rows of every head, spread over the text, by the formula in float64."""

    def __init__(self, case: Case, q: Tensor, k: Tensor, v: Tensor) -> None:
        self.case = case
        self.rows = torch.linspace(0, case.length - 1, ROWS, device=q.device).long()
        seen = case.mask.visible(self.rows, torch.arange(case.length, device=q.device)).expand(1, case.heads, -1, -1)
        s = scores(q[:, :, self.rows].double(), k.double()).masked_fill(~seen, -torch.inf)
        self.lse = log_sum_exp(s)
        self.weights = weights(s, self.lse)
        self.output = output(self.weights, v.double())

    def __call__(self, found: Attention, reference: Tensor) -> None:
        """Compare, then overwrite with NaN."""
        rows = self.rows
        pairs = {"output": (found.output[:, :, rows], self.output), "torch's output": (reference[:, :, rows], self.output),
                 "log-sum-exp": (found.lse[:, :, rows], self.lse)}
        survey = found.survey
        if survey is not None:
            live = torch.ones(1, self.case.heads, self.case.length, dtype=torch.float64, device=rows.device)
            pairs |= {"entropy": (survey.entropy[:, :, rows], torch.special.entr(self.weights).sum(-1)),
                      "row sums": (survey.mass, live), "column sums": (survey.received.sum(2), live.sum(2))}
            if survey.top_weights is not None:
                count = survey.top_weights.shape[3]
                pairs["top weights"] = survey.top_weights[:, :, rows], self.weights.topk(count, dim=3).values
        for name, (ours, truth) in pairs.items():
            error = ((ours.double() - truth).abs() / (1 + truth.abs())).max().item()
            if not error < NEAR[str(ours.dtype).removeprefix("torch.")]:
                raise KliegError(f"{self.case.name}: the {name} is off by {error:.1e} from the formula in float64; this figure "
                                 "is void, please report it.")
        for x in (found.output, found.lse, reference, *(survey.tensors().values() if survey else ())):
            if x.is_floating_point():
                x.fill_(torch.nan)


def measured(cases: list[Case] = USUAL, repetitions: int = 7) -> Iterator[Figure]:
    """Figure after figure, as they come."""
    return (measure(case, repetitions) for case in cases)


def extra_memory(case: Case) -> int:
    """Bytes that the case needs beyond q, k, v and the output at its peak, seen in a process of its own (Linux)."""
    if not Path("/proc/self/clear_refs").exists():
        raise KliegError("memory is measured through /proc, which this system does not have; leave it out.")
    code = f"from klieg.bench import Case, SurveySpec, _peak; _peak({case!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        raise KliegError(f"the memory of {case.name} could not be measured: {done.stderr.strip().splitlines()[-1]}.")
    return int(done.stdout)


@torch.no_grad()
def _peak(case: Case) -> None:
    """Print how far the peak rises above what was held before; a small call first loads what is loaded once."""
    replace(case, length=256).run(*replace(case, length=256).inputs())
    q, k, v = case.inputs()
    Path("/proc/self/clear_refs").write_text("5")                # the peak begins anew
    before = _status("VmRSS")
    found = case.run(q, k, v)
    print(_status("VmHWM") - before - found.output.numel() * found.output.element_size())


def _status(name: str) -> int:
    """A size that the kernel knows of this process, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def machine() -> tuple[str, int]:
    """By what figures of the clock are signed: the processor's name, and the threads that torch computes on."""
    info = Path("/proc/cpuinfo")
    named = re.search(r"^model name\s*: (.+)$", info.read_text("utf-8"), re.MULTILINE) if info.exists() else None
    return named[1] if named else platform.processor() or platform.machine(), torch.get_num_threads()
