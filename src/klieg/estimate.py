"""What a run will need, before it starts: memory and time, from a measured step of its recipe here.

The memory of a step is the weights with their gradients and moments, and what the way there keeps for
the way back. The latter is counted, every tensor that autograd keeps, at an eighth and at a quarter
of a part, or of COUNTED tokens where a part has more, and grows with the tokens; so a recipe that does
not fit is refused without being tried.
One that fits is timed with a part in full. Texts are made up: neither is a matter of what they say.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from klieg import models
from klieg.errors import KliegError
from klieg.loss import chunk
from klieg.pairs import PairBatch
from klieg.parallel import ALONE, Group
from klieg.recipe import PairTraining, Recipe
from klieg.rows import Batch
from klieg.train import Stepper, launched

SENTENCE = 32          # tokens of a made-up sentence
WEIGHT = 4 + 4 + 8     # bytes of a parameter: itself, its gradient, its two moments
LIBRARIES = 1e8        # bytes that torch's libraries take when they are first used
BACK = 1.5             # of what is kept: the way back has gradients of its own, and memory has gaps (measured, two recipes)
SHAPES = 1.2e9         # bytes of what oneDNN keeps for sentences of many shapes in bfloat16 (measured, two recipes)
COUNTED = 2**14        # tokens of a part beyond which no more are counted
CONTAINER = Path("/sys/fs/cgroup")      # where a container says how much memory it may have
TURNS = 3              # parts that are timed, unless one takes more than a second


@dataclass(frozen=True)
class Estimate:
    """Of one process. Bytes are None where the machine does not tell how many it has."""

    recipe: Recipe
    parameters: int
    fixed: float
    """Bytes whatever the texts: weights, gradients, moments, logits of a chunk, libraries."""
    kept: float
    """Bytes that the texts of one part need."""
    room: float | None
    """Bytes that are free."""
    seconds: float | None
    """Of a step; None where it does not fit."""

    @property
    def fits(self) -> bool:
        return self.room is None or self.fixed + self.kept <= self.room

    @property
    def line(self) -> str:
        """What to expect, in one line."""
        steps = self.recipe.train.steps
        room = "" if self.room is None else f" of {_gigabytes(self.room)} that are free"
        count = f"{self.parameters / 1e6:,.1f} M" if self.parameters >= 1e6 else f"{self.parameters:,}"
        said = f"{count} parameters; a step needs {_gigabytes(self.fixed + self.kept)}{room}"
        if self.seconds is None:
            return said
        less = ", before it is compiled" if self.recipe.train.compile else ""
        return f"{said}; {steps:,} steps of {self.seconds:.3g} s{less}: about {_duration(steps * self.seconds)}"

    def check(self) -> None:
        """KliegError where the step does not fit, with what would."""
        if self.fits:
            return
        train, room = self.recipe.train, self.room
        name, size, least = (("batch_tokens", train.batch_tokens, train.longest) if isinstance(train, PairTraining)
                             else ("batch", train.batch, 1))
        said = f"a step needs {_gigabytes(self.fixed + self.kept)} and {_gigabytes(room)} are free"
        for parts in range(2, size // least + 1):
            if size % parts == 0 and self.fixed + self.kept / parts <= room:
                raise KliegError(f"{said}; {name} = {size // parts} with accumulate = {train.accumulate * parts} would fit, "
                                 "and is the same step in more parts.")
        raise KliegError(f"{said}, {_gigabytes(self.fixed)} of it for the weights and their optimizer; take a smaller model, a "
                         "larger card, or --shard with more processes.")


def estimated(recipe: Recipe, group: Group = ALONE) -> Estimate:
    """Measures on every process of a group; the result is that of the one with the least room and the longest step."""
    group.lead(partial(group.divide, recipe.train.accumulate))
    with torch.device("meta"):
        outline = models.outline(recipe.model)
    parameters = outline.parameter_count
    found = Estimate(recipe, parameters, _fixed(outline, recipe, group), 0, min(group.merge([_room(group.device)]), key=_size),
                     None)
    if not found.fits:
        return found
    torch.manual_seed(recipe.train.seed)
    model = models.build(recipe.model)
    model = model if group.sharded else model.to(group.device)
    stepper = Stepper(model, replace(recipe.train, compile=False), group)
    most = min(1.0, COUNTED / _tokens(recipe))
    (few, at_few), (many, at_many) = (_counted(stepper, _texts(recipe, share * most)) for share in (1 / 8, 1 / 4))
    per_token = max(0.0, (at_many - at_few) / max(1, many - few))
    whole = _texts(recipe, 1.0)
    times = 2 if launched(recipe.train, group) else 1        # what is recorded has memory of its own
    found = replace(found, fixed=found.fixed + max(0.0, at_few - per_token * few),
                    kept=times * BACK * per_token * whole.targets.numel())
    return replace(found, seconds=_timed(stepper, whole, group)) if found.fits else found


def _fixed(outline: models.Model, recipe: Recipe, group: Group) -> float:
    """Bytes of weights, gradients and moments, and of what else every step has; sharded, also of what is in full at a time."""
    always = LIBRARIES + 2 * 4 * chunk(recipe.pieces, group.device) * recipe.pieces
    if isinstance(recipe.train, PairTraining) and recipe.train.precision == "bf16" and group.device.type == "cpu":
        always += SHAPES
    if not group.sharded:
        return WEIGHT * outline.parameter_count + always
    blocks = [sum(p.numel() for p in block.parameters()) for stack in outline.modules()
              if isinstance(stack, torch.nn.ModuleList) for block in stack]
    in_full = outline.parameter_count - sum(blocks) + 2 * max(blocks)      # the next block comes while one is used
    return WEIGHT * outline.parameter_count / group.size + 2 * 4 * in_full + always


def _tokens(recipe: Recipe) -> int:
    """Tokens of one part, on a side."""
    train = recipe.train
    return train.batch_tokens if isinstance(train, PairTraining) else train.batch * train.context


def _texts(recipe: Recipe, share: float) -> Batch | PairBatch:
    """Made-up texts of the size of one part, or of a share of it."""
    train = recipe.train
    if not isinstance(train, PairTraining):
        ids = torch.randint(recipe.pieces, (max(1, round(share * train.batch)), train.context))
        return Batch(ids, ids.roll(-1, 1), torch.zeros_like(ids))
    width = min(SENTENCE, train.longest)
    rows = max(1, int(share * train.batch_tokens) // width)
    source, inputs = (torch.randint(recipe.pieces, (rows, width)) for _ in range(2))
    real = torch.ones_like(source, dtype=torch.bool)
    real[::2, -1] = False
    return PairBatch(source, real, inputs, inputs.roll(-1, 1))


def _counted(stepper: Stepper, batch: Batch | PairBatch) -> tuple[int, int]:
    """(tokens, bytes that autograd keeps for the way back from their loss)."""
    own = {p.data_ptr() for p in stepper.model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        whole = tensor.untyped_storage()
        if whole.data_ptr() not in own:
            kept[whole.data_ptr()] = whole.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        stepper(0, [batch])
    return batch.targets.numel(), sum(kept.values())


def _timed(stepper: Stepper, batch: Batch | PairBatch, group: Group) -> float:
    """Seconds of a step: of its quickest part in a few, times the parts that a process has."""
    times: list[float] = []
    for _ in range(2 if launched(stepper.train, group) else 0):      # the second records it
        stepper(0, [batch])
    while len(times) < TURNS and sum(times) < 1:
        started = time.perf_counter()
        stepper(0, [batch])                 # ends with numbers that were read, so a card has finished
        times.append(max(group.merge([time.perf_counter() - started])))
    return min(times) * stepper.train.accumulate / group.size


def _room(device: torch.device) -> float | None:
    """Bytes that are free for this process."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    free = []
    try:
        said = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text("utf-8").splitlines())
        free.append(1024 * int(said["MemAvailable"].split()[0]))
        limit, used, parts = ((CONTAINER / f"memory.{name}").read_text("utf-8") for name in ("max", "current", "stat"))
        # What was read from files counts as used, and is given up where memory is wanted.
        free.append(int(limit) - int(used) + int(dict(line.split() for line in parts.splitlines())["inactive_file"]))
    except (OSError, ValueError, KeyError):  # another system, or no limit but the machine's own
        pass
    return min(free) / int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if free else None


def _size(room: float | None) -> float:
    return float("inf") if room is None else room


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    days, hours, minutes = int(seconds) // 86400, int(seconds) // 3600 % 24, int(seconds) // 60 % 60
    return f"{days} d {hours} h" if days else f"{hours} h {minutes} min" if hours else f"{minutes} min"
