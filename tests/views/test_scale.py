from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from klieg.errors import KliegError
from klieg.views.scale import SCALES, fit
from klieg.views.table import Table


def table(*rows: list[float | None]) -> Table:
    """A table; None is a hidden pair."""
    numbers = torch.tensor([[math.nan if v is None else v for v in row] for row in rows], dtype=torch.float64)
    return Table(numbers, ~numbers.isnan())


ROWS = table([1.0, None, None], [0.25, 0.75, None], [0.9, 0.06, 0.04])


def test_linear_weights_run_from_zero_to_one() -> None:
    scale = fit("weights", "linear", ROWS)
    assert (scale.ramp, scale.low, scale.high, scale.hides_first) == ("weight", 0.0, 1.0, False)
    assert scale.at(0.25) == 0.25


def test_log_starts_at_the_power_of_ten_below_the_least_weight() -> None:
    scale = fit("weights", "log", ROWS)
    assert scale.low == pytest.approx(0.01) and scale.high == 1
    assert scale.at(0.1) == pytest.approx(0.5)
    assert scale.at(0.0) == 0 and scale.at(1.0) == 1


def test_hiding_the_first_token_takes_the_limit_from_the_rest() -> None:
    scale = fit("weights", "no-first", ROWS)
    assert scale.hides_first and scale.high == 0.75
    assert fit("masked", "no-first", table([-9.0, None], [8.0, 2.0])).high == 2


def test_scores_have_symmetric_limits() -> None:
    scale = fit("dot", "linear", table([-3.0, 1.0], [2.0, None]))
    assert (scale.ramp, scale.low, scale.high) == ("signed", -3.0, 3.0)
    assert scale.at(0.0) == 0.5


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.sampled_from(SCALES))
def test_places_are_on_the_ramp_and_in_order(values: list[float], kind: str) -> None:
    scale = fit("weights", kind, table(values))
    places = [scale.at(v) for v in sorted(values)]
    assert all(0 <= p <= 1 for p in places) and places == sorted(places)


def test_what_there_is_not_is_refused() -> None:
    with pytest.raises(KliegError, match="Did you mean 'linear'"):
        fit("weights", "linaer", ROWS)
    with pytest.raises(KliegError, match="log scale is for weights"):
        fit("dot", "log", ROWS)
