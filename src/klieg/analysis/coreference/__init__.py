"""Whether a head looks from a pronoun to what it stands for: every head as a predictor of the antecedent.

A head answers a riddle with the candidate that gets the most of its weight (Clark et al. 2019, "What Does BERT Look At?",
section 4.2; Voita et al. 2018 for a translator's). From which token it looks, a reading:

    pronoun     from the pronoun itself, the mean of its tokens
    clause      from the last token before the punctuation that ends the pronoun's clause
    end         from the last token of the text

In a decoder the pronoun sees only what stands before it, and the word that tells the candidates apart mostly comes later;
from the other two it has been read. How much weight a candidate of several tokens gets, a way: their sum, as a word of
several pieces gets (Clark et al., section 4.1), though that favours long names; their mean; their largest. Which head, from
where and which way is chosen on one part of a set, where the best of so many tries is too good to be true, and reported on
the other. Equal weights, such as those of candidates that are not seen, count as the chance to pick a right one.

Beside the heads stands the model's own answer, where it continues texts: each candidate is put in the place of the pronoun,
and the likeliest text wins, by all of it or by the rest after the candidate (Trinh & Le 2018, "full" and "partial").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from klieg.analysis.atlas import Line
from klieg.analysis.chance import Rate, sign_test
from klieg.analysis.coreference.mentions import ARTICLES, Place
from klieg.analysis.coreference.riddles import Riddle, Riddles
from klieg.analysis.likelihood import Scorer, continues
from klieg.analysis.reader import Heads, Reader
from klieg.errors import KliegError
from klieg.trace import Call

READINGS = ("pronoun", "clause", "end")
WAYS = ("sum", "mean", "max")
BASELINES = ("chance", "nearest", "first")
ANSWERS = ("whole", "rest")
_ENDS = frozenset(",;:.!?…，、；：。！？")
_POSSESSIVE = {"his", "its", "their"}

Told = Callable[[int, int], None]


@dataclass(frozen=True)
class Head:
    """One head, by layer, kind of attention and number."""

    layer: int
    kind: str
    head: int


@dataclass(frozen=True, eq=False)
class Look:
    """Where all heads look in one riddle: weights (readings, ways, heads, candidates), float64, heads in the order of rows."""

    rows: list[Heads]
    weights: Tensor
    queries: list[list[int]]
    """The tokens that each reading looks from."""
    keys: list[list[int]]
    """The tokens of each candidate."""

    @property
    def heads(self) -> list[Head]:
        """All heads, layer by layer."""
        return heads_of(self.rows)

    def shares(self, reading: int, right: Sequence[bool]) -> list[float]:
        """How much of each head's weight on all candidates is on right ones, summed over tokens; 0 where it is on none."""
        weights = self.weights[reading, WAYS.index("sum")]                                      # (h, c)
        total = weights.sum(-1)
        return ((weights * torch.tensor(right)).sum(-1) / total.where(total > 0, 1.0)).tolist()

    def most(self, reading: int, right: Sequence[bool]) -> tuple[int, int]:
        """How many heads look more at a right candidate than at any other, and how many see none."""
        weights = self.weights[reading, WAYS.index("sum")]
        seen = weights.sum(-1) > 0
        return int((seen & (credit(weights, right) == 1)).sum()), int((~seen).sum())

    def as_json(self) -> dict[str, Any]:
        """The weight of every head on every candidate, summed over its tokens, by reading."""
        sums = self.weights[:, WAYS.index("sum")].tolist()
        return {"heads": [{**asdict(head), **{reading: sums[n][place] for n, reading in enumerate(READINGS)}}
                          for place, head in enumerate(self.heads)]}


def heads_of(rows: Sequence[Heads]) -> list[Head]:
    """The heads of all layers, in order."""
    return [Head(row.layer, row.kind, head) for row in rows for head in range(row.heads)]


