"""Texts that bring a behaviour out: a corpus as it is, random tokens that come twice, or a needle hidden in a corpus.

A probe makes windows of a piece of text. What is drawn for a window comes from its number, so every process and every
run draws the same.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import torch

from klieg.analysis.atlas.corpus import Piece
from klieg.analysis.behaviour import Text, repeated
from klieg.analysis.reader import SHORTEST, USUAL, Reader
from klieg.errors import KliegError

DRAWS = 64          # texts of random tokens
LONG = 1024         # tokens of a window with a needle, unless the model has fewer positions
DIGITS = 6          # of the number that a needle says
# What a needle says before its number and after it, and the question; {} is one of PLACES.
SAYINGS = {"en": ("\nThe secret number of {} is", ".\n", "\nWhat is the secret number of {}? The secret number of {} is"),
           "zh": ("\n{}的秘密数字是", "。\n", "\n{}的秘密数字是什么？{}的秘密数字是")}
PLACES = {"en": ("Paris", "the moon", "the red house", "the old library"), "zh": ("巴黎", "月亮", "红房子", "旧图书馆")}


class Plain:
    """A corpus as it is."""

    name, usual, shortest = "", USUAL, SHORTEST

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def texts(self, piece: str, number: int, window: int) -> Iterator[Text]:
        """A piece of text in windows of so many tokens."""
        return self._reader.windows(piece, window)


class Repeated:
    """Random tokens, every stretch of which comes twice: nothing but what stood before says what comes next.

    Olsson et al. 2022, "In-context Learning and Induction Heads". Tokens are drawn alike from all that are no marks.
    """

    name, usual, shortest = "repeated", USUAL, SHORTEST

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._ordinary = torch.tensor(reader.ordinary())

    def texts(self, piece: str, number: int, window: int) -> Iterator[Text]:
        """One window: that of this number, whatever the piece says."""
        generator = torch.Generator().manual_seed(number)
        drawn = repeated(len(self._ordinary), self._reader.room(window), generator)
        yield self._reader.framed(self._ordinary[drawn].tolist())


class Draws:
    """So many draws in place of a corpus: pieces without a text."""

    path, read = Path("repeated random tokens"), 0.0

    def pieces(self) -> Iterator[Piece]:
        """DRAWS of them."""
        for number in range(DRAWS):
            self.read = (number + 1) / DRAWS
            yield Piece("")

    def fingerprint(self) -> str:
        """By which the same draws are known again."""
        return hashlib.sha256(f"repeated {DRAWS}".encode()).hexdigest()


class Needles:
    """A sentence that has nothing to do with the text is hidden in every window, and asked for at its end.

    The sentence gives a number, which the window's last tokens repeat; the weight from the token before each of its
    digits onto that digit in the sentence is the score `retrieval`. Wu et al. 2024, "Retrieval Head Mechanistically
    Explains Long-Context Factuality", count how often that weight is a head's largest while the model itself writes the
    answer; here the answer stands there, and the weight is the score. Sentence and question are Chinese in a window
    that is mostly Chinese, else English.
    """

    name, usual = "needle", LONG

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        longest = max(len(self._said(language, place, "7" * DIGITS)) for language, places in PLACES.items()
                      for place in range(len(places)))
        self.shortest = reader.frame + 2 * longest

    def _said(self, language: str, place: int, number: str) -> list[int]:
        """Sentence and question with the number, joined."""
        return [id for part in self._parts(language, place, number) for id in part]

    def _parts(self, language: str, place: int, number: str) -> tuple[list[int], ...]:
        """Before the number, the number, after it; then the question."""
        before, after, question = SAYINGS[language]
        named = PLACES[language][place]
        space = " " if language == "en" else ""
        return tuple(map(self._reader.encode, (before.format(named), space + number, after, question.format(named, named))))

    def texts(self, piece: str, number: int, window: int) -> Iterator[Text]:
        """A piece of text in windows of so many tokens with a needle each; a rest that is too short for one comes as it is."""
        if window < self.shortest:
            raise KliegError(f"a window of {window} tokens has no room for a needle; choose one of {self.shortest} or more "
                             "with --window.")
        body, start, n = self._reader.encode(piece), 0, 0
        language = "zh" if _mostly_chinese(piece) else "en"
        while start < max(len(body), 1):
            generator = torch.Generator().manual_seed(number << 20 | n)
            drawn = torch.randint(10, (DIGITS,), generator=generator).tolist()
            place = int(torch.randint(len(PLACES[language]), (1,), generator=generator))
            before, digits, after, question = self._parts(language, place, "".join(map(str, drawn)))
            room = self._reader.room(window) - len(before) - 2 * len(digits) - len(after) - len(question)
            text = body[start:start + room]
            start, n = start + room, n + 1
            at = int(torch.randint(len(text) + 1, (1,), generator=generator))
            made = [*text[:at], *before, *digits, *after, *text[at:], *question, *digits]
            short = len(made) + self._reader.frame < self.shortest
            yield self._reader.framed(text) if short else self._reader.framed(made, (at + len(before), len(digits)))


PROBES = {kind.name: kind for kind in (Repeated, Needles)}


def _mostly_chinese(text: str) -> bool:
    letters = [c for c in text[:1000] if c.isalpha()]
    return sum(unicodedata.name(c, "").startswith("CJK") for c in letters) > len(letters) / 2
