"""BPE dropout: the text always comes back, and how often a merge is left out is what was asked for."""

from __future__ import annotations

from random import Random

import pytest

from klieg.segments import Dropout
from klieg.tokenizers import Tokenizer, train

TEXTS = ["the cat sat on the mat", "a little red house, 小猫 and the moon", "goes home again: 3 cats!"] * 20


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train(TEXTS, 330, marks=[">>de<<"], opened=False, closed=True)


def test_without_dropout_it_is_the_tokenizer(tokenizer: Tokenizer) -> None:
    for text in [*TEXTS[:3], "completely new words 你好", ">>de<< is only text"]:
        assert Dropout(tokenizer, 0.0).encode(text, Random(0)) == tokenizer.encode(text, bos=False)


def test_every_cut_is_the_same_text(tokenizer: Tokenizer) -> None:
    random, cuts = Random(1), set()
    for _ in range(50):
        ids = Dropout(tokenizer, 0.3).encode(TEXTS[1], random)
        assert tokenizer.decode(ids) == TEXTS[1]
        cuts.add(tuple(ids))
    assert len(cuts) > 25


def test_nearly_all_dropped_is_nearly_bytes_and_the_seed_decides(tokenizer: Tokenizer) -> None:
    ids = Dropout(tokenizer, 0.99).encode(TEXTS[0], Random(2))
    assert len(ids) >= 0.85 * len(TEXTS[0])
    assert ids == Dropout(tokenizer, 0.99).encode(TEXTS[0], Random(2))


def test_one_merge_is_left_out_as_often_as_asked() -> None:
    """A tokenizer with a single merge: the share of unmerged words is the share of dropout."""
    pair = train(["ab"] * 50, 260)
    assert len(pair.encode("ab", bos=False)) == 1
    random, dropped = Random(3), Dropout(pair, 0.2)
    apart = sum(len(dropped.encode("ab", random)) == 2 for _ in range(5000))
    assert apart == pytest.approx(1000, abs=5 * (5000 * 0.2 * 0.8) ** 0.5)