@dataclass(frozen=True, eq=False)
class Coreference:
    """What the heads of a model and the model itself make of a set. Shares are of the test part but where it says so."""

    model: str
    set: str
    rows: list[Heads]
    tries: int
    chosen: Head
    reading: str
    way: str
    development: Rate
    """Of the chosen head where it was chosen: too high, as it is the best of all tries."""
    test: Rate
    baselines: dict[str, Rate]
    """By BASELINES: any candidate alike, the nearest before the pronoun, the first of the text."""
    p: float
    """Of the sign test that the chosen head is no better than the best of the baselines."""
    answers: dict[str, Rate]
    """The model's own, by ANSWERS; empty where it gives texts no probability."""
    facets: dict[str, dict[str, Rate]]
    """By facet: the chosen head ("head"), the baselines and the model's own answers."""
    every: list[Rate]
    """Of each head, in the order of rows, by the chosen reading and way."""
    too_long: int = 0
    """Riddles that the model has too few positions for, in both parts."""
    left_out: dict[str, int] = field(default_factory=dict)

    @property
    def best_baseline(self) -> str:
        """The baseline with the most right answers."""
        return max(self.baselines, key=lambda name: self.baselines[name].right)

    def lines(self) -> list[Line]:
        """Every head's share as lines of an atlas, the highest first; `texts` are riddles."""
        chance = self.baselines["chance"].share
        lines = [Line("coreference", "share", head.layer, head.kind, head.head, rate.share, *rate.interval, chance, rate.count,
                      True)
                 for head, rate in zip(heads_of(self.rows), self.every, strict=True)]
        return sorted(lines, key=lambda line: -line.mean)

    def as_json(self) -> dict[str, Any]:
        """Everything, every head included."""
        rates = {name: {key: rate.as_json() for key, rate in getattr(self, name).items()} for name in ("baselines", "answers")}
        return {"model": self.model, "set": self.set, "tries": self.tries, "chosen": asdict(self.chosen),
                "reading": self.reading, "way": self.way, "development": self.development.as_json(),
                "test": self.test.as_json(), **rates, "best_baseline": self.best_baseline, "p": self.p,
                "facets": {facet: {key: rate.as_json() for key, rate in found.items()} for facet, found in self.facets.items()},
                "too_long": self.too_long, "left_out": self.left_out, "heads": [asdict(line) for line in self.lines()]}


def look(reader: Reader, riddle: Riddle) -> Look:
    """One pass over a riddle, and where every head looks from each reading; no rows but these are made."""
    ids, places = reader.placed(riddle.text)
    if reader.positions is not None and len(ids) > reader.positions:
        raise KliegError(f"the text has {len(ids):,} tokens and {reader.name!r} has positions for {reader.positions}; "
                         "shorten it.")
    queries = [_tokens(riddle, places, riddle.pronoun), *([last] for last in _later(riddle, places))]
    keys = [_tokens(riddle, places, candidate) for candidate in riddle.candidates]
    rows = sorted({row for query in queries for row in query})

    def hear(call: Call) -> Tensor:
        seen = call.every(torch.tensor(rows))[0].double()                                       # (h, r, n)
        read = torch.stack([seen[:, [rows.index(row) for row in query]].mean(1) for query in queries])      # (R, h, n)
        parts = [read[:, :, tokens] for tokens in keys]
        return torch.stack([torch.stack([part.sum(-1), part.mean(-1), part.amax(-1)], 1) for part in parts], -1)

    found = reader.heard(torch.tensor(ids), hear)
    return Look([heads for heads, _ in found], torch.cat([weights for _, weights in found], 2), queries, keys)


def coreference(reader: Reader, riddles: Riddles, told: Told = lambda done, expected: None) -> Coreference:
    """Choose a head on the one part of a set and report it on the other, with baselines and the model's own answers.

    KliegError if no riddle of a part fits the model's positions. `told` hears how many riddles are read.
    """
    expected, done, rows = len(riddles.development) + len(riddles.test), 0, []
    parts: list[list[tuple[Riddle, Tensor]]] = [[], []]
    for part, given in zip(parts, (riddles.development, riddles.test), strict=True):
        for riddle in given:
            if reader.positions is None or len(reader.placed(riddle.text)[0]) <= reader.positions:
                found = look(reader, riddle)
                rows = found.rows
                part.append((riddle, credit(found.weights, riddle.right)))
            done += 1
            told(done, expected)
    if not all(parts):
        raise KliegError(f"no riddle of a part of {riddles.name!r} fits the positions of {reader.name!r}; name another model.")
    choosing, credits = (torch.stack([credit for _, credit in part]) for part in parts)         # (n, R, W, h)
    means = choosing.mean(0)
    reading, way, place = (int(x) for x in torch.unravel_index(means.argmax(), means.shape))
    test = [riddle for riddle, _ in parts[1]]
    answers = {"head": credits[:, reading, way, place].tolist(), **baselines(test)}
    if continues(reader.model):
        answers |= own_answers(Scorer.of(reader), test)
    rates = {name: Rate.of(found) for name, found in answers.items()}
    simple = {name: rates[name] for name in BASELINES}
    best = max(simple, key=lambda name: simple[name].right)
    kinds = sorted({riddle.facet for riddle in test} - {""})
    return Coreference(
        model=reader.name, set=riddles.name, rows=rows, tries=means.numel(), chosen=heads_of(rows)[place],
        reading=READINGS[reading], way=WAYS[way], development=Rate.of(choosing[:, reading, way, place].tolist()),
        test=rates["head"], baselines=simple, p=sign_test(answers["head"], answers[best]),
        answers={name: rates[name] for name in ANSWERS if name in rates},
        facets={kind: {name: Rate.of([x for x, riddle in zip(found, test, strict=True) if riddle.facet == kind])
                       for name, found in answers.items()} for kind in kinds},
        every=[Rate.of(column.tolist()) for column in credits[:, reading, way].T],
        too_long=expected - sum(map(len, parts)), left_out=dict(riddles.left_out))


