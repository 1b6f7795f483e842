"""The model of 2017: Hugging Face's Marian number for number, and its variants against the formula."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import MarianConfig as Theirs
from transformers import MarianMTModel

from klieg import models
from klieg.config import MarianConfig
from klieg.errors import KliegError
from klieg.layers import Observation
from klieg.seq2seq import Marian, sines
from klieg.tokenizers import Tokenizer, train

CONFIG = MarianConfig(vocab_size=300, d_model=32, encoder_layers=2, decoder_layers=3, encoder_attention_heads=4,
                      decoder_attention_heads=2, encoder_ffn_dim=48, decoder_ffn_dim=40, max_position_embeddings=24,
                      pad_token_id=2, eos_token_id=1, decoder_start_token_id=2, scale_embedding=True, dropout=0.3)
VARIANTS = {"pre-norm": {"pre_norm": True}, "learned": {"learned_positions": True}, "narrow heads": {"head_dim": 6},
            "grouped": {"kv_heads": 1}, "all": {"pre_norm": True, "learned_positions": True, "head_dim": 6, "kv_heads": 2}}


def lively(config: MarianConfig = CONFIG, seed: int = 0) -> Marian:
    """A model whose every number matters: biases and norms are random too."""
    torch.manual_seed(seed)
    model = models.build(config)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
        model.final_logits_bias.normal_()
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train(["hello world", "good night"] * 20, 300, opened=False, closed=True)


@pytest.fixture
def texts() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """source, target and which source tokens are real; the second and third source are shorter."""
    torch.manual_seed(1)
    source, target = torch.randint(3, 300, (3, 9)), torch.randint(3, 300, (3, 7))
    real = torch.arange(9) < torch.tensor([9, 5, 1])[:, None]
    return source.masked_fill(~real, 2), target, real


def test_ours_opens_in_transformers(tmp_path: Path, tokenizer: Tokenizer, texts: tuple) -> None:
    source, target, real = texts
    ours = lively()
    models.save(tmp_path / "m", ours, tokenizer)
    theirs, found = MarianMTModel.from_pretrained(tmp_path / "m", output_loading_info=True)
    assert not found["missing_keys"] and not found["unexpected_keys"] and not found["mismatched_keys"]
    expected = theirs.eval()(input_ids=source, attention_mask=real.long(), decoder_input_ids=target).logits
    assert (ours(source, target, real) - expected).abs().max() < 1e-5
    again, _ = models.load(str(tmp_path / "m"))
    assert torch.equal(again(source, target, real), ours(source, target, real))


@pytest.mark.parametrize("scaled", [True, False])
def test_theirs_opens_here(tmp_path: Path, tokenizer: Tokenizer, texts: tuple, scaled: bool) -> None:
    source, target, real = texts
    torch.manual_seed(3)
    theirs = MarianMTModel(Theirs(**{**CONFIG.to_json(), "scale_embedding": scaled})).eval()
    with torch.no_grad():
        for name, p in theirs.named_parameters():
            if "embed_positions" not in name:
                p.add_(torch.randn_like(p) * 0.1)
        theirs.final_logits_bias.normal_()
    theirs.save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    ours, _ = models.load(str(tmp_path))
    expected = theirs(input_ids=source, attention_mask=real.long(), decoder_input_ids=target).logits
    assert (ours(source, target, real) - expected).abs().max() < 1e-5


def test_stored_sines_are_taken_and_other_positions_refused(tmp_path: Path, tokenizer: Tokenizer, texts: tuple) -> None:
    from safetensors.torch import load_file, save_file

    models.save(tmp_path, lively(), tokenizer)
    stored, name = load_file(tmp_path / "model.safetensors"), "model.encoder.embed_positions.weight"
    save_file({**stored, name: sines(24, 32).half()}, tmp_path / "model.safetensors", {"format": "pt"})
    again, _ = models.load(str(tmp_path))
    assert torch.equal(again(*texts), lively()(*texts))
    save_file({**stored, name: sines(24, 32).flip(0).contiguous()}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(KliegError, match=r"embed_positions.weight is not expected"):
        models.load(str(tmp_path))


def test_what_marian_cannot_do_is_saved_under_another_name(tmp_path: Path, tokenizer: Tokenizer, texts: tuple) -> None:
    from transformers import AutoConfig

    model = lively(replace(CONFIG, kv_heads=2, decoder_attention_heads=4))
    models.save(tmp_path / "m", model, tokenizer)
    with pytest.raises(ValueError, match="klieg"):
        AutoConfig.from_pretrained(tmp_path / "m")
    again, _ = models.load(str(tmp_path / "m"))
    assert again.config == model.config and torch.equal(again(*texts), model(*texts))


def test_sines_are_the_papers() -> None:
    """PE(pos, 2k) = sin(pos / 10000^(2k/d)), PE(pos, 2k + 1) the cosine; ours has the sines first."""
    from math import cos, sin

    found = sines(40, 6)
    for pos in (0, 1, 17, 39):
        for k in range(3):
            angle = pos / 10000 ** (2 * k / 6)
            assert found[pos, k] == pytest.approx(sin(angle), abs=1e-6)
            assert found[pos, 3 + k] == pytest.approx(cos(angle), abs=1e-6)


def by_hand(model: Marian, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """One pair without padding, from the weights alone, in float64."""
    c, w = model.config, {name: value.double() for name, value in model.state_dict().items()}
    groups_of = {"encoder": c.kv_heads or c.encoder_attention_heads, "decoder": c.kv_heads or c.decoder_attention_heads}

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x, name):
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    def attention(x, memory, name, heads, groups, causal):
        q, k, v = linear(x, f"{name}.q_proj"), linear(memory, f"{name}.k_proj"), linear(memory, f"{name}.v_proj")
        width, out = q.shape[1] // heads, []
        for head in range(heads):
            g = head // (heads // groups)
            s = q[:, head * width:][:, :width] @ k[:, g * width:][:, :width].T / width ** 0.5
            if causal:
                s = s + torch.full_like(s, -torch.inf).triu(1)
            out.append(s.softmax(-1) @ v[:, g * width:][:, :width])
        return linear(torch.cat(out, 1), f"{name}.out_proj")

    def stack(ids, side, heads, layers, memory=None):
        groups = groups_of[side]
        table = w[f"model.{side}.embed_positions.weight"] if c.learned_positions else sines(99, c.d_model).double()
        x = w["model.shared.weight"][ids] * c.d_model ** 0.5 + table[:len(ids)]
        for n in range(layers):
            at = f"model.{side}.layers.{n}"
            parts = [("self_attn", lambda y, at=at: attention(y, y, f"{at}.self_attn", heads, groups, side == "decoder"))]
            if side == "decoder":
                name = f"{at}.encoder_attn"
                parts.append(("encoder_attn", lambda y, name=name: attention(y, memory, name, heads, groups, False)))
            parts.append(("final", lambda y, at=at: linear(linear(y, f"{at}.fc1").relu(), f"{at}.fc2")))
            for name, part in parts:
                x = x + part(norm(x, f"{at}.{name}_layer_norm")) if c.pre_norm else norm(x + part(x), f"{at}.{name}_layer_norm")
        return norm(x, f"model.{side}.layer_norm") if c.pre_norm else x

    memory = stack(source, "encoder", c.encoder_attention_heads, c.encoder_layers)
    x = stack(target, "decoder", c.decoder_attention_heads, c.decoder_layers, memory)
    return x @ w["model.shared.weight"].T + w["final_logits_bias"]


@pytest.mark.parametrize("change", [{}, *VARIANTS.values()], ids=["2017", *VARIANTS])
def test_every_variant_is_its_formula(change: dict, texts: tuple) -> None:
    source, target, real = texts
    model = lively(replace(CONFIG, decoder_attention_heads=4, **change))
    found = model(source, target, real)
    for row in range(3):
        expected = by_hand(model, source[row][real[row]], target[row])
        assert (found[row] - expected).abs().max() < 2e-4


@pytest.mark.parametrize("change", [{}, {"kv_heads": 2}], ids=["2017", "grouped"])
@pytest.mark.parametrize("beams", [1, 3])
def test_step_by_step_is_all_at_once(change: dict, beams: int, texts: tuple) -> None:
    source, target, real = texts
    model = lively(replace(CONFIG, decoder_attention_heads=4, **change))
    expected = model(source, target, real)
    memory, cache = model.encode(source, real), model.new_cache(3 * beams, 7)
    rows = target.repeat_interleave(beams, 0)
    steps = [model.head(model.decode(rows[:, n:n + 1], memory, cache=cache)) for n in range(7)]
    found = torch.cat(steps, 1).unflatten(0, (3, beams))
    assert (found - expected[:, None]).abs().max() < 1e-5


def test_the_observer_sees_every_call_in_order(texts: tuple) -> None:
    seen: list[Observation] = []
    lively()(*texts, observe=seen.append)
    assert [(call.kind, call.layer) for call in seen] == [
        ("encoder", 0), ("encoder", 1), ("self", 0), ("cross", 0), ("self", 1), ("cross", 1), ("self", 2), ("cross", 2)]
    assert [tuple(call.q.shape) for call in (seen[0], seen[3])] == [(3, 4, 9, 8), (3, 2, 7, 16)]
    assert seen[3].k.shape == (3, 2, 9, 16)


def test_dropout_works_while_training_only(texts: tuple) -> None:
    model = lively()
    assert torch.equal(model(*texts), model(*texts))
    model.train()
    assert not torch.equal(model(*texts), model(*texts))


@pytest.mark.parametrize("width,inner,heads,expected", [(512, 2048, 8, 63.1e6), (1024, 4096, 16, 214.3e6)], ids=["base", "big"])
def test_base_and_big_have_the_papers_counts(width: int, inner: int, heads: int, expected: float) -> None:
    """65 and 213 million in table 3, with some 37,000 pieces; ours are counted with exactly 37,000."""
    with torch.device("meta"):
        model = models.outline(replace(CONFIG, vocab_size=37000, d_model=width, encoder_layers=6, decoder_layers=6,
                                       encoder_attention_heads=heads, decoder_attention_heads=heads, encoder_ffn_dim=inner,
                                       decoder_ffn_dim=inner))
    assert model.parameter_count == pytest.approx(expected, rel=1e-3)


def test_a_text_beyond_the_positions_is_refused() -> None:
    with pytest.raises(KliegError, match=r"25 tokens.*24 positions"):
        lively()(torch.full((1, 25), 5), torch.full((1, 2), 5))


@pytest.mark.parametrize("kv_heads", [4, 1])
def test_first_weights_of_q_k_and_v_are_glorots_of_one_matrix(kv_heads):
    width = 64
    config = replace(CONFIG, d_model=width, encoder_attention_heads=4, decoder_attention_heads=4, kv_heads=kv_heads)
    model = models.build(config)
    for block in [*model.model.encoder.layers, *model.model.decoder.layers]:
        parts = [block.self_attn.q_proj.weight, block.self_attn.k_proj.weight, block.self_attn.v_proj.weight]
        bound = (6 / (width + sum(len(part) for part in parts))) ** 0.5
        largest = max(part.abs().max().item() for part in parts)
        assert 0.98 * bound < largest <= bound * (1 + 1e-6)
        assert block.self_attn.out_proj.weight.abs().max() > 1.1 * bound
