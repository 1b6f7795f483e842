"""The parts of a Transformer block, under the names that Hugging Face gives their tensors.

Each part is a few lines of torch; attention goes through `attend()`, the one door, and shows
what it computed to an observer when somebody watches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from klieg import half
from klieg.attention import Mask
from klieg.cache import Cache
from klieg.kernels import Attention, attend


@dataclass(frozen=True, eq=False)
class Observation:
    """What one call of attention saw and gave; shapes by the legend of attention.py."""

    layer: int
    q: Tensor
    k: Tensor
    v: Tensor
    unrotated_q: Tensor | None
    unrotated_k: Tensor | None
    mask: Mask
    scale: float
    attention: Attention
    kind: str = "self"
    """"self" in a decoder or in the only stack, "encoder", or "cross" for a decoder's look at its encoder."""


Observer = Callable[[Observation], None]


@dataclass(frozen=True, eq=False)
class Entry:
    """What is about to enter one call of attention, the cached keys included; shapes by the legend of attention.py."""

    layer: int
    kind: str
    q: Tensor
    k: Tensor
    v: Tensor
    mask: Mask
    first: int | None
    """The token of the first query; None where the queries are hypotheses of a search."""
    unrotated_q: Tensor | None = None
    unrotated_k: Tensor | None = None


Change = Callable[[Entry], Entry]


@dataclass(eq=False)
class Context:
    """What every layer of one forward pass shares."""

    mask: Mask
    rotation: tuple[Tensor, Tensor] | None = None
    cache: Cache | None = None
    observe: Observer | None = None
    kernel: str | None = None
    change: Change | None = None
    """Gives each call what it is to see instead; see changes.py."""


class Linear(nn.Linear):
    """x W^T + b, without first values: they come from a file, or from models.build()."""

    def reset_parameters(self) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        return half.linear(x, self.weight, self.bias)


class Embedding(nn.Embedding):
    """A row for every id, without first values; rows kept in bfloat16 come as float32."""

    def reset_parameters(self) -> None:
        pass

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids).float()


