"""What reaches a token through all layers: a line for each token before it, a column for what hiding that token does and
one for each way to follow attention, and under every column how well it agrees with hiding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from klieg.trace import Trace
from klieg.views.glyphs import crop, safe, width
from klieg.views.heatmap import LABEL, reach
from klieg.views.palette import LIGHT, Paint, Theme
from klieg.views.picture import FAINT, INK, PAPER, Cell, Mark, Medium, Picture, Span, Text
from klieg.views.scale import Scale
from klieg.views.words import phrase, say

COLUMN = 9       # columns of a cell with its number: all seven stand beside the labels in 80
LISTED = 40      # tokens; of a longer text those whose hiding does most


class Share(Protocol):
    """What one way says of every token before the last, as klieg.analysis.flow gives it."""

    @property
    def way(self) -> str: ...
    @property
    def corrected(self) -> bool: ...
    @property
    def shares(self) -> Sequence[float]: ...
    @property
    def correlation(self) -> float | None: ...


class Flow(Protocol):
    """What flows to one token of a trace, and what hiding each token before it does."""

    @property
    def trace(self) -> Trace: ...
    @property
    def token(self) -> int: ...
    @property
    def effects(self) -> Sequence[float]: ...
    @property
    def ways(self) -> Sequence[Share]: ...
    @property
    def without_first(self) -> bool: ...


def flow(found: Flow, theme: Theme = LIGHT, *, medium: Medium = PAPER, room: float | None = None,
         language: str = "en") -> Picture:
    """The table. Each column is coloured from nothing to its own largest number."""
    c, line, paper = medium.char, medium.line, medium is PAPER
    listed = sorted(range(found.token), key=lambda n: -found.effects[n])[:LISTED]
    tokens = sorted(listed)
    labels = [crop(safe(found.trace.tokens[n]), LABEL + 2) for n in tokens]
    agreement = say("flow agreement", language)
    gutter = (max(*map(width, labels), width(agreement)) + 1) * c
    columns: list[tuple[tuple[str, str], str, Sequence[float], float | None]] = [
        ((say("flow hiding", language), say("flow bits", language)), "statistic", found.effects, None)]
    columns += [((say(f"flow {way.way}", language), say("flow corrected", language) if way.corrected else ""), "weight",
                 way.shares, way.correlation) for way in found.ways]
    fits = max(int(((room or 1000) - gutter) // (COLUMN * c)), 2)
    query = Span(safe(found.trace.tokens[found.token]), Paint("query"), bold=True)
    head = [phrase("flow", language, token=query), (Span(say("flow beside", language), FAINT),)]
    if found.without_first:
        head.append((Span(say("flow without first", language), FAINT),))
    marks: list[Mark] = [Text(0, n * line, spans) for n, spans in enumerate(head)]
    y = line * (len(head) + (0.4 if paper else 0))
    for start in range(1, len(columns), fits - 1):
        band = [columns[0], *columns[start:start + fits - 1]]       # hiding stands beside every way
        y = _band(marks, band, labels, tokens, (gutter, y, COLUMN * c), agreement, medium) + (line / 2 if paper else 1)
    if len(tokens) < found.token:
        left = say("flow left out", language, shown=f"{len(tokens):,}", all=f"{found.token:,}")
        marks.append(Text(0, y, (Span(left, FAINT),)))
        y += line
    right = max(max(m.x + m.columns * c for m in marks if isinstance(m, Text) and m.anchor == "start"),
                max(reach(mark, medium) for mark in marks))
    return Picture(min(right, room or right), y, tuple(marks), say("flow title", language, token=query.text), theme, medium)


def _band(marks: list[Mark], columns: Sequence[tuple[tuple[str, str], str, Sequence[float], float | None]], labels: list[str],
          tokens: list[int], place: tuple[float, float, float], agreement: str, medium: Medium) -> float:
    """As many columns as fit side by side; returns where they end."""
    (gutter, y, step), c, line = place, medium.char, medium.line
    for n, ((name, more), ramp_name, numbers, _) in enumerate(columns):
        end = gutter + (n + 1) * step - c
        marks += [Text(end, y, (Span(name, INK),), "end"), Text(end, y + line, (Span(more, FAINT),), "end")]
        ramp = Scale(ramp_name, 0.0, max(numbers) or 1.0)
        for row, token in enumerate(tokens):
            x = numbers[token]
            marks.append(Cell(gutter + n * step, y + (2 + row) * line, step - (1 if medium is PAPER else 0), line - (
                1 if medium is PAPER else 0), x, Paint(ramp.ramp, ramp.at(x)), _number(x),
                f"{labels[row]}, {' '.join(filter(None, (name, more)))}: {x:.6g}"))
    for row, label in enumerate(labels):
        marks.append(Text(gutter - c, y + (2 + row) * line, (Span(label, Paint("key")),), "end"))
    y += (2 + len(tokens)) * line
    marks.append(Text(0, y, (Span(agreement, FAINT),)))
    for n, (*_, found) in enumerate(columns):
        if found is not None:
            marks.append(Text(gutter + (n + 1) * step - c, y, (
                Span(f"{found:+.2f}".replace("-", medium.minus), INK, bold=True),), "end"))
    return y + line


def _number(x: float) -> str:
    """Three decimals; a small number with one digit."""
    return f"{x:.3f}" if x >= 0.0005 or x == 0 else f"{x:.0e}".replace("e-0", "e-")
