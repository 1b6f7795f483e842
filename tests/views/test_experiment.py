"""The sheet of a lab: everything that was found is on it, in lines that are no wider than they may be."""

from __future__ import annotations

import pytest

from klieg.labs import find
from klieg.views import svg
from klieg.views.experiment import page, wrapped
from klieg.views.glyphs import width
from klieg.views.palette import DARK


@pytest.mark.parametrize(("language", "tongue"), [("en", 0), ("zh", 1)])
def test_everything_is_on_the_sheet(language: str, tongue: int) -> None:
    lab = find("ages")
    found = lab.run()
    drawn = svg.lower(page("ages", lab, found, DARK, language=language))
    for text in (lab.title[tongue], "klieg lab ages", *(chart.title[tongue] for chart in found.charts)):
        assert text in drawn
    for piece in wrapped(found.conclusion[tongue]):
        assert piece.replace("'", "&#x27;") in drawn
    assert DARK.page in drawn or DARK.ink in drawn


@pytest.mark.parametrize("text", ["one two three four five six", "温度为一半，查询强十六倍（即温度为 1/16）就成了硬查询。",
                                  "softmax 的雅可比矩阵 of a row", "Wordwithoutanyspaceatall and another"])
@pytest.mark.parametrize("columns", [6, 11, 16, 150])
def test_lines_are_broken_where_they_may_be(text: str, columns: int) -> None:
    lines = wrapped(text, columns)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(line == line.strip() and line[0] not in "，。）" and line[-1] != "（" for line in lines)
    longest = max(width(word) for word in text.split())
    assert all(width(line) <= max(columns, longest) for line in lines)
    if columns == 150:
        assert lines == [text]
    elif columns == 16:
        assert len(lines) > 1
