"""Links between the words of a sentence and those of its translation, and how right they are.

A link is a pair (source word, target word), both from 0; a sentence pair has a set of them. They
come from weights (t, s), a row for each target word, or from anywhere else.

Sources: growing, Koehn, Och and Marcu 2003, "Statistical Phrase-Based Translation"; the error rate,
Och and Ney 2003, "A Systematic Comparison of Various Statistical Alignment Models".
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from klieg.errors import KliegError, nearest

Link = tuple[int, int]
Links = set[Link]

_AROUND = [(-1, 0), (0, -1), (1, 0), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1)]


def best(weights: np.ndarray) -> Links:
    """Each row's largest weight: weights (t, s) -> a link for each target word, none where nothing is above 0."""
    if not weights.size:
        return set()
    return {(int(s), t) for t, s in enumerate(weights.argmax(1)) if weights[t, s] > 0}


def links(weights: np.ndarray, back: np.ndarray | None = None, way: str = "forward") -> Links:
    """weights (t, s) of a translation, and back (s, t) of the way back -> their links, by one of WAYS.

    Without `back` the same weights are read by their columns too: where a source word is looked at
    most. Two weights of one pair may be averaged before, as weights + back.T over 2.
    """
    forward = best(weights)
    if way == "forward":
        return forward
    return merged(forward, {(s, t) for t, s in best(weights.T if back is None else back)}, way)


def merged(forward: Links, backward: Links, way: str) -> Links:
    """The links of two directions made one set, by one of WAYS; both as (source word, target word)."""
    if way not in WAYS:
        raise KliegError(f"there is no way {way!r} to bring two directions together.{nearest(way, list(WAYS))}")
    return WAYS[way](forward, backward)


def _grown(forward: Links, backward: Links) -> Links:
    """From what both have on to neighbours that one has, as long as one of their two words has no link yet.

    Words that two neighbours want go to the first in the order of the paper: again and again over
    all target words, and for each over all source words.
    """
    found, either = forward & backward, forward | backward
    sources, targets = {s for s, _ in found}, {t for _, t in found}
    # A link is looked around from once: what it could not take then, it can never take.
    waiting, next_time = sorted((t, s) for s, t in found), []
    while waiting or next_time:
        if not waiting:
            waiting, next_time = sorted(next_time), []
        here = heapq.heappop(waiting)
        for down, right in _AROUND:
            t, s = here[0] + down, here[1] + right
            if (s, t) in either and (s not in sources or t not in targets):
                found.add((s, t))
                sources.add(s)
                targets.add(t)
                if (t, s) > here:
                    heapq.heappush(waiting, (t, s))
                else:
                    next_time.append((t, s))
    return found


def _finished(found: Links, each: Iterable[Links], both: bool) -> Links:
    """Adds the links of each direction in turn whose words, one of the two or both, have none yet."""
    sources, targets = {s for s, _ in found}, {t for _, t in found}
    for direction in each:
        for t, s in sorted((t, s) for s, t in direction):
            free = (s not in sources, t not in targets)
            if all(free) if both else any(free):
                found.add((s, t))
                sources.add(s)
                targets.add(t)
    return found


WAYS: dict[str, Callable[[Links, Links], Links]] = {
    "forward": lambda forward, backward: set(forward),
    "backward": lambda forward, backward: set(backward),
    "intersection": lambda forward, backward: forward & backward,
    "union": lambda forward, backward: forward | backward,
    "grow-diag": _grown,
    "grow-diag-final": lambda f, b: _finished(_grown(f, b), (f, b), both=False),
    "grow-diag-final-and": lambda f, b: _finished(_grown(f, b), (f, b), both=True),
}


@dataclass(frozen=True)
class Agreement:
    """How many links there are: sure ones of the gold, found ones, and found ones that are sure or possible."""

    sure: int
    found: int
    found_sure: int
    found_possible: int

    @property
    def precision(self) -> float:
        """The share of what was found that is at least possible."""
        return self.found_possible / self.found if self.found else 1.0

    @property
    def recall(self) -> float:
        """The share of what is sure that was found."""
        return self.found_sure / self.sure if self.sure else 1.0

    @property
    def aer(self) -> float:
        """The alignment error rate: 1 - (found and sure + found and possible) / (found + sure); 0 is best."""
        both = self.found + self.sure
        return 1 - (self.found_sure + self.found_possible) / both if both else 0.0


def agreement(sure: Sequence[Links], possible: Sequence[Links], found: Sequence[Links]) -> Agreement:
    """Of a whole text: one set of links for each sentence. What is sure is possible too."""
    if not len(sure) == len(possible) == len(found):
        raise KliegError(f"{len(found)} sentences are aligned and the gold has {max(len(sure), len(possible))}; "
                         "give the same sentences.")
    pairs = list(zip(sure, possible, found, strict=True))
    return Agreement(sum(len(s) for s, _, _ in pairs), sum(len(f) for _, _, f in pairs),
                     sum(len(f & s) for s, _, f in pairs), sum(len(f & (s | p)) for s, p, f in pairs))


def aer(sure: Sequence[Links], possible: Sequence[Links], found: Sequence[Links]) -> float:
    """The alignment error rate of a whole text; see Agreement."""
    return agreement(sure, possible, found).aer
