"""Scales: from a number to a place on a ramp. A scale changes colours and never a number.

Weights: linear from 0 to 1, so that two pictures can be compared; or logarithmic. Scores
have a sign, so their limits are symmetric and nothing stays paper-coloured. Hiding the first
token leaves its column out of the limits; its cells are hatched and keep their numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from klieg.errors import KliegError, nearest
from klieg.views.table import Table

SCALES = ("linear", "log", "no-first")
FLOOR = 1e-6   # the logarithmic scale goes no lower


@dataclass(frozen=True)
class Scale:
    """Which ramp, between which limits, straight or logarithmic, and whether the first token is hidden."""

    ramp: str
    low: float
    high: float
    log: bool = False
    hides_first: bool = False

    def at(self, value: float) -> float:
        """The place of a value on the ramp, 0 to 1; what lies outside the limits takes the limit's colour."""
        if self.log:
            part = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            part = (value - self.low) / (self.high - self.low)
        return min(max(part, 0.0), 1.0)


def fit(stage: str, kind: str, table: Table) -> Scale:
    """The scale for the numbers of a stage that the mask leaves."""
    if kind not in SCALES:
        raise KliegError(f"there is no scale {kind!r}." + nearest(kind, list(SCALES)))
    if kind == "log" and stage != "weights":
        raise KliegError(f"the log scale is for weights; {stage!r} has numbers below zero, use 'linear' or 'no-first'.")
    hides = kind == "no-first"
    values = table.values(after_first=hides)
    largest = values.abs().max().item() if len(values) else 0.0
    if stage != "weights":
        return Scale("signed", -(largest or 1.0), largest or 1.0, hides_first=hides)
    if kind == "log":
        positive = values[values > 0]
        least = positive.min().item() if len(positive) else FLOOR
        return Scale("weight", max(10.0 ** math.floor(math.log10(least)), FLOOR) if least < 1 else 0.1, 1.0, log=True)
    return Scale("weight", 0.0, (largest or 1.0) if hides else 1.0, hides_first=hides)
