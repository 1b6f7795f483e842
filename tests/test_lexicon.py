"""The lexicon of a text: pieces of words, and what they say of words that are too rare to be known."""

from __future__ import annotations

import numpy as np
import pytest

from klieg.analysis.alignment.lexicon import RARE, Lexicon, Table, pieces


@pytest.mark.parametrize(("word", "right"), [
    ("haus", ["haus"]), ("häuser", ["häus"]), ("房屋", ["房", "屋"]), ("ibm公司", ["ibm", "公", "司"]),
    ("a", ["a"]), ("...", ["..."])])
def test_pieces_are_first_letters_and_characters(word: str, right: list[str]) -> None:
    assert pieces(word) == right


def lexicon(sources: list[str], targets: list[str]) -> Lexicon:
    """Each word once, every pair met."""
    pairs = np.array(list(np.ndindex(len(sources), len(targets))), dtype=np.int64).reshape(-1, 2)
    return Lexicon.of(Table(pairs, (np.ones(len(sources), np.int64), np.ones(len(targets), np.int64))), sources, targets)


def test_a_form_that_was_never_counted_is_known_by_the_others() -> None:
    """`learned` with `lernte` is counted; the pair of two other forms is then likelier than either with a stranger."""
    known = lexicon(["learned", "learning", "cat"], ["lernte", "lernend", "katze"])
    counts = np.zeros((3, 3))
    counts[0, 0] = counts[2, 2] = 5.0
    for odds in known.odds(counts.ravel()):
        table = odds.reshape(3, 3)
        assert table[1, 1] > 10 * max(table[1, 2], table[2, 1])
        assert table[0, 0] > table[1, 1], "what was counted itself says more"


def test_characters_of_a_word_say_what_it_is() -> None:
    known = lexicon(["房屋", "房", "猫"], ["house", "cat"])
    counts = np.zeros((3, 2))
    counts[1, 0] = counts[2, 1] = 5.0
    for odds in known.odds(counts.ravel()):
        table = odds.reshape(3, 2)
        assert table[0, 0] > 10 * table[0, 1]


def test_without_counts_nothing_is_likelier_than_by_the_prior() -> None:
    known = lexicon(["aa", "bb"], ["xx", "yy"])
    for odds in known.odds(np.zeros(4)):
        assert np.allclose(odds, odds[0])


def test_counts_are_divided_among_pieces_and_none_is_lost() -> None:
    known = lexicon(["房屋", "猫"], ["house", "cat"])
    assert len(known.pieces.pairs) == 6                             # 房, 屋, 猫 with hous, cat
    assert known.pieces.common[0].tolist() == [1, 1, 1] and known.pieces.common[1].tolist() == [1, 1]
    number = np.bincount(known.owner)
    assert number.tolist() == [2, 2, 1, 1]
    assert np.isclose(np.bincount(known.cell, (np.arange(4.0) / number)[known.owner]).sum(), 6)


def test_more_counts_make_a_pair_likelier() -> None:
    table = Table(np.array([[0, 0], [0, 1]]), (np.array([2]), np.array([1, 1])))
    few, many = (table.odds(np.array([count, 1.0]))[0] for count in (1.0, 9.0))
    assert np.isclose(few[0], few[1]) and many[0] > few[0] and many[1] < few[1]
    assert RARE < 1


def test_a_text_without_words_has_an_empty_lexicon() -> None:
    nothing = Table(np.zeros((0, 2), np.int64), (np.zeros(0, np.int64), np.zeros(0, np.int64)))
    assert [len(odds) for odds in Lexicon.of(nothing, [], []).odds(np.zeros(0))] == [0, 0]
