"""Heads as solvers of riddles: every head in one picture by how much of its weight is on the right candidate, or by how many
riddles of a set it solves; and tables of what was chosen and of baselines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

from rich.table import Table

from klieg.views.glyphs import safe
from klieg.views.heads import Row, scored
from klieg.views.palette import LIGHT, Theme
from klieg.views.picture import FAINT, INK, PAPER, Medium, Picture, Span

WORDS = {
    "one title": ("how much of the weight that {where} puts on {all} is on {right}",
                  "{where}落在 {all} 上的权重中，{right} 所占的份额"),
    "one pronoun": ("{pronoun}", "{pronoun} "), "one clause": ("{pronoun}'s clause, at its end,", "{pronoun} 所在分句的末尾"),
    "one end": ("the end of the text", "文末"),
    "most": ("{heads} of {all} heads look most at {right}", "{all} 个头中有 {heads} 个看 {right} 最多"),
    "blind": ("; {heads} see no candidate", "；{heads} 个看不到任何候选词"),
    "later": ("a decoder reads from left to right, and from {pronoun} it does not see what follows; --at clause and --at end "
              "look from later on", "解码器从左往右读，在 {pronoun} 处还看不到后文；--at clause 与 --at end 从更靠后的位置看"),
    "itself": ("the model itself, each candidate put in the place of {pronoun}:  ",
               "模型自己的回答（把 {pronoun} 换成各个候选词）："),
    "set title": ("share of riddles in which a head looks most at the right candidate",
                  "各头看得最多的候选词正确的比例"),
    "answer": ("answer", "回答者"), "all": ("all riddles", "全部"),
    "tuned": ("head {head}, on the part where it was chosen", "头 {head}，在挑选它的那一部分上"),
    "head": ("head {head}, on the other part", "头 {head}，在另一部分上"),
    "chance": ("chance", "随机"), "nearest": ("nearest candidate before", "前文最近的候选词"),
    "first": ("first candidate (subject)", "最先出现的候选词（主语）"),
    "whole": ("the model itself, whole text", "模型自己，按全文"),
    "rest": ("the model itself, rest of the text", "模型自己，按后文"),
    "feminine": ("she", "她"), "masculine": ("he", "他"), "pro": ("as the stereotype", "合乎刻板印象"),
    "anti": ("against it", "违背刻板印象"),
    "chosen": ("the best of {tries:,} tries: {way} of the weights from {reading}, layer {layer}, head {head}",
               "{tries:,} 种组合中最好的：第 {layer} 层头 {head}，从{reading}看，权重取{way}"),
    "reading pronoun": ("the pronoun", "代词"), "reading clause": ("the end of its clause", "分句末尾"),
    "reading end": ("the end of the text", "文末"),
    "way sum": ("the sum", "和"), "way mean": ("the mean", "平均"), "way max": ("the largest", "最大值"),
    "better": ("it does better than the best baseline, {name}: sign test, p = {p}",
               "它好于最好的基线“{name}”：符号检验 p = {p}"),
    "no better": ("it is not shown to do better than the best baseline, {name}: sign test, p = {p}",
                  "没有证据表明它好于最好的基线“{name}”：符号检验 p = {p}"),
    "left": ("left out: ", "略过："), "gaps": ("{n} with several gaps", "{n} 条有多处空缺"),
    "absent": ("{n} whose candidates the text names otherwise", "{n} 条的候选词在文中另有写法"),
    "overlap": ("{n} whose candidates share words", "{n} 条的候选词互相重叠"),
    "neither": ("{n} without a right candidate", "{n} 条没有正确的候选词"),
    "alone": ("{n} without both a right and a wrong candidate", "{n} 条不是正误候选词都有"),
    "long": ("{n} too long for the model", "{n} 条超出模型的长度"), "comma": (", ", "，"), "colon": (": ", "："),
}
LEVEL = 0.05     # a p below it is said to do better


class Rate(Protocol):
    """A share of right answers."""

    @property
    def count(self) -> int: ...
    @property
    def share(self) -> float: ...
    @property
    def interval(self) -> tuple[float, float]: ...


class Head(Protocol):
    @property
    def layer(self) -> int: ...
    @property
    def head(self) -> int: ...


class Found(Protocol):
    """What heads and model make of a set."""

    @property
    def model(self) -> str: ...
    @property
    def set(self) -> str: ...
    @property
    def rows(self) -> Sequence[Row]: ...
    @property
    def tries(self) -> int: ...
    @property
    def chosen(self) -> Head: ...
    @property
    def reading(self) -> str: ...
    @property
    def way(self) -> str: ...
    @property
    def development(self) -> Rate: ...
    @property
    def test(self) -> Rate: ...
    @property
    def baselines(self) -> Mapping[str, Rate]: ...
    @property
    def p(self) -> float: ...
    @property
    def answers(self) -> Mapping[str, Rate]: ...
    @property
    def facets(self) -> Mapping[str, Mapping[str, Rate]]: ...
    @property
    def every(self) -> Sequence[Rate]: ...
    @property
    def too_long(self) -> int: ...
    @property
    def left_out(self) -> Mapping[str, int]: ...
    @property
    def best_baseline(self) -> str: ...


def word(key: str, language: str, /, **values: object) -> str:
    """One phrase with its names filled in."""
    return WORDS[key][language == "zh"].format(**values)


def one_grid(model: str, rows: Sequence[Row], shares: Sequence[float], where: str, pronoun: str, names: Sequence[str],
             theme: Theme = LIGHT, *, medium: Medium = PAPER, room: float | None = None, language: str = "en") -> Picture:
    """Layers x heads, coloured by the share of the weight on all candidates that is on the first of `names`.

    shares: of each head, in the order of rows; 0 for one that sees none. where: the reading, pronoun, clause or end.
    """
    names = [safe(name) for name in names]
    title = word("one title", language, where=word(f"one {where}", language, pronoun=safe(pronoun)), right=names[0],
                 all=(" / " if language == "zh" else " or ").join(names))
    return scored(rows, _by_layer(rows, shares), "share", (Span(title, INK, bold=True),), safe(f"{model}: {title}"), theme,
                  medium=medium, room=room, language=language)


def set_grid(found: Found, theme: Theme = LIGHT, *, medium: Medium = PAPER, room: float | None = None,
             language: str = "en") -> Picture:
    """Layers x heads, coloured by how many riddles of a set's second part each head solves, by the chosen reading and way."""
    title = word("set title", language)
    spans = [Span(f"{safe(found.set)}{word('colon', language)}{title}", INK, bold=True)]
    if medium is PAPER:     # in a terminal remarks() stand below
        spans.append(Span("   " + word("chosen", language, **_chosen(found, language)), FAINT))
    return scored(found.rows, _by_layer(found.rows, [rate.share for rate in found.every]), "share", tuple(spans),
                  safe(f"{found.model}, {found.set}: {title}"), theme, medium=medium, room=room, language=language)


