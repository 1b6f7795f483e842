"""A sheet holds its pictures without overlap, and as high as they are."""

from __future__ import annotations

from klieg.views.palette import LIGHT
from klieg.views.picture import PAPER, Inset, Picture, Rule, Span, Text
from klieg.views.sheet import APART, EDGE, sheet, together


def blank(width: float, height: float) -> Picture:
    return Picture(width, height, (), f"{width}", LIGHT, PAPER)


def test_rows_stand_under_each_other_between_head_and_foot() -> None:
    found = sheet([(Span("one"),), (Span("two"),)], [blank(300, 50), blank(200, 70)], [(Span("foot"),)], "title")
    first, second = (mark for mark in found.marks if isinstance(mark, Inset))
    head, more, foot = (mark for mark in found.marks if isinstance(mark, Text))
    [rule] = (mark for mark in found.marks if isinstance(mark, Rule))
    assert head.y < more.y < rule.y < first.y and (head.size, more.size) == (14, 13)
    assert second.y == first.y + 50 + APART and foot.y == second.y + 70 + APART
    assert (found.width, found.height) == (300 + 2 * EDGE, foot.y + PAPER.line + EDGE) and found.title == "title"


def test_a_sheet_is_as_wide_as_its_longest_line() -> None:
    found = sheet([(Span("w" * 100),)], [blank(10, 10)], [], "t")
    assert found.width >= 100 * PAPER.char


def test_pictures_stand_together_in_both_directions() -> None:
    parts = [blank(100, 20), blank(40, 60)]
    beside, under = together(parts), together(parts, down=True)
    for picture, high in ((beside, 60), (under, max(m.y + m.picture.height for m in under.marks))):
        assert picture.height == high and picture.title == "100"
        (ax, ay), (bx, by) = ((m.x, m.y) for m in picture.marks)
        assert bx >= ax + 100 or by >= ay + 20
    assert beside.width > 140 and under.width == 100
