"""Every head in one picture: a cell each, layers down with the last on top, heads of a K/V group in one frame.

The colour and the number of a cell are one statistic of its survey. `table` has all statistics,
a line each head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from klieg.errors import KliegError
from klieg.trace import Call, Trace
from klieg.views.glyphs import safe, width
from klieg.views.heatmap import reach
from klieg.views.palette import LIGHT, Paint, Theme
from klieg.views.picture import FAINT, INK, PAPER, Cell, Mark, Medium, Picture, Ramp, Rule, Span, Text
from klieg.views.scale import Scale
from klieg.views.statistics import STATISTICS, applies, measured, statistic
from klieg.views.words import say

SIDE = 38.0       # CSS pixels of a head's cell
DIGITS = 8        # columns of a cell in a terminal
COLUMN = 9        # of one of the table: with the names of ten layers and ten heads all seven statistics stand in 80


class Row(Protocol):
    """The heads of a layer: a call of attention has them, and an atlas."""

    @property
    def layer(self) -> int: ...
    @property
    def kind(self) -> str: ...
    @property
    def heads(self) -> int: ...
    def group(self, head: int) -> int: ...


def grid(trace: Trace, by: str = "entropy", theme: Theme = LIGHT, *, medium: Medium = PAPER, room: float | None = None,
         language: str = "en") -> Picture:
    """Layers x heads, coloured by one statistic from its least to its largest value; KliegError if it applies to none.

    room: width that there is; heads that do not fit stand in a further band below, groups unbroken where they fit.
    """
    calls = [call for call in trace.calls if applies(by, call)]
    if not calls:
        raise KliegError(f"{by!r} goes by position, and a target has none in its source; choose another statistic.")
    values = [measured(call, by) for call in calls]
    title = (Span(say(f"by {by}", language), INK, bold=True), Span(f"   {_unit(by, language)}", FAINT))
    return scored(calls, values, statistic(by).unit, title,
                  safe(f"{trace.model}: {say(f'by {by}', language)}"), theme, medium=medium, room=room, language=language)


def scored(calls: Sequence[Row], values: list[list[float]], unit: str, title: tuple[Span, ...], name: str,
           theme: Theme = LIGHT, *, medium: Medium = PAPER, room: float | None = None, language: str = "en") -> Picture:
    """The same by any number of every head: `values` by layer and head, `title` over it, `name` for those who hear it."""
    paper, ramp = medium is PAPER, ramp_of(values)
    names = [row_name(call, language) for call in calls]
    gutter = (max(map(width, names)) + 2) * medium.char
    step, gap, line = (SIDE, 10.0, SIDE + 10) if paper else (DIGITS, 1, 1)
    room = room or (1000 if paper else 100)
    marks: list[Mark] = [Text(0, 0, title, size=16 if paper else 13)]
    y = medium.line * (1.8 if paper else 1)
    for band in bands(calls, step, gap, room - gutter):
        y = band_of(marks, calls, band, values, names, ramp, unit, (gutter, step, gap, line, y), medium, language)
    low, high = (figure(n, unit) for n in (ramp.low, ramp.high))
    marks.append(Ramp(gutter if not paper else 0, y + (4 if paper else 0), 160 if paper else 12, 8 if paper else 1,
                      ramp.ramp, low, high))
    y += medium.line if paper else 1
    right = max(reach(mark, medium) for mark in marks)
    return Picture(right if paper else min(right, room), y, tuple(marks), name, theme, medium)


def table(trace: Trace, theme: Theme = LIGHT, *, medium: Medium = PAPER, room: float | None = None,
          language: str = "en") -> Picture:
    """All statistics, a column each, and a line for every head; colours go from the least to the largest of a column. Where
    one does not apply there is no cell.

    room: width that there is; columns that do not fit stand in a further table below.
    """
    paper = medium is PAPER
    wide = 92.0 if paper else COLUMN
    names = [row_name(call, language) for call in trace.calls]
    heads = [say("head", language, head=head) for head in range(max(call.heads for call in trace.calls))]
    gap = (2 if paper else 1) * medium.char
    middle = max(map(width, names)) * medium.char + gap
    gutter = middle + max(map(width, heads)) * medium.char + gap
    every, y = [name for name in STATISTICS if any(applies(name, call) for call in trace.calls)], 0.0
    fits = len(every) if room is None else max(int((room - gutter) // wide), 1)
    marks: list[Mark] = []
    for start in range(0, len(every), fits):
        y = _columns(marks, trace, every[start:start + fits], names, heads, (middle, gutter, wide, y + (start > 0)), medium,
                     language)
    return Picture(gutter + min(fits, len(every)) * wide, y, tuple(marks), safe(f"{trace.model}: {say('heads', language)}"),
                   theme, medium)


def _columns(marks: list[Mark], trace: Trace, chosen: list[str], names: list[str], heads: list[str],
             layout: tuple[float, float, float, float], medium: Medium, language: str) -> float:
    """Some statistics of every head; returns where they end."""
    (middle, gutter, wide, y), paper = layout, medium is PAPER
    high = 24.0 if paper else 1
    measures = {name: [measured(call, name) if applies(name, call) else [] for call in trace.calls] for name in chosen}
    ramps = {name: ramp_of(found) for name, found in measures.items()}
    for n, name in enumerate(chosen):
        x = gutter + (n + 1) * wide - (6 if paper else 1)
        marks.append(Text(x, y, (Span(say(f"column {name}", language), INK, bold=True),), "end", 12))
        marks.append(Text(x, y + medium.line * (0.8 if paper else 1), (Span(_unit(name, language), FAINT),), "end", 11))
    y += 2.0 * medium.line
    for place, call in enumerate(trace.calls):
        for head in range(call.heads):
            words = y + ((high - medium.line) / 2 if paper else 0)
            first = head == 0 or call.group(head) != call.group(head - 1)
            if head == 0:
                marks.append(Text(0, words, (Span(names[place], INK),)))
            grouped = call.kv_heads < call.heads
            marks.append(Text(middle, words, (Span(heads[head], INK if first or not grouped else FAINT),)))
            for n, name in enumerate(chosen):
                if applies(name, call):
                    marks.append(_cell((gutter + n * wide, y, wide, high), measures[name][place][head], ramps[name],
                                       STATISTICS[name].unit, f"layer {call.layer}, head {head}, {name}"))
            y += high
        y += 6 if paper else 0
    return y


def figure(value: float, unit: str) -> str:
    """A statistic as it is written: shares and nats with two decimals, tokens and thousandths in at most five characters."""
    if unit not in ("tokens", "mnats"):
        return f"{value:.2f}"
    if value < 0:
        return f"-{figure(-value, unit)}"
    return f"{value / 1000:.1f}k" if value >= 9999.5 else f"{value:,.0f}" if value >= 99.95 else f"{value:.1f}"


def band_of(marks: list[Mark], calls: Sequence[Row], band: list[int], values: list[list[float]], names: list[str],
          ramp: Scale, unit: str, layout: tuple[float, ...], medium: Medium, language: str) -> float:
    """Some heads of every layer; returns where the next band starts."""
    gutter, step, gap, line, y = layout
    paper = medium is PAPER
    x = gutter
    places = []
    for n, head in enumerate(band):
        if n and _group(calls, head) != _group(calls, head - 1):
            x += gap
        places.append(x)
        x += step
    grouped = any(call.kv_heads < call.heads for call in calls)
    if grouped:
        _groups(marks, calls, band, places, step, y, medium, language)
        y += medium.line
    for head, left in zip(band, places, strict=True):
        name = str(head) if paper else say("head", language, head=head)
        marks.append(Text(left + (step / 2 if paper else step - 1), y, (Span(name, FAINT),), "middle" if paper else "end", 11))
    y += medium.line
    for place in reversed(range(len(calls))):
        call = calls[place]
        marks.append(Text(0, y + ((step - medium.line) / 2 if paper else 0), (Span(names[place], FAINT),)))
        for head, left in zip(band, places, strict=True):
            if head < call.heads:
                inner = 2 if paper else 0
                box = (left + inner, y + inner, step - 2 * inner, step - 2 * inner if paper else 1)
                marks.append(_cell(box, values[place][head], ramp, unit, f"layer {call.layer}, head {head}"))
        if paper and grouped and call.kv_heads < call.heads:
            for start, stop in _runs(calls, band):
                marks.append(Rule(places[start] - 2, y - 2, places[stop - 1] + step - places[start] + 4, step + 4,
                                  Paint("line")))
        y += line
    return y + (8 if paper else 0)


def _groups(marks: list[Mark], calls: Sequence[Call], band: list[int], places: list[float], step: float, y: float,
            medium: Medium, language: str) -> None:
    """The names of the K/V groups over their heads, as far as there is room."""
    for start, stop in _runs(calls, band):
        span = places[stop - 1] + step - places[start]
        group = _group(calls, band[start])
        names = (say("group", language, group=group), say("group short", language, group=group), str(group))
        name = next((name for name in names if width(name) * medium.char <= span), names[-1])
        marks.append(Text(places[start] + span / 2, y, (Span(name, FAINT),), "middle", 11))


def _runs(calls: Sequence[Call], band: list[int]) -> list[tuple[int, int]]:
    """Where the heads of one group begin and end in a band."""
    starts = [n for n, head in enumerate(band) if n == 0 or _group(calls, head) != _group(calls, band[n - 1])]
    return list(zip(starts, [*starts[1:], len(band)], strict=True))


def _group(calls: Sequence[Row], head: int) -> int:
    """The K/V group of a head in the layer with the most heads."""
    return max(calls, key=lambda call: call.heads).group(head)


def bands(calls: Sequence[Row], step: float, gap: float, room: float) -> list[list[int]]:
    """Heads in bands that fit the room: whole groups, which are broken only where one is wider than that."""
    most = max(int((room + gap) // (step + gap)), 1)
    bands: list[list[int]] = [[]]
    used = 0.0
    heads = list(range(max(call.heads for call in calls)))
    groups: list[list[int]] = []
    for head in heads:
        fits = groups and _group(calls, groups[-1][0]) == _group(calls, head) and len(groups[-1]) < most
        groups[-1].append(head) if fits else groups.append([head])
    for group in groups:
        need = len(group) * step + gap
        if bands[-1] and used + need > room + gap:
            bands.append([])
            used = 0.0
        bands[-1] += group
        used += need
    return bands


def _cell(box: tuple[float, float, float, float], value: float, ramp: Scale, unit: str, name: str) -> Cell:
    digits = figure(value, unit)
    return Cell(*box, value, Paint(ramp.ramp, ramp.at(value)), digits, f"{name}, {value:.6g}")


def ramp_of(values: list[list[float]]) -> Scale:
    """From the least to the largest value; where all are equal, from nothing to it, and of zeros alone to 1."""
    every = [value for line in values for value in line]
    low, high = min(every), max(every)
    if low == high:
        low, high = min(low, 0.0), max(high, 0.0)
    return Scale("statistic", low, high if high > low else 1.0)


def row_name(call: Row, language: str) -> str:
    kind = "" if call.kind == "self" else f" {say(call.kind, language)}"
    return say("layer", language, layer=call.layer) + kind


def _unit(name: str, language: str) -> str:
    return say(f"in {STATISTICS[name].unit}", language)
