"""Sparse patterns beside each other: a line for each, and every head by the weight that it would lose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rich.table import Table
from torch import Tensor

from klieg.trace import Candidate, Trace
from klieg.views.glyphs import safe, width
from klieg.views.heads import DIGITS, SIDE, Row, band_of, bands, row_name
from klieg.views.heatmap import reach
from klieg.views.palette import LIGHT, Theme
from klieg.views.picture import FAINT, INK, PAPER, Mark, Medium, Picture, Ramp, Span, Text
from klieg.views.scale import Scale
from klieg.views.words import say

UNIT = "share"
GAP = "\N{NO-BREAK SPACE}"


class Loss(Row, Protocol):
    """What the heads of one call would lose of a row, in the mean: (h,)."""

    @property
    def mean(self) -> Tensor: ...


class Applied(Protocol):
    @property
    def divergence(self) -> float: ...
    @property
    def divergence_mean(self) -> float: ...
    @property
    def likeliest(self) -> list[Candidate]: ...


class Sparsity(Protocol):
    """One pattern, held to one text."""

    @property
    def pattern(self) -> object: ...
    @property
    def losses(self) -> Sequence[Loss]: ...
    @property
    def applied(self) -> Applied | None: ...
    @property
    def share(self) -> float: ...
    @property
    def mean(self) -> float: ...
    @property
    def worst(self) -> tuple[Loss, int]: ...


def table(trace: Trace, found: Sequence[Sparsity], language: str = "en") -> Table:
    """A line for each pattern, and the dense model above them where it could be asked what comes next."""
    asked = [each for each in found if each.applied is not None]
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("pattern", "share", "mean", "worst", *(("last", "bits", "next") if asked else ())):
        table.add_column(say(f"sparse {column}", language), justify="left" if column in ("pattern", "next") else "right",
                         no_wrap=column != "next", overflow="fold")
    if asked:
        table.add_row(say("sparse dense", language), _percent(1.0), _percent(0.0), "", "", "",
                      _next(trace.next_tokens(1)))
    for each in found:
        loss, head = each.worst
        bits = (() if each.applied is None else
                (f"{each.applied.divergence:.3f}", f"{each.applied.divergence_mean:.3f}", _next(each.applied.likeliest)))
        table.add_row(str(each.pattern), _percent(each.share), _percent(each.mean),
                      f"{loss.layer}.{head}{GAP}{_percent(loss.mean[head].item())}", *bits)
    return table


def grid(trace: Trace, found: Sequence[Sparsity], theme: Theme = LIGHT, *, medium: Medium = PAPER, room: float | None = None,
         language: str = "en") -> Picture:
    """For each pattern layers x heads, coloured by the weight that a head loses; one scale, from nothing lost."""
    paper = medium is PAPER
    step, gap, line = (SIDE, 10.0, SIDE + 10) if paper else (DIGITS, 1, 1)
    room = room or (1000 if paper else 100)
    ramp = Scale("weight", 0.0, max(loss.mean.max().item() for each in found for loss in each.losses) or 1.0)
    marks: list[Mark] = []
    y = 0.0
    for each in found:
        title = Span(say("sparse grid", language, pattern=each.pattern), INK, bold=True)
        marks.append(Text(0, y, (title, Span(f"   {say('in share', language)}", FAINT)), size=16 if paper else 13))
        y += medium.line * (1.8 if paper else 1)
        names = [row_name(loss, language) for loss in each.losses]
        values = [loss.mean.tolist() for loss in each.losses]
        gutter = (max(map(width, names)) + 2) * medium.char
        for band in bands(each.losses, step, gap, room - gutter):
            y = band_of(marks, each.losses, band, values, names, ramp, UNIT, (gutter, step, gap, line, y), medium, language)
        y += medium.line if paper else 1
    marks.append(Ramp(0, y, 160 if paper else 12, 8 if paper else 1, ramp.ramp, "0.00", f"{ramp.high:.2f}"))
    right = max(reach(mark, medium) for mark in marks)
    heading = f"{trace.model}: {', '.join(str(each.pattern) for each in found)}"
    return Picture(right if paper else min(right, room), y + (medium.line if paper else 1), tuple(marks), safe(heading), theme,
                   medium)


def _percent(share: float) -> str:
    return f"{100 * share:.2f}{GAP}%"


def _next(likeliest: Sequence[Candidate]) -> str:
    return f"{safe(likeliest[0].token)} {100 * likeliest[0].p:.1f}{GAP}%"
