"""A Llama as one GGUF file for llama.cpp and what is built on it.

Everything is float32: with narrower weights llama.cpp would round what they are multiplied with, too.
Its own llama-quantize makes smaller files of this one.

llama.cpp rotates neighbouring numbers of a head and Hugging Face numbers half a head apart, so the rows
of q and k are put in another order. How a text is split before merging is not in the file: it
names one of llama.cpp's own rules. None of them is ours; the nearest is named, and said.

Source: the GGUF specification of ggml, and the names of tensors in the package `gguf` 0.19.
"""

from __future__ import annotations

import contextlib
import errno
import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from klieg.config import LlamaConfig
from klieg.errors import KliegError
from klieg.export.vocabulary import merges, spellings
from klieg.tokenizers import _WORDS, Tokenizer

if TYPE_CHECKING:
    from gguf import GGUFWriter

PACKAGES = ("gguf",)
FILE = "model.gguf"

NEAREST = "gpt-2"  # docs/export.md says where it parts from ours

_INSTEAD = {"marian": "llama.cpp has no encoder and decoder of the 2017 shape; export to ctranslate2, which needs no PyTorch "
                      "either.",
            "bert": "llama.cpp makes vectors of BERT and predicts no words; export to onnx."}

# Hugging Face's name of a part of a block, and GGUF's.
_PARTS = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
          "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
          "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
_WHOLE = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
          "lm_head.weight": "output.weight"}


def write(model: nn.Module, tokenizer: Tokenizer, folder: Path, name: str) -> list[str]:
    """Fills `folder` with model.gguf; returns what the user should know."""
    import gguf

    kind = model.config.model_type
    if kind != "llama":
        raise KliegError(_INSTEAD.get(kind, f"only llama models are written as GGUF here, and this is {kind}; export to "
                                            f"huggingface and use llama.cpp's convert_hf_to_gguf.py."))
    rule, said = _splitting(tokenizer)
    writer = gguf.GGUFWriter(folder / FILE, "llama")
    writer.add_name(name)
    if said:
        writer.add_description(said)
    _shape(writer, model.config)
    _vocabulary(writer, tokenizer, rule, model.vocabulary.shape[0])
    for key, tensor in _tensors(model).items():
        writer.add_tensor(key, tensor.numpy())
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    except OSError as e:  # numpy does not say why fewer bytes were written than it had
        with contextlib.suppress(OSError):
            writer.close()
        raise OSError(e.errno or errno.ENOSPC, e.strerror or "no space left on device") from None
    return [said] if said else []


def _shape(writer: GGUFWriter, c: LlamaConfig) -> None:
    writer.add_vocab_size(c.vocab_size)
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_block_count(c.num_hidden_layers)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_key_length(c.head_dim)
    writer.add_value_length(c.head_dim)
    writer.add_rope_dimension_count(c.head_dim)
    writer.add_rope_freq_base(c.rope_theta)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)


def _vocabulary(writer: GGUFWriter, tokenizer: Tokenizer, rule: str, size: int) -> None:
    from gguf import TokenType

    added = {t["id"]: t["special"] for t in json.loads(tokenizer.files()["tokenizer.json"])["added_tokens"]}
    types = [TokenType.UNUSED if id >= tokenizer.size else TokenType.NORMAL if id not in added
             else TokenType.CONTROL if added[id] else TokenType.USER_DEFINED for id in range(size)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(rule)
    writer.add_token_list(spellings(tokenizer, size))
    writer.add_token_types(types)
    writer.add_token_merges(merges(tokenizer))
    for add, id in ((writer.add_bos_token_id, tokenizer.bos), (writer.add_eos_token_id, tokenizer.eos),
                    (writer.add_pad_token_id, tokenizer.pad)):
        if id is not None:
            add(id)
    writer.add_add_bos_token(tokenizer.encode("")[:1] == [tokenizer.bos])
    writer.add_add_eos_token(False)


def _splitting(tokenizer: Tokenizer) -> tuple[str, str]:
    """llama.cpp's name for how the tokenizer splits a text, and what is to be said about it."""
    body = json.loads(tokenizer.files()["tokenizer.json"])
    splitter = body.get("pre_tokenizer") or {}
    if body["model"].get("type") != "BPE" or '"ByteLevel"' not in json.dumps(splitter) or body.get("normalizer"):
        raise KliegError("the tokenizer is no byte-level BPE; export to huggingface and use llama.cpp's convert_hf_to_gguf.py.")
    if splitter["type"] == "ByteLevel" and splitter.get("use_regex", True) and not splitter.get("add_prefix_space"):
        return "gpt-2", ""
    if _WORDS not in [part.get("pattern", {}).get("Regex") for part in splitter.get("pretokenizers", [])]:
        raise KliegError("llama.cpp's rule for this tokenizer is not known here; export to huggingface and use its "
                         "convert_hf_to_gguf.py.")
    return NEAREST, (f"llama.cpp has no rule that splits a text exactly as this tokenizer does; the file names the nearest, "
                     f"{NEAREST!r}, which differs at apostrophes ('tis, 'S). Where that matters, send it ids instead of text.")


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Weights under GGUF's names, in float32."""
    c, tensors = model.config, {}
    for name, tensor in model.state_dict().items():
        tensor = tensor.detach().float()
        if name in _WHOLE:
            tensors[_WHOLE[name]] = tensor
            continue
        layer, _, rest = name.removeprefix("model.layers.").partition(".")
        part, _, end = rest.rpartition(".")
        if part in ("self_attn.q_proj", "self_attn.k_proj"):
            tensor = _neighbours(tensor, c.num_attention_heads if "q_proj" in part else c.num_key_value_heads)
        tensors[f"blk.{layer}.{_PARTS[part]}.{end}"] = tensor
    if c.rope_scaling:
        plain = c.rope_theta ** -(torch.arange(0, c.head_dim, 2).float() / c.head_dim)
        tensors["rope_freqs.weight"] = plain / c.frequencies()
    return tensors


def _neighbours(rows: Tensor, heads: int) -> Tensor:
    """Rows (heads * d, ...) in which the two halves of each head take turns."""
    return rows.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2).contiguous()

