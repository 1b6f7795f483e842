"""Decoders: Llama's shape and GPT-2's, with tensor names and config.json exactly Hugging Face's.

Any engine opens what is saved here, and what was saved elsewhere in these two shapes opens
here; so Klieg trains and explains, and deploying is somebody else's good work.

    model, tokenizer = load("chat")
    logits = model(torch.tensor([tokenizer.encode("I love you")]))
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from klieg import checkpoint, half
from klieg.attention import Mask
from klieg.cache import Cache
from klieg.config import Config, GPT2Config, LlamaConfig, parse_config
from klieg.errors import KliegError, first_line, nearest
from klieg.layers import Context, Embedding, GPT2Block, Linear, LlamaBlock, Observer, RMSNorm, TransposedLinear, rotary
from klieg.tokenizers import Tokenizer


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


_MODELS: dict[type, type[Decoder]] = {LlamaConfig: Llama, GPT2Config: GPT2}


def outline(config: Config) -> Decoder:
    """A decoder whose matrices hold whatever the memory held: to be filled, or asked for its shape."""
    try:
        return _MODELS[type(config)](config)
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
