"""The calls of one layer, joined: a prompt, its chunks and every token that was written are one map.

Each call of a run adds its rows, and the keys that are new; of a cache only what was added to it
is kept. Rows of a beam follow their text through every reordering. What the model's own pass
certified is certified again for the joined map, from numbers of size O(N): V r and output r of
every call (see certificate.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from klieg.attention import Mask
from klieg.certificate import Certificate, limit, surveyed
from klieg.certificate import joined as worst
from klieg.device import full_precision
from klieg.errors import KliegError
from klieg.kernels import survey as survey_of
from klieg.survey import Survey, SurveySpec
from klieg.trace import Call
from klieg.watching.masks import Piece, join

ROW_SUMS = SurveySpec(top=0, map=0, bins=1)


@dataclass(eq=False)
class Pass:
    """One forward pass: which text of its batch every text of the run was, and what it read."""

    texts: int
    rows: int = 0
    step: int = 0
    """How often the cache had been reordered before."""
    order: Tensor | None = None
    """(b,) of the run's texts; None while they are the pass's own."""
    dead: Tensor | None = None
    """(b,), bool: texts that had ended before this pass."""

    def of(self, x: Tensor) -> Tensor:
        """x of the pass's texts for the run's."""
        return x if self.order is None or (len(x) == 1 and self.texts > 1) else x[self.order.to(x.device)]


@dataclass(eq=False)
class Increment:
    """What one call adds to a strand; shapes by the legend of attention.py, k, v and probe of the new keys only."""

    moment: Pass
    mask: Mask
    keys: int
    """How many keys the call saw, of which the last are at the run's end."""
    start: int
    """Where they begin among the strand's keys."""
    q: Tensor | None
    k: Tensor | None
    v: Tensor | None
    output: Tensor | None
    bias: Tensor | None
    lse: Tensor
    probe: Tensor
    mixed: Tensor
    certificate: Certificate
    survey: Survey | None

    queries = property(lambda self: self.lse.shape[2])
    new = property(lambda self: self.probe.shape[2])

    def cut(self, rows: int, own: bool) -> Increment:
        """Its first rows only, and where every row brought a key of its `own`, without those of the others."""
        less = self.queries - rows if own else 0
        new = self.new - less
        shorter = {name: None if (x := getattr(self, name)) is None else x[:, :, :rows]
                   for name in ("q", "output", "lse", "mixed")}
        shorter |= {name: None if (x := getattr(self, name)) is None else x[:, :, :new] for name in ("k", "v", "probe")}
        return replace(self, **shorter, keys=self.keys - less, survey=None, bias=None if self.bias is None else
                       self.bias.expand(-1, -1, self.queries, self.keys)[:, :, :rows, :self.keys - less])


