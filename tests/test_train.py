"""Training: resumed runs are the unbroken ones bit for bit, whatever killed them."""

from __future__ import annotations

import csv
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from apart import FORKED
from safetensors.torch import load_file

from klieg import models
from klieg import train as training
from klieg.errors import KliegError
from klieg.recipe import Recipe, read
from klieg.train import Trainer, learning_rate
from klieg.utilization import operations

WORDS = "the cat dog moon sees loves finds a little red house and then goes home again".split()


def write_recipe(folder: Path, **train: object) -> Path:
    """A tiny recipe whose text, a few hundred made-up lines, lies beside it."""
    lines = [" ".join(WORDS[(n * 7 + m * m) % len(WORDS)] for m in range(6 + n % 9)) for n in range(400)]
    (folder / "text.txt").write_text("\n\n".join(lines), "utf-8")
    settings = {"steps": 12, "batch": 4, "context": 32, "warmup": 3, "validate_every": 4, "checkpoint_every": 4,
                "validation_rows": 2, "accumulate": 2, **train}
    values = "\n".join(f"{k} = {str(v).lower() if isinstance(v, bool) else repr(v)}" for k, v in settings.items())
    path = folder / "tiny.toml"
    path.write_text(f"""
[model]
model_type = "llama"
hidden_size = 16
intermediate_size = 32
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 2
head_dim = 4
max_position_embeddings = 32
tie_word_embeddings = true
[tokenizer]
pieces = 280
[train]
{values}
[[data]]
name = '{folder / "text.txt"}'
""", "utf-8")
    return path


def write_translation(folder: Path, **train: object) -> Path:
    """A tiny translator's recipe; the other language is the same words, each turned around."""
    lines = [" ".join(WORDS[(n * 7 + m * m) % len(WORDS)] for m in range(2 + n % 5)) + f" {n}" for n in range(400)]
    (folder / "text.en").write_text("".join(line + "\n" for line in lines), "utf-8")
    (folder / "text.xx").write_text("".join(" ".join(word[::-1] for word in line.split()) + "\n" for line in lines), "utf-8")
    settings = {"steps": 12, "batch_tokens": 100, "longest": 20, "warmup": 3, "validate_every": 4, "checkpoint_every": 4,
                "accumulate": 2, "average": 3, **train}
    values = "\n".join(f"{k} = {str(v).lower() if isinstance(v, bool) else repr(v)}" for k, v in settings.items())
    path = folder / "tiny.toml"
    path.write_text(f"""
[model]
model_type = "marian"
d_model = 16
encoder_layers = 1
decoder_layers = 1
encoder_attention_heads = 2
decoder_attention_heads = 2
encoder_ffn_dim = 32
decoder_ffn_dim = 32
max_position_embeddings = 64
dropout = 0.2
[tokenizer]
pieces = 300
[train]
{values}
[[data]]
name = '{folder / "text"}'
source = "en"
target = "xx"
""", "utf-8")
    return path


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model/model.safetensors")


# A translator looks three times, once before the break; each look is a beam search.
KINDS = {"decoder": (write_recipe, {}), "decoder in bfloat16": (write_recipe, {"precision": "bf16"}),
         "translator": (write_translation, {}),
         "everything": (write_translation, {"precision": "bf16", "r_drop": 1.0, "bpe_dropout": 0.1,
                                           "schedule": "inverse-sqrt"})}


def started(path: Path, model: Path | str) -> Path:
    """The recipe of a run that goes on from a model; its texts and settings are those of the recipe at `path`."""
    text = path.read_text("utf-8")
    other = path.with_name("started.toml")
    other.write_text(f"[model]\nstart = '{model}'\n{text[text.index('[train]'):]}", "utf-8")
    return other


@pytest.mark.parametrize("write", [write_recipe, write_translation], ids=["decoder", "translator"])
def test_a_run_starts_from_a_model_and_is_resumed_bit_by_bit(tmp_path: Path, write: Callable[..., Path]) -> None:
    path = write(tmp_path)
    list(Trainer(read(path), tmp_path / "first").run())
    recipe = read(started(path, tmp_path / "first/model"))
    begun = Trainer(recipe, tmp_path / "whole")
    first, own = weights(tmp_path / "first"), begun.model.state_dict()
    assert all(torch.equal(first[name], own[name]) for name in first)
    assert begun.tokenizer.files() == models.load(str(tmp_path / "first/model"))[1].files()
    whole = list(begun.run())
    moved = weights(tmp_path / "whole")
    assert not all(torch.equal(first[name], moved[name]) for name in first)
    for step in Trainer(recipe, tmp_path / "broken").run():
        if step.step == 7:
            break
    said: list[str] = []
    resumed = Trainer(recipe, tmp_path / "broken", say=said.append)
    assert ("encoding the texts" in said) == (write is write_recipe)    # pairs are kept encoded
    assert [p.loss for p in resumed.run()] == [p.loss for p in whole[4:]]
    again = weights(tmp_path / "broken")
    assert all(torch.equal(moved[name], again[name]) for name in moved)


