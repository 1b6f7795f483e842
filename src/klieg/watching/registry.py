"""Where models of transformers fetch their attention: who listens there sees every call, and changes none.

Each of their attention modules asks `AttentionInterface.get_interface` for the function that
computes it. While somebody listens, that method gives the function that would have run, wrapped:
the same function runs on the same tensors, so names, masks, branches and outputs stay as they
are, with eager, sdpa and every other implementation. The log-sum-exp that a fused kernel throws
away is caught below torch's dispatcher. Caches say on the way what they were given, and in which
order beam search put their texts.

A listener hears the calls of its own context only: another thread that runs the same model is
not heard.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from klieg.device import full_precision, rounded
from klieg.watching.implementation import Shown, attention, last_lse, scale, sinks, softcap
from klieg.watching.stacks import has_attention


@dataclass(frozen=True, eq=False)
class Update:
    """What a cache was given just before a call: the tokens it had `seen` until then, and their keys now."""

    cache: object
    layer: int
    seen: int
    keys: Tensor


@dataclass(frozen=True, eq=False)
class Heard:
    """One call as the module made it. q (b, h, i, d), k (b, g, j, d), v (b, g, j, e), output (b, h, i, e)."""

    module: nn.Module
    name: str
    """The implementation in the model's config: sdpa, eager and so on."""
    way: str
    """Whose rules for the arguments hold: sdpa, eager, flash, flex, klieg, or other."""
    q: Tensor
    k: Tensor
    v: Tensor
    mask: Any
    options: dict[str, Any]
    output: Tensor
    lse: Tensor | None
    """(b, h, i) where the kernel gave it for exactly this q."""
    update: Update | None
    lse_by: str | None = None
    """The operator of somebody else's kernel that gave the log-sum-exp."""
    rounded: bool = False
    """Whether torch rounded the factors of the module's float32 products."""

    scale = property(lambda self: scale(self.q, self.options))
    softcap = property(lambda self: softcap(self.way, self.options))

    @property
    def sinks(self) -> Tensor | None:
        found = sinks(self.way, self.module, self.options)
        return None if found is None else found.detach()


class Listener(Protocol):
    def owns(self, module: nn.Module) -> bool:
        """Whether a module belongs to what is listened to."""

    def heard(self, call: Heard) -> None:
        """After every call of a module that is owned."""

    def reordered(self, cache: object, order: Tensor) -> None:
        """A cache now has at place n of its batch what was at place order[n]."""

    def generated(self, model: nn.Module, found: object) -> None:
        """What generate() of an owned model returned."""


_listeners: ContextVar[tuple[Listener, ...]] = ContextVar("klieg_listeners", default=())
_pending: ContextVar[Update | None] = ContextVar("klieg_pending", default=None)
_lock = threading.Lock()
_count = 0
_restore: list[tuple[type, str, Callable]] = []


def listening(listener: Listener) -> bool:
    """Whether a listener hears the calls of this context; none hears what torch.compile traces."""
    return not torch.compiler.is_compiling() and listener in _listeners.get()


@contextmanager
def listen(listener: Listener) -> Iterator[None]:
    """Let a listener hear all calls that this context makes; transformers is as before after the last one."""
    _patch()
    _listeners.set((*_listeners.get(), listener))
    try:
        yield
    finally:
        _listeners.set(tuple(other for other in _listeners.get() if other is not listener))
        _unpatch()


def _patch() -> None:
    global _count
    with _lock:
        if _count == 0:
            _replace()
        _count += 1


def _unpatch() -> None:
    global _count
    with _lock:
        _count -= 1
        while _count == 0 and _restore:
            setattr(*_restore.pop())


def _replace() -> None:
    from transformers.cache_utils import Cache
    from transformers.generation import GenerationMixin
    from transformers.modeling_utils import AttentionInterface

    for owner, name, made in ((AttentionInterface, "get_interface", _get_interface), (Cache, "update", _update),
                              (Cache, "reorder_cache", _reorder), (Cache, "batch_select_indices", _reorder),
                              (Cache, "batch_repeat_interleave", _repeat), (GenerationMixin, "generate", _generate)):
        original = getattr(owner, name)
        _restore.append((owner, name, original))
        setattr(owner, name, wraps(original)(made(original)))


if hasattr(os, "register_at_fork"):
    # A child that is forked while another thread holds the lock would wait for it forever.
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


def _get_interface(original: Callable) -> Callable:
    def get_interface(self: object, attn_implementation: str | None, default: Callable) -> Callable:
        function = original(self, attn_implementation, default)
        # What torch.compile traces is left as it is, and who listens hears nothing of it.
        if torch.compiler.is_compiling() or not _listeners.get():
            return function
        name = attn_implementation or "eager"
        return wraps(function)(partial(_run, function, name, "eager" if function is default else _way(function)))
    return get_interface


