"""Training: one loop for every model, that can be killed at any moment.

A step is a function of the recipe and its number alone: the batches and the dropout come from
the seed and the step, the learning rate from the step. So a run that was interrupted and taken
up again from its last checkpoint gives, on one kind of machine, the very bits of a run that was not.
Several processes share the parts of a step (parallel.py); only the first writes. Alone on a card a step is one
launch (graphs.py), whose loss is read some steps later.
"""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from klieg import checkpoint, masked, models, pairs, rows
from klieg.ahead import Ahead
from klieg.bitexts import read_pairs
from klieg.encoded import Coded
from klieg.errors import KliegError
from klieg.graphs import Graphs
from klieg.pairs import PairBatch, PairCorpus
from klieg.parallel import ALONE, Group
from klieg.recipe import MaskTraining, PairSource, PairTraining, Recipe, Training, differing, endless, facts_of
from klieg.rows import Batch
from klieg.tokenizers import MASK, Tokenizer, made_of
from klieg.tokenizers import train as train_tokenizer
from klieg.utilization import operations, peak

TOGETHER = 50  # steps that a card is given before it is asked for their losses


@dataclass(frozen=True)
class Progress:
    """What a step tells: loss in nats a token, speed in predicted tokens a second."""

    step: int
    steps: int
    loss: float
    validation_loss: float | None
    bleu: float | None
    learning_rate: float
    gradient_norm: float
    tokens_per_second: float
    utilization: float | None = None
    """Share of a card's peak in bfloat16 that the model's own products take; None where that is not known."""

    @property
    def quality(self) -> float | None:
        """What a look at the held-out texts found, the larger the better; None without a look."""
        return self.bleu if self.bleu is not None else None if self.validation_loss is None else -self.validation_loss


def learning_rate(step: int, train: Training) -> float:
    """Linear warm-up from zero, then half a cosine down to the final rate, or the inverse square root of the step."""
    if step < train.warmup:
        return train.learning_rate * (step + 1) / train.warmup
    if train.schedule == "inverse-sqrt":
        return train.learning_rate * (max(1, train.warmup) / (step + 1)) ** 0.5
    share = (step - train.warmup) / max(1, train.steps - train.warmup)
    return train.final_learning_rate + (train.learning_rate - train.final_learning_rate) * (1 + math.cos(math.pi * share)) / 2


def optimizer_for(model: models.Model, train: Training, rate: Tensor | None = None) -> torch.optim.AdamW:
    """AdamW that decays matrices and leaves norms and biases alone. With a `rate`, its learning rate is read from there."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": train.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=train.learning_rate if rate is None else rate, betas=(train.beta1, train.beta2),
                             eps=train.epsilon, fused=True, capturable=rate is not None and rate.device.type == "cuda")


def launched(train: Training, group: Group) -> bool:
    """Whether a step is one launch: alone on a card, in one part, and not by torch.compile, which fuses in its own way."""
    return group.device.type == "cuda" and group.size == 1 and train.accumulate == 1 and not train.compile


class Objective(nn.Module):
    """The loss as a module: what several processes are joined by."""

    def __init__(self, model: models.Model, settings: Training) -> None:
        super().__init__()
        self.model, self.settings = model, settings
        self._compiled = torch.compile(model.hidden) if settings.compile else None

    def forward(self, batch: Batch | PairBatch) -> Tensor:
        return batch.loss(self.model, self.settings, self._compiled)


class Stepper:
    """One optimizer step: forward, backward, clip, AdamW. Holds nothing that depends on the step."""

    def __init__(self, model: models.Model, train: Training, group: Group = ALONE) -> None:
        self.model, self.train, self.group = model, train, group
        self._objective = group.joined(Objective(model, train))
        alone = launched(train, group)
        self.optimizer = optimizer_for(model, train, torch.zeros((), device=group.device) if alone else None)
        self._graphs: Graphs[Batch | PairBatch] | None = Graphs(self._whole, group.device) if alone else None

    def __call__(self, step: int, batches: list[Batch] | list[PairBatch]) -> tuple[float, float]:
        """Loss and gradient norm of the whole step, whose parts `batches` are this process's share of.

        The weights stay as they are if either is not finite.
        """
        if self._graphs is not None:
            loss, norm = self.launch(step, batches[0]).tolist()
            return loss, norm
        for matrices in self.optimizer.param_groups:
            matrices["lr"] = learning_rate(step, self.train)
        self.optimizer.zero_grad(set_to_none=True)
        self.model.train()
        group, counts, losses = self.group, [batch.count for batch in batches], []
        tokens = group.sum(sum(counts))
        for n, batch in enumerate(batches):
            part = group.rank + n * group.size
            torch.manual_seed(((self.train.seed * 1_000_003 + step) * self.train.accumulate + part) % 2**63)
            with group.part(self._objective, last=n == len(batches) - 1):
                loss = self._objective(batch.to(group.device)) * (counts[n] / tokens)
                (loss * group.size).backward()                    # processes give their mean, and the sum is wanted
            losses.append(loss.detach())
        total = group.sum(torch.stack(losses).double().sum().item())
        norm = group.norm(list(self.model.parameters()), self.train.clip)
        if math.isfinite(total) and math.isfinite(norm):
            self.optimizer.step()
        self.model.eval()
        return total, norm

    def launch(self, step: int, batch: Batch | PairBatch) -> Tensor:
        """The same step in one part, not waited for: loss and gradient norm, (2,) on the card, until the next launch."""
        for matrices in self.optimizer.param_groups:
            matrices["lr"].fill_(learning_rate(step, self.train))
        torch.manual_seed((self.train.seed * 1_000_003 + step) % 2**63)
        return self._graphs(batch)

    def _whole(self, batch: Batch | PairBatch) -> Tensor:
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._objective(batch)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.train.clip)
        told = torch.stack([loss.detach().float(), norm])
        # The optimizer itself leaves the weights as they are where this is one.
        self.optimizer.found_inf = (~told.isfinite().all()).float()
        self.optimizer.step()
        self.model.eval()
        return told


def check(recipe: Recipe, folder: Path, data: str | None = None) -> None:
    """KliegError for what is seen to be wrong before anything is made: texts that are not there, a folder that cannot be."""
    for source in recipe.sources:
        next(iter(_texts(recipe).texts((source,), data)), None)
        if isinstance(source, PairSource):
            next(iter(read_pairs(source, data, "validation")), None)
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise KliegError(_UNMADE.format(folder, f"{there} is no folder"))


_UNMADE = "the folder {} cannot be made ({}); choose another one with --out."


def _texts(recipe: Recipe) -> ModuleType:
    """The module that makes batches of a recipe's texts."""
    return {PairTraining: pairs, MaskTraining: masked}.get(type(recipe.train), rows)


