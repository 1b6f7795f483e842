"""Two processes against one: the same losses, the same checkpoints, one writer. Two are started once, which takes seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from apart import PATIENCE, free, together
from safetensors import safe_open
from safetensors.torch import load_file
from test_train import write_recipe, write_translation

from klieg import checkpoint, encoded, tokenizers
from klieg.errors import KliegError
from klieg.parallel import ALONE, Group, group
from klieg.recipe import read
from klieg.train import Progress, Trainer

STEPS = 8
KINDS = {"translator": partial(write_translation, r_drop=1.0, bpe_dropout=0.1), "decoder": write_recipe}
SETTINGS = {"steps": STEPS, "accumulate": 4, "validate_every": 4, "checkpoint_every": 2}


def told(steps: Iterator[Progress], most: int | None = None) -> list[list[float | None]]:
    """What a run tells of its steps, to its end or up to a step."""
    found: list[list[float | None]] = []
    for p in steps:
        found.append([p.loss, p.gradient_norm, p.validation_loss, p.bleu])
        if p.step == most:
            break
    return found


def refused(work: Callable[[], object]) -> str:
    with pytest.raises(KliegError) as caught:
        work()
    return str(caught.value)


def fail(rank: int) -> None:
    raise KliegError(f"process {rank} tried.")


def forbidden(path: Path, folder: bool = False) -> None:
    raise AssertionError(f"{path} is written by a process that is not the first")


def work(rank: int, root: Path, port: int) -> None:
    """What each of the two processes does; what it found goes into a file."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    if rank:
        checkpoint.atomic = encoded.atomic = tokenizers.atomic = forbidden
    found: dict[str, object] = {}
    with group() as two:
        found["merged"] = [two.merge([f"{n} 中" for n in two.share(range(count))]) for count in (5, 1, 0)]
        found["sum"] = two.sum(0.1 * (rank + 1))
        found["led"] = refused(partial(two.lead, partial(fail, rank)))
        found["divided"] = [refused(partial(two.divide, parts)) for parts in (1, 3)]
        for kind in KINDS:
            lines: list[str] = []
            recipe = read(root / kind / "tiny.toml")
            found[kind] = told(Trainer(recipe, root / kind / "two", None, lines.append, two).run(), STEPS // 2)
            found[f"{kind} said"] = len(lines)
            shards = Group(rank, 2, sharded=True)
            found[f"{kind} sharded"] = told(Trainer(recipe, root / kind / "sharded", group=shards).run())
            found[f"{kind} goes on"] = told(Trainer(recipe, root / kind / "one-then-shards", group=shards).run())
    (root / f"found-{rank}.json").write_text(json.dumps(found), "utf-8")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict], dict[str, list]]:
    """The folder, what each of two processes found, and what one process tells of the same runs."""
    root, alone = tmp_path_factory.mktemp("runs"), {}
    for kind, write in KINDS.items():
        (root / kind).mkdir()
        recipe = read(write(root / kind, **SETTINGS))
        alone[kind] = told(Trainer(recipe, root / kind / "one").run())
        told(Trainer(recipe, root / kind / "one-then-shards").run(), STEPS // 2)
    together(work, root, free())
    return root, [json.loads((root / f"found-{rank}.json").read_text("utf-8")) for rank in (0, 1)], alone


def same(found: list, expected: list) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours[0] == pytest.approx(theirs[0], rel=1e-5) and ours[1] == pytest.approx(theirs[1], rel=1e-3)
        assert [x is None for x in ours] == [x is None for x in theirs]
        assert all(a == pytest.approx(b, rel=1e-4) for a, b in zip(ours[2:], theirs[2:], strict=True) if a is not None)


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_tell_the_losses_of_one(runs: tuple, kind: str) -> None:
    _, found, alone = runs
    assert found[0][kind] == found[1][kind]
    same(found[0][kind], alone[kind][:STEPS // 2])


@pytest.mark.parametrize("kind", KINDS)
def test_one_process_goes_on_where_two_were(runs: tuple, kind: str) -> None:
    root, _, alone = runs
    trainer = Trainer(read(root / kind / "tiny.toml"), root / kind / "two")
    assert trainer.step == STEPS // 2
    same(told(trainer.run()), alone[kind][STEPS // 2:])
    a, b = (load_file(root / kind / name / "model/model.safetensors") for name in ("one", "two"))
    assert a.keys() == b.keys() and all(torch.allclose(a[name], b[name], atol=0.02) for name in a)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sharded_model_is_the_same_model_in_the_same_files(runs: tuple, kind: str) -> None:
    root, found, alone = runs
    same(found[0][f"{kind} sharded"], alone[kind])
    same(found[0][f"{kind} goes on"], alone[kind][STEPS // 2:])
    shapes = []
    for name in ("one", "sharded"):
        for file in (f"state-{STEPS:08d}.safetensors", "model/model.safetensors"):
            stored = safe_open(root / kind / name / file, framework="pt")
            shapes.append({key: stored.get_slice(key).get_shape() for key in stored.keys()})  # noqa: SIM118
    assert shapes[:2] == shapes[2:]
    assert Trainer(read(root / kind / "tiny.toml"), root / kind / "sharded").step == STEPS


def test_only_the_first_process_speaks_and_all_agree(runs: tuple) -> None:
    _, (first, second), _ = runs
    assert first["merged"] == second["merged"] == [["0 中", "1 中", "2 中", "3 中", "4 中"], ["0 中"], []]
    assert first["sum"] == second["sum"] == pytest.approx(0.3)
    assert first["led"] == "process 0 tried." and second["led"].startswith("process 1 of 2 ends because process 0 could not")
    assert "set it to 2, with parts of another size for the same step, or start 1 process." in first["divided"][0]
    assert "set it to 2 or 4, with parts" in first["divided"][1]
    for kind in KINDS:
        assert first[f"{kind} said"] >= 2 and second[f"{kind} said"] == 0


def test_a_group_of_one_does_nothing() -> None:
    assert ALONE.merge(["a"]) == ["a"] and ALONE.sum(3) == 3 and list(ALONE.share(range(3))) == [0, 1, 2]
    ALONE.divide(7)
    assert refused(partial(ALONE.lead, partial(fail, 0))) == "process 0 tried."
    with group() as one:
        assert one.size == 1 and not torch.distributed.is_initialized()
    with pytest.raises(KliegError, match="start them with torchrun"), group(sharded=True):
        pass


def test_processes_that_nobody_started_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler may leave the number of processes in the environment of one that is alone."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(KliegError, match=r"2 processes that WORLD_SIZE names do not meet \(.*RANK.*\); start them"), group():
        pass


def torchrun(*given: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m",
                           "klieg", "train", *given], capture_output=True, text=True, timeout=PATIENCE,
                          env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)


@pytest.mark.slow
def test_torchrun_trains_a_recipe_and_its_refusals_are_one_line(tmp_path: Path) -> None:
    done = torchrun(str(write_translation(tmp_path, steps=4)), "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run/model/model.safetensors").is_file() and done.stderr.count("the model is in") == 1
    for mistake, line in (({"accumulate": 3}, "cannot share it evenly"), ({"accumulated": 4}, "'accumulated' is not known")):
        done = torchrun(str(write_translation(tmp_path, **mistake)), "--out", str(tmp_path / "other"))
        told = [said for said in done.stderr.splitlines() if line in said]
        assert done.returncode != 0 and len(told) == 2 and told[0].startswith("klieg: ") and told[0] in told[1]
        # torchrun adds a traceback of its own, which ends with the cause.
        assert "errors.py" not in done.stderr and "klieg/train.py" not in done.stderr and line in done.stderr.splitlines()[-2]
