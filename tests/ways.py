"""The ways to use a model of tests/families.py: one pass, padded, with a cache, in chunks, writing, with beams."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from families import Family
from torch import Tensor, nn

NEW = 3     # tokens that a model writes


@dataclass
class Run:
    """One way to use a model: what it gave, and the arguments of the one pass that has the same maps."""

    outputs: list[Tensor]
    whole: dict[str, Any]


def takes(model: nn.Module, name: str) -> bool:
    return name in inspect.signature(model.forward).parameters


def uncached(model: nn.Module) -> dict[str, bool]:
    return {"use_cache": False} if takes(model, "use_cache") else {}


def value(found: Any) -> Tensor:
    return found.logits if getattr(found, "logits", None) is not None else found.last_hidden_state


def positions(model: nn.Module, mask: Tensor) -> dict[str, Tensor]:
    """What generate() hands to a model that takes positions: those of the real tokens, counted from 0."""
    return {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)} if takes(model, "position_ids") else {}


def once(model: nn.Module, family: Family, side: str | None = None) -> Run:
    """One pass without a cache."""
    given = family.inputs(side)
    return Run([value(model(**given, **uncached(model)))], given)


def stepwise(model: nn.Module, family: Family, sizes: tuple[int, ...], static: bool = False) -> Run:
    """Pass after pass with a cache; padded on the left for a decoder, on the right for an encoder."""
    from transformers import StaticCache
    from transformers.modeling_outputs import BaseModelOutput

    side = None if "right" in family.cannot else "right" if family.translates else "left"
    given = family.inputs(side)
    if not family.translates:
        given |= positions(model, given["attention_mask"])
    sliced = {"decoder_input_ids"} if family.translates else set(given)
    rest = {name: x for name, x in given.items() if name not in sliced}
    cache = StaticCache(config=model.config, max_cache_len=20) if static else None
    outputs, at = [], 0
    for size in sizes:
        feed = {name: given[name][:, 0 if name == "attention_mask" else at:at + size] for name in sliced}
        found = model(**rest, **feed, past_key_values=cache, use_cache=True)
        if family.translates:
            encoded = {"encoder_outputs": BaseModelOutput(found.encoder_last_hidden_state)}
            rest = encoded | {name: x for name, x in rest.items() if name == "attention_mask"}
        cache, at = found.past_key_values, at + size
        outputs.append(value(found))
    return Run(outputs, given)


def generated(model: nn.Module, family: Family, **more: Any) -> Run:
    """What generate() writes; padded as in stepwise()."""
    side = None if "right" in family.cannot else "right" if family.translates else "left"
    given = family.inputs(side)
    whole = dict(given)
    given.pop("decoder_input_ids", None)
    found = model.generate(**given, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, pad_token_id=0,
                           return_dict_in_generate=True, output_logits=True, **more)
    fed = found.sequences[:, :-1]
    if family.translates:
        whole["decoder_input_ids"] = fed
    else:
        mask = given["attention_mask"]
        mask = torch.cat([mask, mask.new_ones(len(fed), fed.shape[1] - mask.shape[1])], 1)
        whole = {"input_ids": fed, "attention_mask": mask} | positions(model, mask)
    return Run([found.sequences, *found.logits], whole)


MODES: dict[str, Callable[[nn.Module, Family], Run]] = {
    "plain": once,
    "left": functools.partial(once, side="left"),
    "right": functools.partial(once, side="right"),
    "cache": lambda model, family: stepwise(model, family, (4, 1, 1) if family.translates else (11, 1, 1)),
    "chunks": lambda model, family: stepwise(model, family, (3, 3) if family.translates else (5, 4, 4)),
    "static": lambda model, family: (generated(model, family, cache_implementation="static") if family.translates
                                     else stepwise(model, family, (11, 1, 1), static=True)),
    "generate": generated,
    "beams": functools.partial(generated, num_beams=2),
}


def modes(family: Family) -> list[str]:
    """The ways in which a family can be used."""
    padded = ["left", "right"] if family.kind != "viewer" else []
    writes = ["cache", "chunks", "static", "generate", "beams"]
    able = ["plain", *padded, *(writes if family.translates or family.kind in ("decoder", "hybrid") else [])]
    return [mode for mode in able if mode not in family.cannot]