def test_a_run_goes_on_from_the_bundled_translator(tmp_path: Path) -> None:
    """Its sources are marked with their language, though the texts have one; a language that it has not is refused."""
    path = write_translation(tmp_path, precision="bf16", steps=1, average=1)
    with pytest.raises(KliegError, match="no mark for xx, and writes de, fr, zh, en"):
        Trainer(read(started(path, "translate")), tmp_path / "refused")
    (tmp_path / "text.xx").rename(tmp_path / "text.fr")
    path.write_text(path.read_text("utf-8").replace('"xx"', '"fr"'), "utf-8")
    trainer = Trainer(read(started(path, "translate")), tmp_path / "run")
    source = trainer.corpus.batches(0, trainer.recipe.train)[0].source
    assert (source[:, 0] == trainer.tokenizer.marks[">>fr<<"]).all()
    assert trainer.validation.look(trainer.model.eval(), trainer.recipe.train)[0] == pytest.approx(
        trainer.validation.look(models.load("translate")[0], trainer.recipe.train)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_is_bit_identical(tmp_path: Path, kind: str) -> None:
    write, settings = KINDS[kind]
    recipe = read(write(tmp_path, **settings))
    whole = list(Trainer(recipe, tmp_path / "whole").run())
    for step in Trainer(recipe, tmp_path / "broken").run():
        if step.step == 7:
            break
    resumed = Trainer(recipe, tmp_path / "broken")
    assert resumed.step == 4
    again = list(resumed.run())
    assert [p.loss for p in again] == [p.loss for p in whole[4:]]
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "broken")
    assert all(torch.equal(a[name], b[name]) for name in a)
    with (tmp_path / "broken/loss.csv").open() as f:
        rows = list(csv.DictReader(f))
    assert [float(row["loss"]) for row in rows] == [p.loss for p in whole]
    every = recipe.train.validate_every
    assert [n for n, row in enumerate(rows, 1) if row["validation_loss"]] == list(range(every, 13, every))


def train(recipe: Path, out: Path, steps: Connection) -> None:
    """Trains and tells of every step."""
    torch.set_num_threads(1)
    for p in Trainer(read(recipe), out).run():
        steps.send(p.step)


def test_kill_9_loses_at_most_one_interval(tmp_path: Path) -> None:
    path = write_recipe(tmp_path, steps=4000, checkpoint_every=2)
    told, steps = FORKED.Pipe(duplex=False)
    run = FORKED.Process(target=train, args=(path, tmp_path / "run", steps), daemon=True)
    run.start()
    steps.close()
    while (reached := told.recv()) < 9:
        pass
    time.sleep(0.01)
    run.kill()
    with suppress(EOFError):
        while True:
            reached = told.recv()
    resumed = Trainer(read(path), tmp_path / "run")
    assert reached - 2 <= resumed.step <= reached + 2
    assert next(resumed.run()).step == resumed.step


def test_it_learns(tmp_path: Path) -> None:
    recipe = read(write_recipe(tmp_path, steps=60, validate_every=60, checkpoint_every=60, learning_rate=1e-2))
    run = list(Trainer(recipe, tmp_path / "run").run())
    assert run[-1].loss < 0.5 * run[0].loss and run[-1].validation_loss < 0.6 * run[0].loss
    model, tokenizer = models.load(str(tmp_path / "run/model"))
    assert tokenizer.decode(tokenizer.encode("the cat")) == "the cat" and model.positions == 32


def test_a_translator_learns_to_translate(tmp_path: Path) -> None:
    recipe = read(write_translation(tmp_path, steps=150, validate_every=50, batch_tokens=400, learning_rate=1e-2))
    run = list(Trainer(recipe, tmp_path / "run").run())
    looks = [p for p in run if p.bleu is not None]
    assert looks[-1].bleu > looks[0].bleu and looks[-1].validation_loss < 0.4 * run[0].loss
    model, tokenizer = models.load(str(tmp_path / "run/model"))
    assert model.config == recipe.model and tokenizer.closing == [tokenizer.eos]


def test_pairs_that_are_left_out_are_told(tmp_path: Path) -> None:
    path, said = write_translation(tmp_path, longest=60), []
    for language, lines in (("en", ["", "word " * 10_000, "fine"]), ("xx", ["x", "y", " "])):
        with (tmp_path / f"text.{language}").open("a", encoding="utf-8") as f:
            f.write("".join(f"{line}\n" for line in lines))
    Trainer(read(path), tmp_path / "run", say=said.append)
    assert "3 pairs are left out: a side is empty, or longer than 60 tokens" in said


