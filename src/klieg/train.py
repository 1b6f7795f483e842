"""Training: one loop for every model, that can be killed at any moment.

A step is a function of the recipe and its number alone: the rows come from the seed and the
step, the learning rate from the step. So a run that was interrupted and taken up again from
its last checkpoint gives, on one kind of machine, the very bits of a run that was not.
"""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from klieg import checkpoint, models
from klieg.attention import Mask
from klieg.data import Batch, encode
from klieg.errors import KliegError
from klieg.loss import token_loss
from klieg.recipe import Recipe, Training
from klieg.tokenizers import Tokenizer
from klieg.tokenizers import train as train_tokenizer


@dataclass(frozen=True)
class Progress:
    """What a step tells: loss in nats a token, speed in tokens a second."""

    step: int
    steps: int
    loss: float
    validation_loss: float | None
    learning_rate: float
    gradient_norm: float
    tokens_per_second: float


def learning_rate(step: int, train: Training) -> float:
    """Linear warm-up from zero, then half a cosine down to the final rate."""
    if step < train.warmup:
        return train.learning_rate * (step + 1) / train.warmup
    share = (step - train.warmup) / max(1, train.steps - train.warmup)
    return train.final_learning_rate + (train.learning_rate - train.final_learning_rate) * (1 + math.cos(math.pi * share)) / 2


def batch_loss(model: models.Decoder, batch: Batch, precision: str,
               compiled: Callable[..., Tensor] | None = None) -> Tensor:
    """Mean loss of a batch of packed rows, nats a token; `compiled` stands in for model.hidden."""
    half, run = precision == "bf16", compiled or model.hidden
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        hidden = run(batch.ids, mask=Mask.documents(batch.documents), positions=batch.positions)
    kind = torch.bfloat16 if half else torch.float32
    return token_loss(hidden.flatten(0, 1).to(kind), model.vocabulary.to(kind), batch.targets.flatten())


def optimizer_for(model: models.Decoder, train: Training) -> torch.optim.AdamW:
    """AdamW that decays matrices and leaves norms and biases alone."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": train.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=train.learning_rate, betas=(train.beta1, train.beta2), fused=True)


class Stepper:
    """One optimizer step: forward, backward, clip, AdamW. Holds nothing that depends on the step."""

    def __init__(self, model: models.Decoder, train: Training) -> None:
        self.model, self.train = model, train
        self.optimizer = optimizer_for(model, train)
        self._compiled = torch.compile(model.hidden) if train.compile else None

    def __call__(self, step: int, batches: list[Batch]) -> tuple[float, float]:
        """Loss and gradient norm; the weights stay as they are if either is not finite."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, self.train)
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for batch in batches:
            loss = batch_loss(self.model, batch, self.train.precision, self._compiled) / len(batches)
            loss.backward()
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.train.clip).item()
        if math.isfinite(total) and math.isfinite(norm):
            self.optimizer.step()
        return total, norm


