from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from klieg.views.palette import LIGHT, Paint
from klieg.views.picture import PAPER, TERMINAL, Inset, Picture, Span, Text


def test_a_text_knows_its_words_and_columns() -> None:
    text = Text(0, 0, (Span("小"), Span(" love", Paint("key"))))
    assert text.string == "小 love" and text.columns == 7


def test_pictures_are_values() -> None:
    one = Picture(10, 10, (Text(0, 0, (Span("a"),)),), "t", LIGHT, PAPER)
    assert one == Picture(10, 10, (Text(0, 0, (Span("a"),)),), "t", LIGHT, PAPER)
    assert len({one, Picture(10, 10, (Inset(0, 0, one),), "t", LIGHT, PAPER)}) == 2
    with pytest.raises(FrozenInstanceError):
        one.width = 3
    assert TERMINAL.char == TERMINAL.line == 1
