"""Chains over a text: posteriors against every path of a chain counted one by one, and words that only a text tells apart."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from scipy.special import digamma

from klieg.analysis.alignment import chains
from klieg.analysis.alignment.chains import FAR, MISSED, NOWHERE, posteriors, smoothed
from klieg.analysis.alignment.lexicon import RARE
from klieg.analysis.alignment.links import links

JUMPS = range(-FAR, FAR + 1)


def paths(odds: np.ndarray, jumps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Posteriors (n, m) and jumps made, by the definition, over every path; a row is (place, whether it stands there)."""
    rows, states = odds.shape
    found, made, total = np.zeros((rows, states)), np.zeros(2 * FAR + 1), 0.0
    for path in product(product(range(states), (True, False)), repeat=rows):
        p, moves = 1.0, []
        for row, (place, stands) in enumerate(path):
            if row == 0:
                p *= 1 / states
            elif stands:
                before = path[row - 1][0]
                reach = [jumps[np.clip(to - before, -FAR, FAR) + FAR] for to in range(states)]
                p *= reach[place] / sum(reach)
                moves.append(int(np.clip(place - before, -FAR, FAR)) + FAR)
            elif place != path[row - 1][0]:
                p = 0.0
            p *= (1 - NOWHERE) * odds[row, place] if stands else NOWHERE
        total += p
        for row, (place, stands) in enumerate(path):
            found[row, place] += p * stands
        for move in moves:
            made[move] += p
    return found / total, made / total


@pytest.mark.parametrize(("rows", "states"), [(1, 1), (1, 3), (4, 1), (3, 4), (4, 3)])
def test_posteriors_are_the_sums_over_every_path(rows: int, states: int) -> None:
    rng = np.random.default_rng(rows)
    odds, jumps = rng.gamma(0.5, size=(2, rows, states)), rng.random(2 * FAR + 1)
    found, made = smoothed(odds, jumps)
    right = [paths(one, jumps) for one in odds]
    assert np.allclose(found, [one for one, _ in right], atol=1e-12)
    assert np.allclose(made, sum(counts for _, counts in right), atol=1e-12)


def test_a_jump_farther_than_far_is_one() -> None:
    odds = np.full((1, 2, FAR + 4), 1e-9)
    odds[0, 0, 0] = odds[0, 1, FAR + 3] = 1e9
    _, made = smoothed(odds, np.ones(2 * FAR + 1))
    assert made[2 * FAR] > 0.99 and made.sum() < 1.01


IN_PIECES = {"gehen": ["gehe"], "gehend": ["gehe"], "我们": ["我", "们"]}


def in_pieces(word: str) -> list[str]:
    return IN_PIECES.get(word, [word])


def by_counts(turned: int, counts: Counter, pairs: list, cut: Callable[[str], list[str]]) -> dict:
    """How much likelier than by chance each pair of words is, by what they are cut into: the mean over its pairs of pieces."""
    common = Counter(piece for pair in pairs for word in pair[1 - turned] for piece in cut(word))
    shares, total = Counter(), Counter()
    for (s, t), count in counts.items():
        for pair in product(cut(s), cut(t)):
            shares[pair] += count / (len(cut(s)) * len(cut(t)))
    for pair, share in shares.items():
        total[pair[turned]] += share + RARE
    odds = {pair: np.exp(digamma(share + RARE) - digamma(total[pair[turned]])) * common.total() / common[pair[1 - turned]]
            for pair, share in shares.items()}
    return {(s, t): np.mean([odds[pair] for pair in product(cut(s), cut(t))]) for s, t in counts}


def by_the_book(weights: list, sources: list, targets: list, rounds: int) -> list:
    """posteriors() word by word: over every path, with counts and lexicon in dictionaries."""
    pairs = [(s.split(), t.split()) for s, t in zip(sources, targets, strict=True)]
    lexicon = [defaultdict(lambda: 1.0), defaultdict(lambda: 1.0)]
    jumps = [np.array([np.exp(-abs(d - 1) / 2) for d in JUMPS])] * 2
    for _ in range(rounds + 1):
        found, counts, moved = [], Counter(), [np.full(len(JUMPS), 0.1), np.full(len(JUMPS), 0.1)]
        for w, (s, t) in zip(weights, pairs, strict=True):
            both = []
            for turned in (0, 1):
                looks = w.T if turned else w
                odds = np.array([[looks[i, j] / looks[i].mean() + MISSED for j in range(looks.shape[1])]
                                 for i in range(looks.shape[0])])
                for i, j in np.ndindex(odds.shape):
                    odds[i, j] *= lexicon[turned][(s[i], t[j]) if turned else (s[j], t[i])]
                posterior, made = paths(odds, jumps[turned])
                both.append(posterior)
                moved[turned] += made
            for i, j in np.ndindex(w.shape):
                counts[s[j], t[i]] += both[0][i, j] * both[1][j, i]
            found.append(tuple(both))
        jumps = moved
        for turned in (0, 1):
            fine, coarse = (by_counts(turned, counts, pairs, cut) for cut in (lambda word: [word], in_pieces))
            for pair in counts:
                lexicon[turned][pair] = (fine[pair] + coarse[pair]) / 2
    return found


