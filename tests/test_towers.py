"""Models of several stacks: towers that attend block by block, stacks of one kind, and layers that attend again."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, lively
from torch import Tensor, nn

import klieg
from klieg.errors import KliegError
from klieg.trace import Trace

IMAGE = 90                  # the token that a patch of a picture stands under
TEXT = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 64, "vocab_size": 99}
ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}


@pytest.fixture(autouse=True, scope="module")
def _without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def looker() -> nn.Module:
    """A Qwen2.5-VL whose tower attends in windows in its first layer, and to whole pictures in its second."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    tower = {"depth": 2, "hidden_size": 64, "num_heads": 4, "intermediate_size": 64, "patch_size": 4, "out_hidden_size": 64,
             "fullatt_block_indexes": [1], "window_size": 16}
    torch.manual_seed(0)
    return lively(Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(
        text_config=TEXT | {"rope_parameters": ROPE}, vision_config=tower, image_token_id=IMAGE, vision_start_token_id=92,
        vision_end_token_id=93)).eval())


def pictures(*sides: tuple[int, int]) -> dict[str, Tensor]:
    """A text with pictures of so many patches in each direction; four patches are one token."""
    noise = torch.Generator().manual_seed(1)
    parts = [torch.randint(5, 80, (4,), generator=noise)]
    for high, wide in sides:
        parts += [torch.tensor([92]), torch.full((high * wide // 4,), IMAGE), torch.tensor([93])]
    ids = torch.cat([*parts, torch.randint(5, 80, (3,), generator=noise)])[None]
    patches = sum(high * wide for high, wide in sides)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": (ids == IMAGE).long(),
            "pixel_values": torch.randn(patches, 96, generator=noise), "image_grid_thw": torch.tensor([[1, *x] for x in sides])}


def eager_maps(model: nn.Module, monkeypatch: pytest.MonkeyPatch, run: Any) -> dict[str, list[Tensor]]:
    """The maps (b, h, i, j) of every call that run(eager copy) makes, by the name of the module."""
    from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as code

    made, maps = copy.deepcopy(model), {}
    made.set_attn_implementation("eager")
    names = {id(module): name for name, module in made.named_modules()}
    attention = code.eager_attention_forward

    def heard(module: nn.Module, *args: Any, **options: Any) -> Any:
        found = attention(module, *args, **options)
        maps.setdefault(names[id(module)], []).append(found[1])
        return found

    monkeypatch.setattr(code, "eager_attention_forward", heard)
    run(made)
    return maps


def whole(blocks: list[Tensor]) -> Tensor:
    """Maps of blocks (1, h, i, i) as one: nobody looks from one into another."""
    return torch.stack([torch.block_diag(*(block[0, head] for block in blocks)) for head in range(blocks[0].shape[1])])[None]


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("sides", [[(4, 4)], [(8, 8)], [(4, 8), (6, 4)]])
def test_a_tower_that_attends_block_by_block_has_one_map(sides: list[tuple[int, int]], keep: bool,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    model, given = looker(), pictures(*sides)
    before = model(**given).logits
    with klieg.watch(model, top=3, map=0, keep_qk=keep) as seen:
        assert torch.equal(model(**given).logits, before)
    maps = eager_maps(model, monkeypatch, lambda made: made(**given, use_cache=False))
    assert len(maps["model.visual.blocks.0.attn"]) == sum(-(-high // 4) * -(-wide // 4) for high, wide in sides)
    assert len(maps["model.visual.blocks.1.attn"]) == len(sides)
    assert [(call.layer, call.kind) for call in seen.calls] == [(0, "encoder"), (1, "encoder"), (0, "self"), (1, "self")]
    assert seen.certificate.passed
    for call, blocks in zip(seen.calls, maps.values(), strict=True):
        true = whole(blocks).double()
        if keep:
            assert (call.every(slice(None)) - true).abs().max() < 1e-5
            assert not call.mask.scattered and all(rule.kind != "explicit" for rule in call.mask.rules)
        assert (call.survey.received - true.sum(2)).abs().max() < 1e-4
        assert (call.survey.entropy + torch.xlogy(true, true).sum(3)).abs().max() < 1e-4
        top = true.topk(3)
        assert (call.survey.top_weights - top.values).abs().max() < 1e-5
        assert torch.equal(call.survey.top_keys[..., 0].long(), top.indices[..., 0])


def test_a_tower_alone_has_all_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    model, given = looker(), pictures((8, 8), (4, 4))
    pixels, grid = given["pixel_values"], given["image_grid_thw"]
    with klieg.watch(model.model.visual) as seen:
        model.model.visual(pixels, grid_thw=grid)
    maps = eager_maps(model, monkeypatch, lambda made: made.model.visual(pixels, grid_thw=grid))
    for layer in range(2):
        assert seen[layer].queries == seen[layer].keys == 80
        assert (seen[layer].every(slice(None)) - whole(maps[f"model.visual.blocks.{layer}.attn"])).abs().max() < 1e-5
    assert len(seen.trace().tokens) == 80


def test_pictures_are_read_once_and_the_text_goes_on(tmp_path: Path) -> None:
    model, given = looker(), pictures((4, 4), (8, 4))
    with klieg.watch(model) as seen:
        found = model.generate(**given, max_new_tokens=3, min_new_tokens=3, do_sample=False, pad_token_id=0)
    assert found.shape[1] == seen[0].queries + 1 and seen[0, "encoder"].queries == 48
    seen.trace().save(tmp_path / "t.klieg")
    read = Trace.load(tmp_path / "t.klieg")
    assert read.certificate.passed and read.ids == found[0, :-1].tolist()
    assert torch.equal(read[0, "encoder"].weights(1), seen[0, "encoder"].weights(1))


def test_two_stacks_of_one_kind_are_numbered_on() -> None:
    """Llama 3.2 looks at a picture in a local stack and then in a global one."""
    from transformers.models.mllama import MllamaVisionConfig, MllamaVisionModel

    torch.manual_seed(0)
    model = lively(MllamaVisionModel(MllamaVisionConfig(
        hidden_size=64, attention_heads=4, intermediate_size=64, num_hidden_layers=2, num_global_layers=3, image_size=16,
        patch_size=8, vision_output_dim=128, intermediate_layers_indices=[1], max_num_tiles=2,
        supported_aspect_ratios=[[1, 1], [1, 2]])).eval())
    pixels = torch.randn(1, 1, 2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    given = pixels, torch.tensor([[2]]), torch.ones(1, 1, 2, dtype=torch.int64)
    with klieg.watch(model) as seen:
        model(*given)
    model.set_attn_implementation("eager")
    maps: list[Tensor] = []
    for module in model.modules():
        if type(module).__name__ == "MllamaVisionAttention":
            module.register_forward_hook(lambda module, given, found: maps.append(found[1]))
    model(*given)
    assert [call.layer for call in seen.calls] == list(range(5)) and len(maps) == 5
    for call, eager in zip(seen.calls, maps, strict=True):
        live = ~call.lse.isinf()[..., None]
        assert ((call.every(slice(None)) - eager) * live).abs().max() < 1e-5


def test_what_stands_between_a_tower_and_its_text_is_of_their_run() -> None:
    """Idefics 2 looks at its pictures, then resamples them, and only then begins to write."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    tower = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "image_size": 16,
             "patch_size": 4}
    between = {"resampler_n_latents": 4, "resampler_depth": 2, "resampler_n_heads": 4, "resampler_head_dim": 16,
               "num_key_value_heads": 2}
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(
        "idefics2", text_config=TEXT | {"model_type": "mistral", "pad_token_id": 0}, vision_config=tower,
        perceiver_config=between, image_token_id=IMAGE)).eval()
    noise = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 80, (1, 12), generator=noise)
    ids[:, 2:6] = IMAGE
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids),
             "pixel_values": torch.randn(1, 1, 3, 16, 16, generator=noise)}
    with klieg.watch(model) as seen:
        model.generate(**given, max_new_tokens=3, min_new_tokens=3, do_sample=False, pad_token_id=0)
    found = [(call.layer, call.kind, call.queries, call.keys) for call in seen.calls]
    assert found == [(0, "encoder", 16, 16), (1, "encoder", 16, 16), (2, "encoder", 4, 20), (3, "encoder", 4, 20),
                     (0, "self", 14, 14), (1, "self", 14, 14)]
    assert seen.certificate.passed


def test_a_layer_that_attends_again_to_the_same_tokens_is_refused() -> None:
    """A hierarchical reasoning model goes through its layers several times in a pass, and has a map for each time."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model("hrm_text", hidden_size=64, num_attention_heads=4, num_key_value_heads=4, head_dim=16,
                                  intermediate_size=64, vocab_size=99, max_position_embeddings=64)
    torch.manual_seed(0)
    model, ids = AutoModelForCausalLM.from_config(config).eval(), torch.randint(5, 99, (1, 6))
    before = model(input_ids=ids, use_cache=False).logits
    with pytest.raises(KliegError, match=r"layer 0 \(self\) attends again in the same pass"), klieg.watch(model):
        after = model(input_ids=ids, use_cache=False).logits
    assert torch.equal(before, after)


def longt5() -> tuple[nn.Module, dict[str, Tensor]]:
    """A LongT5, whose encoder does not ask transformers' registry and whose decoder does."""
    from transformers import LongT5Config, LongT5ForConditionalGeneration

    torch.manual_seed(0)
    model = LongT5ForConditionalGeneration(LongT5Config(d_model=64, d_kv=16, d_ff=64, num_layers=2, num_heads=4, vocab_size=99,
                                                        decoder_start_token_id=0, local_radius=3)).eval()
    ids = torch.randint(5, 99, (2, 9), generator=torch.Generator().manual_seed(1))
    return model, {"input_ids": ids, "decoder_input_ids": ids[:, :5]}


def test_an_encoder_that_was_not_heard_is_missed_by_name() -> None:
    model, given = longt5()
    with pytest.raises(KliegError, match=r"cannot be watched whole: encoder did not attend through transformers' registry"), \
            klieg.watch(model):
        model(**given)


def test_the_part_that_is_heard_can_be_watched() -> None:
    model, given = longt5()
    with klieg.watch(model.decoder) as seen:
        model(**given)
    model.set_attn_implementation("eager")
    eager = model(**given, output_attentions=True)
    for layer in range(2):
        assert (seen[layer].every(slice(None)) - eager.decoder_attentions[layer]).abs().max() < 1e-5
        assert (seen[layer, "cross"].every(slice(None)) - eager.cross_attentions[layer]).abs().max() < 1e-5
    with klieg.watch(model) as seen:        # the encoder ran before
        model(encoder_outputs=(eager.encoder_last_hidden_state,), decoder_input_ids=given["decoder_input_ids"])
    assert {call.kind for call in seen.calls} == {"self", "cross"}


def test_keys_beside_those_of_a_cache_are_refused_at_once() -> None:
    """T5Gemma 2 looks at its own tokens and at its encoder's in one product."""
    from transformers import T5Gemma2Config, T5Gemma2ForConditionalGeneration

    size = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
            "intermediate_size": 64, "vocab_size": 99, "sliding_window": 5,
            "layer_types": ["sliding_attention", "full_attention"]}
    picture = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64, "image_size": 32,
               "patch_size": 8}
    torch.manual_seed(0)
    model = T5Gemma2ForConditionalGeneration(T5Gemma2Config(
        encoder={"text_config": size, "vision_config": picture}, decoder=size, vocab_size=99)).eval()
    ids = torch.randint(5, 80, (2, 9), generator=torch.Generator().manual_seed(1))
    given = {"input_ids": ids, "decoder_input_ids": ids[:, :5]}
    with pytest.raises(KliegError, match=r"layer 0 \(self\) attends to 14 keys which are not those of its cache.*use_cache"), \
            klieg.watch(model):
        model(**given)
    with klieg.watch(model) as seen:
        model(**given, use_cache=False)
    assert (seen[0].queries, seen[0].keys) == (5, 14) and seen.certificate.passed


def many_pictures() -> tuple[nn.Module, dict[str, Tensor]]:
    """A LLaVA whose first text has three pictures and whose second has one."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    tower = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "image_size": 16,
             "patch_size": 8, "projection_dim": 64}
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(
        "llava", text_config=TEXT | {"model_type": "llama"}, vision_config=tower | {"model_type": "clip_vision_model"},
        image_token_index=IMAGE, image_token_id=IMAGE, vision_feature_layer=-1)).eval()
    noise = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 80, (2, 15), generator=noise)
    ids[0, 1:13] = ids[1, 1:5] = IMAGE
    return model, {"input_ids": ids, "attention_mask": torch.ones_like(ids),
                   "pixel_values": torch.randn(4, 3, 16, 16, generator=noise)}


def test_all_pictures_of_several_texts_are_in_the_trace(tmp_path: Path) -> None:
    model, given = many_pictures()
    with klieg.watch(model) as seen:
        model(**given)
    for text in range(2):
        seen.trace(text).save(tmp_path / "t.klieg")
        found = Trace.load(tmp_path / "t.klieg")
        assert found.ids == given["input_ids"][text].tolist() and found[1].texts == 1
        assert found[1, "encoder"].texts == 4 and torch.equal(found[1, "encoder"].q, seen[1, "encoder"].q)


def test_an_encoder_of_more_texts_has_no_stream_in_the_trace_of_one(tmp_path: Path) -> None:
    bart = FAMILIES["bart"]
    model, given = bart.model(), bart.inputs()
    with klieg.watch(model, streams=True) as seen:
        read = model.get_encoder()(given["input_ids"]).last_hidden_state
        model(encoder_outputs=(read[1:],), decoder_input_ids=given["decoder_input_ids"][1:])
    seen.trace().save(tmp_path / "t.klieg")
    found = Trace.load(tmp_path / "t.klieg")
    assert found.stream().final.shape == (1, 6, 64) and found[1, "encoder"].texts == 2
    with pytest.raises(KliegError, match="it read more texts or pictures than its decoder has texts"):
        found.stream("encoder")
