"""Links out of weights, two directions made one, and the error rate: each against its definition, written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from klieg.analysis.alignment.links import WAYS, aer, agreement, links, merged
from klieg.errors import KliegError

WEIGHTS = np.array([[0.7, 0.2, 0.0], [0.3, 0.1, 0.4], [0.6, 0.1, 0.2]])     # 3 target words over 3 source words
SETS = st.sets(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=14)


def test_each_target_word_takes_the_source_word_it_looks_at_most() -> None:
    assert links(WEIGHTS) == {(0, 0), (2, 1), (0, 2)}
    assert links(np.array([[0.0, 0.0], [0.0, 0.1]])) == {(1, 1)}, "a word that looks at marks only has no link"
    assert links(np.zeros((0, 3))) == links(np.zeros((3, 0))) == links(np.zeros((3, 0)), way="union") == set()


def test_without_a_way_back_the_columns_are_the_other_direction() -> None:
    assert links(WEIGHTS, way="backward") == {(0, 0), (1, 0), (2, 1)}
    assert links(WEIGHTS, way="intersection") == {(0, 0), (2, 1)}
    assert links(WEIGHTS, np.array([[0.0, 0.0, 1.0]] * 3), way="union") == links(WEIGHTS) | {(0, 2), (1, 2), (2, 2)}


def koehn(forward: set, backward: set, way: str) -> set:
    """Koehn, Och and Marcu's pseudo-code word for word: e are target words, f source words."""
    size, found, either = range(7), forward & backward, forward | backward

    def free_e(e: int) -> bool:
        return all(t != e for _, t in found)

    def free_f(f: int) -> bool:
        return all(s != f for s, _ in found)

    added = True
    while added:
        added = False
        for e in size:
            for f in size:
                if (f, e) not in found:
                    continue
                for down, right in ((-1, 0), (0, -1), (1, 0), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1)):
                    new = f + right, e + down
                    if (free_e(new[1]) or free_f(new[0])) and new in either and new not in found:
                        found.add(new)
                        added = True
    if way != "grow-diag":
        together = all if way.endswith("and") else any
        for direction in (forward, backward):
            for e in size:
                for f in size:
                    if together((free_e(e), free_f(f))) and (f, e) in direction:
                        found.add((f, e))
    return found


@pytest.mark.parametrize("way", ["grow-diag", "grow-diag-final", "grow-diag-final-and"])
@given(forward=SETS, backward=SETS)
def test_growing_is_koehns(way: str, forward: set, backward: set) -> None:
    given = set(forward), set(backward)
    assert merged(forward, backward, way) == koehn(set(forward), set(backward), way)
    assert (forward, backward) == given, "what was given is left as it was"


def test_the_ways_lie_between_intersection_and_union() -> None:
    forward, backward = {(0, 0), (1, 1), (2, 1)}, {(0, 0), (1, 1), (3, 3)}
    assert merged(forward, backward, "intersection") == {(0, 0), (1, 1)}
    assert merged(forward, backward, "union") == {(0, 0), (1, 1), (2, 1), (3, 3)}
    assert merged(forward, backward, "grow-diag") == {(0, 0), (1, 1), (2, 1)}
    assert merged(forward, backward, "grow-diag-final") == {(0, 0), (1, 1), (2, 1), (3, 3)}
    assert merged({(0, 0), (0, 4)}, {(0, 0)}, "grow-diag-final-and") == {(0, 0)}
    assert merged({(0, 0), (0, 4)}, {(0, 0)}, "grow-diag-final") == {(0, 0), (0, 4)}
    with pytest.raises(KliegError, match="grow-diag"):
        merged(forward, backward, "grow-diagonal")
    assert all(WAYS[way](set(), set()) == set() for way in WAYS)


def test_the_error_rate_counts_as_och_and_ney() -> None:
    sure, possible, found = [{(0, 0), (1, 1)}, {(0, 1)}], [{(2, 1)}, set()], [{(0, 0), (2, 1), (2, 2)}, {(0, 1), (0, 0)}]
    counts = agreement(sure, possible, found)
    assert (counts.sure, counts.found, counts.found_sure, counts.found_possible) == (3, 5, 2, 3)
    assert counts.precision == 3 / 5 and counts.recall == 2 / 3
    assert aer(sure, possible, found) == counts.aer == 1 - (2 + 3) / (5 + 3)
    assert aer(sure, possible, sure) == 0 and aer(sure, possible, [set(), set()]) == 1
    assert aer([set()], [set()], [set()]) == 0


def test_gold_of_another_text_is_refused() -> None:
    with pytest.raises(KliegError, match="2 sentences are aligned and the gold has 1"):
        aer([set()], [set()], [set(), set()])
