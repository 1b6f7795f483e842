"""One head's map as a picture: queries down, keys across, a number in every cell that has room.

What the mask hides is a dot. What does not fit is left out in whole rows and columns, the
picture says which tokens those are and how much of the chosen token's weight they hold.
Queries and keys of a translator's cross-attention are of two texts, and each axis has its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest

from klieg.errors import KliegError, nearest
from klieg.trace import Call, Trace
from klieg.views.focus import chosen, labels
from klieg.views.glyphs import crop, safe, width
from klieg.views.palette import LIGHT, Paint, Theme
from klieg.views.picture import FAINT, INK, PAPER, Cell, Mark, Medium, Picture, Ramp, Rule, Span, Text
from klieg.views.scale import Scale, fit
from klieg.views.table import STAGES, Table
from klieg.views.words import phrase, say

MOST = 96        # rows and columns on paper; more could not be told apart
LABEL = 14       # columns of a token's label
TALL = 24        # rows in a terminal, where they are not the tokens of the columns


@dataclass(frozen=True)
class Grid:
    """Where the cells are: the queries and keys shown, the corner, the size of a cell, and the decimals inside it."""

    rows: range
    keys: range
    left: float
    top: float
    width: float
    height: float
    gap: float
    decimals: int | None
    queries: tuple[str, ...]
    """The label of every query, whole, also of those that are not shown."""
    names: tuple[str, ...]
    """The label of every key, as long as there is room."""
    turn: float
    """Columns from which on a key's label is written aslant."""

    def x(self, key: int) -> float:
        return self.left + (key - self.keys.start) * (self.width + self.gap)

    def y(self, query: int) -> float:
        return self.top + (query - self.rows.start) * (self.height + self.gap)

    @property
    def right(self) -> float:
        return self.x(self.keys.stop) - self.gap

    @property
    def bottom(self) -> float:
        return self.y(self.rows.stop) - self.gap


def heatmap(trace: Trace, layer: int, head: int, stage: str = "weights", scale: str = "linear", theme: Theme = LIGHT, *,
            kind: str | None = None, token: int | None = None, medium: Medium = PAPER, room: float | None = None,
            finest: int = 4, most: int = MOST, bare: bool = False, heading: str | None = None,
            language: str = "en") -> Picture:
    """The map of one head at one stage (dot, scaled, masked or weights) on one scale (linear, log or no-first).

    room: the columns there are in a terminal, and finest: decimals of scores there; paper takes what it needs.
    most: columns; bare: small cells without numbers, in a terminal; heading: in place of the layer and the head.
    """
    if stage not in STAGES:
        raise KliegError(f"there is no stage {stage!r}." + nearest(stage, list(STAGES)))
    kind = kind or trace.kind
    call, token = trace[layer, kind], chosen(trace, token, kind)
    table = Table.of(call, head, stage)
    beside = 9 if stage == "weights" and not bare else 0
    queries, keys = (tuple(map(safe, axis)) for axis in labels(trace, call))
    around = (token, token) if kind != "cross" else (token, int(call.row(head, token).argmax()))
    grid = (_bare(queries, keys, around, room or 100) if bare else
            _grid(queries, keys, table, around, medium, room, most, finest, beside))
    ramp = fit(stage, scale, table)
    place = located(trace, layer, head, kind, language)
    name = f"{say(stage, language)} = {formula(call, stage)}"
    title = _title(place if heading is None else heading, say(stage, language), formula(call, stage), medium)
    marks: list[Mark] = [*title, *_labels(grid, token, medium, _short(grid) if bare else grid.names)]
    marks += _cells(grid, table, ramp, medium, say(stage, language))
    if beside:
        marks += _sums(grid, table, medium, language)
    if medium is PAPER and token in grid.rows:
        marks.append(_frame(grid.left, grid.y(token), grid.right, grid.y(token) + grid.height, Paint("query"), 2))
    feet, height = _foot(grid, table, stage, ramp, call, token, medium, language)
    marks += feet
    across = max(reach(mark, medium) for mark in marks)
    return Picture(across if room is None else min(across, room), height, tuple(marks),
                   safe(f"{trace.model}: {place}, {name}"), theme, medium)


def located(trace: Trace, layer: int, head: int, kind: str, language: str) -> str:
    """The layer and the head in words, and of a translator the kind of attention."""
    place = say("layer and head", language, layer=layer, head=head)
    return place if trace.source is None else f"{place} · {say(kind, language)}"


