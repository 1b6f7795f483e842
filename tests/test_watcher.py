"""A watched model: its output to the last bit, every weight of it, and errors that name what cannot be seen."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES
from torch import Tensor, nn

import klieg
from klieg.errors import KliegError
from klieg.trace import Call, Trace
from klieg.watching import watcher

PADS = {"do_sample": False, "pad_token_id": 0}


@pytest.fixture(autouse=True, scope="module")
def _without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def llama() -> nn.Module:
    return FAMILIES["llama"].model()


GIVEN = FAMILIES["llama"].inputs()


def eager_maps(model: nn.Module, **given: Any) -> Any:
    made = copy.deepcopy(model)
    made.set_attn_implementation("eager")
    return made(**given, output_attentions=True)


def off(call: Call, eager: Tensor) -> float:
    """Worst difference of a call's weights from an eager map (b, h, i, j)."""
    return (call.every(slice(0, call.queries))[..., :eager.shape[3]] - eager).abs().max().item()


@pytest.mark.parametrize("way", ["sdpa", "eager"])
def test_a_pass_is_watched_to_the_last_bit(llama: nn.Module, way: str) -> None:
    llama.set_attn_implementation(way)
    before = llama(**GIVEN).logits
    steps: list[tuple[int, int]] = []
    with klieg.watch(llama, top=3, map=4, on_call=lambda *step: steps.append(step)) as seen:
        assert torch.equal(llama(**GIVEN).logits, before)
    maps = eager_maps(llama, **GIVEN).attentions
    assert [(call.layer, call.kind, call.kernel) for call in seen.calls] == [(0, "self", way), (1, "self", way)]
    for layer, eager in enumerate(maps):
        assert off(seen[layer], eager) < 1e-5
        assert (seen[layer].survey.received - eager.sum(2)).abs().max() < 1e-4
        assert seen[layer].survey.top_keys.shape == (2, 4, 13, 3) and seen[layer].survey.map_mean.shape == (2, 4, 4, 4)
    assert steps == [(1, 2), (2, 2)] and seen.certificate.passed and seen.without_map == {}


def test_what_is_kept_and_where_is_said(llama: nn.Module, tmp_path: Path) -> None:
    with klieg.watch(llama, folder=tmp_path, layers=[0, 1], keep_qk=[1]) as seen:
        llama(**GIVEN)
    assert str(tmp_path) in str(seen.kept) and "layer 0 (self): not kept, keep_qk leaves it out" in str(seen.kept)
    assert seen[0].survey.mass.shape == (2, 4, 13) and seen[0].kv_heads == 2 and seen[1].q is not None
    with pytest.raises(KliegError, match=r"keep_qk=\[0\]"):
        seen[0].tile(0, slice(0, 2), slice(0, 2))
    with klieg.watch(llama, layers=[1], survey=False) as seen:
        llama(**GIVEN)
    assert [call.layer for call in seen.calls] == [1] and seen[1].survey is None and seen.certificate.passed
    with pytest.raises(KliegError, match="layer 0 was not watched"):
        seen[0]
    for option in ("layers", "keep_qk"):
        with pytest.raises(KliegError, match=f"{option} names layer 2.*layers 0, 1"), klieg.watch(llama, **{option: [1, 2]}):
            llama(**GIVEN)


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"prefill_chunk_size": 5},
                                     {"num_beams": 3, "prefill_chunk_size": 4}], ids=str)
