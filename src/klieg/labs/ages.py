"""Attention as a soft question to a database: how old is 张, of whom there are three?"""

from __future__ import annotations

import torch

from klieg.kernels import attend
from klieg.labs import Finding, Lab, Table
from klieg.views.chart import Chart

KEYS = ((1.0, 2.0, 0.0), (1.0, 2.0, 0.0), (0.0, 0.0, 2.0), (1.0, 4.0, 0.0))     # the first number: is the name 张
AGES = (18.0, 20.0, 22.0, 19.0)
STRENGTHS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)


def run() -> Finding:
    """The query (strength, 0, 0) at several strengths, through attend() itself."""
    keys, ages = torch.tensor(KEYS).double().view(1, 1, 4, 3), torch.tensor(AGES).double().view(1, 1, 4, 1)
    answers, weights = [], []
    for strength in STRENGTHS:
        query = torch.tensor([strength, 0.0, 0.0], dtype=torch.float64).view(1, 1, 1, 3)
        answers.append(attend(query, keys, ages).output.item())
        each = torch.eye(4, dtype=torch.float64).view(1, 1, 4, 4)       # values that tell the weights themselves
        weights.append(attend(query, keys, each).output.flatten().tolist())
    hard = sum(age for key, age in zip(KEYS, AGES, strict=True) if key[0]) / sum(key[0] for key in KEYS)
    points = tuple(f"{strength:g}" for strength in STRENGTHS)
    name = "strength of the query", "查询的强度"
    charts = (
        Chart(("The answer", "答案"), name, points, ("years", "岁"),
              {("soft answer", "软答案"): answers, ("mean of the three 张", "三位张的平均"): [hard] * len(points)}),
        Chart(("The weights", "权重"), name, points, ("weight", "权重"),
              {("each 张", "每位张"): [row[0] for row in weights], ("the other", "另一位"): [row[2] for row in weights]}))
    usual, last = STRENGTHS.index(1.0), len(STRENGTHS) - 1
    shown, strong = [f"{w:.5f}" for w in weights[usual]], f"{STRENGTHS[-1]:g}"
    return Finding(charts, (
        f"With q = (1, 0, 0) the weights are {', '.join(shown)} and the answer {answers[usual]:.3f}: the one who is no 张 "
        f"still counts. A query {strong} times as strong, which is a temperature of 1/{strong}, asks hard: "
        f"{answers[last]:.3f}, the mean of the three being {hard:g}. "
        f"One of strength 0 asks nothing and gets the mean of all, {answers[0]:g}.",
        f"q = (1, 0, 0) 时权重为 {'、'.join(shown)}，答案 {answers[usual]:.3f}：不姓张的那位也算进了一点。查询强 {strong} 倍"
        f"（即温度为 1/{strong}）就成了硬查询：{answers[last]:.3f}，三位张的平均是 {hard:g}。强度为 0 则什么也没问，得到"
        f"所有人的平均 {answers[0]:g}。"),
        {"answer": answers[usual], "weight of 张": weights[usual][0], "weight of the other": weights[usual][2],
         "hard answer": answers[last], "answer to nothing": answers[0], "mean of the three": hard})


LAB = Lab(("The table of ages", "年龄表"),
          ("Attention is a soft question to a database: keys that fit the query more give more of their values.",
           "注意力是对数据库的软查询：与查询越相配的键，其值所占越多。"),
          "Vaswani et al. 2017, section 3.2: a mapping of a query and key-value pairs to an output", run,
          Table(tuple(("a 张", "张某") if key[0] else ("another", "另一位") for key in KEYS), KEYS, AGES, (1.0, 0.0, 0.0)))
