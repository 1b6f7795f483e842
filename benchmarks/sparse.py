"""How long does sparse attention take, beside dense causal attention over as many tokens?

Patterns and dense take turns within each repetition, after one that is not counted, and the ratio is taken there; the
median of the ratios is the figure. Beside it stands the share of dense's pairs that the pattern keeps: a kernel that
skips perfectly takes that share of the time. What comes out is compared with the formula in float64 on some rows of
every head after every run, and then overwritten with NaN.

The bar takes the issue at its word: 1.5 x window / N of the time of dense. Against causal dense attention, whose rows
have N / 2 keys in the mean, a kernel that skips perfectly takes window / (N / 2), which is above that; so the time
beside dense attention that is not causal, N keys a row, is measured too.

The survey of the same maps, without top-k, is measured by itself afterwards, beside that of dense causal attention. What is
checked there are rows and columns: every row's weights sum to 1, and so the columns' sums to N.

    python benchmarks/sparse.py [--quick] [--surveys]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from unittest.mock import patch

import torch
from torch import Tensor

from klieg.attention import Mask, log_sum_exp, output, scores, weights
from klieg.kernels import Attention, attend, native, survey
from klieg.patterns import Pattern
from klieg.survey import SurveySpec

HEADS, WIDTH, ROWS, WINDOW = 2, 64, 24, 512
PATTERNS = [Pattern("window", WINDOW), Pattern("block", WINDOW), Pattern("strided", 128), Pattern("window", WINDOW, 4)]
DENSE, FULL = "dense, causal", "dense, not causal"


@dataclass(frozen=True)
class Way:
    """One mask over one text."""

    name: str
    mask: Mask

    def run(self, q: Tensor, k: Tensor, v: Tensor, plain: bool) -> Attention:
        """By the kernel that attend() chooses; `plain` is in plain torch, as on a machine without a compiler."""
        if not plain:
            return attend(q, k, v, self.mask)
        with patch.object(native, "_library", lambda: None):
            return attend(q, k, v, self.mask, kernel="sparse" if self.mask.scattered else "streamed")

    def pairs(self, length: int) -> int:
        """How many pairs the mask leaves."""
        keys = torch.arange(length)
        return sum(int(self.mask.visible(rows, keys).sum()) for rows in keys.split(512))


class Check:
    """Some rows of every head by the formula in float64, the first and the last among them."""

    def __init__(self, way: Way, q: Tensor, k: Tensor, v: Tensor) -> None:
        length = q.shape[2]
        self.way, self.rows = way, torch.linspace(0, length - 1, ROWS).long()
        s = scores(q[:, :, self.rows].double(), k.double())
        s = s.masked_fill(~way.mask.visible(self.rows, torch.arange(length)), -torch.inf)
        self.lse = log_sum_exp(s)
        self.output = output(weights(s, self.lse), v.double())

    def __call__(self, found: Attention) -> None:
        """Compare, then overwrite with NaN."""
        for ours, truth in ((found.output[:, :, self.rows], self.output), (found.lse[:, :, self.rows], self.lse)):
            error = ((ours.double() - truth).abs() / (1 + truth.abs())).max().item()
            if not error < 2e-5:
                raise SystemExit(f"{self.way.name}: off by {error:.1e} from the formula in float64; this figure is void.")
        found.output.fill_(torch.nan)
        found.lse.fill_(torch.nan)


@torch.no_grad()
def measure(ways: Iterable[Way], length: int, plain: bool, repetitions: int) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Seconds of every repetition, and the kernel that ran, by the names of the ways."""
    random = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, HEADS, length, WIDTH, generator=random) for _ in range(3))
    checks = {way.name: (way, Check(way, q, k, v)) for way in ways}
    times: dict[str, list[float]] = {name: [] for name in checks}
    kernels = {}
    for n in range(repetitions + 1):
        for name, (way, check) in checks.items():
            start = time.perf_counter()
            found = way.run(q, k, v, plain)
            took = time.perf_counter() - start
            kernels[name] = found.kernel
            check(found)
            if n:                                             # the first of each wakes threads and caches
                times[name].append(took)
    return times, kernels


def ratio(times: dict[str, list[float]], name: str, beside: str) -> float:
    return median(a / b for a, b in zip(times[name], times[beside], strict=True))


def figures(length: int, plain: bool, repetitions: int, full: bool) -> None:
    """A line for every pattern; and the bars, where the length is theirs."""
    ways = [Way(DENSE, Mask.causal()), *(Way(str(pattern), Mask.causal() & pattern.mask) for pattern in PATTERNS)]
    times, kernels = measure([*ways, Way(FULL, Mask())] if full else ways, length, plain, repetitions)
    dense = ways[0].pairs(length)
    for way in ways:
        share, found = way.pairs(length) / dense, ratio(times, way.name, DENSE)
        made = f"{kernels[way.name]}, plain torch" if plain else kernels[way.name]
        print(f"| {way.name} | {length:,} | {made} | {100 * share:.2f} % | {100 * found:.2f} % | "
              f"{found / share:.2f} | {median(times[way.name]):.3f} s |", flush=True)
    if not full:
        return
    name, bar = str(PATTERNS[0]), 1.5 * WINDOW / length
    for beside in (DENSE, FULL):
        found = ratio(times, name, beside)
        print(f"\n{name} at {length:,} tokens beside {beside}: {found:.4f} of its time, bar {bar:.4f}: "
              f"{'met' if found <= bar else 'NOT met'}", flush=True)
    print()


@torch.no_grad()
def surveys(length: int, repetitions: int) -> None:
    """A line for the survey of every pattern, its log-sum-exp given."""
    random = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, HEADS, length, WIDTH, generator=random) for _ in range(2))
    masks = {DENSE: Mask.causal(), **{str(pattern): Mask.causal() & pattern.mask for pattern in PATTERNS}}
    lse = {name: attend(q, k, k, mask).lse for name, mask in masks.items()}
    times: dict[str, list[float]] = {name: [] for name in masks}
    kernels = {}
    for n in range(repetitions + 1):
        for name, mask in masks.items():
            start = time.perf_counter()
            found = survey(q, k, lse[name], mask, SurveySpec(top=0))
            took = time.perf_counter() - start
            kernels[name] = found.kernel
            off = max((found.mass - 1).abs().max().item(), (found.received.sum(2) / length - 1).abs().max().item())
            if not off < 2e-5:
                raise SystemExit(f"{name}: a sum of the survey is off by {off:.1e}; this figure is void.")
            found.mass.fill_(torch.nan)
            found.received.fill_(torch.nan)
            if n:
                times[name].append(took)
    for name in masks:
        print(f"| survey, {name} | {length:,} | {kernels[name]} | | {100 * ratio(times, name, DENSE):.2f} % | | "
              f"{median(times[name]):.3f} s |", flush=True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--quick", action="store_true", help="4,096 tokens only, three repetitions")
    options.add_argument("--surveys", action="store_true", help="the surveys alone")
    given = options.parse_args()
    quick, only = given.quick, given.surveys
    print(f"{HEADS} heads, d {WIDTH}, float32, {torch.get_num_threads()} threads\n")
    print("| pattern, causal | tokens | kernel | pairs kept | time | time over pairs | seconds |\n" + "| --- " * 7 + "|")
    for plain in (False, True) if not only else ():
        for length in (4096,) if quick else (4096, 16384):
            figures(length, plain, 3 if quick else 7, full=not plain and length == 16384)
    for length in (4096,) if quick else (4096, 16384):
        surveys(length, 3 if quick else 7)


if __name__ == "__main__":
    main()
