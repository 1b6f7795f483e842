"""Whether heads divide the work: what each of the bundled model's heads does beyond chance, and what muting the best costs.

Every head is scored on sentences that say some word twice. A behaviour counts as a head's where more sentences show it
beyond its chance than fair coins would, in a sign test corrected for all heads and behaviours. Then every head is muted in
turn: the head that is best at a behaviour should be missed where that behaviour is of use.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from klieg.analysis.behaviour import BEHAVIOURS
from klieg.analysis.reader import Reader
from klieg.attention import Mask
from klieg.changes import Heads, Mute, changed
from klieg.decoders import Decoder
from klieg.labs import Finding, Lab
from klieg.layers import Context
from klieg.models import load
from klieg.tokenizers import Tokenizer
from klieg.views.chart import Chart, Words

ENGLISH = (
    "The cat chased the mouse, and the mouse ran away from the cat.", "I read a book in the library, and then I read it again.",
    "She gave the dog a bone, and the dog gave her a smile.", "Tom went to the park, and his friend went to the park too.",
    "My mother likes tea, but my father likes coffee.", "The big tree stood on the hill, and the hill stood by the sea.",
    "He opened the door, looked at her, and closed the door.", "We saw a bird in the garden; the bird was red.",
    "If you want to go, go now.", "The king called the queen, but the queen did not hear the king.",
    "One day a boy found a key, and the key was made of gold.", "They played in the snow until the snow was gone.",
    "The old man told a story about an old woman.", "Lily had a red ball, and Ben had a blue ball.",
    "I know that you know what he said.", "The sun was warm, and the wind was warm too.",
    "She was sad because her cat was sad.", "He ate the apple, and then he ate the cake.",
    "The boat went down the river, and the river went down to the sea.", "You love me, and I love you.")
CHINESE = (
    "猫追老鼠，老鼠跑了，猫也跑了。", "我在图书馆看书，他也在图书馆看书。", "他喜欢吃苹果，我也喜欢吃苹果。",
    "妈妈爱我，我也爱妈妈。", "山上有一棵树，树上有一只鸟。", "今天很冷，明天也很冷。",
    "她给我一本书，我给她一支笔。", "狗在门口，猫也在门口。", "如果你想去，你就去。",
    "老师问学生，学生问老师。", "这个男孩很高，那个男孩不高。", "他开了门，又关了门。",
    "天上有月，水里也有月。", "我知道你知道他在哪里。", "大人喝茶，小孩喝水。",
    "春天花开，秋天花落。", "你说中文，我也说中文。", "他有一个哥哥，她有两个哥哥。",
    "河边有人，船上也有人。", "昨天我很忙，今天我不忙。")
SENTENCES = (*ENGLISH, *CHINESE)
# A decoder sees no next token, and no sentence here hides a needle.
NAMES = (*(name for name in BEHAVIOURS if name not in ("next", "retrieval")), "positional")
ZH = {"previous": "前一词元", "own": "自身", "first": "首词元", "duplicate": "重复", "induction": "归纳", "copy": "复制",
      "marks": "标点", "positional": "位置"}
PLACES, CONTENTS = {"previous", "own", "first", "positional"}, {"duplicate", "induction", "copy"}
SAID = {"text": "文本", "repeated": "重复的句子", "random": "重复的随机词元"}
MUTED = (("previous", "text"), ("induction", "repeated"), ("induction", "random"))      # the best at what, and on what
BEST, SURE = 3, 0.05
ROWS, TOKENS, SEED = 8, 32, 0       # of random tokens, said twice


def run() -> Finding:
    """Forty sentences, all heads, and every head muted."""
    model, tokenizer = load("chat")
    found = excess(Reader(model, tokenizer, "chat"), SENTENCES)
    count = model.layers * model.heads
    beyond = {name: chances(found[name]) < SURE / (count * len(NAMES)) for name in NAMES}
    mean = {name: found[name].nanmean(0) for name in NAMES}
    held = {name: concentration(x) for name, x in mean.items()}
    numbers = {"heads": float(count), "heads with none": float((~torch.stack(list(beyond.values())).any(0)).sum()),
               "heads with several": float((torch.stack(list(beyond.values())).sum(0) > 1).sum())}
    for name in NAMES:
        numbers |= {f"{name}: heads": float(beyond[name].sum()), f"{name}: held by the best": held[name],
                    f"{name}: best head": float(mean[name].argmax()), f"{name}: its excess": mean[name].max().item()}
    costs, usual = _muted(model, tokenizer)
    best = {"previous": int(mean["previous"].argmax()), "induction": int(mean["induction"].argmax())}
    numbers |= usual
    for name, measure in MUTED:
        cost = costs[measure]
        others = torch.cat([cost[:best[name]], cost[best[name] + 1:]])
        numbers |= {f"{name} muted, {measure}": cost[best[name]].item(), f"another muted, {measure}": others.mean().item(),
                    f"{name} muted, {measure}, rank": float((cost > cost[best[name]]).sum()) + 1}
    return Finding(_charts(numbers), _conclusion(numbers, model.heads), numbers)


def excess(reader: Reader, sentences: Sequence[str]) -> dict[str, Tensor]:
    """Each behaviour's weight beyond its chance: (sentences, heads of all layers), NaN where a sentence has none of it."""
    found = {name: [] for name in NAMES}
    for seed, sentence in enumerate(sentences):
        layers = [scores for _, scores in reader.scores(next(reader.windows(sentence, reader.window(None))), seed)]
        for name, rows in found.items():
            rows.append(torch.cat([scores[name].weight - scores[name].chance if name in scores else
                                   torch.full_like(scores["own"].weight, torch.nan) for scores in layers]))
    return {name: torch.stack(rows) for name, rows in found.items()}


