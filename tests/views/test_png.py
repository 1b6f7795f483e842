from __future__ import annotations

from io import BytesIO

import pytest
from PIL import Image

from klieg.errors import KliegError
from klieg.trace import Trace
from klieg.views import figures, fonts, png
from klieg.views.palette import DARK, LIGHT, Paint, Theme, channels
from klieg.views.picture import MARGIN, PAPER, Bar, Cell, Link, Picture

needs_cjk = pytest.mark.skipif(not any(fonts.has(path, "沈") for path in fonts.found()),
                               reason="no font of this machine has Chinese characters")


def opened(data: bytes) -> Image.Image:
    image = Image.open(BytesIO(data))
    image.load()
    return image


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda t: t.name)
@pytest.mark.parametrize("zoom", [1.0, 2.0])
def test_cells_have_the_colours_of_the_ramp(trace: Trace, theme: Theme, zoom: float) -> None:
    picture = figures.heatmap(trace, 0, 1, theme=theme)
    image = opened(png.lower(picture, zoom))
    assert image.size == tuple(round((side + 2 * MARGIN) * zoom) for side in (picture.width, picture.height))
    assert image.getpixel((1, 1)) == channels(theme.panel)
    looked = 0
    for cell in (m for m in picture.marks if isinstance(m, Cell) and m.state == "shown"):
        x, y = (round((place + MARGIN) * zoom) for place in (cell.x + cell.width / 2, cell.y + 5))
        assert image.getpixel((x, y)) == channels(theme.colour(cell.paint)), cell.title
        looked += 1
    assert looked == 15


def test_bars_are_filled_to_their_part() -> None:
    bar = Bar(0, 0, 100, 10, 0.25, 0.25, Paint("output"), "a quarter")
    image = opened(png.lower(Picture(100, 10, (bar,), "bar", LIGHT, PAPER), 1.0))
    row = [image.getpixel((MARGIN + x, MARGIN + 5)) == channels(LIGHT.output) for x in range(100)]
    assert sum(row) == 25 and all(row[:25])


@needs_cjk
@pytest.mark.parametrize("straight", [True, False])
def test_a_straight_line_is_on_its_way_at_a_quarter_and_a_link_is_level_yet(straight: bool) -> None:
    """A quarter of the way along: the cubic with level ends is there at t = 0.20 and has come down t^2 (3 - 2 t) = 0.11."""
    picture = Picture(100, 100, (Link(0, 0, 100, 100, 0.1, Paint("amber"), "", straight),), "", LIGHT, PAPER)
    image = opened(png.lower(picture, 1.0))
    column = [y - MARGIN for y in range(image.height) if image.getpixel((MARGIN + 25, y)) == channels(LIGHT.amber)]
    assert 24 <= sum(column) / len(column) <= 26 if straight else sum(column) / len(column) < 12


def test_pages_in_chinese_are_drawn_with_all_their_characters(chinese: Trace) -> None:
    image = opened(png.lower(figures.page(chinese, language="zh", theme=DARK), 1.0))
    assert image.format == "PNG" and len(image.getcolors(1 << 24)) > 100


def test_tokens_that_act_are_drawn_as_text(hostile: Trace) -> None:
    assert opened(png.lower(figures.heatmap(hostile, 0, 0), 1.0)).width > 200


def test_a_picture_too_large_is_refused_before_memory_is(trace: Trace) -> None:
    with pytest.raises(KliegError, match="too large; choose SVG"):
        png.lower(Picture(1e5, 1e5, (), "huge", LIGHT, PAPER))
