"""Mixtures of parallel texts: what the tokenizer and the model learn from, batched by length, the same on every run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from klieg import models
from klieg.bitexts import read_pairs
from klieg.config import MarianConfig
from klieg.encoded import Coded
from klieg.errors import KliegError
from klieg.evaluate import score
from klieg.pairs import PairCorpus, cut, encode, marks, texts
from klieg.recipe import PairSource, PairTraining
from klieg.tokenizers import Tokenizer, train

WORDS = "the cat dog moon sees loves finds a little red house and then goes home again".split()
TRAIN = PairTraining(steps=1, batch_tokens=60, longest=20, accumulate=2, validation_pairs=3)


def sentences(count: int) -> list[tuple[str, str]]:
    """Made-up pairs: the other language is the same words, each turned around."""
    found = []
    for n in range(count):
        words = [WORDS[(n * 7 + m * m + m) % len(WORDS)] for m in range(2 + n % 6)]
        found.append((" ".join(words) + f" {n}", " ".join(word[::-1] for word in words) + f" {n}"))
    return found


def written(folder: Path, pairs: list[tuple[str, str]], name: str = "mine") -> PairSource:
    for side, language in enumerate(("en", "xx")):
        (folder / f"{name}.{language}").write_text("".join(pair[side] + "\n" for pair in pairs), "utf-8")
    return PairSource(str(folder / name), "en", "xx")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train((side for pair in sentences(200) for side in pair), 400, marks=[">>en<<", ">>xx<<"], opened=False, closed=True)


def corpus_of(pairs: list[tuple[str, str]], tokenizer: Tokenizer, settings: PairTraining = TRAIN,
              repeats: np.ndarray | None = None) -> PairCorpus:
    entries = [(None, float(repeat)) for repeat in (np.ones(len(pairs)) if repeats is None else repeats)]
    return PairCorpus(Coded.of(zip(pairs, entries, strict=True), tokenizer, settings.longest), tokenizer, settings)


def made(tokenizer: Tokenizer, count: int = 120, **settings: object) -> PairCorpus:
    return corpus_of(sentences(count), tokenizer, replace(TRAIN, **settings))


def tiny(tokenizer: Tokenizer) -> models.Model:
    torch.manual_seed(0)
    return models.build(MarianConfig(
        vocab_size=tokenizer.size, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=64,
        pad_token_id=tokenizer.pad, eos_token_id=tokenizer.eos, decoder_start_token_id=tokenizer.pad,
        scale_embedding=True)).eval()


def test_a_batch_is_what_a_translator_is_trained_on(tokenizer: Tokenizer) -> None:
    corpus = made(tokenizer)
    seen: dict[str, str] = {}
    for index in range(len(corpus._epoch(0))):
        batch = corpus.batch(0, index)
        assert max(batch.source.numel(), batch.inputs.numel()) <= 60 or len(batch.source) == 1
        real = torch.ones_like(batch.source, dtype=torch.bool) if batch.real is None else batch.real
        assert batch.count == int((batch.targets != -100).sum())
        for row in range(len(batch.source)):
            source, target = batch.source[row][real[row]].tolist(), batch.targets[row][batch.targets[row] >= 0].tolist()
            assert source[-1] == target[-1] == tokenizer.eos and (batch.source[row][~real[row]] == tokenizer.pad).all()
            assert batch.inputs[row].tolist()[:len(target)] == [tokenizer.pad, *target[:-1]]
            seen[tokenizer.decode(source)] = tokenizer.decode(target)
    assert seen == dict(sentences(120))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_on_a_grid_there_are_few_shapes_and_the_same_pairs_loss_and_gradients(tokenizer: Tokenizer, dropout: float) -> None:
    longest = int(made(tokenizer, longest=64)._lengths.max())       # the grid ends there, as a model's positions may
    settings = replace(TRAIN, batch_tokens=100, longest=longest, bpe_dropout=dropout)
    plain = corpus_of(sentences(120), tokenizer, settings)
    gridded, model = PairCorpus(plain.coded, tokenizer, settings, 8), tiny(tokenizer)
    seen, shapes, empty = {}, set(), 0
    for index, (numbers, _) in enumerate(gridded._epoch(0)):
        batch = gridded.batch(0, index)
        rows, (wide, long) = len(batch.source), (batch.source.shape[1], batch.inputs.shape[1])
        assert all(side % 8 == 0 or side == longest for side in (wide, long))
        assert rows == len(numbers) or rows * max(wide, long) <= 100
        assert batch.real.any(1).all() and (batch.targets[len(numbers):] == -100).all()
        used = [(source[real].tolist(), target[target >= 0].tolist())
                for source, real, target in zip(batch.source, batch.real, batch.targets, strict=True)][:len(numbers)]
        seen |= {tokenizer.decode(source): tokenizer.decode(target) for source, target in used}
        shapes.add((rows, wide, long))
        empty += rows - len(numbers)
        assert model.hidden(batch.source, batch.inputs, batch.real).isfinite().all()
        same = plain._filled(numbers, [source[:-1] for source, _ in used], [target[:-1] for _, target in used])
        assert same.count == batch.count and len(same.source) == len(numbers)
        found, expected = batch.loss(model, settings), same.loss(model, settings)
        assert found.item() == pytest.approx(expected.item(), rel=1e-5)
        a, b = (torch.cat([grad.flatten() for grad in torch.autograd.grad(loss, list(model.parameters()))])
                for loss in (found, expected))
        assert (a - b).norm() <= 1e-5 * b.norm()
    assert seen == dict(sentences(120)) and empty > 0
    assert longest % 8 and max(side for _, *sides in shapes for side in sides) == longest
    assert len(shapes) < len({(*batch.source.shape, batch.inputs.shape[1])
                              for batch in (plain.batch(0, n) for n in range(len(plain._epoch(0))))})


def test_batches_follow_from_the_seed_and_the_step(tokenizer: Tokenizer) -> None:
    first, again, other = made(tokenizer), made(tokenizer), made(tokenizer, seed=1)
    steps = len(first._epoch(0)) * 3 // 2                       # well into the second epoch
    expected = [first.batches(step, TRAIN) for step in range(steps)]
    for step in (steps - 1, 0, steps // 2):
        for a, b in zip(again.batches(step, TRAIN), expected[step], strict=True):
            assert torch.equal(a.source, b.source) and torch.equal(a.targets, b.targets)
    assert any(not torch.equal(a.source, b.source) for step in range(3)
               for a, b in zip(other.batches(step, TRAIN), expected[step], strict=True))


def test_an_epoch_has_every_pair_as_often_as_asked(tokenizer: Tokenizer) -> None:
    corpus = corpus_of(sentences(60), tokenizer, repeats=np.repeat([1.0, 3.0], 30))
    counts = np.bincount(np.concatenate([numbers for numbers, _ in corpus._epoch(2)]), minlength=60)
    assert counts.tolist() == [1] * 30 + [3] * 30


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=40), st.integers(1, 200))
def test_cuts_cover_all_and_keep_the_limit(lengths: list[tuple[int, int]], most: int) -> None:
    runs = cut(np.array(lengths), most)
    assert [n for start, stop in runs for n in range(start, stop)] == list(range(len(lengths)))
    for start, stop in runs:
        part = np.array(lengths[start:stop])
        assert stop - start == 1 or part.max() * len(part) <= most


def rows(corpus: PairCorpus, epoch: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Sources and targets of an epoch, without padding."""
    pad, found = corpus.tokenizer.pad, []
    for index in range(len(corpus._epoch(epoch))):
        batch = corpus.batch(epoch, index)
        assert max(batch.source.numel(), batch.inputs.numel()) <= 60 or len(batch.source) == 1
        found += [(tuple(id for id in source if id != pad), tuple(id for id in target if id >= 0))
                  for source, target in zip(batch.source.tolist(), batch.targets.tolist(), strict=True)]
    return found


