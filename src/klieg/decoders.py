"""Decoders: Llama's shape and GPT-2's, with tensor names and config.json exactly Hugging Face's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from klieg import half
from klieg.attention import Mask
from klieg.cache import Cache
from klieg.config import Config, GPT2Config, LlamaConfig
from klieg.errors import KliegError
from klieg.layers import Change, Context, Embedding, GPT2Block, Linear, LlamaBlock, Observer, RMSNorm, rotary


class Decoder(nn.Module):
    """What both decoders share: ids in, logits out, with an optional mask, cache and observer."""

    config: Config
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    positions: int
    change: Change | None = None
    """What every call of attention sees instead; klieg.changes.changed() gives a model that has one."""

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
        context = Context(Mask.causal() & (mask or Mask()), cache=cache, observe=observe, kernel=kernel,
                          change=self.change)
        x = self.embedded(ids, positions, context)
        for block in self.blocks:
            x = block(x, context)
        x = self.normed(x)
        if cache is not None:
            cache.advance(ids.shape[1])
        return x

    @property
    def blocks(self) -> nn.ModuleList:
        """The blocks, in order; each takes the stream and the context."""
        raise NotImplementedError

    def embedded(self, ids: Tensor, positions: Tensor, context: Context) -> Tensor:
        """The stream before the first block: (b, i, width). The context is told what the blocks need of the positions."""
        raise NotImplementedError

    def normed(self, x: Tensor) -> Tensor:
        """The stream after the last block as head() takes it: (..., width)."""
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

    @property
    def blocks(self) -> nn.ModuleList:
        return self.model.layers

    def embedded(self, ids: Tensor, positions: Tensor, context: Context) -> Tensor:
        x = self.model.embed_tokens(ids)
        context.rotation = rotary(positions, self.frequencies, x.dtype)
        return x

    def normed(self, x: Tensor) -> Tensor:
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

    @property
    def blocks(self) -> nn.ModuleList:
        return self.transformer.h

    def embedded(self, ids: Tensor, positions: Tensor, context: Context) -> Tensor:
        return self.transformer.wte(ids) + self.transformer.wpe(positions)

    def normed(self, x: Tensor) -> Tensor:
        return self.transformer.ln_f(x)

    @property
    def vocabulary(self) -> nn.Parameter:
        return self.transformer.wte.weight if self.config.tie_word_embeddings else self.lm_head.weight