@dataclass(eq=False)
class Strand:
    """All calls of one layer and kind in one run."""

    layer: int
    kind: str
    kernel: str
    scale: float
    softcap: float | None
    sinks: Tensor | None
    groups: int
    dtype: torch.dtype
    """Of the output."""
    spec: SurveySpec | None
    start: int
    """The position of its first row in the cache: more than 0 where watching began later."""
    origin: int
    """The position of its first key."""
    increments: list[Increment] = field(default_factory=list)
    kept: bool = True
    """q and k of all increments are there."""
    _call: tuple[object, Call] | None = None

    rows = property(lambda self: sum(part.queries for part in self.increments))
    keys = property(lambda self: max((part.start + part.keys for part in self.increments), default=0))

    def truncate(self, end: int) -> None:
        """Forget the rows and keys from position `end` of the cache on, which was cropped."""
        first = self.start
        left = []
        for part in self.increments:
            rows = min(part.queries, end - first)
            if rows > 0:
                left.append(part if rows == part.queries else part.cut(rows, self.kind == "self"))
            first += part.queries
        self.increments, self._call = left, None

    def forget(self, history: Sequence[Tensor] = ()) -> None:
        """Give q and k away; what they were needed for is computed now. `history` has all reorderings of the run."""
        if not self.kept:
            return
        self.kept = False
        if self.spec is not None:
            surveys = [part.survey or self._survey_of(n, history) for n, part in enumerate(self.increments)]
            for part, survey in zip(self.increments, surveys, strict=True):
                part.survey = survey
        for part in self.increments:
            part.q = part.k = part.v = part.output = None

    def _survey_of(self, n: int, history: Sequence[Tensor]) -> Survey:
        """The survey of one increment, from its q and the keys until then, of the texts as they were then."""
        part, keys = self.increments[n], []
        place, step = torch.arange(len(part.lse)), part.moment.step
        for other in reversed(self.increments[:n + 1]):
            while step > other.moment.step:
                step -= 1
                place = history[step][place]
            keys.append(other.k[place.to(other.k.device)])
        k = torch.cat(keys[::-1], dim=2)[:, :, part.start:part.start + part.keys]
        q, k = (x.to(part.lse.device) for x in (part.q, k))
        return survey_of(q, k, part.lse, part.mask, replace(self.spec, map=0), scale=self.scale, softcap=self.softcap,
                         bias=part.bias)

    @full_precision()
    def call(self, version: object, steps: int | None, known: dict) -> Call:
        """The strand as one Call. `version` names the order of texts; `known` keeps masks that layers share."""
        parts = [part for part in self.increments if steps is None or part.moment.step < steps]
        at = version, len(self.increments)
        if self._call is None or self._call[0] != at:
            alone = len(parts) == 1 and (self.kind == "encoder" or parts[0].moment.order is None)
            self._call = at, (self._single(parts[0]) if alone else self._joined(parts, known))
        return self._call[1]

    def _made(self, **given: object) -> Call:
        return Call(layer=self.layer, kind=self.kind, scale=self.scale, kernel=self.kernel, softcap=self.softcap,
                    sinks=self.sinks, groups=self.groups, **given)

    def _single(self, part: Increment) -> Call:
        survey = part.survey
        if survey is None and self.spec is not None and self.kept:
            q, k = (x.to(part.lse.device) for x in (part.q, part.k))
            survey = survey_of(q, k, part.lse, part.mask, self.spec, scale=self.scale, softcap=self.softcap, bias=part.bias)
        return self._made(q=part.q, k=part.k, v=part.v, lse=part.lse, output=part.output, mask=part.mask, bias=part.bias,
                          survey=survey, certificate=part.certificate)

    def _joined(self, parts: list[Increment], known: dict) -> Call:
        keys = max(part.start + part.keys for part in parts)
        rows = self._together(parts, "q", "output", "lse", "mixed")
        columns = self._together([part for part in parts if part.new], "k", "v", "probe")
        mask = self._mask(parts, keys, known)
        dead = self._dead(parts)
        if dead is not None:
            rows["lse"] = rows["lse"].masked_fill(dead[:, None], -torch.inf)
            mask = mask & _ended(dead, keys, self.kind == "self")
        bias = self._bias(parts, keys)
        certificate = worst([part.certificate for part in parts], rows["lse"].shape[0] * rows["lse"].shape[1])
        if not self.kept:
            if dead is not None:
                raise KliegError(f"of layer {self.layer} ({self.kind}) q and k were not kept, and texts of several lengths "
                                 "cannot be joined without them; keep them with keep_qk.")
            survey = None if self.spec is None else _stacked(parts, keys)
            return self._made(q=None, k=None, v=None, output=None, lse=rows["lse"], mask=mask, bias=bias, survey=survey,
                              certificate=certificate)
        survey = survey_of(rows["q"], columns["k"], rows["lse"], mask, self.spec or ROW_SUMS, scale=self.scale,
                           softcap=self.softcap, bias=bias, probe=columns["probe"])
        again = surveyed(survey, rows["mixed"][..., None], rows["mixed"].new_ones(1), columns["probe"], layer=self.layer,
                         kind=self.kind, sinks=self.sinks)
        again = replace(again, allowed=limit(columns["probe"], self.dtype))
        again.check("the joined run")
        return self._made(q=rows["q"], k=columns["k"], v=columns["v"], output=rows["output"], lse=rows["lse"], mask=mask,
                          bias=bias, survey=survey if self.spec else None,
                          certificate=worst([certificate, again], certificate.heads))

    def _together(self, parts: list[Increment], *names: str) -> dict[str, Tensor | None]:
        """Tensors of the parts, one after another in the order of the run's texts; None where any is missing."""
        found: dict[str, Tensor | None] = {}
        for name in names:
            all_of = [getattr(part, name) for part in parts]
            # Parts may be kept in several places.
            found[name] = None if any(x is None for x in all_of) else torch.cat(
                [part.moment.of(x).to(part.lse.device) for part, x in zip(parts, all_of, strict=True)], dim=2)
        return found

    def _mask(self, parts: list[Increment], keys: int, known: dict) -> Mask:
        name = (keys, *((id(part.mask), part.queries, part.keys, part.start) for part in parts))
        if name not in known:
            pieces = [Piece(part.mask, part.queries, part.keys, part.start, part.moment.order) for part in parts]
            known[name] = join(pieces, keys, parts[0].lse.device)
        return known[name]

    def _bias(self, parts: list[Increment], keys: int) -> Tensor | None:
        if all(part.bias is None for part in parts):
            return None
        of = [None if part.bias is None else part.moment.of(part.bias) for part in parts]
        lead = [max(x.shape[axis] for x in of if x is not None) for axis in (0, 1)]
        whole = parts[0].lse.new_zeros(*lead, sum(part.queries for part in parts), keys)
        first = 0
        for part, x in zip(parts, of, strict=True):
            if x is not None:
                whole[:, :, first:first + part.queries, part.start:part.start + part.keys] = x
            first += part.queries
        return whole

    def _dead(self, parts: list[Increment]) -> Tensor | None:
        """(b, i): rows of texts that had ended."""
        if all(part.moment.dead is None or not part.moment.dead.any() for part in parts):
            return None
        texts = len(next(part.moment.dead for part in parts if part.moment.dead is not None))
        flags = [torch.zeros(texts, dtype=torch.bool) if part.moment.dead is None else part.moment.dead for part in parts]
        return torch.cat([flag[:, None].expand(-1, part.queries) for flag, part in zip(flags, parts, strict=True)],
                         dim=1).to(parts[0].lse.device)


