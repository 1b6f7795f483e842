"""A recipe: the TOML file that says what a training run does, every field explained here.

Unknown keys are refused with the nearest valid one, so that a misspelt field can never be
a field left at its default.
"""

from __future__ import annotations

import tomllib
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TypeVar

from klieg.config import LARGEST, Config, LlamaConfig, parse_config
from klieg.data import Source
from klieg.errors import KliegError, first_line, nearest

T = TypeVar("T")


@dataclass(frozen=True)
class Training:
    """The [train] table."""

    steps: int
    """Optimizer steps in all."""
    batch: int
    """Rows of one forward pass."""
    context: int
    """Tokens a row."""
    accumulate: int = 1
    """Forward passes summed into one step."""
    learning_rate: float = 1e-3
    """Its peak, reached after the warm-up."""
    final_learning_rate: float = 1e-4
    """Where the cosine ends."""
    warmup: int = 100
    """Steps of linear warm-up from zero."""
    weight_decay: float = 0.1
    """AdamW's decay, on matrices only."""
    beta1: float = 0.9
    """AdamW's decay of the mean of gradients."""
    beta2: float = 0.95
    """AdamW's decay of the mean of squared gradients."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    precision: str = "fp32"
    """fp32, or bf16: matrix products in bfloat16, weights and sums in float32."""
    compile: bool = False
    """Fuse the step with torch.compile (needs a C++ compiler, pays after some minutes)."""
    seed: int = 0
    """Of the first weights and the order of the texts."""
    validate_every: int = 250
    """Steps between looks at the held-out texts."""
    validation_rows: int = 64
    """Rows of such a look."""
    checkpoint_every: int = 100
    """Steps that a crash can cost at most."""


@dataclass(frozen=True)
class Recipe:
    """What a run needs to know: the model's config, the tokenizer's size, the texts, the training."""

    name: str
    model: Config
    pieces: int
    sources: tuple[Source, ...]
    train: Training

    @property
    def tokens_per_step(self) -> int:
        return self.train.batch * self.train.accumulate * self.train.context


def read(path: str | Path) -> Recipe:
    """A recipe from a TOML file; KliegError names the file, the key and what would be right."""
    path = Path(path)
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
    except OSError:
        raise KliegError(f"no recipe {str(path)!r}; see the folder recipes/.") from None
    except (ValueError, RecursionError) as e:
        raise KliegError(f"{path} is not valid TOML: {first_line(e)}.") from None
    _known(raw, ["model", "tokenizer", "data", "train"], str(path))
    for table in ("model", "tokenizer", "train"):
        if not isinstance(raw.get(table), dict):
            raise KliegError(f"{path}: the table [{table}] is missing.")
    pieces = raw["tokenizer"].get("pieces")
    _known(raw["tokenizer"], ["pieces"], f"{path} [tokenizer]")
    if not isinstance(pieces, int) or not 260 <= pieces <= LARGEST:
        raise KliegError(f"{path} [tokenizer]: pieces is {pieces!r}; it must be a whole number from 260 (256 bytes and the "
                         f"marks) to {LARGEST:,}.")
    model = _model({**raw["model"], "vocab_size": pieces}, f"{path} [model]")
    train = _table(Training, raw["train"], f"{path} [train]")
    if train.precision not in ("fp32", "bf16"):
        raise KliegError(f"{path} [train]: precision is {train.precision!r}; it is fp32 or bf16.")
    positions = model.max_position_embeddings if isinstance(model, LlamaConfig) else model.n_positions
    if train.context > positions:
        raise KliegError(f"{path} [train]: context is {train.context} and the model has {positions} positions; shorten it "
                         "or give the model more.")
    data = raw.get("data")
    if not isinstance(data, list) or not data or not all(isinstance(entry, dict) for entry in data):
        raise KliegError(f"{path}: [[data]] must name at least one text.")
    sources = tuple(_table(Source, entry, f"{path} [[data]]") for entry in data)
    return Recipe(path.stem, model, pieces, sources, train)


def _model(raw: dict, where: str) -> Config:
    """The [model] table holds the fields of config.json; here, unlike there, a stranger is a mistake."""
    config = parse_config(raw, where)
    _known(raw, [f.name for f in fields(config)] + ["model_type", *config.required], where)
    return config


def _known(raw: dict, valid: list[str], where: str) -> None:
    for key in raw:
        if key not in valid:
            raise KliegError(f"{where}: {key!r} is not known.{nearest(key, valid)}")


def _table(cls: type[T], raw: dict, where: str) -> T:
    kinds = {"int": int, "float": (int, float), "bool": bool, "str": str}
    known = {f.name: f for f in fields(cls)}
    _known(raw, list(known), where)
    for name, f in known.items():
        if name not in raw:
            if f.default is MISSING:
                raise KliegError(f"{where}: {name} is missing.")
            continue
        value = raw[name]
        if not isinstance(value, kinds[f.type]) or (isinstance(value, bool) and f.type != "bool"):
            raise KliegError(f"{where}: {name} is {value!r}; it must be of type {f.type}.")
        if f.type in ("int", "float"):
            least, most = "positive" if name in _POSITIVE else "0 or more", _MOST.get(name, LARGEST)
            if not 0 <= value <= most or (value == 0 and name in _POSITIVE):
                raise KliegError(f"{where}: {name} is {value!r}; it must be {least} and at most {most:,}.")
    return cls(**raw)


_POSITIVE = ("steps", "batch", "context", "accumulate", "learning_rate", "clip", "validate_every", "validation_rows",
             "checkpoint_every", "repeat")
_MOST = {"batch": 2**16, "accumulate": 2**16, "beta1": 0.9999999, "beta2": 0.9999999, "learning_rate": 1000.0,
         "final_learning_rate": 1000.0, "repeat": 1000.0, "seed": 2**63 - 1, "steps": 2**31}
