"""Pairs as ids: what goes in comes out, from memory and from the disk, and a damaged folder is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from klieg import encoded
from klieg.encoded import Coded
from klieg.errors import KliegError
from klieg.tokenizers import Tokenizer, train

PAIRS = [(f"the {n}th cat sees the moon", f"die {n}. Katze sieht den Mond 猫") for n in range(50)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train((side for pair in PAIRS for side in pair), 300, opened=False, closed=True)


def coded(tokenizer: Tokenizer, longest: int = 100) -> Coded:
    rows = [(pair, ("de", 2.0) if n % 3 else (None, 0.5)) for n, pair in enumerate(PAIRS)]
    return Coded.of(rows, tokenizer, longest)


def same(found: Coded, expected: Coded) -> None:
    assert len(found) == len(expected) and found.entries == expected.entries and found.left_out == expected.left_out
    assert np.array_equal(found.which, expected.which)
    for side in (0, 1):
        assert np.array_equal(found.sides[side].lengths, expected.sides[side].lengths)
        assert [found.sides[side][n] for n in range(len(found))] == [expected.sides[side][n] for n in range(len(expected))]


def test_ids_are_those_of_the_tokenizer(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    found = coded(tokenizer)
    assert found.sides[0].ids.dtype == np.uint16 and len(found) == 50
    for n, pair in enumerate(PAIRS):
        assert [found.sides[side][n] for side in (0, 1)] == [tokenizer.encode(text, bos=False) for text in pair]
        assert found.entries[found.which[n]] == (("de", 2.0) if n % 3 else (None, 0.5))
    monkeypatch.setattr(encoded, "AT_ONCE", 7)
    same(coded(tokenizer), found)


def test_what_cannot_be_used_is_left_out(tokenizer: Tokenizer) -> None:
    whole = coded(tokenizer)
    widest = np.maximum(whole.sides[0].lengths + 2, whole.sides[1].lengths + 1)
    limit = int(widest.min())
    assert coded(tokenizer, limit).left_out == int((widest > limit).sum()) > 0
    rows = [((a, b), (None, 1.0)) for a, b in [("", "x"), ("y", " \t"), ("a", "b")]]
    assert Coded.of(rows, tokenizer, 100).left_out == 2


def test_it_is_mapped_from_the_disk(tokenizer: Tokenizer, tmp_path: Path) -> None:
    found = coded(tokenizer)
    found.save(tmp_path / "texts")
    opened = Coded.open(tmp_path / "texts")
    same(opened, found)
    assert isinstance(opened.sides[0].ids, np.memmap)
    found.save(tmp_path / "texts")                      # takes the place of the former
    none = Coded.of([], tokenizer, 100)
    none.save(tmp_path / "empty")
    same(Coded.open(tmp_path / "empty"), none)


@pytest.mark.parametrize("file,body", [("ids-0.npy", b"\x93NUMPY"), ("which.npy", b""), ("facts.json", b"{}"),
                                       ("facts.json", b"[")])
def test_a_damaged_folder_is_told(tokenizer: Tokenizer, tmp_path: Path, file: str, body: bytes) -> None:
    coded(tokenizer).save(tmp_path / "texts")
    (tmp_path / "texts" / file).write_bytes(body)
    with pytest.raises(KliegError, match="is damaged") as caught:
        Coded.open(tmp_path / "texts")
    assert "\n" not in str(caught.value)
