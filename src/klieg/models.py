"""Decoders: Llama's shape and GPT-2's, with tensor names and config.json exactly Hugging Face's.

Any engine opens what is saved here, and what was saved elsewhere in these two shapes opens
here; so Klieg trains and explains, and deploying is somebody else's good work.

    model, tokenizer = load("chat")
    logits = model(torch.tensor([tokenizer.encode("I love you")]))
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from klieg import checkpoint, half
from klieg.attention import Mask
from klieg.cache import Cache
from klieg.errors import KliegError, first_line, nearest
from klieg.layers import Context, Embedding, GPT2Block, Linear, LlamaBlock, Observer, RMSNorm, TransposedLinear, rotary
from klieg.tokenizers import Tokenizer


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


class Decoder(nn.Module):
    """What both decoders share: ids in, logits out, with an optional mask, cache and observer."""

    config: Config
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    positions: int

    def forward(self, ids: Tensor, *, mask: Mask | None = None, positions: Tensor | None = None,
                cache: Cache | None = None, observe: Observer | None = None, kernel: str | None = None) -> Tensor:
        """ids (b, i), int64 -> logits (b, i, vocabulary).

        `mask` comes on top of causality and covers all slots, cached ones included. `positions`
        (b or 1, i) default to the slots; give them where texts are padded on the left or packed.
        `observe` is called with an Observation for each layer, in order.
        """
        return self.head(self.hidden(ids, mask=mask, positions=positions, cache=cache, observe=observe, kernel=kernel))

    def hidden(self, ids: Tensor, *, mask: Mask | None = None, positions: Tensor | None = None,
               cache: Cache | None = None, observe: Observer | None = None, kernel: str | None = None) -> Tensor:
        """The last residual stream, normed: (b, i, width); forward() without the vocabulary."""
        start = cache.length if cache is not None else 0
        if start + ids.shape[1] > self.positions:
            raise KliegError(f"the text needs {start + ids.shape[1]} tokens and the model has {self.positions} "
                             f"positions; cut the text to {self.positions} tokens.")
        if positions is None:
            positions = torch.arange(start, start + ids.shape[1], device=ids.device)[None]
        context = Context(Mask.causal() & (mask or Mask()), cache=cache, observe=observe, kernel=kernel)
        x = self._stream(ids, positions, context)
        if cache is not None:
            cache.advance(ids.shape[1])
        return x

    def _stream(self, ids: Tensor, positions: Tensor, context: Context) -> Tensor:
        raise NotImplementedError

    @property
    def vocabulary(self) -> nn.Parameter:
        """The matrix that turns the stream into logits: (vocabulary, width)."""
        raise NotImplementedError

    def head(self, hidden: Tensor) -> Tensor:
        """hidden (..., width) -> logits (..., vocabulary)."""
        return half.linear(hidden, self.vocabulary)

    def new_cache(self, batch: int, capacity: int | None = None) -> Cache:
        """An empty cache for `batch` texts; capacity defaults to all positions."""
        p = self.vocabulary
        return Cache(self.layers, batch, self.kv_heads, self.head_width, capacity or self.positions, device=p.device)

    @property
    def parameter_count(self) -> int:
        return sum(p.numel() for p in self.parameters())


class _LlamaStack(nn.Module):
    def __init__(self, c: LlamaConfig) -> None:
        super().__init__()
        self.embed_tokens = Embedding(c.vocab_size, c.hidden_size)
        self.layers = nn.ModuleList(
            LlamaBlock(c.hidden_size, c.intermediate_size, c.num_attention_heads, c.num_key_value_heads, c.head_dim,
                       layer, c.rms_norm_eps, c.attention_bias, c.mlp_bias) for layer in range(c.num_hidden_layers))
        self.norm = RMSNorm(c.hidden_size, c.rms_norm_eps)


class Llama(Decoder):
    """RoPE, RMSNorm, SwiGLU, grouped heads."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.layers, self.heads = config.num_hidden_layers, config.num_attention_heads
        self.kv_heads, self.head_width = config.num_key_value_heads, config.head_dim
        self.positions = config.max_position_embeddings
        self.model = _LlamaStack(config)
        if not config.tie_word_embeddings:
            self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        self.register_buffer("frequencies", config.frequencies(), persistent=False)

    def _stream(self, ids: Tensor, positions: Tensor, context: Context) -> Tensor:
        x = self.model.embed_tokens(ids)
        context.rotation = rotary(positions, self.frequencies, x.dtype)
        for block in self.model.layers:
            x = block(x, context)
        return self.model.norm(x)

    @property
    def vocabulary(self) -> nn.Parameter:
        return self.model.embed_tokens.weight if self.config.tie_word_embeddings else self.lm_head.weight


