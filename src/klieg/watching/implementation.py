"""The name "klieg" among transformers' attention functions: klieg's own kernels, under masks of O(N) size.

    klieg.register()
    model = AutoModelForCausalLM.from_pretrained(path, attn_implementation="klieg")

A mask is a few rules instead of an N x N table. The model holds a small tensor in its place and
passes it on; one that computes with it would lose the rules in silence, so that is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from klieg.errors import KliegError
from klieg.kernels import attend
from klieg.watching import masks
from klieg.watching.masks import Known

# The log-sum-exp of the last call of this context, for who watches it.
last_lse: ContextVar[Tensor | None] = ContextVar("klieg_lse", default=None)


class Shown(Tensor):
    """What a model holds as its mask: (b, 1, 1, j), bool. The mask itself is `known`, and nobody can compute with this one."""

    known: Known

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__ == "contiguous":
            return args[0]
        if func.__name__ not in ("__get__", "__set__", "size", "dim", "__len__", "is_floating_point"):
            raise KliegError(f"this model computes with its attention mask ({func.__name__}), and 'klieg' keeps masks as "
                             "rules; leave the model its own attn_implementation and use klieg.watch().")
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


def register() -> None:
    """Let models of transformers be loaded with attn_implementation="klieg"."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register("klieg", attention)
    AttentionMaskInterface.register("klieg", _mask)


def attention(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any) -> Any:
    """softmax(q k^T) v by the quickest kernel of klieg: (b, i, h, e), and no weights."""
    if options.get("dropout"):
        raise KliegError("attn_implementation='klieg' knows no dropout; set the model's attention dropout to 0.")
    causal = options.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    given = attention_mask.known if isinstance(attention_mask, Shown) else attention_mask
    reading = masks.read("klieg", given, query.shape[2], key.shape[2], causal=causal, seen=None,
                         bias=options.get("position_bias"))
    found = attend(query, key[:, :, :reading.keys], value[:, :, :reading.keys], reading.mask, scale=scale(query, options),
                   softcap=softcap("klieg", options), sinks=sinks("klieg", module, options), bias=reading.bias)
    last_lse.set(found.lse)
    return found.output.transpose(1, 2).contiguous(), None


def _mask(batch_size: int, q_length: int, kv_length: int, q_offset: Any = 0, kv_offset: Any = 0,
          mask_function: Callable | None = None, attention_mask: Tensor | None = None, use_vmap: bool = False,
          device: Any = "cpu", **more: Any) -> Tensor | None:
    """The mask of a pass as rules, if they give back transformers' mask function cell by cell; else its table.

    None is everything, where transformers may leave the mask out.
    """
    from transformers import masking_utils

    function = mask_function or masking_utils.causal_mask_function
    padding = masking_utils.prepare_padding_mask(attention_mask, kv_length, kv_offset)
    if padding is not None:
        function = masking_utils.and_masks(function, masking_utils.padding_mask_function(padding))
    first, start = int(q_offset), int(kv_offset)
    slots, keys = torch.arange(first, first + q_length, device=device), torch.arange(start, start + kv_length, device=device)
    known = None
    if not use_vmap:
        look = masks.of_function(function, batch_size, 1, slots, keys)
        used = min(kv_length, first - start + q_length)
        if any(look(rows)[..., used:].any() for rows in masks.blocks(q_length, kv_length)):
            used = kv_length
        found, _ = masks.compact(lambda rows: look(rows)[..., :used], q_length, used)
        if more.get("allow_is_bidirectional_skip") and not found.rules and used == kv_length:
            return None
        known = None if any(rule.kind == "explicit" for rule in found.rules) else Known(used, found)
    if known is None:
        return masking_utils.sdpa_mask(batch_size, q_length, kv_length, q_offset, kv_offset, function, None, use_vmap=use_vmap,
                                       device=device, allow_is_causal_skip=False)
    shown = torch.ones(batch_size, 1, 1, kv_length, dtype=torch.bool, device=device).as_subclass(Shown)
    shown.known = known
    return shown


def scale(q: Tensor, options: dict[str, Any]) -> float:
    """What q k^T is multiplied by."""
    found = options.get("scaling")
    return float(q.shape[3] ** -0.5 if found is None else found)


def softcap(way: str, options: dict[str, Any]) -> float | None:
    found = options.get("softcap")
    return None if found is None or way == "sdpa" else float(found)


def sinks(way: str, module: nn.Module, options: dict[str, Any]) -> Tensor | None:
    """(h,): one number for every head, as the keyword or the module has it; sdpa knows none."""
    if way == "sdpa":
        return None
    found = options.get("s_aux")
    found = options.get("sinks") if found is None else found
    found = getattr(module, "sinks", None) if found is None and way not in ("flash", "flex") else found
    if not isinstance(found, Tensor):
        return None
    if found.ndim == 4:
        one = found[:1, :, :1, 0]
        if not (found[..., 0] == one).all():
            raise KliegError(f"the sinks of {type(module).__name__} differ from query to query, and klieg knows one for each "
                             "head; this model cannot be watched, nor run with attn_implementation='klieg'.")
        return one.flatten().float()
    return found.flatten().float()
