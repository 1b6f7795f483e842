"""Models as ONNX, for onnxruntime in any language, on any device.

A translator is two files. encoder.onnx reads a source and gives the keys and values that every decoder
layer will look at; decoder.onnx takes the next tokens, those memories and its own past, and gives logits
and the longer past. A decoder is decoder.onnx alone, without mask and memories. The first past is empty: p is 0.
BERT is one encoder.onnx that gives logits, or where it has no head its hidden states.

    encoder.onnx   ids (b, i), mask (b, i)          -> memory.L.key and memory.L.value (b, g, i, d)
    decoder.onnx   ids (b, t), mask (b, i), memory.*, past.L.key and past.L.value (b, g, p, d)
                                                    -> logits (b, t, vocabulary), present.*
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from klieg.export.graph import Graph
from klieg.export.vocabulary import output_bias

if TYPE_CHECKING:
    from onnx import ModelProto

PACKAGES = ("onnx",)


def write(model: nn.Module, folder: Path) -> list[str]:
    """Fills `folder` with the model's .onnx files; returns what the user should know."""
    import onnx

    for name, build in _FILES[model.config.model_type].items():
        onnx.save(build(model), str(folder / name))
    return []


class _Past:
    """The past keys and values of every layer: inputs that come out longer, as outputs."""

    def __init__(self, g: Graph, model: nn.Module) -> None:
        self._g, self._axes = g, ("batch", model.kv_heads, "past", model.head_width)
        self._old = [[g.given(f"past.{layer}.{what}", *self._axes, real=True) for what in ("key", "value")]
                     for layer in range(model.layers)]

    @property
    def first(self) -> str:
        """An input that has the past's length on axis 2."""
        return self._old[0][0]

    def extend(self, layer: int, k: str, v: str) -> list[str]:
        """All keys and values of a layer, its new ones last."""
        both = [self._g("Concat", old, new, axis=2) for old, new in zip(self._old[layer], (k, v), strict=True)]
        for what, name in zip(("key", "value"), both, strict=True):
            self._g.gives(f"present.{layer}.{what}", name, *self._axes[:2], "present", self._axes[3])
        return both


# ---- the translator ----

def _encoder(model: nn.Module) -> ModelProto:
    g, stack = Graph(), model.model.encoder
    ids, mask = (g.given(name, "batch", "source") for name in ("ids", "mask"))
    x, hidden = _embedded(g, model, stack, ids, g.slots(ids)), g.padding(mask)
    for n, block in enumerate(stack.layers):
        x = _block(g, f"encoder.{n}", block, x, hidden)
    if stack.layer_norm is not None:
        x = g.layer_norm(x, "encoder.norm", stack.layer_norm)
    for n, block in enumerate(model.model.decoder.layers):
        for what, layer in (("key", block.encoder_attn.k_proj), ("value", block.encoder_attn.v_proj)):
            memory = g.split(g.linear(x, f"decoder.{n}.memory.{what}", layer), model.kv_heads)
            g.gives(f"memory.{n}.{what}", memory, "batch", model.kv_heads, "source", model.head_width)
    return g.model("encoder")


def _decoder(model: nn.Module) -> ModelProto:
    g, stack = Graph(), model.model.decoder
    ids, mask = g.given("ids", "batch", "target"), g.given("mask", "batch", "source")
    axes = "batch", model.kv_heads, "source", model.head_width
    memories = [[g.given(f"memory.{n}.{what}", *axes, real=True) for what in ("key", "value")] for n in range(model.layers)]
    past = _Past(g, model)
    slots, future = g.causal(ids, past.first)
    x, hidden = _embedded(g, model, stack, ids, slots), g.padding(mask)
    for n, block in enumerate(stack.layers):
        x = _block(g, f"decoder.{n}", block, x, future, lambda k, v, n=n: past.extend(n, k, v), (*memories[n], hidden))
    if stack.layer_norm is not None:
        x = g.layer_norm(x, "decoder.norm", stack.layer_norm)
    logits = g("Add", _logits(g, x), g.weight("bias", output_bias(model)))
    g.gives("logits", logits, "batch", "target", model.vocabulary.shape[0])
    return g.model("decoder")


