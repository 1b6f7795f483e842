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

    def check(self) -> None:
        """KliegError where two fields cannot go together."""
        _layers(self.num_hidden_layers)
        _shared(self.num_attention_heads, self.num_key_value_heads)
        if self.head_dim % 2:
            raise KliegError(f"head_dim is {self.head_dim}; rotary positions need an even number.")

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

    def check(self) -> None:
        """KliegError where two fields cannot go together."""
        _layers(self.n_layer)
        _divided("n_embd", self.n_embd, "n_head", self.n_head)


@dataclass(frozen=True)
class MarianConfig:
    """Fields of Hugging Face's config.json for `model_type` marian: the encoder and decoder of Vaswani et al. 2017.

    The last four fields are variants of the paper's table 3 and of later work that Marian does not
    have; a config that uses one of them is saved as `model_type` klieg, which no other program
    takes for something it knows.
    """

    vocab_size: int
    d_model: int
    encoder_layers: int
    decoder_layers: int
    encoder_attention_heads: int
    decoder_attention_heads: int
    encoder_ffn_dim: int
    decoder_ffn_dim: int
    max_position_embeddings: int
    pad_token_id: int
    eos_token_id: int
    decoder_start_token_id: int
    scale_embedding: bool
    dropout: float = 0.1
    """Of embeddings and of what each part adds to the stream, while training."""
    activation_dropout: float = 0.0
    """Of the inner activations of the feed-forward part, while training."""
    pre_norm: bool = False
    """Norms stand before each part, and one after the last, as in later models."""
    learned_positions: bool = False
    """Positions are trained (the paper's row E) and not sines."""
    head_dim: int | None = None
    """Width of a head (the paper's row B: d_k); d_model / heads by default."""
    kv_heads: int | None = None
    """Heads of keys and values (Ainslie et al. 2023); as many as query heads by default."""

    model_type: ClassVar[str] = "marian"
    architecture: ClassVar[str] = "MarianMTModel"
    required: ClassVar[dict] = {"activation_function": "relu", "static_position_embeddings": True, "normalize_before": False,
                                "share_encoder_decoder_embeddings": True, "tie_word_embeddings": True,
                                "normalize_embedding": False, "add_final_layer_norm": False}

    @property
    def plain(self) -> bool:
        """Whether Hugging Face's Marian is exactly this model."""
        return not (self.pre_norm or self.learned_positions or self.head_dim or self.kv_heads)

    @classmethod
    def filled(cls, raw: dict) -> dict:
        return raw

    def to_json(self) -> dict:
        body = {key: value for key, value in asdict(self).items() if self.plain is False or key not in _VARIANTS}
        kind = {} if self.plain else {"model_type": "klieg", "architectures": ["KliegTranslator"]}
        return {**body, **self.required, **kind, "attention_dropout": 0.0, "decoder_vocab_size": self.vocab_size,
                "is_encoder_decoder": True, "forced_eos_token_id": None}

    def check(self) -> None:
        """KliegError where two fields cannot go together."""
        for side, layers, heads in (("encoder", self.encoder_layers, self.encoder_attention_heads),
                                    ("decoder", self.decoder_layers, self.decoder_attention_heads)):
            _layers(layers)
            if self.head_dim is None:
                _divided("d_model", self.d_model, f"{side}_attention_heads", heads)
            _shared(heads, self.kv_heads or heads)
        if self.d_model % 2:
            raise KliegError(f"d_model is {self.d_model}; the sines of the positions need an even number.")
        for name in ("pad_token_id", "eos_token_id", "decoder_start_token_id"):
            if getattr(self, name) >= self.vocab_size:
                raise KliegError(f"{name} is {getattr(self, name)}; it must be a piece of the vocabulary, from 0 to "
                                 f"{self.vocab_size - 1}.")


_VARIANTS = ("pre_norm", "learned_positions", "head_dim", "kv_heads")