def test_dropout_of_merges_changes_the_pieces_and_not_the_text(tokenizer: Tokenizer) -> None:
    """In every epoch in other pieces, by the seed; a batch has as many tokens as it may, in these pieces."""
    corpus, again = made(tokenizer, bpe_dropout=0.3, longest=60), made(tokenizer, bpe_dropout=0.3, longest=60)
    plain, first, second = rows(made(tokenizer), 0), rows(corpus, 0), rows(corpus, 1)
    for pairs in (first, second):
        texts = [tuple(tokenizer.decode(side) for side in pair) for pair in pairs]
        assert sorted(texts) == sorted(sentences(120))
        assert sum(len(side) for pair in pairs for side in pair) > 1.2 * sum(len(side) for pair in plain for side in pair)
    assert rows(again, 1) == second and rows(again, 0) == first and len({*first} & {*second}) < 30
    assert rows(made(tokenizer, bpe_dropout=0.3, longest=60, seed=1), 0) != first


def test_a_pair_that_comes_twice_and_its_sides_are_cut_by_themselves(tokenizer: Tokenizer) -> None:
    same = [(text, text) for text, _ in sentences(40)]
    found = rows(corpus_of(same, tokenizer, replace(TRAIN, bpe_dropout=0.3, longest=60), np.full(40, 2.0)), 0)
    assert len(found) == 80 and len({*found}) > 60 and sum(source == target for source, target in found) < 20


def test_several_target_languages_are_told_by_a_mark(tmp_path: Path, tokenizer: Tokenizer) -> None:
    source = replace(written(tmp_path, sentences(300)), both=True)
    assert marks([source]) == [">>xx<<", ">>en<<"] and marks([replace(source, both=False)]) == []
    corpus, held = encode((source,), tokenizer, TRAIN)
    assert held.targets == ["xx"] * 3 + ["en"] * 3
    batch = corpus.batch(0, 0)
    for row in batch.source.tolist():
        assert row[0] in (tokenizer.marks[">>en<<"], tokenizer.marks[">>xx<<"])
        assert (row[0] == tokenizer.marks[">>en<<"]) == (tokenizer.decode(row) not in dict(sentences(300)))


