"""A recipe: the TOML file that says what a training run does, every field explained here.

Unknown keys are refused with the nearest valid one, so that a misspelt field can never be
a field left at its default. A run begins with first weights of the shape in [model], or, where
that table says `start`, with a model that is there already: its shape, its weights, its pieces.
"""

from __future__ import annotations

import tomllib
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import TypeVar

from klieg.checkpoint import read_config
from klieg.config import KINDS, LARGEST, BertConfig, Config, GPT2Config, MarianConfig, parse_config
from klieg.data import Source
from klieg.errors import KliegError, first_line, nearest
from klieg.models import find

T = TypeVar("T")

CUTTINGS = ("13a", "intl", "zh", "char", "none")  # sacreBLEU's tokenizers that need nothing else to be installed or fetched


@dataclass(frozen=True, kw_only=True)
class Training:
    """The [train] table: what every kind of model has."""

    steps: int
    """Optimizer steps in all."""
    accumulate: int = 1
    """Forward passes summed into one step; several processes share them."""
    learning_rate: float = 1e-3
    """Its peak, reached after the warm-up."""
    final_learning_rate: float = 1e-4
    """Where the cosine ends."""
    schedule: str = "cosine"
    """After the warm-up: half a cosine, or inverse-sqrt (Vaswani et al. 2017, section 5.3)."""
    warmup: int = 100
    """Steps of linear warm-up from zero."""
    weight_decay: float = 0.1
    """AdamW's decay, on matrices only."""
    beta1: float = 0.9
    """AdamW's decay of the mean of gradients."""
    beta2: float = 0.95
    """AdamW's decay of the mean of squared gradients."""
    epsilon: float = 1e-8
    """What AdamW adds to the root of the mean of squared gradients."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    precision: str = "fp32"
    """fp32, or bf16: matrix products in bfloat16, weights and sums in float32."""
    compile: bool = False
    """Fuse the step with torch.compile (needs a C++ compiler, pays after some minutes)."""
    seed: int = 0
    """Of the first weights, the dropout and the order of the texts."""
    validate_every: int = 250
    """Steps between looks at the held-out texts."""
    checkpoint_every: int = 100
    """Steps that a crash can cost at most."""
    average: int = 1
    """The model is the mean of so many last weights, kept at every look; 1: the last weights."""
    average_every: int = 0
    """Steps between weights that are kept for the mean; 0: as often as is looked. For looks that are worth many steps."""
    patience: int = 0
    """Stop after so many looks without a better one (BLEU, or the loss where there is none); 0: never."""


@dataclass(frozen=True, kw_only=True)
class RowTraining(Training):
    """[train] of a decoder: rows of the texts laid end to end."""

    batch: int
    """Rows of one forward pass."""
    context: int
    """Tokens a row."""
    validation_rows: int = 64
    """Rows of a look at the held-out texts."""

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one optimizer step reads."""
        return self.batch * self.accumulate * self.context


@dataclass(frozen=True, kw_only=True)
class MaskTraining(RowTraining):
    """[train] of an encoder: such rows, with some of their tokens hidden."""

    mask_share: float = 0.15
    """Share of the tokens that are to be named (Devlin et al. 2019, section 3.1)."""


@dataclass(frozen=True, kw_only=True)
class PairTraining(Training):
    """[train] of a translator: pairs of like length."""

    batch_tokens: int
    """Tokens of one forward pass, padding included, on each side."""
    longest: int = 256
    """A pair with more tokens on a side is left out."""
    label_smoothing: float = 0.1
    """Share of what is wanted that is spread over the vocabulary (section 5.4)."""
    r_drop: float = 0.0
    """Weight of the agreement of two passes with different dropout (Liang et al. 2021); 0: one pass."""
    bpe_dropout: float = 0.0
    """Share of merges that are left out while training (Provilkov et al. 2020)."""
    validation_pairs: int = 1000
    """Held-out pairs of each entry and direction that are looked at."""
    bleu: str = ""
    """sacreBLEU's tokenizer for validation, one of CUTTINGS; by default as klieg evaluate cuts the language. `none` for texts
    that are tokenised."""


