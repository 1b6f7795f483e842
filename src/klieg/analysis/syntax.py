"""Whether heads look along the links of grammar: every head as a predictor of a word's head, and of its dependents.

From a word a head of the model predicts the other word that gets the most of its weight. A word of several tokens gets the
sum of what they get, and looks as its tokens do in the mean; marks of the tokenizer are no words, and a token that has a
part in two words is of the one that it begins in. That is right if it is the word's head in the gold set, or, the other way
round, one of its dependents by the relation that is asked for. Source: Clark et al. 2019, "What Does BERT Look At?",
sections 4.1 and 4.2; Voita et al. 2019, "Analyzing Multi-Head Self-Attention". Of a decoder only links to earlier words
count, as it sees no others; equal weights count as the chance to pick a right one.

Of every relation the best head, and the best fixed offset ("the word before"), are chosen on every second sentence and
reported on the others, since the best of so many is too good to be true where it was chosen. Beside each head stand two
baselines: that offset, which is Clark's, and chance: what the head would get in the mean if the relation's own offsets were
shuffled among its links. A head that looks at a fixed distance has that much, and no more.

    found = syntax(load("chat"), read_treebank("en_ewt-ud-test.conllu"))
    for relation in found.relations:
        print(relation.name, relation.to, relation.best, relation.chosen.share, relation.baseline.share)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from klieg.analysis.chance import Rate, sign_test
from klieg.analysis.coreference import Head, heads_of
from klieg.analysis.reader import Heads, Reader
from klieg.analysis.treebank import Sentence
from klieg.errors import KliegError, first_line
from klieg.trace import Call

ALL = "all"                             # the links of all relations together
WAYS = ("head", "dependent")            # what is looked for
FORM = "klieg-syntax/1"                 # of a saved file
Told = Callable[[int, int], None]


@dataclass(frozen=True)
class Line:
    """One head and one relation, on the sentences where nothing was chosen: how often it is right, of `count` words that
    have such a link, with Wilson's 95 % interval; what chance gives; and the best fixed offset with its share."""

    relation: str
    to: str
    layer: int
    kind: str
    head: int
    share: float
    low: float
    high: float
    chance: float
    offset: int
    """In words; -1 is the word before."""
    baseline: float
    count: int


@dataclass(frozen=True, eq=False)
class Relation:
    """What the heads of a model make of one relation, from a word to its head or to its dependents (`to`, of WAYS)."""

    name: str
    to: str
    every: list[Rate]
    """Of each head, in the order of rows."""
    chance: list[float]
    best: Head
    place: int
    """Of the best head among all."""
    development: Rate
    """Of the best head where it was chosen: too high."""
    offset: int
    baseline: Rate
    p: float
    """Of the sign test that the best head is no better than the best fixed offset."""

    @property
    def chosen(self) -> Rate:
        """Of the best head where nothing was chosen."""
        return self.every[self.place]


@dataclass(frozen=True, eq=False)
class Syntax:
    """What the heads of a model make of a treebank; relations with the most links first."""

    model: str
    rows: list[Heads]
    relations: list[Relation]
    sentences: int
    left_out: dict[str, int]
    """Sentences that are too long, links with a word that no token begins in, links to words that no layer sees, and
    relations of one half of the sentences alone."""

    def lines(self) -> list[Line]:
        """All heads, relation by relation, the best first."""
        heads, found = heads_of(self.rows), []
        for relation in self.relations:
            lines = [Line(relation.name, relation.to, head.layer, head.kind, head.head, rate.share, *rate.interval, chance,
                          relation.offset, relation.baseline.share, rate.count)
                     for head, rate, chance in zip(heads, relation.every, relation.chance, strict=True)]
            found += sorted(lines, key=lambda line: -line.share)
        return found

    def as_json(self) -> dict[str, Any]:
        """Everything, as load() reads it."""
        return {"form": FORM, **asdict(self)}

    @classmethod
    def load(cls, path: str | Path) -> Syntax:
        """What `klieg atlas` wrote of a treebank. KliegError for any other file."""
        try:
            said = json.loads(Path(path).read_bytes())
            if said["form"] != FORM:
                raise ValueError(said["form"])
            rows = [Heads(int(each["layer"]), str(each["kind"]), int(each["heads"]), int(each["kv_heads"]))
                    for each in said["rows"]]
            relations = [_loaded(one, len(heads_of(rows))) for one in said["relations"]]
            return cls(str(said["model"]), rows, relations, int(said["sentences"]), dict(said["left_out"]))
        except OSError as e:
            raise KliegError(f"{path} cannot be read ({first_line(e)}); name what klieg atlas wrote of a treebank.") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise KliegError(f"{path} is not what this Klieg writes of a treebank ({FORM}); make it anew with klieg "
                             "atlas.") from None

    def ways(self) -> list[Relation]:
        """Each relation once: from the side from which it was predicted better where heads were chosen."""
        best: dict[str, Relation] = {}
        for relation in self.relations:
            known = best.get(relation.name)
            if known is None or relation.development.share > known.development.share:
                best[relation.name] = relation
        return list(best.values())