def test_rounds_are_those_of_the_book() -> None:
    rng = np.random.default_rng(3)
    sources, targets = ["gehen b c", "b gehend", "c", "b c"], ["我们 y", "y 我 z", "z z", "我们 y"]
    weights = [rng.random((len(t.split()), len(s.split()))) + 0.05 for s, t in zip(sources, targets, strict=True)]
    for rounds in (0, 1, 2):
        for one, right in zip(posteriors(weights, sources, targets, rounds), by_the_book(weights, sources, targets, rounds),
                              strict=True):
            assert all(np.allclose(a, b, atol=1e-4) for a, b in zip(one, right, strict=True))


SOURCES = ["red fish", "red bird", "old bird", "old fish", "big fish"]
TARGETS = ["rouge poisson", "rouge oiseau", "vieil oiseau", "vieil poisson", "poisson gros"]


def test_what_attention_tells_of_one_sentence_is_learned_for_the_others() -> None:
    """Attention knows `red`, and looks elsewhere at chance; the text says the rest, in the sentence that is turned too."""
    flat, knows = np.full((2, 2), 0.5), np.array([[0.9, 0.1], [0.5, 0.5]])
    found = posteriors([knows, knows, flat, flat, flat], SOURCES, TARGETS, rounds=8)
    right = [{(0, 0), (1, 1)}] * 4 + [{(0, 1), (1, 0)}]
    assert [links(f, b, "intersection") for f, b in found] == right
    alone = [posteriors([w], [s], [t], rounds=8)[0] for w, s, t in zip([flat] * 5, SOURCES, TARGETS, strict=True)]
    assert [links(f, b, "intersection") for f, b in alone][4] != right[4], "one sentence by itself cannot know"


def test_capitals_make_no_other_word() -> None:
    flat, knows = np.full((2, 2), 0.5), np.array([[0.9, 0.1], [0.1, 0.9]])

    def second(source: str, target: str) -> np.ndarray:
        return posteriors([knows, flat], ["red fish", source], ["rouge poisson", target], 3)[1][0]

    small = second("bird red", "rouge oiseau")
    assert np.array_equal(small, second("bird RED", "rouge oiseau"))
    assert np.array_equal(small, second("bird red", "Rouge oiseau"))
    assert small[0, 1] > max(second("bird old", "rouge oiseau")[0, 1], second("bird red", "vieil oiseau")[0, 1]) + 0.1


def test_the_order_and_the_size_of_groups_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    shapes = [(3, 2), (2, 3), (3, 2), (1, 1), (3, 2)]
    sources = [" ".join(rng.choice(list("abcdef"), s)) for _, s in shapes]
    targets = [" ".join(rng.choice(list("uvwxyz"), t)) for t, _ in shapes]
    weights = [rng.random(shape) for shape in shapes]
    told: list[int] = []
    whole = posteriors(weights, sources, targets, 3, told.append)
    assert told == [1, 2, 3]
    monkeypatch.setattr(chains, "TOGETHER", 1)
    order = [4, 2, 0, 3, 1]
    other = posteriors(*([each[n] for n in order] for each in (weights, sources, targets)), 3)
    for place, n in enumerate(order):
        assert all(np.allclose(a, b, atol=1e-10) for a, b in zip(whole[n], other[place], strict=True))
        assert whole[n][0].shape == shapes[n] and whole[n][1].shape == shapes[n][::-1]
        assert (whole[n][0].sum(1) < 1 + 1e-9).all() and (whole[n][0] >= 0).all()


def test_sentences_without_words_are_left_as_they_are() -> None:
    found = posteriors([np.zeros((0, 2)), np.ones((1, 1)), np.zeros((2, 0))], ["a b", "a", ""], ["", "x", "x y"])
    assert [f.shape for f, _ in found] == [(0, 2), (1, 1), (2, 0)] and [b.shape for _, b in found] == [(2, 0), (1, 1), (0, 2)]
    assert posteriors([], [], []) == []
