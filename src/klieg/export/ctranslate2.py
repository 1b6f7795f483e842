"""A model for CTranslate2, which translates and generates several times faster than PyTorch, in int8 too.

Its own converter opens the files of named tokenizer classes; here its specification is filled from
the tensors themselves. The folder runs with `ctranslate2` and `tokenizers` alone.

Source: ctranslate2.specs of CTranslate2 4.8, which says how tensors are laid out.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from klieg.errors import KliegError
from klieg.export.vocabulary import output_bias, spellings
from klieg.seq2seq import sines
from klieg.tokenizers import Tokenizer

if TYPE_CHECKING:
    import numpy as np
    from ctranslate2.specs.common_spec import LayerNormSpec, LinearSpec
    from ctranslate2.specs.model_spec import ModelSpec
    from ctranslate2.specs.transformer_spec import TransformerDecoderSpec, TransformerEncoderSpec

PACKAGES = ("ctranslate2",)
QUANTIZATIONS = ("none", "int8", "int8_float32", "int8_float16", "int8_bfloat16", "int16", "float16", "bfloat16")

ROOM = 1024  # tokens that CTranslate2 allows a source by default; beyond the last position it fails, so sines go on to there


def write(model: nn.Module, tokenizer: Tokenizer, folder: Path, quantization: str) -> list[str]:
    """Fills `folder` with model.bin, config.json and the vocabulary; returns what the user should know."""
    kind = model.config.model_type
    if kind not in _SPECS:
        raise KliegError(f"CTranslate2 has no {kind} model that predicts words; export to huggingface or onnx.")
    pieces = spellings(tokenizer, model.vocabulary.shape[0])
    spec = _SPECS[kind](model, tokenizer, pieces)
    if kind == "marian":
        spec.register_source_vocabulary(pieces)
        spec.register_target_vocabulary(pieces)
    else:
        spec.register_vocabulary(pieces)
    spec.validate()
    spec.optimize(None if quantization == "none" else quantization)
    spec.save(str(folder))
    return []


def _array(tensor: Tensor) -> np.ndarray:
    """A float32 copy: quantization works in place."""
    return tensor.detach().float().cpu().numpy().copy()


def _linear(spec: LinearSpec, *layers: nn.Module) -> None:
    """One matrix (outputs, inputs) out of several layers of the same input, their outputs side by side."""
    import numpy as np

    spec.weight = np.concatenate([_array(layer.weight) for layer in layers])
    if layers[0].bias is not None:
        spec.bias = np.concatenate([_array(layer.bias) for layer in layers])


def _norm(spec: LayerNormSpec, norm: nn.Module) -> None:
    spec.gamma = _array(norm.weight)
    if getattr(norm, "bias", None) is not None:
        spec.beta = _array(norm.bias)


# ---- the translator ----

def _marian(model: nn.Module, tokenizer: Tokenizer, pieces: list[str]) -> ModelSpec:
    from ctranslate2.specs import transformer_spec as specs

    c = model.config
    variants = {"pre_norm": c.pre_norm, "num_heads_kv": c.kv_heads, "head_dim": c.head_dim}
    encoder = specs.TransformerEncoderSpec(c.encoder_layers, c.encoder_attention_heads, **variants)
    decoder = specs.TransformerDecoderSpec(c.decoder_layers, c.decoder_attention_heads, **variants)
    for place in (encoder.embeddings[0], decoder.embeddings, decoder.projection):  # which share what is equal
        place.weight = _array(model.vocabulary)
    for stack, part in ((encoder, model.model.encoder), (decoder, model.model.decoder)):
        longest = max(c.max_position_embeddings, ROOM)
        table = part.embed_positions.weight if c.learned_positions else sines(longest, c.d_model)
        stack.position_encodings.encodings = _array(table)
        _stack(stack, part)
    decoder.projection.bias = _array(output_bias(model))
    spec = specs.TransformerSpec(encoder, decoder)
    start, end, pad = (pieces[id] for id in (c.decoder_start_token_id, c.eos_token_id, c.pad_token_id))
    _configure(spec, {"decoder_start_token": start, "eos_token": end, "bos_token": start, "unk_token": pad,
                      "layer_norm_epsilon": 1e-5})
    return spec


def _stack(spec: TransformerEncoderSpec | TransformerDecoderSpec, stack: nn.Module) -> None:
    spec.scale_embeddings = float(stack.scale)
    if stack.layer_norm is not None:
        _norm(spec.layer_norm, stack.layer_norm)
    for layer, block in zip(spec.layer, stack.layers, strict=True):
        own = block.self_attn
        _norm(layer.self_attention.layer_norm, block.self_attn_layer_norm)
        _linear(layer.self_attention.linear[0], own.q_proj, own.k_proj, own.v_proj)
        _linear(layer.self_attention.linear[1], own.out_proj)
        if block.decoder:
            other = block.encoder_attn
            _norm(layer.attention.layer_norm, block.encoder_attn_layer_norm)
            _linear(layer.attention.linear[0], other.q_proj)
            _linear(layer.attention.linear[1], other.k_proj, other.v_proj)
            _linear(layer.attention.linear[2], other.out_proj)
        _norm(layer.ffn.layer_norm, block.final_layer_norm)
        _linear(layer.ffn.linear_0, block.fc1)
        _linear(layer.ffn.linear_1, block.fc2)


# ---- decoders ----

def _llama(model: nn.Module, tokenizer: Tokenizer, pieces: list[str]) -> ModelSpec:
    from ctranslate2.specs import attention_spec, common_spec
    from ctranslate2.specs import transformer_spec as specs

    c = model.config
    scaling = c.rope_scaling or {"rope_type": "default"}
    if scaling["rope_type"] not in ("default", "linear"):
        # Its own Llama3 scaling was tried: logits differ by as much as 7.
        raise KliegError(f"rotary scaling {scaling['rope_type']!r} comes out differently in CTranslate2; "
                         f"export to huggingface, onnx or gguf.")
    linear = scaling["rope_type"] == "linear"
    spec = specs.TransformerDecoderModelSpec.from_config(
        c.num_hidden_layers, c.num_attention_heads, activation=common_spec.Activation.SWISH, ffn_glu=True, rms_norm=True,
        rotary_dim=0, rotary_interleave=False, rotary_base=c.rope_theta, head_dim=c.head_dim,
        rotary_scaling_type=attention_spec.RotaryScalingType.Linear if linear else None,
        rotary_scaling_factor=scaling.get("factor", 1),
        num_heads_kv=None if c.num_key_value_heads == c.num_attention_heads else c.num_key_value_heads)
    decoder = spec.decoder
    decoder.scale_embeddings = False
    decoder.embeddings.weight = _array(model.model.embed_tokens.weight)
    _norm(decoder.layer_norm, model.model.norm)
    for layer, block in zip(decoder.layer, model.model.layers, strict=True):
        own, mlp = block.self_attn, block.mlp
        _norm(layer.self_attention.layer_norm, block.input_layernorm)
        _linear(layer.self_attention.linear[0], own.q_proj, own.k_proj, own.v_proj)
        _linear(layer.self_attention.linear[1], own.o_proj)
        _norm(layer.ffn.layer_norm, block.post_attention_layernorm)
        _linear(layer.ffn.linear_0, mlp.gate_proj)
        _linear(layer.ffn.linear_0_noact, mlp.up_proj)
        _linear(layer.ffn.linear_1, mlp.down_proj)
    decoder.projection.weight = _array(model.vocabulary)
    _configure(spec, {**_marks(tokenizer, pieces), "layer_norm_epsilon": c.rms_norm_eps})
    return spec


def _gpt2(model: nn.Module, tokenizer: Tokenizer, pieces: list[str]) -> ModelSpec:
    from ctranslate2.specs import common_spec
    from ctranslate2.specs import transformer_spec as specs

    c, stack = model.config, model.transformer
    spec = specs.TransformerDecoderModelSpec.from_config(c.n_layer, c.n_head, activation=common_spec.Activation.GELUTanh)
    decoder = spec.decoder
    decoder.scale_embeddings = False
    decoder.embeddings.weight = _array(stack.wte.weight)
    decoder.position_encodings.encodings = _array(stack.wpe.weight)
    _norm(decoder.layer_norm, stack.ln_f)
    for layer, block in zip(decoder.layer, stack.h, strict=True):
        _norm(layer.self_attention.layer_norm, block.ln_1)
        _norm(layer.ffn.layer_norm, block.ln_2)
        for linear, transposed in ((layer.self_attention.linear[0], block.attn.c_attn),
                                   (layer.self_attention.linear[1], block.attn.c_proj),
                                   (layer.ffn.linear_0, block.mlp.c_fc), (layer.ffn.linear_1, block.mlp.c_proj)):
            linear.weight, linear.bias = _array(transposed.weight.T), _array(transposed.bias)
    decoder.projection.weight = _array(model.vocabulary)
    _configure(spec, {**_marks(tokenizer, pieces), "layer_norm_epsilon": c.layer_norm_epsilon})
    return spec


def _marks(tokenizer: Tokenizer, pieces: list[str]) -> dict[str, str]:
    """The marks of a decoder; one that it does not have is '', which is no piece."""
    bos, eos = ("" if id is None else pieces[id] for id in (tokenizer.bos, tokenizer.eos))
    return {"bos_token": bos, "eos_token": eos, "unk_token": ""}


def _configure(spec: ModelSpec, settings: dict) -> None:
    for name, value in settings.items():
        setattr(spec.config, name, value)


_SPECS = {"marian": _marian, "llama": _llama, "gpt2": _gpt2}