def answers(found: Found, language: str) -> Table:
    """Who answers how many riddles right: the chosen head, the baselines, the model itself; a column for each facet."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(word("answer", language))
    for name in ("all", *found.facets):
        table.add_column(word(name, language), justify="right")
    head = f"{found.chosen.layer}.{found.chosen.head}"
    table.add_row(word("tuned", language, head=head), rated(found.development))
    for name, rate in {"head": found.test, **found.baselines, **found.answers}.items():
        table.add_row(word(name, language, head=head), rated(rate, name != "chance"),
                      *(rated(facet[name], name != "chance") for facet in found.facets.values()))
    return table


def remarks(found: Found, language: str) -> list[str]:
    """What was chosen, whether it is better than the best baseline, and what was left out, a line each."""
    p = f"{found.p:.2g}" if found.p < 0.1 else f"{found.p:.2f}"
    lines = [word("chosen", language, **_chosen(found, language)),
             word("better" if found.p < LEVEL else "no better", language, name=word(found.best_baseline, language), p=p)]
    left = [word(name, language, n=n) for name, n in (*found.left_out.items(), ("long", found.too_long)) if n]
    return [*lines, *([f"{word('left', language)}{word('comma', language).join(left)}"] if left else [])]


def rated(rate: Rate, bounded: bool = True) -> str:
    """A share with its interval, in percent."""
    if math.isnan(rate.share):
        return "—"
    low, high = rate.interval
    return f"{100 * rate.share:.1f} %" + (f" ({100 * low:.1f} … {100 * high:.1f})" if bounded else "")


def _chosen(found: Found, language: str) -> dict[str, object]:
    return {"tries": found.tries, "layer": found.chosen.layer, "head": found.chosen.head,
            "reading": word(f"reading {found.reading}", language), "way": word(f"way {found.way}", language)}


def _by_layer(rows: Sequence[Row], values: Sequence[float]) -> list[list[float]]:
    """Values of all heads, cut into the layers'."""
    left = iter(values)
    return [[next(left) for _ in range(row.heads)] for row in rows]