def _way(function: Callable) -> str:
    from transformers.integrations.flash_attention import flash_attention_forward
    from transformers.integrations.flex_attention import flex_attention_forward
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    ways = {sdpa_attention_forward: "sdpa", flash_attention_forward: "flash", flex_attention_forward: "flex",
            attention: "klieg"}
    return ways.get(function, "other")


def _run(function: Callable, name: str, way: str, module: nn.Module, query: Tensor, key: Tensor, value: Tensor,
         attention_mask: Any = None, *args: Any, **options: Any) -> Any:
    """The function itself, and then whoever listens to the module."""
    update = _pending.get()
    _pending.set(None)
    listeners = [listener for listener in _listeners.get() if listener.owns(module)]
    # Within a backward pass a layer runs again only for what it did not keep (gradient checkpointing).
    if not listeners or torch._C._current_graph_task_id() != -1:
        return function(module, query, key, value, attention_mask, *args, **options)
    with _Ear() as ear:
        found = function(module, query, key, value, attention_mask, *args, **options)
    with torch.no_grad(), full_precision():
        texts = max(query.shape[0], key.shape[0])
        q, k, v = (x.detach().expand(texts, -1, -1, -1) for x in (query, key, value))
        output = found[0].detach().reshape(texts, q.shape[2], q.shape[1], -1).transpose(1, 2)
        mask = attention_mask.known if isinstance(attention_mask, Shown) else attention_mask
        lse, operator = (last_lse.get(), None) if way == "klieg" else ear.lse(q)
        call = Heard(module, name, way, q, k, v, mask, options, output, lse, update, operator, ear.rounded)
        for listener in listeners:
            listener.heard(call)
    return found


# Operators whose second result is the log-sum-exp in nats.
_WITH_LSE = ("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention",
             "_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention")


class _Ear(TorchDispatchMode):
    """Catches the log-sum-exp of the fused kernel that runs inside."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, Tensor, Tensor]] = []
        self.rounded = rounded()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in _WITH_LSE:
            self.found.append((func.overloadpacket.__name__, args[0], out[1]))
        return out

    def lse(self, q: Tensor) -> tuple[Tensor | None, str | None]:
        """(b, h, i) and by which operator, where one ran, on this q and in a type in which its log-sum-exp is exact."""
        if len(self.found) != 1:
            return None, None
        operator, used, lse = self.found[0]
        if lse.ndim == 4 and lse.shape[3] == 1:
            lse = lse[..., 0]                       # cuDNN's
        lse = lse[:, :, :q.shape[2]]                # memory-efficient attention adds rows to a multiple of 32
        same = used.shape == q.shape and used.dtype == q.dtype and lse.shape == q.shape[:3]
        exact = not self.rounded if q.dtype == torch.float32 else q.dtype == torch.float64 or q.device.type != "cpu"
        return (lse.detach().contiguous(), operator) if same and exact else (None, None)


def _update(original: Callable) -> Callable:
    def update(self: Any, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **more: Any) -> Any:
        if torch.compiler.is_compiling() or not _listeners.get():
            return original(self, key_states, value_states, layer_idx, *args, **more)
        seen = int(self.get_seq_length(layer_idx)) if layer_idx < len(self.layers) else 0
        found = original(self, key_states, value_states, layer_idx, *args, **more)
        _pending.set(Update(self, layer_idx, seen, found[0]))
        return found
    return update


def _reorder(original: Callable) -> Callable:
    def reorder(self: object, order: Tensor) -> Any:
        found = original(self, order)
        for listener in _listeners.get():
            listener.reordered(self, torch.as_tensor(order).cpu())
        return found
    return reorder


def _repeat(original: Callable) -> Callable:
    def repeat(self: Any, repeats: int) -> Any:
        texts = next((layer.keys.shape[0] for layer in self.layers if getattr(layer, "keys", None) is not None), 0)
        found = original(self, repeats)
        for listener in _listeners.get():
            listener.reordered(self, torch.arange(texts).repeat_interleave(repeats))
        return found
    return repeat


def _generate(original: Callable) -> Callable:
    def generate(self: nn.Module, *args: Any, **options: Any) -> Any:
        found = original(self, *args, **options)
        for listener in _listeners.get():
            if listener.owns(self):
                listener.generated(self, found)
        return found
    return generate


def refusal(model: nn.Module) -> str | None:
    """Why no call of this model can be heard; None if some may be."""
    parts = list(model.modules())
    library = sys.modules.get("transformers")
    if library is None or not any(isinstance(part, library.PreTrainedModel) for part in parts):
        return "it is no model of transformers"
    if any(hasattr(sys.modules.get(type(part).__module__), "ALL_ATTENTION_FUNCTIONS") for part in parts):
        return None
    if has_attention(model):
        return "its attention does not go through transformers' registry of attention functions"
    return "it has no attention"
