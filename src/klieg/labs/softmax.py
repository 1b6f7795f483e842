"""Softmax by the numbers: examples that are often drawn by hand, beside what the formula gives."""

from __future__ import annotations

import torch

from klieg.labs import Finding, Lab
from klieg.views.chart import Chart

# Scores, and the weights that are often printed for them.
EXAMPLES = (
    ((10.0, 5.0, 1.0), (0.92, 0.07, 0.01)),
    ((10.0, 5.0, 3.0), (0.85, 0.12, 0.03)),
    ((2.1, 8.7, 4.3), (0.05, 0.80, 0.15)),
    ((3.5, -2.1, 8.7, 0.3), (0.05, 0.00, 0.94, 0.01)),
    ((0.05, 0.8, 0.1, 0.9), (0.02, 0.40, 0.08, 0.50)),
)


def run() -> Finding:
    """Every example computed in float64."""
    charts, numbers, off = [], {}, []
    for scores, drawn in EXAMPLES:
        exact = torch.tensor(scores, dtype=torch.float64).softmax(0).tolist()
        said = ", ".join(f"{score:g}" for score in scores)
        charts.append(Chart((f"Scores {said}", f"分数 {said}"), ("score", "分数"), tuple(f"{score:g}" for score in scores),
                            ("weight", "权重"), {("often drawn", "常见的画法"): drawn, ("exact", "精确"): exact}, bars=True))
        numbers |= {f"{said}: weight {n}": p for n, p in enumerate(exact)}
        off.append(max(abs(p - q) for p, q in zip(exact, drawn, strict=True)))
    largest = charts[0].series["exact", "精确"][0]
    numbers["largest error of what is drawn"] = max(off)
    return Finding(tuple(charts), (
        f"Drawn weights are wrong by up to {max(off):.2f}. Of 10, 5 and 1 the first gets {100 * largest:.2f} %: a gap of 5 "
        "between two scores is a factor of 148 between their weights. Scores within 1 of each other leave weights close "
        "together, and never proportional to the scores.",
        f"画出来的权重误差最大达 {max(off):.2f}。10、5、1 中第一个得到 {100 * largest:.2f}%：分数相差 5，权重就相差 148 倍。"
        "分数相差不到 1 时，权重彼此接近，但从不与分数成正比。"), numbers)


LAB = Lab(("Softmax by the numbers", "softmax 的真实数字"),
          ("Softmax turns scores into shares that sum to one, most of it for the highest score.",
           "softmax 把分数变成和为一的份额，最高分得到其中大部分。"),
          "Vaswani et al. 2017, equation 1", run)
