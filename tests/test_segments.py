"""BPE dropout: the text always comes back, and every cut comes as often as the paper's rule has it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from test_train import write_translation

from klieg import segments
from klieg.errors import KliegError
from klieg.library import native
from klieg.recipe import read
from klieg.segments import Dropout, Segments
from klieg.tokenizers import Tokenizer, train
from klieg.train import Trainer

TEXTS = ["the cat sat on the mat", "a little red house, 小猫 and the moon", "goes home again: 3 cats!"] * 20
NEW = ["completely new words 你好", ">>de<< is only text", " ", "x", "the  the\n\nthe", "<s>the", "🙂🙂 the mat"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train(TEXTS, 330, marks=[">>de<<"], opened=False, closed=True)


@pytest.fixture(params=["native", "plain"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the native library, and as Klieg is without it."""
    if request.param == "plain":
        monkeypatch.setattr(segments, "_native", lambda: None)
    return request.param


def segments_of(tokenizer: Tokenizer, share: float, texts: list[str], most: int = 10**6) -> Segments:
    coded = list(tokenizer.encode_all(texts))
    ids, starts = np.array([id for ids in coded for id in ids], dtype=np.uint16), np.cumsum([0, *map(len, coded)])
    return Segments(Dropout(tokenizer, share), ids, starts, most)


def cuts(tokenizer: Tokenizer, share: float, texts: list[str], seed: int = 0, most: int = 10**6) -> list[list[int]]:
    """Each text in its pieces, by as many seeds."""
    seeds = np.random.default_rng(seed).integers(2**63, size=len(texts))
    return segments_of(tokenizer, share, texts, most).cut(np.arange(len(texts)), seeds)


def test_without_dropout_it_is_the_tokenizer(tokenizer: Tokenizer, way: str) -> None:
    texts = TEXTS[:3] + NEW
    assert cuts(tokenizer, 0.0, texts) == [tokenizer.encode(text, bos=False) for text in texts]


def test_nearly_all_dropped_is_bytes(tokenizer: Tokenizer, way: str) -> None:
    for text, ids in zip(TEXTS[:3] + NEW, cuts(tokenizer, 1 - 1e-9, TEXTS[:3] + NEW), strict=True):
        assert [tokenizer.token_bytes(id) for id in ids] == [bytes([byte]) for byte in text.encode()]


def test_every_cut_is_the_same_text_and_the_seed_decides(tokenizer: Tokenizer) -> None:
    texts = [TEXTS[1]] * 50
    found = cuts(tokenizer, 0.3, texts, seed=1)
    assert {tokenizer.decode(ids) for ids in found} == {TEXTS[1]} and len({tuple(ids) for ids in found}) > 25
    assert found == cuts(tokenizer, 0.3, texts, seed=1) and found != cuts(tokenizer, 0.3, texts, seed=2)


