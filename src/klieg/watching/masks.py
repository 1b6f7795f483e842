"""What a model's mask really hides: from the tensors of a call to an exact Mask of O(N) size.

Names such as `is_causal` or `sliding_window` are hints and can be wrong. A table is walked over
once, rules that could have made it are read off (causality, a window, padding, documents, a
prefix), and rules are taken only if they give back the table cell by cell. Where none does, the
table itself is the mask. A table is looked at a block of rows at a time, so it may be a function
that never exists as a whole.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from klieg.attention import Mask
from klieg.errors import KliegError
from klieg.rules import Rule

# rows -> which keys they see: (b or 1, h or 1, rows, keys), bool.
Look = Callable[[slice], Tensor]

BLOCK = 2**22         # cells of a table that are looked at together


@dataclass(frozen=True, eq=False)
class Known:
    """A mask that was read before: over `keys` of the keys."""

    keys: int
    mask: Mask


@dataclass(frozen=True, eq=False)
class Reading:
    """A call's mask. `keys` of the keys it was given count: a static cache is longer than its text."""

    keys: int
    mask: Mask
    bias: Tensor | None = None
    """Broadcasts to (b, h, i, keys)."""
    blind: Tensor | None = None
    """(b or 1, h or 1, i): the rows that see nothing, if there are any."""


def read(way: str, given: Any, queries: int, keys: int, *, causal: bool, seen: int | None,
         bias: Tensor | None = None, window: int | None = None) -> Reading:
    """The mask of a call from what its module handed over.

    `way` says whose rules hold where there is no table: with sdpa, `causal` hides the future of
    more than one query; eager hides nothing. `seen` is the number of tokens that the cache had
    before, None without a cache; `bias` is a position bias beside the mask.
    """
    if isinstance(given, Known):
        return _finished(Reading(given.keys, given.mask, bias))
    table, bias = _parts(given, bias, queries, keys)
    if way == "flash":
        used = keys if seen is None else min(keys, seen + queries)
        rules = [Rule("causal")] if causal else []
        rules += [Rule("window", window)] if window is not None else []
        rules += [Rule("padding", table=_wide(given, used).bool())] if isinstance(given, Tensor) else []
        return _finished(Reading(used, Mask(tuple(rules)), bias))
    if table is None:
        top_left = way != "eager" and causal and queries > 1
        if top_left and keys < queries:
            raise KliegError(f"{queries} queries look causally at {keys} keys, first on first; no cache does that.")
        used = queries if top_left else keys
        if seen is not None and used != min(keys, seen + queries):
            raise KliegError(f"{queries} queries after {seen} tokens look at {used} of the {keys} places of a cache, where "
                             f"{min(keys, seen + queries)} hold a token; give the model its attention_mask.")
        return _finished(Reading(used, Mask.causal() if top_left else Mask(), bias))
    used = keys if seen is None else min(keys, seen + queries)
    if used < keys and any(table(rows)[..., used:].any() for rows in blocks(queries, keys)):
        raise KliegError(f"{queries} queries after {seen} tokens look at places of a cache that hold no token; give the "
                         "model its attention_mask.")
    mask, blind = compact(lambda rows: table(rows)[..., :used], queries, used)
    return _finished(Reading(used, mask, bias, blind))


def _finished(reading: Reading) -> Reading:
    """With the bias of the keys that count; none where it is zero."""
    bias = reading.bias
    if bias is None:
        return reading
    bias = bias[..., :reading.keys] if bias.shape[-1] > 1 else bias
    return replace(reading, bias=bias.clone() if bias.any() else None)


def _wide(real: Tensor, keys: int) -> Tensor:
    """A padding table for the last `keys` keys, real where it is too short."""
    return torch.nn.functional.pad(real, (max(0, keys - real.shape[1]), 0), value=1)[:, -keys:]


def _parts(given: Any, bias: Tensor | None, queries: int, keys: int) -> tuple[Look | None, Tensor | None]:
    """A mask argument as a table, and the finite numbers that it adds to the scores."""
    if given is None:
        return None, bias
    if hasattr(given, "mask_mod"):
        at = torch.arange(max(queries, keys), device=given.kv_indices.device)
        return of_function(given.mask_mod, given.shape[0], given.shape[1], at[:queries], at[:keys]), bias
    if given.ndim == 2:
        return (lambda rows: given.bool()[:, None, None].expand(-1, 1, rows.stop - rows.start, -1)), bias
    if given.ndim != 4 or given.shape[3] != keys:
        raise KliegError(f"an attention mask {tuple(given.shape)} for {queries} queries and {keys} keys cannot be read.")
    # What was expanded from one text or head is looked at once.
    for axis in (0, 1):
        given = given.narrow(axis, 0, 1) if given.stride(axis) == 0 else given
    given = given.expand(-1, -1, queries, -1)
    if not given.is_floating_point():
        table = given.bool()
        return (lambda rows: table[:, :, rows]), bias
    lowest = torch.finfo(given.dtype).min / 2
    if any(((added := given[:, :, rows]) > lowest).logical_and(added != 0).any() for rows in blocks(queries, keys)):
        added = given.masked_fill(given <= lowest, 0)
        bias = added if bias is None else bias + added
    return (lambda rows: given[:, :, rows] > lowest), bias


