"""Which words go together all through a text: how much likelier than by chance the one stands with the other.

Most words are rare. What a text says too little of is said of its pieces, which it has more often: the first letters
that the forms of a word have in common, and the characters of a Chinese word. Both words and pieces are asked, and
their answers averaged.

Sources: counts that keep rare words modest, Johnson 2007, "Why doesn't EM find good HMM POS-taggers?"; words told apart
by their first letters, Östling and Tiedemann 2016, "Efficient Word Alignment with Markov Chain Monte Carlo"; an average
of a fine and a coarse estimate, Jelinek and Mercer 1980.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import digamma

RARE = 0.05         # Dirichlet prior: below 1, few words go with each
LETTERS = 4         # at the start of a word, that are a piece
_PIECE = re.compile(r"[\u3400-\u9fff]|[^\u3400-\u9fff]+")


def pieces(word: str) -> list[str]:
    """Each Chinese character, and the first letters of what stands between."""
    return [part[:LETTERS] for part in _PIECE.findall(word)]


@dataclass(frozen=True, eq=False)
class Table:
    """Pairs (n, 2) of things by their numbers, and how common each thing is on either side."""

    pairs: np.ndarray
    common: tuple[np.ndarray, np.ndarray]

    def odds(self, counts: np.ndarray) -> list[np.ndarray]:
        """From how often each pair was counted (n,) how much likelier than by chance the second is, given the first; and
        the other way about."""
        found = []
        for given in (0, 1):
            known, wanted = self.pairs[:, given], self.pairs[:, 1 - given]
            total = np.bincount(known, counts + RARE)[known]
            common = self.common[1 - given] / max(1, self.common[1 - given].sum())
            found.append(np.exp(digamma(counts + RARE) - digamma(total)) / common[wanted])
        return found


@dataclass(frozen=True, eq=False)
class Lexicon:
    """The pairs of words that meet, and the pairs of their pieces: of the word pair owner[m] it is pieces.pairs[cell[m]]."""

    words: Table
    pieces: Table
    owner: np.ndarray
    cell: np.ndarray

    @classmethod
    def of(cls, words: Table, sources: Sequence[str], targets: Sequence[str]) -> Lexicon:
        """sources, targets: the words by their numbers."""
        sides = [_Side.of(side) for side in (sources, targets)]
        s, t = (side.count[words.pairs[:, n]] for n, side in enumerate(sides))
        owner = np.repeat(np.arange(len(words.pairs)), s * t)
        place = np.arange(len(owner)) - np.repeat(np.cumsum(s * t) - s * t, s * t)
        met = [side.pieces[side.first[words.pairs[owner, n]] + at]
               for n, (side, at) in enumerate(zip(sides, np.divmod(place, t[owner]), strict=True))]
        known, cell = np.unique(met[0] * sides[1].different + met[1], return_inverse=True)
        common = tuple(np.bincount(side.pieces, np.repeat(often, side.count), side.different)
                       for side, often in zip(sides, words.common, strict=True))
        return cls(words, Table(np.stack(np.divmod(known, sides[1].different), 1), common), owner, cell)

    def odds(self, counts: np.ndarray) -> list[np.ndarray]:
        """Table.odds() of the pairs of words, averaged with those of their pieces, among which a count is divided."""
        number = np.bincount(self.owner, minlength=len(counts))
        shares = np.bincount(self.cell, (counts / number)[self.owner], len(self.pieces.pairs))
        coarse = [np.bincount(self.owner, odds[self.cell], len(counts)) / number for odds in self.pieces.odds(shares)]
        return [(fine + odds) / 2 for fine, odds in zip(self.words.odds(counts), coarse, strict=True)]


@dataclass(frozen=True, eq=False)
class _Side:
    """Words as pieces: those of word n are pieces[first[n]:first[n] + count[n]], of `different` ones."""

    pieces: np.ndarray
    first: np.ndarray
    count: np.ndarray
    different: int

    @classmethod
    def of(cls, words: Sequence[str]) -> _Side:
        known: dict[str, int] = {}
        cut = [[known.setdefault(piece, len(known)) for piece in pieces(word)] for word in words]
        count = np.array([len(one) for one in cut], dtype=np.int64)
        flat = np.array([piece for one in cut for piece in one], dtype=np.int64)
        return cls(flat, np.cumsum(count) - count, count, max(1, len(known)))
