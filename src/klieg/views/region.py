"""A region of one head's map at any zoom: queries down, keys across, every cell a bucket of weights.

By default a cell shows its largest weight on a logarithmic scale, so that a single strong link
in a hundred thousand tokens is still a dark cell. A bucket in which every weight is 0 stays
blank: the mask hides all of it, or its weights are too small for a number. Where the region is
small, every cell is one weight, and carries its number.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

import torch

from klieg.errors import KliegError, nearest
from klieg.pool import Pooled
from klieg.trace import Call, Trace
from klieg.views.glyphs import crop, safe, width
from klieg.views.heatmap import LABEL, limit, reach, spread
from klieg.views.palette import LIGHT, Paint, Theme
from klieg.views.picture import FAINT, INK, PAPER, Cell, Mark, Medium, Picture, Ramp, Rule, Span, Text
from klieg.views.scale import FLOOR, Scale
from klieg.views.words import phrase, say

STATISTICS = ("max", "mean")
SCALES = ("log", "linear")
ACROSS = 640.0       # CSS pixels of the map on paper
MOST = 128           # buckets across on paper; more could not be told apart
SMALL = 24           # tokens up to which a region on paper carries its numbers and labels
GUTTER = 9           # columns for a token's number in a terminal
DIGITS = 7           # columns of a cell with its number
TALL = 36            # rows in a terminal
LINKS = 5            # strongest links that are written out
EXACT = 2**22        # weights of a region that are looked through for them


@dataclass(frozen=True)
class Region:
    """One head's buckets, and where they come from."""

    call: Call
    head: int
    pooled: Pooled

    @property
    def rows(self) -> tuple[int, int]:
        return self.pooled.row_edges[0], self.pooled.row_edges[-1]

    @property
    def keys(self) -> tuple[int, int]:
        return self.pooled.key_edges[0], self.pooled.key_edges[-1]

    @property
    def single(self) -> bool:
        """Whether every bucket is one weight."""
        return self.pooled.mean.shape == (self.rows[1] - self.rows[0], self.keys[1] - self.keys[0])

    def strongest(self, count: int) -> list[tuple[int, int, float]]:
        """The largest weights as (query, key, weight), largest first; those on the first token and on the query's own aside.

        Small regions are looked through; of others the survey's largest weights of each row are, and only those are
        given that no weight outside these lists can exceed. Empty where nothing is kept to tell.
        """
        (top, bottom), (left, right) = self.rows, self.keys
        call, head = self.call, self.head
        own = torch.arange(top, bottom)[:, None] + (call.keys - call.queries if call.kind != "cross" else call.keys)
        if (bottom - top) * (right - left) <= EXACT and call.q is not None and call.k is not None:
            weights = call.tile(head, slice(top, bottom), slice(left, right)).cpu()
            keys, bound = torch.arange(left, right).expand(len(own), -1), 0.0
        elif call.survey is not None and call.survey.top_keys is not None:
            weights = call.survey.top_weights[0, head, top:bottom].cpu()
            keys, bound = call.survey.top_keys[0, head, top:bottom].cpu(), weights[:, -1].max().item()
        else:
            return []
        aside = (keys == 0) | (keys == own) | (keys < left) | (keys >= right)
        best, places = weights.masked_fill(aside, 0).flatten().topk(min(count, weights.numel()))
        return [(top + at // weights.shape[1], int(keys[at // weights.shape[1], at % weights.shape[1]]), value)
                for value, at in zip(best.tolist(), places.tolist(), strict=True) if value > 0 and value >= bound]


def pooled_region(trace: Trace, layer: int, head: int, rows: tuple[int, int] | None = None,
                  keys: tuple[int, int] | None = None, size: int | None = None, *, kind: str = "self",
                  medium: Medium = PAPER, room: float | None = None) -> Region:
    """The region of a head in as many buckets as a medium has room for, or in `size` of them."""
    call = trace[layer, kind]
    rows, keys = rows or (0, call.queries), keys or (0, call.keys)
    if size is None:
        size = MOST if medium is PAPER else max(min(int((room or 100) - GUTTER) // 2, TALL), 1)
        if call.q is None and call.survey is not None and call.survey.map_mean is not None:
            size = min(size, *call.survey.map_mean.shape[2:])
    return Region(call, head, call.pool(head, rows, keys, size))


def region(trace: Trace, found: Region, statistic: str = "max", scale: str = "log", theme: Theme = LIGHT, *,
           medium: Medium = PAPER, room: float = 100, language: str = "en") -> Picture:
    """The picture of a region: its buckets, token numbers along both sides, the colour bar, and its strongest links.

    statistic: max or mean of a bucket; scale: log or linear, both up to the largest number shown. In a terminal of
    `room` columns, cells that are one weight each carry their numbers where these fit.
    """
    for name, value, known in (("statistic", statistic, STATISTICS), ("scale", scale, SCALES)):
        if value not in known:
            raise KliegError(f"there is no {name} {value!r} of a map." + nearest(value, list(known)))
    paper = medium is PAPER
    table = getattr(found.pooled, statistic).tolist()
    ramp = _ramp(table, scale)
    rows, columns = len(table), len(table[0])
    named = max(width(_named(trace, found, "query", i)) for i in range(*found.rows)) if found.single else 0
    numbered = found.single and (max(rows, columns) <= SMALL if paper else named + 1 + columns * DIGITS <= room)
    layout = _layout(rows, columns, medium, named if numbered else None)
    marks = _head(found, statistic, medium, language)
    marks += _axes(trace, found, layout, medium, numbered, language)
    marks += _cells(found, table, ramp, layout, medium, numbered)
    left, top, wide, high = layout
    across, bottom = left + wide * columns, top + high * rows
    if paper:
        marks.append(Rule(left - 0.5, top - 0.5, across - left + 1, bottom - top + 1, Paint("line")))
    y = bottom + (12 if paper else 0)
    low, up = (("≤ " if ramp.log else "") + limit(ramp.low, medium), limit(ramp.high, medium))
    marks.append(Ramp(left, y + (6 if paper else 0), 160 if paper else 12, 8 if paper else 1, "weight", low, up))
    y += medium.line * (1.4 if paper else 1)
    for line in _feet(trace, found, language):
        marks.append(Text(left, y, line, size=12))
        y += medium.line
    right = max(reach(mark, medium) for mark in marks)
    title = say("region", language, layer=found.call.layer, head=found.head, rows=_span(found.rows), keys=_span(found.keys))
    return Picture(right, y, tuple(marks), safe(f"{trace.model}: {title}"), theme, medium)


def numbers(trace: Trace, found: Region) -> dict[str, Any]:
    """A region as plain data for other programs: its buckets' bounds, means and maxima."""
    return {"model": trace.model, "layer": found.call.layer, "kind": found.call.kind, "head": found.head,
            "row_edges": list(found.pooled.row_edges), "key_edges": list(found.pooled.key_edges),
            "mean": found.pooled.mean.tolist(), "max": found.pooled.max.tolist()}


def _ramp(table: list[list[float]], scale: str) -> Scale:
    """The scale up to the largest number; a logarithmic one ends a power of ten below the least, and six below the largest."""
    values = [value for row in table for value in row if value > 0]
    high = max(values, default=1.0)
    if scale == "linear" or not values:
        return Scale("weight", 0.0, high)
    floor = 10.0 ** (math.ceil(math.log10(high)) + math.log10(FLOOR))
    least = 10.0 ** math.floor(math.log10(min(values)))
    return Scale("weight", min(max(least, floor), 0.5 * high), high, log=True)


def _layout(rows: int, columns: int, medium: Medium, named: int | None) -> tuple[float, float, float, float]:
    """The left and the top of the cells, and the width and height of one; `named`: width of the labels, if there are any."""
    if medium is not PAPER:
        return (named + 1, 3, DIGITS, 1) if named else (GUTTER, 2, 2, 1)
    if named:
        return named * medium.char + 10, 2 * medium.line + 100, 38.0, 34.0
    cell = ACROSS / max(rows, columns)
    return 96.0, 2 * medium.line + 54, cell, cell


def _head(found: Region, statistic: str, medium: Medium, language: str) -> list[Mark]:
    """The layer and the head, and what a cell is."""
    place = Span(say("layer and head", language, layer=found.call.layer, head=found.head), INK, bold=True)
    kind = "" if found.call.kind == "self" else f" · {say(found.call.kind, language)}"
    each = [max(b - a for a, b in zip(bounds, bounds[1:], strict=False))
            for bounds in (found.pooled.row_edges, found.pooled.key_edges)]
    what = (say("each weight", language) if found.single else
            say(f"each {statistic}", language, queries=f"{each[0]:,}", keys=f"{each[1]:,}"))
    if medium is PAPER:
        return [Text(0, 0, (place, Span(kind, FAINT)), size=16), Text(0, medium.line + 2, (Span(what, Paint("ink2")),))]
    return [Text(0, 0, (place, Span(f"{kind}   {what}", FAINT)))]


def _axes(trace: Trace, found: Region, layout: tuple[float, ...], medium: Medium, numbered: bool,
          language: str) -> list[Mark]:
    """Tokens before the rows and above the columns: their labels where each has its cell, else some of their numbers."""
    left, top, wide, high = layout
    paper = medium is PAPER
    marks: list[Mark] = []
    rows, keys = found.pooled.row_edges, found.pooled.key_edges
    if numbered:
        for n, i in enumerate(rows[:-1]):
            y = top + n * high + ((high - medium.line) / 2 if paper else 0)
            marks.append(Text(left - (10 if paper else 1), y, (Span(_named(trace, found, "query", i), Paint("query")),), "end"))
        for n, j in enumerate(keys[:-1]):
            if paper:
                name = Span(_named(trace, found, "key", j), Paint("key"))
                marks.append(Text(left + (n + 0.5) * wide, top - medium.line - 3, (name,), "start", turn=-45))
                continue
            number, label = Span(f"{j:,}", FAINT), Span(crop(_label(trace, found, "key", j), DIGITS - 1), Paint("key"))
            marks += [Text(left + (n + 1) * wide - 1, top - 2, (number,), "end"),
                      Text(left + (n + 1) * wide - 1, top - 1, (label,), "end")]
        return marks
    if paper:
        marks.append(Text(left - 10, top - medium.line, (Span(say("queries", language), Paint("query")),), "end", 11))
        marks.append(Text(left, top - 2 * medium.line, (Span(say("keys", language), Paint("key")),), "start", 11))
    for y, i in _ticks(rows, high, 8 if paper else len(rows) // 5 + 1, paper):
        marks.append(Text(left - (10 if paper else 1), top + y - (medium.line / 2 if paper else 0),
                          (Span(f"{i:,}", Paint("query")),), "end", 11))
    for x, j in _ticks(keys, wide, 7 if paper else int((len(keys) - 1) * wide) // 12 + 1, paper):
        marks.append(Text(left + x, top - (medium.line if paper else 1), (Span(f"{j:,}", Paint("key")),),
                          "middle" if paper else "start", 11))
    return marks


def _ticks(bounds: list[int], cell: float, most: int, between: bool) -> list[tuple[float, int]]:
    """Where along an axis some tokens are: round numbers, or the first tokens of cells where nothing lies between."""
    count = len(bounds) - 1
    if not between:
        return [(n * cell, bounds[n]) for n in range(0, count, -(-count // most))]
    span = bounds[-1] - bounds[0]
    power = 10 ** max(math.floor(math.log10(span / most)), 0)
    step = next(power * n for n in (1, 2, 5, 10) if span <= power * n * most)
    places = []
    for token in range(-(-bounds[0] // step) * step, bounds[-1], step):
        n = bisect_right(bounds, token) - 1
        places.append((cell * (n + (token - bounds[n]) / (bounds[n + 1] - bounds[n])), token))
    return places


def _cells(found: Region, table: list[list[float]], ramp: Scale, layout: tuple[float, ...], medium: Medium,
           numbered: bool) -> list[Mark]:
    """A cell for every bucket with a weight in it."""
    left, top, wide, high = layout
    rows, keys = found.pooled.row_edges, found.pooled.key_edges
    cells: list[Mark] = []
    for r, line in enumerate(table):
        for c, value in enumerate(line):
            if value > 0:
                name = f"queries {spread(rows[r], rows[r + 1] - 1)}, keys {spread(keys[c], keys[c + 1] - 1)}, {value:.6g}"
                cells.append(Cell(left + c * wide, top + r * high, wide, high, value, Paint(ramp.ramp, ramp.at(value)),
                                  _digits(value, medium) if numbered else "", name))
    return cells


def _digits(value: float, medium: Medium) -> str:
    """A weight in at most five characters: two decimals, or one digit and its power of ten."""
    return f"{value:.2f}" if value >= 0.0995 else f"{value:.0e}".replace("e-0", "e-").replace("-", medium.minus)


def _feet(trace: Trace, found: Region, language: str) -> list[tuple[Span, ...]]:
    """The strongest links of the region; and what a blank cell means, where there are any."""
    lines = []
    links = found.strongest(LINKS)
    if links:
        lines.append(phrase("strongest", language))
    for query, key, weight in links:
        names = (Span(_named(trace, found, role, place), Paint(role)) for role, place in (("query", query), ("key", key)))
        lines.append((Span(f"{weight:.4f}  ", Paint("amber"), bold=True), next(names), Span(" → ", FAINT), next(names)))
    if bool((found.pooled.max == 0).any()):
        lines.append(phrase("blank", language))
    return lines


def _named(trace: Trace, found: Region, role: str, place: int) -> str:
    """A token's number with its label."""
    return f"{place:,} {_label(trace, found, role, place)}"


def _label(trace: Trace, found: Region, role: str, place: int) -> str:
    """The label of a token; '' where the trace does not have its text."""
    labels = trace.axes(found.call)[role == "key"]
    slot = found.call.slot(place) if role == "query" and found.call.kind != "cross" else place
    return crop(safe(labels[slot]), LABEL) if slot < len(labels) else ""


def _span(ends: tuple[int, int]) -> str:
    return f"{ends[0]:,}–{ends[1] - 1:,}"
