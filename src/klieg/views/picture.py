"""Pictures as data: marks with a place, a paint, a number and a title. No medium is known here.

    Cell   one pair of a map            Bar    a length that is a number
    Link   a line from token to token   Text   words, in spans of different paint
    Rule   a line, bracket or frame     Ramp   a colour bar with both its limits
    Inset  a whole picture, placed inside another

The same picture is lowered to characters, SVG or pixels. Coordinates are in the units of the
Medium it was laid out for: characters for a terminal, CSS pixels for paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from klieg.views.glyphs import width
from klieg.views.palette import Paint, Theme

INK = Paint("ink")
FAINT = Paint("ink3")
STRONG = Paint("strong")
MARGIN = 16.0   # CSS pixels of ground around a picture that stands alone


@dataclass(frozen=True)
class Medium:
    """The units of a drawing surface."""

    name: str
    char: float
    """Width of a narrow character of body text; a wide one takes two."""
    line: float
    """Height of a line."""
    minus: str
    pixels: tuple[float, float]
    """Width and height of one unit in CSS pixels."""


PAPER = Medium("paper", char=7.2, line=22.0, minus="−", pixels=(1.0, 1.0))
TERMINAL = Medium("terminal", char=1.0, line=1.0, minus="-", pixels=(8.4, 19.0))


@dataclass(frozen=True)
class Span:
    """A piece of a text in one paint."""

    text: str
    paint: Paint = INK
    bold: bool = False


@dataclass(frozen=True)
class Cell:
    """One pair of a map. A masked cell has no number and is a dot; a hidden one is hatched and keeps its number."""

    x: float
    y: float
    width: float
    height: float
    value: float | None
    paint: Paint
    digits: str
    """The number as it is written inside, or '' where it would not fit."""
    title: str
    state: Literal["shown", "masked", "hidden"] = "shown"


@dataclass(frozen=True)
class Bar:
    """A slot that is filled from its left, or from its foot when upright, by `part` of its length."""

    x: float
    y: float
    width: float
    height: float
    value: float | None
    """None is a masked slot: a dot."""
    part: float
    paint: Paint
    title: str
    upright: bool = False


@dataclass(frozen=True)
class Link:
    """A line from a token to a token, with level ends, or from a number to the next, straight; its width is its number."""

    x: float
    y: float
    to_x: float
    to_y: float
    value: float
    paint: Paint
    title: str
    straight: bool = False


@dataclass(frozen=True)
class Text:
    """Spans on one line. x is the start, middle or end; y is the top of the line; turn is in degrees, clockwise."""

    x: float
    y: float
    spans: tuple[Span, ...]
    anchor: Literal["start", "middle", "end"] = "start"
    size: float = 13
    turn: int = 0
    title: str = ""

    @property
    def string(self) -> str:
        return "".join(span.text for span in self.spans)

    @property
    def columns(self) -> int:
        """Display columns of the whole text."""
        return width(self.string)


@dataclass(frozen=True)
class Rule:
    """A line (one of its sides is 0) or a frame; a bracket is a line that turns down at its ends."""

    x: float
    y: float
    width: float
    height: float
    paint: Paint = STRONG
    thickness: float = 1
    dashed: bool = False
    bracket: bool = False


@dataclass(frozen=True)
class Ramp:
    """A colour bar: the ramp of this name from its low limit to its high one."""

    x: float
    y: float
    width: float
    height: float
    name: str
    low: str
    high: str


@dataclass(frozen=True)
class Inset:
    """A picture placed inside another."""

    x: float
    y: float
    picture: Picture


Mark = Cell | Bar | Link | Text | Rule | Ramp | Inset


@dataclass(frozen=True)
class Picture:
    """Marks on a surface, later ones over earlier ones."""

    width: float
    height: float
    marks: tuple[Mark, ...]
    title: str
    theme: Theme
    medium: Medium
