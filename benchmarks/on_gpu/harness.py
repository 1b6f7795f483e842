"""What every row of benchmarks/gpu.py needs: the problem with its truth, turns on the clock, and the table."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

import torch
from torch import Tensor

from klieg.attention import Mask, log_sum_exp, output, scores, weights
from klieg.errors import KliegError, first_line
from klieg.survey import SurveySpec

CAUSAL, ROWS, HALF = Mask.causal(), 8, torch.bfloat16
SUMS = SurveySpec(top=0, map=0, bins=1)
NEAR = 2e-2         # of an output in bfloat16; what is summed in float32 is held to:
EXACT = 1e-4


@dataclass
class Sizes:
    """What is measured, or a toy of it."""

    device: str = "cuda"
    repetitions: int = 10
    short: tuple[int, ...] = (8192, 16384)
    long: tuple[int, ...] = (32768, 65536, 131072)
    widths: tuple[int, ...] = (128, 64)
    heads: int = 32
    groups: int = 8
    longest: int = 2**20
    model: tuple[int, int, int, int, int, int] = (12, 768, 12, 50304, 8, 2048)
    """Layers, width, heads and vocabulary of the trained decoder; texts and tokens of a step."""
    whole: SurveySpec = field(default_factory=lambda: SurveySpec(top=32, map=64))


TOY = Sizes("cpu", 1, (24,), (30,), (16,), 2, 1, 33, (1, 32, 2, 50, 1, 20), SurveySpec(top=2, map=2))


@dataclass
class Table:
    """The rows as they come, printed at once."""

    until: float
    toy: bool = False
    """What was measured is no figure, and meets no bar."""
    lines: list[str] = field(default_factory=list)

    def add(self, what: str, bar: str, figure: str, met: bool | None = None) -> None:
        line = f"| {what} | {bar} | {figure} | {'' if met is None or self.toy else 'yes' if met else 'NO'} |"
        self.lines.append(line)
        print(line, flush=True)

    def part(self, name: str, rows: Callable[[], None]) -> None:
        """Rows that belong together; a failure or the end of the time is a row too."""
        if time.monotonic() > self.until:
            self.add(name, "", "not measured: the time was over")
            return
        try:
            rows()
        except Exception as e:                      # whatever one row dies of, the others are measured
            self.add(name, "", f"failed: {type(e).__name__}: {first_line(e)[:200]}")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


class Problem:
    """q, k, v of one text in bfloat16, and the formula in float64 for some rows of every head."""

    def __init__(self, sizes: Sizes, length: int, width: int, groups: int | None = None) -> None:
        random = torch.Generator(sizes.device).manual_seed(0)
        self.q, self.k, self.v = (torch.randn(1, h, length, width, generator=random, device=sizes.device, dtype=HALF)
                                  for h in (sizes.heads, groups or sizes.heads, groups or sizes.heads))
        self.shared = groups is not None
        self.rows = torch.linspace(0, length - 1, min(ROWS, length), device=sizes.device).long()
        self.truth: list[tuple[Tensor, Tensor]] = []
        share = sizes.heads // self.k.shape[1]
        seen = CAUSAL.visible(self.rows, torch.arange(length, device=sizes.device))
        for group in range(self.k.shape[1]):        # one at a time: in float64 even some rows are large
            of = slice(group * share, (group + 1) * share)
            k, v = self.k[:, group:group + 1].double(), self.v[:, group:group + 1].double()
            s = scores(self.q[:, of, self.rows].double(), k).masked_fill(~seen, -torch.inf)
            w = weights(s, log_sum_exp(s))
            self.truth.append((output(w, v), torch.special.entr(w).sum(-1)))

    def exact(self, n: int) -> Tensor:
        """The output (0) or the entropy (1) of the rows, (1, h, n, ...)."""
        return torch.cat([one[n] for one in self.truth], dim=1)

    def check(self, name: str, found: object) -> float:
        """The error of an output in the mean square; KliegError if it is wrong anywhere. Then all is NaN."""
        out = found[0] if isinstance(found, tuple) else getattr(found, "output", found)
        error = out[:, :, self.rows].double() - self.exact(0)
        kept = getattr(found, "survey", None) or (found[1] if isinstance(found, tuple) and len(found) > 1 else None)
        tensors = dict(kept.tensors() if hasattr(kept, "tensors") else kept if isinstance(kept, dict) else {})
        off = {"output": (error.abs().max().item(), NEAR)}
        if "entropy" in tensors:
            off["entropy"] = (tensors["entropy"][:, :, self.rows].double() - self.exact(1)).abs().max().item(), EXACT
        if "received" in tensors:
            total = tensors["received"].double().sum(2) - out.shape[2]
            off["column sums"] = total.abs().max().item() / out.shape[2], EXACT
        for what, (worst, most) in off.items():
            if not worst < most:
                raise KliegError(f"{name}: the {what} is off by {worst:.1e} from the formula in float64; the figure is void")
        for x in (out, *tensors.values()):
            if x.is_floating_point():
                x.fill_(torch.nan)
        return error.square().mean().sqrt().item()


def clock(run: Callable[[], object]) -> tuple[float, object]:
    """Seconds of the device, or of the processor where there is none."""
    if not torch.cuda.is_available():
        start = time.perf_counter()
        found = run()
        return time.perf_counter() - start, found
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    found = run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000, found


def turns(runs: dict[str, Callable[[], object]], repetitions: int, check: Callable[[str, object], float],
          ) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of every run, in turns, after one that warms up, and the error of each."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    errors: dict[str, float] = {}
    for n in range(repetitions + 1):
        for name, run in runs.items():
            took, found = clock(run)
            errors[name] = check(name, found)
            del found
            if n:
                times[name].append(took)
    return times, errors


def ratio(a: list[float], b: list[float]) -> float:
    return median(x / y for x, y in zip(a, b, strict=True))


def milliseconds(times: list[float]) -> str:
    return f"{1000 * median(times):.3g} ms"