def _embedded(g: Graph, model: nn.Module, stack: nn.Module, ids: str, slots: str) -> str:
    words = g("Gather", g.weight("embedding", model.vocabulary), ids)
    table = stack.sines if hasattr(stack, "sines") else stack.embed_positions.weight
    return g("Add", g("Mul", words, g.number(stack.scale)), g("Gather", g.weight("positions", table), slots))


def _logits(g: Graph, x: str) -> str:
    """With the embedding itself as the last matrix."""
    return g("MatMul", x, g("Transpose", "embedding", perm=[1, 0]))


def _block(g: Graph, name: str, block: nn.Module, x: str, hidden: str, extend: Callable | None = None,
           memory: tuple[str, ...] | None = None) -> str:
    """A block of seq2seq.py; `extend` puts the past before its keys and values, `memory` is keys, values and what is hidden."""
    def own(x: str) -> str:
        attention = block.self_attn
        k, v = (g.split(g.linear(x, f"{name}.self.{what}", layer), attention.kv_heads)
                for what, layer in (("key", attention.k_proj), ("value", attention.v_proj)))
        return _looked(g, f"{name}.self", attention, x, *(extend(k, v) if extend else (k, v)), hidden)

    def other(x: str) -> str:
        return _looked(g, f"{name}.cross", block.encoder_attn, x, *memory)

    def inner(x: str) -> str:
        return g.linear(g("Relu", g.linear(x, f"{name}.fc1", block.fc1)), f"{name}.fc2", block.fc2)

    parts = [("self", block.self_attn_layer_norm, own), ("inner", block.final_layer_norm, inner)]
    if memory is not None:
        parts.insert(1, ("cross", block.encoder_attn_layer_norm, other))
    for what, norm, part in parts:
        if block.pre_norm:
            x = g("Add", x, part(g.layer_norm(x, f"{name}.{what}.norm", norm)))
        else:
            x = g.layer_norm(g("Add", x, part(x)), f"{name}.{what}.norm", norm)
    return x


def _looked(g: Graph, name: str, attention: nn.Module, x: str, k: str, v: str, hidden: str) -> str:
    """One call of attention, from the stream to the stream."""
    q = g.split(g.linear(x, f"{name}.query", attention.q_proj), attention.heads)
    width = attention.q_proj.weight.shape[0] // attention.heads
    y = g.attention(q, k, v, attention.heads, attention.kv_heads, width, hidden)
    return g.linear(y, f"{name}.out", attention.out_proj)


# ---- decoders ----

def _llama(model: nn.Module) -> ModelProto:
    g = Graph()
    ids = g.given("ids", "batch", "new")
    past = _Past(g, model)
    slots, future = g.causal(ids, past.first)
    x = g("Gather", g.weight("embedding", model.model.embed_tokens.weight), ids)
    turn = _rotation(g, slots, model)
    for n, block in enumerate(model.model.layers):
        own, mlp, name = block.self_attn, block.mlp, f"layer.{n}"
        y = g.rms_norm(x, f"{name}.norm", block.input_layernorm)
        q, k, v = (g.split(g.linear(y, f"{name}.{what}", layer), heads) for what, layer, heads in (
            ("query", own.q_proj, own.heads), ("key", own.k_proj, own.kv_heads), ("value", own.v_proj, own.kv_heads)))
        k, v = past.extend(n, turn(k), v)
        y = g.attention(turn(q), k, v, own.heads, own.kv_heads, model.head_width, future)
        x = g("Add", x, g.linear(y, f"{name}.out", own.o_proj))
        y = g.rms_norm(x, f"{name}.inner.norm", block.post_attention_layernorm)
        gate = g.linear(y, f"{name}.gate", mlp.gate_proj)
        y = g("Mul", g("Mul", gate, g("Sigmoid", gate)), g.linear(y, f"{name}.up", mlp.up_proj))
        x = g("Add", x, g.linear(y, f"{name}.down", mlp.down_proj))
    x = g.rms_norm(x, "norm", model.model.norm)
    tied = model.config.tie_word_embeddings
    g.gives("logits", _logits(g, x) if tied else g.linear(x, "head", model.lm_head), "batch", "new", model.vocabulary.shape[0])
    return g.model("decoder")