def chances(excess: Tensor) -> Tensor:
    """Of every column of (sentences, heads), the probability that as many fair coins show heads as it has numbers above 0."""
    above, count = (excess > 0).sum(0), excess.isfinite().sum(0)
    return torch.tensor([sum(math.comb(n, k) for k in range(least, n + 1)) / 2 ** n
                         for least, n in zip(above.tolist(), count.tolist(), strict=True)], dtype=torch.float64)


def concentration(excess: Tensor) -> float:
    """The share of all that is above 0 that the BEST largest hold."""
    above = excess.clamp(min=0).sort(descending=True).values
    return (above[:BEST].sum() / above.sum()).item()


def _muted(model: Decoder, tokenizer: Tokenizer) -> tuple[dict[str, Tensor], dict[str, float]]:
    """What muting each head costs in nats a token (heads,): on a sentence after another one ("text"), in what a sentence gains
    by having been said before ("repeated"), and on random tokens said the second time ("random"); and the losses unmuted."""
    usual, worse = {}, {}
    for name, (ids, targets) in _batches(tokenizer).items():
        losses = _losses(model, ids, targets)
        usual[name] = next(losses)
        if name != "first":
            worse[name] = torch.tensor(list(losses), dtype=torch.float64) - usual[name]
    return ({"text": worse["other"], "repeated": worse["same"] - worse["other"], "random": worse["second"]},
            {"loss after another sentence": usual["other"], "loss after itself": usual["same"],
             "loss on random tokens, first": usual["first"], "loss on random tokens, second": usual["second"]})


@torch.no_grad()
def _losses(model: Decoder, ids: Tensor, targets: Tensor) -> Iterator[float]:
    """The mean loss of the targets that there are, nats a token: of the whole model, then with each head muted. The layers
    below it run once."""
    context, kept = Context(Mask.causal()), targets >= 0

    def loss(x: Tensor) -> float:
        return F.cross_entropy(model.head(model.normed(x[kept])), targets[kept]).item()

    streams = [model.embedded(ids, torch.arange(ids.shape[1])[None], context)]
    for block in model.blocks:
        streams.append(block(streams[-1], context))
    yield loss(streams[-1])
    for layer in range(model.layers):
        for head in range(model.heads):
            context.change = changed(model, [Mute(Heads(layer, head))]).change
            x = streams[layer]
            for block in list(model.blocks)[layer:]:
                x = block(x, context)
            yield loss(x)


def _batches(tokenizer: Tokenizer) -> dict[str, tuple[Tensor, Tensor]]:
    """Ids and targets: each sentence after the one before it in its language, and after itself; random tokens said twice, of
    which the first or the second time counts."""
    opening, body = tokenizer.encode(""), {text: tokenizer.encode(text, bos=False) for text in SENTENCES}
    before = {text: texts[n - 1] for texts in (ENGLISH, CHINESE) for n, text in enumerate(texts)}
    chance = torch.Generator().manual_seed(SEED)
    marks = len(tokenizer.marks)
    drawn = [(torch.randperm(tokenizer.size - marks, generator=chance)[:TOKENS] + marks).tolist() for _ in range(ROWS)]
    return {"other": _rows([([*opening, *body[before[text]]], body[text]) for text in SENTENCES]),
            "same": _rows([([*opening, *body[text]], body[text]) for text in SENTENCES]),
            "first": _rows([(opening, row) for row in drawn]),
            "second": _rows([([*opening, *row], row) for row in drawn])}


def _rows(parts: list[tuple[list[int], list[int]]]) -> tuple[Tensor, Tensor]:
    """What is read, and what of it is to be predicted, as rows of one length: ids and targets (b, i), -100 for none."""
    longest = max(len(read) + len(said) for read, said in parts)
    ids, targets = torch.zeros(len(parts), longest, dtype=torch.long), torch.full((len(parts), longest), -100)
    for n, (read, said) in enumerate(parts):
        ids[n, :len(read) + len(said)] = torch.tensor([*read, *said])
        targets[n, len(read) - 1:len(read) + len(said) - 1] = torch.tensor(said)
    return ids, targets