def test_the_model_is_the_mean_of_the_last_looks(tmp_path: Path) -> None:
    trainer, looks = Trainer(read(write_translation(tmp_path, validate_every=3)), tmp_path / "run"), []
    for progress in trainer.run():
        if progress.validation_loss is not None:
            looks.append({k: v.clone() for k, v in trainer.model.state_dict().items()})
    found = weights(tmp_path / "run")
    assert len(looks) == 4
    for name, value in found.items():
        expected = torch.stack([look[name].double() for look in looks[-3:]]).mean(0)
        assert torch.equal(value, expected.float())
    assert len(list((tmp_path / "run").glob("weights-*.safetensors"))) == 3


def test_weights_for_the_mean_may_be_kept_oftener_than_is_looked(tmp_path: Path) -> None:
    trainer, kept = Trainer(read(write_translation(tmp_path, average_every=5, validate_every=12)), tmp_path / "run"), {}
    for progress in trainer.run():
        kept[progress.step] = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    for name, value in weights(tmp_path / "run").items():
        expected = torch.stack([kept[step][name].double() for step in (5, 10, 12)]).mean(0)
        assert torch.equal(value, expected.float())


@pytest.mark.parametrize("write", [write_recipe, write_translation], ids=["decoder", "translator"])
def test_a_run_that_stops_after_a_time_goes_on_as_if_it_had_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                                write: Callable[..., Path]) -> None:
    recipe, folder = read(write(tmp_path, validate_every=2)), tmp_path / "parts"
    whole = list(Trainer(recipe, tmp_path / "whole").run())
    prepared = Trainer(recipe, folder)
    assert list(prepared.run(0)) == [] and not prepared.finished
    assert (folder / "tokenizer.json").is_file()
    assert not (folder / "model").exists() and not list(folder.glob("state-*"))
    ticks = iter(range(100))                                        # a second each time it is asked
    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: next(ticks), perf_counter=time.perf_counter))
    part = Trainer(recipe, folder)
    found = list(part.run(3.5))
    assert len(found) == part.step == 3 and not part.finished
    now = part.model.state_dict()
    mean = write is write_translation                               # of the weights at looks, here at the second step
    assert all(torch.equal(value, now[name]) for name, value in weights(folder).items()) == (not mean)
    copy = shutil.copytree(folder, tmp_path / "copy")
    for rest in (part, Trainer(recipe, copy)):
        assert rest.step == 3
        assert [p.loss for p in [*found, *rest.run()]] == [p.loss for p in whole] and rest.finished
        a, b = weights(tmp_path / "whole"), weights(rest.folder)
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_share_of_a_cards_peak_is_told_where_it_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "peak", lambda device: 1e12)
    trainer = Trainer(read(write_recipe(tmp_path, steps=2, precision="bf16")), tmp_path / "half")
    for step, progress in enumerate(trainer.run()):
        batches = trainer.corpus.batches(step, trainer.recipe.train)
        needed, tokens = (sum(f(batch) for batch in batches) for f in (
            lambda batch: operations(trainer.model, batch, trainer.recipe.train), lambda batch: batch.count))
        assert progress.utilization == pytest.approx(progress.tokens_per_second / tokens * needed / 1e12)
    with (tmp_path / "half/loss.csv").open() as f:
        assert [float(row["utilization"]) for row in csv.DictReader(f)] == [p.utilization for p in trainer.curve]
    assert all(p.utilization is None for p in Trainer(read(write_recipe(tmp_path, steps=2)), tmp_path / "whole").run())


def test_it_stops_when_patience_is_over_and_starts_again_stopped(tmp_path: Path) -> None:
    recipe = read(write_translation(tmp_path, patience=2, learning_rate=1e-9, steps=100))
    run = list(Trainer(recipe, tmp_path / "run").run())
    looks = [p.bleu for p in run if p.bleu is not None]
    assert len(looks) == looks.index(max(looks)) + 3 and run[-1].step < 100
    assert (tmp_path / "run/model/model.safetensors").is_file()
    assert list(Trainer(recipe, tmp_path / "run").run()) == []
    patient = read(write_translation(tmp_path, patience=4, learning_rate=1e-9, steps=100))
    more = list(Trainer(patient, tmp_path / "run").run())
    whole = list(Trainer(patient, tmp_path / "whole").run())
    assert more and [p.loss for p in [*run, *more]] == [p.loss for p in whole]      # as if it had been so from the start


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # torch's own
def test_compiled_training_is_the_same_training(tmp_path: Path) -> None:
    plain = list(Trainer(read(write_recipe(tmp_path, steps=3)), tmp_path / "plain").run())
    fused = list(Trainer(read(write_recipe(tmp_path, steps=3, compile=True)), tmp_path / "fused").run())
    assert [p.loss for p in fused] == pytest.approx([p.loss for p in plain], rel=1e-4)


