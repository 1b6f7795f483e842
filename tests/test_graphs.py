"""Work on a card as one launch: the logic of shapes and memory, on the processor; and training by it is the same training.

A processor records nothing, so here record() is replaced: by work that is done again at every replay, or by a failure.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import test_masked
import torch
from test_train import weights, write_recipe, write_translation
from torch import Tensor

from klieg import graphs
from klieg import train as training
from klieg.graphs import Graphs, shapes
from klieg.recipe import read
from klieg.train import Progress, Trainer

CPU = torch.device("cpu")
SETTINGS = {"steps": 12, "accumulate": 1, "validate_every": 5, "checkpoint_every": 4}
KINDS = {"decoder": lambda folder: read(write_recipe(folder, **SETTINGS)),
         "encoder": lambda folder: test_masked.write_recipe(folder, **SETTINGS),
         "translator": lambda folder: read(write_translation(folder, **SETTINGS, average=3, average_every=3)),
         "twins": lambda folder: read(write_translation(folder, **SETTINGS, r_drop=1.0, precision="bf16"))}


@dataclass(frozen=True, eq=False)
class Pair:
    a: Tensor
    b: Tensor | None


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> None:
    def record(work: Callable[[], Tensor], pool: object) -> tuple[Tensor, Callable]:
        result = torch.empty(0)
        return result, lambda: result.set_(work())

    monkeypatch.setattr(graphs, "record", record)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch, recording: None) -> Callable[[bool], None]:
    """launched(True): a step is one launch, over all rows; launched(False): as ever, but on the card's grid."""
    begin = training.PairCorpus.__init__
    monkeypatch.setattr(training.PairCorpus, "__init__",
                        lambda self, coded, tokenizer, train, grid=8: begin(self, coded, tokenizer, train, 8))

    def switch(on: bool) -> None:
        monkeypatch.setattr(training, "launched", lambda train, group: on)
        for place in ("klieg.loss.picks", "klieg.masked.picks"):
            monkeypatch.setattr(place, lambda device: not on)

    return switch


def told(run: list[Progress]) -> list[tuple[float, ...]]:
    return [(p.step, p.loss, p.gradient_norm, p.validation_loss or 0.0, p.learning_rate) for p in run]


def test_each_shape_has_memory_of_its_own_that_is_used_from_the_second_time_on(recording: None) -> None:
    seen: list[tuple[tuple, int]] = []

    def work(pair: Pair) -> Tensor:
        seen.append((shapes(pair), pair.a.data_ptr()))
        return pair.a.sum() + (0 if pair.b is None else pair.b.sum())

    launches = Graphs(work, CPU)
    given = [Pair(torch.full((size,), float(n)), None if n % 2 else torch.ones(3))
             for n, size in enumerate([2, 2, 3, 2, 2, 2, 2, 3])]
    for pair in given:
        assert launches(pair) == pair.a.sum() + (0 if pair.b is None else 3)
    assert launches.recorded == 2
    places = {shape: [place for other, place in seen if other == shape] for shape, _ in seen}
    assert len(places) == 4 and len(seen) == 8
    assert all(len(set(places[shape][1:])) == 1 for shape in [((2,), (3,)), ((2,), None)])
    assert not {place for _, place in seen} & {pair.a.data_ptr() for pair in given}


@pytest.mark.parametrize("kind", KINDS)
def test_launched_training_is_the_same_training(tmp_path: Path, launched: Callable, kind: str) -> None:
    """Step by step and launched ahead: the same losses, looks, weights that are kept, and end."""
    recipe = KINDS[kind](tmp_path)
    launched(False)
    plain = list(Trainer(recipe, tmp_path / "plain").run())
    launched(True)
    fast = Trainer(recipe, tmp_path / "fast")
    found = list(fast.run())
    assert fast.stepper._graphs.recorded > 0
    near = 2e-5 if recipe.train.precision == "fp32" else 2e-2
    for a, b in zip(told(found), told(plain), strict=True):
        assert a == pytest.approx(b, rel=near * 10) and a[1] == pytest.approx(b[1], rel=near)
    names = [sorted(p.name for p in (tmp_path / run).glob("*-0*.safetensors")) for run in ("plain", "fast")]
    assert names[0] == names[1]
    for progress in Trainer(recipe, tmp_path / "broken").run():
        if progress.step == 7:
            break
    again = Trainer(recipe, tmp_path / "broken")
    assert again.step == 4 and told(list(again.run())) == told(found[4:])


def test_what_cannot_be_recorded_is_said_once_and_done_step_by_step(tmp_path: Path, launched: Callable,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    """The second recording fails half way, and leaves gradients, the mark of a bad step and dropout on: no bit differs."""
    recipe = KINDS["translator"](tmp_path)
    launched(True)
    whole = list(Trainer(recipe, tmp_path / "whole").run())
    replayed, tried = graphs.record, []
    broken = Trainer(recipe, tmp_path / "broken")

    def record(work: Callable[[], Tensor], pool: object) -> tuple[Tensor, Callable]:
        tried.append(broken.step)
        if len(tried) < 2:
            return replayed(work, pool)
        broken.model.train()
        for p in broken.model.parameters():
            p.grad = torch.full_like(p, float("nan"))
        broken.stepper.optimizer.found_inf = torch.ones(())
        try:
            raise RuntimeError("operation not permitted when stream is capturing\nand more")
        finally:
            raise RuntimeError("capture was invalidated")

    monkeypatch.setattr(graphs, "record", record)
    with pytest.warns(UserWarning, match=r"a step \(operation not permitted when stream is capturing\); ") as said:
        found = list(broken.run())
    assert len(said) == 1 and len(tried) == 2 and broken.stepper._graphs.recorded == 0
    assert told(found) == told(whole)
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "broken")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_failed_recording_leaves_the_generator_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """The calls of torch.cuda that record() makes, on a stand-in of it: what was begun is reset, the error raised."""
    done = []
    generator = SimpleNamespace(clone_state=lambda: "before", graphsafe_set_state=lambda state: done.append(state))
    graph = SimpleNamespace(reset=lambda: done.append("reset"), replay=lambda: done.append("replayed"))

    @contextmanager
    def recording(recorded: object, pool: object, stream: object, capture_error_mode: str):
        assert (recorded, pool, stream, capture_error_mode) == (graph, (0, 7), "side", "thread_local")
        yield

    monkeypatch.setattr(torch, "cuda", SimpleNamespace(
        CUDAGraph=lambda: graph, default_generators=[None, generator], current_device=lambda: 1, graph=recording,
        current_stream=lambda: "side"))
    result, replay = graphs.record(lambda: torch.ones(2), (0, 7))
    replay()
    assert done == ["replayed"] and result.tolist() == [1, 1]
    with pytest.raises(RuntimeError, match="no"):
        graphs.record(lambda: (_ for _ in ()).throw(RuntimeError("no")), (0, 7))
    assert done == ["replayed", "reset", "before"]


def test_a_step_that_is_not_finite_leaves_weights_and_moments(tmp_path: Path, launched: Callable) -> None:
    launched(True)
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
