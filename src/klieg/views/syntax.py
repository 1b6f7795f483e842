"""Heads as parsers: a table of relations with the head that finds each best, and all heads in one picture by one relation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from rich.table import Table

from klieg.views.coreference import LEVEL, Head, Rate
from klieg.views.glyphs import safe
from klieg.views.heads import Row, scored
from klieg.views.palette import LIGHT, Theme
from klieg.views.picture import FAINT, INK, Picture, Span

WORDS = {
    "relation": ("relation", "依存关系"), "to": ("finds a", "所找的词"), "best": ("by head", "头"),
    "right": ("right, %", "正确率，%"), "fixed": ("offset, %", "偏移，%"), "chance": ("chance", "随机"), "p": ("p", "p"),
    "words": ("words", "词数"),
    "head": ("head", "支配词"), "dependent": ("dependent", "从属词"), "all": ("all", "全部"),
    "title head": ("{name}: how often a word's strongest weight is on its head",
                   "{name}：从从属词看，权重最大的词正是其支配词的比例"),
    "title dependent": ("{name}: how often a head word's strongest weight is on such a dependent",
                        "{name}：从支配词看，权重最大的词正是这种从属词的比例"),
    "short head": ("{name}: a word's head", "{name}：找支配词"),
    "short dependent": ("{name}: a word's dependent", "{name}：找从属词"),
    "read": ("{sentences:,} sentences; heads and offsets were chosen on every second one, and all figures are of the others",
             "共 {sentences:,} 句；头与偏移在隔句抽出的一半上选定，这里是另一半上的结果"),
    "columns": ("right: the share of words whose strongest weight is right, with its 95 % interval. offset: the same for "
                "always looking as many words away as does best. chance: for this head, had the relation's distances been "
                "shuffled. p: of the sign test that the head is no better than the offset.",
                "正确率：权重最大的词正好是所找的词的比例，附 95% 置信区间。偏移：总是看固定距离处的词，最好能有多少正确。"
                "随机：打乱该关系各处的距离后，这个头的正确率。p：符号检验，原假设为这个头不比最佳偏移好。"),
    "better": ("better than the best offset with p < {level}: {count} of {all} relations",
               "好于最佳偏移（p < {level}）的关系：{count} / {all}"),
    "left long": ("left out: {n:,} sentences too long for the model", "略过：{n:,} 句超出模型的长度"),
    "left torn": ("left out: {n:,} links with a word in which no token begins",
                  "略过：{n:,} 条关系，其中有词不是任何词元的开头"),
    "left unseen": ("left out: {n:,} looks at words that the model does not see, such as later ones",
                    "略过：{n:,} 次查看，所找的词模型看不到（例如在后文）"),
    "left rare": ("left out: {n:,} relations that stand in one half of the sentences alone",
                  "略过：{n:,} 种只出现在一半句子里的关系"),
}


class Relation(Protocol):
    """What heads make of one relation."""

    @property
    def name(self) -> str: ...
    @property
    def to(self) -> str: ...
    @property
    def every(self) -> Sequence[Rate]: ...
    @property
    def chance(self) -> Sequence[float]: ...
    @property
    def best(self) -> Head: ...
    @property
    def place(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def baseline(self) -> Rate: ...
    @property
    def chosen(self) -> Rate: ...
    @property
    def p(self) -> float: ...


class Found(Protocol):
    """What heads make of a treebank."""

    @property
    def model(self) -> str: ...
    @property
    def rows(self) -> Sequence[Row]: ...
    @property
    def sentences(self) -> int: ...
    @property
    def left_out(self) -> Mapping[str, int]: ...


def word(key: str, language: str, /, **values: object) -> str:
    """One phrase with its names filled in."""
    return WORDS[key][language == "zh"].format(**values)


def grid(found: Found, relation: Relation, theme: Theme = LIGHT, language: str = "en") -> Picture:
    """Layers x heads, coloured by how often each finds what it is to find by one relation."""
    left = iter(rate.share for rate in relation.every)
    values = [[next(left) for _ in range(row.heads)] for row in found.rows]
    title = name(relation, language)
    spans = (Span(title, INK, bold=True), Span(f"   {word('fixed', language)}: {_offset(relation)}", FAINT))
    return scored(found.rows, values, "share", spans, safe(f"{found.model}: {title}"), theme, language=language)


def name(relation: Relation, language: str) -> str:
    """The title of a relation's picture."""
    return word(f"title {relation.to}", language, name=_relation(relation, language))


def short(relation: Relation, language: str) -> str:
    """A relation and what is looked for, in a few words."""
    return word(f"short {relation.to}", language, name=_relation(relation, language))


def table(relations: Sequence[Relation], language: str) -> Table:
    """A line for each relation: its best head, how often it is right, and what that has to be held to."""
    made = Table(box=None, pad_edge=False, header_style="dim")
    for key in ("relation", "to", "best", "right", "fixed", "chance", "p", "words"):
        made.add_column(word(key, language), justify="left" if key in ("relation", "to", "best") else "right")
    for one in relations:
        low, high = (100 * x for x in one.chosen.interval)
        made.add_row(_relation(one, language), word(one.to, language), f"{one.best.layer}.{one.best.head}",
                     f"{100 * one.chosen.share:.1f} ({low:.0f} … {high:.0f})", _offset(one),
                     f"{100 * one.chance[one.place]:.1f}", f"{one.p:.3f}" if one.p >= 0.001 else "<0.001",
                     f"{one.chosen.count:,}")
    return made


def remarks(found: Found, relations: Sequence[Relation], language: str) -> list[str]:
    """How it was read, what the columns say, how many relations some head finds, and what was left out, a line each."""
    single = [one for one in relations if one.name != "all"]
    better = sum(one.p < LEVEL for one in single)
    return [word("read", language, sentences=found.sentences), word("columns", language),
            word("better", language, level=LEVEL, count=better, all=len(single)),
            *(word(f"left {why}", language, n=n) for why, n in found.left_out.items() if n)]


def _relation(relation: Relation, language: str) -> str:
    return word("all", language) if relation.name == "all" else safe(relation.name)


def _offset(relation: Relation) -> str:
    return f"{relation.offset:+d}: {100 * relation.baseline.share:.1f}"
