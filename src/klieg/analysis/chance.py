"""How sure a share of right answers is, and whether one way of answering is better than another on the same questions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

SURE = 0.95         # of the intervals


@dataclass(frozen=True)
class Rate:
    """So many right of `count` answers, an answer between equals counting as its part; the interval is Wilson's."""

    right: float
    count: int

    @classmethod
    def of(cls, credits: Sequence[float]) -> Rate:
        """From the credit of each answer, 0 to 1."""
        return cls(math.fsum(credits), len(credits))

    @property
    def share(self) -> float:
        """NaN where nothing was asked."""
        return self.right / self.count if self.count else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """What holds the true share in 95 % of samples (Wilson 1927); (0, 1) where nothing was asked."""
        if not self.count:
            return 0.0, 1.0
        z = NormalDist().inv_cdf((1 + SURE) / 2)
        share, n = self.share, self.count
        middle = (share + z * z / (2 * n)) / (1 + z * z / n)
        reach = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
        return max(middle - reach, 0.0), min(middle + reach, 1.0)

    def as_json(self) -> dict[str, float | int]:
        """Share, interval and count."""
        low, high = self.interval
        return {"share": self.share, "low": low, "high": high, "count": self.count}


def sign_test(one: Sequence[float], other: Sequence[float]) -> float:
    """The exact probability that `one` would do better than `other` on at least so many of the questions on which they
    differ, were either as likely to do better on each (the sign test; with right and wrong answers McNemar's)."""
    better = sum(a > b for a, b in zip(one, other, strict=True))
    worse = sum(a < b for a, b in zip(one, other, strict=True))
    n = better + worse
    total, ways = 0, math.comb(n, better)
    for k in range(better, n + 1):
        total, ways = total + ways, ways * (n - k) // (k + 1)
    return total / 2 ** n
