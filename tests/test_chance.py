"""Intervals and the sign test against sums over all outcomes, and against figures that were published."""

from __future__ import annotations

import math
from itertools import product

import pytest

from klieg.analysis.chance import Rate, sign_test


@pytest.mark.parametrize(("right", "count", "low", "high"), [
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
    (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0000, 0.1611), (1, 29, 0.0061, 0.1718)])
def test_the_interval_is_wilsons(right: float, count: int, low: float, high: float) -> None:
    assert Rate(right, count).interval == (pytest.approx(low, abs=6e-5), pytest.approx(high, abs=6e-5))


def test_a_rate_is_the_mean_of_its_credits() -> None:
    rate = Rate.of([1.0, 0.0, 0.5, 1.0])
    assert (rate.share, rate.count) == (0.625, 4) and rate.interval[0] < 0.625 < rate.interval[1]
    assert Rate.of([1.0] * 5).interval[1] == 1.0 and Rate.of([0.0] * 5).interval[0] == 0.0
    assert math.isnan(Rate.of([]).share) and Rate.of([]).interval == (0.0, 1.0)
    assert rate.as_json() == {"share": 0.625, "low": rate.interval[0], "high": rate.interval[1], "count": 4}


@pytest.mark.parametrize(("one", "other"), [
    ([1, 1, 0, 1, 1, 0, 1], [0, 1, 1, 0, 0, 0, 0]), ([0, 0, 1], [1, 1, 0]), ([1, 0.5], [0.5, 0.5]), ([1, 1], [1, 1])])
def test_the_sign_test_counts_all_ways_to_swap(one: list[float], other: list[float]) -> None:
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if a != b]
    better = sum(a > b for a, b in pairs)
    ways = [sum((a > b) != swapped for (a, b), swapped in zip(pairs, swaps, strict=True))
            for swaps in product((False, True), repeat=len(pairs))]
    assert sign_test(one, other) == sum(way >= better for way in ways) / len(ways)
