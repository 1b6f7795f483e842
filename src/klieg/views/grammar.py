"""A model's grammar: how often a right sentence is likelier than a wrong one, phenomenon by phenomenon, as a table in a
terminal and as a picture of shares with their intervals around the line of chance."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from klieg.views.coreference import Rate
from klieg.views.glyphs import safe, width
from klieg.views.palette import LIGHT, Paint, Theme
from klieg.views.picture import FAINT, INK, PAPER, STRONG, Bar, Mark, Picture, Rule, Span, Text

WORDS = {
    "title": ("how often the right one of two sentences is the likelier", "两句话中，正确的一句概率更高的比例"),
    "phenomenon": ("phenomenon", "语法现象"), "right": ("right", "正确率"), "interval": ("95 % interval", "95% 置信区间"),
    "pairs": ("pairs", "句对"), "total": ("all pairs; chance is 50 %", "全部（随机为 50%）"), "all": ("all pairs", "全部句对"),
    "chance": ("chance", "随机"), "line": ("line: 95 % interval", "横线：95% 置信区间"),
}
PHENOMENA = {
    "island_effects": ("islands", "孤岛效应"), "determiner_noun_agreement": ("determiner-noun agreement", "限定词与名词一致"),
    "argument_structure": ("argument structure", "论元结构"), "npi_licensing": ("negative polarity items", "否定极性词"),
    "binding": ("binding", "约束"), "filler_gap_dependency": ("filler-gap dependencies", "填充语与空位"),
    "subject_verb_agreement": ("subject-verb agreement", "主谓一致"), "control_raising": ("control and raising", "控制与提升"),
    "quantifiers": ("quantifiers", "量化词"), "anaphor_agreement": ("anaphor agreement", "照应语一致"),
    "s-selection": ("semantic selection", "语义选择"), "ellipsis": ("ellipsis", "省略"),
    "irregular_forms": ("irregular forms", "不规则形式")}
ROOM, LINE = 420.0, 26.0     # CSS pixels of the whole share, and from one row to the next


def named(phenomenon: str) -> tuple[str, str]:
    """What BLiMP calls a phenomenon, as people say it: English, Chinese; of an unknown one its own name in both."""
    return PHENOMENA.get(phenomenon, (phenomenon, phenomenon))


def word(key: str, language: str) -> str:
    """One phrase."""
    return WORDS[key][language == "zh"]


def phenomena(total: Rate, found: Mapping[str, Rate], language: str) -> Table:
    """How many minimal pairs are ordered right, by phenomenon and in all."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("phenomenon", "right", "interval", "pairs"):
        table.add_column(word(name, language), justify="left" if name == "phenomenon" else "right")
    for name, rate in ordered(found):
        table.add_row(safe(named(name)[language == "zh"]), *_figures(rate))
    table.add_row(word("total", language), *_figures(total))
    return table


def ordered(found: Mapping[str, Rate]) -> list[tuple[str, Rate]]:
    """Phenomena, the best first."""
    return sorted(found.items(), key=lambda item: -item[1].share)


def picture(model: str, total: Rate, found: Mapping[str, Rate], theme: Theme = LIGHT, *, language: str = "en") -> Picture:
    """A bar for each phenomenon and for all pairs, a line over its interval, and the line of chance through all of them."""
    rows = [(safe(named(name)[language == "zh"]), rate) for name, rate in ordered(found)] + [(word("all", language), total)]
    gutter = (max(width(name) for name, _ in rows) + 2) * PAPER.char
    top = 2.6 * PAPER.line
    marks: list[Mark] = [Text(0, 0, (Span(f"{safe(model)}: {word('title', language)}", INK, bold=True),), size=16),
                         Text(gutter, 1.3 * PAPER.line, (Span(word("line", language), FAINT),), size=11)]
    for n, (name, rate) in enumerate(rows):
        y, last = top + n * LINE + (8 if n == len(rows) - 1 else 0), n == len(rows) - 1
        low, high = rate.interval
        share, interval, count = _figures(rate)
        marks.append(Text(gutter - PAPER.char, y, (Span(name, INK, bold=last),), "end"))
        marks.append(Bar(gutter, y + 4, ROOM, 14, rate.share, rate.share, Paint("statistic", 0.45),
                         f"{name}: {share}, {interval}"))
        marks.append(Rule(gutter + low * ROOM, y + 11, (high - low) * ROOM, 0, INK, 2))
        marks.append(Text(gutter + ROOM + 10, y, (Span(share, INK, bold=last), Span(f"   {count}", FAINT))))
    foot = top + len(rows) * LINE + 8
    marks.append(Rule(gutter + ROOM / 2, top, 0, foot - top, STRONG, 1))
    marks.append(Text(gutter + ROOM / 2, foot, (Span(f"{word('chance', language)} 50 %", FAINT),), "middle", 11))
    right = max(mark.x + mark.columns * PAPER.char * mark.size / 13 for mark in marks
                if isinstance(mark, Text) and mark.anchor == "start")
    return Picture(right, foot + PAPER.line, tuple(marks), f"{safe(model)}: {word('title', language)}", theme, PAPER)


def _figures(rate: Rate) -> tuple[str, str, str]:
    low, high = rate.interval
    return f"{100 * rate.share:.1f} %", f"{100 * low:.1f} … {100 * high:.1f}", f"{rate.count:,}"
