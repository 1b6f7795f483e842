"""A picture as lines of characters for a terminal: a canvas with one style for each column.

Colours are 24-bit and rich narrows them to what the terminal has. Without any colour nothing
is lost: heights, lengths and figures carry every number. Frames higher than a line are left
out, as they would cover figures; a frame of one line becomes a mark on either side.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from operator import itemgetter

from rich.style import Style
from rich.text import Text as Line

from klieg.views.glyphs import column, crop, width
from klieg.views.palette import Paint, Theme, interpolate
from klieg.views.picture import Bar, Cell, Inset, Link, Picture, Ramp, Rule, Span, Text

HEIGHTS = " ▁▂▃▄▅▆▇█"
LENGTHS = " ▏▎▍▌▋▊▉█"
SHADES = " ░▒▓█"
EMPTY = (" ", Style.null())


def lower(picture: Picture) -> list[Line]:
    """The picture's lines, none wider than the picture. Only pictures laid out for characters have any."""
    if picture.medium.name != "terminal":
        raise ValueError("a picture laid out in pixels has no characters; lay it out for TERMINAL.")
    canvas = _Canvas(int(picture.width), int(picture.height), picture.theme)
    _draw(canvas, picture, 0, 0)
    return canvas.lines()


def ink(theme: Theme, paint: Paint, bold: bool = False) -> Style:
    """The style of written words; plain ink is the terminal's own, so that it is readable on any ground."""
    return Style(color=None if paint.name == "ink" else theme.colour(paint), bold=bold or None)


def written(spans: Iterable[Span], theme: Theme, columns: int) -> Line:
    """One line of words, cut at the columns there are."""
    line = Line(no_wrap=True, overflow="crop")
    for span in spans:
        line.append(crop(span.text, columns - width(line.plain)), ink(theme, span.paint, span.bold))
    return line


class _Canvas:
    """Characters and their styles by line and column; a wide character owns two columns."""

    def __init__(self, width: int, height: int, theme: Theme) -> None:
        self.width, self.theme = width, theme
        self._rows = [[EMPTY] * width for _ in range(height)]

    def write(self, x: float, y: float, text: str, style: Style) -> int:
        """Writes from column x on and cuts at the edges; returns the column after it."""
        at, row = round(x), self._rows[round(y)]
        for c in text:
            wide = column(c)
            if wide == 0:
                if 0 < at <= self.width:
                    back = at - 1 - (row[at - 1][0] == "")
                    row[back] = (row[back][0] + c, row[back][1])
                continue
            if at >= 0 and at + wide <= self.width:
                row[at] = (c, style)
                if wide == 2:
                    row[at + 1] = ("", style)
            at += wide
        return at

    def lines(self) -> list[Line]:
        lines = []
        for row in self._rows:
            line = Line(no_wrap=True, overflow="crop")
            last = max((n for n, place in enumerate(row, start=1) if place != EMPTY), default=0)
            for style, run in groupby(row[:last], key=itemgetter(1)):
                line.append("".join(text for text, _ in run), style)
            lines.append(line)
        return lines


def _draw(canvas: _Canvas, picture: Picture, x: float, y: float) -> None:
    """Every mark at its place, after the place of the picture."""
    for mark in picture.marks:
        if isinstance(mark, Inset):
            _draw(canvas, mark.picture, x + mark.x, y + mark.y)
        else:
            _DRAW[type(mark)](canvas, mark, x + mark.x, y + mark.y)


def _cell(canvas: _Canvas, cell: Cell, x: float, y: float) -> None:
    theme, width = canvas.theme, int(cell.width)
    if cell.state == "masked":
        canvas.write(x, y, "·".rjust(width - 1), ink(theme, cell.paint))
    elif cell.state == "hidden":
        canvas.write(x, y, (cell.digits + "╱").rjust(width), ink(theme, Paint("ink3")))
    else:
        ground = theme.colour(cell.paint)
        if cell.digits:
            canvas.write(x, y, (cell.digits + " ").rjust(width), Style(color=theme.on(ground), bgcolor=ground))
        else:  # The shade shows where there are no colours, and cannot be told from its ground where there are.
            canvas.write(x, y, SHADES[round(cell.paint.at * 4)] * width, Style(color=ground, bgcolor=ground))


def _bar(canvas: _Canvas, bar: Bar, x: float, y: float) -> None:
    style = ink(canvas.theme, bar.paint)
    if bar.value is None:
        canvas.write(x, y, "·", ink(canvas.theme, Paint("ink3")))
    elif bar.upright:
        canvas.write(x, y, HEIGHTS[min(max(round(bar.part * 8), 1), 8)], style)
    else:
        eighths = max(round(bar.part * bar.width * 8), 1)
        canvas.write(x, y, "█" * (eighths // 8) + LENGTHS[eighths % 8].strip(), style)


def _link(canvas: _Canvas, link: Link, x: float, y: float) -> None:
    """A line on the row of the key, heavy above a third."""
    length = int(link.to_x - link.x)
    line = ("━" if link.value > 1 / 3 else "─") * length
    canvas.write(x, y - link.y + link.to_y, line, ink(canvas.theme, link.paint))


def _text(canvas: _Canvas, text: Text, x: float, y: float) -> None:
    at = x - {"start": 0, "middle": text.columns / 2, "end": text.columns}[text.anchor]
    for span in text.spans:
        room = canvas.width - round(at)
        at = canvas.write(at, y, crop(span.text, room), ink(canvas.theme, span.paint, span.bold))


def _rule(canvas: _Canvas, rule: Rule, x: float, y: float) -> None:
    style = ink(canvas.theme, rule.paint)
    if rule.width and rule.height == 1:
        canvas.write(x, y, "›", style)
        canvas.write(x + rule.width - 1, y, "‹", style)
    elif rule.height == 0:
        line = "─" * int(rule.width)
        canvas.write(x, y, f"╭{line[2:]}╮" if rule.bracket else line, style)


def _ramp(canvas: _Canvas, ramp: Ramp, x: float, y: float) -> None:
    faint, stops = ink(canvas.theme, Paint("ink3")), getattr(canvas.theme, ramp.name)
    at = canvas.write(x, y, f"{ramp.low} ", faint)
    for n in range(int(ramp.width)):
        at = canvas.write(at, y, " ", Style(bgcolor=interpolate(stops, n / (ramp.width - 1))))
    canvas.write(at, y, f" {ramp.high}", faint)


_DRAW = {Cell: _cell, Bar: _bar, Link: _link, Text: _text, Rule: _rule, Ramp: _ramp}