class Trainer:
    """A run in a folder: tokenizer, checkpoints, loss.csv, and the model in Hugging Face's format."""

    def __init__(self, recipe: Recipe, folder: Path, data: str | None = None,
                 say: Callable[[str], None] = lambda line: None) -> None:
        self.recipe, self.folder = recipe, folder
        self.tokenizer = self._tokenizer(data, say)
        say("encoding the texts")
        self.corpus, self.validation = encode(list(recipe.sources), self.tokenizer, recipe.train.context,
                                              recipe.train.seed, data)
        torch.manual_seed(recipe.train.seed)
        self.model = models.build(recipe.model)
        self.stepper = Stepper(self.model, recipe.train)
        self.step = 0
        self.curve: list[Progress] = []
        self._resume(say)

    def _tokenizer(self, data: str | None, say: Callable[[str], None]) -> Tokenizer:
        if (self.folder / "tokenizer.json").exists():
            return Tokenizer.load(self.folder)
        documents = [source.documents(data) for source in self.recipe.sources]  # refuses a text that is not there
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise KliegError(f"the folder {self.folder} cannot be made ({(e.strerror or str(e)).lower()}); "
                             "choose another one with --out.") from None
        say("training the tokenizer")
        tokenizer = train_tokenizer(chain.from_iterable(documents), self.recipe.pieces)
        tokenizer.save(self.folder)
        return tokenizer

    def run(self) -> Iterator[Progress]:
        """Train to the last step, a Progress each; checkpoints, curve and model are written on the way."""
        train = self.recipe.train
        while self.step < train.steps:
            progress = self._one_step()
            self.curve.append(progress)
            if not math.isfinite(progress.loss) or not math.isfinite(progress.gradient_norm):
                what, value = ("gradient", progress.gradient_norm) if math.isfinite(progress.loss) else ("loss", progress.loss)
                raise KliegError(f"the {what} became {value} at step {progress.step}; {self._last_good()} "
                                 "Lower learning_rate or clip.")
            if self.step % train.checkpoint_every == 0 or self.step == train.steps:
                self._checkpoint()
            yield progress
        models.save(self.folder / "model", self.model, self.tokenizer)

    def _one_step(self) -> Progress:
        train, started = self.recipe.train, time.perf_counter()
        first = self.step * train.accumulate
        batches = [self.corpus.rows((first + part) * train.batch, train.batch) for part in range(train.accumulate)]
        total, norm = self.stepper(self.step, batches)
        self.step += 1
        speed = self.recipe.tokens_per_step / (time.perf_counter() - started)
        due = self.step % train.validate_every == 0 or self.step == train.steps
        return Progress(self.step, train.steps, total, self.validate() if due else None,
                        learning_rate(self.step - 1, train), norm, speed)

    @torch.no_grad()
    def validate(self) -> float:
        """Mean loss of the first held-out rows, nats a token, the same rows every time."""
        train = self.recipe.train
        parts = max(1, train.validation_rows // train.batch)
        losses = [batch_loss(self.model, self.validation.rows(part * train.batch, train.batch), train.precision).item()
                  for part in range(parts)]
        return sum(losses) / parts

    def _last_good(self) -> str:
        kept = self.step - 1 - (self.step - 1) % self.recipe.train.checkpoint_every
        return f"the last good checkpoint is step {kept} in {self.folder}." if kept else "there is no checkpoint yet."

    def _checkpoint(self) -> None:
        tensors: dict[str, Tensor] = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        for index, state in self.stepper.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{k}": v for k, v in state.items()}
        tensors["rng"] = torch.get_rng_state()
        facts = {"recipe": _facts(self.recipe), "curve": [asdict(p) for p in self.curve]}
        checkpoint.save_state(self.folder, self.step, tensors, facts)
        with checkpoint.atomic(self.folder / "loss.csv") as path:
            path.write_text(_table(self.curve), "utf-8")

    def _resume(self, say: Callable[[str], None]) -> None:
        saved = checkpoint.load_state(self.folder, say)
        if saved is None:
            return
        tensors, facts = saved
        if facts["recipe"] != _facts(self.recipe):
            raise KliegError(f"{self.folder} holds a run of another recipe; choose another folder with --out.")
        self.model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".")
                state.setdefault(int(index), {})[name] = value
        self.stepper.optimizer.load_state_dict({**self.stepper.optimizer.state_dict(), "state": state})
        torch.set_rng_state(tensors["rng"])
        self.curve = [Progress(**p) for p in facts["curve"]]
        self.step = self.curve[-1].step
        say(f"going on from step {self.step}")


def _facts(recipe: Recipe) -> dict:
    """What must not change between the parts of one run; how often it is saved may."""
    train = {k: v for k, v in asdict(recipe.train).items() if not k.endswith("_every")}
    return {"model": recipe.model.to_json(), "pieces": recipe.pieces, "train": train,
            "sources": [asdict(source) for source in recipe.sources]}


def _table(curve: list[Progress]) -> str:
    out = io.StringIO()
    rows = csv.DictWriter(out, [f for f in Progress.__dataclass_fields__ if f != "steps"], extrasaction="ignore")
    rows.writeheader()
    rows.writerows(asdict(p) for p in curve)
    return out.getvalue()
