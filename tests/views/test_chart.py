"""A chart: every number at its height, in its bar, and in the table."""

from __future__ import annotations

import pytest

from klieg.views.chart import HEIGHT, LEFT, TOP, WIDTH, Chart, picture, table
from klieg.views.picture import PAPER, Bar, Link, Rule, Text

SERIES = {("one", "甲"): (1.0, 4.0, 2.0), ("other", "乙"): (0.5, 0.25, 3.0)}


def chart(bars: bool = False, series: dict = SERIES) -> Chart:
    return Chart(("What", "什么"), ("size", "大小"), ("1", "10", "100"), ("bits", "比特"), series, bars)


def words(marks: tuple) -> list[str]:
    return [mark.string for mark in marks if isinstance(mark, Text)]


def test_lines_go_from_point_to_point() -> None:
    drawn = picture(chart())
    links = [mark for mark in drawn.marks if isinstance(mark, Link)]
    assert len(links) == 4 and {link.paint.name for link in links} == {"ink3", "amber"}
    for link, (before, after) in zip(links, [(1, 4), (4, 2), (0.5, 0.25), (0.25, 3)], strict=True):
        for y, value in ((link.y, before), (link.to_y, after)):
            assert y == pytest.approx(TOP + HEIGHT * (1 - value / 4))
    assert links[1].title == "one, 100: 2"
    assert {"size", "one", "other", "0", "2", "4", "1", "10", "100"} <= {*words(drawn.marks)}
    assert max(mark.x + mark.width for mark in drawn.marks if isinstance(mark, Rule)) <= drawn.width


def test_bars_are_parts_of_the_largest() -> None:
    bars = [mark for mark in picture(chart(bars=True), language="zh").marks if isinstance(mark, Bar)]
    assert [bar.part for bar in bars] == pytest.approx([0.25, 1, 0.5, 0.125, 0.0625, 0.75])
    assert all(bar.upright for bar in bars) and bars[3].title == "乙, 1: 0.5"
    edges = sorted((bar.x, bar.x + bar.width) for bar in bars)
    assert all(right <= x + 1e-9 for (_, right), (x, _) in zip(edges, edges[1:], strict=False))


def test_lines_far_from_nought_fill_the_chart_and_bars_never_do() -> None:
    far = {("one", "甲"): (18.0, 20.0, 19.0)}
    assert {"18", "19", "20"} <= {*words(picture(chart(series=far)).marks)}
    assert "0" in words(picture(chart(bars=True, series=far)).marks)
    same = {("one", "甲"): (5.0, 5.0, 5.0)}
    assert all(link.y == TOP for link in picture(chart(series=same)).marks if isinstance(link, Link))


def test_what_is_below_nought_hangs_from_it() -> None:
    below = {("one", "甲"): (1.0, -3.0, 0.0)}
    drawn = picture(chart(bars=True, series=below))
    bars = [mark for mark in drawn.marks if isinstance(mark, Bar)]
    nought = TOP + HEIGHT / 4
    assert [(bar.y, bar.y + bar.height) for bar in bars] == [(TOP, nought), (nought, TOP + HEIGHT), (TOP, nought)]
    assert [bar.part for bar in bars] == [1, 1, 0] and [bar.value for bar in bars] == [1, -3, 0]
    assert {"1", "0", "-3"} <= {*words(drawn.marks)} and Rule(LEFT, nought, WIDTH, 0) in drawn.marks
    links = [mark for mark in picture(chart(series=below)).marks if isinstance(mark, Link)]
    assert [link.to_y for link in links] == pytest.approx([TOP + HEIGHT, nought])
    under = picture(chart(bars=True, series={("one", "甲"): (-1.0, -2.0, 0.0)}))
    alone = [mark for mark in under.marks if isinstance(mark, Bar)]
    assert [bar.height for bar in alone] == pytest.approx([HEIGHT / 2, HEIGHT, 0]) and alone[2].part == 0
    level = picture(chart(series={("one", "甲"): (0.0, 0.0, 0.0)}))
    assert all(link.y == TOP + HEIGHT for link in level.marks if isinstance(link, Link))


def test_points_are_named_as_far_as_there_is_room() -> None:
    many = Chart(("What", "什么"), ("size", "大小"), tuple(map(str, range(64))), ("bits", "比特"), {("one", "甲"): range(64)})
    names = [mark for mark in picture(many).marks if isinstance(mark, Text) and mark.anchor == "middle"]
    assert [mark.string for mark in names] == [str(n) for n in range(0, 64, 3)]
    assert all(b.x - a.x > 2 * PAPER.char * 11 / 13 for a, b in zip(names, names[1:], strict=False))
    assert len([mark for mark in picture(chart()).marks if isinstance(mark, Text) and mark.anchor == "middle"]) == 3


def test_powers_of_ten_are_evenly_apart_and_nought_has_no_place() -> None:
    deep = Chart(("What", "什么"), ("size", "大小"), ("1", "2", "3", "4"), ("bits", "比特"),
                 {("one", "甲"): (1.0, 1e-3, 1e-12, 0.0), ("other", "乙"): (1e-6, 0.0, 1e-6, 1e-6)}, logarithmic=True)
    drawn = picture(deep)
    links = [mark for mark in drawn.marks if isinstance(mark, Link)]
    assert [(link.title, link.y, link.to_y) for link in links] == [
        ("one, 2: 0.001", TOP, pytest.approx(TOP + HEIGHT / 4)),
        ("one, 3: 1e-12", pytest.approx(TOP + HEIGHT / 4), pytest.approx(TOP + HEIGHT)),
        ("other, 4: 1e-06", pytest.approx(TOP + HEIGHT / 2), pytest.approx(TOP + HEIGHT / 2))]
    assert {"1e-12", "1e-06", "1"} <= {*words(drawn.marks)}
    flat = Chart(("What", "什么"), ("size", "大小"), ("1", "2"), ("bits", "比特"), {("one", "甲"): (0.0, 0.0)},
                 logarithmic=True)
    assert not [mark for mark in picture(flat).marks if isinstance(mark, Link)]
    assert list(table(deep).columns[1].cells) == ["1", "0.001", "1e-12", "0"]


def test_the_table_has_every_number() -> None:
    found = table(chart(), "zh")
    assert [column.header for column in found.columns] == ["大小", "甲", "乙"]
    assert [list(column.cells) for column in found.columns] == [["1", "10", "100"], ["1", "4", "2"], ["0.5", "0.25", "3"]]
