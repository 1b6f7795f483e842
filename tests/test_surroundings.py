"""What a program does around a watch: Ctrl-C, copies of the model, blocks within blocks, products of fewer digits."""

# Fixtures of another file are imported, and then named by the tests.
# ruff: noqa: F811

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from families import FAMILIES
from test_watcher import GIVEN, _without_gradients, llama  # noqa: F401
from torch import Tensor, nn

import klieg
from klieg import kernels
from klieg.attention import Mask
from klieg.errors import KliegError
from klieg.survey import SurveySpec
from klieg.trace import Trace

WRITES = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "pad_token_id": 0}


def interrupted(model: nn.Module, step: int, error: type[BaseException]) -> None:
    """Generation with an error, or Ctrl-C, in the middle of the model at a step from 1."""
    steps = []

    def stop(*_: object) -> None:
        steps.append(1)
        if len(steps) == step:
            raise error

    hook = model.model.layers[1].register_forward_pre_hook(stop)
    try:
        model.generate(**GIVEN, **WRITES)
    finally:
        hook.remove()


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("streams", [False, True])
def test_what_comes_after_ctrl_c_is_a_run_of_its_own(llama: nn.Module, streams: bool) -> None:
    with klieg.watch(llama, streams=streams) as seen:
        with pytest.raises(KeyboardInterrupt):
            interrupted(llama, 2, KeyboardInterrupt)
        llama(**GIVEN)
    with klieg.watch(llama) as other:
        llama(**GIVEN)
    assert len(seen.runs) == 2
    assert [call.queries for run in seen.runs for call in run.calls] == [13] * 4
    assert torch.equal(seen.runs[1][1].weights(2), other[1].weights(2))
    assert seen.runs[1].trace().ids == GIVEN["input_ids"][0].tolist()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_of_a_text_that_was_not_written_to_its_end_whole_passes_are_left(llama: nn.Module, error: type) -> None:
    with pytest.raises(error), klieg.watch(llama, streams=True) as seen:
        interrupted(llama, 4, error)
    found = seen.trace()
    with klieg.watch(llama) as other:
        llama.generate(**GIVEN, **WRITES | {"max_new_tokens": 3, "min_new_tokens": 3})
    assert [call.queries for call in found.calls] == [15, 15] and found.ids == other.trace().ids
    assert torch.equal(found[1].weights(2), other[1].weights(2)) and found.stream().final.shape == (1, 15, 64)
    assert torch.equal(found.logits, other.trace().logits)


def test_a_first_pass_that_did_not_end_is_no_run(llama: nn.Module) -> None:
    translator = FAMILIES["bart"]
    model, given = translator.model(), translator.inputs()
    for watched, run, at in ((llama, lambda: llama(**GIVEN), llama.model.layers[1]),
                             (model, lambda: model(**given), model.model.decoder.layers[1])):
        hook = at.register_forward_pre_hook(_stop)
        with klieg.watch(watched) as seen:
            with pytest.raises(KeyboardInterrupt):
                run()
            hook.remove()
            run()
        assert len(seen.runs) == 1 and len({call.queries for call in seen.calls if call.kind == "self"}) == 1


def test_a_watch_that_ctrl_c_ended_can_be_entered_again(llama: nn.Module) -> None:
    watched = klieg.watch(llama)
    with pytest.raises(KeyboardInterrupt), watched:
        interrupted(llama, 1, KeyboardInterrupt)
    with pytest.raises(KliegError, match="nothing has been watched yet"):
        watched[0]
    with watched as seen:
        llama(**GIVEN)
    assert len(seen.runs) == 1 and seen[0].queries == 13


def test_a_watch_is_not_entered_within_itself(llama: nn.Module) -> None:
    watched = klieg.watch(llama)
    with watched as seen:
        llama(**GIVEN)
        with pytest.raises(KliegError, match="under way already"), watched:
            pass
    assert seen[0].queries == 13
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in llama.modules())


@pytest.mark.parametrize("streams", [False, True])
def test_a_copy_of_a_watched_model_is_not_watched(llama: nn.Module, streams: bool) -> None:
    with klieg.watch(llama, streams=streams) as seen:
        other = copy.deepcopy(llama)
        llama(**GIVEN)
        there = other(**{name: x[:, :5] for name, x in GIVEN.items()}).logits
    assert len(seen.runs) == 1 and seen[0].queries == 13 and there.shape[1] == 5
    assert torch.equal(other(**GIVEN).logits, llama(**GIVEN).logits)


