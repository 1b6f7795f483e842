"""Why scores are divided by sqrt(d): without it softmax saturates as heads get wider, and what it passes back vanishes."""

from __future__ import annotations

import math

import torch

from klieg.labs import Finding, Lab
from klieg.views.chart import Chart

WIDTHS = (4, 16, 64, 256, 1024)
KEYS, QUERIES, SEED = 64, 256, 0


def run() -> Finding:
    """Queries and keys of independent standard normal numbers; entropy of the rows and the norm of softmax's Jacobian."""
    chance = torch.Generator().manual_seed(SEED)
    ways = {("with 1/√d", "有 1/√d"): 0.5, ("without", "没有"): 0.0}
    entropy, passed = ({words: [] for words in ways} for _ in range(2))
    numbers = {}
    for d in WIDTHS:
        q, k = (torch.randn(QUERIES, *keys, d, dtype=torch.float64, generator=chance) for keys in ((), (KEYS,)))
        dot = torch.einsum("id,ijd->ij", q, k)
        for words, power in ways.items():
            p = (dot * d ** -power).softmax(-1)
            jacobian = torch.diag_embed(p) - p[:, :, None] * p[:, None]
            entropy[words].append(torch.special.entr(p).sum(-1).mean().item())
            passed[words].append(jacobian.flatten(1).norm(dim=1).mean().item())
            numbers[f"entropy at d {d}, {words[0]}"] = entropy[words][-1]
            numbers[f"gradient at d {d}, {words[0]}"] = passed[words][-1]
    points, name = tuple(map(str, WIDTHS)), ("width of a head, d", "头的宽度 d")
    charts = (
        Chart(("Entropy of a row", "一行的熵"), name, points, ("nats", "奈特"), entropy),
        Chart(("What softmax passes back: the norm of its Jacobian", "softmax 传回的梯度：雅可比矩阵的范数"), name, points,
              ("Frobenius norm", "Frobenius 范数"), passed))
    kept, lost = (entropy[words] for words in ways)
    back, most = passed["without", "没有"], f"{math.log(KEYS):.2f}"
    return Finding(charts, (
        f"With the scale a row's entropy stays between {min(kept):.2f} and {max(kept):.2f} nats of at most {most}. Without "
        f"it, it falls from {lost[0]:.2f} at d {WIDTHS[0]} to {lost[-1]:.2f} at d {WIDTHS[-1]}, and what comes back through "
        f"softmax from {back[0]:.3f} to {back[-1]:.3f}: nearly every row looks at one key, and has little left to learn from.",
        f"有缩放时，一行的熵始终在 {min(kept):.2f} 到 {max(kept):.2f} 奈特之间（上限 {most}）。"
        f"没有缩放时，熵从 d = {WIDTHS[0]} 的 {lost[0]:.2f} 降到 d = {WIDTHS[-1]} 的 {lost[-1]:.2f}，"
        f"经过 softmax 传回的梯度从 {back[0]:.3f} 降到 {back[-1]:.3f}：几乎每一行都只看一个键，也就几乎学不到东西。"), numbers)


LAB = Lab(("The scale 1/√d", "缩放因子 1/√d"),
          ("Without 1/√d softmax saturates as d grows, and gradients vanish.",
           "没有 1/√d，d 越大 softmax 越饱和，梯度随之消失。"),
          "Vaswani et al. 2017, section 3.2.1", run)
