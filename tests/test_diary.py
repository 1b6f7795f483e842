"""Atlases during training: those of the model at its steps, in both trainers, which go on untouched."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from test_atlas import WORDS, tokenizer  # noqa: F401
from test_cli import refused, run
from test_models import GPT2, LLAMA, lively
from test_train import write_recipe, write_translation

from klieg.analysis.atlas import Atlas, compare
from klieg.analysis.atlas.diary import Diary, callback
from klieg.analysis.reader import Reader
from klieg.errors import KliegError
from klieg.recipe import read
from klieg.tokenizers import Tokenizer
from klieg.train import Trainer

TEXTS = [" ".join(WORDS), " ".join(WORDS[::-1]), "I"]


def test_an_atlas_is_that_of_a_reader_and_leaves_the_model_as_it_was(tokenizer: Tokenizer, tmp_path: Path) -> None:  # noqa: F811
    diary, model = Diary(tmp_path, tokenizer, TEXTS, every=10, window=32), lively(LLAMA).train()
    assert diary.step(model, 5) is None and not list(tmp_path.iterdir())
    state = torch.get_rng_state()
    place = diary.step(model, 20)
    assert model.training and torch.equal(torch.get_rng_state(), state) and place == tmp_path / "step-00000020"
    found, expected = Atlas.load(place / "atlas.safetensors"), Atlas("x", 32)
    reader = Reader(model.eval(), tokenizer, "x")
    for number, text in enumerate(TEXTS):
        for n, window in enumerate(reader.windows(text, 32)):
            if len(window) >= 8:
                expected.add(reader.scores(window, number << 20 | n))
    assert found.whole and all(torch.equal(found.sums[name], x) for name, x in expected.sums.items())
    assert diary.looks == 1 and 0 < diary.share <= 1 and "at 1 step in" in diary.cost
    diary.seconds, diary.looks = 6.0, 3     # 2 s each, beside ten steps of 0.3 s
    assert diary.forecast(0.3) == "scores of heads at every 10 steps, 2 s each: about 40 % of the time"
    assert diary.forecast(None) == "scores of heads at every 10 steps, 2 s each"


def test_klieg_trains_with_a_diary_to_the_same_bits(tmp_path: Path) -> None:
    recipe = read(write_recipe(tmp_path, steps=6, validate_every=6, checkpoint_every=6))
    alone = Trainer(recipe, tmp_path / "alone")
    losses = [progress.loss for progress in alone.run()]
    trainer = Trainer(recipe, tmp_path / "watched")
    diary, seen = Diary(tmp_path / "heads", trainer.tokenizer, TEXTS, every=3), []
    for progress in trainer.run():
        diary.step(trainer.model, progress.step)
        seen.append(progress.loss)
    assert seen == losses
    names = sorted(path.name for path in (tmp_path / "heads").iterdir())
    assert names == ["step-00000003", "step-00000006"]
    ran = run("atlas", "--compare", tmp_path / "heads" / names[0], tmp_path / "heads" / names[1], "--by", "previous")
    assert ran.status == 0, ran.err
    first, last = (Atlas.load(tmp_path / "heads" / name / "atlas.safetensors") for name in names)
    assert any(one.by for one in compare(first, last, "previous"))


def test_transformers_trains_with_a_diary_to_the_same_bits(tokenizer: Tokenizer, tmp_path: Path,  # noqa: F811
                                                           capsys: pytest.CaptureFixture) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel, TrainingArguments
    from transformers import Trainer as Theirs

    ids = tokenizer.encode(" ".join(WORDS))[:24]
    examples = [{"input_ids": ids, "labels": ids} for _ in range(8)]

    def trained(*callbacks: object) -> tuple[dict, GPT2LMHeadModel]:
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(vocab_size=tokenizer.size, n_embd=32, n_layer=2, n_head=4, n_positions=64,
                                           bos_token_id=0, eos_token_id=1))
        arguments = TrainingArguments(output_dir=str(tmp_path / "run"), max_steps=4, per_device_train_batch_size=2,
                                      use_cpu=True, report_to=[], save_strategy="no", logging_strategy="no",
                                      disable_tqdm=True, dataloader_pin_memory=False)
        Theirs(model, arguments, train_dataset=examples, callbacks=list(callbacks)).train()
        return model.state_dict(), model

    plain, _ = trained()
    diary = Diary(tmp_path / "heads", tokenizer, TEXTS, every=2)
    watched, model = trained(callback(diary))
    assert all(torch.equal(watched[name], x) for name, x in plain.items())
    assert sorted(path.name for path in (tmp_path / "heads").iterdir()) == ["step-00000002", "step-00000004"]
    assert "scores of heads at 2 steps" in capsys.readouterr().out
    last = Atlas.load(tmp_path / "heads/step-00000004/atlas.safetensors")
    model.eval()
    window = next(Reader(lively(GPT2), tokenizer, "x").windows(TEXTS[0], 64)).ids
    model.set_attn_implementation("eager")
    weights = torch.stack(model(window[None], output_attentions=True).attentions)[:, 0]      # (layers, h, n, n)
    previous = weights.diagonal(-1, 2, 3).mean(-1)
    one = Diary(tmp_path / "one", tokenizer, TEXTS[:1], every=1)
    model.set_attn_implementation("sdpa")
    alone = Atlas.load(one.look(model, 1) / "atlas.safetensors")
    assert torch.allclose(torch.tensor(alone.means("previous")), previous.detach(), atol=1e-5)
    assert last.rows == alone.rows


def test_klieg_train_scores_heads_on_a_text(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, steps=4)
    (tmp_path / "heads.txt").write_text("\n\n".join(TEXTS), "utf-8")
    ran = run("train", recipe, "--out", tmp_path / "run", "--heads", tmp_path / "heads.txt", "--heads-every", "2")
    assert ran.status == 0, ran.err
    assert "scores of heads at 3 steps" in ran.err
    told = re.search(r"scores of heads at every 2 steps, [0-9.]+ s each: about [0-9.]+ % of the time\n", ran.err)
    assert told is not None and told.start() > ran.err.index("parameters; a step needs")
    assert ran.err.index("scores of heads at 3 steps") > told.start()
    again = run("train", recipe, "--out", tmp_path / "run", "--heads", tmp_path / "heads.txt")
    assert re.search(r"scores of heads at every 100 steps, [0-9.]+ s each\n", again.err), again.err
    assert sorted(path.name for path in (tmp_path / "run/heads").iterdir()) == [f"step-0000000{n}" for n in (0, 2, 4)]
    refused(run("train", recipe, "--out", tmp_path / "new", "--heads", tmp_path / "none.txt"), "no corpus")
    (tmp_path / "pairs").mkdir()
    other = write_translation(tmp_path / "pairs")
    refused(run("train", other, "--out", tmp_path / "new", "--heads", tmp_path / "heads.txt"), "leave --heads away")


def test_mistakes_are_one_line(tokenizer: Tokenizer, tmp_path: Path) -> None:  # noqa: F811
    for texts, every in ((TEXTS, 0), ([" "], 5)):
        with pytest.raises(KliegError, match="a diary needs texts"):
            Diary(tmp_path, tokenizer, texts, every)
    with pytest.raises(KliegError, match="no text of the diary has 8 tokens"):
        Diary(tmp_path, tokenizer, ["I"]).look(lively(LLAMA), 1)
    (tmp_path / "file").write_text("")
    with pytest.raises(KliegError, match="cannot be made"):
        Diary(tmp_path / "file", tokenizer, TEXTS).look(lively(LLAMA), 1)