def of_function(function: Callable, texts: int, heads: int, slots: Tensor, keys: Tensor) -> Look:
    """A table out of a function of (text, head, query, key), which gets indices that broadcast."""
    text = torch.arange(texts, device=keys.device)[:, None, None, None]
    head = torch.arange(heads, device=keys.device)[None, :, None, None]
    at = keys[None, None, None, :]
    return lambda rows: function(text, head, slots[None, None, rows, None], at).expand(
        -1, -1, rows.stop - rows.start, len(keys))


def blocks(queries: int, keys: int, copies: int = 1) -> Iterator[slice]:
    step = max(1, BLOCK // (keys * copies))
    return (slice(at, min(at + step, queries)) for at in range(0, queries, step))


@dataclass(eq=False)
class _Scan:
    """What one walk over a table shows."""

    keys: Tensor
    """(b, j): seen by any row."""
    live: Tensor
    """(b, h, i): sees any key."""
    behind: int
    """The largest slot - key that is seen."""
    ahead: int
    """The largest key - slot that is seen."""
    beside: Tensor
    """(b, i): a row sees the key just before its own slot."""
    first: Tensor
    """(b, j): what the first row sees."""
    same: bool
    """Whether all heads see the same."""


def _scan(look: Look, queries: int, keys: int) -> _Scan:
    first = keys - queries
    top = look(slice(0, 1))
    texts, heads = top.shape[:2]
    found = _Scan(top.new_zeros(texts, keys), top.new_zeros(texts, heads, queries), -keys, -keys,
                  top.new_zeros(texts, queries), top[:, 0, 0], True)
    at = torch.arange(keys, device=top.device, dtype=torch.int32)
    for rows in blocks(queries, keys, texts * heads):
        block = look(rows)
        slots = torch.arange(first + rows.start, first + rows.stop, device=top.device, dtype=torch.int32)
        found.same = found.same and bool((block == block[:, :1]).all())
        found.live[:, :, rows] = block.any(3)
        one = block[:, 0]
        found.keys |= one.any(1)
        away = slots[:, None] - at
        found.behind = max(found.behind, away.masked_fill(~one, -keys).max().item())
        found.ahead = max(found.ahead, (-away).masked_fill(~one, -keys).max().item())
        inside = slots >= 1
        before = (slots - 1).clamp(min=0).long()[None, :, None].expand(texts, -1, 1)
        found.beside[:, rows] = one.gather(2, before)[..., 0] & inside
    return found


def compact(look: Look, queries: int, keys: int) -> tuple[Mask, Tensor | None]:
    """The Mask that is exactly this table, of O(N) size if there is one; and the rows (b or 1, h or 1, i) that see nothing."""
    scan = _scan(look, queries, keys)
    blind = None if scan.live.all() else ~scan.live
    if scan.same:
        for rules in _candidates(scan, queries, keys):
            if equal(Mask(rules), look, queries, keys):
                return Mask(rules), blind
    table = torch.cat([look(rows) for rows in blocks(queries, keys)], dim=2)
    return Mask.explicit(table[:, :1].clone() if scan.same else table.clone(), keys - queries), blind


def equal(mask: Mask, look: Look, queries: int, keys: int, rows: slice | None = None) -> bool:
    """Whether a mask over `keys` keys is a table, cell by cell, in some rows or in all."""
    copies = max([1, *(len(rule.table) for rule in mask.rules if rule.table is not None)])
    rows = rows or slice(0, queries)
    for block in reversed(list(blocks(rows.stop - rows.start, keys, copies))):
        part = slice(rows.start + block.start, rows.start + block.stop)
        table = look(part)
        slots = torch.arange(part.start, part.stop, device=table.device) + (keys - queries)
        if not (mask.visible(slots, torch.arange(keys, device=table.device)) == table).all():
            return False
    return True


def _candidates(scan: _Scan, queries: int, keys: int) -> Iterator[tuple[Rule, ...]]:
    """Rules that may have made a table, the simplest first."""
    padding = () if scan.keys.all() else (Rule("padding", table=scan.keys),)
    causal = (Rule("causal"),)
    narrow = (Rule("window", max(scan.behind, 0) + 1),)
    wide = (Rule("window", max(scan.behind, scan.ahead, 0) + 1),)
    yield padding
    if scan.ahead <= 0:
        yield (*causal, *padding)
        if narrow[0].size < keys:
            yield (*causal, *narrow, *padding)
    elif wide[0].size < keys:
        yield (*wide, *padding)
    if keys >= queries > 1:
        documents = (Rule("documents", table=_documents(scan, queries, keys)),)
        if scan.ahead <= 0:
            yield (*causal, *documents, *padding)
            if narrow[0].size < keys:
                yield (*causal, *narrow, *documents, *padding)
        else:
            yield (*documents, *padding)
            yield (Rule("prefix", int(scan.first.nonzero()[:, 1].max()) + 1 if scan.first.any() else 0), *padding)


def _documents(scan: _Scan, queries: int, keys: int) -> Tensor:
    """ids (b, j): a document begins where a row does not see the key before its own. Older keys are all of the first."""
    first = keys - queries
    ids = torch.zeros(len(scan.keys), keys, dtype=torch.int64, device=scan.keys.device)
    ids[:, first + 1:] = (~scan.beside[:, 1:]).cumsum(1)
    return ids


@dataclass(frozen=True, eq=False)
class Piece:
    """The mask of one call among the rows of a longer run, where its keys begin at key `start`."""

    mask: Mask
    queries: int
    keys: int
    start: int
    order: Tensor | None = None
    """(b,): which text of the call each text of the run was."""

    def look(self, rows: slice, total: int, device: torch.device | None) -> Tensor:
        """Which of all `total` keys some rows of this call see."""
        slots = torch.arange(rows.start, rows.stop, device=device) + (self.keys - self.queries)
        seen = self.mask.visible(slots, torch.arange(self.keys, device=device))
        if self.order is not None and len(seen) > 1:
            seen = seen[self.order.to(seen.device)]
        return torch.nn.functional.pad(seen, (self.start, total - self.start - self.keys))


def join(pieces: list[Piece], keys: int, device: torch.device | None = None) -> Mask:
    """The mask of a run over `keys` keys, whose rows are those of the pieces one after another; `device` has their tables."""
    ends = [0, *accumulate(piece.queries for piece in pieces)]
    bounds = list(pairwise(ends))
    queries = ends[-1]

    def look(rows: slice) -> Tensor:
        touched = range(bisect_right(ends, rows.start) - 1, bisect_left(ends, rows.stop))
        parts = [pieces[n].look(slice(max(ends[n], rows.start) - ends[n], min(ends[n + 1], rows.stop) - ends[n]), keys,
                                device)
                 for n in touched]
        lead = [max(part.shape[axis] for part in parts) for axis in (0, 1)]
        return torch.cat([part.expand(*lead, -1, -1) for part in parts], dim=2)

    # The longest call, usually the prompt, is believed without walking over its N x N cells again: its
    # rules may be those of all rows, with the padding of the keys that came later read off their rows.
    longest = max(range(len(pieces)), key=lambda n: pieces[n].queries)
    guess = _grown(pieces[longest], look, bounds[longest][1], queries, keys)
    if guess is not None:
        others = [slice(*bound) for n, bound in enumerate(bounds) if n != longest]
        if all(equal(guess, look, queries, keys, rows) for rows in others):
            return guess
    return compact(look, queries, keys)[0]


def _grown(piece: Piece, look: Look, end: int, queries: int, keys: int) -> Mask | None:
    """The rules of a run's first and longest call for the whole run: those of no table stay as they are."""
    kinds = {rule.kind for rule in piece.mask.rules}
    if end != piece.queries or piece.start or piece.queries < 2 or not kinds <= {"causal", "window", "padding"}:
        return None
    if "causal" not in kinds and keys != piece.keys:
        return None
    rules = [rule for rule in piece.mask.rules if rule.kind != "padding"]
    table = next((rule.table for rule in piece.mask.rules if rule.kind == "padding"), None)
    if table is not None:
        table = table if piece.order is None or len(table) == 1 else table[piece.order.to(table.device)]
        later = [look(slice(n, n + 1))[:, 0, 0, piece.keys:] for n in range(end, queries)]
        texts = max(len(x) for x in (table, *later))
        new = torch.stack([x.expand(texts, -1) for x in later]).any(0) if later else table[:, :0].expand(texts, -1)
        table = torch.cat([table[:, :piece.keys].expand(texts, -1), new], dim=1)
        rules.append(Rule("padding", table=table))
    return Mask(tuple(rules))
