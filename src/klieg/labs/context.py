"""The same word in two contexts: 苹果 that is eaten, and 苹果 that makes telephones."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

from klieg.labs import Finding, Lab
from klieg.models import load
from klieg.views.chart import Chart
from klieg.watch import trace

# A decoder sees only what stands before a word, so each sentence ends in it.
FRUIT = ("他吃了一个苹果", "她买了一斤苹果", "树上结满了苹果", "他喜欢吃苹果", "桌上放着香蕉和苹果")
COMPANY = ("新款手机是苹果", "他的电脑和手机都是苹果", "发布这款手机的公司是苹果",
           "他在一家公司工作，公司叫苹果", "这个电脑的牌子是苹果")


def run() -> Finding:
    """Mean cosines of the word's vectors, after every layer of the bundled model: within a sense, and between the two."""
    model = load("chat")
    states = []
    for text in (*FRUIT, *COMPANY):
        stream = trace(model, text, name="chat").stream()
        states.append(torch.stack([stream.embedded[0, -1], *(block.output[0, -1] for block in stream.blocks)]).double())
    vectors = torch.nn.functional.normalize(torch.stack(states, dim=1), dim=-1)          # (layers + 1, sentences, width)
    cosines = vectors @ vectors.mT
    eaten = tuple(range(len(FRUIT)))
    within, between = zip(*(_parted(layer, eaten) for layer in cosines), strict=True)
    gaps = [one - other for one, other in zip(within, between, strict=True)]
    widest = max(range(len(gaps)), key=gaps.__getitem__)
    # Every way to part the sentences into two kinds of this size: how many part them as far as the senses do.
    ways = [_parted(cosines[widest], chosen) for chosen in combinations(range(len(vectors[0])), len(FRUIT))]
    chance = sum(one - other >= gaps[widest] - 1e-12 for one, other in ways) / len(ways)
    numbers = {"cosine of the embeddings": between[0], "lowest mean cosine between senses": min(between),
               "widest gap": gaps[widest], "after layer": widest, "chance": chance}
    charts = (Chart(("How alike the word is in two sentences", "同一个词在两句话里有多相似"), ("layers", "层数"),
                    tuple(map(str, range(len(gaps)))), ("cosine, mean", "余弦，平均"),
                    {("the same sense", "同一义"): within, ("the other sense", "另一义"): between}),)
    return Finding(charts, (
        f"The word's vector is the same before the first layer (cosine {between[0]:.2f}) and differs by its sentence after "
        f"it, down to {min(between):.2f} on average. Its two senses part by at most {gaps[widest]:.3f}, after {widest} layers; "
        f"of all ways to part these sentences, {100 * chance:.1f} % part them as far. " + _verdict(chance)[0],
        f"进入第一层之前，这个词的向量处处相同（余弦 {between[0]:.2f}）；之后随句子而不同，平均最低到 {min(between):.2f}。"
        f"两种词义最多相差 {gaps[widest]:.3f}（{widest} 层之后）；把这些句子任意分成两组，"
        f"有 {100 * chance:.1f} % 的分法能分得这么开。" + _verdict(chance)[1]), numbers)


def _parted(cosines: Tensor, chosen: tuple[int, ...]) -> tuple[float, float]:
    """The mean cosine of two sentences of one kind, and of two kinds, where `chosen` are one of the two."""
    one = torch.zeros(len(cosines), dtype=torch.bool)
    one[list(chosen)] = True
    same, pairs = one[:, None] == one, ~torch.eye(len(cosines), dtype=torch.bool)
    return cosines[same & pairs].mean().item(), cosines[~same].mean().item()


def _verdict(chance: float) -> tuple[str, str]:
    if chance < 0.05:
        return "So this small model tells the fruit from the company.", "可见这个小模型分得清水果与公司。"
    return ("So this small model makes the word differ by its sentence, but does not tell the fruit from the company.",
            "可见这个小模型使这个词因句子而不同，但并未分清水果与公司。")


LAB = Lab(("苹果 in two contexts", "两种语境里的苹果"),
          ("Attention makes the same word different by its context: the fruit and the company.",
           "注意力使同一个词因语境而不同：水果与公司。"),
          "Ethayarajh 2019, contextualised words; the bundled model", run)
