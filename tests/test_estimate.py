"""The estimate: its bytes against formulas, its refusals against their own offers, and the paper's recipes."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_train import write_recipe, write_translation

from klieg import cli, estimate, models
from klieg.errors import KliegError
from klieg.estimate import Estimate, estimated
from klieg.loss import CHUNK
from klieg.parallel import Group
from klieg.recipe import Recipe, read
from klieg.train import Stepper, learning_rate

RECIPES = Path(__file__).parents[1] / "recipes"


def parameters_of(pieces: int, d: int, inner: int, layers: int) -> int:
    """Section 3 of the paper, with biases: embeddings; each encoder layer with one attention, each decoder layer with two."""
    attention, feed_forward, norm = 4 * (d * d + d), d * inner + inner + inner * d + d, 2 * d
    return pieces * d + layers * (attention + feed_forward + 2 * norm) + layers * (2 * attention + feed_forward + 3 * norm)


@pytest.mark.parametrize("name,published", [("en-de-base", 65e6), ("en-de-big", 213e6), ("en-fr-base", None),
                                            ("en-fr-big", None)])
def test_the_paper_s_models_have_its_size_and_its_schedule(name: str, published: float | None) -> None:
    recipe = read(RECIPES / f"wmt14-{name}.toml")
    with torch.device("meta"):
        model = models.outline(recipe.model)
    config, train = recipe.model, recipe.train
    print(f"{name}: {model.parameter_count:,} parameters with {recipe.pieces:,} pieces")
    assert model.parameter_count == parameters_of(recipe.pieces, config.d_model, config.encoder_ffn_dim, 6)
    if published:      # the paper's counts are of "approximately 37000 tokens"; ours are its formula's
        assert abs(model.parameter_count / published - 1) < 0.035
    for step in (1, 2, 3999, 4000, 4001, 50_000, train.steps):
        section_5_3 = config.d_model ** -0.5 * min(step ** -0.5, step * 4000 ** -1.5)
        assert learning_rate(step - 1, train) == pytest.approx(section_5_3, rel=1e-4)
    assert train.batch_tokens * train.accumulate == 25_000


@pytest.mark.parametrize(("limit", "free"), [("1000000", 800_000), ("max", None)])
def test_files_that_were_read_take_no_room_in_a_container(limit: str, free: int | None, tmp_path: Path,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr(estimate, "CONTAINER", tmp_path)
    for name, said in (("max", limit), ("current", "900000"), ("stat", "anon 150000\nfile 750000\ninactive_file 700000")):
        (tmp_path / f"memory.{name}").write_text(said + "\n", "utf-8")
    room = estimate._room(torch.device("cpu"))
    assert room == free if free else room > 1e7


def test_bytes_are_counted_and_grow_with_the_texts(tmp_path: Path) -> None:
    recipe = read(write_translation(tmp_path, batch_tokens=4000))
    found, twice = estimated(recipe), estimated(replace(recipe, train=replace(recipe.train, batch_tokens=8000)))
    fixed = 16 * found.parameters + 8 * CHUNK * recipe.pieces + estimate.LIBRARIES
    assert fixed <= found.fixed < 1.01 * fixed
    assert twice.kept == pytest.approx(2 * found.kept, rel=0.02) and found.kept > 4000 * 4 * 16 * 10
    assert found.fits and found.seconds > 0 and f"{recipe.train.steps} steps of" in found.line


def test_sentences_in_bfloat16_need_kernels_of_many_shapes(tmp_path: Path) -> None:
    recipe = read(write_translation(tmp_path))
    whole, half = (estimated(replace(recipe, train=replace(recipe.train, precision=kind))) for kind in ("fp32", "bf16"))
    assert half.fixed == pytest.approx(whole.fixed + estimate.SHAPES, rel=0.01)


def test_a_part_that_would_never_fit_is_not_tried_to_find_that_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = read(write_translation(tmp_path, batch_tokens=4000))
    vast = replace(recipe, train=replace(recipe.train, batch_tokens=2**20))
    counted, sizes = estimate._counted, []
    monkeypatch.setattr(estimate, "_counted", lambda stepper, batch: (sizes.append(batch.count), counted(stepper, batch))[1])
    monkeypatch.setattr(estimate, "_room", lambda device: 1e9)
    found = estimated(vast)
    assert sizes == [2040, 4080] and not found.fits         # sentences of 20 tokens
    assert found.kept == pytest.approx(2**20 / 4000 * estimated(recipe).kept, rel=0.02)


def test_time_is_that_of_a_part_times_the_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 0.5, 1.0, 1.375, 2.0, 3.0])                 # three parts, of which the second is the quickest
    monkeypatch.setattr(estimate.time, "perf_counter", lambda: next(ticks))
    recipe = read(write_translation(tmp_path, accumulate=6))
    assert estimated(recipe).seconds == 6 * 0.375


def test_a_step_that_is_recorded_has_memory_twice_and_is_timed_when_it_is_replayed(tmp_path: Path,
                                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = read(write_translation(tmp_path, batch_tokens=400))
    step, steps = Stepper.__call__, []
    monkeypatch.setattr(Stepper, "__call__", lambda self, n, batches: (steps.append(n), step(self, n, batches))[1])
    alone = estimated(recipe)
    assert len(steps) == 2 + estimate.TURNS
    monkeypatch.setattr(estimate, "launched", lambda train, group: True)
    assert estimated(recipe).kept == 2 * alone.kept and len(steps) == 2 + estimate.TURNS + 2 + 2 + estimate.TURNS


def test_autograd_keeps_what_is_counted(tmp_path: Path) -> None:
    """One matrix: the way back needs its input, and the loss keeps the gradients of what it is given."""
    recipe = read(write_recipe(tmp_path, batch=8))
    stepper = Stepper(models.build(recipe.model), recipe.train)
    tokens, kept = estimate._counted(stepper, estimate._texts(recipe, 1.0))
    assert tokens == 8 * 32
    least = tokens * 16 * 4 * (2 * 6 + 1)       # each layer's stream, q, k, v, output and norm; the loss's gradient
    assert least < kept < 10 * least


@pytest.mark.parametrize("write,said", [(write_translation, "batch_tokens"), (write_recipe, "batch")])
def test_a_recipe_that_does_not_fit_is_refused_with_what_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                               write: Callable[..., Path], said: str) -> None:
    size = {"batch_tokens": 16_000} if write is write_translation else {"batch": 64}
    recipe = read(write(tmp_path, **size))
    whole = estimated(recipe)
    room = whole.fixed + whole.kept / 3
    monkeypatch.setattr(estimate, "_room", lambda device: room)
    found = estimated(recipe)
    assert not found.fits and found.seconds is None and "steps of" not in found.line
    with pytest.raises(KliegError, match=rf"{said} = (\d+) with accumulate = (\d+) would fit") as caught:
        found.check()
    smaller, parts = map(int, re.search(r"= (\d+) with accumulate = (\d+)", str(caught.value)).groups())
    assert smaller * parts == next(iter(size.values())) * recipe.train.accumulate
    fitting = replace(recipe, train=replace(recipe.train, **{said: smaller}, accumulate=parts))
    assert estimated(fitting).fits
    monkeypatch.setattr(estimate, "_room", lambda device: 16.0 * whole.parameters)
    with pytest.raises(KliegError, match="for the weights and their optimizer; take a smaller model"):
        estimated(recipe).check()


def test_a_model_that_is_far_too_large_is_refused_without_being_built() -> None:
    recipe = read(RECIPES / "wmt14-en-de-big.toml")
    huge = replace(recipe, model=replace(recipe.model, d_model=2**16, encoder_ffn_dim=2**20, decoder_ffn_dim=2**20))
    with pytest.raises(KliegError, match="for the weights"):
        estimated(huge).check()


def test_shards_need_a_share(tmp_path: Path) -> None:
    recipe = read(RECIPES / "wmt14-en-de-big.toml")
    with torch.device("meta"):
        outline = models.outline(recipe.model)
    recipe = replace(recipe, train=replace(recipe.train, precision="fp32"))
    alone, four = (estimate._fixed(outline, recipe, Group(0, n, sharded=n > 1)) for n in (1, 4))
    assert 4 * outline.parameter_count < four < 0.55 * alone


def test_the_command_says_it_in_one_line_and_makes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                           capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(tmp_path)
    monkeypatch.chdir(tmp_path)
    there = sorted(tmp_path.iterdir())

    def asked(*given: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["klieg", "train", str(recipe), *given])
        with contextlib.suppress(SystemExit):
            cli.main()
            return 0, capsys.readouterr().err
        return 1, capsys.readouterr().err

    status, said = asked("--estimate")
    assert status == 0 and re.fullmatch(r"9,168 parameters; a step needs \d+ MB.*; 12 steps of .* s\n", said)
    monkeypatch.setattr(estimate, "_room", lambda device: 1e8)
    for given in (["--estimate"], []):
        status, said = asked(*given)
        assert status == 1 and re.fullmatch(r"9,168 parameters; .*\nklieg: a step needs .* are free.*\n", said)
    assert sorted(tmp_path.iterdir()) == there


def test_durations_are_read_at_a_glance() -> None:
    def line(recipe: Recipe, seconds: float) -> str:
        return Estimate(recipe, 63_082_496, 1.5e9, 1.7e9, None, seconds).line

    recipe = read(RECIPES / "wmt14-en-de-base.toml")
    assert line(recipe, 0.45) == ("63.1 M parameters; a step needs 3.2 GB; 100,000 steps of 0.45 s: about 12 h 30 min")
    assert line(recipe, 3.0).endswith("about 3 d 11 h") and line(recipe, 6e-3).endswith("about 10 min")
    assert line(recipe, 1e-4).endswith("about 10 s")


MEASURE = """
import sys
from klieg import estimate, models
from klieg.recipe import read
from klieg.train import Stepper
recipe = read(sys.argv[1])
if sys.argv[2] == "estimate":
    found = estimate.estimated(recipe)
    print(found.fixed + found.kept)
else:
    def peak():
        return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
    batch, before = estimate._texts(recipe, 1.0), peak()
    stepper = Stepper(models.build(recipe.model), recipe.train)
    for step in range(2):
        stepper(step, [batch])
    print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from Linux")
@pytest.mark.parametrize("name", ["multi30k-en-de", "own-text"])
def test_the_estimate_is_what_a_process_takes(name: str) -> None:
    def asked(what: str) -> float:
        return float(subprocess.run([sys.executable, "-c", MEASURE, str(RECIPES / f"{name}.toml"), what], check=True,
                                    capture_output=True, text=True, timeout=300).stdout)

    assert 0.75 < asked("estimate") / asked("peak") < 1.4
