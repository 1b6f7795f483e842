"""How far is every kernel from the formula in float64, beside plain PyTorch in the same precision?

The cases and the formula are those of tests/formula.py, and tests/test_kernels.py holds every one of them to
the bar; here the worst of each kernel is printed. Errors are root mean squares over three draws
of every case, as one query over a few keys gives too few numbers to tell error from luck; where
plain PyTorch is exact to less than one unit in the last place of float32, that unit stands for it.

    python benchmarks/exactness.py
"""

from __future__ import annotations

import sys
from collections import defaultdict
from itertools import product
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import formula as cases

from klieg.kernels import attend

WIDTHS = (32, 33, 64, 128, 256)
LENGTHS = ((45, 45), (1, 70), (17, 129))
SEEDS = (0, 1, 2)
OPTIONS = ("none", "softcap", "sinks", "bias", "all")


def squares(found: torch.Tensor, truth: torch.Tensor) -> float:
    """Mean square of the error."""
    assert torch.equal(found.isfinite(), truth.isfinite()), "infinite in other places than the formula"
    return (found.double() - truth).square().mean().item()


def ratios(dtype: torch.dtype, width: int, queries: int, keys: int, mask: str, option: str) -> dict[str, float]:
    """Of every kernel that takes this case: its error over that of plain PyTorch."""
    ours: dict[str, float] = defaultdict(float)
    plain = unit = 0.0
    for seed in SEEDS:
        made = cases.call(mask, queries=queries, keys=keys, width=width, seed=seed)
        made.options = cases.options(option, 4, queries, keys)
        low = made.at(dtype)
        truth = low.at(torch.float64).formula()[0]
        plain += squares(low.formula()[0], truth)
        unit += torch.finfo(torch.float32).eps**2 * truth.square().mean().item()
        for kernel in low.kernels():
            ours[kernel] += squares(attend(low.q, low.k, low.v, low.mask, kernel=kernel, **low.options).output, truth)
    floor = max(plain, unit, 1e-60)  # all is zero where no query sees anything
    return {kernel: (error / floor) ** 0.5 for kernel, error in ours.items()}


def main() -> None:
    worst: dict[tuple[str, str], float] = {}
    count = 0
    names = list(cases.masks(2, 4, 45, 45))
    grid = product((torch.float32, torch.bfloat16), WIDTHS, LENGTHS, names, OPTIONS)
    for dtype, width, (queries, keys), mask, option in grid:
        for kernel, ratio in ratios(dtype, width, queries, keys, mask, option).items():
            key = kernel, str(dtype).removeprefix("torch.")
            worst[key] = max(worst.get(key, 0.0), ratio)
            count += 1
    assert set(cases.HERE) == {kernel for kernel, _ in worst}
    print(f"{count} cases; worst error of the output against that of plain PyTorch   (bar: 2.0)")
    for (kernel, dtype), ratio in sorted(worst.items()):
        print(f"{kernel:10}{dtype:10}{ratio:6.2f}")


if __name__ == "__main__":
    main()
