"""The encoder and decoder of Vaswani et al. 2017, with tensor names and config.json of Hugging Face's Marian.

The encoder reads the source once and gives its memory; the decoder writes the target a token at a
time, looking at what it has written (self-attention) and at the memory (cross-attention).

    model = build(MarianConfig(...))
    logits = model(source, target, real)          # training: all positions at once
    memory = model.encode(source, real)           # translating: see beam.py
    hidden = model.decode(target[:, :1], memory, cache=model.new_cache(len(source)))

Source: "Attention Is All You Need", figure 1; variants of its table 3 by MarianConfig.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from klieg import dropout, half
from klieg.attention import Mask
from klieg.cache import Cache
from klieg.config import MarianConfig
from klieg.errors import KliegError
from klieg.kernels import attend
from klieg.layers import Change, Embedding, Entry, Linear, Observation, Observer, join_heads, split_heads


@dataclass(eq=False)
class Memory:
    """What the encoder made of its sources: hidden (b, i, width); real (b, i), bool, or None where nothing is padding."""

    hidden: Tensor
    real: Tensor | None
    kept: list[tuple[Tensor, Tensor]]
    """Keys and values (b, g, i, d) for each decoder layer."""

    @cached_property
    def mask(self) -> Mask:
        """Hides the padding. One for all steps: a kernel prepares a mask once."""
        return Mask() if self.real is None else Mask.padding(self.real)

    def select(self, rows: Tensor) -> Memory:
        """The memory of some of the sources, by their rows."""
        kept = [(k[rows], v[rows]) for k, v in self.kept]
        return Memory(self.hidden[rows], None if self.real is None else self.real[rows], kept)


@dataclass(eq=False)
class Pass:
    """What every layer of one pass through a stack shares."""

    mask: Mask
    memory: Memory | None = None
    memory_mask: Mask | None = None
    cache: Cache | None = None
    observe: Observer | None = None
    kernel: str | None = None
    change: Change | None = None


def sines(positions: int, width: int) -> Tensor:
    """The paper's section 3.5: (positions, width). All sines come first, as Marian has them, and not in turns with cosines."""
    angles = torch.arange(positions, dtype=torch.float64)[:, None] / 10000 ** (torch.arange(0, width, 2).double() / width)
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


class ProjectedAttention(nn.Module):
    """q, k, v and the output each with a matrix and a bias; the keys are those of x itself or of the memory."""

    def __init__(self, c: MarianConfig, heads: int, layer: int, kind: str) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.layer, self.kind = heads, c.kv_heads or heads, layer, kind
        width = c.head_dim or c.d_model // heads
        self.q_proj = Linear(c.d_model, heads * width)
        self.k_proj = Linear(c.d_model, self.kv_heads * width)
        self.v_proj = Linear(c.d_model, self.kv_heads * width)
        self.out_proj = Linear(heads * width, c.d_model)

    def forward(self, x: Tensor, run: Pass) -> Tensor:
        if self.kind == "cross":
            q, (k, v), mask = split_heads(self.q_proj(x), self.heads), run.memory.kept[self.layer], run.memory_mask
        else:
            counts = self.heads, self.kv_heads, self.kv_heads
            projected = half.together(x, self.q_proj, self.k_proj, self.v_proj)
            q, k, v = (split_heads(y, heads) for y, heads in zip(projected, counts, strict=True))
            mask = run.mask
            if run.cache is not None:
                k, v = run.cache.extend(self.layer, k, v)
        beams = q.shape[0] // k.shape[0]
        if beams > 1:
            # The beams of one source are further queries of it: nothing of the memory is copied for them.
            q = q.unflatten(0, (-1, beams)).transpose(1, 2).flatten(2, 3)
        if run.change is not None:
            first = k.shape[2] - q.shape[2] if self.kind != "cross" else 0 if run.cache is None and beams == 1 else None
            entry = run.change(Entry(self.layer, self.kind, q, k, v, mask, first))
            q, k, v, mask = entry.q, entry.k, entry.v, entry.mask
        found = attend(q, k, v, mask, kernel=run.kernel)
        output = found.output
        if beams > 1:
            output = output.unflatten(2, (beams, -1)).transpose(1, 2).flatten(0, 1)
        if run.observe is not None:
            run.observe(Observation(self.layer, q, k, v, None, None, mask, q.shape[-1] ** -0.5, found, self.kind))
        return self.out_proj(join_heads(output))