def test_the_tokenizer_and_the_model_learn_from_what_is_not_held_out(tmp_path: Path, tokenizer: Tokenizer) -> None:
    source = written(tmp_path, sentences(600))
    training, held = (read_pairs(source, None, split) for split in ("train", "validation"))
    assert list(texts([source], None)) == [side for pair in training for side in pair]
    own = encode((source,), tokenizer, TRAIN)
    assert own[0].pairs == training and own[1].pairs == held[:3]
    machine = replace(source, validation="-")
    mixed = encode((machine, source), tokenizer, TRAIN)
    assert mixed[0].pairs == sentences(600) + training and mixed[1].pairs == held[:3]
    for none in (machine, written(tmp_path, sentences(1), "one")):
        with pytest.raises(KliegError, match="hold no pairs for validation"):
            encode((none,), tokenizer, TRAIN)


def test_pairs_that_cannot_be_used_are_counted(tokenizer: Tokenizer) -> None:
    pairs = [*sentences(5), ("", "x"), ("y", "  "), ("long " * 10_000, "z")]
    corpus = corpus_of(pairs, tokenizer)
    assert corpus.coded.left_out == 3 and corpus.pairs == sentences(5)


def test_a_look_is_the_loss_and_the_bleu_of_greedy_translations(tokenizer: Tokenizer) -> None:
    import sacrebleu

    model, corpus = tiny(tokenizer), made(tokenizer, 9)
    loss, bleu = corpus.look(model, TRAIN)
    total = count = 0
    found = []
    with torch.no_grad():
        for source, target in sentences(9):
            ids = torch.tensor([[*tokenizer.encode(source, bos=False), tokenizer.eos]])
            wanted = torch.tensor([*tokenizer.encode(target, bos=False), tokenizer.eos])
            logits = model(ids, torch.cat([torch.tensor([tokenizer.pad]), wanted[:-1]])[None])[0].double()
            total, count = total + float(F.cross_entropy(logits, wanted, reduction="sum")), count + len(wanted)
            written = [tokenizer.pad]
            while len(written) < 2 * ids.shape[1] + 20:
                logits = model(ids, torch.tensor([written]))[0, -1]
                logits[tokenizer.pad] = -torch.inf
                written.append(int(logits.argmax()))
                if written[-1] == tokenizer.eos:
                    break
            found.append(tokenizer.decode(written))
    assert loss == pytest.approx(total / count, rel=1e-5)
    assert bleu == pytest.approx(sacrebleu.corpus_bleu(found, [[t for _, t in sentences(9)]]).score)


def test_a_look_cuts_chinese_as_chinese_without_a_mark_too(tokenizer: Tokenizer) -> None:
    """A translator of one direction has no mark that says its language; as 13a has it, a sentence would be one word."""
    corpus = corpus_of([("a dog", "一只狗在跑。"), ("a cat", "一只猫在看月亮。")], tokenizer, replace(TRAIN, longest=40))
    almost = ["一只狗在走。", "一只猫在看太阳。"]
    found = corpus._bleu(almost, corpus.targets, None)
    assert corpus.targets == [None, None] and 30 < found < 99
    assert found == pytest.approx(score(almost, [target for _, target in corpus.pairs], "zh").bleu)
    corpus._train = replace(TRAIN, bleu="13a")
    assert corpus._bleu(almost, corpus.targets, None) == 0


def test_texts_of_which_nothing_is_left_are_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    source = written(tmp_path, sentences(300))
    with pytest.raises(KliegError, match=r"all 29\d pairs for train are left out: .* longer than 2 tokens; .* `longest`"):
        encode((source,), tokenizer, replace(TRAIN, longest=2))
    held = replace(source, validation=written(tmp_path, [("", "x"), ("y", "")], "val").name)
    with pytest.raises(KliegError, match="all 2 pairs for validation are left out: a side is empty"):
        encode((held,), tokenizer, TRAIN)


@pytest.mark.parametrize("name", ["eos", "pad"])
def test_a_tokenizer_without_the_marks_of_pairs_is_told(tmp_path: Path, tokenizer: Tokenizer, name: str) -> None:
    bare = Tokenizer(tokenizer.backend, {f"{name}_token": None})
    with pytest.raises(KliegError, match=f"names no {name}_token"):
        encode((written(tmp_path, sentences(300)),), bare, TRAIN)


def test_two_passes_must_agree(tokenizer: Tokenizer) -> None:
    """R-Drop without dropout is the plain loss, as both passes are one."""
    model, batch = tiny(tokenizer), made(tokenizer).batch(0, 0)

    def loss(r_drop: float) -> float:
        torch.manual_seed(4)
        return batch.loss(model, replace(TRAIN, r_drop=r_drop)).item()

    assert loss(5.0) == pytest.approx(loss(0.0), rel=1e-5)
    model.train()
    assert loss(5.0) > loss(1.0) > loss(1e-9)
