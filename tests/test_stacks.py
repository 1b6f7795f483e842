"""Which module is which layer of which stack: true numbers, and what has no map by name."""

from __future__ import annotations

import pytest
from families import FAMILIES
from torch import nn

from klieg.errors import KliegError
from klieg.watching.stacks import Stacks, attends


def places(name: str, of: str) -> list[tuple[int, str]]:
    """Where the modules of a class are, in the order of the model's tree."""
    model = FAMILIES[name].model()
    stacks = Stacks(model)
    return [stacks.place(module) for module in model.modules() if type(module).__name__ == of]


@pytest.mark.parametrize(("name", "of", "expected"), [
    ("llama", "LlamaAttention", [(0, "self"), (1, "self")]),
    ("jamba", "JambaAttention", [(1, "self")]),
    ("zamba2", "Zamba2Attention", [(1, "self"), (3, "self")]),
    ("nemotron_h", "NemotronHAttention", [(1, "self")]),
    ("vit", "ViTAttention", [(0, "self"), (1, "self")]),
    ("bart", "BartAttention", [(0, "encoder"), (1, "encoder"), (0, "self"), (0, "cross"), (1, "self"), (1, "cross")]),
    ("t5", "T5Attention", [(0, "encoder"), (1, "encoder"), (0, "self"), (0, "cross"), (1, "self"), (1, "cross")]),
    ("whisper", "WhisperAttention", [(0, "encoder"), (1, "encoder"), (0, "self"), (0, "cross"), (1, "self"), (1, "cross")]),
])
def test_a_layer_has_its_own_number(name: str, of: str, expected: list[tuple[int, str]]) -> None:
    assert places(name, of) == expected


def test_a_module_that_serves_every_layer_is_counted_by_its_calls() -> None:
    model = FAMILIES["albert"].model()
    stacks = Stacks(model)
    shared = next(module for module in model.modules() if type(module).__name__ == "AlbertAttention")
    for _ in range(2):
        stacks.begin()
        assert [stacks.place(shared) for _ in range(2)] == [(0, "self"), (1, "self")]


def test_the_towers_of_a_model_are_encoders() -> None:
    from transformers import CLIPConfig, CLIPModel

    size = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 4}
    model = CLIPModel(CLIPConfig(text_config=size | {"num_hidden_layers": 1, "vocab_size": 99},
                                 vision_config=size | {"num_hidden_layers": 2, "image_size": 32, "patch_size": 8}))
    stacks = Stacks(model)
    found = [stacks.place(module) for module in model.modules() if type(module).__name__ == "CLIPAttention"]
    assert found == [(0, "self"), (0, "encoder"), (1, "encoder")]


def test_layers_without_a_map_say_what_they_are() -> None:
    model = FAMILIES["jamba"].model()
    stacks = Stacks(model)
    attention = next(module for module in model.modules() if type(module).__name__ == "JambaAttention")
    stacks.place(attention)
    assert stacks.without_map([1]) == {0: "linear_attention (JambaMambaMixer)"}
    assert stacks.missing() == []


def test_a_layer_of_cross_attention_is_not_taken_for_one_of_a_tower() -> None:
    from transformers import MllamaConfig, MllamaForConditionalGeneration

    model = MllamaForConditionalGeneration(MllamaConfig(
        text_config={"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
                     "num_key_value_heads": 2, "vocab_size": 99, "cross_attention_layers": [1], "pad_token_id": 0},
        vision_config={"hidden_size": 32, "intermediate_size": 32, "attention_heads": 4, "num_hidden_layers": 2,
                       "num_global_layers": 2, "image_size": 16, "patch_size": 8, "vision_output_dim": 64,
                       "intermediate_layers_indices": [1]}))
    stacks = Stacks(model)
    of = "MllamaVisionAttention", "MllamaTextCrossAttention", "MllamaTextSelfAttention"
    found = [stacks.place(module) for name in of for module in model.modules() if type(module).__name__ == name]
    assert found == [(0, "encoder"), (1, "encoder"), (2, "encoder"), (3, "encoder"), (1, "cross"), (0, "self")]
    assert stacks.without_map([0]) == {1: "MllamaTextCrossAttention"}


def test_modules_that_are_silent_are_missed() -> None:
    model = FAMILIES["llama"].model()
    stacks = Stacks(model)
    stacks.place(next(module for module in model.modules() if type(module).__name__ == "LlamaAttention"))
    assert stacks.missing() == stacks.missing([model]) == ["model.layers.1.self_attn"]
    other = FAMILIES["llama"].model()
    other.encoder = FAMILIES["bert"].model()
    assert Stacks(other).missing([other.encoder]) == ["encoder"]
    model.config.layer_types = ["full_attention", "full_attention"]
    with pytest.raises(KliegError, match=r"layers 1 .*full_attention.*registry"):
        stacks.without_map([0])


def test_kinds_of_layers_by_name() -> None:
    assert all(attends(name) for name in ("full_attention", "sliding_attention", "chunked_attention", "attention", "hybrid",
                                          "indexed_attention", "hybrid_sliding"))
    assert not any(attends(name) for name in ("linear_attention", "mamba", "conv", "mlp", "recurrent", "moe"))


def test_a_module_without_a_config_has_one_stack() -> None:
    stacks = Stacks(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
    assert stacks.types is None and stacks.layers is None and stacks.without_map([0]) == {}