class Block(nn.Module):
    """Attention (and in a decoder a second one, to the memory), then two matrices with ReLU between them.

    Each part is added to the stream and normed after it (2017), or gets the normed stream (pre_norm).
    """

    def __init__(self, c: MarianConfig, layer: int, decoder: bool) -> None:
        super().__init__()
        heads, inner = ((c.decoder_attention_heads, c.decoder_ffn_dim) if decoder
                        else (c.encoder_attention_heads, c.encoder_ffn_dim))
        self.self_attn = ProjectedAttention(c, heads, layer, "self" if decoder else "encoder")
        self.self_attn_layer_norm = nn.LayerNorm(c.d_model)
        if decoder:
            self.encoder_attn = ProjectedAttention(c, heads, layer, "cross")
            self.encoder_attn_layer_norm = nn.LayerNorm(c.d_model)
        self.fc1 = Linear(c.d_model, inner)
        self.fc2 = Linear(inner, c.d_model)
        self.final_layer_norm = nn.LayerNorm(c.d_model)
        self.decoder, self.pre_norm = decoder, c.pre_norm
        self.dropout, self.activation_dropout = c.dropout, c.activation_dropout

    def forward(self, x: Tensor, run: Pass) -> Tensor:
        x = self._add(x, self.self_attn_layer_norm, lambda x: self.self_attn(x, run))
        if self.decoder:
            x = self._add(x, self.encoder_attn_layer_norm, lambda x: self.encoder_attn(x, run))
        return self._add(x, self.final_layer_norm, self._feed_forward)

    def _add(self, x: Tensor, norm: nn.LayerNorm, part: Callable[[Tensor], Tensor]) -> Tensor:
        if self.pre_norm:
            return dropout.add(x, part(norm(x)), self.dropout, self.training)
        return norm(dropout.add(x, part(x), self.dropout, self.training))

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.fc2(dropout.add(None, F.relu(self.fc1(x)), self.activation_dropout, self.training))


class Stack(nn.Module):
    """The encoder or the decoder: positions and blocks on top of embedded tokens."""

    def __init__(self, c: MarianConfig, decoder: bool) -> None:
        super().__init__()
        self.scale = c.d_model ** 0.5 if c.scale_embedding else 1.0
        self.dropout = c.dropout
        if c.learned_positions:
            self.embed_positions = Embedding(c.max_position_embeddings, c.d_model)
        else:
            self.register_buffer("sines", sines(c.max_position_embeddings, c.d_model), persistent=False)
        layers = c.decoder_layers if decoder else c.encoder_layers
        self.layers = nn.ModuleList(Block(c, layer, decoder) for layer in range(layers))
        self.layer_norm = nn.LayerNorm(c.d_model) if c.pre_norm else None

    def forward(self, embedded: Tensor, start: int, run: Pass) -> Tensor:
        place = slice(start, start + embedded.shape[1])
        positions = self.sines[place] if hasattr(self, "sines") else self.embed_positions.weight[place]
        x = dropout.add(None, embedded * self.scale + positions, self.dropout, self.training)
        for block in self.layers:
            x = block(x, run)
        return x if self.layer_norm is None else self.layer_norm(x)


class _MarianStacks(nn.Module):
    def __init__(self, c: MarianConfig) -> None:
        super().__init__()
        self.shared = Embedding(c.vocab_size, c.d_model)
        self.encoder = Stack(c, decoder=False)
        self.decoder = Stack(c, decoder=True)


