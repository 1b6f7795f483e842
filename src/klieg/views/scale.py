"""Scales: from a number to a place on a ramp. A scale changes colours and never a number.

Weights: linear from 0 to 1, so that two pictures can be compared; or logarithmic. Scores
have a sign, so their limits are symmetric and nothing stays paper-coloured. Hiding the first
token leaves its column out of the limits; its cells are hatched and keep their numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from klieg.errors import KliegError, nearest

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


def fit(stage: str, kind: str, rows: Iterable[list[float | None]]) -> Scale:
    """The scale for the values of a map, row by row; None where the mask hides a pair."""
    if kind not in SCALES:
        raise KliegError(f"there is no scale {kind!r}." + nearest(kind, list(SCALES)))
    if kind == "log" and stage != "weights":
        raise KliegError(f"the log scale is for weights; {stage!r} has numbers below zero, use 'linear' or 'no-first'.")
    hides = kind == "no-first"
    values = [v for row in rows for v in row[1 if hides else 0:] if v is not None and math.isfinite(v)]
    if stage != "weights":
        limit = max(map(abs, values), default=0.0) or 1.0
        return Scale("signed", -limit, limit, hides_first=hides)
    if kind == "log":
        least = min((v for v in values if v > 0), default=FLOOR)
        return Scale("weight", max(10.0 ** math.floor(math.log10(least)), FLOOR) if least < 1 else 0.1, 1.0, log=True)
    return Scale("weight", 0.0, (max(values, default=0.0) or 1.0) if hides else 1.0, hides_first=hides)