class RMSNorm(nn.Module):
    """x / rms(x) * weight, computed in float32 (Zhang & Sennrich 2019)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight, self.eps).to(x.dtype)


def rotary(positions: Tensor, frequencies: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every position's angles, the sine signed for rotate(): two tensors (b or 1, 1, i, d)."""
    angles = positions[:, None, :, None].float() * frequencies
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([cos, cos], dim=-1).to(dtype), torch.cat([-sin, sin], dim=-1).to(dtype)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each pair (x_m, x_{m+d/2}) by its position's angle (Su et al. 2021, RoFormer)."""
    cos, sin = rotation
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(b, i, heads * d) -> (b, heads, i, d), a view."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """(b, heads, i, d) -> (b, i, heads * d)."""
    return x.transpose(1, 2).flatten(2)


def attention_of(q: Tensor, k: Tensor, v: Tensor, layer: int, context: Context,
                 unrotated_q: Tensor | None = None, unrotated_k: Tensor | None = None) -> Tensor:
    """Cache, change, attend, observe: the steps that every self-attention has in common."""
    mask = context.mask
    if context.cache is not None:
        k, v = context.cache.extend(layer, k, v)
    if context.change is not None:
        entry = context.change(Entry(layer, "self", q, k, v, mask, k.shape[2] - q.shape[2], unrotated_q, unrotated_k))
        q, k, v, mask, unrotated_q, unrotated_k = (entry.q, entry.k, entry.v, entry.mask, entry.unrotated_q, entry.unrotated_k)
    attention = attend(q, k, v, mask, kernel=context.kernel)
    if context.observe is not None:
        context.observe(Observation(layer, q, k, v, unrotated_q, unrotated_k, mask, q.shape[-1] ** -0.5, attention))
    return attention.output


class GroupedAttention(nn.Module):
    """Llama's self-attention: rotary positions, `kv_heads` from all heads (MHA) to one (MQA)."""

    def __init__(self, width: int, heads: int, kv_heads: int, head_width: int, layer: int, bias: bool) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.layer = heads, kv_heads, layer
        self.q_proj = Linear(width, heads * head_width, bias=bias)
        self.k_proj = Linear(width, kv_heads * head_width, bias=bias)
        self.v_proj = Linear(width, kv_heads * head_width, bias=bias)
        self.o_proj = Linear(heads * head_width, width, bias=bias)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        raw_q, raw_k, v = (split_heads(y, heads) for y, heads in zip(
            half.together(x, self.q_proj, self.k_proj, self.v_proj), (self.heads, self.kv_heads, self.kv_heads), strict=True))
        q, k = rotate(torch.cat([raw_q, raw_k], dim=1), context.rotation).split([self.heads, self.kv_heads], dim=1)
        return self.o_proj(join_heads(attention_of(q, k, v, self.layer, context, raw_q, raw_k)))


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)) (Shazeer 2020)."""

    def __init__(self, width: int, inner: int, bias: bool) -> None:
        super().__init__()
        self.gate_proj = Linear(width, inner, bias=bias)
        self.up_proj = Linear(width, inner, bias=bias)
        self.down_proj = Linear(inner, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = half.together(x, self.gate_proj, self.up_proj)
        return self.down_proj(F.silu(gate) * up)


class LlamaBlock(nn.Module):
    """Pre-norm: x + attention(norm(x)), then x + SwiGLU(norm(x))."""

    def __init__(self, width: int, inner: int, heads: int, kv_heads: int, head_width: int, layer: int,
                 eps: float, attention_bias: bool, mlp_bias: bool) -> None:
        super().__init__()
        self.self_attn = GroupedAttention(width, heads, kv_heads, head_width, layer, attention_bias)
        self.mlp = SwiGLU(width, inner, mlp_bias)
        self.input_layernorm = RMSNorm(width, eps)
        self.post_attention_layernorm = RMSNorm(width, eps)

    @property
    def outward(self) -> Tensor:
        """W_O, what each head's output is multiplied by before it joins the stream: (h, e, width)."""
        return self.self_attn.o_proj.weight.T.unflatten(0, (self.self_attn.heads, -1))

    def forward(self, x: Tensor, context: Context) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), context)
        return x + self.mlp(self.post_attention_layernorm(x))


class TransposedLinear(nn.Module):
    """x W + b with W (in, out), the way GPT-2 stores its matrices."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs))
        self.bias = nn.Parameter(torch.empty(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


class JoinedAttention(nn.Module):
    """GPT-2's self-attention: q, k and v from one matrix, every head with keys of its own."""

    def __init__(self, width: int, heads: int, layer: int) -> None:
        super().__init__()
        self.heads, self.layer = heads, layer
        self.c_attn = TransposedLinear(width, 3 * width)
        self.c_proj = TransposedLinear(width, width)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        q, k, v = (split_heads(part, self.heads) for part in self.c_attn(x).chunk(3, dim=-1))
        return self.c_proj(join_heads(attention_of(q, k, v, self.layer, context)))


class FeedForward(nn.Module):
    """GPT-2's two matrices with the tanh form of GELU between them."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.c_fc = TransposedLinear(width, inner)
        self.c_proj = TransposedLinear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))


class GPT2Block(nn.Module):
    """Pre-norm with LayerNorm: x + attention(ln_1(x)), then x + feed-forward(ln_2(x))."""

    def __init__(self, width: int, inner: int, heads: int, layer: int, eps: float) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, eps)
        self.attn = JoinedAttention(width, heads, layer)
        self.ln_2 = nn.LayerNorm(width, eps)
        self.mlp = FeedForward(width, inner)

    @property
    def outward(self) -> Tensor:
        """W_O, what each head's output is multiplied by before it joins the stream: (h, e, width)."""
        return self.attn.c_proj.weight.unflatten(0, (self.attn.heads, -1))

    def forward(self, x: Tensor, context: Context) -> Tensor:
        x = x + self.attn(self.ln_1(x), context)
        return x + self.mlp(self.ln_2(x))
