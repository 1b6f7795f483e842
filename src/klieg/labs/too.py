"""From "I love you" to "too": what the bundled model would say after each of its layers, and which parts say it.

The stream after every layer is read as if it were the last: by the model's own final norm and vocabulary (the logit
lens). And the last one is taken apart: with the scale of the final norm held at what it was, a logit is the sum of
what the embedding, every attention and every feed-forward added to it, exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from klieg.decoders import Llama
from klieg.labs import Finding, Lab
from klieg.models import load
from klieg.tokenizers import Tokenizer
from klieg.trace import Trace
from klieg.views.chart import Chart, Words
from klieg.watch import trace

PROMPTS = {"dialogue": "I love you\nI love you", "alone": "I love you"}
ZH = {"dialogue": "对话", "alone": "单句"}
WORDS = (" too", ".", " chair", " database")


@dataclass(frozen=True)
class Walk:
    """One prompt. `bits` (places, words) is the surprise, -log2 of the probability, of WORDS before the first layer and after
    each; `ranks` likewise, from 1; `parts` (1 + 2 layers,) what the embedding, then every attention and feed-forward add to
    the logit of "too" over "chair"; `difference` that difference in the model's own logits; `best` the likeliest token."""

    bits: Tensor
    ranks: Tensor
    parts: Tensor
    difference: float
    best: str


def run() -> Finding:
    """Both prompts through the bundled model."""
    model, tokenizer = load("chat")
    walks = {name: walk(model, tokenizer, trace((model, tokenizer), text, name="chat")) for name, text in PROMPTS.items()}
    charts, numbers = [], {}
    for name, found in walks.items():
        charts += _charts(name, found)
        numbers |= {f"{name}: {word.strip()} after {place} layers": 2.0 ** -bits
                    for place, row in enumerate(found.bits.tolist()) for word, bits in zip(WORDS, row, strict=True)}
        numbers |= {f"{name}: rank of too after {place} layers": float(rank)
                    for place, rank in enumerate(found.ranks[:, 0].tolist())}
        numbers |= {f"{name}: part {n}": part for n, part in enumerate(found.parts.tolist())}
        numbers |= {f"{name}: too over chair": found.difference,
                    f"{name}: error of the sum": abs(found.parts.sum().item() - found.difference)}
    return Finding(tuple(charts), _conclusion(walks), numbers)


@torch.no_grad()
def walk(model: Llama, tokenizer: Tokenizer, read: Trace) -> Walk:
    """The last token of a trace, place by place.

    Sources: nostalgebraist 2020, "interpreting GPT: the logit lens"; Elhage et al. 2021, "A Mathematical Framework for
    Transformer Circuits", direct contributions to the logits.
    """
    stream, norm = read.stream(), model.model.norm
    ids = [tokenizer.encode(word, bos=False)[0] for word in WORDS]
    states = torch.stack([stream.embedded[0, -1], *(block.output[0, -1] for block in stream.blocks)])
    logits = model.head(model.normed(states)).double()
    bits = -logits.log_softmax(-1)[:, ids] / math.log(2)
    ranks = (logits[:, None] > logits[:, ids, None]).sum(-1) + 1
    # What one unit of the stream is worth in the difference of the two logits, at the scale of the last state.
    last = states[-1].double()
    direction = (model.vocabulary[ids[0]].double() - model.vocabulary[ids[2]].double()) * norm.weight.double()
    direction *= (last.square().mean() + norm.eps).rsqrt()
    added = [stream.embedded, *(part for block in stream.blocks for part in (block.attended, block.fed))]
    parts = torch.stack([part[0, -1].double() for part in added]) @ direction
    own = read.logits[-1].double()
    return Walk(bits, ranks, parts, (own[ids[0]] - own[ids[2]]).item(), read.vocabulary[int(own.argmax())])


