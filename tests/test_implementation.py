"""attn_implementation="klieg": the numbers of transformers' eager attention, under masks that are rules."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from families import FAMILIES, Family
from test_families import MODES
from torch import nn

import klieg
from klieg.errors import KliegError
from klieg.watching import implementation


@pytest.fixture(autouse=True, scope="module")
def _registered() -> Iterator[None]:
    implementation.register()
    with torch.no_grad():
        yield


def ours(model: nn.Module) -> nn.Module:
    made = copy.deepcopy(model)
    made.set_attn_implementation("klieg")
    assert made.config._attn_implementation == "klieg"
    return made


def eager(model: nn.Module) -> nn.Module:
    made = copy.deepcopy(model)
    made.set_attn_implementation("eager")
    return made


@pytest.mark.parametrize("mode", ["plain", "left", "right", "chunks", "static", "generate", "beams"])
@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2", "gpt_oss", "llama4_text", "deepseek_v3", "t5", "bart"])
def test_it_is_eager_attention(name: str, mode: str) -> None:
    family: Family = FAMILIES[name]
    model = family.model()
    expected, found = MODES[mode](eager(model), family), MODES[mode](ours(model), family)
    padded = expected.whole.get("attention_mask")
    for a, b in zip(expected.outputs, found.outputs, strict=True):
        if a.ndim == 3 and padded is not None and not family.translates:
            # What eager gives to a token that sees nothing is the mean of all values, and no attention.
            a, b = (a[padded.bool()], b[padded.bool()]) if padded.shape == a.shape[:2] else (a[1:], b[1:])
        assert (a - b).abs().max() < 2e-4


@pytest.mark.parametrize(("name", "kinds"), [("llama", ["causal"]), ("mistral", ["causal", "window"]),
                                             ("llama4_text", ["causal", "documents"])])
def test_its_masks_are_rules(name: str, kinds: list[str]) -> None:
    model = ours(FAMILIES[name].model())
    with klieg.watch(model) as seen:
        model(**FAMILIES[name].inputs())
    assert [rule.kind for rule in seen[0].mask.rules] == kinds and seen[0].kernel == "klieg"


def test_a_mask_that_no_rule_made_is_a_table() -> None:
    model, given = FAMILIES["llama"].model(), FAMILIES["llama"].inputs()
    allowed = torch.rand(2, 1, 13, 13, generator=torch.Generator().manual_seed(0)) < 0.6
    allowed |= torch.eye(13, dtype=torch.bool)
    found = ours(model)(**given, attention_mask=allowed).logits
    additive = torch.zeros(allowed.shape).masked_fill(~allowed, -torch.inf)
    assert (found - eager(model)(**given, attention_mask=additive).logits).abs().max() < 1e-4


def test_a_model_that_computes_with_its_mask_is_refused() -> None:
    model = ours(FAMILIES["deepseek_v32"].model())
    with pytest.raises(KliegError, match=r"computes with its attention mask.*klieg\.watch"):
        model(**FAMILIES["deepseek_v32"].inputs())


def test_dropout_is_refused() -> None:
    model = ours(FAMILIES["gpt2"].model()).train()
    with pytest.raises(KliegError, match="dropout"):
        model(**FAMILIES["gpt2"].inputs())


def test_it_has_gradients() -> None:
    model, given = FAMILIES["gpt_oss"].model(), FAMILIES["gpt_oss"].inputs()
    found = []
    with torch.enable_grad():
        for made in (eager(model), ours(model)):
            made(**given).logits.square().mean().backward()
            found.append(made.model.layers[0].self_attn.sinks.grad)
    assert found[0].abs().max() > 0 and torch.allclose(*found, rtol=1e-3, atol=1e-6)


def test_sinks_that_differ_from_query_to_query_are_refused() -> None:
    q, k, v = (torch.randn(2, 4, 5, 8, generator=torch.Generator().manual_seed(n)) for n in range(3))
    one = torch.randn(1, 4, 1, 1, generator=torch.Generator().manual_seed(3))
    same, _ = implementation.attention(nn.Module(), q, k, v, None, is_causal=False, sinks=one.expand(2, 4, 5, 1))
    s = torch.cat([q.double() @ k.double().transpose(2, 3) * 8 ** -0.5, one.double().expand(2, 4, 5, 1)], dim=3)
    true = (s.softmax(3)[..., :-1] @ v.double()).transpose(1, 2)
    assert (same - true).abs().max() < 1e-6
    with pytest.raises(KliegError, match="the sinks of Module differ from query to query"):
        implementation.attention(nn.Module(), q, k, v, None, is_causal=False, sinks=one + torch.arange(5.)[:, None])
