"""Which source word does each target word stand for: read from a translator's cross-attention.

The decoder reads the target that it is given and writes nothing. A target word is aligned by where
the heads look in the step whose input is the word, which is the one that would write the next word:
by then the decoder knows the word, and before it only guesses.

    found = align(model, tokenizer, ["我 爱 你 。"], ["I love you ."], layer=3, to="en")   # [[(0, 0), (1, 1), ...]]

What a whole text says of its words may be learned from it on top of that: chains.py.

Source: Chen et al. 2020, "Accurate Word Alignment Induction from Neural Machine Translation" (Shift-Att).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from klieg.analysis.alignment.chains import ROUNDS, posteriors
from klieg.analysis.alignment.gold import Gold
from klieg.analysis.alignment.links import WAYS, Link, Links, links
from klieg.analysis.alignment.spelling import Sentence
from klieg.atomic import atomic
from klieg.attention import hide, scores, weights
from klieg.beam import groups, padded
from klieg.checkpoint import read_json
from klieg.errors import KliegError
from klieg.translate import opening

if TYPE_CHECKING:
    from klieg.layers import Observation
    from klieg.seq2seq import Marian
    from klieg.tokenizers import Tokenizer

FILE = "alignment.json"


@dataclass(frozen=True)
class Reading:
    """Where in a model alignments are read: the mean of some heads of one layer, after so many rounds of learning from the
    text itself (chains.py; 0: from each sentence's attention alone), made links in one of WAYS."""

    layer: int
    heads: tuple[int, ...]
    way: str = "forward"
    rounds: int = 0

    @classmethod
    def middle(cls, model: Marian) -> Reading:
        """All heads of the middle layer, as Chen et al. read the third of six: for models that choose() was not asked about."""
        return cls((model.layers - 1) // 2, tuple(range(model.heads)))

    def save(self, folder: Path) -> None:
        """Writes alignment.json beside the model."""
        with atomic(Path(folder) / FILE) as part:
            part.write_text(json.dumps(asdict(self)) + "\n", "utf-8")

    @classmethod
    def load(cls, folder: Path) -> Reading | None:
        """What choose() once found for a model; None if it has not been asked."""
        path = Path(folder) / FILE
        if not path.is_file():
            return None
        found = read_json(path)
        layer, heads, way = (found.get(name) for name in ("layer", "heads", "way"))
        rounds = found.get("rounds", 0)
        if not (_number(layer) and isinstance(heads, list) and heads and all(map(_number, heads)) and way in list(WAYS)
                and _number(rounds)):
            raise KliegError(f"{path} is damaged (it says {str(found)[:80]}); remove it, or choose anew.")
        return cls(layer, tuple(heads), way, rounds)


@dataclass(frozen=True)
class Part:
    """A text with gold links: sentences, their translations in the language `to`, and how they are linked."""

    sources: list[str]
    targets: list[str]
    gold: Gold
    to: str | None = None


def align(model: Marian, tokenizer: Tokenizer, sources: Sequence[str], targets: Sequence[str], layer: int | None = None,
          heads: Sequence[int] | None = None, to: str | None = None, way: str = "forward",
          rounds: int = 0) -> list[list[Link]]:
    """The links of each sentence pair, sorted; a word is what white space sets apart, and counts from 0.

    layer: by default the middle one, as Chen et al. read the third of six. heads: all by default. to: the
    language of the targets, where the model has several. way: one of klieg.analysis.alignment.links.WAYS. rounds: how often
    the pairs are learned from all together (chains.py); 0: each is read by its own attention alone.
    """
    middle = Reading.middle(model)
    reading = Reading(middle.layer if layer is None else layer, middle.heads if heads is None else tuple(heads), way)
    forward: list[np.ndarray] = read(model, tokenizer, sources, targets, reading, to)
    return [sorted(found) for found in joined(forward, None, sources, targets, way, rounds)]


def joined(forward: Sequence[np.ndarray], backward: Sequence[np.ndarray] | None, sources: Sequence[str],
           targets: Sequence[str], way: str, rounds: int, told: Callable[[int], None] = lambda done: None) -> list[Links]:
    """Weights (t, s) of sentence pairs, and (s, t) of the way back if that was read too -> the links of each.

    Before anything is learned in rounds, of which `told` hears, both directions are averaged.
    """
    if not rounds:
        return [links(f, b, way) for f, b in zip(forward, backward or [None] * len(forward), strict=True)]
    if backward is not None:
        forward = [(f + b.T) / 2 for f, b in zip(forward, backward, strict=True)]
    return [links(f, b, way) for f, b in posteriors(forward, sources, targets, rounds, told)]


def read(model: Marian, tokenizer: Tokenizer, sources: Sequence[str], targets: Sequence[str], reading: Reading,
         to: str | None = None, told: Callable[[int], None] = lambda done: None) -> list[np.ndarray]:
    """How much each target word looks at each source word, as a mean over the heads: one (t, s) for each sentence pair.

    What is left of a row's 1 went to marks. `told` hears how many pairs are done.
    """
    for name, numbers, count in (("layer", [reading.layer], model.layers), ("head", reading.heads, model.heads)):
        if not numbers or min(numbers) < 0 or max(numbers) >= count:
            raise KliegError(f"{name} {', '.join(map(str, numbers)) or 'none'} was asked for; the model has {name}s "
                             f"0 to {count - 1}.")
    heads = list(reading.heads)
    return _collected(model, tokenizer, sources, targets, to, [reading.layer], lambda w: w[0, heads].mean(0), told)


def read_all(model: Marian, tokenizer: Tokenizer, sources: Sequence[str], targets: Sequence[str],
             to: str | None = None) -> list[np.ndarray]:
    """read() of every layer and head: one (layers, heads, t, s) for each sentence pair."""
    return _collected(model, tokenizer, sources, targets, to, list(range(model.layers)), lambda w: w, lambda done: None)


def _collected(model: Marian, tokenizer: Tokenizer, sources: Sequence[str], targets: Sequence[str], to: str | None,
               layers: list[int], kept: Callable[[np.ndarray], np.ndarray], told: Callable[[int], None]) -> list[np.ndarray]:
    """What `kept` makes of the word weights (layers, heads, t, s) of each pair; pairs of like length are read together."""
    if len(sources) != len(targets):
        raise KliegError(f"there are {len(sources)} sources and {len(targets)} targets; give as many of both.")
    before = opening(tokenizer, to)
    pairs = [_Pair.of(model, tokenizer, s, t, before) for s, t in zip(sources, targets, strict=True)]
    for number, pair in enumerate(pairs, 1):
        if pair.longest > model.positions:
            raise KliegError(f"line {number} needs {pair.longest:,} tokens and the model has {model.positions:,} positions; "
                             "cut the line.")
    found, done = [], 0
    order = []
    for places in groups([pair.size for pair in pairs], 1):
        together = [pairs[place] for place in places]
        found += [kept(pair.words(w, tokenizer)) for pair, w in zip(together, _looks(model, together, layers), strict=True)]
        order += places
        done += len(places)
        told(done)
    return [found[n] for n in np.argsort(order)]


@dataclass(frozen=True, eq=False)
class _Pair:
    """A sentence pair as the model reads it: a source has the mark of its language before it, if there are several, and the
    end mark behind it; a target begins with the start mark."""

    source: Sentence
    target: Sentence
    source_ids: list[int]
    target_ids: list[int]

    @classmethod
    def of(cls, model: Marian, tokenizer: Tokenizer, source: str, target: str, before: list[int]) -> _Pair:
        s, t = Sentence.of(source.split()), Sentence.of(target.split())
        return cls(s, t, [*before, *tokenizer.encode(s.text, bos=False), model.config.eos_token_id],
                   [model.config.decoder_start_token_id, *tokenizer.encode(t.text, bos=False)])

    @property
    def longest(self) -> int:
        return max(len(self.source_ids), len(self.target_ids))

    @property
    def size(self) -> int:
        return len(self.source_ids) + len(self.target_ids)

    def words(self, looks: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
        """looks (..., target ids, source ids), padded -> (..., t, s): a target word is the mean of its pieces, a source
        word the sum of its own."""
        of_source = self.source.shares([tokenizer.token_bytes(id) for id in self.source_ids])
        of_target = self.target.shares([tokenizer.token_bytes(id) for id in self.target_ids[1:]])
        # Row n + 1 is the step whose input is piece n: the first row reads the start mark.
        rows = looks[..., 1:len(self.target_ids), :len(self.source_ids)]
        return (of_target / of_target.sum(0)).T @ rows @ of_source


@torch.inference_mode()
def _looks(model: Marian, pairs: list[_Pair], layers: list[int]) -> np.ndarray:
    """The cross-attention of a batch, weight by weight: (b, layers, heads, target ids, source ids), padding included."""
    seen: dict[int, np.ndarray] = {}

    def observe(call: Observation) -> None:
        if call.kind == "cross" and call.layer in layers:
            s = hide(scores(call.q, call.k, scale=call.scale), call.mask)
            seen[call.layer] = weights(s, call.attention.lse).double().numpy()

    source, real = padded([pair.source_ids for pair in pairs], model.config.pad_token_id)
    target, _ = padded([pair.target_ids for pair in pairs], model.config.pad_token_id)
    model.decode(target, model.encode(source, real), observe=observe)
    return np.stack([seen[layer] for layer in layers], 1)


def choose(model: Marian, tokenizer: Tokenizer, parts: Sequence[Part], ways: Sequence[str] = tuple(WAYS)) -> Reading:
    """Where the error rate is lowest, as a mean over the parts; give it gold that is not tested on.

    In each layer heads are joined from the best one on, as long as that helps. Then it is tried whether learning from the
    parts' own words helps.
    """
    maps = [read_all(model, tokenizer, part.sources, part.targets, part.to) for part in parts]

    def error(layer: int, heads: list[int], way: str) -> float:
        return float(np.mean([part.gold.against([links(w[layer, heads].mean(0), way=way) for w in each]).aer
                              for part, each in zip(parts, maps, strict=True)]))

    best: tuple[float, Reading] | None = None
    for way in ways:
        for layer in range(model.layers):
            alone = sorted((error(layer, [head], way), head) for head in range(model.heads))
            lowest, heads = alone[0][0], [alone[0][1]]
            for _, head in alone[1:]:
                joined = error(layer, [*heads, head], way)
                if joined < lowest:
                    lowest, heads = joined, [*heads, head]
            if best is None or lowest < best[0]:
                best = lowest, Reading(layer, tuple(sorted(heads)), way)
    reading = best[1]
    looks = [[w[reading.layer, list(reading.heads)].mean(0) for w in each] for each in maps]
    learned = [posteriors(each, part.sources, part.targets) for part, each in zip(parts, looks, strict=True)]
    for way in ways:
        lowest = float(np.mean([part.gold.against([links(f, b, way) for f, b in each]).aer
                                for part, each in zip(parts, learned, strict=True)]))
        if lowest < best[0]:
            best = lowest, replace(reading, way=way, rounds=ROUNDS)
    return best[1]


def _number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
