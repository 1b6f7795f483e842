"""Changes of attention, and how they are written: heads are muted, edges cut, the first token hidden, scores sharpened,
and heads keep only the pairs of a sparse pattern.

    model = changed(model, [Mute(Heads(3, 2)), HideFirst()])     # shares all weights; the given model stays as it is
    read("cut 3.2.4.1")                                          # layer 3, head 2: token 4 no longer sees token 1

A change is made to what enters attend(): a muted head gets values of zero, a cut edge is hidden by the
mask, a sharpened head has its queries multiplied. So everything behind that door holds as it is: every
row still sums to one over what it sees, and a Call shows what was really computed.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from klieg.attention import Mask, scores, slots
from klieg.errors import KliegError
from klieg.layers import Entry
from klieg.models import Model
from klieg.patterns import Pattern
from klieg.seq2seq import Marian

LARGEST = 100.0   # factor; far beyond it float32 cannot tell one score from the next
# A letter of a script that writes spaces between its words: there a word is replaced only as a whole.
_LETTER = r"[^\W\u0e00-\u0eff\u2e80-\U0010ffff]"


class Stack(NamedTuple):
    """The shape of the attention of one kind."""

    layers: int
    heads: int
    groups: int


@dataclass(frozen=True)
class Heads:
    """Some heads: one, those of a key/value group, those of a layer, or all. None is everything that there is.

    Without a kind they are a model's self-attention; of a translator its cross-attention.
    """

    layer: int | None = None
    head: int | None = None
    group: int | None = None
    kind: str | None = None

    def __str__(self) -> str:
        kind = f"{self.kind}:" if self.kind else ""
        if self.layer is None:
            return f"{kind}all"
        return f"{kind}{self.layer}." + (f"g{self.group}" if self.group is not None else
                                        "all" if self.head is None else str(self.head))

    def among(self, stacks: dict[str, Stack]) -> tuple[str, list[int], list[int]]:
        """Their kind, their layers and their heads; KliegError for what the model does not have."""
        kind = self.kind or next(iter(stacks))
        if kind not in stacks:
            raise KliegError(f"there is no attention of kind {kind!r}; the model has {', '.join(stacks)}.")
        stack = stacks[kind]
        for name, number, count in (("layer", self.layer, stack.layers), ("head", self.head, stack.heads),
                                    ("K/V group", self.group, stack.groups)):
            if number is not None and not 0 <= number < count:
                raise KliegError(f"there is no {name} {number}; the model has {name}s 0 to {count - 1}.")
        if self.layer is None and (self.head is not None or self.group is not None):
            raise KliegError("a head or a group is one of a layer; say which layer.")
        if self.head is not None and self.group is not None:
            raise KliegError("a head and a group exclude each other; name one of them.")
        share = stack.heads // stack.groups
        heads = (range(self.group * share, (self.group + 1) * share) if self.group is not None
                 else range(stack.heads) if self.head is None else [self.head])
        return kind, list(range(stack.layers) if self.layer is None else [self.layer]), list(heads)


@dataclass(frozen=True)
class Mute:
    """The heads give nothing on: their values are zero. A head that is muted alone gets keys and values of its own first."""

    heads: Heads

    def __str__(self) -> str:
        return f"mute {self.heads}"

    def made(self, entry: Entry, heads: list[int]) -> Entry:
        """What enters instead."""
        gone = torch.zeros(entry.q.shape[1], dtype=torch.bool, device=entry.q.device)
        gone[heads] = True
        share = len(gone) // entry.k.shape[1]
        of = gone.view(-1, share)
        if (of.any(1) & ~of.all(1)).any():
            k, v = (x.repeat_interleave(share, dim=1) for x in (entry.k, entry.v))
            raw = None if entry.unrotated_k is None else entry.unrotated_k.repeat_interleave(share, dim=1)
            entry, of = replace(entry, k=k, v=v, unrotated_k=raw), gone[:, None]
        return replace(entry, v=entry.v.masked_fill(of.all(1)[None, :, None, None], 0))


@dataclass(frozen=True)
class Cut:
    """Token `query` no longer sees token `key`; what it still sees gets all its weight."""

    heads: Heads
    query: int
    key: int

    def __str__(self) -> str:
        return f"cut {self.heads}.{self.query}.{self.key}"

    def made(self, entry: Entry, heads: list[int]) -> Entry:
        """What enters instead; KliegError where there is no such edge, or no other one."""
        if entry.first is None:
            raise KliegError("an edge of cross-attention is cut in a whole target, and not while one is searched for; give "
                             "the target.")
        row = self.query - entry.first
        if not 0 <= row < entry.q.shape[2]:
            return entry
        where = f"layer {entry.layer} ({entry.kind}), head {', '.join(map(str, heads))}"
        seen = _seen(entry)[:, heads, row]
        if not 0 <= self.key < seen.shape[2] or not seen[..., self.key].any():
            raise KliegError(f"in {where}, token {self.query} does not see token {self.key}; there is no edge to cut.")
        allowed = torch.ones(1, *_seen(entry).shape[1:], dtype=torch.bool, device=entry.q.device)
        allowed[:, heads, row, self.key] = False
        if (seen.any(-1) & ~(seen & allowed[:, heads, row]).any(-1)).any():
            raise KliegError(f"in {where}, token {self.query} would see nothing without token {self.key}; leave it one token.")
        return _hidden(entry, allowed)


@dataclass(frozen=True)
class HideFirst:
    """Nobody sees the first token; who sees nothing else keeps it, as the first token itself where only the past is seen."""

    heads: Heads = Heads()

    def __str__(self) -> str:
        return f"hide-first {self.heads}"

    def made(self, entry: Entry, heads: list[int]) -> Entry:
        """What enters instead."""
        seen = _seen(entry)
        allowed = torch.ones_like(seen)
        allowed[:, heads, :, 0] = ~seen[:, heads, :, 1:].any(-1)
        return _hidden(entry, allowed)


@dataclass(frozen=True)
class Sharpen:
    """The scores are multiplied: above 1 the heads look sharper, below it flatter, at 0 all alike."""

    heads: Heads
    factor: float

    def __str__(self) -> str:
        return f"sharpen {self.heads}={self.factor!r}".removesuffix(".0")

    def made(self, entry: Entry, heads: list[int]) -> Entry:
        """What enters instead: queries that are multiplied, and so are their scores."""
        factors = torch.ones(entry.q.shape[1], 1, 1, dtype=entry.q.dtype, device=entry.q.device)
        factors[heads] = self.factor
        raw = entry.unrotated_q
        return replace(entry, q=entry.q * factors, unrotated_q=None if raw is None else raw * factors)


@dataclass(frozen=True)
class Keep:
    """The heads see only what a sparse pattern keeps of what they saw; it gets all the weight."""

    heads: Heads
    pattern: Pattern

    def __str__(self) -> str:
        return f"keep {self.heads}={self.pattern}"

    def made(self, entry: Entry, heads: list[int]) -> Entry:
        """What enters instead: one rule more, or for some of the heads a table. KliegError for a pattern of positions in
        cross-attention, whose queries stand nowhere among its keys."""
        if self.pattern.mask is not None and entry.kind == "cross":
            raise KliegError(f"{self}: {self.pattern} goes by position, and a target has none in its source; keep top:SIZE, "
                             "or name self or encoder heads.")
        if self.pattern.mask is not None and len(heads) == entry.q.shape[1]:
            return replace(entry, mask=entry.mask & self.pattern.mask)
        queries, keys = entry.q.shape[2], entry.k.shape[2]
        at = slots(queries, keys, entry.q.device), torch.arange(keys, device=entry.q.device)
        s = scores(entry.q, entry.k).masked_fill(~_seen(entry), -torch.inf)[:, heads]
        allowed = torch.ones(len(entry.q), entry.q.shape[1], queries, keys, dtype=torch.bool, device=entry.q.device)
        allowed[:, heads] = self.pattern.kept(s, *at).expand(s.shape)
        return _hidden(entry, allowed)


@dataclass(frozen=True)
class Replace:
    """A word is replaced wherever it stands in the text. The tokens of other changes are those of the new text."""

    old: str
    new: str

    def __str__(self) -> str:
        return f"replace {self.old}={self.new}"

    def of(self, text: str) -> str:
        """The text with the new word; KliegError if the old one is not there."""
        before = f"(?<!{_LETTER})" if re.match(_LETTER, self.old) else ""
        after = f"(?!{_LETTER})" if re.search(f"{_LETTER}$", self.old) else ""
        found, count = re.subn(before + re.escape(self.old) + after, lambda _: self.new, text) if self.old else (text, 0)
        if not count:
            raise KliegError(f"the text has no word {self.old!r} to replace; write it as the text does.")
        return found


M = TypeVar("M", bound=Model)
OfAttention = Mute | Cut | HideFirst | Sharpen | Keep
Change = OfAttention | Replace


def changed(model: M, changes: Sequence[OfAttention]) -> M:
    """The model with these changes, made in their order: another one over the same weights, which runs and is traced as any.
    A file holds weights alone, and no changes.

    KliegError for a layer, head, group or kind that it does not have. An edge that is not there, or the last one of a
    token, is a KliegError when the model runs; the token of an edge that a run never comes to is none.
    """
    other = copy.copy(model)
    other.change = _Made(model, changes)
    return other


def stacks(model: Model) -> dict[str, Stack]:
    """Every kind of attention that a model has, first the one that is meant where none is named."""
    if not isinstance(model, Marian):
        return {"self": Stack(model.layers, model.heads, model.kv_heads)}
    c = model.config
    decoder = Stack(model.layers, model.heads, model.kv_heads)
    return {"cross": decoder, "self": decoder,
            "encoder": Stack(c.encoder_layers, c.encoder_attention_heads, c.kv_heads or c.encoder_attention_heads)}


class _Made:
    """Changes by the calls that they are made to."""

    def __init__(self, model: Model, changes: Sequence[OfAttention]) -> None:
        self._earlier = model.change
        self._at: dict[tuple[str, int], list[tuple[OfAttention, list[int]]]] = {}
        known = stacks(model)
        for change in changes:
            if isinstance(change, Sharpen) and not 0 <= change.factor <= LARGEST:
                raise KliegError(f"the factor of {change} is not between 0 and {LARGEST:g}; choose one that is.")
            kind, layers, heads = change.heads.among(known)
            for layer in layers:
                self._at.setdefault((kind, layer), []).append((change, heads))

    def __call__(self, entry: Entry) -> Entry:
        entry = entry if self._earlier is None else self._earlier(entry)
        for change, heads in self._at.get((entry.kind, entry.layer), ()):
            entry = change.made(entry, heads)
        return entry


def _seen(entry: Entry) -> Tensor:
    """Which pairs the mask leaves: (b, h, i, j)."""
    queries, keys = entry.q.shape[2], entry.k.shape[2]
    device = entry.q.device
    seen = entry.mask.visible(slots(queries, keys, device), torch.arange(keys, device=device))
    return seen.expand(len(entry.q), entry.q.shape[1], queries, keys)


def _hidden(entry: Entry, allowed: Tensor) -> Entry:
    """The entry with only the allowed pairs (b or 1, h, i, j)."""
    return replace(entry, mask=entry.mask & Mask.explicit(allowed, entry.k.shape[2] - entry.q.shape[2]))


# ---- how they are written ----

_HEADS = r"(?:(?P<kind>encoder|self|cross):)?(?:all|(?P<layer>\d{1,6})\.(?:(?P<head>\d{1,6})|g(?P<group>\d{1,6})|all))"
_WRITTEN = {
    "mute": (_HEADS, "LAYER.HEAD, for example 3.2; a K/V group is 3.g1, a layer 3.all, everything all"),
    "cut": (_HEADS + r"\.(?P<query>\d{1,9})\.(?P<key>\d{1,9})", "LAYER.HEAD.QUERY.KEY, for example 3.2.4.1"),
    "hide-first": (_HEADS, "all, or heads: 3.2, 3.g1, 3.all"),
    "sharpen": (_HEADS + r"=(?P<factor>\d{1,9}(?:\.\d{0,20})?(?:e-?\d{1,3})?)", "LAYER.HEAD=FACTOR, for example 3.2=2"),
    "keep": (_HEADS + r"=(?P<pattern>.*)", "LAYER.HEAD=PATTERN, for example all=window:128 or 3.2=top:16"),
    "replace": (r"(?P<old>[^=]+)=(?P<new>.*)", "OLD=NEW, for example love=hate"),
}


def read(text: str) -> Change:
    """A change as it is written, `mute 3.2` and so on; str() of a change writes it. KliegError says how it must look."""
    verb, _, rest = text.partition(" ")
    if verb not in _WRITTEN:
        raise KliegError(f"there is no change {verb!r}; it must be one of {', '.join(_WRITTEN)}.")
    pattern, form = _WRITTEN[verb]
    found = re.fullmatch(pattern, rest, re.DOTALL | re.ASCII)
    if found is None:
        raise KliegError(f"{verb} is given {rest!r}; it must be {form}.")
    part = found.groupdict()
    if verb == "replace":
        return Replace(part["old"], part["new"])
    numbers = {name: int(part[name]) for name in ("layer", "head", "group") if part[name] is not None}
    heads = Heads(**numbers, kind=part["kind"])
    if verb == "cut":
        return Cut(heads, int(part["query"]), int(part["key"]))
    if verb == "sharpen":
        return Sharpen(heads, float(part["factor"]))
    if verb == "keep":
        return Keep(heads, Pattern.read(part["pattern"]))
    return Mute(heads) if verb == "mute" else HideFirst(heads)
