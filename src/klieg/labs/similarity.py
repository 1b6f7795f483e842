"""The dot product as similarity: how much of it is direction, and how much is length."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from klieg.labs import Finding, Lab
from klieg.models import load
from klieg.trace import Trace
from klieg.views.chart import Chart
from klieg.watch import trace

ONE, OTHER = (1.0, 2.0, 3.0), (4.0, 5.0, 6.0)
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
PRINTED = {"小": 0.53, "沈": 0.66, "阳": 0.40}      # products with 邀请 that are often printed
TEXTS = ("小沈阳江西演唱会邀请了，", "The animal didn't cross the street because it was too tired.")
WIDTHS = (8, 32, 128, 512)
PAIRS, SEED = 20_000, 0


def run() -> Finding:
    """Products of printed vectors, of all pieces of the bundled model, of its queries and keys, and of chance."""
    model, tokenizer = load("chat")
    x, y = (torch.tensor(numbers, dtype=torch.float64) for numbers in (ONE, OTHER))
    product, own, cosine = (x @ y).item(), (x @ x).item(), (x @ y / (x.norm() * y.norm())).item()
    weights = torch.tensor(list(PRINTED.values()), dtype=torch.float64).softmax(0).tolist()
    agree, even = agreement([trace((model, tokenizer), text, name="chat") for text in TEXTS])
    spread = _spread()
    numbers = {"product": product, "product with itself": own, "cosine": cosine,
               **{f"weight of {name}": weight for name, weight in zip(PRINTED, weights, strict=True)},
               "pieces that are nearer to another": strangers(model.vocabulary.float()),
               "largest product is nearest direction": agree, "the same by chance": even,
               **{f"spread at d {d}": value for d, value in zip(WIDTHS, spread, strict=True)}, "root of 512": math.sqrt(512)}
    charts = (
        Chart(("(1, 2, 3) and (4, 5, 6), the second made longer", "(1, 2, 3) 与拉长的 (4, 5, 6)"),
              ("times as long", "长度的倍数"), tuple(f"{factor:g}" for factor in FACTORS), ("dot product", "点积"),
              {("of the two", "二者的点积"): [(x @ (factor * y)).item() for factor in FACTORS],
               ("of the first with itself", "前者与自身的点积"): [own] * len(FACTORS)}),
        Chart(("Products often printed for 邀请, and their weights", "“邀请”常见的点积及其权重"), ("key", "键"), tuple(PRINTED),
              ("product, and weight", "点积与权重"), {("printed product", "印出的点积"): list(PRINTED.values()),
                                                      ("exact weight", "精确权重"): weights}, bars=True),
        Chart(("Products of random vectors", "随机向量的点积"), ("width, d", "宽度 d"), tuple(map(str, WIDTHS)),
              ("standard deviation", "标准差"), {("measured", "实测"): spread, ("√d", "√d"): [math.sqrt(d) for d in WIDTHS]}))
    return Finding(charts, _conclusion(numbers), numbers)


def strangers(rows: Tensor) -> float:
    """The share of vectors (n, width) whose largest dot product is with another one than themselves."""
    best = torch.cat([(part @ rows.T).argmax(1) for part in rows.split(1024)])
    return (best != torch.arange(len(rows))).double().mean().item()


def agreement(traces: list[Trace]) -> tuple[float, float]:
    """Of all queries that see two keys or more: how often the key of the largest product is also that of the largest
    cosine, and how often it would be if any key were as likely."""
    same, even = [], []
    for call in (call for each in traces for call in each.calls):
        q, k = call.q[0].double(), call.k[0].double().repeat_interleave(call.heads // call.kv_heads, 0)
        hidden = torch.ones(call.queries, call.keys, dtype=torch.bool).triu(1)
        products = (q @ k.mT).masked_fill(hidden, -torch.inf)
        cosines = (q @ (k / k.norm(dim=-1, keepdim=True)).mT).masked_fill(hidden, -torch.inf)
        same.append((products.argmax(-1) == cosines.argmax(-1))[:, 1:].double().flatten())
        even.append((1 / torch.arange(2, call.queries + 1).double()).repeat(call.heads))
    return torch.cat(same).mean().item(), torch.cat(even).mean().item()


def _spread() -> list[float]:
    """The standard deviation of the dot product of two vectors of independent standard normal numbers, for every width."""
    chance = torch.Generator().manual_seed(SEED)
    return [torch.randn(2, PAIRS, d, dtype=torch.float64, generator=chance).prod(0).sum(1).std().item() for d in WIDTHS]


def _conclusion(numbers: dict[str, float]) -> tuple[str, str]:
    shares = [f"{100 * numbers[f'weight of {name}']:.1f} %" for name in PRINTED]
    printed = [f"{product:.2f}" for product in PRINTED.values()]
    english, chinese = _verdict(numbers["product"] > numbers["product with itself"])
    away, agree, even = (f"{100 * numbers[name]:.1f} %" for name in (
        "pieces that are nearer to another", "largest product is nearest direction", "the same by chance"))
    wide, root = numbers[f"spread at d {WIDTHS[-1]}"], numbers["root of 512"]
    product, own, cosine = numbers["product"], numbers["product with itself"], numbers["cosine"]
    return (
        f"(1, 2, 3) · (4, 5, 6) = {product:g}; (1, 2, 3) with itself gives {own:g}, at cosines of {cosine:.4f} and 1. "
        f"{english} In the bundled model {away} of all pieces have their largest product with another piece, and the key of a "
        f"query's largest product is the one nearest in direction in {agree} of cases ({even} by chance). The products "
        f"{', '.join(printed)} of 邀请 become weights of {', '.join(shares)}. Products of random vectors of width 512 vary by "
        f"{wide:.2f}, and √512 = {root:.3f}.",
        f"(1, 2, 3) · (4, 5, 6) = {product:g}；(1, 2, 3) 与自身的点积是 {own:g}，两者的余弦分别为 {cosine:.4f} 和 1。{chinese}"
        f"在自带模型里，{away} 的词片与另一个词片的点积比与自身的还大；与查询点积最大的键，有 {agree} 也是方向最近的键"
        f"（随机时为 {even}）。“邀请”的点积 {'、'.join(printed)} 经 softmax 变成权重 {'、'.join(shares)}。"
        f"宽度为 512 时，随机向量点积的标准差是 {wide:.2f}，而 √512 = {root:.3f}。")


def _verdict(longer: bool) -> tuple[str, str]:
    if longer:
        return ("So a vector may have a larger product with another than with itself: the dot product measures length as well "
                "as direction.", "可见一个向量与别人的点积可以比与自己的还大：点积量的不只是方向，还有长度。")
    return "Here the larger product is also the nearer direction.", "这里点积较大的，方向也较近。"


LAB = Lab(("The dot product as similarity", "用点积衡量相似"),
          ("The dot product says how similar two vectors are: the larger, the more a query attends to a key.",
           "点积表示两个向量有多相似：点积越大，查询对键的注意力越多。"),
          "Luong et al. 2015, section 3.1 (dot); Vaswani et al. 2017, section 3.2.1", run)
