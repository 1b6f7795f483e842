"""Texts in one language out, texts in another back: a translator with its tokenizer.

    translator = Translator.load("translate")
    translator.translate(["I love you"], to="zh")

A line is translated as a whole where the model has positions for it, and sentence by sentence where
it has not.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from heapq import nlargest

import torch

from klieg import beam
from klieg.beam import Hypothesis, Search
from klieg.errors import KliegError
from klieg.generate import Sampling
from klieg.loss import CHUNK
from klieg.models import Model, load
from klieg.seq2seq import Marian
from klieg.tokenizers import Tokenizer

Told = Callable[[int, int], None]

# A sentence ends after its marks and whatever closes behind them, before a space; Chinese needs none.
_SENTENCE = re.compile(r"\S.*?(?:(?<![.!?…])[.!?…]++[\"'”’»)\]]*+(?=\s)|[。！？]+[”’」』）]*|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Candidate:
    """A translation, ln p of it with its end mark, and what it was ranked by."""

    text: str
    log_p: float
    score: float


def languages(tokenizer: Tokenizer) -> dict[str, int]:
    """The languages that a translator is told by marks such as >>de<<, and the marks' ids; none where it has one direction."""
    return {mark[2:-2]: id for mark, id in tokenizer.marks.items() if re.fullmatch(">>.+<<", mark)}


def opening(tokenizer: Tokenizer, to: str | None) -> list[int]:
    """What stands before a source that is to come out in the language `to`; None is enough where there is no choice."""
    known = languages(tokenizer)
    if to is None and len(known) > 1:
        first = next(iter(known))
        raise KliegError(f"this translator writes {', '.join(known)}; say which, for example --to {first} "
                         f"(in Python, to={first!r}).")
    if to is not None and to not in known:
        what = f" It writes {', '.join(known)}." if known else " It writes one language; leave --to (in Python, to) away."
        raise KliegError(f"this translator has no language {to!r}.{what}")
    return list(known.values()) if to is None else [known[to]]


class Untranslatable(KliegError):
    """Of a text that the model has no room for; `line` is its number."""

    def __init__(self, line: int, said: KliegError) -> None:
        super().__init__(f"line {line:,}: {said}")
        self.line = line


