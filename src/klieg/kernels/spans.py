"""A mask as the native kernel and the one on the GPU read it: for every query a span of keys, and tables for what is no span.

Causality, windows, blocks and prefixes are spans by nature; padding at either end and documents that
lie in one piece become spans by a look at their tables, which are O(N). Only what is left is looked
up number by number; strides and global tokens become a table of all pairs, which sparse.py spares.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from klieg.attention import Mask


@dataclass(frozen=True, eq=False)
class Spans:
    """Keys first <= j < last of every query, (b or 1, i), int64, less what a table hides; j counts from the first key."""

    first: Tensor
    last: Tensor
    real: Tensor | None = None
    """(b or 1, j), bool."""
    documents: tuple[Tensor, Tensor] | None = None
    """Ids of queries (b or 1, i) and of keys (b or 1, j), int64: only equal ones see each other."""
    allowed: Tensor | None = None
    """(b or 1, h or 1, i, j), bool."""


def spans(mask: Mask, slots: range, keys: range, device: torch.device | None = None) -> Spans:
    """The mask over these slots and keys, on the device of its tables; keys are counted from keys.start."""
    slot = torch.arange(slots.start, slots.stop, device=device)[None]
    first, last = torch.full_like(slot, keys.start), torch.full_like(slot, keys.stop)
    real = allowed = None
    documents = []
    for rule in mask.rules:
        if rule.kind == "causal":
            last = last.minimum(slot + 1)
        elif rule.kind == "prefix":
            last = last.minimum((slot + 1).clamp(min=rule.size))
        elif rule.scattered:
            allowed = _both(allowed, Mask((rule,)).visible(
                slot[0], torch.arange(keys.start, keys.stop, device=device)))
        elif rule.kind == "block":
            start = slot.div(rule.size, rounding_mode="floor") * rule.size
            first, last = first.maximum(start), last.minimum(start + rule.size)
        elif rule.kind == "window":
            first, last = first.maximum(slot - rule.size + 1), last.minimum(slot + rule.size)
        elif rule.kind == "padding":
            table = rule.table[:, keys.start:keys.stop]
            start, stop, whole = _piece(table)
            first, last = first.maximum(start + keys.start), last.minimum(stop + keys.start)
            if not whole:
                real = table if real is None else real & table
        elif rule.kind == "documents":
            table = rule.table[:, :max(slots.stop, keys.stop)]
            pieces = _pieces(table)
            if pieces is None:
                documents.append(table)
            else:
                first, last = first.maximum(pieces[0][:, slot[0]]), last.minimum(pieces[1][:, slot[0]])
        else:
            allowed = _both(allowed, rule.table[:, :, slot[0] - rule.size][..., keys.start:keys.stop])
    first = first.clamp(keys.start, keys.stop) - keys.start
    last = last.clamp(keys.start, keys.stop) - keys.start
    ids = _together(documents) if documents else None
    return Spans(first, last, real, None if ids is None else (ids[:, slot[0]], ids[:, keys.start:keys.stop]), allowed)


def _both(allowed: Tensor | None, table: Tensor) -> Tensor:
    """What two tables of pairs allow, or the only one."""
    return table if allowed is None else allowed & table


def _piece(real: Tensor) -> tuple[Tensor, Tensor, bool]:
    """The span (b, 1) from the first to the last real key of every text, and whether all within are real."""
    count = real.sum(1, keepdim=True)
    start = real.int().argmax(1, keepdim=True)
    stop = torch.where(count > 0, real.shape[1] - real.flip(1).int().argmax(1, keepdim=True), start)
    return start, stop, bool((stop - start == count).all())


def _pieces(ids: Tensor) -> tuple[Tensor, Tensor] | None:
    """Start and stop (b, j) of the document at each slot; None if a document lies in several pieces."""
    place = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    new = torch.ones_like(ids, dtype=torch.bool)
    new[:, 1:] = ids[:, 1:] != ids[:, :-1]
    kinds = ids.sort(1).values.diff().ne(0).sum(1) + 1
    if not torch.equal(new.sum(1), kinds):
        return None
    starts = place.masked_fill(~new, 0).cummax(1).values
    ends = torch.cat([new[:, 1:], torch.ones_like(new[:, :1])], 1)
    stops = (place + 1).masked_fill(~ends, ids.shape[1]).flip(1).cummin(1).values.flip(1)
    return starts, stops


def _together(tables: list[Tensor]) -> Tensor:
    """One id (b, j) for every combination of ids in several tables."""
    if len(tables) == 1:
        return tables[0].long()
    several = torch.stack(torch.broadcast_tensors(*tables), dim=-1)
    return several.flatten(0, 1).unique(dim=0, return_inverse=True)[1].view(several.shape[:2])