def _charts(name: str, found: Walk) -> list[Chart]:
    first: Words = "“d”, the first piece of “database”", "“d”，“database”的第一个词片"
    labels: list[Words] = [(f"“{word.strip()}”",) * 2 for word in WORDS[:-1]] + [first]
    places = tuple(map(str, range(len(found.bits))))
    return [
        Chart((f"The next token, {name}", f"下一个词元，{ZH[name]}"), ("layers", "层数"), places,
              ("surprise, bits: less is likelier", "意外程度，比特：越小越可能"),
              {label: found.bits[:, n].tolist() for n, label in enumerate(labels)}),
        Chart((f"What each layer adds to “too” over “chair”, {name}", f"每一层使 too 比 chair 高出多少，{ZH[name]}"),
              ("layer", "层"), places[:-1], ("logits", "logit"),
              {("attention", "注意力"): found.parts[1::2].tolist(), ("feed-forward", "前馈"): found.parts[2::2].tolist()},
              bars=True)]


def _conclusion(walks: dict[str, Walk]) -> Words:
    said = [_of_one(name, found) for name, found in walks.items()]
    talk, alone = walks["dialogue"], walks["alone"]
    more, attended = talk.difference - alone.difference, (talk.parts[1::2].sum() - alone.parts[1::2].sum()).item()
    # The first piece of "database" is at least as likely as the word.
    holds = all(row[0] < min(row[2], row[3]) for row in (found.bits[-1].tolist() for found in walks.values()))
    english, chinese = _HOLDS if holds else _FAILS
    return (f"{said[0][0]} {said[1][0]} {english}; of the {more:.2f} logits that the dialogue adds, attention brings "
            f"{attended:.2f}.",
            f"{said[0][1]}{said[1][1]}{chinese}；对话多出的 {more:.2f} 个 logit 中，注意力带来 {attended:.2f}。")


_HOLDS = "So “too” is likelier than “chair” and “database” in both", "可见两种情形下，too 都比 chair 和 database 更可能"
_FAILS = "So “too” is not always likelier than “chair” and “database”", "可见 too 并非总比 chair 和 database 更可能"


def _of_one(name: str, found: Walk) -> Words:
    layers, when = len(found.ranks) - 1, int(found.ranks[:, 0].argmin())
    rank, best = int(found.ranks[-1, 0]), int(found.ranks[when, 0])
    p, chair = f"{100 * 2.0 ** -found.bits[-1, 0].item():.1f} %", f"{2.0 ** -found.bits[-1, 2].item():.1e}"
    attended, fed = (f"{found.parts[start::2].sum().item():.2f}" for start in (1, 2))
    embedded, largest = f"{found.parts[0].item():.2f}", int(found.parts[1:].argmax())
    part, most = (("attention", "注意力"), ("feed-forward", "前馈"))[largest % 2], f"{found.parts[1:].max().item():.2f}"
    return (
        f"{name.capitalize()}: “too” has {p} and rank {rank} (“{found.best}” is first), “chair” {chair}. Read after each "
        f"layer it ranks highest after {when} of {layers}, as number {best}. Of its {found.difference:.2f} logits over “chair” "
        f"the embedding adds {embedded}, attention {attended}, the feed-forwards {fed}; most comes from the {part[0]} of layer "
        f"{largest // 2}, {most}.",
        f"{ZH[name]}：too 的概率为 {p}，排第 {rank}（第一是“{found.best}”），chair 为 {chair}。"
        f"逐层读出，{layers} 层中走过 {when} 层时 too 的名次最高，为第 {best}。"
        f"它比 chair 高出的 {found.difference:.2f} 个 logit 中，嵌入加 {embedded}，"
        f"注意力加 {attended}，前馈加 {fed}；最多的是第 {largest // 2} 层的{part[1]}，加 {most}。")


LAB = Lab(("From “I love you” to “too”", "从“I love you”到“too”"),
          ("After “I love you” the reply goes on with “too”, and not with “chair” or “database”.",
           "听到“I love you”，回答接下来的词是 too，而不是 chair 或 database。"),
          "nostalgebraist 2020, the logit lens; Elhage et al. 2021, direct contributions; the bundled model", run)