def formula(call: Call, stage: str) -> str:
    """What the numbers of a stage are, in one line."""
    d = call.q.shape[-1]
    dot = f"QKᵀ / √{d}" if abs(call.scale * d ** 0.5 - 1) < 1e-9 else f"{call.scale:.6g} · QKᵀ"
    scaled = dot if call.softcap is None else f"{call.softcap:g} · tanh({dot} / {call.softcap:g})"
    scaled += "" if call.bias is None else " + bias"
    masked = f"{scaled} + mask" if call.mask.rules else scaled
    return {"dot": "QKᵀ", "scaled": scaled, "masked": masked, "weights": f"softmax({masked})"}[stage]


def number(value: float, decimals: int, medium: Medium) -> str:
    """A number with the medium's minus sign; never minus zero."""
    text = f"{value:.{decimals}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", medium.minus)


def percent(share: float) -> str:
    """A share as whole percents, or with as many digits as a small one needs."""
    points = 100 * share
    if 99 < points < 100:
        return f"{points:.2f} %" if points < 99.995 else "> 99.99 %"
    return f"{points:.0f} %" if points >= 1 or points == 0 else f"{points:.2g} %"


def spread(first: int, last: int) -> str:
    """first–last, or the one number where they are the same."""
    return f"{first}" if first == last else f"{first}–{last}"


def ranges(ends: list[tuple[int, int]], language: str) -> str:
    """Ranges of numbers in words; empty ones are not named."""
    return say("and", language).join(spread(a, b) for a, b in ends if a <= b)


