"""Two sentences beside each other: what stands in a line and how it is coloured, and which token is said to matter most."""

from __future__ import annotations

import pytest

from klieg.analysis.grammar import Contrast, Sentence
from klieg.views import png, svg
from klieg.views.contrast import WORDS, contrast, verdict
from klieg.views.glyphs import width
from klieg.views.palette import DARK
from klieg.views.picture import PAPER, TERMINAL, Cell, Text
from klieg.views.text import lower

ONE = Sentence("a <b> c", ["a", "<b>", "c"], [1.0, 2.5, 4.0])
OTHER = Sentence("a 猫 d d", ["a", "猫", "d", "d"], [1.0, 0.5, 3.0, 8.0])
FOUND = Contrast("chat", ONE, OTHER, [(0, 0), (1, 1), (2, 2), (None, 3)])


@pytest.mark.parametrize("medium", [PAPER, TERMINAL], ids=["paper", "terminal"])
def test_every_number_has_its_cell(medium) -> None:
    found = contrast(FOUND, DARK, medium=medium)
    cells = [mark for mark in found.marks if isinstance(mark, Cell)]
    surprises = [cell for cell in cells if cell.paint.name == "statistic"]
    gains = [cell for cell in cells if cell.paint.name == "signed"]
    assert sorted(cell.value for cell in surprises) == sorted([*ONE.bits, *OTHER.bits])
    assert [cell.value for cell in gains] == [0.0, -2.0, -1.0, 8.0]
    assert [cell.digits for cell in gains] == ["+0.00", f"{medium.minus}2.00", f"{medium.minus}1.00", "+8.00"]
    # Of the largest surprise and of the largest gain either way.
    assert [cell.paint.at for cell in gains] == pytest.approx([0.5, 0.375, 0.4375, 1.0])
    assert max(surprises, key=lambda cell: cell.paint.at).value == 8.0
    said = [mark.string for mark in found.marks if isinstance(mark, Text)]
    assert said[-3:] == ["7.50", "12.50", "+5.00"]
    assert all(mark.x + getattr(mark, "width", 0) <= found.width + 1e-9 for mark in found.marks)
    # Tokens that stand beside the same token are plain, all others bold.
    bold = {mark.string: mark.spans[0].bold for mark in found.marks if isinstance(mark, Text)}
    assert [bold[token] for token in ("a", "<b>", "c", "猫", "d")] == [False, True, True, True, True]


def test_lines_of_a_terminal_stand_under_each_other() -> None:
    lines = [line.plain for line in lower(contrast(FOUND, DARK, medium=TERMINAL))]
    assert "猫" in lines[5] and "0.50" in lines[5] and "-2.00" in lines[5]
    gains = "+0.00", "-2.00", "-1.00", "+8.00"
    ends = [width(line[:line.rindex(gain) + len(gain)]) for line, gain in zip(lines[4:8], gains, strict=True)]
    assert len(set(ends)) == 1
    assert "&lt;b&gt;" in svg.lower(contrast(FOUND)) and png.lower(contrast(FOUND)).startswith(b"\x89PNG")


def test_the_likelier_one_is_named_with_the_token_that_makes_most_of_it() -> None:
    assert verdict(FOUND, "en") == "“a <b> c” is likelier by 5.00 bits; “d” makes most of the difference"
    turned = Contrast("chat", OTHER, ONE, [(b, a) for a, b in FOUND.columns])
    assert verdict(turned, "zh") == "“a <b> c”更可能，多 5.00 比特；差别主要来自“d”"
    assert verdict(Contrast("chat", ONE, ONE, [(0, 0), (1, 1), (2, 2)]), "en") == "both are as likely"
    free = Sentence("x", ["x"], [0.0])
    assert contrast(Contrast("chat", free, free, [(0, 0)])).marks


@pytest.mark.parametrize("key", WORDS)
def test_both_languages_name_the_same_things(key: str) -> None:
    english, chinese = WORDS[key]
    assert {part.split("}")[0] for part in english.split("{")[1:]} == {part.split("}")[0] for part in chinese.split("{")[1:]}
