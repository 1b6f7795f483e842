"""Which keys a tile of queries sees, on the GPU: spans, labels, and a table of pairs where nothing less will do.

A mask becomes, once for all layers that share it, a span of keys for every query and the span of queries for every
key. Both only ever grow along the text, so that one comparison at each end says what a tile sees, and which tiles
see nothing, see all, or lie between. Holes of a padding and documents in several pieces are labels: a query sees
the keys of its own label. An explicit table is read pair by pair.

In the kernels a query of the part is `row` and stands at slot row + offset, in the counting of the part's keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from weakref import WeakKeyDictionary

import torch
import triton
import triton.language as tl
from torch import Tensor

from klieg.attention import Mask
from klieg.kernels.spans import spans
from klieg.rules import Rule


@dataclass(frozen=True, eq=False)
class Seen:
    """A mask over some queries and keys, as tables on the device; i and j count from the part's first ones."""

    first_key: Tensor
    """(b or 1, i), int32: query i sees first_key <= j < last_key, less what follows; rising with i."""
    last_key: Tensor
    first_row: Tensor
    """(b or 1, j), int32: key j is seen by first_row <= i < last_row, less what follows; rising with j."""
    last_row: Tensor
    labels: tuple[Tensor, Tensor] | None
    """Labels of queries (b or 1, i) and of keys (b or 1, j), int32: only equal ones see each other."""
    allowed: Tensor | None
    """(b or 1, h or 1, i, j), int8: 0 hides a pair."""

    def arguments(self) -> dict[str, tuple]:
        """What the kernels are told: the spans as (first, last, step along the batch), and the tables for in_tables()."""
        rows, keys = self.labels or (None, None)
        return {"row_spans": (self.first_key, self.last_key, step(self.first_key, 0)),
                "key_spans": (self.first_row, self.last_row, step(self.first_row, 0)),
                "tables": (rows, step(rows, 0), keys, step(keys, 0), self.allowed,
                           *(step(self.allowed, axis) for axis in range(3)))}


def step(x: Tensor | None, axis: int) -> int | None:
    """The stride of an axis, 0 where one entry is that of all; None without a tensor."""
    return x if x is None else x.stride(axis) if x.shape[axis] > 1 else 0


# Every layer of a model asks for the same mask. Of masks with tables only the last shape of each is kept, and no
# longer than the mask itself; a mask without tables is known by what it says.
_known: WeakKeyDictionary[Mask, tuple[tuple, Seen]] = WeakKeyDictionary()


def seen(mask: Mask, slots: range, keys: range, device: torch.device) -> Seen:
    """The mask over these slots and keys, on the device. Reads its tables, which waits for the device, only once."""
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return _build(mask, slots, keys, device)        # what is made while a graph is recorded exists only when that runs
    if all(rule.table is None for rule in mask.rules):
        return _untabled(tuple((rule.kind, rule.size, rule.global_tokens) for rule in mask.rules), slots, keys, device)
    shape = slots, keys, device
    known = _known.get(mask)
    if known is None or known[0] != shape:
        with torch.inference_mode(False):                        # it may serve training later
            known = _known[mask] = shape, _build(mask, slots, keys, device)
    return known[1]


@lru_cache(maxsize=8)
def _untabled(rules: tuple[tuple[str, int, int], ...], slots: range, keys: range, device: torch.device) -> Seen:
    mask = Mask(tuple(Rule(kind, size, global_tokens=shared) for kind, size, shared in rules))
    with torch.inference_mode(False):
        return _build(mask, slots, keys, device)


def _build(mask: Mask, slots: range, keys: range, device: torch.device) -> Seen:
    found = spans(mask, slots, keys, device)
    first, last = torch.broadcast_tensors(found.first, found.last)
    every = torch.arange(len(keys), device=device).expand(len(first), -1).contiguous()
    # Spans rise along the text, so the queries that see a key are those that began by then and have not ended.
    return Seen(*(x.int().contiguous() for x in (
        first, last, torch.searchsorted(last.contiguous(), every, right=True),
        torch.searchsorted(first.contiguous(), every, right=True))),
        _labels(found.documents, found.real, len(slots)),
        None if found.allowed is None else found.allowed.expand(-1, -1, len(slots), len(keys)).contiguous().view(torch.int8))