def _grid(queries: tuple[str, ...], keys: tuple[str, ...], table: Table, around: tuple[int, int], medium: Medium,
          room: float | None, most: int, finest: int, beside: int) -> Grid:
    """The tokens that fit around the chosen query and key, with the most decimals that fit."""
    if medium is PAPER:
        rows, shown = _window(len(queries), around[0], most), _window(len(keys), around[1], most)
        cell = min(max(900 / max(len(shown), len(rows)), 11), 42 if len(shown) <= 8 else 38)
        above = max(width(keys[t]) for t in shown) * medium.char
        turned = above > cell + 4
        turn = (cell + 4) / medium.char if cell >= 28 else -1.0 if turned else LABEL
        left = min(max(width(queries[t]) for t in rows), LABEL) * medium.char + 12
        top = 2 * medium.line + 26 + (0.75 * min(above, LABEL * medium.char) + 8 if turned else 20)
        return Grid(rows, shown, left, top, cell, min(cell, 34), 1 if cell > 14 else 0,
                    _decimals(table, rows, shown, (cell - 2) / 6.4, medium), queries,
                    tuple(crop(label, LABEL) for label in keys), turn)
    gutter = min(max(map(width, queries)), LABEL) + 1
    left_over = (room or 100) - gutter - beside
    for decimals in (4, 2, 4) if beside else (finest, 2):
        cell = _longest(table, None, None, decimals, medium) + 2
        if cell * len(keys) <= left_over:
            break
    shown = _window(len(keys), around[1], max(min(int(left_over // cell), most), 1))
    rows = shown if around[0] == around[1] and len(queries) == len(keys) else _window(len(queries), around[0], TALL)
    names = tuple(crop(label, cell - 2) if j in shown else label for j, label in enumerate(keys))
    return Grid(rows, shown, gutter, 2, cell, 1, 0, decimals, queries, names, LABEL)


def _bare(queries: tuple[str, ...], keys: tuple[str, ...], around: tuple[int, int], room: float) -> Grid:
    """Cells of three columns, or of two where there are many tokens, and nothing in them."""
    gutter = min(max(map(width, queries)), LABEL) + 1
    cell = 3 if 3 * len(keys) <= room - gutter else 2
    shown = _window(len(keys), around[1], max(int((room - gutter) // cell), 1))
    rows = shown if around[0] == around[1] and len(queries) == len(keys) else _window(len(queries), around[0], MOST)
    return Grid(rows, shown, gutter, 2, cell, 1, 0, None, queries, tuple(crop(label, LABEL) for label in keys), LABEL)


def _short(grid: Grid) -> tuple[str, ...]:
    """Names of the columns where cells are small: the characters if all of them fit, else every fifth number."""
    characters = tuple(label.partition(" ")[0] for label in grid.names)
    if all(width(characters[j]) <= grid.width - 1 for j in grid.keys if j):
        return ("", *characters[1:])
    return tuple(str(j) if j % 5 == 0 else "" for j in range(len(grid.names)))


def _window(count: int, token: int, most: int) -> range:
    """At most `most` neighbouring tokens around one; a third of them after it, where there are so many."""
    start = max(min(token - 2 * most // 3, count - most), 0)
    return range(start, min(start + most, count))


def _longest(table: Table, rows: range | None, keys: range | None, decimals: int, medium: Medium) -> int:
    """Characters of the longest number, which is the least or the largest one."""
    return max(len(number(v, decimals, medium)) for v in table.limits(rows, keys))


def _decimals(table: Table, rows: range, keys: range, columns: float, medium: Medium) -> int | None:
    """Two decimals if every number then fits its cell, else one where numbers are large, else None: no figures."""
    large = max(map(abs, table.limits(rows, keys))) >= 10
    return next((d for d in ((2, 1) if large else (2,)) if _longest(table, rows, keys, d, medium) <= columns), None)


def _title(heading: str, name: str, formula: str, medium: Medium) -> list[Mark]:
    """A heading and the name of the numbers with their formula: two lines on paper, one in a terminal."""
    bold = Span(heading, INK, bold=True)
    if medium is PAPER:
        return [Text(0, 0, (bold,), size=16), Text(0, medium.line + 2, (Span(f"{name} = {formula}", Paint("ink2")),))]
    return [Text(0, 0, (bold, Span(f"   {name}" if heading else name, INK), Span(f" = {formula}", FAINT)))]


def _labels(grid: Grid, token: int, medium: Medium, keys: tuple[str, ...]) -> list[Mark]:
    """Keys above the columns, queries before the rows; wide characters are drawn larger."""
    paper = medium is PAPER
    columns, rows = [], []

    def size(label: str) -> float:
        return min(15 if width(label) > len(label) else 13, max(grid.height - 1, 8)) if paper else 13

    for j in grid.keys:
        column = Span(keys[j], Paint("key"))
        if paper:
            aslant = width(keys[j]) > grid.turn
            columns.append(Text(grid.x(j) + grid.width / 2, grid.top - medium.line - 3, (column,),
                                "start" if aslant else "middle", size(keys[j]), turn=-45 if aslant else 0))
        else:
            columns.append(Text(grid.x(j) + grid.width - 1, grid.top - 1, (column,), "end"))
    for i in grid.rows:
        row = (Span(crop(grid.queries[i], LABEL if paper else int(grid.left) - 1), Paint("query"), bold=i == token),)
        left, y = (grid.left - 10, grid.y(i) + (grid.height - medium.line) / 2) if paper else (grid.left - 1, grid.y(i))
        rows.append(Text(left, y, row, "end", size(grid.queries[i])))
    return [mark for pair in zip_longest(columns, rows) for mark in pair if mark is not None]


def _cells(grid: Grid, table: Table, ramp: Scale, medium: Medium, name: str) -> list[Mark]:
    cells: list[Mark] = []
    for i, row in zip(grid.rows, table.cut(grid.rows, grid.keys), strict=True):
        for j, value in zip(grid.keys, row, strict=True):
            pair = f"query {crop(grid.queries[i], LABEL)}, key {grid.names[j]}"
            hidden = ramp.hides_first and j == 0
            digits = "" if value is None or grid.decimals is None else number(value, grid.decimals, medium)
            cells.append(Cell(
                grid.x(j), grid.y(i), grid.width, grid.height, value,
                FAINT if value is None else Paint(ramp.ramp, ramp.at(value)), digits,
                f"{pair}, masked" if value is None else f"{pair}, {name} {value:.6g}",
                "masked" if value is None else "hidden" if hidden else "shown"))
    return cells


def _sums(grid: Grid, table: Table, medium: Medium, language: str) -> list[Mark]:
    """The row sums, on the right: each is 1 unless the model has a learned sink."""
    right, height = grid.right + (2 if medium is not PAPER else 12), 0 if medium is not PAPER else medium.line
    size = min(12, max(grid.height - 1, 8))
    wide = 6 if medium is not PAPER else 6 * size * 0.56
    marks: list[Mark] = [Text(right + wide, grid.top - 1 if medium is not PAPER else grid.top - height - 3,
                              (Span(say("sum", language), FAINT),), "end", 12)]
    sums = table.sums()
    for i in grid.rows:
        y = grid.y(i) + (grid.height - height) / 2 if medium is PAPER else grid.y(i)
        marks.append(Text(right + wide, y, (Span(number(sums[i], 4, medium), FAINT),), "end", size))
    return marks


def _frame(left: float, top: float, right: float, bottom: float, paint: Paint, thickness: float,
           dashed: bool = False) -> Rule:
    """A frame just outside some cells."""
    return Rule(left - thickness, top - thickness, right - left + 2 * thickness, bottom - top + 2 * thickness, paint,
                thickness, dashed)


def _foot(grid: Grid, table: Table, stage: str, ramp: Scale, call: Call, token: int,
          medium: Medium, language: str) -> tuple[list[Mark], float]:
    """The colour bar, the first token's share, and what is left out; and how high the picture is with them."""
    paper = medium is PAPER
    low, high = (("≤ " if ramp.log else "") + limit(ramp.low, medium), limit(ramp.high, medium))
    marks: list[Mark] = []
    y = grid.bottom + (10 if paper else 0)
    if paper:
        marks.append(Ramp(0, 2 * medium.line + 6, max(min(grid.right, 240), 150), 8, ramp.ramp, low, high))
        if ramp.hides_first or (stage == "weights" and call.kind == "self" and 0 in grid.keys):
            marks.append(_frame(grid.left, grid.top, grid.left + grid.width, grid.bottom, FAINT, 1, dashed=True))
    said = _said(grid, table, stage, ramp, call, token, language)
    for spans in said:
        marks.append(Text(0 if paper else grid.left, y, spans, size=12))
        y += medium.line
    if not paper:
        marks.append(Ramp(grid.left, y, 12, 1, ramp.ramp, low, high))
        y += 1
    return marks, y + (2 if paper else 0)


def bound(error: float) -> str:
    """An error as a bound that holds: two digits, rounded up."""
    text = f"{error:.1e}"
    if float(text) < error:
        digits, exponent = text.split("e")
        text = f"{(round(10 * float(digits)) + 1) * 10.0 ** (int(exponent) - 1):.1e}"
    return "0" if error == 0 else text.replace("e-0", "e-")


def limit(value: float, medium: Medium) -> str:
    """A limit of a colour bar."""
    return f"{value:.4g}".replace("e-0", "e-").replace("-", medium.minus)


def _said(grid: Grid, table: Table, stage: str, ramp: Scale, call: Call, token: int,
          language: str) -> list[tuple[Span, ...]]:
    """The lines under the map."""
    lines = []
    if stage == "masked" and not call.mask.rules:
        lines.append(phrase("unmasked", language))
    elif stage == "masked" and table.masks:
        lines.append(phrase("future", language))
    later = table.first()
    if stage == "weights" and later and (ramp.hides_first or call.kind == "self"):
        share, rows = percent(sum(later) / len(later)), spread(1, call.queries - 1)
        lines.append(phrase("hidden" if ramp.hides_first else "sink", language, share=share, rows=rows))
    missing = _missing(grid.keys, call.keys, language)
    if missing:
        if stage == "weights":
            outside = table.outside(token, grid.keys)
            lines.append(phrase("left out", language, tokens=missing, share=percent(outside),
                                token=Span(grid.queries[token], Paint("query"))))
        else:
            lines.append(phrase("left out of", language, tokens=missing))
    if grid.rows != grid.keys and (missing := _missing(grid.rows, call.queries, language)):
        lines.append(phrase("left out queries", language, tokens=missing))
    return lines


def _missing(shown: range, count: int, language: str) -> str:
    """The numbers of the tokens that are not shown; '' where all are."""
    return ranges([(0, shown.start - 1), (shown.stop, count - 1)], language) if len(shown) < count else ""


def reach(mark: Mark, medium: Medium) -> float:
    """The right end of a mark, with its words."""
    if isinstance(mark, Text):
        long = mark.columns * medium.char * (mark.size / 13 if medium is PAPER else 1)
        return mark.x + {"start": long * (0.71 if mark.turn else 1), "middle": long / 2, "end": 0}[mark.anchor]
    if isinstance(mark, Ramp):
        return mark.x + mark.width + (len(mark.low) + len(mark.high) + 2) * medium.char
    return mark.x + mark.width
