"""An atlas of heads: what every head of a model does, in the mean over the texts of a corpus.

Of every score, layer and head it holds the number of texts that had it, the sum, the sum of squares and the sum of chance
(tally.py). A text is a window of the corpus.

    atlas = Atlas.load("folder/atlas.safetensors")
    for line in atlas.table("induction")[:3]:
        print(line.layer, line.head, line.mean, line.low, line.high, line.chance)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import NormalDist
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from klieg.analysis.atlas.census import EVERY, Probe, Source, Step, Visit, begun, read
from klieg.analysis.atlas.probes import Plain
from klieg.analysis.atlas.tally import Tally
from klieg.analysis.behaviour import UNITS, Score
from klieg.analysis.reader import Heads, Reader
from klieg.errors import KliegError, nearest
from klieg.parallel import ALONE, Group

SCORES = list(UNITS)
SURE = 0.95         # of the intervals
_SUMS = ("texts", "sum", "squares", "chance")


@dataclass(frozen=True)
class Line:
    """One score of one head: its mean over `texts` with the interval low to high that holds it in 95 % of samples, by
    Student's t (NaN for a single text), and what chance would give."""

    score: str
    unit: str
    layer: int
    kind: str
    head: int
    mean: float
    low: float
    high: float
    chance: float
    texts: int
    whole: bool
    """Whether the corpus was read to its end."""


@dataclass(eq=False)
class Atlas(Tally):
    """Sums over the windows of a corpus: (scores, layers, heads), float64, in the order of SCORES and `rows`."""

    what: ClassVar[str] = "an atlas"
    command: ClassVar[str] = "atlas"
    form: ClassVar[str] = "klieg-atlas/2"

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return dict.fromkeys(_SUMS, (len(SCORES), len(self.rows), max(row.heads for row in self.rows)))

    @classmethod
    def layout(cls) -> list[str]:
        return SCORES

    def add(self, found: Sequence[tuple[Heads, dict[str, Score]]]) -> None:
        """The scores of one more text, layer by layer."""
        self.of([heads for heads, _ in found])
        for place, (heads, scores) in enumerate(found):
            names = [SCORES.index(name) for name in scores]
            weight, chance = (torch.stack([getattr(score, name) for score in scores.values()]) for name in ("weight", "chance"))
            there = weight.isfinite() & chance.isfinite()
            weight, chance = weight.where(there, 0.0), chance.where(there, 0.0)
            for key, x in zip(_SUMS, (there.double(), weight, weight.square(), chance), strict=True):
                self.sums[key][names, place, :heads.heads] += x

    def means(self, score: str) -> list[list[float]]:
        """The mean of every head of every layer; NaN where no text had the score."""
        mean = self._sum("sum", score) / self._sum("texts", score)
        return [mean[place, :row.heads].tolist() for place, row in enumerate(self.rows)]

    def has(self, score: str) -> bool:
        """Whether any head has this score in any text."""
        return bool(self.rows) and bool(self._sum("texts", score).any())

    def everywhere(self, score: str) -> bool:
        """Whether every head has this score in some text."""
        return all(not math.isnan(mean) for row in self.means(score) for mean in row)

    def _sum(self, name: str, score: str) -> Tensor:
        if score not in SCORES:
            raise KliegError(f"there is no score {score!r}.{nearest(score, SCORES)}")
        return self.sums[name][SCORES.index(score)]

    def spread(self, score: str, layer: int, head: int) -> tuple[float, float, float]:
        """The mean of a score, its squared standard error and the number of texts; `layer` is a place in `rows`."""
        count, total, squares = (float(self._sum(name, score)[layer, head]) for name in _SUMS[:3])
        if count < 2:
            return (total / count if count else math.nan), math.nan, count
        return total / count, max(squares - total ** 2 / count, 0.0) / (count - 1) / count, count

    def table(self, score: str) -> list[Line]:
        """Every head that has the score, the highest mean first."""
        lines = []
        for place, row in enumerate(self.rows):
            for head in range(row.heads):
                mean, error, count = self.spread(score, place, head)
                if count:
                    reach = student(count - 1) * math.sqrt(error) if count > 1 else math.nan
                    chance = float(self._sum("chance", score)[place, head]) / count
                    lines.append(Line(score, UNITS[score], row.layer, row.kind, head, mean, mean - reach, mean + reach, chance,
                                      int(count), self.whole))
        return sorted(lines, key=lambda line: -line.mean)

    def lines(self) -> list[Line]:
        """All scores of all heads, score by score, the highest mean first."""
        return [line for score in SCORES if self.has(score) for line in self.table(score)]


