"""Whether near in the embedding is near in meaning: the neighbours of "love", and what people say of pairs of words.

A vector is a row of the embedding; after a layer it is what the model has made of the word alone, behind the mark that
opens a text. A word of several pieces has the mean of theirs, which says little (see Agreement).
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import torch
from torch import Tensor

from klieg.analysis.flow import correlation
from klieg.attention import Mask
from klieg.data import data_folder
from klieg.decoders import Decoder
from klieg.errors import KliegError
from klieg.labs import Finding, Lab
from klieg.layers import Context
from klieg.models import load
from klieg.tokenizers import Tokenizer
from klieg.views.chart import Chart, Words

WORD, OTHERS = "love", ("like", "hate", "chair")
PRINTED = {"like": 0.9996, "hate": -0.9147}       # cosines with love, of vectors that are often printed
NEAREST = 10
LISTS = {"WordSim-353": "EN-WS-353-ALL.txt", "SimLex-999": "EN-SIMLEX-999.txt"}

Pair = tuple[str, str, float]


def run() -> Finding:
    """The bundled model's embedding, and where KLIEG_DATA has them the judgements of people."""
    model, tokenizer = load("chat")
    rows = torch.nn.functional.normalize(model.vocabulary.double(), dim=1)
    ids = {word: tokenizer.encode(f" {word}", bos=False)[0] for word in (WORD, *OTHERS)}
    cosines = rows @ rows[ids[WORD]]
    order = [id for id in cosines.argsort(descending=True, stable=True).tolist() if id != ids[WORD]]
    numbers = {f"cosine of love and {word}": cosines[ids[word]].item() for word in OTHERS}
    numbers |= {f"rank of {word}": order.index(ids[word]) + 1.0 for word in OTHERS}
    numbers["mean cosine"] = (cosines.sum().item() - 1) / len(order)
    alone = vectors(model, tokenizer, [WORD, *OTHERS])
    layers = tuple(map(str, range(len(alone))))
    charts = [
        Chart(("The nearest pieces to love", "离 love 最近的词片"), ("piece", "词片"),
              tuple(tokenizer.piece(id) for id in order[:NEAREST]), ("cosine", "余弦"),
              {("in the embedding", "嵌入中"): cosines[order[:NEAREST]].tolist()}, bars=True),
        Chart(("How near to love", "离 love 有多近"), ("word", "词"), tuple(PRINTED), ("cosine", "余弦"),
              {("often printed", "常见的印法"): list(PRINTED.values()),
               ("measured", "实测"): [cosines[ids[word]].item() for word in PRINTED]}, bars=True),
        Chart(("How near to love, layer by layer, each word alone", "逐层看离 love 有多近，每个词单独输入"), ("layers", "层数"),
              layers, ("cosine", "余弦"),
              {(word, word): (alone[:, 0] * alone[:, n + 1]).sum(-1).tolist() for n, word in enumerate(OTHERS)})]
    judged = {name: agreement(model, tokenizer, pairs) for name, pairs in read_lists().items()}
    if judged:
        charts.append(Chart(("How the cosine of two words agrees with people", "两个词的余弦与人的判断有多一致"),
                            ("layers", "层数"), layers, ("Spearman's rank correlation", "Spearman 等级相关"),
                            {(name, name): found.layers for name, found in judged.items()}))
    said = [_near(numbers, tokenizer.piece(order[0])), *_judged(judged, numbers)]
    return Finding(tuple(charts), (" ".join(one for one, _ in said), "".join(other for _, other in said)), numbers)


@torch.no_grad()
def vectors(model: Decoder, tokenizer: Tokenizer, words: Sequence[str]) -> Tensor:
    """Of every word alone the mean over its pieces, before the first layer and after each, at length 1:
    (layers + 1, words, width), float64."""
    rows = [tokenizer.encode(f" {word}") for word in words]
    opening = len(tokenizer.encode(""))
    found = torch.empty(model.layers + 1, len(words), model.vocabulary.shape[1], dtype=torch.float64)
    for length in sorted({len(row) for row in rows}):
        places = [n for n, row in enumerate(rows) if len(row) == length]
        ids, context = torch.tensor([rows[n] for n in places]), Context(Mask.causal())
        x = model.embedded(ids, torch.arange(length)[None], context)
        for layer, block in enumerate([None, *model.blocks]):
            x = x if block is None else block(x, context)
            found[layer, places] = x[:, opening:].double().mean(1)
    return torch.nn.functional.normalize(found, dim=-1)


def read_lists() -> dict[str, list[Pair]]:
    """Two words and the judgement of people on a line; none where no folder of texts has them."""
    if not os.environ.get("KLIEG_DATA"):
        return {}
    folder = data_folder() / "eval" / "wordsim"
    return {name: _pairs(folder / file) for name, file in LISTS.items() if (folder / file).is_file()}


def _pairs(path: Path) -> list[Pair]:
    try:
        lines = [line.split("\t") for line in path.read_text("utf-8").splitlines() if line.strip()]
        return [(one, other, float(score)) for one, other, score in lines]
    except ValueError:
        raise KliegError(f"{path} is damaged; its lines must be two words and a number, with tabs between.") from None


@dataclass(frozen=True)
class Agreement:
    """Spearman's correlation of cosines with people's judgements: `layers`, of the pairs of two words that are one piece each,
    `whole` pairs; `mean` in the embedding, of all `pairs`, where a word of several pieces has the mean of theirs."""

    layers: list[float]
    whole: int
    mean: float
    pairs: int