@dataclass(frozen=True)
class PairSource:
    """One part of a mixture of parallel texts: a corpus by name, or the files NAME.en and NAME.de."""

    name: str
    source: str
    """Language of one side, as the files are called: en, de ..."""
    target: str
    """Language of the other."""
    both: bool = False
    """Train the other direction too."""
    repeat: float = 1.0
    """How often an epoch has it."""
    validation: str = ""
    """Held-out files, as `name`; by default one pair in a hundred is held out; - for none, as of texts that a model wrote."""


@dataclass(frozen=True)
class Recipe:
    """What a run needs to know: the model's config, the tokenizer's size, the texts, the training."""

    name: str
    model: Config
    pieces: int
    sources: tuple[Source, ...] | tuple[PairSource, ...]
    train: Training
    start: str | None = None
    """The model whose weights and pieces the run begins with: a bundled name, a folder or a Hugging Face id."""


def read(path: str | Path) -> Recipe:
    """A recipe from a TOML file; KliegError names the file, the key and what would be right."""
    path = Path(path)
    try:
        raw = tomllib.loads(path.read_text("utf-8-sig"))
    except OSError:
        raise KliegError(f"no recipe {str(path)!r}; see the folder recipes/.") from None
    except (ValueError, RecursionError) as e:
        raise KliegError(f"{path} is not valid TOML: {first_line(e)}.") from None
    _known(raw, ["model", "tokenizer", "data", "train"], str(path))
    start = raw["model"].get("start") if isinstance(raw.get("model"), dict) else None
    for table in ("model", "train") if start is not None else ("model", "tokenizer", "train"):
        if not isinstance(raw.get(table), dict):
            raise KliegError(f"{path}: the table [{table}] is missing; the recipes in recipes/ have it.")
    if start is None:
        model = _model({**raw["model"], "vocab_size": _pieces(raw["tokenizer"], f"{path} [tokenizer]")}, f"{path} [model]")
    elif "tokenizer" in raw:
        raise KliegError(f"{path}: [tokenizer] and a model to start from do not go together, as that has its own pieces; "
                         "leave [tokenizer] away.")
    else:
        model = _started(raw["model"], f"{path} [model]")
    entry, settings = _KINDS.get(type(model), (Source, RowTraining))
    train = _train(settings, raw["train"], f"{path} [train]", model)
    data = raw.get("data")
    if not isinstance(data, list) or not data or not all(isinstance(entry, dict) for entry in data):
        raise KliegError(f"{path}: [[data]] must name at least one text.")
    sources = tuple(_table(entry, table, f"{path} [[data]]") for table in data)
    return Recipe(path.stem, model, model.vocab_size, sources, train, start)


def facts_of(recipe: Recipe) -> dict:
    """What must not change between the parts of one run; how often it is saved may."""
    train = {k: v for k, v in asdict(recipe.train).items() if not k.endswith("_every")}
    start = {} if recipe.start is None else {"start": recipe.start}
    return {"model": recipe.model.to_json(), "pieces": recipe.pieces, "train": train,
            "sources": [asdict(source) for source in recipe.sources], **start}


def endless(facts: dict) -> dict:
    """The facts without what only says when a run ends: patience, and the last step where the learning rate does not depend on
    it. Such a run may be given more."""
    ends = ("patience", "steps") if facts["train"]["schedule"] == "inverse-sqrt" else ("patience",)
    return {**facts, "train": {k: v for k, v in facts["train"].items() if k not in ends}}


def differing(before: dict, now: dict) -> str:
    """Where the facts of two recipes part first, as `pieces was 400 and is 300`; '' if they do not."""
    for name in dict.fromkeys([*before, *now]):
        was, is_ = before.get(name), now.get(name)
        if isinstance(was, dict) and isinstance(is_, dict):
            if found := differing(was, is_):
                return found
        elif was != is_:
            return f"{name} was {was!r} and is {is_!r}" if len(f"{was}{is_}") < 80 else f"{name} is another"
    return ""