def test_a_nan_stops_the_run_and_names_the_last_good_checkpoint(tmp_path: Path) -> None:
    trainer = Trainer(read(write_recipe(tmp_path)), tmp_path / "run")
    with pytest.raises(KliegError, match=r"step 6.*checkpoint is step 4"):
        for progress in trainer.run():
            if progress.step == 5:
                with torch.no_grad():
                    next(trainer.model.parameters()).fill_(float("nan"))
    assert Trainer(read(tmp_path / "tiny.toml"), tmp_path / "run").step == 4


def test_a_folder_of_another_recipe_is_left_alone(tmp_path: Path) -> None:
    list(Trainer(read(write_recipe(tmp_path)), tmp_path / "run").run())
    with pytest.raises(KliegError, match=r"another recipe \(seed was 0 and is 9\); choose another folder"):
        Trainer(read(write_recipe(tmp_path, seed=9)), tmp_path / "run")


def test_the_largest_seed_that_a_recipe_may_have_trains(tmp_path: Path) -> None:
    trainer = Trainer(read(write_translation(tmp_path, seed=2**63 - 1)), tmp_path / "run")
    assert 4 < next(trainer.run()).loss < 8


def test_a_run_that_saved_nothing_is_begun_by_the_recipe_as_it_is_now(tmp_path: Path) -> None:
    """What lies in its folder for another recipe is made anew, and only then."""
    def prepared(pieces: int) -> tuple[Trainer, list[str]]:
        path, said = write_translation(tmp_path), []
        path.write_text(path.read_text("utf-8").replace("pieces = 300", f"pieces = {pieces}"), "utf-8")
        return Trainer(read(path), tmp_path / "run", say=said.append), said

    assert "training the tokenizer" in prepared(300)[1] and "training the tokenizer" not in prepared(300)[1]
    stale = tmp_path / "run/weights-00000002.safetensors"
    stale.write_bytes(b"of a run that was killed")
    trainer, said = prepared(270)
    assert "training the tokenizer" in said and trainer.tokenizer.size == 270 and not stale.exists()
    assert len(list(trainer.run())) == 12


def test_held_out_texts_that_are_not_there_are_said_before_anything_is_made(tmp_path: Path) -> None:
    path = write_translation(tmp_path)
    path.write_text(path.read_text("utf-8") + 'validation = "nowhere"\n', "utf-8")
    with pytest.raises(KliegError, match=r"'nowhere' \(nowhere.en and nowhere.xx\)"):
        training.check(read(path), tmp_path / "run")


def test_a_run_without_weights_for_the_mean_yet_gives_its_last(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    list(Trainer(read(write_translation(tmp_path, validate_every=4)), folder).run())
    for name in ("state-00000012", "weights-00000004", "weights-00000008"):
        (folder / f"{name}.safetensors").unlink()
    back = Trainer(read(write_translation(tmp_path, validate_every=4)), folder)
    assert back.step == 8 and list(back.run(0)) == []
    now, found = back.model.state_dict(), weights(folder)
    assert all(torch.equal(value, now[name]) for name, value in found.items())


@pytest.mark.parametrize("schedule", ["inverse-sqrt", "cosine"])
def test_a_run_may_be_given_more_steps_where_its_schedule_has_no_end(tmp_path: Path, schedule: str) -> None:
    list(Trainer(read(write_translation(tmp_path, schedule=schedule)), tmp_path / "run").run())
    more = read(write_translation(tmp_path, schedule=schedule, steps=16))
    if schedule == "cosine":
        with pytest.raises(KliegError, match="another recipe"):
            Trainer(more, tmp_path / "run")
        return
    on = Trainer(more, tmp_path / "run")
    assert on.step == 12 and len(list(on.run())) == 4
    list(Trainer(more, tmp_path / "whole").run())
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "run")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_papers_schedule(tmp_path: Path) -> None:
    """Section 5.3: d^-0.5 min(step^-0.5, step warmup^-1.5), whose peak is d^-0.5 warmup^-0.5."""
    peak = 512 ** -0.5 * 40 ** -0.5
    train = read(write_recipe(tmp_path, steps=400, warmup=40, learning_rate=peak, schedule="inverse-sqrt")).train
    for step in (1, 7, 39, 40, 41, 100, 400):
        assert learning_rate(step - 1, train) == pytest.approx(512 ** -0.5 * min(step ** -0.5, step * 40 ** -1.5))


def test_the_learning_rate_rises_then_falls_to_its_end(tmp_path: Path) -> None:
    recipe: Recipe = read(write_recipe(tmp_path, steps=100, warmup=10, learning_rate=1.0, final_learning_rate=0.1))
    rates = [learning_rate(step, recipe.train) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == pytest.approx(1.0) and rates[100] == pytest.approx(0.1)
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)