@pytest.mark.parametrize("writes", [False, True])
def test_a_run_in_autocast_is_exact(llama: nn.Module, writes: bool) -> None:
    """q and k are float32 behind their rotation, and v and the output are bfloat16."""
    with torch.autocast("cpu", torch.bfloat16):
        plain = llama.generate(**GIVEN, **WRITES) if writes else llama(**GIVEN).logits
        with klieg.watch(llama) as seen:
            found = llama.generate(**GIVEN, **WRITES) if writes else llama(**GIVEN).logits
        inside = [seen[layer].every(slice(None)) for layer in range(2)]
        assert seen.certificate.passed
    assert torch.equal(found, plain)
    for layer, weights in enumerate(inside):
        call = seen[layer]
        assert (call.q.dtype, call.output.dtype) == (torch.float32, torch.bfloat16)
        k = call.k.double().repeat_interleave(2, dim=1)
        s = call.q.double() @ k.transpose(2, 3) * call.scale
        true = s.masked_fill(~torch.ones(call.queries, call.keys).tril().bool(), -torch.inf).softmax(3)
        assert (weights - true).abs().max() < 1e-5
        assert (call.survey.entropy + torch.xlogy(true, true).sum(3)).abs().max() < 1e-4
        assert (call.survey.received - true.sum(2)).abs().max() < 1e-4


@contextmanager
def rounding(way: str) -> Iterator[None]:
    """A program that computes its own products in fewer digits, in one of the ways that torch has."""
    if way == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            yield
        return
    backend = torch.backends.mkldnn.matmul
    try:
        if way == "setting":
            torch.set_float32_matmul_precision("medium")
        else:
            backend.fp32_precision = "bf16"
        yield
        assert backend.fp32_precision == "bf16"         # Klieg leaves it as it was
    finally:
        backend.fp32_precision = "ieee"
        torch.set_float32_matmul_precision("highest")


WAYS = ["autocast", "setting", "backend"]


@pytest.mark.parametrize("way", WAYS)
def test_no_rounding_changes_a_number_of_a_trace(llama: nn.Module, way: str) -> None:
    with klieg.watch(llama) as seen:
        llama(**GIVEN)
    trace: Trace = seen.trace()
    call = replace(trace[1], survey=None, certificate=None)

    def numbers() -> list[Tensor]:
        stages, pooled = call.stages(3), call.pool(3, size=4)
        assert call.certify() == plain
        return [call.weights(3), call.row(3, 7), stages.dot, stages.scaled, stages.weights, pooled.mean, pooled.max,
                call.surveyed(SurveySpec(top=2, map=0)).survey.received]

    plain = call.certify()
    before = numbers()
    with rounding(way):
        after = numbers()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kernel", ["native", "streamed"])
def test_no_rounding_changes_a_survey(kernel: str, way: str) -> None:
    q, k = (torch.randn(1, 2, 40, 16, generator=torch.Generator().manual_seed(n)) for n in range(2))
    before = kernels.survey(q, k, None, Mask.causal(), kernel=kernel)
    with rounding(way):
        after = kernels.survey(q, k, None, Mask.causal(), kernel=kernel)
    assert all(torch.equal(x, after.tensors()[name]) for name, x in before.tensors().items())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kernel", ["dense", "streamed", "fused"])
def test_no_rounding_changes_attention(kernel: str, way: str) -> None:
    q, k, v = (torch.randn(1, 2, 40, 64, generator=torch.Generator().manual_seed(n)) for n in range(3))
    before = kernels.attend(q, k, v, Mask.causal(), kernel=kernel)
    with rounding(way):
        after = kernels.attend(q, k, v, Mask.causal(), kernel=kernel)
    assert torch.equal(before.output, after.output) and torch.equal(before.lse, after.lse)


@pytest.mark.parametrize("way", WAYS[1:])
def test_a_model_whose_products_are_rounded_is_refused_with_the_remedy(way: str) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(hidden_size=256, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64,
                                         vocab_size=99)).eval()
    x = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    with rounding(way):
        if (x @ x - x.double() @ x.double()).abs().max() < 1e-3:
            pytest.skip("this processor does not round them")
        with pytest.raises(KliegError, match="torch was told to round the products of float32") as refused, klieg.watch(model):
            model(torch.arange(40)[None])
    assert "舍入" in refused.value.zh
    with klieg.watch(model) as seen:
        model(torch.arange(40)[None])
    assert seen.certificate.passed
