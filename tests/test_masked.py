"""Masked tokens: which are chosen, what becomes of them, what is learnt from them, and what the trained model answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from klieg import models
from klieg.config import BertConfig, GPT2Config
from klieg.encoders import Bert
from klieg.errors import KliegError
from klieg.masked import MASK, MaskedCorpus, encode, fill, read
from klieg.recipe import MaskTraining, Recipe
from klieg.recipe import read as read_recipe
from klieg.rows import Corpus
from klieg.tokenizers import Tokenizer, train
from klieg.train import Trainer

BERT = BertConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
                  max_position_embeddings=64)
TRAIN = MaskTraining(steps=4, batch=4, context=64, seed=5)
PIECES = 300


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train(iter(["the cat sat on the mat and looked at the moon", "我爱你，小猫。"]), 300, marks=[MASK], closed=True)


def corpora(tokenizer: Tokenizer, settings: MaskTraining = TRAIN, documents: int = 300) -> tuple[Corpus, MaskedCorpus]:
    """Random documents with marks of every kind in them: their rows as they are, and with hidden tokens."""
    rng = np.random.default_rng(0)
    made = [np.array([tokenizer.bos, *rng.integers(3, tokenizer.size, 40), tokenizer.eos], dtype=np.uint32)
            for _ in range(documents)]
    plain = Corpus(made, np.ones(documents), tokenizer.bos, settings.context, settings.seed)
    return plain, MaskedCorpus(made, np.ones(documents), tokenizer, settings)


def test_targets_are_the_tokens_that_stood_there(tokenizer: Tokenizer) -> None:
    plain, masked = (corpus.rows(3, 20) for corpus in corpora(tokenizer))
    chosen = masked.targets >= 0
    assert torch.equal(masked.targets[chosen], plain.ids[chosen])
    assert torch.equal(masked.ids[~chosen], plain.ids[~chosen]) and not torch.equal(masked.ids, plain.ids)
    assert torch.equal(masked.documents, plain.documents)
    marks = torch.tensor(sorted(tokenizer.marks.values()))
    assert not torch.isin(plain.ids[chosen], marks).any() and torch.isin(plain.ids, marks).any()
    assert masked.count == chosen.sum()
    for row, here in zip(plain.ids, chosen, strict=True):
        assert here.sum() == round(0.15 * int((~torch.isin(row, marks)).sum()))


def test_of_ten_eight_are_hidden_one_is_another_and_one_stays(tokenizer: Tokenizer) -> None:
    plain, masked = (corpus.rows(0, 2000) for corpus in corpora(tokenizer))
    chosen = masked.targets >= 0
    before, after = plain.ids[chosen], masked.ids[chosen]
    hidden, stayed = after == tokenizer.marks[MASK], after == before
    other = after[~hidden & ~stayed]
    count = len(before)                                     # 18,000 or so: three standard deviations are 0.9 %
    assert count > 15_000
    for share, expected in ((hidden, 0.8), (stayed, 0.1), (~hidden & ~stayed, 0.1)):
        assert abs(share.float().mean() - expected) < 3 * (expected * (1 - expected) / count) ** 0.5 + 0.001
    assert not torch.isin(other, torch.tensor(sorted(tokenizer.marks.values()))).any()
    assert len(other.unique()) > 0.9 * (tokenizer.size - 4)


def test_the_choice_depends_on_seed_and_number_of_the_row_only(tokenizer: Tokenizer) -> None:
    _, masked = corpora(tokenizer)
    whole = masked.rows(40, 6)
    _, again = corpora(tokenizer)
    one_by_one = [again.rows(40 + n, 1) for n in reversed(range(6))][::-1]
    assert torch.equal(torch.cat([batch.ids for batch in one_by_one]), whole.ids)
    assert torch.equal(torch.cat([batch.targets for batch in one_by_one]), whole.targets)
    assert not torch.equal(corpora(tokenizer, replace(TRAIN, seed=6))[1].rows(40, 6).targets >= 0, whole.targets >= 0)
    assert not torch.equal(masked.rows(41, 1).targets >= 0, masked.rows(42, 1).targets >= 0)
    parts = masked.batches(3, replace(TRAIN, batch=2, accumulate=2))
    assert torch.equal(torch.cat([part.ids for part in parts]), masked.rows(12, 4).ids)


@pytest.mark.parametrize("picked", [True, False], ids=["picked", "card"])
def test_the_loss_is_that_of_the_definition_in_float64(tokenizer: Tokenizer, picked: bool,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    """Also over all rows, as on a card; both ways have the same gradients."""
    monkeypatch.setattr("klieg.masked.picks", lambda device: picked)
    _, masked = corpora(tokenizer)
    batch = masked.rows(0, 3)
    torch.manual_seed(0)
    model = models.build(BERT).eval()
    with torch.no_grad():
        model.cls["predictions"].bias.normal_()
        model.vocabulary.normal_()
    surprise = []
    for ids, targets, documents in zip(batch.ids, batch.targets, batch.documents, strict=True):
        for number in documents.unique():                   # each document by itself
            here = documents == number
            logits = model(ids[here][None])[0].detach().double()
            surprise += [-(logits[n] - logits[n].logsumexp(0))[t] for n, t in enumerate(targets[here]) if t >= 0]
    expected = sum(surprise) / len(surprise)
    assert abs(batch.loss(model, TRAIN).item() - expected) < 1e-4 and expected > 5
    assert abs(batch.loss(model, replace(TRAIN, precision="bf16")).item() - expected) < 0.1
    assert masked.look(model, replace(TRAIN, batch=3, validation_rows=3))[0] == batch.loss(model, TRAIN).item()
    batch.loss(model, TRAIN).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())
    monkeypatch.setattr("klieg.masked.picks", lambda device: not picked)
    other = torch.cat([grad.flatten() for grad in torch.autograd.grad(batch.loss(model, TRAIN), list(model.parameters()))])
    assert (torch.cat([p.grad.flatten() for p in model.parameters()]) - other).norm() <= 1e-5 * other.norm()


def write_recipe(folder: Path, **settings: object) -> Recipe:
    """Sentences in which a word follows from its neighbours on both sides, and from neither alone."""
    people, places, things = ["Anna", "Boris", "Clara", "David"], ["red", "blue"], "stone tree house river".split()
    lines = [f"{person} saw the {places[(n + m) % 2]} {things[(n * 3 + m) % 4]} of {people[(n + m) % 4]}."
             for n, person in enumerate(people) for m in range(8)] * 20
    (folder / "text.txt").write_text("\n\n".join(f"{line} ({n})" for n, line in enumerate(lines)), "utf-8")
    values = {"steps": 6, "batch": 4, "context": 32, "warmup": 2, "validate_every": 3, "checkpoint_every": 2,
              "validation_rows": 4, "accumulate": 2, **settings}
    (folder / "tiny.toml").write_text(f"""
