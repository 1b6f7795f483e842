"""config.json: the shape of a model, in Hugging Face's own field names.

Only fields that change the arithmetic are kept. One that Klieg cannot honour is refused by
name, as a model that computes something else than its config says would be no use to look at.
"""

from __future__ import annotations

import math
from dataclasses import MISSING, asdict, dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor

from klieg.errors import KliegError


@dataclass(frozen=True)
class LlamaConfig:
    """Fields of Hugging Face's config.json for `model_type` llama that change the arithmetic."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    rope_scaling: dict | None = None

    model_type: ClassVar[str] = "llama"
    architecture: ClassVar[str] = "LlamaForCausalLM"
    required: ClassVar[dict] = {"hidden_act": "silu", "pretraining_tp": 1}

    @classmethod
    def filled(cls, raw: dict) -> dict:
        """Hugging Face leaves out what follows from the rest, and moved the rotary fields in version 5."""
        rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
        if not isinstance(rope, dict):
            raise KliegError(f"the rotary scaling is {rope!r}; it must be an object.")
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind not in list(_ROPE):
            raise KliegError(f"rotary scaling {kind!r} is not supported; {', '.join(_ROPE)} are.")
        for key in _ROPE[kind]:
            if not _positive(rope.get(key)):
                raise KliegError(f"{key} of the rotary scaling is {rope.get(key)!r}; it must be a positive number.")
        rotary = {"rope_theta": rope.get("rope_theta", raw.get("rope_theta", 10000.0)),
                  "rope_scaling": {key: rope[key] for key in _ROPE[kind]} | {"rope_type": kind} if _ROPE[kind] else None}
        derived = {"num_key_value_heads": raw.get("num_attention_heads")}
        if _whole(raw.get("hidden_size")) and _whole(raw.get("num_attention_heads")):
            derived["head_dim"] = raw["hidden_size"] // raw["num_attention_heads"]
        return {**derived, **raw, **rotary}

    def to_json(self) -> dict:
        body = asdict(self)
        rope = {"rope_type": "default", **(body.pop("rope_scaling") or {}), "rope_theta": self.rope_theta}
        return {**body, "rope_parameters": rope, "hidden_act": "silu"}

    def frequencies(self) -> Tensor:
        """Radians a position for each rotated pair: (d / 2,). Llama 3 stretches the slow ones."""
        pairs = torch.arange(0, self.head_dim, 2).float() / self.head_dim
        f = self.rope_theta ** -pairs
        scaling = self.rope_scaling or {}
        if scaling.get("rope_type") == "linear":
            f = f / scaling["factor"]
        if scaling.get("rope_type") == "llama3":
            low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
            turns = scaling["original_max_position_embeddings"] * f / (2 * math.pi)
            share = ((turns - low) / (high - low)).clamp(0, 1)
            f = f * share + f / scaling["factor"] * (1 - share)
        return f


@dataclass(frozen=True)
class GPT2Config:
    """Fields of Hugging Face's config.json for `model_type` gpt2 that change the arithmetic."""

    vocab_size: int
    n_embd: int
    n_layer: int
    n_head: int
    n_positions: int
    n_inner: int
    layer_norm_epsilon: float = 1e-5
    tie_word_embeddings: bool = True

    model_type: ClassVar[str] = "gpt2"
    architecture: ClassVar[str] = "GPT2LMHeadModel"
    required: ClassVar[dict] = {"activation_function": "gelu_new", "scale_attn_weights": True,
                                "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False}

    @classmethod
    def filled(cls, raw: dict) -> dict:
        return {"n_inner": 4 * raw["n_embd"], **raw} if _whole(raw.get("n_embd")) else raw

    def to_json(self) -> dict:
        return {**asdict(self), "activation_function": "gelu_new"}


Config = LlamaConfig | GPT2Config

# Kinds of rotary scaling, and the numbers that each needs.
_ROPE = {"default": (), "linear": ("factor",),
         "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")}

MOST_LAYERS = 1000
LARGEST = 2**24  # no field of a config that means anything is larger


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


# What a field of a config may be: its test, and how a message says it.
_VALID = {"int": (lambda value: _whole(value) and value <= LARGEST, f"a whole number from 1 to {LARGEST:,}"),
          "float": (_positive, "a positive number"),
          "bool": (lambda value: isinstance(value, bool), "true or false")}


def parse_config(raw: dict, where: str) -> Config:
    """config.json -> a Config; refuses by name whatever would change the arithmetic unseen."""
    kind = raw.get("model_type")
    cls = next((cls for cls in (LlamaConfig, GPT2Config) if cls.model_type == kind), None)
    if cls is None:
        raise KliegError(f"{where}: model_type is {kind!r}; Klieg opens gpt2 and llama models.")
    for key, value in cls.required.items():
        if raw.get(key, value) != value:
            raise KliegError(f"{where}: {key} is {raw[key]!r} and only {value!r} is supported.")
    known = {f.name: f for f in fields(cls)}
    given = {key: value for key, value in raw.items() if value is not None}
    try:
        present = {key: value for key, value in cls.filled(given).items() if key in known}
    except KliegError as e:
        raise KliegError(f"{where}: {e}") from None
    missing = [f.name for f in known.values() if f.default is MISSING and f.name not in present]
    if missing:
        raise KliegError(f"{where}: {missing[0]} is missing.")
    for key, value in present.items():
        valid, said = _VALID.get(known[key].type, (lambda value: True, ""))
        if not valid(value):
            raise KliegError(f"{where}: {key} is {value!r}; it must be {said}.")
    return _checked(cls(**present), where)


def _checked(c: Config, where: str) -> Config:
    layers = c.num_hidden_layers if isinstance(c, LlamaConfig) else c.n_layer
    if layers > MOST_LAYERS:
        raise KliegError(f"{where}: {layers} layers; no model has more than {MOST_LAYERS}.")
    heads = c.num_attention_heads if isinstance(c, LlamaConfig) else c.n_head
    groups = c.num_key_value_heads if isinstance(c, LlamaConfig) else 1
    if heads % groups:
        raise KliegError(f"{where}: {heads} heads cannot share {groups} key/value heads; use a divisor of {heads}.")
    if isinstance(c, GPT2Config) and c.n_embd % heads:
        raise KliegError(f"{where}: n_embd {c.n_embd} is not a multiple of n_head {heads}.")
    if isinstance(c, LlamaConfig) and c.head_dim % 2:
        raise KliegError(f"{where}: head_dim is {c.head_dim}; rotary positions need an even number.")
    return c