@pytest.mark.parametrize("kept", [None, False, 20_000])
def test_generation_is_one_map(llama: nn.Module, options: dict[str, int], kept: bool | int | None) -> None:
    mask = torch.ones(2, 13, dtype=torch.int64)
    mask[0, :4] = 0
    how: dict[str, Any] = {"budget": kept} if isinstance(kept, int) and kept else {"keep_qk": kept}
    with klieg.watch(llama, top=2, **how) as seen:
        found = llama.generate(**GIVEN, attention_mask=mask, max_new_tokens=4, return_dict_in_generate=True, output_scores=True,
                               **PADS, **options)
    fed = found.sequences[:, :-1]
    whole = torch.cat([mask, mask.new_ones(2, 3)], 1)
    maps = eager_maps(llama, input_ids=fed, attention_mask=whole, position_ids=(whole.cumsum(1) - 1).clamp(min=0)).attentions
    assert len(seen.runs) == 1
    for layer, eager in enumerate(maps):
        call, eager = seen[layer], eager * (whole.cumsum(1) > 0)[:, None, :, None]
        assert (call.survey.received - eager.sum(2)).abs().max() < 1e-4
        assert (call.survey.top_weights - eager.topk(2).values).abs().max() < 1e-5
        if call.q is not None:
            assert off(call, eager) < 1e-5 and [rule.kind for rule in call.mask.rules] == ["causal", "padding"]
            assert call.survey.map_mean is not None
    missing = sorted(layer for layer, _ in seen.kept.missing)
    assert missing == [] if kept is None else missing == [0, 1] if kept is False else 1 in missing
    assert seen.certificate.passed


