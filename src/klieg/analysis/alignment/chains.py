"""Which words stand for each other all through a text, from what cross-attention says of each sentence.

Attention is read pair by pair, and where a model does not know a word it looks anywhere. A text knows more:
the words that attention is sure of say which words go together and how far neighbours stand apart, and
that says where the other words belong. No links are needed for it, and no other text.

The source words of a target's words are the states of a hidden Markov chain, which may also be at no word. A pair of
words counts by how much likelier than by chance it is: attention over chance, and some for what attention may have
missed, times the lexicon over chance. Lexicon (lexicon.py) and jumps are learned from the posteriors, round by round: what
both directions agree on is counted.

Sources: chains, Vogel, Ney and Tillmann 1996, "HMM-Based Word Alignment in Statistical Translation"; no word, Och and Ney
2003; agreement, Liang, Taskar and Klein 2006, "Alignment by Agreement".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from klieg.analysis.alignment.lexicon import Lexicon, Table

ROUNDS = 5          # how often lexicon and jumps are learned anew
FAR = 12            # jumps of so many words or more are one
NOWHERE = 0.2       # the share of words that stand for none
MISSED = 0.3        # what a word counts, over chance, that nothing looks at
TOGETHER = 2048     # sentence pairs of one shape that are computed at once, at most

Posteriors = tuple[np.ndarray, np.ndarray]
"""Of one sentence pair: (t, s), where each target word stands, and (s, t), where each source word does."""


def posteriors(weights: Sequence[np.ndarray], sources: Sequence[str], targets: Sequence[str], rounds: int = ROUNDS,
               told: Callable[[int], None] = lambda done: None) -> list[Posteriors]:
    """weights (t, s) of sentence pairs, as read() gives them -> posteriors of their words, in both directions.

    rounds: how often the whole text is learned from; 0: every pair by its attention and the first guess of the jumps.
    `told` hears how many rounds are done. Words are what white space sets apart, in small letters.
    """
    text = _Text.of(weights, [line.lower().split() for line in sources], [line.lower().split() for line in targets])
    lexicon = [np.ones(text.pairs)] * 2
    jumps = [np.exp(-np.abs(np.arange(-FAR, FAR + 1) - 1) / 2)] * 2         # most words follow the one before
    for done in range(rounds):
        counts, moved = np.zeros(text.pairs), [np.zeros(2 * FAR + 1) for _ in range(2)]
        for group in text.groups:
            forward, backward = (group.smoothed(lexicon, jumps, turned) for turned in (False, True))
            agreed = forward[0] * backward[0].transpose(0, 2, 1)
            counts += np.bincount(group.cells.ravel(), agreed.ravel(), minlength=len(counts))
            moved = [m + found for m, (_, found) in zip(moved, (forward, backward), strict=True)]
        lexicon = text.lexicon.odds(counts)
        jumps = [m + 0.1 for m in moved]
        told(done + 1)
    found: list[Posteriors] = [(w.astype(np.float64), w.T.astype(np.float64)) for w in weights]     # those without words stay
    for group in text.groups:
        forward, backward = (group.smoothed(lexicon, jumps, turned)[0] for turned in (False, True))
        for n, both in zip(group.places, zip(forward, backward, strict=True), strict=True):
            found[n] = both
    return found


@dataclass(frozen=True, eq=False)
class _Group:
    """Sentence pairs with t target words and s source words: their places in the text, weights and pairs of words (n, t, s)."""

    places: list[int]
    weights: np.ndarray
    cells: np.ndarray

    def smoothed(self, lexicon: list[np.ndarray], jumps: list[np.ndarray], turned: bool) -> tuple[np.ndarray, np.ndarray]:
        """Posteriors (n, t, s), or (n, s, t) the other way about, and how often each jump was made."""
        looks, odds = self.weights + 1e-6, lexicon[turned][self.cells]
        if turned:
            looks, odds = looks.transpose(0, 2, 1), odds.transpose(0, 2, 1)
        chance = looks.sum(2, keepdims=True) / looks.shape[2]
        return smoothed((looks / chance + MISSED) * odds, jumps[turned])


@dataclass(frozen=True, eq=False)
class _Text:
    """Every sentence pair in groups of one shape, and every pair of words that meets in one."""

    groups: list[_Group]
    lexicon: Lexicon

    @property
    def pairs(self) -> int:
        """Different pairs of words."""
        return len(self.lexicon.words.pairs)

    @classmethod
    def of(cls, weights: Sequence[np.ndarray], sources: list[list[str]], targets: list[list[str]]) -> _Text:
        (s, source_words), (t, target_words) = _numbers(sources), _numbers(targets)
        common = tuple(np.bincount(np.concatenate([np.zeros(0, np.int64), *one])) for one in (s, t))
        shapes: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for n, w in enumerate(weights):
            if w.size:
                shapes[w.shape].append(n)
        places = [each[start:start + TOGETHER] for each in shapes.values() for start in range(0, len(each), TOGETHER)]
        met = [np.stack([s[n] * len(common[1]) + t[n][:, None] for n in each]) for each in places]
        pairs, cells = np.unique(np.concatenate([np.zeros(0, np.int64), *(one.ravel() for one in met)]), return_inverse=True)
        cuts = np.cumsum([one.size for one in met])[:-1]
        groups = [_Group(each, np.stack([weights[n] for n in each]), part.reshape(one.shape))
                  for each, one, part in zip(places, met, np.split(cells, cuts) if met else [], strict=True)]
        table = Table(np.stack(np.divmod(pairs, max(1, len(common[1]))), 1), common)
        return cls(groups, Lexicon.of(table, source_words, target_words))


def smoothed(odds: np.ndarray, jumps: np.ndarray, nowhere: float = NOWHERE) -> tuple[np.ndarray, np.ndarray]:
    """Forward and backward through chains of n rows each: odds (b, n, m) of the states over chance, jumps (2 FAR + 1).

    -> posteriors (b, n, m), a row's sum is the probability that it is at any state; and how often each jump was made.
    A row that is at no state keeps the place of the row before.
    """
    batch, rows, states = odds.shape
    places = np.arange(states)
    jump = np.clip(places - places[:, None], -FAR, FAR) + FAR               # from, to
    moves = jumps[jump] / jumps[jump].sum(1, keepdims=True)
    ahead, here, scale = np.empty((rows, batch, states)), np.empty((rows, batch, states)), np.empty((rows, batch, 1))
    stayed = moved = np.full((batch, states), 1 / states)
    for row in range(rows):
        if row:
            stayed, moved = ahead[row - 1], ahead[row - 1] @ moves
        here[row] = (1 - nowhere) * moved * odds[:, row]
        ahead[row] = here[row] + nowhere * stayed
        scale[row] = ahead[row].sum(1, keepdims=True)
        ahead[row] /= scale[row]
        here[row] /= scale[row]
    behind, made = np.ones((batch, states)), np.zeros((states, states))
    for row in reversed(range(rows)):
        here[row] *= behind
        if row:
            reached = (1 - nowhere) * odds[:, row] * behind / scale[row]
            made += ahead[row - 1].T @ reached
            behind = reached @ moves.T + nowhere * behind / scale[row]
    return here.transpose(1, 0, 2), np.bincount(jump.ravel(), (made * moves).ravel(), minlength=2 * FAR + 1)


def _numbers(sentences: list[list[str]]) -> tuple[list[np.ndarray], list[str]]:
    """The words of each sentence by number, and each number's word."""
    known: dict[str, int] = {}
    numbers = [np.array([known.setdefault(word, len(known)) for word in words], dtype=np.int64) for words in sentences]
    return numbers, list(known)