def _train(settings: type[T], raw: dict, where: str, model: Config) -> T:
    train, known = _table(settings, raw, where), [f.name for f in fields(settings)]
    for name, valid in (("precision", ("fp32", "bf16")), ("schedule", ("cosine", "inverse-sqrt")), ("bleu", ("", *CUTTINGS))):
        if name in known and getattr(train, name) not in valid:
            raise KliegError(f"{where}: {name} is {getattr(train, name)!r}; it is {' or '.join(filter(None, valid))}.")
    positions = model.n_positions if isinstance(model, GPT2Config) else model.max_position_embeddings
    name = "longest" if isinstance(train, PairTraining) else "context"
    if getattr(train, name) > positions:
        raise KliegError(f"{where}: {name} is {getattr(train, name)} and the model has {positions} positions; shorten it "
                         "or give the model more.")
    return train


def _model(raw: dict, where: str) -> Config:
    """The [model] table holds the fields of config.json; here, unlike there, a stranger is a mistake."""
    if raw.get("model_type") == "marian":
        # The marks are where tokenizers.train() puts them; the paper scales embeddings.
        raw = {"pad_token_id": 2, "eos_token_id": 1, "decoder_start_token_id": 2, "scale_embedding": True, **raw}
    kind = KINDS.get(str(raw.get("model_type")))
    if kind is not None:        # else parse_config() says so
        _known(raw, [f.name for f in fields(kind)] + ["model_type", *kind.required], where)
    return parse_config(raw, where)


def _started(raw: dict, where: str) -> Config:
    """The config of the model to start from; of it only the dropout may be another, as all else is the shape of its weights."""
    start = raw["start"]
    if not isinstance(start, str):
        raise KliegError(f"{where}: start is {start!r}; it is the name or the folder of a model.")
    parts = Path(start).parts
    if len(parts) > 1 and parts[0] == "runs" and not Path(start).is_dir():
        raise KliegError(f"{where}: the model to start from, {start}, is not here; "
                         f"run the recipe that makes it, {parts[1]}, first.")
    folder = find(start)
    config = parse_config(read_config(folder), str(folder / "config.json"))
    dropouts = [f.name for f in fields(config) if f.name.endswith("dropout")]
    for key in raw:
        if key not in ("start", *dropouts):
            free = f"beside it only {' and '.join(dropouts)} can be said here" if dropouts else "nothing else can be said here"
            raise KliegError(f"{where}: {key!r} comes from the model to start from, {start}; {free}.")
    said = {key: raw[key] for key in dropouts if key in raw}
    return parse_config({**config.to_json(), "model_type": config.model_type, **said}, where)


def _pieces(raw: dict, where: str) -> int:
    """Of a tokenizer that is to be trained."""
    pieces = raw.get("pieces")
    _known(raw, ["pieces"], where)
    if not isinstance(pieces, int) or not 260 <= pieces <= LARGEST:
        raise KliegError(f"{where}: pieces is {pieces!r}; it must be a whole number from 260 (256 bytes and the marks) to "
                         f"{LARGEST:,}.")
    return pieces


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


# What the [[data]] and [train] tables of a model say; a decoder's are Source and RowTraining.
_KINDS = {MarianConfig: (PairSource, PairTraining), BertConfig: (Source, MaskTraining)}

_POSITIVE = ("steps", "batch", "context", "accumulate", "learning_rate", "clip", "validate_every", "validation_rows",
             "checkpoint_every", "repeat", "epsilon", "average", "batch_tokens", "longest", "validation_pairs", "mask_share")
_MOST = {"batch": 2**16, "accumulate": 2**16, "beta1": 0.9999999, "beta2": 0.9999999, "learning_rate": 1000.0,
         "final_learning_rate": 1000.0, "repeat": 1000.0, "seed": 2**63 - 1, "steps": 2**31, "label_smoothing": 0.99,
         "bpe_dropout": 0.99, "average": 1000, "mask_share": 0.99}
