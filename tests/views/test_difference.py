"""The picture of a change: every number in its place, whatever the medium."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from klieg.views.difference import difference, ranking
from klieg.views.glyphs import width
from klieg.views.palette import DARK
from klieg.views.picture import PAPER, TERMINAL, Bar, Cell, Medium, Text
from klieg.views.text import lower


@dataclass
class Shift:
    token: str
    before: float
    after: float
    rank_before: int
    rank_after: int


@dataclass(frozen=True)
class Before:
    tokens: tuple[str, ...] = ("I", "love", "\x1b[2J")


@dataclass
class Found:
    made: tuple[str, ...]
    changes: list[Shift]
    divergence: float = 0.25
    token: int = 2
    before: Before = Before()


@dataclass
class Effect:
    layer: int
    head: int
    divergence: float
    change: float = -0.5
    kind: str = "self"


FOUND = Found(("mute 0.0", "cut 1.2.3.4"), [Shift("you", 0.5, 0.25, 1, 2), Shift("苹果", 1e-5, 0.6, 40, 1)])
EFFECTS = [Effect(layer, head, 0.5 / (1 + layer * 12 + head)) for layer in range(2) for head in range(12)]


def words(picture) -> str:
    return "\n".join(mark.string for mark in picture.marks if isinstance(mark, Text))


@pytest.mark.parametrize("medium", [TERMINAL, PAPER], ids=lambda medium: medium.name)
def test_both_probabilities_are_bars_on_one_scale(medium: Medium) -> None:
    picture = difference(FOUND, medium=medium, room=80 if medium is TERMINAL else None)
    bars = [mark for mark in picture.marks if isinstance(mark, Bar)]
    assert [bar.value for bar in bars] == [0.5, 0.25, 1e-5, 0.6]
    assert [bar.part for bar in bars] == [pytest.approx(p / 0.6) for p in (0.5, 0.25, 1e-5, 0.6)]
    assert len({bar.width for bar in bars}) == 1 and bars[0].x == bars[2].x < bars[1].x == bars[3].x
    said = words(picture)
    for word in ("50.00 %", "25.00 %", "0.001 %", "60.00 %", "1 → 2", "40 → 1", "0.250", "mute 0.0 · cut 1.2.3.4"):
        assert word in said
    assert "\x1b" not in said


@pytest.mark.parametrize("language", ["en", "zh"])
def test_many_changes_are_written_on_several_lines_and_none_is_lost(language: str) -> None:
    found = Found(tuple(f"mute 0.{n}" for n in range(20)), FOUND.changes)
    lines = [line.plain for line in lower(difference(found, DARK, medium=TERMINAL, room=50, language=language))]
    assert all(any(f"mute 0.{n} " in f"{line} " for line in lines) for n in range(20)) and max(map(len, lines)) <= 50


@pytest.mark.parametrize(("language", "word"), [("en", "rank"), ("zh", "名次")])
def test_the_heading_of_ranks_is_whole_where_no_rank_changes(language: str, word: str) -> None:
    for label in ("but", "have", "think", "really"):
        found = Found(("mute 0.0",), [Shift(label, 0.5, 0.25, 1, 1), Shift("a", 0.1, 0.2, 2, 2)])
        lines = [line.plain for line in lower(difference(found, DARK, medium=TERMINAL, room=80, language=language))]
        assert lines[2].endswith(word) and max(map(width, lines)) <= 80


def test_eight_heads_stand_side_by_side_in_eighty_columns() -> None:
    effects = [Effect(layer, head, 0.00123) for layer in range(12) for head in range(8)]
    lines = [line.plain for line in lower(ranking(effects, DARK, medium=TERMINAL, room=80))]
    assert lines[1].split() == [word for head in range(8) for word in ("head", str(head))]
    assert lines[2].split() == ["layer", "11", *["0.0012"] * 8] and max(map(len, lines)) <= 80
    assert any("change of log₂ p" in line for line in lines)


def test_heads_that_do_not_fit_stand_in_a_further_band() -> None:
    for room in (60, 200):
        picture = ranking(EFFECTS, DARK, medium=TERMINAL, room=room)
        cells = [mark for mark in picture.marks if isinstance(mark, Cell)]
        assert len(cells) == 24 and all(cell.x + cell.width <= room for cell in cells)
        assert {cell.value for cell in cells} == {effect.divergence for effect in EFFECTS}
        assert min(cells, key=lambda cell: cell.y).title.startswith("self, layer 1")   # the last layer on top
        assert max(cells, key=lambda cell: cell.paint.at).value == 0.5
        listed = [line.plain for line in lower(picture)][-10:]
        assert listed[0].split() == ["layer", "0", "head", "0", "0.500", "-0.500"]
        assert [line.split()[3] for line in listed] == [str(n) for n in range(10)]


def test_a_translators_heads_stand_by_their_kind_and_no_effect_at_all_is_drawn() -> None:
    effects = [Effect(0, head, 0.0, 0.0, kind) for kind in ("cross", "encoder") for head in range(2)]
    said = words(ranking(effects, DARK, medium=TERMINAL, room=80, language="zh"))
    assert "交叉注意力" in said and "编码器" in said
