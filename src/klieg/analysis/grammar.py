"""Whether a language model finds a right sentence likelier than one that differs by a fault: minimal pairs.

The pairs are those of BLiMP, the Benchmark of Linguistic Minimal Pairs (Warstadt et al. 2020): 67 paradigms of 1,000
pairs, made by templates, of 13 terms of linguistics ("phenomena"). A pair is right where the whole good sentence has
the higher log-probability, their "full-sentence" method; equal ones count half. Any file in that form is read: a JSON
object a line with "sentence_good", "sentence_bad", "linguistics_term" and "UID", also compressed (.gz).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
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


@dataclass(frozen=True)
class Sentence:
    """A sentence and what it costs a model: the surprise of each token, -log2 P given all before it."""

    text: str
    tokens: list[str]
    bits: list[float]

    @property
    def total(self) -> float:
        """-log2 P of the whole, in bits."""
        return math.fsum(self.bits)


@dataclass(frozen=True)
class Contrast:
    """Two sentences side by side; `columns` pair their tokens, None where only the other one has one."""

    model: str
    one: Sentence
    other: Sentence
    columns: list[tuple[int | None, int | None]]

    @property
    def difference(self) -> float:
        """By how many bits the first is likelier: log2 P(one) / P(other)."""
        return self.other.total - self.one.total

    @property
    def gains(self) -> list[float]:
        """Of the difference what each column brings, in bits; together they are all of it."""
        one, other = ([*sentence.bits, 0.0] for sentence in (self.one, self.other))
        return [other[-1 if b is None else b] - one[-1 if a is None else a] for a, b in self.columns]

    def as_json(self) -> dict[str, Any]:
        """Everything."""
        return {"model": self.model, **{name: asdict(sentence) | {"total": sentence.total} for name, sentence in
                                        (("one", self.one), ("other", self.other))},
                "columns": self.columns, "gains": self.gains, "difference": self.difference}


def contrast(scorer: Scorer, one: str, other: str) -> Contrast:
    """What two sentences cost, token by token. KliegError for one that is empty or too long for the model."""
    texts, ids, sentences = (one, other), [], []
    for text in texts:
        found, logged = scorer.each(text)
        ids.append(found)
        sentences.append(Sentence(text, scorer.labels(found), (-logged / math.log(2)).tolist()))
    columns: list[tuple[int | None, int | None]] = []
    for _, a, to_a, b, to_b in SequenceMatcher(None, *ids, autojunk=False).get_opcodes():
        for n in range(max(to_a - a, to_b - b)):
            columns.append((a + n if a + n < to_a else None, b + n if b + n < to_b else None))
    return Contrast(scorer.name, *sentences, columns)


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
