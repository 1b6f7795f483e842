"""Does a scale that grows with ln n keep the entropy of attention the same in longer texts?"""

from __future__ import annotations

import math

import torch

from klieg.labs import Finding, Lab
from klieg.views.chart import Chart, Words

LENGTHS = (64, 256, 1024, 4096, 16384)
TRAINED = 512          # the length at which both scales are the same
SPREADS = (1.0, 3.0)   # standard deviations of the scores: of fresh weights, and of a head that has learnt to choose
ROWS, SEED = 512, 0


def run() -> Finding:
    """Rows of independent normal scores; their entropy as they are, and multiplied by ln n / ln 512."""
    chance = torch.Generator().manual_seed(SEED)
    charts, numbers = [], {}
    for spread in SPREADS:
        series: dict[Words, list[float]] = {("1/√d", "1/√d"): [], ("ln n / (ln 512 √d)", "ln n / (ln 512 √d)"): []}
        for n in LENGTHS:
            scores = spread * torch.randn(ROWS, n, dtype=torch.float64, generator=chance)
            for (words, values), scale in zip(series.items(), (1.0, math.log(n) / math.log(TRAINED)), strict=True):
                values.append(torch.special.entr((scores * scale).softmax(-1)).sum(-1).mean().item())
                numbers[f"entropy at spread {spread:g}, n {n}, {words[0]}"] = values[-1]
        title = f"Scores that vary by {spread:g}", f"标准差为 {spread:g} 的分数"
        charts.append(Chart(title, ("keys, n", "键的个数 n"), tuple(f"{n:,}" for n in LENGTHS), ("entropy, nats", "熵，奈特"),
                            series))
    (flat, flat_log), (sharp, sharp_log) = (tuple(values[-1] - values[0] for values in chart.series.values())
                                            for chart in charts)
    numbers |= {"growth, spread 1, plain": flat, "growth, spread 1, ln n": flat_log, "growth, spread 3, plain": sharp,
                "growth, spread 3, ln n": sharp_log}
    first, last = LENGTHS[0], f"{LENGTHS[-1]:,}"
    return Finding(tuple(charts), (
        f"From {first} to {last} keys the entropy of a head that chooses (spread 3) grows by {sharp:.2f} nats, with the ln n "
        f"scale by {sharp_log:.2f}. Of a head that hardly chooses (spread 1) it grows by {flat:.2f} and {flat_log:.2f}: there "
        "the scale keeps nothing the same, as spreading over more keys outweighs it.",
        f"键从 {first} 增到 {last} 个时，有所选择的头（标准差 3）的熵增加 {sharp:.2f} 奈特，用 ln n 缩放则增加 "
        f"{sharp_log:.2f}。几乎不加选择的头（标准差 1）分别增加 {flat:.2f} 和 {flat_log:.2f}："
        "这时 ln n 缩放什么也没保住，摊到更多的键上更要紧。"),
        numbers)


LAB = Lab(("A scale that grows with ln n", "随 ln n 增长的缩放"),
          ("A scale proportional to ln n keeps the entropy of attention the same at any length.",
           "与 ln n 成正比的缩放使注意力的熵不随长度改变。"),
          "Su 2021, entropy-invariant attention; Chiang and Cholak 2022, section 5.3", run)