def _loaded(said: dict[str, Any], heads: int) -> Relation:
    """A relation of a saved file; ValueError if it is not of so many heads."""
    def rate(each: dict[str, Any]) -> Rate:
        return Rate(float(each["right"]), int(each["count"]))

    every, chance, place = [rate(each) for each in said["every"]], [float(x) for x in said["chance"]], int(said["place"])
    fits = len(every) == len(chance) == heads and 0 <= place < heads and all(each.count > 0 for each in every)
    if not fits or said["to"] not in WAYS:
        raise ValueError(said["name"])
    best = Head(int(said["best"]["layer"]), str(said["best"]["kind"]), int(said["best"]["head"]))
    return Relation(str(said["name"]), said["to"], every, chance, best, place, rate(said["development"]), int(said["offset"]),
                    rate(said["baseline"]), float(said["p"]))


@dataclass(eq=False)
class _Words:
    """Words of one half of the sentences that have a link of one relation: what each head gets for each, (heads,); the
    offsets at which the link leads; and how often a head looks so far (heads, offsets)."""

    credits: list[np.ndarray] = field(default_factory=list)
    gold: list[frozenset[int]] = field(default_factory=list)
    looks: np.ndarray | None = None


def look(reader: Reader, sentence: Sentence) -> tuple[list[Heads], np.ndarray, np.ndarray, list[bool]]:
    """Where all heads look from word to word: weights (heads, w, w), which of them any layer leaves to be seen (w, w), and
    whether a token begins in a word."""
    ids, places = reader.placed(sentence.text)
    owners = _owners(sentence, places)
    gets = torch.stack([owners == word for word in range(len(sentence.words))], 1).double()       # (n, w)
    looks = (gets / gets.sum(0).clamp(min=1)).T                                                     # (w, n)

    def hear(call: Call) -> tuple[Tensor, Tensor]:
        n = torch.arange(call.keys)
        seen = call.mask.visible(n, n).any(1)[0].double()
        return looks @ call.every(n)[0].double() @ gets, (looks @ seen @ gets) > 0

    found = reader.heard(torch.tensor(ids), hear)
    weights = torch.cat([weights for _, (weights, _) in found])
    seen = torch.stack([seen for _, (_, seen) in found]).any(0)
    return [heads for heads, _ in found], weights.numpy(), seen.numpy(), (gets.sum(0) > 0).tolist()


def _owners(sentence: Sentence, places: Sequence[tuple[int, int]]) -> Tensor:
    """The word that each token begins in, the space before it aside; -1 where it is of none."""
    owner = np.full(len(sentence.text) + 1, -1)
    for word, (start, end) in enumerate(sentence.words):
        owner[start:end] = word
    found = []
    for start, end in places:
        within = owner[start:end][owner[start:end] >= 0]
        found.append(int(within[0]) if len(within) else -1)
    return torch.tensor(found)


def predicted(weights: np.ndarray) -> np.ndarray:
    """Weights (heads, w, w) -> the share of each word in a head's prediction: 1 for the other word with the most weight,
    its part where several have as much, and nowhere anything if none has any."""
    others = weights * (1 - np.eye(weights.shape[-1]))
    most = (others == others.max(-1, keepdims=True)) & (others > 0)
    return most / np.maximum(most.sum(-1, keepdims=True), 1)


