"""The decoders against transformers' own, both ways, and against bad folders."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from klieg import models
from klieg.attention import Mask
from klieg.config import GPT2Config, LlamaConfig
from klieg.errors import KliegError
from klieg.tokenizers import train

LLAMA = LlamaConfig(vocab_size=300, hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=6,
                    num_key_value_heads=2, head_dim=8, max_position_embeddings=64, tie_word_embeddings=True)
GPT2 = GPT2Config(vocab_size=300, n_embd=48, n_layer=3, n_head=4, n_positions=64, n_inner=96)
SHAPES = {
    "llama gqa": LLAMA,
    "llama mha, wide heads, untied, biases": replace(LLAMA, num_key_value_heads=6, head_dim=10, tie_word_embeddings=False,
                                                     attention_bias=True, mlp_bias=True),
    "llama mqa, rope llama3": replace(LLAMA, num_key_value_heads=1, rope_scaling={
        "rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32}),
    "llama rope linear": replace(LLAMA, rope_theta=5e5, rope_scaling={"rope_type": "linear", "factor": 2.0}),
    "gpt2": GPT2,
}


@pytest.fixture(scope="module")
def tokenizer():
    return train(iter(["the cat sat on the mat and looked at the moon", "我爱你，小猫。"]), 280)


def lively(config: models.Config, seed: int = 0) -> models.Decoder:
    """A model whose norms, biases and attention are far from their flat beginnings."""
    torch.manual_seed(seed)
    model = models.build(config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.randn_like(p) * (0.2 if p.ndim > 1 else 0.5) + (1.0 if "norm" in name or "ln_" in name else 0.0))
    return model.eval()


def theirs(folder: Path) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.parametrize("name", SHAPES)
@torch.no_grad()
def test_transformers_gives_our_logits_and_we_give_theirs(name: str, tokenizer, tmp_path: Path) -> None:
    ours = lively(SHAPES[name])
    models.save(tmp_path / "ours", ours, tokenizer)
    other = theirs(tmp_path / "ours")
    ids = torch.randint(0, 300, (2, 61))
    assert (ours(ids) - other(ids).logits).abs().max() < 1e-4
    other.save_pretrained(tmp_path / "theirs")
    tokenizer.save(tmp_path / "theirs")
    back, _ = models.load(str(tmp_path / "theirs"))
    assert (back(ids) - other(ids).logits).abs().max() < 1e-4
    assert back.config == SHAPES[name]


@torch.no_grad()
def test_gpt2_as_first_published_without_the_prefix_of_its_names(tokenizer, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    ours = lively(GPT2)
    models.save(tmp_path, ours, tokenizer)
    tensors = {key.removeprefix("transformer."): t for key, t in load_file(tmp_path / "model.safetensors").items()}
    tensors |= {f"h.{layer}.attn.bias": torch.ones(1, 1, 64, 64).tril() for layer in range(3)}
    save_file(tensors, tmp_path / "model.safetensors")
    ids = torch.randint(0, 300, (1, 20))
    assert torch.equal(models.load(str(tmp_path))[0](ids), ours(ids))


@pytest.mark.parametrize("name", ["llama gqa", "gpt2"])
@torch.no_grad()
def test_padding_changes_nothing_for_the_real_tokens(name: str) -> None:
    model, ids = lively(SHAPES[name]), torch.randint(0, 300, (1, 9))
    alone = model(ids)
    for left in (True, False):
        pad = torch.zeros(1, 4, dtype=torch.long)
        padded = torch.cat([pad, ids] if left else [ids, pad], 1)
        real = torch.cat([torch.zeros(1, 4), torch.ones(1, 9)] if left else [torch.ones(1, 9), torch.zeros(1, 4)], 1).bool()
        positions = (real.long().cumsum(1) - 1).clamp(min=0)
        out = model(padded, mask=Mask.padding(real), positions=positions)
        assert (out[real] - alone[0]).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["llama gqa", "gpt2"])
@torch.no_grad()
def test_documents_packed_in_a_row_do_not_see_each_other(name: str) -> None:
    model, first, second = lively(SHAPES[name]), torch.randint(0, 300, (1, 7)), torch.randint(0, 300, (1, 12))
    documents = torch.tensor([[0] * 7 + [1] * 12])
    positions = torch.tensor([[*range(7), *range(12)]])
    packed = model(torch.cat([first, second], 1), mask=Mask.documents(documents), positions=positions)
    assert (packed[:, :7] - model(first)).abs().max() < 1e-4
    assert (packed[:, 7:] - model(second)).abs().max() < 1e-4


def test_the_bundled_size_and_every_bad_config_is_named(tokenizer, tmp_path: Path) -> None:
    models.save(tmp_path, lively(LLAMA), tokenizer)
    good = json.loads((tmp_path / "config.json").read_text())
    for change, said in [({"model_type": "mamba"}, "mamba"), ({"num_key_value_heads": 4}, "divisor"),
                         ({"hidden_act": "relu"}, "hidden_act"), ({"hidden_size": -3}, "hidden_size"),
                         ({"hidden_size": None}, "hidden_size"), ({"head_dim": 7}, "even"),
                         ({"rope_parameters": {"rope_type": "yarn"}}, "yarn"), ({"vocab_size": "many"}, "vocab_size")]:
        (tmp_path / "config.json").write_text(json.dumps({**good, **change}))
        with pytest.raises(KliegError, match=said) as caught:
            models.load(str(tmp_path))
        assert "\n" not in str(caught.value)


def test_a_config_that_contradicts_the_tensors(tokenizer, tmp_path: Path) -> None:
    models.save(tmp_path, lively(LLAMA), tokenizer)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "intermediate_size": 81}))
    with pytest.raises(KliegError, match="80"):
        models.load(str(tmp_path))


def test_an_unknown_model_names_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "bundled", lambda: ["chat"])
    with pytest.raises(KliegError, match="'chat'"):
        models.load("chta")


def test_text_beyond_the_positions_is_refused() -> None:
    with pytest.raises(KliegError, match="64"):
        lively(LLAMA)(torch.zeros(1, 65, dtype=torch.long))
