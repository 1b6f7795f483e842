"""Rows packed from documents: complete, in a known order, and blind to their neighbours."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from test_train import write_recipe, write_translation

from klieg.attention import Mask
from klieg.config import LlamaConfig
from klieg.data import Source, is_validation
from klieg.errors import KliegError
from klieg.models import build
from klieg.recipe import RowTraining, read
from klieg.rows import Corpus, encode
from klieg.tokenizers import Tokenizer, train
from klieg.train import Trainer

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


def test_each_epoch_is_laid_out_once_however_many_went_before() -> None:
    """A batch of the tenth epoch is as quick as one of the first."""
    made, laid = corpus([30] * 10, [1.0] * 10, 8), []
    for n in range(10 * 39):
        made.rows(n, 1)
        if not laid or made._epoch is not laid[-1]:
            laid.append(made._epoch)
    assert [epoch for epoch, _ in laid] == list(range(10))


def test_epochs_may_be_empty_where_documents_are_few_and_seldom() -> None:
    """Two documents, each in every other epoch on average: the rows are those of all epochs in their order."""
    made = corpus([10, 20], [0.5, 0.5], 8, seed=2)
    streams, expected = [], []
    for epoch in range(40):
        whole = np.floor(np.array([0.5, 0.5]) + np.random.default_rng((2, epoch)).random(2)).astype(int)
        streams.append(12 * whole[0] + 22 * whole[1])
        for row in range(max(0, streams[-1] - 1) // 8):
            expected.append(made._stream(epoch)[8 * row:8 * row + 8].tolist())
    assert 0 in streams and made.rows(0, len(expected)).ids.tolist() == expected
    with pytest.raises(KliegError, match="raise `repeat`"):
        corpus([10, 20], [0.1, 0.1], 8)


def test_validation_documents_never_train(tmp_path: Path) -> None:
    texts = [f"story number {n} about the moon" for n in range(600)]
    held = [text for text in texts if is_validation(text)]
    assert 0 < len(held) < 30
    (tmp_path / "stories.txt").write_text("\n\n".join(texts), "utf-8")
    tokenizer = train(iter(texts), 300)
    train_ = RowTraining(steps=1, batch=1, context=16)
    made, validation = encode((Source(str(tmp_path / "stories.txt"), 3.0),), tokenizer, train_)
    assert validation.tokens == sum(len(tokenizer.encode(text)) + 1 for text in held)
    assert made.tokens + validation.tokens == sum(len(tokenizer.encode(text)) + 1 for text in texts)


def test_where_one_mark_opens_and_ends_a_text_its_end_is_learned(tmp_path: Path) -> None:
    """As in GPT-2: the mark stands between documents once, and the last token of a document predicts it."""
    texts = [f"story {n} of the moon" for n in range(600)]
    (tmp_path / "stories.txt").write_text("\n\n".join(texts), "utf-8")
    tokenizer = Tokenizer(train(iter(texts), 300).backend, {"bos_token": "<s>", "eos_token": "<s>"})
    made, _ = encode((Source(str(tmp_path / "stories.txt")),), tokenizer, RowTraining(steps=1, batch=1, context=16))
    batch = made.rows(0, 20)
    ids, targets, documents = (side.numpy() for side in (batch.ids, batch.targets, batch.documents))
    mark = ids == tokenizer.bos
    assert mark.sum() > 20 and not (mark[:, 1:] & mark[:, :-1]).any()
    assert (targets[:, :-1] == ids[:, 1:]).all() and (targets >= 0).all()
    assert (np.diff(documents, axis=1) == mark[:, 1:]).all()


@pytest.mark.parametrize("name", ["bos", "eos"])
def test_a_tokenizer_without_the_marks_of_a_text_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / "text.txt").write_text("the moon", "utf-8")
    tokenizer = Tokenizer(train(iter(["the moon"]), 300).backend, {f"{name}_token": None})
    with pytest.raises(KliegError, match=f"names no {name}_token"):
        encode((Source(str(tmp_path / "text.txt")),), tokenizer, RowTraining(steps=1, batch=1, context=16))


def test_texts_of_less_than_one_row_are_refused() -> None:
    with pytest.raises(KliegError, match="less than one row"):
        corpus([3], [1.0], 100)


def test_a_look_is_the_mean_of_the_same_rows_every_time() -> None:
    model = build(LlamaConfig(vocab_size=200, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
                              num_key_value_heads=1, head_dim=4, max_position_embeddings=8))
    made, settings_ = corpus([7] * 20, [1.0] * 20, 8), RowTraining(steps=1, batch=2, context=8, validation_rows=6, accumulate=3)
    loss, bleu = made.look(model, settings_)
    batch = made.rows(0, 6)
    with torch.no_grad():
        logits = model(batch.ids, mask=Mask.documents(batch.documents), positions=batch.positions).double()
    expected = [F.cross_entropy(logits[rows].flatten(0, 1), batch.targets[rows].flatten()) for rows in
                (slice(0, 2), slice(2, 4), slice(4, 6))]
    assert bleu is None and loss == pytest.approx(float(sum(expected)) / 3, rel=1e-5)
    parts = made.batches(2, settings_)
    assert [part.count for part in parts] == [int((made.rows(12 + 2 * n, 2).targets >= 0).sum()) for n in range(3)]
    assert torch.equal(parts[1].ids, made.rows(14, 2).ids)


@pytest.mark.parametrize("write", [write_recipe, write_translation])
def test_a_run_does_not_go_on_with_other_texts(tmp_path: Path, write: Callable[..., Path]) -> None:
    """Its steps would be of no run that anybody could repeat; a translator's pairs are kept, and only made anew if removed."""
    recipe, folder = read(write(tmp_path)), tmp_path / "run"
    for progress in Trainer(recipe, folder).run():
        if progress.step == 4:
            break
    files = sorted(tmp_path.glob("text.*"))
    first = [file.read_bytes() for file in files]
    for file in files:
        file.write_bytes(b"moon " + file.read_bytes())
    if write is write_translation:
        assert Trainer(recipe, folder).step == 4
        for place in folder.glob("texts-*"):
            shutil.rmtree(place)
    with pytest.raises(KliegError, match="began with other texts; put those back"):
        Trainer(recipe, folder)
    for file, body in zip(files, first, strict=True):
        file.write_bytes(body)
    for place in folder.glob("texts-*"):
        shutil.rmtree(place)
    assert Trainer(recipe, folder).step == 4