def agreement(model: Decoder, tokenizer: Tokenizer, pairs: list[Pair]) -> Agreement:
    """How far the cosines of pairs of words agree with people."""
    words = sorted({word for one, other, _ in pairs for word in (one, other)})
    place = {word: n for n, word in enumerate(words)}
    left, right = ([place[pair[n]] for pair in pairs] for n in (0, 1))
    found = vectors(model, tokenizer, words)
    cosines = (found[:, left] * found[:, right]).sum(-1)
    people = torch.tensor([score for *_, score in pairs], dtype=torch.float64)
    single = {word for word in words if len(tokenizer.encode(f" {word}", bos=False)) == 1}
    whole = torch.tensor([single.issuperset(pair[:2]) for pair in pairs])
    return Agreement([correlation(row, people[whole]) or 0.0 for row in cosines[:, whole]], int(whole.sum()),
                     correlation(cosines[0], people) or 0.0, len(pairs))


def interval(rho: float, count: int) -> tuple[float, float]:
    """Where Spearman's correlation of so many pairs lies, with a confidence of 95 % (Bonett & Wright 2000)."""
    reach = NormalDist().inv_cdf(0.975) * math.sqrt((1 + rho ** 2 / 2) / (count - 3))
    return math.tanh(math.atanh(rho) - reach), math.tanh(math.atanh(rho) + reach)


def _near(numbers: dict[str, float], nearest: str) -> Words:
    cosine = {word: f"{numbers[f'cosine of love and {word}']:.2f}" for word in OTHERS}
    rank = {word: f"{numbers[f'rank of {word}']:.0f}" for word in OTHERS}
    like, hate, chair = (numbers[f"cosine of love and {word}"] for word in OTHERS)
    if like > max(hate, chair):
        verdict = "So like is nearer than hate and chair, as is said.", "可见 like 比 hate 和 chair 都近，与说法相符。"
    elif hate > like > chair:
        verdict = ("So chair is far and like near, but hate is nearer: it says the opposite, in the same places of a sentence.",
                   "可见 chair 远，like 近，但 hate 更近：它意思相反，却出现在句中同样的位置。")
    else:
        verdict = "So like is not near, compared with chair.", "可见与 chair 相比，like 并不近。"
    return (f"The nearest piece to love is {nearest}. The cosine of love with like is {cosine['like']} (rank {rank['like']}), "
            f"with hate {cosine['hate']} (rank {rank['hate']}), with chair {cosine['chair']} (rank {rank['chair']}); the mean "
            f"of all pieces is {numbers['mean cosine']:.2f}. {verdict[0]}",
            f"离 love 最近的词片是 {nearest}。love 与 like 的余弦是 {cosine['like']}（排第 {rank['like']}），与 hate 是 "
            f"{cosine['hate']}（排第 {rank['hate']}），与 chair 是 {cosine['chair']}（排第 {rank['chair']}）；所有词片的平均是 "
            f"{numbers['mean cosine']:.2f}。{verdict[1]}")


def _judged(judged: dict[str, Agreement], numbers: dict[str, float]) -> list[Words]:
    """A sentence for every list; the numbers join the others."""
    if not judged:
        return [("What people say of pairs of words was left out: KLIEG_DATA names no folder that has eval/wordsim "
                 "(docs/data.md).",
                 "没有与人对词对的判断作比较：KLIEG_DATA 没有指向含 eval/wordsim 的文件夹（见 docs/data.md）。")]
    said = []
    for name, found in judged.items():
        rho, (low, high) = found.layers[0], interval(found.layers[0], found.whole)
        last = found.layers[-1]
        numbers |= {f"{name}: layer {n}": value for n, value in enumerate(found.layers)}
        numbers |= {f"{name}: low": low, f"{name}: high": high, f"{name}: pairs of whole words": found.whole,
                    f"{name}: pairs": found.pairs, f"{name}: mean of pieces": found.mean}
        beyond = (("more than chance, and little", "超过随机，但不多") if low > 0 and rho < 0.5 else
                  ("more than chance", "超过随机") if low > 0 else ("not more than chance", "没有超过随机"))
        said.append((
            f"In {name} the embedding's cosines of the {found.whole} pairs of whole words agree with people by {rho:.2f} "
            f"({low:.2f} to {high:.2f}): {beyond[0]}. After the last layer it is {last:.2f}; in the embedding over all "
            f"{found.pairs} pairs, with words of several pieces as the mean of these, {found.mean:.2f}.",
            f"在 {name} 上，{found.whole} 对整词在嵌入中的余弦与人的判断的相关为 {rho:.2f}（区间 {low:.2f} 到 {high:.2f}）："
            f"{beyond[1]}。最后一层之后为 {last:.2f}；若算上全部 {found.pairs} 对，多个词片的词取其平均，"
            f"嵌入中为 {found.mean:.2f}。"))
    return said


LAB = Lab(("Near in the embedding", "嵌入里的远近"),
          ("Words near in meaning have near vectors: love is near like, and far from hate and chair.",
           "词义相近则向量相近：love 离 like 近，离 hate 和 chair 远。"),
          "Finkelstein et al. 2002 (WordSim-353); Hill et al. 2015 (SimLex-999); the bundled model", run)
