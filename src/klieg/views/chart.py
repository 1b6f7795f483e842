"""A chart of a few series over a few points, as lines or as bars on paper, and as a table in a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from klieg.views.curve import line
from klieg.views.glyphs import width
from klieg.views.heatmap import reach
from klieg.views.palette import LIGHT, Paint, Theme
from klieg.views.picture import FAINT, INK, PAPER, Bar, Link, Mark, Picture, Rule, Span, Text
from klieg.views.words import LANGUAGES

WIDTH, HEIGHT, LEFT, TOP = 560.0, 240.0, 64.0, 74.0
# Not the paints of queries and keys, which these are not.
PAINTS = Paint("ink3"), Paint("amber"), Paint("ink"), Paint("amber", strength=0.6)

Words = tuple[str, str]
"""English and Chinese."""


@dataclass(frozen=True)
class Chart:
    """Series of numbers over the same points; `name` is what the points are, `unit` what the numbers are."""

    title: Words
    name: Words
    points: tuple[str, ...]
    unit: Words
    series: Mapping[Words, Sequence[float]]
    bars: bool = False
    logarithmic: bool = False
    """Lines over as many powers of ten as they need; a line breaks off where a number is 0, which has no place there."""


def picture(chart: Chart, theme: Theme = LIGHT, *, language: str = "en") -> Picture:
    """The points evenly spaced, whatever they are, and named as far as there is room; bars below 0 hang from it."""
    tongue = LANGUAGES.index(language)
    low, high = _ends(chart)
    middle = math.sqrt(low) * math.sqrt(high) if chart.logarithmic else 0.0 if low < 0 < high else (low + high) / 2
    step = WIDTH / len(chart.points)
    left = [LEFT + step * (n + 0.5) for n in range(len(chart.points))]

    def up(value: float) -> float:
        if chart.logarithmic:
            return TOP + HEIGHT * math.log(high / max(value, low)) / (math.log(high / low) or 1.0)
        return TOP + HEIGHT * (high - value) / ((high - low) or 1.0)

    marks: list[Mark] = [Text(0, 0, (Span(chart.title[tongue], INK, bold=True), Span(f"   {chart.unit[tongue]}", FAINT)))]
    x = LEFT
    for paint, words in zip(PAINTS, chart.series, strict=False):
        marks.append(Text(x, 30, (Span(words[tongue], paint),)))
        x += (width(words[tongue]) + 3) * PAPER.char
    marks += [Rule(LEFT, TOP + HEIGHT, WIDTH, 0), Rule(LEFT, TOP, 0, HEIGHT)]
    if low < 0 < high:
        marks.append(Rule(LEFT, up(0), WIDTH, 0))
    for value in (low, middle, high):
        marks.append(Text(LEFT - 8, up(value) - 10, (Span(number(value), FAINT),), "end", 11))
    every = math.ceil((max(map(width, chart.points)) + 1) * PAPER.char * 11 / 13 / step)
    for at, point in list(zip(left, chart.points, strict=True))[::every]:
        marks.append(Text(at, TOP + HEIGHT + 4, (Span(point, FAINT),), "middle", 11))
    marks.append(Text(LEFT + WIDTH, TOP + HEIGHT + 24, (Span(chart.name[tongue], FAINT),), "end", 11))
    thick = step * 0.7 / len(chart.series)
    for n, (paint, (words, values)) in enumerate(zip(PAINTS, chart.series.items(), strict=False)):
        titles = [f"{words[tongue]}, {point}: {value:.6g}" for point, value in zip(chart.points, values, strict=True)]
        if chart.bars:
            shift = (n - len(chart.series) / 2) * thick
            for at, value, title in zip(left, values, titles, strict=True):
                top, foot, part = (TOP, up(0), value / (high or 1.0)) if value >= 0 else (up(0), up(value), 1.0)
                marks.append(Bar(at + shift, top, thick, foot - top, value, part, paint, title, upright=True))
        else:
            places = [(at, up(value)) for at, value in zip(left, values, strict=True)]
            ends = [n + 2 for n in range(len(values) - 1) if not chart.logarithmic or min(values[n:n + 2]) > 0]
            marks += [mark for end in ends for mark in line(places[end - 2:end], paint, titles[end - 2:end])]
    right = max(LEFT + WIDTH + 20, *(reach(mark, PAPER) for mark in marks if not isinstance(mark, Link)))
    return Picture(right, TOP + HEIGHT + 48, tuple(marks), chart.title[tongue], theme, PAPER)


def _ends(chart: Chart) -> tuple[float, float]:
    """The lowest and the highest number that the chart has a place for: from 0 up, but for lines that are all far from it
    or logarithmic, and for what is below it; never from 0 to 0."""
    values = [value for series in chart.series.values() for value in series]
    if chart.logarithmic:
        values = [value for value in values if value > 0] or [1.0]
        return min(values), max(values)
    low, high = min(values), max(values)
    if chart.bars or 0 <= low <= high / 2:
        low, high = min(low, 0.0), max(high, 0.0)
    return low, (high or 1.0) if low == 0 else high


def table(chart: Chart, language: str = "en") -> Table:
    """The same numbers, a line for each point; the title and the unit stand over it."""
    tongue = LANGUAGES.index(language)
    found = Table(box=None, pad_edge=False, header_style="dim")
    found.add_column(chart.name[tongue])
    for words in chart.series:
        found.add_column(words[tongue], justify="right")
    for n, point in enumerate(chart.points):
        found.add_row(point, *(number(values[n]) for values in chart.series.values()))
    return found


def number(x: float) -> str:
    """Four digits that say something."""
    return f"{x:,.0f}" if abs(x) >= 1e4 else f"{x:.4g}"