@dataclass(frozen=True)
class BertConfig:
    """Fields of Hugging Face's config.json for `model_type` bert that change the arithmetic."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    hidden_dropout_prob: float = 0.1
    """Of embeddings and of what each part adds to the stream, while training."""
    architecture: str = "BertForMaskedLM"
    """The first of config.json's `architectures`: BertForMaskedLM, or BertModel, which has no head."""

    model_type: ClassVar[str] = "bert"
    required: ClassVar[dict] = {"hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False,
                                "add_cross_attention": False, "tie_word_embeddings": True}

    @property
    def headed(self) -> bool:
        """Whether there is a head that names tokens."""
        return self.architecture == "BertForMaskedLM"

    @classmethod
    def filled(cls, raw: dict) -> dict:
        """What was trained with the next sentence as well (BertForPreTraining) has the head of masked tokens too."""
        named = raw.get("architectures")
        if not isinstance(named, list) or not named:
            return raw
        return {**raw, "architecture": "BertForMaskedLM" if named[0] == "BertForPreTraining" else named[0]}

    def to_json(self) -> dict:
        body = {key: value for key, value in asdict(self).items() if key != "architecture"}
        return {**body, **self.required, "attention_probs_dropout_prob": 0.0}

    def check(self) -> None:
        """KliegError where two fields cannot go together."""
        if self.architecture not in ("BertForMaskedLM", "BertModel"):
            raise KliegError(f"the architecture is {self.architecture!r}; of BERT's, BertForMaskedLM, BertForPreTraining and "
                             "BertModel are supported.")
        _layers(self.num_hidden_layers)
        _divided("hidden_size", self.hidden_size, "num_attention_heads", self.num_attention_heads)


Config = LlamaConfig | GPT2Config | MarianConfig | BertConfig

# Kinds of rotary scaling, and the numbers that each needs.
_ROPE = {"default": (), "linear": ("factor",),
         "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")}

MOST_LAYERS = 1000
LARGEST = 2**24  # no field of a config that means anything is larger


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1


def _layers(count: int) -> None:
    if count > MOST_LAYERS:
        raise KliegError(f"{count} layers; no model has more than {MOST_LAYERS}.")


def _shared(heads: int, groups: int) -> None:
    if heads % groups:
        raise KliegError(f"{heads} heads cannot share {groups} key/value heads; use a divisor of {heads}.")


def _divided(width: str, value: int, parts: str, count: int) -> None:
    if value % count:
        raise KliegError(f"{width} {value} is not a multiple of {parts} {count}.")


# What a field of a config may be, by its name or else its type: its test, and how a message says it.
_VALID = {"int": (lambda value: _whole(value) and value <= LARGEST, f"a whole number from 1 to {LARGEST:,}"),
          "float": (_positive, "a positive number"),
          "bool": (lambda value: isinstance(value, bool), "true or false"),
          **dict.fromkeys(("dropout", "activation_dropout", "hidden_dropout_prob"), (_share, "a number from 0 to below 1")),
          **dict.fromkeys(("pad_token_id", "eos_token_id", "decoder_start_token_id"),
                          (lambda value: value == 0 or _whole(value), "the number of a piece"))}
_VALID["int | None"] = _VALID["int"]


KINDS: dict[str, type[Config]] = {"llama": LlamaConfig, "gpt2": GPT2Config, "marian": MarianConfig, "klieg": MarianConfig,
                                  "bert": BertConfig}


def parse_config(raw: dict, where: str) -> Config:
    """config.json -> a Config; refuses by name whatever would change the arithmetic unseen."""
    kind = raw.get("model_type")
    cls = KINDS.get(str(kind))
    if cls is None:
        raise KliegError(f"{where}: model_type is {kind!r}; Klieg opens bert, gpt2, llama and marian models.")
    for key, value in cls.required.items():
        if raw.get(key, value) != value:
            raise KliegError(f"{where}: {key} is {raw[key]!r} and only {value!r} is supported.")
    known = {f.name: f for f in fields(cls)}
    given = {key: value for key, value in raw.items() if value is not None}
    try:
        present = {key: value for key, value in cls.filled(given).items() if key in known}
        missing = [f.name for f in known.values() if f.default is MISSING and f.name not in present]
        if missing:
            raise KliegError(f"{missing[0]} is missing.")
        for key, value in present.items():
            valid, said = _VALID.get(key) or _VALID.get(known[key].type, (lambda value: True, ""))
            if not valid(value):
                raise KliegError(f"{key} is {value!r}; it must be {said}.")
        config = cls(**present)
        config.check()
    except KliegError as e:
        raise KliegError(f"{where}: {e}") from None
    return config