class Translator:
    """Translates lists of texts. Every line of a text is translated for itself; one of white space gives an empty one.

    A line that is longer than the model's positions is cut where its sentences end; they are translated
    each by itself and joined. A single sentence that is too long is a KliegError with the line's number,
    counted over all texts from `first`. `told` hears how many parts are done, and of how many.
    A line stays one line: where the model writes a line break there is a space.
    """

    def __init__(self, model: Model, tokenizer: Tokenizer) -> None:
        if not isinstance(model, Marian):
            raise KliegError(f"a model of the kind {model.config.model_type} does not translate; name a translator.")
        self.model, self.tokenizer = model, tokenizer

    @classmethod
    def load(cls, name: str) -> Translator:
        """A bundled name, a folder, or a Hugging Face id."""
        return cls(*load(name))

    @property
    def languages(self) -> list[str]:
        """What it can be told to translate into; empty where it has one direction."""
        return list(languages(self.tokenizer))

    def translate(self, texts: Sequence[str], to: str | None = None, search: Search | None = None,
                  told: Told = lambda done, all: None, first: int = 1) -> list[str]:
        """The best translation of each text that the search finds."""
        best = replace(search or Search(), best=1)
        return [found[0].text for found in self.candidates(texts, to, best, told, first)]

    def candidates(self, texts: Sequence[str], to: str | None = None, search: Search | None = None,
                   told: Told = lambda done, all: None, first: int = 1) -> list[list[Candidate]]:
        """The `search.best` translations of each text, the best first; those of several parts by the sum of their scores."""
        search = search or Search()
        plans = self._plans(texts, to, first)
        sources = [part.source for plan in plans for part in plan if part.source]
        found = iter(beam.search(self.model, sources, search, lambda done: told(done, len(sources))))
        return [self._joined([(part, next(found) if part.source else [Hypothesis([], 0.0, 0.0)]) for part in plan], search.best)
                for plan in plans]

    def sample(self, texts: Sequence[str], sampling: Sampling, to: str | None = None,
               told: Told = lambda done, all: None, first: int = 1) -> list[str]:
        """A translation of each text drawn by its probability. A text's place is added to the seed, so it is drawn the
        same whatever stands around it."""
        plans = self._plans(texts, to, first)
        sources, generators = [], []
        for n, plan in enumerate(plans, first - 1):
            seed = None if sampling.seed is None else (sampling.seed + n) % 2**63
            parts = [part.source for part in plan if part.source]
            sources += parts
            generators += _generators(replace(sampling, seed=seed), len(parts))
        drawn = iter(beam.sample(self.model, sources, sampling, generators, lambda done: told(done, len(sources))))
        return [self._joined([(part, [Hypothesis(next(drawn) if part.source else [], 0.0, 0.0)]) for part in plan], 1)[0].text
                for plan in plans]

    def score(self, source: str, target: str, to: str | None = None) -> float:
        """ln p that the model gives a target, with its end mark."""
        return self.forced([source], [target], to)[0][0]

    def forced(self, sources: Sequence[str], targets: Sequence[str], to: str | None = None,
               told: Told = lambda done, all: None) -> list[tuple[float, int]]:
        """(ln p, tokens) of each target for its source, the end mark included in both; KliegError names a line too long."""
        before, room = opening(self.tokenizer, to), self.model.positions - 1
        given, wanted = [], []
        for number, (source, target) in enumerate(zip(sources, targets, strict=True), 1):
            with _line(number):
                given.append(self._source(source.strip(), before, offer=""))
                wanted.append(self.tokenizer.fitting(target.strip(), room, bos=False))
        found: list[tuple[float, int]] = [(0.0, 0)] * len(given)
        done = 0
        for places in beam.groups([max(len(a), len(b) + 1) for a, b in zip(given, wanted, strict=True)], 1):
            log_p = _log_p(self.model, [given[n] for n in places], [wanted[n] for n in places])
            for place, p in zip(places, log_p, strict=True):
                found[place] = p, len(wanted[place]) + 1
            done += len(places)
            told(done, len(given))
        return found

    def _source(self, text: str, before: list[int], offer: str = ", or end a sentence in it") -> list[int]:
        """The ids of one source: the language's mark, if any, the text and the end mark."""
        room = self.model.positions - len(before) - 1
        ids = self.tokenizer.fitting(text, room, bos=False, offer=offer)
        return [*before, *ids, self.model.config.eos_token_id]

    def _plans(self, texts: Sequence[str], to: str | None, first: int) -> list[list[_Part]]:
        """The parts of each text, lines in their order."""
        if isinstance(texts, str):
            raise TypeError("texts must be a list of texts, and is one text.")
        before, plans, number = opening(self.tokenizer, to), [], first
        for text in texts:
            plan: list[_Part] = []
            for n, line in enumerate(text.split("\n")):
                with _line(number):
                    plan += self._parts(line.strip(), before, "\n" if n else "")
                number += 1
            plans.append(plan)
        return plans

    def _parts(self, line: str, before: list[int], joint: str) -> list[_Part]:
        """A line as a whole; its sentences where it is too long."""
        if not line:
            return [_Part(joint, [])]
        try:
            return [_Part(joint, self._source(line, before))]
        except KliegError:
            sentences = _SENTENCE.findall(line)
            if len(sentences) == 1:
                raise
        return [_Part(" " if n else joint, self._source(sentence, before)) for n, sentence in enumerate(sentences)]

    def _joined(self, parts: Iterable[tuple[_Part, list[Hypothesis]]], best: int) -> list[Candidate]:
        """The best ways to put the hypotheses of the parts together."""
        found = [Candidate("", 0.0, 0.0)]
        for part, hypotheses in parts:
            more = [(re.sub(r"\s*[\r\n]\s*", " ", self.tokenizer.decode(h.ids)), h) for h in hypotheses]
            found = nlargest(best, (Candidate(_joint(c.text, part.joint) + text, c.log_p + h.log_p, c.score + h.score)
                                    for c in found for text, h in more), key=lambda c: c.score)
        return found


@dataclass(frozen=True)
class _Part:
    """Something that is translated by itself: what stands before it, and its source; no source where the line is empty."""

    joint: str
    source: list[int]


def _generators(sampling: Sampling, count: int) -> list[torch.Generator]:
    """The sources of randomness of a text's parts, whose seeds are drawn by that of the text."""
    seeds = torch.randint(2**63 - 1, (count,), generator=sampling.generator())
    return [replace(sampling, seed=seed).generator() for seed in seeds.tolist()]


def _joint(text: str, joint: str) -> str:
    """The text, ready to be followed by the next part: with a space where its script has spaces."""
    if joint == " " and (text[-1:] in ("", "\n") or unicodedata.east_asian_width(text[-1]) in ("W", "F")):
        return text
    return text + joint


@contextmanager
def _line(number: int) -> Iterator[None]:
    """Says in which line a mistake was found."""
    try:
        yield
    except KliegError as e:
        raise Untranslatable(number, e) from None


@torch.inference_mode()
def _log_p(model: Marian, sources: list[list[int]], targets: list[list[int]]) -> list[float]:
    """ln p of each target with its end mark, summed in float64."""
    config = model.config
    source, real = beam.padded(sources, config.pad_token_id)
    inputs, _ = beam.padded([[config.decoder_start_token_id, *ids] for ids in targets], config.pad_token_id)
    wanted, there = beam.padded([[*ids, config.eos_token_id] for ids in targets], config.pad_token_id)
    hidden = model.hidden(source, inputs, real).flatten(0, 1)
    log_p = torch.cat([model.head(h).log_softmax(-1).gather(1, ids[:, None])
                       for h, ids in zip(hidden.split(CHUNK), wanted.flatten().split(CHUNK), strict=True)])
    log_p = log_p.double().view(wanted.shape)
    return (log_p if there is None else log_p.masked_fill(~there, 0)).sum(1).tolist()
