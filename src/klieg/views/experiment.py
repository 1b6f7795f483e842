"""The sheet of a lab: what is said, its charts, and what follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from klieg.views.chart import Chart, Words, picture
from klieg.views.glyphs import width
from klieg.views.palette import LIGHT, Theme
from klieg.views.picture import FAINT, INK, Picture, Span
from klieg.views.sheet import Line, sheet, together
from klieg.views.words import LANGUAGES, say

COLUMNS = 150       # of a line of text, as wide as two charts side by side


class Lab(Protocol):
    """What is tried."""

    @property
    def title(self) -> Words: ...
    @property
    def claim(self) -> Words: ...
    @property
    def source(self) -> str: ...


class Finding(Protocol):
    """What came of it."""

    @property
    def charts(self) -> Sequence[Chart]: ...
    @property
    def conclusion(self) -> Words: ...


def page(name: str, lab: Lab, found: Finding, theme: Theme = LIGHT, *, language: str = "en") -> Picture:
    """Charts in rows of two between the claim and the conclusion; at the foot the source, and the command that repeats it."""
    tongue = LANGUAGES.index(language)
    charts = [picture(chart, theme, language=language) for chart in found.charts]
    rows = [together(charts[n:n + 2]) for n in range(0, len(charts), 2)]
    said = say("lab claim", language, claim=lab.claim[tongue])
    head: list[Line] = [(Span(lab.title[tongue], INK, bold=True),), *((Span(part, FAINT),) for part in wrapped(said))]
    foot: list[Line] = [*((Span(part, INK, bold=True),) for part in wrapped(found.conclusion[tongue])),
                        *((Span(part, FAINT),) for part in wrapped(f"{lab.source} · klieg lab {name}"))]
    return sheet(head, rows, foot, lab.title[tongue])


def wrapped(text: str, columns: int = COLUMNS) -> list[str]:
    """Lines of at most so many columns: broken at spaces, and between Chinese characters; not before closing punctuation."""
    lines, line = [], ""
    for piece in _pieces(text):
        if line and width(line + piece.rstrip()) > columns:
            lines.append(line.rstrip())
            line = ""
        line += piece if line else piece.lstrip()
    return [*lines, line.rstrip()]


def _pieces(text: str) -> list[str]:
    """What is never broken: words with the space after them, and wide characters with the punctuation that follows."""
    found: list[str] = []
    for at, c in enumerate(text):
        glued = c in "，。；：、）”？！" or (at > 0 and text[at - 1] in "（“")
        wide = width(c) == 2 or (at > 0 and width(text[at - 1]) == 2)
        if found and (glued or not (wide or text[at - 1] == " ")):
            found[-1] += c
        else:
            found.append(c)
    return found
