from __future__ import annotations

import re

import pytest
from rich.color import Color, ColorSystem

from klieg.trace import Trace
from klieg.views import figures, svg, text
from klieg.views.glyphs import width
from klieg.views.palette import DARK, LIGHT, Paint, Theme
from klieg.views.picture import PAPER, TERMINAL, Cell, Picture, Text


def plain(picture: Picture) -> str:
    return "\n".join(line.plain for line in text.lower(picture))


@pytest.mark.parametrize("room", [30, 60, 100, 160])
@pytest.mark.parametrize("name", ["heatmap", "overview", "next_tokens"])
def test_lines_are_never_wider_than_the_room(chinese: Trace, long: Trace, hostile: Trace, name: str, room: int) -> None:
    for trace in (chinese, long, hostile):
        given = {"heatmap": (1, 2), "overview": (), "next_tokens": ()}[name]
        picture = getattr(figures, name)(trace, *given, medium=TERMINAL, room=room)
        lines = text.lower(picture)
        assert max(width(line.plain) for line in lines) <= picture.width <= room
        assert any(line.plain.strip() for line in lines)


@pytest.mark.parametrize("stage", ["dot", "masked", "weights"])
def test_text_and_svg_of_one_picture_have_the_same_numbers(chinese: Trace, stage: str) -> None:
    picture = figures.heatmap(chinese, 1, 3, stage, medium=TERMINAL, room=130)
    drawn, written = svg.lower(picture), plain(picture)
    numbers = [m.digits for m in picture.marks if isinstance(m, Cell) and m.digits]
    numbers += [m.string for m in picture.marks if isinstance(m, Text) and re.fullmatch(r"-?\d+\.\d+", m.string)]
    assert len(numbers) >= 13 * 7
    for numeral in numbers:
        assert f">{numeral}<" in drawn and numeral in written
    found = re.findall(r"-?\d+\.\d+", written)
    assert sorted(n for n in numbers) == sorted(found[:len(numbers)])


def test_bars_show_their_part_in_eighths(trace: Trace) -> None:
    picture = figures.next_tokens(trace, 4, medium=TERMINAL, room=100)
    best = trace.next_tokens(4)
    for line, candidate in zip(plain(picture).splitlines()[1:], best, strict=True):
        blocks = [text.LENGTHS.index(c) for c in line if c in text.LENGTHS[1:]]
        assert abs(sum(blocks) / 8 - 48 * candidate.p / best[0].p) <= 1 / 16 + 1e-9
        assert f"{100 * candidate.p:.2f} %" in line


def test_upright_bars_are_as_high_as_their_weight(trace: Trace) -> None:
    lines = plain(figures.overview(trace, 4, medium=TERMINAL, room=100)).splitlines()
    row = next(line for line in lines if line.startswith("layer 1"))
    heights = [text.HEIGHTS.index(c) for c in row if c in text.HEIGHTS[1:]]
    weights = [w for head in range(4) for w in trace[1].row(head, 4).tolist()]
    assert heights == [min(max(round(w * 8), 1), 8) for w in weights]


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda t: t.name)
@pytest.mark.parametrize("system", [ColorSystem.EIGHT_BIT, ColorSystem.STANDARD], ids=["256", "16"])
def test_figures_stay_readable_with_fewer_colours(theme: Theme, system: ColorSystem) -> None:
    for n in range(101):
        for ramp in ("weight", "signed"):
            ground = theme.colour(Paint(ramp, n / 100))
            back, front = (Color.parse(c).downgrade(system) for c in (ground, theme.on(ground)))
            assert back != front, (ramp, n)


def test_masked_cells_are_dots_and_hidden_ones_keep_their_number(trace: Trace) -> None:
    picture = figures.heatmap(trace, 0, 1, scale="no-first", medium=TERMINAL, room=100)
    rows = plain(picture).splitlines()[2:7]
    assert [row.count("·") for row in rows] == [4, 3, 2, 1, 0]
    assert all(f"{trace[0].row(1, n)[0].item():.4f}╱" in row for n, row in enumerate(rows))


def test_links_are_lines_beside_their_keys(trace: Trace) -> None:
    picture = figures.links(trace, 0, 1, 4, medium=TERMINAL)
    for n, (line, weight) in enumerate(zip(plain(picture).splitlines()[1:], trace[0].row(1, 4).tolist(), strict=True)):
        assert ("━" if weight > 1 / 3 else "─") * 20 in line and trace.tokens[n] in line


def test_a_picture_in_pixels_has_no_characters(trace: Trace) -> None:
    with pytest.raises(ValueError, match="lay it out for TERMINAL"):
        text.lower(figures.heatmap(trace, 0, 0, medium=PAPER))