class Marian(nn.Module):
    """Source ids and target ids in, logits of the next target token out."""

    change: Change | None = None
    """What every call of attention sees instead; klieg.changes.changed() gives a model that has one."""

    def __init__(self, config: MarianConfig) -> None:
        super().__init__()
        self.config = config
        self.layers, self.heads = config.decoder_layers, config.decoder_attention_heads
        self.kv_heads = config.kv_heads or self.heads
        self.head_width = config.head_dim or config.d_model // self.heads
        self.positions = config.max_position_embeddings
        self.model = _MarianStacks(config)
        self.register_buffer("final_logits_bias", torch.zeros(1, config.vocab_size))

    def forward(self, source: Tensor, target: Tensor, real: Tensor | None = None, *, observe: Observer | None = None,
                kernel: str | None = None) -> Tensor:
        """source (b, i), target (b, t), int64; real (b, i), bool, marks source tokens -> logits (b, t, vocabulary).

        A source ends in the end mark; a target begins with decoder_start_token_id.
        """
        return self.head(self.hidden(source, target, real, observe=observe, kernel=kernel))

    def hidden(self, source: Tensor, target: Tensor, real: Tensor | None = None, *, observe: Observer | None = None,
               kernel: str | None = None) -> Tensor:
        """The decoder's stream: (b, t, width); forward() without the vocabulary."""
        return self.decode(target, self.encode(source, real, observe=observe, kernel=kernel), observe=observe, kernel=kernel)

    def encode(self, source: Tensor, real: Tensor | None = None, *, observe: Observer | None = None,
               kernel: str | None = None) -> Memory:
        """The memory of the sources; padding stands on the right. `observe` gets calls of the kind "encoder"."""
        self._fits(source.shape[1])
        run = Pass(Mask() if real is None else Mask.padding(real), observe=observe, kernel=kernel,
                   change=self.change)
        hidden = self.model.encoder(self.model.shared(source), 0, run)
        attentions = [block.encoder_attn for block in self.model.decoder.layers]
        projected = half.together(hidden, *(matrix for a in attentions for matrix in (a.k_proj, a.v_proj)))
        heads = [split_heads(y, self.kv_heads) for y in projected]
        return Memory(hidden, real, list(zip(heads[::2], heads[1::2], strict=True)))

    def decode(self, target: Tensor, memory: Memory, *, cache: Cache | None = None, observe: Observer | None = None,
               kernel: str | None = None) -> Tensor:
        """The stream over the next target tokens: (n, t, width).

        target (n, t) may have several rows for each source, those of one source side by side.
        `observe` gets, for each layer in turn, a call of the kind "self" and one of the kind "cross".
        """
        start = cache.length if cache is not None else 0
        self._fits(start + target.shape[1])
        run = Pass(Mask.causal(), memory, memory.mask, cache, observe, kernel, self.change)
        x = self.model.decoder(self.model.shared(target), start, run)
        if cache is not None:
            cache.advance(target.shape[1])
        return x

    def _fits(self, tokens: int) -> None:
        if tokens > self.positions:
            raise KliegError(f"the text needs {tokens} tokens and the model has {self.positions} positions; cut the text.")

    @property
    def vocabulary(self) -> nn.Parameter:
        """The matrix of embeddings and of the logits: (vocabulary, width)."""
        return self.model.shared.weight

    def head(self, hidden: Tensor) -> Tensor:
        """hidden (..., width) -> logits (..., vocabulary)."""
        return half.linear(hidden, self.vocabulary, self.final_logits_bias[0])

    def sine_tables(self) -> dict[str, Tensor]:
        """The positions that older files of Marian hold though they follow from the config: (positions, width) by name."""
        return {f"model.{name}.embed_positions.weight": stack.sines for name, stack in self.model.named_children()
                if hasattr(stack, "sines")}

    def new_cache(self, batch: int, capacity: int | None = None) -> Cache:
        """An empty cache for `batch` targets; capacity defaults to all positions."""
        return Cache(self.layers, batch, self.kv_heads, self.head_width, capacity or self.positions,
                     device=self.vocabulary.device)

    @property
    def parameter_count(self) -> int:
        return sum(p.numel() for p in self.parameters())