[model]
model_type = "bert"
hidden_size = 32
num_hidden_layers = 2
num_attention_heads = 4
intermediate_size = 64
max_position_embeddings = 32
[tokenizer]
pieces = {PIECES}
[train]
{chr(10).join(f"{key} = {value}" for key, value in values.items())}
[[data]]
name = '{folder / "text.txt"}'
""", "utf-8")
    return read_recipe(folder / "tiny.toml")


def test_a_resumed_run_is_bit_identical(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    recipe = write_recipe(tmp_path)
    whole = [p.loss for p in Trainer(recipe, tmp_path / "whole").run()]
    for progress in Trainer(recipe, tmp_path / "broken").run():
        if progress.step == 3:
            break
    resumed = Trainer(recipe, tmp_path / "broken")
    assert resumed.step == 2 and [p.loss for p in resumed.run()] == whole[2:]
    a, b = (load_file(tmp_path / name / "model/model.safetensors") for name in ("whole", "broken"))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model that has learnt the little text."""
    folder = tmp_path_factory.mktemp("masked")
    settings = {"steps": 150, "accumulate": 1, "batch": 16, "learning_rate": 1e-2, "warmup": 15, "checkpoint_every": 150,
                "validate_every": 150}
    curve = list(Trainer(write_recipe(folder, **settings), folder / "run").run())
    assert curve[-1].validation_loss < curve[0].loss / 3
    return folder / "run/model"


