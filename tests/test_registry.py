"""Calls of transformers' attention are heard as they are, by those who listen, and nothing is changed for anybody."""

from __future__ import annotations

import os
import threading

import pytest
import torch
from families import FAMILIES
from torch import Tensor, nn

from klieg.attention import Mask, hide, log_sum_exp, output, scores, weights
from klieg.watching import registry
from klieg.watching.registry import Heard


class Notes:
    """A listener that keeps what it hears."""

    def __init__(self, model: nn.Module) -> None:
        self.modules, self.calls, self.orders, self.found = set(map(id, model.modules())), [], [], []

    def owns(self, module: nn.Module) -> bool:
        return id(module) in self.modules

    def heard(self, call: Heard) -> None:
        self.calls.append(call)

    def reordered(self, cache: object, order: Tensor) -> None:
        self.orders.append(order)

    def generated(self, model: nn.Module, found: object) -> None:
        self.found.append(found)


@pytest.fixture(scope="module")
def llama() -> nn.Module:
    return FAMILIES["llama"].model().requires_grad_(False)


GIVEN = FAMILIES["llama"].inputs()


def patched() -> bool:
    from transformers.cache_utils import Cache
    from transformers.modeling_utils import AttentionInterface

    return hasattr(AttentionInterface.get_interface, "__wrapped__") or hasattr(Cache.update, "__wrapped__")


@pytest.mark.parametrize("way", ["sdpa", "eager"])
def test_a_call_is_heard_as_it_was_made(llama: nn.Module, way: str) -> None:
    llama.set_attn_implementation(way)
    before = llama(**GIVEN, use_cache=False).logits
    notes = Notes(llama)
    with registry.listen(notes):
        assert patched() and torch.equal(llama(**GIVEN, use_cache=False).logits, before)
    assert not patched() and [call.name for call in notes.calls] == [way, way] == [call.way for call in notes.calls]
    call = notes.calls[1]
    assert call.module is llama.model.layers[1].self_attn and call.update is None
    assert (call.q.shape, call.k.shape, call.v.shape) == ((2, 4, 13, 16), (2, 2, 13, 16), (2, 2, 13, 16))
    s = hide(scores(call.q.double(), call.k.double(), scale=call.scale), Mask.causal())
    lse = log_sum_exp(s)
    assert (output(weights(s, lse), call.v.double()) - call.output).abs().max() < 1e-5
    if way == "sdpa":
        assert (call.lse - lse).abs().max() < 1e-5
    else:
        assert call.lse is None
    llama.set_attn_implementation("sdpa")


def test_a_log_sum_exp_that_is_not_exact_is_not_taken(llama: nn.Module) -> None:
    """Narrow types lose its digits; a single query is packed, so that its rows are others."""
    narrow = FAMILIES["llama"].model().bfloat16()
    notes = Notes(narrow)
    with registry.listen(notes), torch.no_grad():
        narrow(**GIVEN)
    assert notes.calls[0].lse is None
    notes = Notes(llama)
    mask = torch.ones(2, 13, dtype=torch.int64)
    mask[0, :3] = 0
    with registry.listen(notes):
        llama.generate(**GIVEN, attention_mask=mask, max_new_tokens=2, do_sample=False, pad_token_id=0)
    assert notes.calls[0].lse is not None and notes.calls[-1].q.shape[2] == 1 and notes.calls[-1].lse is None


def test_a_cache_says_what_it_had_seen(llama: nn.Module) -> None:
    notes = Notes(llama)
    with registry.listen(notes):
        cache = llama(GIVEN["input_ids"][:, :9], use_cache=True).past_key_values
        llama(GIVEN["input_ids"][:, 9:], past_key_values=cache)
    assert [(call.update.layer, call.update.seen) for call in notes.calls] == [(0, 0), (1, 0), (0, 9), (1, 9)]
    assert all(call.update.cache is cache for call in notes.calls)


def test_beams_are_heard_of(llama: nn.Module) -> None:
    notes = Notes(llama)
    with registry.listen(notes):
        found = llama.generate(**GIVEN, num_beams=2, max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert [order.shape for order in notes.orders] == [(4,)] * 3 and notes.found[0] is found


def test_listeners_are_nested_and_hear_what_is_theirs(llama: nn.Module) -> None:
    other = FAMILIES["gpt2"].model()
    outer, inner, strange = Notes(llama), Notes(llama), Notes(other)
    with registry.listen(outer), registry.listen(strange):
        llama(**GIVEN)
        with registry.listen(inner):
            llama(**GIVEN)
            assert registry.listening(inner)
        assert patched() and not registry.listening(inner)
    assert (len(outer.calls), len(inner.calls), len(strange.calls)) == (4, 2, 0) and not patched()


def test_all_is_as_before_after_an_error(llama: nn.Module) -> None:
    with pytest.raises(ZeroDivisionError), registry.listen(Notes(llama)):
        raise ZeroDivisionError
    assert not patched()


def test_another_thread_is_not_heard(llama: nn.Module) -> None:
    """Two threads run one model at a time, and each watcher hears its own."""
    notes, ready, errors = [Notes(llama), Notes(llama)], threading.Barrier(3), []

    def run(own: Notes | None) -> None:
        try:
            ready.wait(30)
            if own is None:
                for _ in range(8):
                    llama(**GIVEN)
                return
            for _ in range(4):
                with registry.listen(own):
                    llama(**GIVEN)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(own,)) for own in (*notes, None)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and [len(own.calls) for own in notes] == [8, 8] and not patched()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_that_is_forked_while_another_thread_patches_can_patch_too(llama: nn.Module) -> None:
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with registry._lock:
            held.set()
            release.wait(0.2)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(30)
    child = os.fork()
    if child == 0:
        free = registry._lock.acquire(timeout=5)
        os._exit(0 if free and not patched() else 1)
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize(("name", "said"), [("bloom", "registry"), ("falcon", "registry"), ("mamba", "no attention")])
def test_a_model_that_cannot_be_heard_is_known_before_it_runs(name: str, said: str) -> None:
    assert said in registry.refusal(FAMILIES[name].model())


def test_a_model_of_another_house_is_known() -> None:
    assert "transformers" in registry.refusal(nn.Linear(2, 2))
    assert registry.refusal(FAMILIES["llama"].model()) is None
