"""A model's grammar as a picture: every phenomenon with its bar and its interval, around one line of chance."""

from __future__ import annotations

import pytest

from klieg.analysis.chance import Rate
from klieg.views import png, svg
from klieg.views.grammar import PHENOMENA, ROOM, named, ordered, picture
from klieg.views.palette import DARK
from klieg.views.picture import Bar, Rule, Text

FOUND = {"binding": Rate(30.0, 40), "my <own>": Rate(10.0, 40), "ellipsis": Rate(39.5, 40)}
TOTAL = Rate(79.5, 120)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_bar_and_an_interval_for_every_phenomenon(language: str) -> None:
    found = picture("chat", TOTAL, FOUND, DARK, language=language)
    rates = [*(rate for _, rate in ordered(FOUND)), TOTAL]
    bars = [mark for mark in found.marks if isinstance(mark, Bar)]
    assert [bar.part for bar in bars] == [rate.share for rate in rates] == sorted(x.share for x in FOUND.values())[::-1] + [
        TOTAL.share]
    *lines, chance = [mark for mark in found.marks if isinstance(mark, Rule)]
    left = bars[0].x
    for line, rate in zip(lines, rates, strict=True):
        low, high = rate.interval
        assert (line.x - left, line.width) == (pytest.approx(low * ROOM), pytest.approx((high - low) * ROOM))
    assert chance.x - left == ROOM / 2 and chance.height > 4 * 20
    said = [mark.string for mark in found.marks if isinstance(mark, Text)]
    assert PHENOMENA["binding"][language == "zh"] in said and "my <own>" in said and "98.8 %   40" in said
    assert "&lt;own&gt;" in svg.lower(found) and png.lower(found).startswith(b"\x89PNG")
    assert all(0 <= mark.x <= found.width for mark in found.marks)


def test_an_unknown_phenomenon_keeps_its_name() -> None:
    assert named("x_y") == ("x_y", "x_y") and named("ellipsis") == ("ellipsis", "省略")
