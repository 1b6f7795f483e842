"""Sines, learned positions, rotation, or none: what each tells of distances, and who reads on where training never came.

Four small decoders have the same blocks and differ in this alone. They learn to name the token that stood LAG places
earlier, in rows of SHORT tokens, and are then asked in rows of LONG.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from klieg.config import LlamaConfig
from klieg.decoders import Llama
from klieg.labs import Finding, Lab
from klieg.layers import Context, rotary, rotate
from klieg.models import build, load
from klieg.recipe import RowTraining
from klieg.rows import Batch
from klieg.seq2seq import sines
from klieg.train import Stepper
from klieg.views.chart import Chart, Words
from klieg.watch import trace

KINDS: dict[str, Words] = {"none": ("none", "没有位置"), "sines": ("sines", "正弦"), "learned": ("learned", "学得的位置"),
                           "rotary": ("rotary", "旋转")}
VOCABULARY, WIDTH, LAG = 16, 64, 3
SHORT, LONG, PART = 32, 128, 16
STEPS, BATCH, SEED, SPREAD = 300, 32, 0, 0.02
SURE = 0.9      # of the tokens must be right
COLUMNS = (0, 3, 6, 9)
TEXT = "The animal didn't cross the street because it was too tired."


class Placed(Llama):
    """Llama's blocks without rotation: a table of positions (positions, width) is added to the stream instead, or nothing."""

    def __init__(self, config: LlamaConfig, table: Tensor | None) -> None:
        super().__init__(config)
        self.table = table

    def embedded(self, ids: Tensor, positions: Tensor, context: Context) -> Tensor:
        x = super().embedded(ids, torch.zeros_like(positions), context)     # all rotated alike, which no product shows
        return x if self.table is None else x + self.table[positions]


def run(steps: int = STEPS) -> Finding:
    """The sums of sines, the bundled model's own queries and keys rotated, and four trainings of so many steps."""
    with _one_thread():
        models = {kind: trained(kind, steps) for kind in KINDS}
        right = {kind: accuracy(model) for kind, model in models.items()}
    table, wave = models["learned"].table.detach()[:SHORT].double(), sines(SHORT, WIDTH).double()
    products = {"sines": wave @ wave.T, "learned": table @ table.T}
    shares = {name: by_distance(found)[1] for name, found in products.items()}
    moved, changed = rotated()
    numbers = {"sines: explained by distance": shares["sines"], "learned: explained by distance": shares["learned"],
               "rotary: moved together": moved, "rotary: one place apart": changed}
    places = [f"{first} to {first + PART - 1}" for first in range(0, LONG, PART)]
    parts = {kind: row.view(-1, PART).nanmean(1).tolist() for kind, row in right.items()}
    for kind, row in right.items():
        numbers |= {f"{kind}: {place}": share for place, share in zip(places, parts[kind], strict=True)}
        numbers |= {f"{kind}: inside": row[:SHORT].nanmean().item(), f"{kind}: beyond": row[SHORT:].mean().item()}
    return Finding(_charts(products, parts), _conclusion(numbers), numbers)


def by_distance(products: Tensor) -> tuple[list[float], float]:
    """The mean product of two different positions (n, n) at every distance from 1, and the share of the variance of all these
    products that the distance explains; 1 where it is all that counts."""
    diagonals = [products.diagonal(distance) for distance in range(1, len(products))]
    every = torch.cat(diagonals)
    within = sum(((row - row.mean()) ** 2).sum() for row in diagonals)
    return [row.mean().item() for row in diagonals], 1 - (within / ((every - every.mean()) ** 2).sum()).item()


