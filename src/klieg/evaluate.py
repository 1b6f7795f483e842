"""How good translations are: BLEU and chrF by sacreBLEU, and how well a model expects the references.

A score is nothing without its signature, which says how words were cut; so they come together.

    score(["Ein Hund läuft."], ["Ein Hund rennt."]).bleu
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from klieg.errors import KliegError
from klieg.translate import Told, Translator

# Languages that sacreBLEU cuts in a way of their own; Japanese by characters, as it writes no spaces either.
_CUTS = {"zh": "zh", "ja": "char"}


@dataclass(frozen=True)
class Scores:
    """Of whole texts, 0 to 100; with the precisions of BLEU's 1- to 4-grams and its penalty for short texts."""

    sentences: int
    bleu: float
    bleu_signature: str
    precisions: tuple[float, ...]
    brevity_penalty: float
    chrf: float
    chrf_signature: str


@dataclass(frozen=True)
class Perplexity:
    """exp of the nats that a token, or a word, of the references costs; each sentence's end counts as one more of both."""

    token: float
    word: float
    tokens: int
    words: int
    word_is: str
    """"word" where words stand between spaces, "character" where a script writes none."""


def bleu(hypotheses: Sequence[str], references: Sequence[str], tokenize: str = "13a") -> float:
    """Corpus BLEU (Papineni et al. 2002), 0 to 100; `tokenize` as sacreBLEU names it: 13a, zh, char, none."""
    from sacrebleu.metrics import BLEU

    _check(hypotheses, references)
    return BLEU(tokenize=tokenize, force=True).corpus_score(hypotheses, [references]).score


def score(hypotheses: Sequence[str], references: Sequence[str], language: str | None = None,
          tokenized: bool = False) -> Scores:
    """BLEU and chrF (Popović 2015) of texts as people write them; or, where they are `tokenized`, of their words as they are.

    The references' language is seen from its letters if it is not given: Chinese and Japanese are cut
    in their own ways.
    """
    from sacrebleu.metrics import BLEU, CHRF

    _check(hypotheses, references)
    by_words = BLEU(tokenize="none" if tokenized else cutting(references, language), force=True)
    by_letters = CHRF()
    words, letters = (metric.corpus_score(hypotheses, [references]) for metric in (by_words, by_letters))
    return Scores(len(references), words.score, str(by_words.get_signature()), tuple(words.precisions), words.bp,
                  letters.score, str(by_letters.get_signature()))


def cutting(references: Sequence[str], language: str | None = None) -> str:
    """sacreBLEU's name for how texts of a language are cut into words; told from the texts where none is given."""
    return _CUTS.get(language or _script("".join(references)), "13a")


def perplexity(translator: Translator, sources: Sequence[str], references: Sequence[str], to: str | None = None,
               tokenized: bool = False, told: Told = lambda done, all: None) -> Perplexity:
    """How well the model expects the references, given their sources."""
    _check(sources, references)
    forced = translator.forced(sources, references, to, told)
    nats, tokens = -sum(log_p for log_p, _ in forced), sum(count for _, count in forced)
    unspaced = not tokenized and cutting(references, to) != "13a"
    words = sum(len("".join(line.split())) if unspaced else len(line.split()) for line in references) + len(references)
    return Perplexity(_exp(nats / tokens), _exp(nats / words), tokens, words, "character" if unspaced else "word")


def _exp(nats: float) -> float:
    """exp, or infinity where a float has no room for it."""
    return math.exp(nats) if nats < 700 else math.inf


def _script(text: str) -> str:
    """zh or ja where most letters are theirs; else ''."""
    han, kana = (len(re.findall(letters, text)) for letters in ("[\u3400-\u9fff\U00020000-\U0003ffff]", "[\u3041-\u30ff]"))
    if 2 * (han + kana) <= sum(map(str.isalpha, text)):
        return ""
    return "ja" if 10 * kana > han else "zh"


def _check(texts: Sequence[str], references: Sequence[str]) -> None:
    """KliegError unless every text has a reference, and there is one."""
    if len(texts) != len(references):
        raise KliegError(f"there are {len(texts):,} texts and {len(references):,} references; each text needs its own.")
    if not references:
        raise KliegError("there is nothing to compare: the references are empty; give at least one.")
