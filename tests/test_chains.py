"""Chains over a text: posteriors against every path of a chain counted one by one, and words that only a text tells apart."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from klieg.analysis import chains
from klieg.analysis.chains import FAR, NOWHERE, posteriors, smoothed
from klieg.analysis.links import links


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
    small, capital, other = (posteriors([knows, flat], ["red fish", f"bird {word}"], ["rouge poisson", "rouge oiseau"], 3)[1][0]
                             for word in ("red", "RED", "old"))
    assert np.array_equal(small, capital) and small[0, 1] > other[0, 1] + 0.1


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