def syntax(reader: Reader, sentences: Sequence[Sentence], told: Told = lambda done, expected: None) -> Syntax:
    """Read a treebank. KliegError if no relation stands in both halves. `told` hears how many sentences are read."""
    found: dict[tuple[str, str], list[_Words]] = {}
    left_out = {"long": 0, "torn": 0, "unseen": 0, "rare": 0}
    rows: list[Heads] = []
    reach = max((len(sentence.words) for sentence in sentences), default=1)
    for number, sentence in enumerate(sentences):
        told(number + 1, len(sentences))
        if reader.positions is not None and len(reader.placed(sentence.text)[0]) > reader.positions:
            left_out["long"] += 1
            continue
        if len(sentence.words) < 2:
            continue
        rows, weights, seen, whole = look(reader, sentence)
        guess = predicted(weights)
        for key, words in _asked(sentence, seen, whole, left_out).items():
            halves = found.setdefault(key, [_Words(), _Words()])
            for word, right in words.items():
                _count(halves[number % 2], guess[:, word], word, right, reach)
    both = {key: halves for key, halves in found.items() if all(half.credits for half in halves)}
    left_out["rare"] = len({name for name, _ in found} - {name for name, _ in both})
    if not both:
        raise KliegError("heads are chosen on every second sentence and reported on the others, and no relation that the model "
                         "can see stands in both; give a treebank of more sentences.")
    relations = [_relation(key, halves, heads_of(rows)) for key, halves in both.items()]
    relations.sort(key=lambda relation: (relation.name != ALL, -relation.chosen.count))
    return Syntax(reader.name, rows, relations, len(sentences) - left_out["long"], left_out)


def _asked(sentence: Sentence, seen: np.ndarray, whole: list[bool],
           left_out: dict[str, int]) -> dict[tuple[str, str], dict[int, set[int]]]:
    """By relation and way, each word that has such links with the words that they lead to."""
    asked: dict[tuple[str, str], dict[int, set[int]]] = {}
    for link in sentence.links:
        if not (whole[link.word] and whole[link.head]):
            left_out["torn"] += 1
            continue
        left_out["unseen"] += int(not seen[link.word, link.head]) + int(not seen[link.head, link.word])
        for to, start, end in (("head", link.word, link.head), ("dependent", link.head, link.word)):
            for name in (link.relation, ALL) if seen[start, end] else ():
                asked.setdefault((name, to), {}).setdefault(start, set()).add(end)
    return asked


def _count(half: _Words, guess: np.ndarray, word: int, right: set[int], reach: int) -> None:
    """One word more: guess (heads, w) is what each head predicts from it."""
    if half.looks is None:
        half.looks = np.zeros((len(guess), 2 * reach - 1))
    half.credits.append(guess[:, sorted(right)].sum(-1))
    half.gold.append(frozenset(end - word for end in right))
    half.looks[:, reach - 1 - word:reach - 1 - word + guess.shape[1]] += guess


def _relation(key: tuple[str, str], halves: list[_Words], heads: list[Head]) -> Relation:
    choosing, credits = (np.stack(half.credits) for half in halves)                       # (n, heads)
    place = int(choosing.mean(0).argmax())
    offsets = {offset for gold in halves[0].gold for offset in gold}
    offset = max(offsets, key=lambda offset: (sum(offset in gold for gold in halves[0].gold), -abs(offset), -offset))
    fixed = [float(offset in gold) for gold in halves[1].gold]
    looks = halves[1].looks
    assert looks is not None
    leads = np.zeros(looks.shape[1])
    for gold in halves[1].gold:
        for at in gold:
            leads[at + len(leads) // 2] += 1
    return Relation(*key, every=[Rate.of(column.tolist()) for column in credits.T],
                    chance=(looks @ leads / len(credits) ** 2).tolist(), best=heads[place], place=place,
                    development=Rate.of(choosing[:, place].tolist()), offset=offset, baseline=Rate.of(fixed),
                    p=sign_test(credits[:, place].tolist(), fixed))
