"""Rows packed from documents: complete, in a known order, and blind to their neighbours."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from klieg.data import CORPORA, Corpus, Source, data_folder, encode, is_validation
from klieg.errors import KliegError
from klieg.tokenizers import train

BOS, EOS = 0, 1


def corpus(lengths: list[int], repeats: list[float], context: int, seed: int = 0) -> Corpus:
    documents, next_id = [], 10
    for length in lengths:
        documents.append(np.array([BOS, *range(next_id, next_id + length), EOS], dtype=np.uint32))
        next_id += length
    return Corpus(documents, np.array(repeats), BOS, context, seed)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 20), min_size=8, max_size=20), st.integers(2, 12), st.integers(0, 5))
def test_an_epoch_holds_every_document_once_and_in_order(lengths: list[int], context: int, seed: int) -> None:
    made = corpus(lengths, [1.0] * len(lengths), context, seed)
    total = sum(lengths) + 2 * len(lengths)
    rows = (total - 1) // context
    batch = made.rows(0, rows)
    seen = batch.ids.flatten()
    text = sorted(i for i in seen.tolist() if i >= 10)
    assert len(text) == len(set(text))
    assert total - rows * context <= context
    follows = batch.targets.flatten()
    inside = (seen >= 10) & (follows >= 10)
    assert (follows[inside] == seen[inside] + 1).all()


def test_targets_positions_and_document_numbers_of_a_row() -> None:
    batch = corpus([3, 4, 5, 2], [1.0] * 4, 18).rows(0, 1)
    ids, targets, documents, positions = (x[0].tolist() for x in (batch.ids, batch.targets, batch.documents, batch.positions))
    starts = [n for n, i in enumerate(ids) if i == BOS]
    assert starts[0] == 0 and len(starts) >= 3
    for n in range(len(ids)):
        start = max(s for s in starts if s <= n)
        assert positions[n] == n - start
        assert documents[n] == sum(s <= n for s in starts)
        assert targets[n] == (-100 if n + 1 in starts else ids[n + 1] if n + 1 < len(ids) else targets[n])


def test_rows_depend_on_seed_and_number_only() -> None:
    first, again = corpus([5] * 30, [1.5] * 30, 7, seed=3), corpus([5] * 30, [1.5] * 30, 7, seed=3)
    ahead = first.rows(40, 6)
    for start in (41, 0, 40):
        again.rows(start, 2)
    assert torch.equal(again.rows(40, 6).ids, ahead.ids)
    one_by_one = torch.cat([again.rows(40 + n, 1).ids for n in range(6)])
    assert torch.equal(one_by_one, ahead.ids)
    assert not torch.equal(corpus([5] * 30, [1.5] * 30, 7, seed=4).rows(40, 6).ids, ahead.ids)


def test_a_fraction_of_a_repeat_is_kept_on_average() -> None:
    made = corpus([8] * 400, [2.25] * 400, 8)
    assert abs(len(made._stream(0)) / (400 * 10) - 2.25) < 0.1


def test_validation_documents_never_train(tmp_path: Path) -> None:
    texts = [f"story number {n} about the moon" for n in range(600)]
    held = [text for text in texts if is_validation(text)]
    assert 0 < len(held) < 30
    (tmp_path / "stories.txt").write_text("\n\n".join(texts), "utf-8")
    tokenizer = train(iter(texts), 300)
    made, validation = encode([Source(str(tmp_path / "stories.txt"), 3.0)], tokenizer, 16, seed=0)
    assert validation.tokens == sum(len(tokenizer.encode(text)) + 1 for text in held)
    assert made.tokens + validation.tokens == sum(len(tokenizer.encode(text)) + 1 for text in texts)


def test_line_ends_and_a_byte_order_mark_of_another_system_change_nothing(tmp_path: Path) -> None:
    text = "one line\nand another\n\na second document"
    for name, body in {"unix": text.encode(), "windows": b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(),
                       "old": text.replace("\n", "\r").encode()}.items():
        (tmp_path / name).write_bytes(body)
        assert list(Source(str(tmp_path / name)).documents(None)) == ["one line\nand another", "a second document"]


def test_missing_and_damaged_texts_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KLIEG_DATA", raising=False)
    with pytest.raises(KliegError, match="KLIEG_DATA"):
        data_folder()
    with pytest.raises(KliegError, match="nowhere"):
        data_folder(str(tmp_path / "nowhere"))
    with pytest.raises(KliegError, match="'stories'"):
        list(Source("storys").documents(str(tmp_path)))
    with pytest.raises(KliegError, match="tinystories"):
        list(Source("stories").documents(str(tmp_path)))
    (tmp_path / "text").mkdir()
    (tmp_path / "text/tinystories_sample.txt.gz").write_bytes(b"\x1f\x8b broken")
    with pytest.raises(KliegError, match="cannot be read"):
        list(Source("stories").documents(str(tmp_path)))
    with pytest.raises(KliegError, match="less than one row"):
        corpus([3], [1.0], 100)


@pytest.mark.parametrize("name", CORPORA)
@pytest.mark.skipif(not os.environ.get("KLIEG_DATA"), reason="KLIEG_DATA names no folder of texts")
def test_every_corpus_gives_clean_documents(name: str) -> None:
    documents = []
    for document in Source(name).documents(None):
        documents.append(document)
        if len(documents) == 300:
            break
    assert len(documents) == 300 and all(d == d.strip() and d for d in documents)
    assert not any("<|endoftext|>" in d or "Attribution" in d for d in documents)