def _ended(dead: Tensor, keys: int, own: bool) -> Mask:
    """Hides every key from rows (b, i) of texts that had ended, and their `own` keys from everybody."""
    if not own:
        queries = dead.shape[1]
        return Mask.explicit(~dead[:, None, :, None].expand(-1, 1, -1, keys).contiguous(), keys - queries)
    ended = torch.nn.functional.pad(dead, (keys - dead.shape[1], 0))
    return Mask.padding(~ended) & Mask.documents(ended.long())


def _stacked(parts: list[Increment], keys: int) -> Survey:
    """The survey of all parts from theirs alone: rows one after another, columns added. A pooled map cannot be had so."""
    found = [replace(part.survey, map_mean=None, map_max=None, probed=None) for part in parts]
    found = [replace(one, **{name: part.moment.of(x) for name, x in one.tensors().items()})
             for one, part in zip(found, parts, strict=True)]
    whole = {}
    for name in found[0].tensors():
        each = [getattr(one, name) for one in found]
        if name == "received":
            each = [torch.nn.functional.pad(y, (part.start, keys - part.start - part.keys))
                    for y, part in zip(each, parts, strict=True)]
        if name in ("received", "histogram"):
            whole[name] = torch.stack(each).sum(0)
            continue
        if name == "first":
            each = [y if part.start == 0 else torch.zeros_like(y) for y, part in zip(each, parts, strict=True)]
        if name == "top_keys":
            each = [torch.where(y < 0, y, y + part.start) for y, part in zip(each, parts, strict=True)]
        if name in ("top_keys", "top_weights"):
            width = max(y.shape[3] for y in each)
            each = [torch.nn.functional.pad(y, (0, width - y.shape[3]), value=-1 if name == "top_keys" else 0) for y in each]
        whole[name] = torch.cat(each, dim=2)
    return replace(found[0], **whole)
