from __future__ import annotations

import pytest

from klieg.views import png, svg
from klieg.views.curve import HEIGHT, LEFT, POINTS, TOP, WIDTH, curve
from klieg.views.picture import Link, Picture, Text


def lines(picture: Picture, name: str) -> list[Link]:
    return [mark for mark in picture.marks if isinstance(mark, Link) and mark.title.startswith(name)]


def test_points_stand_where_their_numbers_are() -> None:
    picture = curve([(1, 8.0), (2, 6.0), (4, 4.0)], [(2, 7.0), (4, 5.0)])
    first, second = lines(picture, "training")
    assert (first.x, first.y) == (LEFT + WIDTH / 4, TOP)
    assert (first.to_x, first.to_y) == (second.x, second.y) == (LEFT + WIDTH / 2, TOP + HEIGHT / 2)
    assert (second.to_x, second.to_y) == (LEFT + WIDTH, TOP + HEIGHT)
    assert [mark.y for mark in lines(picture, "validation")] == [TOP + HEIGHT / 4]
    said = " ".join(mark.string for mark in picture.marks if isinstance(mark, Text))
    assert all(text in said for text in ("4.00", "6.00", "8.00", "training 4.000", "validation 5.000"))


def test_it_is_said_in_chinese() -> None:
    picture = curve([(1, 8.0), (2, 6.0)], [(1, 7.0), (2, 5.0)], language="zh")
    said = " ".join(mark.string for mark in picture.marks if isinstance(mark, Text))
    assert "损失，奈特/词元   训练 6.000   留出文本 5.000" in said and picture.title == "损失随训练步数的变化"
    assert [mark.title for mark in lines(picture, "留出文本")] == ["留出文本：第 2 步，5.0000"]


def test_a_long_run_is_thinned_to_means_that_keep_its_level() -> None:
    picture = curve([(step, float(step % 2)) for step in range(1, 10 * POINTS + 1)], [])
    assert len(lines(picture, "training")) == POINTS - 1
    assert {mark.title.split(", ")[1] for mark in lines(picture, "training")} == {"0.5000"}


@pytest.mark.parametrize("training", [[(1, 3.0)], [(1, 3.0), (2, 3.0)]])
def test_the_first_steps_can_be_drawn(training: list[tuple[int, float]]) -> None:
    assert svg.lower(curve(training, [])).startswith("<svg")
    assert png.lower(curve(training, [])).startswith(b"\x89PNG")