def _rotation(g: Graph, slots: str, model: nn.Module) -> Callable[[str], str]:
    """Turns each pair (x_m, x_{m+d/2}) of (b, h, i, d) by the angle of its slot."""
    half = model.head_width // 2
    angles = g("Mul", g("Unsqueeze", g("Cast", slots, to=1), g.whole(1)), g.weight("frequencies", model.frequencies))
    sine, cosine = g("Sin", angles), g("Cos", angles)
    sine, cosine = g("Concat", g("Neg", sine), sine, axis=-1), g("Concat", cosine, cosine, axis=-1)
    swapped = g.whole(*range(half, 2 * half), *range(half))
    return lambda x: g("Add", g("Mul", x, cosine), g("Mul", g("Gather", x, swapped, axis=3), sine))


def _gpt2(model: nn.Module) -> ModelProto:
    g, stack, c = Graph(), model.transformer, model.config
    ids = g.given("ids", "batch", "new")
    past = _Past(g, model)
    slots, future = g.causal(ids, past.first)
    words = g("Gather", g.weight("embedding", stack.wte.weight), ids)
    x = g("Add", words, g("Gather", g.weight("positions", stack.wpe.weight), slots))
    for n, block in enumerate(stack.h):
        name, joined = f"layer.{n}", block.attn.c_attn
        y = g.layer_norm(x, f"{name}.norm", block.ln_1)
        q, k, v = (g.split(g.affine(y, f"{name}.{what}", matrix, bias), c.n_head) for what, matrix, bias in zip(
            ("query", "key", "value"), joined.weight.chunk(3, 1), joined.bias.chunk(3), strict=True))
        y = g.attention(q, *past.extend(n, k, v), c.n_head, c.n_head, model.head_width, future)
        x = g("Add", x, g.affine(y, f"{name}.out", block.attn.c_proj.weight, block.attn.c_proj.bias))
        y = g.layer_norm(x, f"{name}.inner.norm", block.ln_2)
        y = g.gelu(g.affine(y, f"{name}.fc", block.mlp.c_fc.weight, block.mlp.c_fc.bias))
        x = g("Add", x, g.affine(y, f"{name}.proj", block.mlp.c_proj.weight, block.mlp.c_proj.bias))
    x = g.layer_norm(x, "norm", stack.ln_f)
    logits = _logits(g, x) if c.tie_word_embeddings else g.linear(x, "head", model.lm_head)
    g.gives("logits", logits, "batch", "new", model.vocabulary.shape[0])
    return g.model("decoder")


def _bert(model: nn.Module) -> ModelProto:
    g, tables = Graph(), model.bert["embeddings"]
    ids, mask, types = (g.given(name, "batch", "source") for name in ("ids", "mask", "types"))
    x = g("Add", g("Gather", g.weight("embedding", tables.word_embeddings.weight), ids),
          g("Gather", g.weight("types.table", tables.token_type_embeddings.weight), types))
    x = g("Add", x, g("Gather", g.weight("positions", tables.position_embeddings.weight), g.slots(ids)))
    x, hidden = g.layer_norm(x, "norm", tables.LayerNorm), g.padding(mask)
    for n, block in enumerate(model.bert["encoder"].layer):
        name, own = f"layer.{n}", block.attention.self
        q, k, v = (g.split(g.linear(x, f"{name}.{what}", getattr(own, what)), model.heads)
                   for what in ("query", "key", "value"))
        y = g.attention(q, k, v, model.heads, model.heads, model.head_width, hidden)
        for what, end in (("out", block.attention.output), ("inner", block.output)):
            if what == "inner":
                y = g.erf_gelu(g.linear(x, f"{name}.fc", block.intermediate.dense))
            x = g.layer_norm(g("Add", x, g.linear(y, f"{name}.{what}", end.dense)), f"{name}.{what}.norm", end.LayerNorm)
    if not model.config.headed:
        g.gives("hidden", x, "batch", "source", model.vocabulary.shape[1])
        return g.model("encoder")
    last = model.cls["predictions"]
    x = g.layer_norm(g.erf_gelu(g.linear(x, "head", last.transform.dense)), "head.norm", last.transform.LayerNorm)
    g.gives("logits", g("Add", _logits(g, x), g.weight("logits.bias", last.bias)), "batch", "source", model.vocabulary.shape[0])
    return g.model("encoder")


_FILES = {"marian": {"encoder.onnx": _encoder, "decoder.onnx": _decoder}, "llama": {"decoder.onnx": _llama},
          "gpt2": {"decoder.onnx": _gpt2}, "bert": {"encoder.onnx": _bert}}
