"""Pictures together on one sheet: what is looked at over a line, rows of pictures, and the certificates at the foot."""

from __future__ import annotations

from collections.abc import Sequence

from klieg.views.heatmap import reach
from klieg.views.palette import Paint
from klieg.views.picture import PAPER, Inset, Mark, Picture, Rule, Span, Text

BETWEEN = 56.0     # from picture to picture in a row
APART = 36.0       # from row to row
EDGE = 16.0        # of the sheet, beside the margin of every picture

Line = tuple[Span, ...]


def sheet(head: Sequence[Line], rows: Sequence[Picture], foot: Sequence[Line], title: str) -> Picture:
    """The lines of the head, the first one larger; pictures under each other; the lines of the foot."""
    right = EDGE + max(*(row.width for row in rows), *(reach(Text(0, 0, line), PAPER) for line in (*head, *foot)))
    marks: list[Mark] = []
    y = EDGE - 10.0
    for n, line in enumerate(head):
        marks.append(Text(EDGE, y, line, size=14 if n < len(head) - 1 else 13))
        y += 26
    marks.append(Rule(EDGE, y + 6, right - EDGE, 0, Paint("line")))
    y += 22
    for row in rows:
        marks.append(Inset(EDGE, y, row))
        y += row.height + APART
    for line in foot:
        marks.append(Text(EDGE, y, line))
        y += PAPER.line
    return Picture(right + EDGE, y + EDGE, tuple(marks), title, rows[0].theme, PAPER)


def together(pictures: Sequence[Picture], down: bool = False) -> Picture:
    """Pictures next to each other, or under each other, as one."""
    marks: list[Mark] = []
    x = y = 0.0
    for picture in pictures:
        marks.append(Inset(x, y, picture))
        x, y = (x, y + picture.height + 28) if down else (x + picture.width + BETWEEN, y)
    across, height = max(m.x + m.picture.width for m in marks), max(m.y + m.picture.height for m in marks)
    return Picture(across, height, tuple(marks), pictures[0].title, pictures[0].theme, PAPER)