class _GPT2Stack(nn.Module):
    def __init__(self, c: GPT2Config) -> None:
        super().__init__()
        self.wte = Embedding(c.vocab_size, c.n_embd)
        self.wpe = Embedding(c.n_positions, c.n_embd)
        self.h = nn.ModuleList(GPT2Block(c.n_embd, c.n_inner, c.n_head, layer, c.layer_norm_epsilon)
                               for layer in range(c.n_layer))
        self.ln_f = nn.LayerNorm(c.n_embd, c.layer_norm_epsilon)


class GPT2(Decoder):
    """Learned positions, pre-norm LayerNorm, GELU, every head with keys of its own."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.config = config
        self.layers, self.heads, self.kv_heads = config.n_layer, config.n_head, config.n_head
        self.head_width, self.positions = config.n_embd // config.n_head, config.n_positions
        self.transformer = _GPT2Stack(config)
        if not config.tie_word_embeddings:
            self.lm_head = Linear(config.n_embd, config.vocab_size, bias=False)

    def _stream(self, ids: Tensor, positions: Tensor, context: Context) -> Tensor:
        x = self.transformer.wte(ids) + self.transformer.wpe(positions)
        for block in self.transformer.h:
            x = block(x, context)
        return self.transformer.ln_f(x)

    @property
    def vocabulary(self) -> nn.Parameter:
        return self.transformer.wte.weight if self.config.tie_word_embeddings else self.lm_head.weight


_SHAPES: dict[str, tuple[type, type]] = {"llama": (LlamaConfig, Llama), "gpt2": (GPT2Config, GPT2)}


def outline(config: Config) -> Decoder:
    """A decoder whose matrices hold whatever the memory held: to be filled, or asked for its shape."""
    try:
        return _SHAPES[config.model_type][1](config)
    except RuntimeError as e:
        raise KliegError(f"a model of this config does not fit into memory ({first_line(e)}).") from None


@torch.no_grad()
def build(config: Config) -> Decoder:
    """A decoder with first weights: normal with standard deviation 0.02, biases zero."""
    model = outline(config)
    for module in model.modules():
        if isinstance(module, Linear | Embedding | TransposedLinear):
            module.weight.normal_(std=0.02)
            if getattr(module, "bias", None) is not None:
                module.bias.zero_()
    return model


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
    if kind not in list(_SHAPES):
        raise KliegError(f"{where}: model_type is {kind!r}; Klieg opens {' and '.join(sorted(_SHAPES))} models.")
    cls = _SHAPES[kind][0]
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


def bundled_folder() -> Path:
    """Where the models that come with Klieg lie."""
    return Path(__file__).parent / "weights"


def bundled() -> list[str]:
    """Names of the models that come with Klieg."""
    return sorted(p.parent.name for p in bundled_folder().glob("*/config.json"))


def find(name: str) -> Path:
    """A bundled name, a folder, or a Hugging Face id (`owner/name`: the one case that uses the network)."""
    if name in bundled():
        return bundled_folder() / name
    with suppress(OSError):  # a name that no file could have
        if name and Path(name).is_dir():
            return Path(name)
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return _download(name)
    raise KliegError(f"no model {name!r}.{nearest(name, bundled())} A folder or a Hugging Face id works too.")


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(name, allow_patterns=["*.safetensors", "*.json"]))
    except (HfHubHTTPError, OSError, ValueError) as e:
        reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        raise KliegError(f"could not fetch {name!r} from Hugging Face ({reason}); "
                         f"no folder of that name is here either.") from None


def load(name: str) -> tuple[Decoder, Tokenizer]:
    """The model and its tokenizer, ready for inference: it computes in float32, whatever its matrices are kept in."""
    folder = find(name)
    config = parse_config(checkpoint.read_config(folder), str(folder / "config.json"))
    model = outline(config)
    keep = half.worthwhile if isinstance(model, Llama) else lambda matrix: False
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    model.load_state_dict(checkpoint.read_tensors(folder, shapes, keep=keep), assign=True)
    tokenizer = Tokenizer.load(folder)
    if tokenizer.size > model.vocabulary.shape[0]:
        raise KliegError(f"{folder}: the tokenizer has {tokenizer.size} pieces and the model {model.vocabulary.shape[0]}.")
    return model.eval().requires_grad_(False), tokenizer


def save(folder: Path, model: Decoder, tokenizer: Tokenizer, extra: dict[str, str | bytes] | None = None,
         dtype: torch.dtype = torch.float32) -> None:
    """Write a folder that transformers opens: config.json, model.safetensors, tokenizer.json."""
    names = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
    config = {"architectures": [model.config.architecture], "model_type": model.config.model_type,
              **model.config.to_json(), "dtype": names[dtype], "bos_token_id": tokenizer.bos,
              "eos_token_id": tokenizer.eos, "pad_token_id": tokenizer.pad}
    tensors = {key: value.detach().to(dtype).contiguous() for key, value in model.state_dict().items()}
    checkpoint.save(folder, tensors, config, {**tokenizer.files(), **(extra or {})})
