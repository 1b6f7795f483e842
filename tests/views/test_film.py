"""The film on paper: every probability, every alternative and every weight is the trace's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest

from klieg.errors import KliegError
from klieg.trace import Trace
from klieg.views import png, svg
from klieg.views.film import LINES, LONG, Strip, film, numbers, page, told
from klieg.views.palette import DARK
from klieg.views.picture import Bar, Cell, Picture, Rule, Text


def strip(trace: Trace, start: int, stop: int, kind: str = "self", name: str = "") -> Strip:
    return Strip(trace, start, stop, trace[1, kind], 2, name)


def words(picture: Picture) -> str:
    return "\n".join(mark.string for mark in picture.marks if isinstance(mark, Text))


def test_bars_and_cells_are_the_traces_own_numbers(trace: Trace) -> None:
    picture = film(strip(trace, 2, 5))
    cells = [mark for mark in picture.marks if isinstance(mark, Cell)]
    bars = [mark for mark in picture.marks if isinstance(mark, Bar)]
    rows = sorted({cell.y for cell in cells})
    assert len(rows) == 3
    for at, y in zip((2, 3, 4), rows, strict=True):
        shown = [cell.value for cell in sorted((c for c in cells if c.y == y), key=lambda c: c.x)]
        assert shown == pytest.approx(trace[1].row(2, at - 1)[:at].tolist())      # it sees no more than was there
        p = trace.logits[at - 1].double().softmax(-1)
        own, *others = sorted((bar for bar in bars if abs(bar.y - y) < 5), key=lambda bar: bar.x)
        assert own.value == pytest.approx(float(p[trace.ids[at]]))
        assert own.width == pytest.approx(max(LONG * own.value - 1.5, 1))
        assert {round(bar.value, 9) for bar in others} <= {round(x, 9) for x in p.tolist()}
        assert [bar.value for bar in others] == sorted((bar.value for bar in others), reverse=True)
    [frame] = [mark for mark in picture.marks if isinstance(mark, Rule) and mark.paint.name == "output"]
    assert frame.y == pytest.approx(rows[-1] - 2)                                 # the open step
    assert all(mark.x >= 0 and mark.x + getattr(mark, "width", 0) <= picture.width for mark in picture.marks)


def test_a_translation_looks_at_its_source(translation: Trace) -> None:
    cells = [mark for mark in film(strip(translation, 1, 5, "cross"), DARK, language="zh").marks if isinstance(mark, Cell)]
    assert len(cells) == 4 * len(translation.source.tokens)
    assert {cell.value for cell in cells} == {w for at in range(1, 5) for w in translation[1, "cross"].row(2, at - 1).tolist()}


def test_no_name_of_a_key_runs_into_the_next(trace: Trace, translation: Trace) -> None:
    for found in (strip(trace, 2, len(trace.tokens)), strip(translation, 1, 5, "cross")):
        picture = film(found)
        drawn = [mark for mark in picture.marks if isinstance(mark, Text) and mark.spans[0].paint.name == "key"]
        assert len(drawn) > 2
        for one, other in pairwise(drawn):
            across = one.size if one.turn else one.columns * picture.medium.char * one.size / 13
            assert (other.x - one.x) * math.sin(math.radians(abs(one.turn) or 90)) >= across


def test_of_a_long_film_the_last_steps_are_drawn_and_its_keys_pooled(long: Trace) -> None:
    long = replace(long, ids=[n % len(long.vocabulary) for n in long.ids])
    found = strip(long, 1, len(long.tokens))
    picture = film(found)
    assert f"{LINES} of {len(long.tokens) - 1} tokens" in words(picture) and "max-pooled" in words(picture)
    cells = [mark for mark in picture.marks if isinstance(mark, Cell)]
    last = max(cell.y for cell in cells)
    row = long[1].row(2, len(long.tokens) - 2).tolist()
    assert max(cell.value for cell in cells if cell.y == last) == max(row)
    assert len([cell for cell in cells if cell.y == last]) < len(row)


def test_where_q_and_k_are_gone_there_are_no_cells(trace: Trace) -> None:
    bare = replace(strip(trace, 2, 5), call=replace(trace[1], q=None, k=None, certificate=trace[1].certify()))
    assert not [mark for mark in film(bare).marks if isinstance(mark, Cell)]
    assert "looks" not in numbers([bare])["strips"][0]["steps"][0]


def test_numbers_are_the_steps_with_their_rows(trace: Trace) -> None:
    [said] = numbers([strip(trace, 3, 5)])["strips"]
    assert said["start"] == 3 and [step["token"] for step in said["steps"]] == trace.tokens[3:5]
    assert said["steps"][1]["looks"] == trace[1].row(2, 3).tolist()
    assert {**said["steps"][0], "looks": None} == {**told(trace, 3)["steps"][0], "looks": None}


def test_two_strips_on_one_sheet_in_both_languages(trace: Trace, make: Callable[..., Trace], hostile: Trace) -> None:
    other = make(seed=5)
    for language, exact in (("en", "exact"), ("zh", "精确")):
        text = svg.lower(page([strip(trace, 2, 4, name="A"), strip(other, 2, 5, name="B")], language=language))
        assert text.count(exact) == 2
    assert png.lower(page([strip(hostile, 1, 8)])).startswith(b"\x89PNG")
    assert "<script>" not in svg.lower(page([strip(hostile, 1, 8)]))


def test_nothing_is_written_yet_and_nothing_ever(trace: Trace) -> None:
    assert svg.lower(page([strip(trace, 4, 2)])).startswith("<svg")
    mute = replace(trace, logits=trace.logits[:0])
    with pytest.raises(KliegError, match="expects no next token") as refused:
        film(Strip(mute, 1, 3, mute[1], 0))
    assert refused.value.zh
