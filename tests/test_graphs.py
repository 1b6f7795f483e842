"""Work on a card as one launch: the logic of shapes and memory, on the processor; and training by it is the same training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from test_train import write_recipe, write_translation
from torch import Tensor

from klieg import train as training
from klieg.graphs import Graphs, shapes
from klieg.recipe import read
from klieg.train import Trainer

CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Pair:
    a: Tensor
    b: Tensor | None


def test_each_shape_has_memory_of_its_own_that_is_used_from_the_second_time_on() -> None:
    seen: list[tuple[tuple, int]] = []

    def work(pair: Pair) -> Tensor:
        seen.append((shapes(pair), pair.a.data_ptr()))
        return pair.a.sum() + (0 if pair.b is None else pair.b.sum())

    graphs = Graphs(work, CPU)
    given = [Pair(torch.full((size,), float(n)), None if n % 2 else torch.ones(3))
             for n, size in enumerate([2, 2, 3, 2, 2, 2, 2, 3])]
    for pair in given:
        assert graphs(pair) == pair.a.sum() + (0 if pair.b is None else 3)
    assert graphs.recorded == 2
    places = {shape: [place for other, place in seen if other == shape] for shape, _ in seen}
    assert len(places) == 4 and len(seen) == 8
    assert all(len(set(places[shape][1:])) == 1 for shape in [((2,), (3,)), ((2,), None)])
    assert not {place for _, place in seen} & {pair.a.data_ptr() for pair in given}


@pytest.mark.parametrize(("write", "settings"), [
    (write_recipe, {}), (write_translation, {"average": 3, "average_every": 3}), (write_translation, {"r_drop": 1.0})],
    ids=["decoder", "translator", "twins"])
def test_launched_training_is_the_same_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write, settings) -> None:
    """On one grid, step by step and launched ahead: the same losses, looks, weights that are kept, and end."""
    settings = {"steps": 12, "accumulate": 1, "validate_every": 5, "checkpoint_every": 4, **settings}
    recipe = read(write(tmp_path, **settings))
    monkeypatch.setattr("klieg.pairs.PairCorpus.__init__", _gridded(training.PairCorpus.__init__))
    plain = list(Trainer(recipe, tmp_path / "plain").run())
    monkeypatch.setattr(training, "launched", lambda train, group: True)
    fast = Trainer(recipe, tmp_path / "fast")
    found = list(fast.run())
    assert fast.stepper._graphs.recorded > 0
    assert [p.loss for p in found] == pytest.approx([p.loss for p in plain], rel=2e-5)
    assert [p.gradient_norm for p in found] == pytest.approx([p.gradient_norm for p in plain], rel=2e-4)
    assert [(p.step, p.learning_rate, p.validation_loss is None) for p in found] == [
        (p.step, p.learning_rate, p.validation_loss is None) for p in plain]
    assert [p.validation_loss for p in found if p.validation_loss] == pytest.approx(
        [p.validation_loss for p in plain if p.validation_loss], rel=1e-4)
    names = [sorted(p.name for p in (tmp_path / run).glob("*-0*.safetensors")) for run in ("plain", "fast")]
    assert names[0] == names[1]
    again = Trainer(recipe, tmp_path / "broken")
    for progress in again.run():
        if progress.step == 7:
            break
    again = Trainer(recipe, tmp_path / "broken")
    assert again.step == 4 and [p.loss for p in again.run()] == [p.loss for p in found[4:]]


def _gridded(begin):
    def wrapped(self, coded, tokenizer, train, grid=8) -> None:
        begin(self, coded, tokenizer, train, 8)
    return wrapped


def test_a_step_that_is_not_finite_leaves_weights_and_moments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "launched", lambda train, group: True)
    trainer = Trainer(read(write_translation(tmp_path, accumulate=1)), tmp_path / "run")
    ahead, stepper = trainer._ahead, trainer.stepper
    stepper(0, ahead(0))
    poisoned = next(trainer.model.parameters())
    with torch.no_grad():
        kept = poisoned[5, 3].clone()
        poisoned[5, 3] = float("inf")
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    state = {n: {k: v.clone() for k, v in s.items()} for n, s in enumerate(stepper.optimizer.state.values())}
    loss, norm = stepper(1, ahead(1))
    assert not (torch.tensor([loss, norm]).isfinite().all())
    assert all(torch.equal(v, before[k]) for k, v in trainer.model.state_dict().items())
    for n, s in enumerate(stepper.optimizer.state.values()):
        assert all(torch.equal(v, state[n][k]) for k, v in s.items())
    with torch.no_grad():
        poisoned[5, 3] = kept
    assert torch.tensor(stepper(2, ahead(2))).isfinite().all()