class Trainer:
    """A run in a folder: tokenizer, checkpoints, loss.csv, and the model in Hugging Face's format."""

    def __init__(self, recipe: Recipe, folder: Path, data: str | None = None,
                 say: Callable[[str], None] = lambda line: None, group: Group = ALONE) -> None:
        self.recipe, self.folder, self.group = recipe, folder, group
        self.texts = _texts(recipe)
        self._say = say if group.rank == 0 else lambda line: None
        group.lead(partial(group.divide, recipe.train.accumulate))
        saved = self._saved()
        group.lead(partial(self._prepare, data, fresh=saved is None))
        if not (folder / "tokenizer.json").exists():
            raise KliegError(f"process {group.rank} does not see what process 0 wrote into {folder}; all machines need that "
                             "folder in common.")
        self.tokenizer = Tokenizer.load(folder)
        self.corpus, self.validation = self._corpora(data)
        self._digests = [self.corpus.digest, self.validation.digest]
        torch.manual_seed(recipe.train.seed)
        model = models.build(recipe.model)
        if recipe.start is not None and saved is None:
            model.load_state_dict(models.load(recipe.start)[0].state_dict())
        self.model = model if group.sharded else model.to(group.device)
        self.stepper = Stepper(self.model, recipe.train, group)
        self._peak = peak(group.device) if group.size == 1 and recipe.train.precision == "bf16" else None
        self.step = self._checkpointed = 0
        self._ahead = (Ahead(lambda step: self.corpus.batches(step, recipe.train, group))
                       if launched(recipe.train, group) else None)
        self.curve: list[Progress] = []
        if saved is not None:
            self._resume(*saved)
        if len(set(group.merge([self.step]))) > 1:
            raise KliegError(f"the processes see different runs in {folder}; all machines need that folder in common.")

    def _prepare(self, data: str | None, fresh: bool) -> None:
        """What is made once for all processes: the folder, the tokenizer, the encoded pairs of a translator."""
        recipe = self.recipe
        if fresh:
            check(recipe, self.folder, data)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise KliegError(_UNMADE.format(self.folder, (e.strerror or str(e)).lower())) from None
        if fresh:
            checkpoint.forget_weights(self.folder)
        self._prepare_tokenizer(data, fresh)
        if not fresh and self.texts is pairs and all(place.is_dir() for place in self._encoded):
            return
        self._say("encoding the texts")
        if self.texts is pairs:
            corpora = pairs.encode(recipe.sources, Tokenizer.load(self.folder), recipe.train, data)
            for place, corpus in zip(self._encoded, corpora, strict=True):
                corpus.coded.save(place)

    def _prepare_tokenizer(self, data: str | None, fresh: bool) -> None:
        """Makes the tokenizer, unless it is there; a fresh run takes only one that was made as its recipe says."""
        wanted = {name: said for name, said in facts_of(self.recipe).items() if name in ("start", "pieces", "sources")}
        if not (self.folder / "tokenizer.json").exists() or (fresh and made_of(self.folder) != wanted):
            self._made_tokenizer(data).save(self.folder, wanted)

    def _made_tokenizer(self, data: str | None) -> Tokenizer:
        """That of the model to start from, or one that is trained on the texts."""
        recipe = self.recipe
        if recipe.start is not None:
            self._say(f"starting from {recipe.start}")
            return Tokenizer.load(models.find(recipe.start))
        self._say("training the tokenizer")
        return train_tokenizer(self.texts.texts(recipe.sources, data), recipe.pieces, **self._marks())

    def _marks(self) -> dict:
        """What train_tokenizer() is told of marks, and of those around a text."""
        if self.texts is pairs:
            return {"marks": pairs.marks(self.recipe.sources), "opened": False, "closed": True}
        return {"marks": [MASK], "closed": True} if self.texts is masked else {}

    @property
    def _encoded(self) -> tuple[Path, Path]:
        """Where a translator's pairs lie as ids: those for training and those held out."""
        return self.folder / "texts-train", self.folder / "texts-validation"

    def _corpora(self, data: str | None) -> tuple:
        """The texts for training and those held out, encoded; a run that goes on has the pairs that it began with."""
        train = self.recipe.train
        if self.texts is pairs:
            coded = [Coded.open(place) for place in self._encoded]
            if lost := sum(part.left_out for part in coded):
                self._say(f"{lost:,} pairs are left out: a side is empty, or longer than {train.longest} tokens")
            grid = pairs.GRID if launched(train, self.group) else 1
            return tuple(PairCorpus(part, self.tokenizer, train, grid) for part in coded)
        return self.texts.encode(self.recipe.sources, self.tokenizer, train, data)

    def run(self, seconds: float = math.inf) -> Iterator[Progress]:
        """Train to the last step, or for so many seconds, a Progress each; checkpoints, curve and model are written too."""
        train, group, until = self.recipe.train, self.group, time.monotonic() + seconds
        while not self.finished and not group.sum(float(time.monotonic() >= until)):
            for progress in self._stretch():
                self.curve.append(progress)
                if not math.isfinite(progress.loss) or not math.isfinite(progress.gradient_norm):
                    group.lead(partial(self._refuse, progress))
                if train.average > 1 and self._due(progress.step, train.average_every or train.validate_every):
                    weights = group.gathered(self.model.state_dict())
                    group.lead(partial(checkpoint.save_weights, self.folder, progress.step, weights, train.average))
                if self._due(progress.step, train.checkpoint_every) or self._exhausted():
                    self._checkpoint()
                yield progress
        if self.step:
            if self._checkpointed != self.step:
                self._checkpoint()
            group.lead(partial(self._finish, self._whole_model()))

    def _due(self, step: int, every: int) -> bool:
        return step % every == 0 or step == self.recipe.train.steps

    def _finish(self, model: models.Model) -> None:
        mean = checkpoint.mean_weights(self.folder, self.step) if self.recipe.train.average > 1 else None
        if mean is not None:
            model = models.outline(self.recipe.model)          # the run's own weights are those that it goes on with
            model.load_state_dict(mean)
        models.save(self.folder / "model", model, self.tokenizer)

    def _whole_model(self) -> models.Model:
        """The model, or where it is sharded a copy in one piece: every process has one while it looks at held-out texts."""
        if not self.group.sharded:
            return self.model
        model = models.outline(self.recipe.model)
        model.load_state_dict(self.group.gathered(self.model.state_dict(), everywhere=True))
        return model.to(self.group.device).eval()

    @property
    def finished(self) -> bool:
        """Whether the last step is done, or patience over."""
        return self.step >= self.recipe.train.steps or self._exhausted()

    def _exhausted(self) -> bool:
        """Whether patience is over, as a look just showed: the best one is too many looks ago."""
        patience = self.recipe.train.patience
        if not patience or not self.curve or self.curve[-1].quality is None:
            return False
        looks = [p.quality for p in self.curve if p.quality is not None]
        return len(looks) - 1 - looks.index(max(looks)) >= patience

    def _stretch(self) -> list[Progress]:
        """The next step; alone on a card the next steps, as many as are launched before one of them is looked at."""
        train, started = self.recipe.train, time.perf_counter()
        if self._ahead is None:
            batches = self.corpus.batches(self.step, train, self.group)
            told = [self.stepper(self.step, batches)]
        else:
            told, batches = self._launches(self._ahead)
        seconds = time.perf_counter() - started
        speed = self.group.sum(sum(batch.count for batch in batches)) / seconds
        share = self._peak and sum(operations(self.model, batch, train) for batch in batches) / seconds / self._peak
        first, self.step = self.step, self.step + len(told)
        due = self._due(self.step, train.validate_every)
        loss, bleu = self.validation.look(self._whole_model(), train, self.group) if due else (None, None)
        found = [Progress(step + 1, train.steps, total, None, None, learning_rate(step, train), norm, speed, share)
                 for step, (total, norm) in enumerate(told, first)]
        return [*found[:-1], replace(found[-1], validation_loss=loss, bleu=bleu)]

    def _launches(self, ahead: Ahead) -> tuple[list[tuple[float, float]], list[Batch] | list[PairBatch]]:
        """Loss and gradient norm of each step up to where something is due, and the steps' batches."""
        train, step, batches, told = self.recipe.train, self.step, [], []
        due = TOGETHER, train.validate_every, train.checkpoint_every, train.average_every or train.validate_every
        while True:
            batches += ahead(step)
            told.append(self.stepper.launch(step, batches[-1]).clone())
            step += 1
            if any(self._due(step, every) for every in due):
                return [tuple(pair) for pair in torch.stack(told).tolist()], batches

    def _refuse(self, progress: Progress) -> None:
        what, value = ("gradient", progress.gradient_norm) if math.isfinite(progress.loss) else ("loss", progress.loss)
        kept = progress.step - 1 - (progress.step - 1) % self.recipe.train.checkpoint_every
        last = f"the last good checkpoint is step {kept} in {self.folder}." if kept else "there is no checkpoint yet."
        raise KliegError(f"the {what} became {value} at step {progress.step}; {last} Lower learning_rate or clip.")

    def _checkpoint(self) -> None:
        self._checkpointed = self.step
        tensors: dict[str, Tensor] = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        for index, state in self.stepper.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{k}": v for k, v in state.items()}
        self.group.lead(partial(self._write, self.group.gathered(tensors)))

    def _write(self, tensors: dict[str, Tensor]) -> None:
        facts = {"recipe": facts_of(self.recipe), "curve": [asdict(p) for p in self.curve], "texts": self._digests,
                 "counts": [] if self._ahead else self.corpus.counts}
        checkpoint.save_state(self.folder, self.step, tensors, facts)
        with checkpoint.atomic(self.folder / "loss.csv") as path:
            path.write_text(_table(self.curve), "utf-8")

    def _saved(self) -> tuple[dict[str, Tensor], dict] | None:
        """The last state of this run, if there is one."""
        saved = checkpoint.load_state(self.folder, self._say)
        if saved is not None and (other := differing(endless(saved[1]["recipe"]), endless(facts_of(self.recipe)))):
            raise KliegError(f"{self.folder} holds a run of another recipe ({other}); choose another folder with --out.")
        return saved

    def _resume(self, tensors: dict[str, Tensor], facts: dict) -> None:
        if facts.get("texts", self._digests) != self._digests:
            raise KliegError(f"the run in {self.folder} began with other texts; put those back, or choose another folder with "
                             "--out.")
        if self._ahead is None:         # on a card epochs have other batches, and another thread counts them
            self.corpus.counts = facts.get("counts", [])
        place, own = self.group.placed, self.model.state_dict()
        self.model.load_state_dict({k: place(tensors[f"model.{k}"], like) for k, like in own.items()})
        optimizer, state = self.stepper.optimizer, {}
        for index, like in enumerate(p for matrices in optimizer.param_groups for p in matrices["params"]):
            moments = {k.split(".")[2]: v for k, v in tensors.items() if k.startswith(f"optimizer.{index}.")}
            if moments:
                state[index] = {k: place(v, like) if v.shape == like.shape else v for k, v in moments.items()}
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        self.curve = [Progress(**p) for p in facts["curve"]]
        self.step = self._checkpointed = self.curve[-1].step
        self._say(f"going on from step {self.step}")


def _table(curve: list[Progress]) -> str:
    out = io.StringIO()
    table = csv.DictWriter(out, [f for f in Progress.__dataclass_fields__ if f != "steps"], extrasaction="ignore")
    table.writeheader()
    table.writerows(asdict(p) for p in curve)
    return out.getvalue()
