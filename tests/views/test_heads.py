from __future__ import annotations

from copy import copy
from dataclasses import replace

import pytest
from conftest import build, surveyed

from klieg.errors import KliegError
from klieg.trace import Trace
from klieg.views.heads import figure, grid, ramp_of, table
from klieg.views.picture import PAPER, TERMINAL, Cell, Medium, Picture, Ramp, Rule, Text
from klieg.views.statistics import STATISTICS, measured
from klieg.views.text import lower

MEDIA = pytest.mark.parametrize("medium", [PAPER, TERMINAL], ids=lambda m: m.name)


def cells(picture: Picture) -> list[Cell]:
    return [mark for mark in picture.marks if isinstance(mark, Cell)]


def words(picture: Picture) -> str:
    return "\n".join(mark.string for mark in picture.marks if isinstance(mark, Text))


@MEDIA
@pytest.mark.parametrize("by", STATISTICS)
def test_a_cell_for_every_head_with_its_number(seen: Trace, medium: Medium, by: str) -> None:
    found = cells(grid(seen, by, medium=medium))
    for call in seen.calls:
        for head, value in enumerate(measured(call, by)):
            (cell,) = [c for c in found if c.title.startswith(f"layer {call.layer}, head {head}, ")]
            assert cell.value == value and cell.digits == figure(value, STATISTICS[by].unit) and f"{value:.6g}" in cell.title
    assert len(found) == 12 and {0.0, 1.0} <= {c.paint.at for c in found}


@MEDIA
def test_the_last_layer_is_on_top_and_groups_are_named(seen: Trace, medium: Medium) -> None:
    picture = grid(seen, medium=medium)
    tops = {c.title.split(",")[0]: c.y for c in cells(picture)}
    assert tops["layer 7"] < tops["layer 4"] < tops["layer 1"]
    assert words(picture).count("K/V") == 2 and "layer 7" in words(picture) and "layer 0" not in words(picture)
    assert len([m for m in picture.marks if isinstance(m, Ramp)]) == 1
    assert len([m for m in picture.marks if isinstance(m, Rule)]) == (6 if medium is PAPER else 0)
    assert "键值" in words(grid(seen, medium=medium, language="zh"))


@pytest.mark.parametrize(("heads", "groups"), [(32, 8), (32, 32), (12, 1), (7, 7)])
def test_many_heads_stand_in_bands_that_fit(heads: int, groups: int) -> None:
    trace = surveyed(build(heads=heads, groups=groups, layers=2), top=0, map=0)
    for room in (40, 80, 100):
        picture = grid(trace, medium=TERMINAL, room=room)
        assert len(cells(picture)) == 2 * heads and picture.width <= room
        assert max(c.x + c.width for c in cells(picture)) <= room
        places = {(c.x, c.y) for c in cells(picture)}
        assert len(places) == 2 * heads
    assert ("K/V" in words(picture)) == (groups < heads)


@MEDIA
def test_the_table_has_a_line_for_every_head(seen: Trace, medium: Medium) -> None:
    picture = table(seen, medium=medium)
    found = cells(picture)
    assert len(found) == 12 * len(STATISTICS) and len({c.y for c in found}) == 12
    for call in seen.calls:
        for name in STATISTICS:
            (cell,) = [c for c in found if c.title.startswith(f"layer {call.layer}, head 3, {name}, ")]
            assert cell.value == measured(call, name)[3]
    assert words(picture).count("head 0") == 3 and "entropy" in words(picture) and "熵" in words(table(seen, language="zh"))


def test_in_a_terminal_the_numbers_stand_under_their_names(seen: Trace) -> None:
    lines = [line.plain for line in lower(table(seen, medium=TERMINAL))]
    assert lines[0].split() == list(STATISTICS)
    assert lines[2].split()[:4] == ["layer", "1", "head", "0"]
    assert len(lines[2].split()) == 4 + len(STATISTICS)


@MEDIA
def test_cross_attention_has_no_cell_for_statistics_of_places(seen: Trace, medium: Medium) -> None:
    other = copy(seen)
    other.calls = [replace(seen.calls[0], kind="cross"), *seen.calls[1:]]
    titles = [cell.title for cell in cells(table(other, medium=medium)) if cell.title.startswith("layer 1, head 0")]
    assert [title.split(", ")[2] for title in titles] == ["entropy", "sharpest", "first", "received"]
    assert len(cells(grid(other, "distance", medium=medium))) == 8 and len(cells(grid(other, "first", medium=medium))) == 12
    other.calls = other.calls[:1]
    assert "distance" not in words(table(other, medium=medium))
    with pytest.raises(KliegError, match="'own' goes by position"):
        grid(other, "own", medium=medium)


def test_of_a_table_that_is_too_wide_the_last_columns_stand_below(seen: Trace) -> None:
    picture = table(seen, medium=TERMINAL, room=60)
    lines = [line.plain for line in lower(picture)]
    assert picture.width <= 60 and max(map(len, lines)) <= 60 and len(cells(picture)) == 12 * len(STATISTICS)
    heads = [n for n, line in enumerate(lines) if line.split() and line.split()[0] in STATISTICS]
    assert [lines[n].split() for n in heads] == [list(STATISTICS)[:5], list(STATISTICS)[5:]]
    assert all(lines[n + 2].split()[:4] == ["layer", "1", "head", "0"] for n in heads)


def test_one_value_everywhere_has_a_colour_bar_too() -> None:
    trace = surveyed(build(layers=1, heads=1, groups=1), top=0, map=0)
    (ramp,) = [m for m in grid(trace).marks if isinstance(m, Ramp)]
    assert float(ramp.low) < float(ramp.high)


@pytest.mark.parametrize(("value", "limits"), [(0.5, (0.0, 0.5)), (1.0, (0.0, 1.0)), (0.0, (0.0, 1.0)), (-2.0, (-2.0, 0.0))])
def test_the_bar_of_one_value_names_no_number_that_cannot_be(value: float, limits: tuple[float, float]) -> None:
    ramp = ramp_of([[value, value], [value]])
    assert (ramp.low, ramp.high) == limits


def test_figures_have_the_digits_they_need() -> None:
    assert [figure(0.123, "share"), figure(2.5, "nats")] == ["0.12", "2.50"]
    assert [figure(n, "tokens") for n in (3.14, 99.96, 1234.5, 9999.7, 12345.6)] == ["3.1", "100", "1,234", "10.0k", "12.3k"]


def test_what_there_is_not_is_refused(seen: Trace, trace: Trace) -> None:
    with pytest.raises(KliegError, match="no statistic"):
        grid(seen, "colour")
    with pytest.raises(KliegError, match="no survey"):
        table(trace)