def test_beams_that_live_or_those_that_were_returned() -> None:
    """Without beam_indices the rows are those of the beams at the end; T5 with a frequent last token ends some early."""
    family = FAMILIES["t5"]
    model, given = family.model(), family.inputs("right")
    del given["decoder_input_ids"]
    options = {"num_beams": 3, "num_return_sequences": 3, "max_new_tokens": 7, "eos_token_id": 90, "length_penalty": -2.0}
    with klieg.watch(model) as seen:
        found = model.generate(**given, return_dict_in_generate=True, output_scores=True, **options)
    lengths = (found.beam_indices >= 0).sum(1).tolist()
    assert len(set(lengths)) > 1, "some must end before others"
    for text, length in enumerate(lengths):
        one = {name: x[text // 3:text // 3 + 1] for name, x in given.items()}
        maps = eager_maps(model, **one, decoder_input_ids=found.sequences[text:text + 1, :length])
        for layer in range(2):
            for kind, eager in (("self", maps.decoder_attentions), ("cross", maps.cross_attentions)):
                w = seen[layer, kind].every(slice(0, seen[layer].queries))[text]
                assert (w[:, :length, :eager[layer].shape[3]] - eager[layer]).abs().max() < 1e-5
                assert not w[:, length:].any() and (seen[layer, kind].lse[text, :, length:] == -torch.inf).all()
    assert seen[0, "encoder"].texts == 2 and seen.trace(5).tokens[:2] == [str(n) for n in found.sequences[5, :2].tolist()]
    with klieg.watch(model) as alive:
        model.generate(**given, **options)
    assert alive[0].texts == 6
    alive.follow(found.beam_indices)
    assert torch.equal(alive[0].lse, seen[0].lse)
    with pytest.raises(KliegError, match="beam_indices"):
        alive.follow(torch.zeros(6, 40, dtype=torch.int64))


def test_a_window_drops_its_keys_from_the_cache_and_not_from_the_map() -> None:
    family = FAMILIES["gemma3_text"]
    model, given = family.model(), family.inputs()
    with klieg.watch(model) as seen:
        found = model.generate(**given, max_new_tokens=5, **PADS)
    maps = eager_maps(model, input_ids=found[:, :-1], use_cache=False).attentions
    assert [[rule.kind for rule in seen[layer].mask.rules] for layer in range(2)] == [["causal", "window"], ["causal"]]
    for layer, eager in enumerate(maps):
        assert seen[layer].keys == 17 and off(seen[layer], eager) < 1e-5


def test_cross_attention_and_its_encoder() -> None:
    family = FAMILIES["bart"]
    model, given = family.model(), family.inputs("right")
    with klieg.watch(model) as seen:
        model(**given)
    maps = eager_maps(model, **given)
    eager = {"encoder": maps.encoder_attentions, "self": maps.decoder_attentions, "cross": maps.cross_attentions}
    for kind in eager:
        assert max(off(seen[layer, kind], eager[kind][layer]) for layer in range(2)) < 1e-5
    assert [rule.kind for rule in seen[0, "cross"].mask.rules] == ["padding"]
    with pytest.raises(KliegError, match="no map of layer 7"):
        seen[7, "cross"]


def test_a_stack_with_other_layers_keeps_its_numbers() -> None:
    family = FAMILIES["qwen3_next"]
    with klieg.watch(model := family.model()) as seen:
        model(**family.inputs())
    assert list(seen.without_map) == [0] and seen.without_map[0].startswith("linear_attention")
    assert [call.layer for call in seen.calls] == [1]
    with pytest.raises(KliegError, match="layer 0 has no map of attention: it is linear_attention"):
        seen[0]


def test_passes_without_a_cache_are_runs_of_their_own(llama: nn.Module) -> None:
    with klieg.watch(llama) as seen:
        llama(**GIVEN)
        llama(input_ids=GIVEN["input_ids"][:, :5])
    assert [run[1].queries for run in seen.runs] == [13, 5]
    with pytest.raises(KliegError, match=r"2 runs were watched.*seen\.runs\[0\]"):
        seen[0]
    with klieg.watch(llama.model) as part:
        llama(**GIVEN)
    assert torch.equal(part[1].lse, seen.runs[0][1].lse), "a part of a model can be watched"


def test_watching_may_begin_with_a_full_cache_but_not_skip_tokens(llama: nn.Module) -> None:
    eager = eager_maps(llama, **GIVEN).attentions[1]
    cache = llama(GIVEN["input_ids"][:, :8], use_cache=True).past_key_values
    with klieg.watch(llama) as seen:
        for ids in GIVEN["input_ids"][:, 8:].split(2, dim=1):
            llama(ids, past_key_values=cache)
    assert (seen[1].queries, seen[1].keys) == (5, 13) and off(seen[1], eager[:, :, 8:]) < 1e-5
    cache = llama(GIVEN["input_ids"][:, :8], use_cache=True).past_key_values
    with pytest.raises(KliegError, match="tokens 10 to 10 of its cache were read unwatched"), klieg.watch(llama):
        llama(GIVEN["input_ids"][:, 8:10], past_key_values=cache)
        thread = threading.Thread(target=lambda: llama(GIVEN["input_ids"][:, 10:11], past_key_values=cache))
        thread.start()
        thread.join()
        llama(GIVEN["input_ids"][:, 11:], past_key_values=cache)


def test_a_cache_that_is_cropped_takes_its_rows_back(llama: nn.Module) -> None:
    """As assisted generation does with guesses that were wrong."""
    guess = copy.deepcopy(llama)
    guess.model.layers[1].mlp.down_proj.weight.zero_()
    with klieg.watch(llama) as seen:
        found = llama.generate(GIVEN["input_ids"][:1], assistant_model=guess, max_new_tokens=8, **PADS)
    eager = eager_maps(llama, input_ids=found[:, :seen[1].queries]).attentions[1]
    assert sum(moment.rows for moment in seen.runs[0].passes) > seen[1].queries, "some were taken back"
    assert len(seen.runs) == 1 and off(seen[1], eager) < 1e-5
    assert seen.trace().ids == found[0, :seen[1].queries].tolist()


@pytest.mark.parametrize(("name", "said"), [("bloom", "BloomForCausalLM.*registry"), ("falcon", "FalconForCausalLM.*registry"),
                                            ("mamba", "no attention")])
def test_a_model_that_cannot_be_watched_is_refused_by_name(name: str, said: str) -> None:
    with pytest.raises(KliegError, match=said):
        klieg.watch(FAMILIES[name].model())


def test_what_is_no_model_of_transformers_is_refused() -> None:
    with pytest.raises(KliegError, match=r"klieg\.trace"):
        klieg.watch(klieg.load("chat")[0])
    with pytest.raises(KliegError, match=r"Linear.*transformers"):
        klieg.watch(nn.Linear(2, 2))


def test_a_model_that_did_not_run_or_ran_elsewhere_is_said(llama: nn.Module) -> None:
    with pytest.raises(KliegError, match="no call of attention"), klieg.watch(llama):
        pass
    with pytest.raises(KliegError, match="no call of attention"), klieg.watch(llama):
        thread = threading.Thread(target=lambda: llama(**GIVEN))
        thread.start()
        thread.join()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_model_is_refused_and_runs(llama: nn.Module) -> None:
    compiled, before = torch.compile(llama, backend="eager"), llama(**GIVEN).logits
    with pytest.raises(KliegError, match="is compiled"), klieg.watch(llama):
        assert torch.equal(compiled(**GIVEN).logits, before)
    assert torch.equal(compiled(**GIVEN).logits, before)


def test_layers_that_do_not_ask_the_registry_are_missed(llama: nn.Module) -> None:
    attention = llama.model.layers[1].self_attn
    attention.forward = lambda hidden_states, **options: (hidden_states, None)
    with pytest.raises(KliegError, match=r"model\.layers\.1\.self_attn"), klieg.watch(llama):
        llama(**GIVEN)


def test_the_model_own_error_comes_through_and_all_is_as_before(llama: nn.Module) -> None:
    hook = llama.model.layers[1].register_forward_pre_hook(lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError), klieg.watch(llama):
        llama(**GIVEN)
    with klieg.watch(llama) as seen:
        with pytest.raises(ZeroDivisionError):
            llama(**GIVEN)
        hook.remove()
        llama(**GIVEN)
    assert len(seen.runs) == 1 and seen[1].queries == 13, "half a pass is no run"
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in llama.modules())


def test_watchers_are_nested(llama: nn.Module) -> None:
    with klieg.watch(llama) as outer:
        llama(**GIVEN)
        with klieg.watch(llama) as inner:
            llama(**GIVEN)
    assert (len(outer.runs), len(inner.runs)) == (2, 1) and torch.equal(outer.runs[1][0].lse, inner[0].lse)


def test_threads_watch_each_their_own_run(llama: nn.Module) -> None:
    found: dict[int, Tensor] = {}

    def run(length: int) -> None:
        with torch.no_grad(), klieg.watch(llama) as seen:
            llama.generate(GIVEN["input_ids"][:, :length], max_new_tokens=4, **PADS)
            found[length] = seen[1].lse

    threads = [threading.Thread(target=run, args=(length,)) for length in (3, 6, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {length: lse.shape for length, lse in found.items()} == {n: (2, 4, n + 3) for n in (3, 6, 9)}


def test_nan_is_an_error_and_the_model_ends_its_run(llama: nn.Module) -> None:
    llama.model.layers[1].self_attn.q_proj.weight[0, 0] = torch.nan
    ran = []
    with pytest.raises(KliegError, match=r"layer 1 \(self\), head 0, row 0: its q holds NaN"), klieg.watch(llama) as seen:
        ran.append(llama(**GIVEN).logits)
        with pytest.raises(KliegError, match="NaN"):
            seen[0]
    assert ran[0].shape == (2, 13, 99)


def test_an_attention_function_that_is_not_exact_is_refused(llama: nn.Module) -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def scaled(module: nn.Module, *given: Any, scaling: float, **options: Any) -> Any:
        return sdpa_attention_forward(module, *given, scaling=1.01 * scaling, **options)

    def unmasked(module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, **options: Any) -> Any:
        return sdpa_attention_forward(module, q, k, v, None, **options | {"is_causal": False})

    for name, function in (("klieg_test_scaled", scaled), ("klieg_test_unmasked", unmasked)):
        AttentionInterface.register(name, function)
        AttentionMaskInterface.register(name, sdpa_mask)
        llama.set_attn_implementation(name)
        with pytest.raises(KliegError, match=rf"{name} attention of LlamaAttention.*layer 0 \(self\)"), klieg.watch(llama):
            llama(**GIVEN)


def test_dropout_is_refused(llama: nn.Module) -> None:
    for layer in llama.train().model.layers:
        layer.self_attn.attention_dropout = 0.1
    with pytest.raises(KliegError, match=r"layer 0 \(self\).*eval\(\)"), klieg.watch(llama):
        llama(**GIVEN)


@pytest.mark.parametrize("again", [False, True], ids=["plain", "checkpointed"])
def test_training_is_watched(llama: nn.Module, again: bool) -> None:
    if again:
        llama.train().activation_checkpointing_enable()
    with torch.enable_grad(), klieg.watch(llama) as seen:
        llama(**GIVEN).logits.sum().backward()
    assert len(seen.runs) == 1 and not seen[0].q.requires_grad
    assert llama.model.layers[0].self_attn.q_proj.weight.grad.any()


def test_memory_that_is_short_costs_the_map_and_not_the_run(llama: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    before = llama(**GIVEN).logits

    def fails(x: Tensor) -> Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("klieg.watching.store._in_memory", fails)
    with klieg.watch(llama) as seen:
        assert torch.equal(llama(**GIVEN).logits, before)
    assert "can't allocate memory" in str(seen.kept) and seen[1].q is None and seen[1].survey.map_mean is not None


def test_memory_that_ends_in_the_middle_is_said_with_what_was_kept(llama: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    before, whole = llama(**GIVEN).logits, watcher.measure

    def short(call: object, reading: object, layer: int, *given: object) -> object:
        if layer == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return whole(call, reading, layer, *given)

    monkeypatch.setattr(watcher, "measure", short)
    with pytest.raises(KliegError, match=r"after 1 calls of attention \(CUDA out of memory.*q and k of 1 calls") as refused, \
            klieg.watch(llama):
        assert torch.equal(llama(**GIVEN).logits, before)
    assert "内存不够了" in refused.value.zh


def test_a_text_becomes_a_trace(llama: nn.Module, tmp_path: Path) -> None:
    with klieg.watch(llama) as seen:
        found = llama.generate(**GIVEN, max_new_tokens=3, **PADS)
    trace = seen.trace(1)
    assert trace.ids == found[1, :-1].tolist() and trace.tokens == [str(n) for n in trace.ids]
    assert trace.next_tokens(1)[0].id == found[1, -1] and trace.layers == 2 and trace.model == "LlamaForCausalLM"
    assert torch.equal(trace[1].weights(2), seen[1].weights(2, batch=1))
    assert abs(trace.cell(1, 2, 14, 3).difference) < 1e-6
    trace.save(tmp_path / "x.klieg")
    again = Trace.load(tmp_path / "x.klieg")
    assert torch.equal(again[1].survey.received, seen[1].survey.received[1:]) and again.ids == trace.ids
    with pytest.raises(KliegError, match="no text 2"):
        seen.trace(2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("budget", [None, 10**6], ids=["by itself", "by a budget"])
def test_a_model_on_a_gpu_is_watched_there(llama: nn.Module, budget: int | None) -> None:
    """In bfloat16, through generation: the joined map is that of the formula, whoever computed it and wherever q and k lie."""
    model = copy.deepcopy(llama).to("cuda", torch.bfloat16)
    given = {name: x.cuda() for name, x in GIVEN.items()}
    before = model(**given).logits
    with klieg.watch(model, budget=budget) as seen:
        assert torch.equal(model(**given).logits, before)
    call = seen[1]
    assert call.survey.kernel == "gpu" and seen.certificate.passed
    assert call.q is None or call.q.dtype == torch.bfloat16
    whole = call.every(slice(None)).double()
    torch.testing.assert_close(call.survey.received.double(), whole.sum(2), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(call.tile(1, slice(2, 9), slice(0, 7)).double(), whole[0, 1, 2:9, :7], atol=1e-6, rtol=1e-4)
    with klieg.watch(model) as seen:
        model.generate(**given, max_new_tokens=3, **PADS)
    assert seen.certificate.passed and seen[1].survey is not None