def test_a_trained_model_fills_what_was_hidden(trained: Path) -> None:
    model, tokenizer = models.load(str(trained))
    assert isinstance(model, Bert)
    person, thing = fill(model, tokenizer, "Anna [MASK] the red stone [MASK] Anna.", count=3)
    assert person[0].token == "saw" and person[0].p > 0.5
    assert thing[0].token == "of" and thing[0].p > 0.5
    assert [guess.rank for guess in person] == [1, 2, 3]
    assert 1 >= person[0].p >= person[1].p >= person[2].p > 0
    assert abs(sum(guess.p for guess in fill(model, tokenizer, "[MASK]", count=PIECES)[0]) - 1) < 1e-9


def test_transformers_fills_the_same(trained: Path) -> None:
    from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline

    other = AutoTokenizer.from_pretrained(trained)
    model, tokenizer = models.load(str(trained))
    filled = pipeline("fill-mask", AutoModelForMaskedLM.from_pretrained(trained), tokenizer=other)
    for text in ("Anna saw the [MASK] stone of Clara. (7)", "[MASK] saw", "Boris  saw the blue tree of[MASK]"):
        assert other(text)["input_ids"] == read(tokenizer, text, model.positions)
        theirs, ours = filled(text), fill(model, tokenizer, text, count=5)[0]
        assert [guess.id for guess in ours] == [one["token"] for one in theirs]
        assert max(abs(guess.p - one["score"]) for guess, one in zip(ours, theirs, strict=True)) < 1e-5


def test_only_the_mask_is_a_mark(tokenizer: Tokenizer) -> None:
    mask = tokenizer.marks[MASK]
    ids = read(tokenizer, "the cat [MASK] on </s>[MASK][MASK]", 64)
    assert ids[0] == tokenizer.bos and ids[-1] == tokenizer.eos
    assert ids.count(mask) == 3 and ids.count(tokenizer.eos) == 1
    assert ids == [tokenizer.bos, *tokenizer.encode("the cat", bos=False), mask,
                   *tokenizer.encode(" on </s>", bos=False), mask, mask, tokenizer.eos]


def test_a_text_is_cut_before_its_closing_marks(tokenizer: Tokenizer) -> None:
    text = "the cat sat [MASK] the mat and looked at the moon"
    whole = read(tokenizer, text, 64)
    assert read(tokenizer, text, len(whole)) == whole == read(tokenizer, text, len(whole), cut=True)
    assert read(tokenizer, text, 7, cut=True) == [*whole[:6], tokenizer.eos]
    with pytest.raises(KliegError, match=f"{len(whole)} tokens and the model has positions for {len(whole) - 1}"):
        read(tokenizer, text, len(whole) - 1)


def test_what_cannot_be_filled_is_one_line(tokenizer: Tokenizer) -> None:
    model = models.build(BERT).eval()
    decoder = models.build(GPT2Config(vocab_size=300, n_embd=8, n_layer=1, n_head=2, n_positions=16, n_inner=16))
    bare = train(iter(["the cat"]), 270)
    headless = models.build(replace(BERT, architecture="BertModel"))
    for wrong, with_, text, said in [(model, tokenizer, "the cat", r"no \[MASK\]"), (model, bare, "the [MASK]", "no mark"),
                                     (decoder, tokenizer, "the [MASK]", "GPT2 does not fill"), (model, tokenizer, " ", "white"),
                                     (headless, tokenizer, "the [MASK]", "without the head"),
                                     (model, tokenizer, "moon [MASK] " * 40, "for 64 tokens"),
                                     (model, tokenizer, "[MASK]" + "moon" * 5000, "20,006 characters")]:
        with pytest.raises(KliegError, match=said) as caught:
            fill(wrong, with_, text)
        assert "\n" not in str(caught.value)


def test_a_text_too_short_for_a_row_is_named(tokenizer: Tokenizer, tmp_path: Path) -> None:
    from klieg.data import Source

    (tmp_path / "short.txt").write_text("the cat", "utf-8")
    with pytest.raises(KliegError, match="less than one row"):
        encode((Source(str(tmp_path / "short.txt")),), tokenizer, TRAIN)
