"""What a change does: the next tokens before and after it side by side, and heads by what muting each of them does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from klieg.trace import Trace
from klieg.views.glyphs import crop, safe, width
from klieg.views.heatmap import LABEL, reach
from klieg.views.palette import LIGHT, Paint, Theme
from klieg.views.picture import FAINT, INK, PAPER, Bar, Cell, Mark, Medium, Picture, Ramp, Span, Text
from klieg.views.scale import Scale
from klieg.views.words import phrase, say

FIGURE = 9       # columns of a probability
DIGITS = 8       # columns of a head's cell: eight heads stand in 80
LISTED = 10      # heads that are named one by one


class Shift(Protocol):
    """A next token before and after, as klieg.whatif gives it."""

    @property
    def token(self) -> str: ...
    @property
    def before(self) -> float: ...
    @property
    def after(self) -> float: ...
    @property
    def rank_before(self) -> int: ...
    @property
    def rank_after(self) -> int: ...


class WhatIf(Protocol):
    """What was changed, and what it did."""

    @property
    def made(self) -> Sequence[object]: ...
    @property
    def before(self) -> Trace: ...
    @property
    def token(self) -> int: ...
    @property
    def changes(self) -> Sequence[Shift]: ...
    @property
    def divergence(self) -> float: ...


class HeadEffect(Protocol):
    """What muting one head does."""

    @property
    def layer(self) -> int: ...
    @property
    def head(self) -> int: ...
    @property
    def kind(self) -> str: ...
    @property
    def divergence(self) -> float: ...
    @property
    def change(self) -> float: ...


def difference(found: WhatIf, theme: Theme = LIGHT, *, medium: Medium = PAPER, room: float | None = None,
               language: str = "en") -> Picture:
    """The changes, then a line for each next token: its bar, probability and rank before, and the same after."""
    c, paper = medium.char, medium is PAPER
    labels = [crop(safe(shift.token), LABEL + 4) for shift in found.changes]
    rows = [(shift.before, shift.after) for shift in found.changes]
    most = max(p for row in rows for p in row)
    gutter = (max(map(width, labels)) + 1) * c
    ranks = (max(width(say("change rank", language)), *(width(_ranks(shift)) for shift in found.changes)) + 3) * c
    length = max(min(24 * c, ((room or math.inf) - gutter - ranks - (2 * FIGURE + 3) * c) // 2), c)
    lefts = gutter, gutter + length + (FIGURE + 3) * c
    made, start = [safe(str(change)) for change in found.made], (width(say("what if", language)) + 3) * c
    query = Span(safe(found.before.tokens[found.token]), Paint("query"), bold=True)
    marks: list[Mark] = [Text(0, 0, (Span(say("what if", language), INK, True),))]
    y = 0.0
    for line in _wrapped(made, ((room or 1000) - start) / c):
        marks.append(Text(start, y, (Span(line, Paint("amber")),)))
        y += medium.line
    marks.append(Text(0, y, phrase("probability", language, token=query)))
    y += medium.line * (1.3 if paper else 1)
    for left, key in zip(lefts, ("change before", "change after"), strict=True):
        marks.append(Text(left, y, (Span(say(key, language), FAINT),)))
    marks.append(Text(lefts[1] + length + (FIGURE + 2) * c, y, (Span(say("change rank", language), FAINT),)))
    y += medium.line
    for label, row, shift in zip(labels, rows, found.changes, strict=True):
        marks.append(Text(gutter - c, y, (Span(label, INK, shift.rank_after == 1),), "end"))
        for left, p, rank in zip(lefts, row, (shift.rank_before, shift.rank_after), strict=True):
            marks.append(Bar(left, y + (4 if paper else 0), length, medium.line - (8 if paper else 0), p, p / most,
                             Paint("output", strength=1 if rank == 1 else 0.55), f"{label}, probability {p:.6g}"))
            marks.append(Text(left + length + FIGURE * c, y, (Span(_percent(p), INK, rank == 1),), "end"))
        paint = FAINT if shift.rank_before == shift.rank_after else INK
        marks.append(Text(lefts[1] + length + (FIGURE + 2) * c, y, (Span(_ranks(shift), paint),)))
        y += medium.line
    marks.append(Text(0, y, phrase("divergence", language, bits=Span(_bits(found.divergence), INK, bold=True))))
    right = min(max(reach(mark, medium) if not isinstance(mark, Text) or mark.anchor != "start" else
                    mark.x + mark.columns * c for mark in marks), room or math.inf)
    return Picture(right, y + medium.line, tuple(marks), f"{say('what if', language)} {' · '.join(made)}", theme, medium)


def ranking(effects: Sequence[HeadEffect], theme: Theme = LIGHT, *, medium: Medium = PAPER, room: float | None = None,
            language: str = "en") -> Picture:
    """Layers x heads of every kind, coloured by divergence, the last layer on top; then the heads that are missed most."""
    c, line = medium.char, medium.line
    room = room or 1000
    kinds = list(dict.fromkeys(effect.kind for effect in effects))
    most = max(effect.divergence for effect in effects)
    ramp = Scale("statistic", 0.0, most or 1.0)
    names = {(e.kind, e.layer): _name(e, kinds, language) for e in effects}
    gutter = (max(map(width, names.values())) + 1) * c
    fits = max(int((room - gutter) // (DIGITS * c)), 1)
    title = (Span(say("muting", language), INK, bold=True), Span(f"   {say('in bits', language)}", FAINT))
    marks: list[Mark] = [Text(0, 0, title)]
    y = line
    for kind in kinds:
        cells = {(e.layer, e.head): e for e in effects if e.kind == kind}
        heads = sorted({head for _, head in cells})
        for start in range(0, len(heads), fits):
            band = heads[start:start + fits]
            for n, head in enumerate(band):
                name = Span(say("head", language, head=head), FAINT)
                marks.append(Text(gutter + (n + 1) * DIGITS * c - c, y, (name,), "end"))
            y += line
            for layer in sorted({layer for layer, _ in cells}, reverse=True):
                marks.append(Text(0, y, (Span(names[kind, layer], FAINT),)))
                marks += [_cell(cells[layer, head], (gutter + n * DIGITS * c, y, DIGITS * c, line), ramp)
                          for n, head in enumerate(band)]
                y += line
    marks.append(Ramp(gutter, y, 12 * c, line if medium is not PAPER else 8, ramp.ramp, "0", _bits(ramp.high)))
    y = _best(marks, effects, names, y + 2 * line, gutter, medium, language)
    right = min(max(reach(mark, medium) for mark in marks if not isinstance(mark, Text) or mark.anchor == "end"), room)
    right = min(max(right, max(m.x + m.columns * c for m in marks if isinstance(m, Text) and m.anchor == "start")), room)
    return Picture(right, y, tuple(marks), say("muting", language), theme, medium)


def _best(marks: list[Mark], effects: Sequence[HeadEffect], names: dict, y: float, gutter: float, medium: Medium,
          language: str) -> float:
    """The heads that are missed most, one a line; returns where the picture ends."""
    c = medium.char
    said = [say("head", language, head=effect.head) for effect in effects]
    columns = [gutter + (max(map(width, said)) + DIGITS) * c]
    columns.append(columns[0] + (max(width(say("likeliest lost", language)), DIGITS) + 3) * c)
    for x, key in zip(columns, ("in bits", "likeliest lost"), strict=True):
        marks.append(Text(x, y, (Span(say(key, language), FAINT),), "end"))
    for effect in sorted(effects, key=lambda effect: -effect.divergence)[:LISTED]:
        y += medium.line
        change = f"{effect.change:+.3f}".replace("-", medium.minus)
        marks += [Text(0, y, (Span(names[effect.kind, effect.layer], INK),)),
                  Text(gutter, y, (Span(say("head", language, head=effect.head), INK),)),
                  Text(columns[0], y, (Span(_bits(effect.divergence), INK, bold=True),), "end"),
                  Text(columns[1], y, (Span(change, INK),), "end")]
    return y + medium.line


def _cell(effect: HeadEffect, box: tuple[float, float, float, float], ramp: Scale) -> Cell:
    return Cell(*box, effect.divergence, Paint(ramp.ramp, ramp.at(effect.divergence)), _bits(effect.divergence),
                f"{effect.kind}, layer {effect.layer}, head {effect.head}, {effect.divergence:.6g} bits")


def _name(effect: HeadEffect, kinds: list[str], language: str) -> str:
    layer = say("layer", language, layer=effect.layer)
    return layer if len(kinds) == 1 else f"{layer} {say(effect.kind, language)}"


def _wrapped(parts: Sequence[str], columns: float) -> list[str]:
    """Parts in lines that fit the columns, broken between parts only."""
    lines = [parts[0]]
    for part in parts[1:]:
        if width(f"{lines[-1]} · {part}") <= columns:
            lines[-1] += f" · {part}"
        else:
            lines.append(part)
    return lines


def _ranks(shift: Shift) -> str:
    return str(shift.rank_after) if shift.rank_before == shift.rank_after else f"{shift.rank_before} → {shift.rank_after}"


def _percent(p: float) -> str:
    """A probability with two decimals, a small one with three digits."""
    return f"{100 * p:.2f} %" if p >= 5e-4 or p == 0 else f"{100 * p:.2g} %"


def _bits(bits: float) -> str:
    """Three decimals; a small number with two digits."""
    return f"{bits:.3f}" if bits >= 0.01 or bits == 0 else f"{bits:.2g}"
