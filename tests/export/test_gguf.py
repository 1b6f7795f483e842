"""A GGUF file holds the model as llama.cpp reads it: weights, their order, and the vocabulary."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from exported import LLAMA3, TEXTS, saved

from klieg.errors import KliegError
from klieg.export import export
from klieg.tokenizers import Tokenizer


def by_gguf(path: Path, ids: list[int]) -> np.ndarray:
    """Logits of the last token, in float64, from what the file says alone: rotation of neighbours, as llama.cpp has it."""
    from gguf import GGUFReader

    file = GGUFReader(path)
    said = {name: field.contents() for name, field in file.fields.items()}
    w = {tensor.name: tensor.data.astype(np.float64) for tensor in file.tensors}
    heads, groups = said["llama.attention.head_count"], said["llama.attention.head_count_kv"]
    d = said["llama.rope.dimension_count"]
    factors = w.get("rope_freqs.weight", np.ones(d // 2))
    angles = np.arange(len(ids))[:, None] * said["llama.rope.freq_base"] ** (-np.arange(0, d, 2) / d) / factors
    turn = np.exp(1j * angles)[:, None]
    eps = said["llama.attention.layer_norm_rms_epsilon"]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * w[f"{name}.weight"]

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)

    def rotated(x: np.ndarray) -> np.ndarray:
        pairs = (x[..., 0::2] + 1j * x[..., 1::2]) * turn
        return np.stack([pairs.real, pairs.imag], -1).reshape(x.shape)

    x = w["token_embd.weight"][ids]
    future = np.triu(np.full((len(ids), len(ids)), -np.inf), 1)
    for n in range(said["llama.block_count"]):
        y = norm(x, f"blk.{n}.attn_norm")
        q, k, v = (linear(y, f"blk.{n}.attn_{part}").reshape(len(ids), -1, d) for part in "qkv")
        q, k = rotated(q), rotated(k)
        k, v = (np.repeat(part, heads // groups, axis=1) for part in (k, v))
        scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(d) + future
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        x = x + linear(np.einsum("hij,jhd->ihd", weights, v).reshape(len(ids), -1), f"blk.{n}.attn_output")
        y = norm(x, f"blk.{n}.ffn_norm")
        gate = linear(y, f"blk.{n}.ffn_gate")
        x = x + linear(gate / (1 + np.exp(-gate)) * linear(y, f"blk.{n}.ffn_up"), f"blk.{n}.ffn_down")
    return norm(x, "output_norm")[-1] @ w["output.weight" if "output.weight" in w else "token_embd.weight"].T


@torch.no_grad()
def test_gguf_holds_the_model_in_the_order_of_llama_cpp(decoders, tmp_path) -> None:
    from transformers import AutoModelForCausalLM

    for name, folder in (decoders | {"llama3": saved(tmp_path / "llama3" / "model", LLAMA3)}).items():
        if name == "gpt2":
            continue
        said, = export(str(folder), "gguf", tmp_path / name / "out")
        assert "no rule" in said and "'gpt-2'" in said
        ids = Tokenizer.load(folder).encode(TEXTS[0])
        expected = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()(torch.tensor([ids])).logits[0, -1]
        assert np.abs(by_gguf(tmp_path / name / "out" / "model.gguf", ids) - expected.numpy()).max() < 1e-5, name


def test_gguf_has_the_vocabulary(decoders, tmp_path) -> None:
    from gguf import GGUFReader, TokenType

    export(str(decoders["llama"]), "gguf", tmp_path / "out")
    said = {name: field.contents() for name, field in GGUFReader(tmp_path / "out" / "model.gguf").fields.items()}
    body = json.loads((decoders["llama"] / "tokenizer.json").read_text("utf-8"))
    pieces = said["tokenizer.ggml.tokens"]
    assert {piece: id for id, piece in enumerate(pieces) if id < len(body["model"]["vocab"])} == body["model"]["vocab"]
    assert len(pieces) == 300 and len(set(pieces)) == 300
    assert [merge.split(" ") for merge in said["tokenizer.ggml.merges"]] == [list(m) for m in body["model"]["merges"]]
    kinds = said["tokenizer.ggml.token_type"]
    assert kinds[:4] == [TokenType.CONTROL] * 3 + [TokenType.NORMAL] and kinds[-1] == TokenType.UNUSED
    assert [said[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos", "padding")] == [0, 1, 2]
    assert said["tokenizer.ggml.add_bos_token"] and not said["tokenizer.ggml.add_eos_token"]
    assert said["tokenizer.ggml.pre"] == "gpt-2" and "no rule" in said["general.description"]


def test_what_llama_cpp_cannot_do_is_refused_with_what_can(translator, decoders, tmp_path) -> None:
    for folder, words in ((translator, "no encoder and decoder of the 2017 shape; export to ctranslate2"),
                          (decoders["gpt2"], "convert_hf_to_gguf")):
        with pytest.raises(KliegError, match=words):
            export(str(folder), "gguf", tmp_path / "out")
        assert not (tmp_path / "out").exists()