def _labels(documents: tuple[Tensor, Tensor] | None, real: Tensor | None, queries: int) -> tuple[Tensor, Tensor] | None:
    """One label for each document, from 1; 0 for a padding key, which no query has."""
    if documents is None:
        return None if real is None else (
            torch.ones(1, queries, dtype=torch.int32, device=real.device), real.int().contiguous())
    rows, keys = (x.shape[1] for x in documents)
    label = torch.cat(documents, 1).unique(return_inverse=True)[1].int() + 1
    ids = label[:, :rows].contiguous(), label[:, rows:].contiguous()
    return ids if real is None else (ids[0], torch.where(real, ids[1], 0).expand(-1, keys).contiguous())


@triton.jit
def span_of(spans: tl.tuple, batch: tl.tensor, lines: tl.tensor, count: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """First and last of every line, of queries or of keys; lines beyond `count` have those of the last one."""
    first, last, stride = spans
    at = tl.cast(batch, tl.int64) * stride + tl.minimum(lines, count - 1)
    return tl.load(first + at), tl.load(last + at)


@triton.jit
def reach(first: tl.tensor, last: tl.tensor, SIZE: tl.constexpr, CUT: tl.constexpr) -> tuple[tl.tensor, ...]:
    """start <= whole_start <= whole_stop <= stop, in steps of SIZE but for the last: what is seen by some of the lines
    lies from start to stop, and from whole_start to whole_stop all of it is seen by all of them. With CUT, nothing is
    taken for whole, because tables hide more than spans do."""
    start = tl.min(first, 0) // SIZE * SIZE
    stop = tl.maximum(tl.max(last, 0), start)
    if CUT:
        whole_start = start
        whole_stop = start
    else:
        whole_start = tl.minimum((tl.max(first, 0) + SIZE - 1) // SIZE * SIZE, (stop + SIZE - 1) // SIZE * SIZE)
        whole_stop = tl.maximum(tl.min(last, 0) // SIZE * SIZE, whole_start)
    return start, whole_start, whole_stop, stop


@triton.jit
def partial_tile(number: tl.tensor, start: tl.tensor, whole_start: tl.tensor, whole_stop: tl.tensor,
                 SIZE: tl.constexpr) -> tl.tensor:
    """Where the `number`-th tile of those before and after the whole ones begins."""
    at = start + number * SIZE
    return tl.where(at < whole_start, at, at + (whole_stop - whole_start))


@triton.jit
def partial_tiles(start: tl.tensor, whole_start: tl.tensor, whole_stop: tl.tensor, stop: tl.tensor,
                  SIZE: tl.constexpr) -> tl.tensor:
    """How many tiles lie before and after the whole ones."""
    return (whole_start - start) // SIZE + (tl.maximum(stop - whole_stop, 0) + SIZE - 1) // SIZE


@triton.jit
def tabled(tables: tl.tuple) -> tl.constexpr:
    """Whether tables hide more than spans do."""
    return tables[0] is not None or tables[4] is not None


@triton.jit
def in_tables(tables: tl.tuple, batch: tl.tensor, head: tl.tensor, rows: tl.tensor, columns: tl.tensor,
              queries: tl.tensor, keys: tl.tensor) -> tl.tensor:
    """Whether labels and the table of pairs, where given, let rows see columns; both of shapes that broadcast, as does this.

    Beyond the last row and the last column it answers for the last ones.
    """
    label_rows, rows_b, label_keys, keys_b, allowed, allowed_b, allowed_h, allowed_i = tables
    rows, columns, batch = tl.minimum(rows, queries - 1), tl.minimum(columns, keys - 1), tl.cast(batch, tl.int64)
    seen = True
    if label_rows is not None:
        seen = tl.load(label_rows + batch * rows_b + rows) == tl.load(label_keys + batch * keys_b + columns)
    if allowed is not None:
        at = batch * allowed_b + tl.cast(head, tl.int64) * allowed_h + tl.cast(rows, tl.int64) * allowed_i
        seen = (tl.load(allowed + at + columns) != 0) & seen
    return seen