def test_a_text_is_cut_the_same_whatever_stands_beside_it(tokenizer: Tokenizer, way: str) -> None:
    texts = TEXTS[:3] + NEW
    found, turned = segments_of(tokenizer, 0.3, texts), np.arange(len(texts))[::-1]
    alone = [found.cut(np.array([n]), np.array([n + 5]))[0] for n in turned]
    assert found.cut(turned, turned + 5) == alone
    many = np.tile(turned, 150)                                                 # more than are held at once
    assert found.counts(many, many + 5).tolist() == [len(ids) for ids in alone] * 150


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_library_and_python_make_the_same_cuts(tokenizer: Tokenizer, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = (TEXTS[:3] + NEW) * 10
    assert native() is not None
    by_library = [cuts(tokenizer, share, texts, most=most) for most in (10**6, 12)]
    monkeypatch.setattr(segments, "_native", lambda: None)
    assert [cuts(tokenizer, share, texts, most=most) for most in (10**6, 12)] == by_library


def chances(pieces: tuple[str, ...], ranks: dict[tuple[str, str], int], share: float) -> Counter[tuple[str, ...]]:
    """Every cut of a word, and its probability: in a round the n-th best merge is made if the n - 1 before it are dropped."""
    possible = sorted((ranks[pair], at) for at, pair in enumerate(zip(pieces, pieces[1:], strict=False)) if pair in ranks)
    found, left = Counter(), 1.0
    for _, at in possible:
        merged = (*pieces[:at], pieces[at] + pieces[at + 1], *pieces[at + 2:])
        for cut, chance in chances(merged, ranks, share).items():
            found[cut] += left * (1 - share) * chance
        left *= share
    found[pieces] += left
    return found


@pytest.mark.parametrize("share", [0.1, 0.4])
def test_every_cut_of_a_word_comes_as_often_as_it_should(share: float) -> None:
    texts = ["banana"] * 9 + ["nab ban anan nan ba"] * 5 + ["an na"] * 3
    tokenizer, draws = train(texts, 267), 20_000
    merges = json.loads(tokenizer.files()["tokenizer.json"])["model"]["merges"]
    expected = chances(tuple("banana"), {tuple(pair): rank for rank, pair in enumerate(merges)}, share)
    assert sum(expected.values()) == pytest.approx(1) and len(expected) > 10
    drawn = cuts(tokenizer, share, ["banana"] * draws)
    found = Counter(tuple(tokenizer.token_bytes(id).decode() for id in ids) for ids in drawn)
    assert found.keys() <= expected.keys()
    usual = {cut: chance * draws for cut, chance in expected.items() if chance * draws >= 10}
    apart = sum((found[cut] - count) ** 2 / count for cut, count in usual.items())          # chi squared
    assert apart < len(usual) + 5 * (2 * len(usual)) ** 0.5
    assert len(usual) > 5 and sum(found[cut] for cut in usual) > 0.95 * draws


def test_words_are_those_of_the_tokenizer(tokenizer: Tokenizer) -> None:
    texts = (TEXTS[:3] + NEW) * 250                                             # more than are held at once
    coded = tokenizer.backend.encode_batch(texts, add_special_tokens=False)
    opens = [n == 0 or one.word_ids[n] != one.word_ids[n - 1] for one in coded for n in range(len(one.ids))]
    ids = np.array([id for one in coded for id in one.ids])
    starts = np.cumsum([0, *(len(one.ids) for one in coded)])
    assert Dropout(tokenizer, 0.1).opens(ids, starts).tolist() == opens


def test_a_text_of_too_many_pieces_keeps_its_own(tokenizer: Tokenizer, way: str) -> None:
    own, free = tokenizer.encode(TEXTS[0], bos=False), cuts(tokenizer, 0.3, [TEXTS[0]] * 200)
    most = sorted(map(len, free))[100]
    kept = cuts(tokenizer, 0.3, [TEXTS[0]] * 200, most=most)
    assert kept == [ids if len(ids) <= most else own for ids in free] and own in kept and kept != free


def test_another_tokenizer_is_refused() -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, pre_tokenizers

    for model in (models.WordLevel({"a": 0}, unk_token="a"), models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")])):
        backend = Backend(model)
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        with pytest.raises(KliegError, match="byte-level BPE"):
            Dropout(Tokenizer(backend), 0.1)


def test_a_run_that_goes_on_counts_no_epoch_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many batches an epoch has, where merges are left out, is known only when all its texts have been cut."""
    recipe = read(write_translation(tmp_path, bpe_dropout=0.2, batch_tokens=1500, checkpoint_every=1))
    whole = list(Trainer(recipe, tmp_path / "whole").run())
    for progress in Trainer(recipe, tmp_path / "broken").run():
        if progress.step == 9:
            break
    counted, counts = [], Segments.counts

    def spied(side: Segments, *given: np.ndarray) -> np.ndarray:
        counted.append(side)
        return counts(side, *given)

    monkeypatch.setattr(Segments, "counts", spied)
    resumed = Trainer(recipe, tmp_path / "broken")
    assert len(resumed.corpus.counts) > 3
    assert next(iter(resumed.run())).loss == whole[9].loss and len(counted) <= 4     # two sides of at most two epochs
    assert [p.loss for p in resumed.run()] == [p.loss for p in whole[10:]]
