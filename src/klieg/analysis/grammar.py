"""Whether a language model finds a right sentence likelier than one that differs by a fault: minimal pairs.

The pairs are those of BLiMP, the Benchmark of Linguistic Minimal Pairs (Warstadt et al. 2020): 67 paradigms of 1,000
pairs, made by templates, of 13 terms of linguistics ("phenomena"). A pair is right where the whole good sentence has
the higher log-probability, their "full-sentence" method; equal ones count half. Any file in that form is read: a JSON
object a line with "sentence_good", "sentence_bad", "linguistics_term" and "UID", also compressed (.gz).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from klieg.analysis.chance import Rate
from klieg.analysis.likelihood import Scorer
from klieg.data import read
from klieg.errors import KliegError

FILE = "eval/blimp/blimp.jsonl.gz"
_FIELDS = ("sentence_good", "sentence_bad", "linguistics_term", "UID")


@dataclass(frozen=True)
class Pair:
    """Two sentences that differ by a fault; `phenomenon` and `paradigm` say by which."""

    good: str
    bad: str
    phenomenon: str
    paradigm: str


@dataclass(frozen=True)
class Grammar:
    """How many pairs a model orders right: in all, by phenomenon and by paradigm, each in the order of the file."""

    model: str
    total: Rate
    phenomena: dict[str, Rate]
    paradigms: dict[str, Rate]

    def as_json(self) -> dict[str, Any]:
        """Shares with intervals."""
        return {"model": self.model, "total": self.total.as_json(),
                **{name: {key: rate.as_json() for key, rate in getattr(self, name).items()}
                   for name in ("phenomena", "paradigms")}}


def read_pairs(path: Path, most: int | None = None) -> list[Pair]:
    """The pairs of a file, of each paradigm the first `most`; KliegError names the line that is none."""
    pairs, counts = [], dict[str, int]()
    for number, line in enumerate(read(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            found = Pair(*(row[name] for name in _FIELDS))
        except (ValueError, KeyError, TypeError, RecursionError):
            found = None
        if found is None or not all(isinstance(row[name], str) and row[name].strip() for name in _FIELDS):
            raise KliegError(f"{path}, line {number}: expected a JSON object with the texts {', '.join(_FIELDS)}.")
        counts[found.paradigm] = counts.get(found.paradigm, 0) + 1
        if most is None or counts[found.paradigm] <= most:
            pairs.append(found)
    if not pairs:
        raise KliegError(f"{path} has no pairs; name a file of JSON lines as BLiMP's.")
    return pairs


def grammar(scorer: Scorer, pairs: Sequence[Pair], told: Callable[[int, int], None] = lambda done, expected: None) -> Grammar:
    """Order every pair by log P; `told` hears how many sentences are done."""
    scores = scorer.total([text for pair in pairs for text in (pair.good, pair.bad)], told=told).view(-1, 2)
    if not scores.isfinite().all():
        at = int((~scores.isfinite()).any(1).nonzero()[0])
        raise KliegError(f"a sentence of pair {at + 1} has more tokens than {scorer.name!r} has positions: "
                         f"{pairs[at].good[:40]!r}; leave it out.")
    credits = ((scores[:, 0] > scores[:, 1]).double() + (scores[:, 0] == scores[:, 1]).double() / 2).tolist()

    def by(kinds: list[str]) -> dict[str, Rate]:
        return {kind: Rate.of([x for x, other in zip(credits, kinds, strict=True) if other == kind])
                for kind in dict.fromkeys(kinds)}

    return Grammar(scorer.name, Rate.of(credits), by([pair.phenomenon for pair in pairs]),
                   by([pair.paradigm for pair in pairs]))