def credit(weights: Tensor, right: Sequence[bool]) -> Tensor:
    """Whether the candidate with the most weight is a right one: weights (..., c) -> (...), the right part of equal ones."""
    most = (weights == weights.amax(-1, keepdim=True)).double()
    return (most * torch.tensor(right, dtype=torch.float64)).sum(-1) / most.sum(-1)


def baselines(riddles: Sequence[Riddle]) -> dict[str, list[float]]:
    """What each baseline gets for each riddle.

    The nearest is the last candidate before the pronoun, or if none is, the first after it. The first of the text is the
    subject of most sentences of these sets, whose files name candidates and no subjects.
    """
    found: dict[str, list[float]] = {name: [] for name in BASELINES}
    for riddle in riddles:
        before = [n for n, place in enumerate(riddle.candidates) if place[1] <= riddle.pronoun[0]]
        found["chance"].append(sum(riddle.right) / len(riddle.right))
        found["nearest"].append(float(riddle.right[before[-1] if before else 0]))
        found["first"].append(float(riddle.right[0]))
    return found


# ---- from which tokens, to which ----

def _tokens(riddle: Riddle, places: list[Place], wanted: Place) -> list[int]:
    """The tokens that have a part in some characters, the space before a word aside."""
    found = [n for n, (start, end) in enumerate(places)
             if riddle.text[max(start, wanted[0]):min(end, wanted[1])].strip()]
    if not found:
        raise KliegError(f"the tokenizer leaves nothing of {riddle.phrase(wanted)!r} in {riddle.text[:40]!r}; use one that "
                         "gives every character a token.")
    return found


def _later(riddle: Riddle, places: list[Place]) -> tuple[int, int]:
    """The last token of the pronoun's clause, and of the text."""
    start, end = riddle.pronoun
    stop = next((n for n in range(end, len(riddle.text)) if riddle.text[n] in _ENDS), len(riddle.text))
    return _tokens(riddle, places, (start, stop))[-1], _tokens(riddle, places, (start, len(riddle.text)))[-1]


# ---- the model's own answer ----

def own_answers(scorer: Scorer, riddles: Sequence[Riddle], told: Told = lambda done, expected: None) -> dict[str, list[float]]:
    """What the model gets for each riddle by the likeliest text, whole or from the candidate on."""
    return {name: [float(credit(torch.tensor(found, dtype=torch.float64), riddle.right))
                   for found, riddle in zip(scores, riddles, strict=True)]
            for name, scores in likelihoods(scorer, riddles, told).items()}


def likelihoods(scorer: Scorer, riddles: Sequence[Riddle],
                told: Told = lambda done, expected: None) -> dict[str, list[list[float]]]:
    """log P in nats with each candidate in the place of the pronoun: by ANSWERS, of each riddle a number a candidate.

    A pronoun that may be a possessive or not ("her") is tried as both, and the likelier counts.
    """
    asked = [[substituted(riddle, candidate) for candidate in riddle.candidates] for riddle in riddles]
    flat = [text for riddle in asked for texts in riddle for text in texts]
    found = {}
    for name in ANSWERS:
        starts = [start for _, start in flat] if name == "rest" else None
        scores = iter(scorer.total([text for text, _ in flat], starts, told).tolist())
        found[name] = [[max(next(scores) for _ in texts) for texts in riddle] for riddle in asked]
    return found


def substituted(riddle: Riddle, candidate: Place) -> list[tuple[str, int]]:
    """The text with a candidate in the place of the pronoun, and where what follows it begins; one for each way to write it."""
    start, end = riddle.pronoun
    before = riddle.text[:candidate[0]].split()
    article = before[-1].lower() if before and before[-1].lower() in ARTICLES else ""
    name = f"{'the' if article in ('a', 'an') else article} {riddle.phrase(candidate)}".strip()
    if riddle.text[start].isupper():
        name = name[0].upper() + name[1:]
    pronoun = riddle.phrase(riddle.pronoun).casefold()
    names = [f"{name}'s"] if pronoun in _POSSESSIVE else [name, f"{name}'s"] if pronoun == "her" else [name]
    return [(riddle.text[:start] + name + riddle.text[end:], start + len(name)) for name in names]


def own_shares(scorer: Scorer, riddle: Riddle) -> list[float]:
    """The model's own answer to one riddle: each candidate's part of the probability of the rest of the text."""
    scores = likelihoods(scorer, [riddle])["rest"][0]
    most = max(scores)
    parts = [math.exp(score - most) for score in scores]
    return [part / math.fsum(parts) for part in parts]
