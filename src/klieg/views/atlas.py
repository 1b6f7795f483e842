"""An atlas on paper and in a terminal: every head in one picture by one score, the highest heads of each score, and the
heads that differ most between two atlases.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from rich.table import Table

from klieg.errors import KliegError
from klieg.views.glyphs import safe, width
from klieg.views.heads import SIDE, Row, band_of, bands, figure, ramp_of, row_name
from klieg.views.heatmap import reach
from klieg.views.palette import LIGHT, Theme
from klieg.views.picture import FAINT, INK, PAPER, Mark, Picture, Ramp, Span, Text
from klieg.views.words import say

WORDS = {
    "previous": ("Weight on the token before", "落在前一个词元上的权重"),
    "next": ("Weight on the token after", "落在后一个词元上的权重"),
    "own": ("Weight on the token itself", "落在自身上的权重"),
    "first": ("Weight on the first token", "落在首词上的权重"),
    "duplicate": ("Weight on earlier tokens that are the same", "落在前文相同词元上的权重"),
    "induction": ("Induction: weight on what came after the same token earlier",
                  "归纳：落在前文相同词元的后一个词元上的权重"),
    "copy": ("Weight on earlier tokens that are the same as the next", "落在前文与下一词元相同的词元上的权重"),
    "marks": ("Weight on earlier punctuation", "落在前文标点上的权重"),
    "retrieval": ("Weight on the token of a needle that is to be copied", "落在“针”中待复制词元上的权重"),
    "positional": ("Share of the pattern that distance alone explains", "注意力中仅由距离决定的份额"),
    "entropy": ("Entropy: how spread a head looks", "熵：一个头看得多分散"),
    "distance": ("Distance: how far away a head looks", "距离：一个头看得多远"),
    "sharpest": ("Largest weight of a row", "每行最大的权重"),
    "score": ("score", "指标"), "head": ("head", "头"), "mean": ("mean", "均值"),
    "interval": ("95 % interval", "95% 置信区间"),
    "chance": ("chance", "随机基线"), "texts": ("texts", "文本数"), "by": ("B - A", "B - A"),
    "read": ("{tokens:,} tokens in {windows:,} texts", "{windows:,} 段文本，共 {tokens:,} 个词元"),
    "more": ("; the corpus goes on", "；语料还没有读完"),
    "partial": ("partial: the corpus was not read to its end", "未完：语料还没有读完"),
    "layer": ("layer", "层"), "kind": ("kind", "类别"), "low": ("from", "下限"), "high": ("to", "上限"),
    "mute heads": ("Loss without each head, less the loss with it", "去掉每个头之后损失的增加"),
    "mute groups": ("Loss without each K/V group, less the loss with it", "去掉每个键值组之后损失的增加"),
    "mute layers": ("Loss without the attention of each layer, less the loss with it", "去掉每层注意力之后损失的增加"),
    "heads": ("head", "头"), "groups": ("K/V group", "键值组"), "layers": ("layer", "层"),
    "change": ("added loss, nats a token", "损失增加，奈特/词元"),
    "between": ("{count:,} more lie between", "其间还有 {count:,} 个"),
    "loss": ("loss of the model as it is: {loss:.4f} nats a token", "模型原本的损失：每词元 {loss:.4f} 奈特"),
    "heads of": ("Heads of {model}", "{model} 的注意力头"), "all": ("all scores", "全部指标"),
    "sorted": ("Click the name of a column to sort by it.", "点击列名即可排序。"),
    "columns": ("Each score is a mean over texts; from and to are its 95 % interval, and chance is what the head would score "
                "without the behaviour.",
                "每项指标都是各段文本的均值；下限与上限构成 95% 置信区间，随机基线是这个头没有该行为时的得分。"),
    "units": ("entropy is in nats, distance in tokens; every other score is a share",
              "entropy 以奈特计，distance 以词元计，其余指标都是份额"),
    "windows": ("A was read in windows of {a:,} tokens and B of {b:,}: scores depend on how long a text is",
                "A 每段最多 {a:,} 个词元，B 每段最多 {b:,} 个：得分与文本的长短有关"),
    "relation": ("relation", "依存关系"), "to": ("looks for", "所找的词"), "share": ("right", "正确率"),
    "offset": ("offset", "偏移"), "baseline": ("of the offset", "偏移基线"), "count": ("words", "词数"),
    "left junk": ("left out: {count:,} pieces that are no UTF-8 text", "略过：{count:,} 段不是 UTF-8 的内容"),
    "left broken": ('left out: {count:,} lines that are no JSON object with a "text"',
                    '略过：{count:,} 行不是带有 "text" 的 JSON'),
    "left empty": ("left out: {count:,} empty documents", "略过：{count:,} 篇空文档"),
    "left short": ("left out: {count:,} texts of fewer than {shortest} tokens",
                   "略过：{count:,} 段不足 {shortest} 个词元的文本"),
}


class Line(Protocol):
    """One score of one head."""

    score: str
    unit: str
    layer: int
    kind: str
    head: int
    mean: float
    low: float
    high: float
    chance: float
    texts: int
    whole: bool


class Difference(Protocol):
    """One score of one head in two atlases."""

    a: Line
    b: Line
    by: float
    low: float
    high: float


def word(key: str, language: str, /, **values: object) -> str:
    """One phrase of an atlas with its names filled in."""
    return WORDS[key][language == "zh"].format(**values)


def grid(model: str, score: str, unit: str, rows: Sequence[Row], values: list[list[float]], theme: Theme = LIGHT, *,
         whole: bool = True, language: str = "en") -> Picture:
    """Layers x heads, coloured by the mean of one score (its unit: share, nats or tokens) from the least to the largest.

    Where the corpus was not read to its end (whole), the picture says so.
    """
    if any(math.isnan(value) for line in values for value in line):
        raise KliegError(f"not every head has the score {score!r}, and a picture of it would have holes; choose another with "
                         "--by.")
    ramp, names = ramp_of(values), [row_name(row, language) for row in rows]
    step, gap, line = SIDE, 10.0, SIDE + 10
    gutter = (max(map(width, names)) + 2) * PAPER.char
    marks: list[Mark] = [Text(0, 0, (Span(word(score, language), INK, bold=True),
                                     Span(f"   {say(f'in {unit}', language)}", FAINT)), size=16)]
    y = PAPER.line * 1.8
    if not whole:
        marks.append(Text(0, y - PAPER.line * 0.6, (Span(word("partial", language), FAINT),)))
        y += PAPER.line * 0.8
    for band in bands(rows, step, gap, 1000 - gutter):
        y = band_of(marks, rows, band, values, names, ramp, unit, (gutter, step, gap, line, y), PAPER, language)
    marks.append(Ramp(0, y + 4, 160, 8, ramp.ramp, figure(ramp.low, unit), figure(ramp.high, unit)))
    return Picture(max(reach(mark, PAPER) for mark in marks), y + PAPER.line, tuple(marks),
                   safe(f"{model}: {word(score, language)}"), theme, PAPER)


def highest(lines: Iterable[Line], language: str) -> Table:
    """Heads with their scores, a line each; the name of a score stands at the first of its heads, and units below."""
    table = _table(("score", "head", "mean", "interval", "chance", "texts"), language)
    last, lines = None, list(lines)
    _units(table, lines, language)
    for line in lines:
        table.add_row(line.score if line.score != last else "", f"{line.layer}.{line.head}", _number(line.mean),
                      _interval(line.low, line.high), _number(line.chance), f"{line.texts:,}")
        last = line.score
    return table


def differences(found: Iterable[Difference], names: tuple[str, str], language: str) -> Table:
    """Heads with their scores in two atlases, a line each, in 80 columns; the atlases are A and B, named above them."""
    table = _table(("score", "head"), language)
    table.title, table.title_justify, table.title_style = f"A: {safe(names[0])}   B: {safe(names[1])}", "left", "dim"
    table.collapse_padding = True
    for name in ("A", word("interval", language), "B", word("interval", language), word("by", language),
                 word("interval", language)):
        table.add_column(name, justify="right")
    last, found = None, list(found)
    _units(table, [one.a for one in found], language)
    for one in found:
        table.add_row(one.a.score if one.a.score != last else "", f"{one.a.layer}.{one.a.head}", _number(one.a.mean),
                      _interval(one.a.low, one.a.high), _number(one.b.mean), _interval(one.b.low, one.b.high),
                      _number(one.by, "+"), _interval(one.low, one.high))
        last = one.a.score
    return table


def left_out(counts: Mapping[str, int], shortest: int, language: str) -> list[str]:
    """What of a corpus was not counted, a line for each reason."""
    return [word(f"left {fault}", language, count=counts[fault], shortest=shortest)
            for fault in ("junk", "broken", "empty", "short") if counts.get(fault)]


def _table(columns: Iterable[str], language: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(word(column, language), justify="left" if column in ("score", "head") else "right")
    return table


def _units(table: Table, lines: Sequence[Line], language: str) -> None:
    """Says below the table what its numbers are, where they are not all shares."""
    if any(line.unit != "share" for line in lines):
        table.caption, table.caption_justify, table.caption_style = word("units", language), "left", "dim"


def _number(value: float, sign: str = "") -> str:
    """Four digits, so that tokens are as wide as shares."""
    return f"{value:{sign}.{max(0, 4 - len(str(int(abs(value)))))}f}"


def _interval(low: float, high: float) -> str:
    return "—" if math.isnan(low) else f"{_number(low)} … {_number(high)}"