def rotated() -> tuple[float, float]:
    """By how much the cosine of a query and a key of the bundled model changes: at most, when both move on together to every
    tenth place that it has positions for; and on average, when the key alone moves one place."""
    model, tokenizer = load("chat")
    read = trace((model, tokenizer), TEXT, name="chat")
    count = len(read.tokens)

    def cosines(layer: int, query: int, key: int) -> Tensor:
        raw, places = (read[layer].unrotated_q, read[layer].unrotated_k), torch.arange(count)[None]
        q, k = (F.normalize(rotate(x, rotary(places + first, model.frequencies, x.dtype)).double(), dim=-1)
                for x, first in zip(raw, (query, key), strict=True))
        return q @ k.repeat_interleave(model.heads // model.kv_heads, 1).mT

    together, apart = [], []
    for layer in range(model.layers):
        here = cosines(layer, 0, 0)
        together += [(cosines(layer, by, by) - here).abs().max().item() for by in range(1, model.positions - count + 1, 10)]
        apart.append((cosines(layer, 0, 1) - here).abs().mean().item())
    return max(together), sum(apart) / len(apart)


def trained(kind: str, steps: int) -> Llama:
    """A decoder with positions of a kind, after so many steps; the same first weights and rows for every kind."""
    config = LlamaConfig(vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=2,
                         num_attention_heads=2, num_key_value_heads=2, head_dim=WIDTH // 2, max_position_embeddings=LONG)
    settings = RowTraining(steps=steps, batch=BATCH, context=SHORT, learning_rate=3e-3, warmup=min(50, steps), weight_decay=0.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = build(config)
        if kind != "rotary":
            # Tables begin as large as the embedding's rows.
            table = {"none": None, "sines": sines(LONG, WIDTH) * SPREAD * 2 ** 0.5,
                     "learned": nn.Parameter(SPREAD * torch.randn(LONG, WIDTH))}[kind]
            placed = Placed(config, table)
            placed.model, placed.lm_head = model.model, model.lm_head
            model = placed
        stepper = Stepper(model, settings)
        for step in range(steps):
            stepper(step, [_rows(BATCH, SHORT, step)])
    return model.eval()


def _rows(count: int, length: int, seed: int) -> Batch:
    """Random tokens, and the token LAG places earlier as what is to be said at each."""
    ids = torch.randint(VOCABULARY, (count, length), generator=torch.Generator().manual_seed(seed))
    targets = torch.full_like(ids, -100)
    targets[:, LAG:] = ids[:, :-LAG]
    return Batch(ids, targets, torch.zeros_like(ids))


@torch.no_grad()
def accuracy(model: Llama) -> Tensor:
    """The share of tokens that are named rightly at every place of rows that it was not trained on: (LONG,), NaN for the first
    LAG, where there is nothing to name."""
    rows = _rows(4 * BATCH, LONG, 2 ** 31)
    right = (model(rows.ids).argmax(-1) == rows.targets).double().mean(0)
    return right.where(torch.arange(LONG) >= LAG, torch.nan)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums are made in one order, so that the numbers do not depend on how many cores there are."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _charts(products: dict[str, Tensor], right: dict[str, list[float]]) -> tuple[Chart, ...]:
    table = sines(SHORT, WIDTH)
    near = {name: by_distance(found)[0] for name, found in products.items()}
    scale = {name: found.diagonal().mean().item() for name, found in products.items()}
    return (
        Chart(("The table of sines, some of its columns", "正弦位置表的几列"), ("position", "位置"),
              tuple(map(str, range(SHORT))), ("value", "值"),
              {(f"column {column}", f"第 {column} 列"): table[:, column].tolist() for column in COLUMNS}),
        Chart(("The product of two positions", "两个位置的点积"), ("distance", "距离"), tuple(map(str, range(1, SHORT))),
              ("mean, as a share of a position with itself", "平均，以位置与自身的点积为一"),
              {KINDS[name]: [value / scale[name] for value in row] for name, row in near.items()}),
        Chart((f"Naming the token {LAG} places earlier, after training on rows of {SHORT}",
               f"说出前面第 {LAG} 个词元，训练时每行 {SHORT} 个"),
              ("place in the row", "在行中的位置"), tuple(f"{first}–{first + PART - 1}" for first in range(0, LONG, PART)),
              ("share that is right", "正确的比例"), {KINDS[kind]: row for kind, row in right.items()}))


def _conclusion(numbers: dict[str, float]) -> Words:
    sine, learned = (f"{100 * numbers[f'{name}: explained by distance']:.1f} %" for name in ("sines", "learned"))
    moved, apart = f"{numbers['rotary: moved together']:.1e}", f"{numbers['rotary: one place apart']:.2f}"
    inside, beyond = ({kind: f"{100 * numbers[f'{kind}: {where}']:.1f} %" for kind in KINDS} for where in ("inside", "beyond"))
    learnt = [kind for kind in KINDS if numbers[f"{kind}: inside"] > SURE]
    on = [kind for kind in learnt if numbers[f"{kind}: beyond"] > SURE]
    english, chinese = ", ".join(KINDS[kind][0] for kind in on), "、".join(KINDS[kind][1] for kind in on)
    lost = [kind for kind in learnt if kind not in on]
    verdict = (f"Of those that learnt it ({', '.join(KINDS[kind][0] for kind in learnt) or 'nobody'}) these read on: "
               f"{english or 'nobody'}; these do not: {', '.join(KINDS[kind][0] for kind in lost) or 'nobody'}.",
               f"学会了的（{'、'.join(KINDS[kind][1] for kind in learnt) or '无'}）之中，更长时仍然会的：{chinese or '无'}；"
               f"不再会的：{'、'.join(KINDS[kind][1] for kind in lost) or '无'}。")
    return (
        f"Distance alone explains {sine} of how the products of two sine positions vary, and {learned} of learned ones. The "
        f"bundled model's rotated queries and keys keep their cosines when both move on together (to within {moved}), and "
        f"change them by {apart} on average when one moves a single place. Right within {SHORT} tokens, then up to {LONG}: "
        + "; ".join(f"{KINDS[kind][0]} {inside[kind]}, {beyond[kind]}" for kind in KINDS)
        + f" ({100 / VOCABULARY:.2f} % by chance). {verdict[0]}",
        f"正弦位置两两点积的变化有 {sine} 由距离决定，学得的位置为 {learned}。自带模型里旋转后的查询与键一起平移时，余弦不变"
        f"（误差不超过 {moved}）；只移动其中一个一位，则平均改变 {apart}。"
        f"{SHORT} 个词元之内与之外（到 {LONG}）的正确率："
        + "；".join(f"{KINDS[kind][1]} {inside[kind]}、{beyond[kind]}" for kind in KINDS)
        + f"（随机为 {100 / VOCABULARY:.2f} %）。{verdict[1]}")


LAB = Lab(("Sines, learned or rotary positions", "正弦、学得的与旋转的位置"),
          ("Positions as sines tell distances, so that a model reads on in texts longer than it was trained on.",
           "正弦位置体现距离，因此模型能读比训练时更长的文字。"),
          "Vaswani et al. 2017, section 3.5; Su et al. 2021 (RoFormer); Kazemnejad et al. 2023 (no positions)", run)