def gather(atlas: Atlas, reader: Reader, corpus: Source, tokens: int | None = None, path: Path | None = None,
           every: int = EVERY, step: Step | None = None, probe: Probe | None = None, group: Group = ALONE) -> None:
    """Let a model read a corpus from the atlas's place on, to its end or until it has read so many tokens in all; see
    census.read()."""
    read(atlas, corpus, probe or Plain(reader), scored(atlas, reader), tokens, path, every, step, group)


def scored(atlas: Atlas, reader: Reader) -> Visit:
    """What counts a window into an atlas."""
    return lambda text, seed: atlas.add(reader.scores(text, seed))


def begin(reader: Reader, corpus: Source, window: int | None = None, path: Path | None = None,
          probe: Probe | None = None) -> Atlas:
    """The atlas that is saved in `path`, to go on with; else a new one. KliegError if it is of another model or corpus."""
    return begun(empty(reader, corpus, window, probe), path, corpus, window)


def empty(reader: Reader, corpus: Source, window: int | None = None, probe: Probe | None = None) -> Atlas:
    """An atlas of no texts yet."""
    probe = probe or Plain(reader)
    identity = {"model": reader.fingerprint, "corpus": corpus.fingerprint(), "probe": probe.name}
    return Atlas(reader.name, reader.window(window, probe.usual), identity)


@dataclass(frozen=True)
class Difference:
    """How far one head of atlas b is from that of atlas a, with its 95 % interval (Welch's t), and both means."""

    a: Line
    b: Line
    by: float
    low: float
    high: float


def compare(a: Atlas, b: Atlas, score: str) -> list[Difference]:
    """Every head that both atlases have the score of, the largest difference first."""
    if a.rows != b.rows:
        raise KliegError(f"{a.model!r} and {b.model!r} have different layers or heads; compare models of one shape, "
                         "head by head.")
    there = {(line.layer, line.kind, line.head): line for line in b.table(score)}
    found = []
    for line in a.table(score):
        other = there.get((line.layer, line.kind, line.head))
        if other is None:
            continue
        place = next(n for n, row in enumerate(a.rows) if (row.layer, row.kind) == (line.layer, line.kind))
        (_, x, n), (_, y, m) = (atlas.spread(score, place, line.head) for atlas in (a, b))
        reach = 0.0 if x + y == 0 else math.nan
        if x + y > 0:
            freedom = (x + y) ** 2 / (x ** 2 / (n - 1) + y ** 2 / (m - 1))
            reach = student(freedom) * math.sqrt(x + y)
        by = other.mean - line.mean
        found.append(Difference(line, other, by, by - reach, by + reach))
    return sorted(found, key=lambda difference: -abs(difference.by))


@cache
def student(freedom: float) -> float:
    """What Student's t with so many degrees of freedom is beyond, on either side, in 5 of 100 samples.

    The density is integrated over the angle atan(t / sqrt(freedom)), where it is a power of a cosine.
    """
    if freedom > 1000:      # the correction of the normal quantile by 1/freedom; the next term is below 1e-5
        z = NormalDist().inv_cdf((1 + SURE) / 2)
        return z + (z ** 3 + z) / (4 * freedom)
    angles = np.linspace(0, math.pi / 2, 200_001)
    density = np.cos(angles) ** (freedom - 1)
    share = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return math.sqrt(freedom) * math.tan(np.interp(SURE, share / share[-1], angles))

