"""The masked scores of all queries and keys, of which only tiles are ever computed.

The streamed kernel and the survey walk over the same tiles; this file says which tiles there
are, which of them a mask hides altogether, and what stands in one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from klieg.attention import Mask
from klieg.rules import SPARSE, Rule

# Numbers in one tile: on a CPU it stays near the core, elsewhere it fills the device.
_CPU_TILE, _DEVICE_TILE = 2**19, 2**25


def narrow(mask: Mask, slots: range, keys: range) -> Mask:
    """The mask without the rules that show all of these slots all of these keys.

    Only the ranges are looked at, never the content of a table, so it is cheap.
    """
    left = tuple(rule for rule in mask.rules if not _shows_all(rule, slots, keys))
    return mask if len(left) == len(mask.rules) else Mask(left)


def _shows_all(rule: Rule, slots: range, keys: range) -> bool:
    if rule.global_tokens and min(slots[-1], keys[-1]) < rule.global_tokens:
        return True
    if rule.kind == "causal":
        return keys[-1] <= slots[0]
    if rule.kind == "prefix":
        return keys[-1] <= slots[0] or keys[-1] < rule.size
    if rule.kind in ("window", "strided"):
        return max(slots[-1] - keys[0], keys[-1] - slots[0]) < rule.size
    if rule.kind == "block":
        return min(slots[0], keys[0]) // rule.size == max(slots[-1], keys[-1]) // rule.size
    return False


def reach(mask: Mask, slots: range, keys: range) -> range:
    """The keys that these slots may see as far as it is cheap to know; the rest is hidden."""
    start, stop = keys.start, keys.stop
    for rule in mask.rules:
        if rule.kind == "causal":
            stop = min(stop, slots.stop)
        elif rule.kind == "prefix":
            stop = min(stop, max(slots.stop, rule.size))
        elif rule.scattered:
            continue
        elif rule.kind == "window":
            start, stop = max(start, slots.start - rule.size + 1), min(stop, slots.stop + rule.size - 1)
        elif rule.kind == "block":
            start, stop = max(start, slots[0] // rule.size * rule.size), min(stop, (slots[-1] // rule.size + 1) * rule.size)
    return range(start, max(start, stop))


def hides_all(mask: Mask, slots: range, keys: range) -> bool:
    """Whether a window, a block or a stride hides all of these keys from all of these slots; tables are not looked at."""
    return any(rule.kind in SPARSE and min(slots[0], keys[0]) >= rule.global_tokens and not _touches(rule, slots, keys)
               for rule in mask.rules)


def _touches(rule: Rule, slots: range, keys: range) -> bool:
    """Whether any of these pairs is seen, global tokens aside."""
    if rule.kind == "block":
        return slots[0] // rule.size <= keys[-1] // rule.size and keys[0] // rule.size <= slots[-1] // rule.size
    least, most = slots[0] - keys[-1], slots[-1] - keys[0]                  # of slot - key
    near = least < rule.size and most > -rule.size
    return near or (rule.kind == "strided" and most // rule.size * rule.size >= least)


@dataclass(frozen=True, eq=False)
class Scores:
    """softcap(scale * q k^T) + bias under a mask, for q (b, h, i, d) and k (b, g, j, d).

    q and k may be part of a longer text: row 0 of q stands at `first_slot` and row 0 of k is
    key `first_key`. bias is of the part, (b or 1, h or 1, i or 1, j or 1); the mask is of the whole.
    """

    q: Tensor
    k: Tensor
    mask: Mask
    scale: float
    softcap: float | None
    bias: Tensor | None
    first_slot: int
    first_key: int = 0

    @staticmethod
    def of(q: Tensor, k: Tensor, mask: Mask, *, scale: float, softcap: float | None, bias: Tensor | None) -> Scores:
        """A whole text: the last query stands at the last key."""
        return Scores(q, k, mask, scale, softcap, bias, k.shape[2] - q.shape[2])

    def scaled(self) -> Scores:
        """The same scores with the scale in q already, for who walks over many tiles of the same rows."""
        return replace(self, q=self.q * self.scale, scale=1.0)

    def slots(self, rows: slice) -> range:
        return range(self.first_slot + rows.start, self.first_slot + rows.stop)

    def keys(self, columns: slice) -> range:
        return range(self.first_key + columns.start, self.first_key + columns.stop)

    def groups(self) -> Iterator[tuple[slice, slice, Scores]]:
        """The same scores in shares of (batch, heads): long maps one key head at a time on a CPU.

        A tile of one head is wide, which is what products, top-k and caches like.
        """
        batch, heads, queries, _ = self.q.shape
        groups = self.k.shape[1]
        if self.q.device.type != "cpu" or heads // groups * queries * self.k.shape[2] < _CPU_TILE:
            yield slice(0, batch), slice(0, heads), self
            return
        for b in range(batch):
            for g in range(groups):
                texts, share = slice(b, b + 1), slice(g * heads // groups, (g + 1) * heads // groups)
                yield texts, share, replace(
                    self, q=self.q[texts, share], k=self.k[texts, g:g + 1], mask=mask_of(self.mask, texts, share),
                    bias=None if self.bias is None else _of(self.bias, texts, share))

    def rows(self, wide: int) -> Iterator[slice]:
        """Blocks of queries, so small that a tile of `wide` keys is of a bounded size."""
        size = _CPU_TILE if self.q.device.type == "cpu" else _DEVICE_TILE
        step = max(16, size // (self.q.shape[0] * self.q.shape[1] * min(wide, self.k.shape[2])))
        # Under a window or a block, a tile with many more rows than it is wide would be mostly hidden.
        near = min((rule.size for rule in self.mask.rules if rule.kind in SPARSE), default=step)
        return blocks(0, self.q.shape[2], min(step, max(near // 2, wide)))

    def seen(self, rows: slice) -> slice:
        """The keys within reach of these rows."""
        seen = reach(self.mask, self.slots(rows), self.keys(slice(0, self.k.shape[2])))
        return slice(seen.start - self.first_key, seen.stop - self.first_key)

    def columns(self, rows: slice, wide: int) -> Iterator[slice]:
        """Blocks of at most `wide` keys, of the keys within reach of these rows; none that the mask hides altogether."""
        seen = self.seen(rows)
        return (columns for columns in blocks(seen.start, seen.stop, wide) if not self.skipped(rows, columns))

    def skipped(self, rows: slice, columns: slice) -> bool:
        """Whether the mask hides a tile altogether, as far as it is cheap to know."""
        return hides_all(self.mask, self.slots(rows), self.keys(columns))

    def capped(self, rows: slice, columns: slice, room: Tensor | None = None) -> Tensor:
        """softcap(scale * q k^T): (b, h, i, j) of the tile, written into `room` where that is given."""
        groups, q = self.k.shape[1], self.q[:, :, rows]
        q = (q if self.scale == 1 else q * self.scale).unflatten(1, (groups, -1)).flatten(2, 3)     # (b, g, h/g * i, d)
        k = self.k[:, :, columns].mT
        s = q @ k if room is None else torch.matmul(q, k, out=room.view(*q.shape[:3], k.shape[3]))
        s = s.view(len(q), -1, rows.stop - rows.start, columns.stop - columns.start)
        return s if self.softcap is None else s.div_(self.softcap).tanh_().mul_(self.softcap)

    def masked(self, capped: Tensor, rows: slice, columns: slice) -> Tensor:
        """The tile with its bias, and -inf where the mask forbids; `capped` is left as it was."""
        s = capped if self.bias is None else capped + part(self.bias, rows, columns).to(capped.dtype)
        hidden = self._hidden(rows, columns, s.device)
        return s if hidden is None else s.masked_fill(hidden, -torch.inf)

    def _hidden(self, rows: slice, columns: slice, device: torch.device) -> Tensor | None:
        """Which numbers of a tile the mask forbids, broadcastable to it; None if none."""
        slots, keys = self.slots(rows), self.keys(columns)
        mask = narrow(self.mask, slots, keys)
        if len(mask.rules) == 0:
            return None
        if all(rule.kind in ("causal", "window") and not rule.scattered for rule in mask.rules):
            rules = tuple((rule.kind, rule.size) for rule in mask.rules)
            return _relative(rules, slots.start - keys.start, len(slots), len(keys), device)
        return _forbidden(mask, slots, keys, device)

    def hides(self, rows: slice, columns: slice) -> bool:
        """Whether -inf may stand in a tile: under a mask, or by a bias."""
        return self.bias is not None or len(narrow(self.mask, self.slots(rows), self.keys(columns)).rules) > 0

    def tile(self, rows: slice, columns: slice, room: Tensor | None = None) -> Tensor:
        """The masked scores: (b, h, i, j) of the tile."""
        s = self.capped(rows, columns, room)
        if self.bias is not None:
            s = s.add_(part(self.bias, rows, columns))
        hidden = self._hidden(rows, columns, s.device)
        return s if hidden is None else s.masked_fill_(hidden, -torch.inf)


def _forbidden(mask: Mask, slots: range, keys: range, device: torch.device) -> Tensor:
    """Which keys these slots may not see: broadcastable to (b, h, i, j)."""
    return ~mask.visible(torch.arange(slots.start, slots.stop, device=device),
                         torch.arange(keys.start, keys.stop, device=device))


@lru_cache(maxsize=2)
def _relative(rules: tuple[tuple[str, int], ...], first: int, rows: int, columns: int, device: torch.device) -> Tensor:
    """_forbidden() where only distances matter: on the diagonal it is the same for every block and head."""
    mask = Mask(tuple(Rule(kind, size) for kind, size in rules))
    return _forbidden(mask, range(first, first + rows), range(columns), device)


def part(bias: Tensor, rows: slice, columns: slice) -> Tensor:
    """The tile of a bias (b or 1, h or 1, i or 1, j or 1), a view that broadcasts as the bias does."""
    return bias[:, :, rows if bias.shape[2] > 1 else slice(None), columns if bias.shape[3] > 1 else slice(None)]


def mask_of(mask: Mask, batch: slice, heads: slice) -> Mask:
    """The mask of some texts and heads."""
    return Mask(tuple(rule if rule.table is None else replace(rule, table=_of(rule.table, batch, heads))
                      for rule in mask.rules))


def _of(table: Tensor, batch: slice, heads: slice) -> Tensor:
    """Some texts and heads of a table that may be one for all of them; a 2-D table has no heads."""
    if len(table) > 1:
        table = table[batch]
    return table[:, heads] if table.ndim == 4 and table.shape[1] > 1 else table


def blocks(start: int, stop: int, step: int) -> Iterator[slice]:
    """Slices of at most `step` from start to stop."""
    return (slice(at, min(at + step, stop)) for at in range(start, stop, step))