def _charts(numbers: dict[str, float]) -> tuple[Chart, ...]:
    labels = tuple(f"{name} {ZH[name]}" for name in NAMES)
    return (
        Chart(("Heads that do it beyond chance", "超过随机水平的头"), ("behaviour", "行为"), labels, ("heads", "头数"),
              {("heads", "头数"): [numbers[f"{name}: heads"] for name in NAMES]}, bars=True),
        Chart((f"What the best {BEST} heads hold", f"最好的 {BEST} 个头所占"), ("behaviour", "行为"), labels,
              ("share of all that is beyond chance", "占超出随机部分的份额"),
              {("best heads", "最好的头"): [numbers[f"{name}: held by the best"] for name in NAMES]}, bars=True),
        Chart(("What muting costs", "静音的代价"), ("which head, and on what", "哪个头，在什么上"),
              tuple(f"{name}, {what} ({ZH[name]}, {SAID[what]})" for name, what in MUTED), ("nats a token", "奈特/词元"),
              {("the best head", "最好的头"): [numbers[f"{name} muted, {what}"] for name, what in MUTED],
               ("another, mean", "其他头，平均"): [numbers[f"another muted, {what}"] for _, what in MUTED]}, bars=True))


def _conclusion(numbers: dict[str, float], heads: int) -> Words:
    count, none, several = (f"{numbers[name]:.0f}" for name in ("heads", "heads with none", "heads with several"))
    some = f"{numbers['heads'] - numbers['heads with none']:.0f}"
    head = {name: "{}.{}".format(*divmod(int(numbers[f"{name}: best head"]), heads)) for name in NAMES}
    did = [name for name in NAMES if numbers[f"{name}: heads"]]
    shown = [(name, f"{numbers[f'{name}: heads']:.0f}", f"{100 * numbers[f'{name}: held by the best']:.0f} %") for name in did]
    never = [name for name in NAMES if name not in did]
    gain = f"{numbers['loss after another sentence'] - numbers['loss after itself']:.3f}"
    recalled = f"{numbers['loss on random tokens, first'] - numbers['loss on random tokens, second']:.3f}"
    (text, another, place), (twice, usual, rank), (again, random, last) = (
        (f"{numbers[f'{name} muted, {what}']:.4f}", f"{numbers[f'another muted, {what}']:.4f}",
         f"{numbers[f'{name} muted, {what}, rank']:.0f}") for name, what in MUTED)
    english, chinese = _verdict(bool(set(did) & PLACES), bool(set(did) & CONTENTS))
    return (
        f"Of {count} heads {some} do at least one of {len(NAMES)} things beyond chance, {several} several, {none} none. Found: "
        f"{', '.join(f'{name} ({found} heads; the best {BEST} hold {held})' for name, found, held in shown) or 'nothing'}. "
        f"Not found: {', '.join(never) or 'nothing'}. Muting the best head for the token before ({head['previous']}) costs "
        f"{text} nats a token on text (another head {another}; rank {place}). Muting the best for induction "
        f"({head['induction']}) costs {twice} of the {gain} that a sentence gains by being said again "
        f"(another {usual}; rank {rank}), and {again} of the {recalled} that random tokens gain "
        f"(another {random}; rank {last}). {english}",
        f"{count} 个头中有 {some} 个至少有一种行为超过随机（共测 {len(NAMES)} 种），{several} 个有多种，{none} 个一种也没有。"
        f"有的：{'、'.join(f'{ZH[name]}（{found} 个头，最好的 {BEST} 个占 {held}）' for name, found, held in shown) or '无'}；"
        f"哪个头都没有的：{'、'.join(ZH[name] for name in never) or '无'}。静音最看前一词元的头（{head['previous']}），"
        f"文本上的损失每词元增加 {text} 奈特（静音别的头平均 {another}，排第 {place}）。"
        f"静音归纳最强的头（{head['induction']}），句子重复一遍所得的 {gain} 减少 {twice}（别的头 {usual}，排第 {rank}），"
        f"随机词元重复一遍所得的 {recalled} 减少 {again}（别的头 {random}，排第 {last}）。{chinese}")


def _verdict(place: bool, content: bool) -> Words:
    english, chinese = {
        (True, True): ("So heads divide the work, by place and by what was said before",
                       "可见各头有分工：有的看位置，有的看前文内容"),
        (True, False): ("So heads divide the work by place, and none by what was said before",
                        "可见各头按位置有分工，却没有哪个头按前文内容分工"),
        (False, True): ("So heads divide the work by what was said before, and none by place",
                        "可见各头按前文内容有分工，却没有哪个头按位置分工"),
        (False, False): ("So no head is an expert in any of this", "可见没有哪个头是其中任何一种的专家")}[place, content]
    return (f"{english}; syntax, reference and sentiment are not measured here.", f"{chinese}；句法、指代和情感这里没有测。")


LAB = Lab(("Heads as experts", "各有所长的头"),
          ("Heads divide the work: each is an expert, for syntax, for reference, for sentiment, for position.",
           "各头分工：每个头都是专家，有的管句法，有的管指代，有的管情感，有的管位置。"),
          "Voita et al. 2019; Olsson et al. 2022; Clark et al. 2019; the bundled model", run)
