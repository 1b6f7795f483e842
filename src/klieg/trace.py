"""A Trace: everything that any view needs to know about one pass of a model, as plain data.

The map of attention is never stored. A Call keeps q, k and the log-sum-exp of each row as
the model's own kernel gave them, and any tile of the map is exp(score - lse), computed
exactly when somebody looks at it. The certificate says how far the worst row is from summing
to one, and the worst output from the model's own; a trace that fails it is an error and never
a picture. When a watched model reads a long text, less is kept: v and the output are checked
and then dropped, and where q and k are not kept either, only the survey is left to look at.

    trace = klieg.trace("chat", "I love you")
    trace[3].weights(head=2)         # (i, j)
    trace.cell(3, 2, 3, 1).dot       # one weight's arithmetic
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from klieg.attention import Mask, scores, slots, weights
from klieg.blocks import Stream
from klieg.cell import Arithmetic, arithmetic
from klieg.certificate import Certificate, joined, recomputed
from klieg.device import full_precision
from klieg.errors import KliegError
from klieg.survey import Survey, SurveySpec

if TYPE_CHECKING:
    from anywidget import AnyWidget

    from klieg.pool import Pooled


@dataclass(frozen=True)
class Stages:
    """One head's map step by step, each (i, j): q k^T, scaled (and capped, and biased), masked, softmaxed."""

    dot: Tensor
    scaled: Tensor
    masked: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Candidate:
    """A possible next token: its label, id, probability, and rank from 1."""

    token: str
    id: int
    p: float
    rank: int


@dataclass(eq=False)
class Call:
    """One call of attention. Shapes follow the legend of attention.py; q and k are as they entered the product.

    q, k, v, output and the survey may be None, which means not kept. Asking for what cannot be shown without them
    raises a KliegError.
    """

    layer: int
    """The layer's number in its stack; numbers have gaps where the stack has layers without attention."""
    kind: str
    """"self" in a decoder or in the only stack, "encoder", or "cross" for a decoder's look at its encoder."""
    q: Tensor | None
    k: Tensor | None
    v: Tensor | None
    lse: Tensor
    output: Tensor | None
    mask: Mask
    scale: float
    kernel: str
    softcap: float | None = None
    sinks: Tensor | None = None
    bias: Tensor | None = None
    unrotated_q: Tensor | None = None
    unrotated_k: Tensor | None = None
    survey: Survey | None = None
    certificate: Certificate | None = None
    """Made during the pass, where v or the output was dropped after it; None means that certify() computes it."""
    groups: int | None = None
    """The number of key/value heads, where k was not kept."""

    texts = property(lambda self: self.lse.shape[0])
    heads = property(lambda self: self.lse.shape[1])
    queries = property(lambda self: self.lse.shape[2])

    @property
    def kv_heads(self) -> int:
        """The number of key/value heads: those of k; without k what the watcher noted, or else one for each query head."""
        return self.k.shape[1] if self.k is not None else self.groups or self.heads

    @property
    def keys(self) -> int:
        if self.k is None and self.survey is not None:
            return self.survey.received.shape[2]
        self.need("k")
        return self.k.shape[2]

    @property
    def width(self) -> int:
        """The width of q and k: d."""
        self.need("q")
        return self.q.shape[3]

    def need(self, *names: str, instead: str = "") -> None:
        """KliegError if one of these tensors was not kept; it says how to keep it, or what to do instead."""
        missing = [name for name in names if getattr(self, name) is None]
        if missing:
            how = (f"watch it again with keep_qk=[{self.layer}], on the command line --keep {self.layer}"
                   if {"q", "k"} & set(missing) else "a watched model gives them away, and klieg.trace() keeps them")
            raise KliegError(f"of layer {self.layer} ({self.kind}) {' and '.join(missing)} "
                             f"{'were' if len(missing) > 1 else 'was'} not kept; {how}{instead}.")

    def group(self, head: int) -> int:
        """The key/value head that a query head reads."""
        return head * self.kv_heads // self.heads

    def slot(self, query: int) -> int:
        """The slot at which a query stands: its own place among the keys."""
        return self.keys - self.queries + query

    @full_precision()
    def _scaled(self, texts: slice, heads: slice, rows: slice | Tensor, keys: slice, wide: bool = False) -> Tensor:
        """Scores before the mask: (b, h, i, j). `heads` is all of them, or one."""
        self.need("q", "k")
        groups = slice(None) if heads == slice(None) else slice(self.group(heads.start), self.group(heads.start) + 1)
        # What was kept in a narrow type is widened, as the kernel did before it multiplied.
        type = torch.float64 if wide else self.lse.dtype
        # And what was kept elsewhere comes to where the model ran.
        q, k = (x.to(self.lse.device, type) for x in (self.q[texts, heads, rows], self.k[texts, groups, keys]))
        bias = None if self.bias is None else self.bias.expand(*self.q.shape[:3], self.keys)[texts, heads, rows, keys]
        return scores(q, k, scale=self.scale, softcap=self.softcap, bias=None if bias is None else bias.to(type))

    def _visible(self, texts: slice, heads: slice, rows: slice | Tensor, keys: slice) -> Tensor:
        """Which pairs of a tile the mask leaves: (b, h, i, j), bool."""
        i = slots(self.queries, self.keys, self.lse.device)[rows]
        seen = self.mask.visible(i, torch.arange(self.keys, device=self.lse.device)[keys])
        return seen.expand(self.texts, self.heads, *seen.shape[2:])[texts, heads]

    def _weights(self, texts: slice, heads: slice, rows: slice | Tensor, keys: slice) -> Tensor:
        # What is hidden is filled in last: exp() of -inf takes six times as long as that of a score.
        found = weights(self._scaled(texts, heads, rows, keys), self.lse[texts, heads, rows])
        return found.masked_fill_(~self._visible(texts, heads, rows, keys), 0)

    def scaled(self, head: int, rows: slice = slice(None), keys: slice = slice(None), batch: int = 0) -> Tensor:
        """Scores of a tile before the mask, in float64: (i, j)."""
        return self._scaled(*self._one(head, batch), rows, keys, wide=True)[0, 0]

    def visible(self, head: int, rows: slice, keys: slice, batch: int = 0) -> Tensor:
        """Which pairs of a tile the mask leaves: (i, j), bool."""
        return self._visible(*self._one(head, batch), rows, keys)[0, 0]

    def tile(self, head: int, rows: slice, keys: slice, batch: int = 0) -> Tensor:
        """Exact weights of a tile of the map: (i, j)."""
        if self.lse.device.type == "cuda":
            from klieg.pool import tile
            self._one(head, batch)
            spans = (slice(*span.indices(count)[:2]) for span, count in ((rows, self.queries), (keys, self.keys)))
            return tile(self, head, *spans, batch)
        return self._weights(*self._one(head, batch), rows, keys)[0, 0]

    def every(self, rows: slice | Tensor) -> Tensor:
        """The weights of whole rows, of all texts and heads: (b, h, i, j)."""
        return self._weights(slice(None), slice(None), rows, slice(None))

    def weights(self, head: int, batch: int = 0) -> Tensor:
        """A head's whole map: (i, j)."""
        return self.tile(head, slice(None), slice(None), batch)

    def row(self, head: int, query: int, batch: int = 0) -> Tensor:
        """Where one query looks: (j,)."""
        return self.tile(head, slice(query, query + 1), slice(None), batch)[0]

    def pool(self, head: int, rows: tuple[int, int] | None = None, keys: tuple[int, int] | None = None, size: int = 512,
             batch: int = 0) -> Pooled:
        """The region rows[0] <= i < rows[1], keys[0] <= j < keys[1] of a head's map, in at most size x size buckets.

        The result has the mean and the max (R, C) of each bucket, where hidden cells count as 0, and the bounds of the
        buckets. Every number is exact: buckets of the survey's own map are joined if the region begins and ends with
        them and they are fine enough; otherwise they are computed anew from q and k. By default the region is the whole map.
        """
        from klieg.pool import pool
        self._one(head, batch)
        return pool(self, head, rows or (0, self.queries), keys or (0, self.keys), size, batch)

    def surveyed(self, spec: SurveySpec) -> Call:
        """The call with a survey: its own, or one made now from q and k."""
        from klieg.kernels import survey
        if self.survey is not None:
            return self
        self.need("q", "k")
        q, k = (x.to(self.lse.device) for x in (self.q, self.k))
        return replace(self, survey=survey(q, k, self.lse, self.mask, spec, scale=self.scale, softcap=self.softcap,
                                           bias=self.bias))

    @full_precision()
    def stages(self, head: int, batch: int = 0) -> Stages:
        """Every step of a head's map."""
        text, one = self._one(head, batch)
        everything = slice(None), slice(None)
        scaled = self._scaled(text, one, *everything)[0, 0]
        dot = (self.q[batch, head] @ self.k[batch, self.group(head)].T).to(scaled)
        masked = scaled.masked_fill(~self.visible(head, *everything, batch), -torch.inf)
        return Stages(dot, scaled, masked, weights(masked, self.lse[batch, head]))

    def reason(self, head: int, query: int, key: int, batch: int = 0) -> str | None:
        """Why a query may not see a key; None if it may."""
        return self.mask.reason(self.slot(query), key, batch, head)

    def certify(self) -> Certificate:
        """The certificate made during the pass, or else one that recomputes every row from q, k, v and lse."""
        if self.certificate is not None:
            return self.certificate
        self.need("q", "k", "v", "output")
        return recomputed(self)

    def _one(self, head: int, batch: int) -> tuple[slice, slice]:
        """One text and one head as slices; refuses what is not there."""
        if not 0 <= head < self.heads:
            raise KliegError(f"there is no head {head}; layer {self.layer} has heads 0 to {self.heads - 1}.")
        if not 0 <= batch < self.texts:
            raise KliegError(f"there is no text {batch} in the batch of {self.texts}.")
        return slice(batch, batch + 1), slice(head, head + 1)


@dataclass(frozen=True)
class Source:
    """What a translator's encoder read: the text, and its ids and labels with the marks before and after it."""

    text: str
    ids: list[int]
    tokens: list[str]


@dataclass(eq=False)
class Trace:
    """One pass of a model over one text: `trace[layer]` is a layer's own Call, `trace[layer, "cross"]` one of another kind.

    For a translator, text, ids and tokens are those of the target as its decoder reads it: with the start mark and without
    the end mark. A trace whose certificate fails cannot be made: KliegError.
    """

    model: str
    text: str
    ids: list[int]
    tokens: list[str]
    calls: list[Call]
    logits: Tensor
    """(m, vocabulary), float32: after each of the last m tokens. Of a watched model few are kept."""
    vocabulary: Sequence[str]
    """The label of every id."""
    source: Source | None = None
    """What the encoder of a translator read."""
    streams: dict[str, Stream] | None = None
    """The residual stream around attention, by the kind of the stack: "self" or "encoder"; None where nobody asked for it."""
    without_stream: dict[str, str] = field(default_factory=dict)
    """The kinds that have no stream although it was asked for, and why."""
    certificate: Certificate = field(init=False)

    def __post_init__(self) -> None:
        if not self.calls:
            raise KliegError(f"the trace of {self.model!r} has no call of attention; trace a model that attends.")
        self.certificate = joined(call.certify() for call in self.calls)
        self.certificate.check(f"the trace of {self.model!r}")

    @property
    def kind(self) -> str:
        """The kind that views show first: a translator's cross-attention, or else a decoder's own, or the only one there is."""
        if self.source is not None:
            return "cross"
        return "self" if any(call.kind == "self" for call in self.calls) else self.calls[0].kind

    def of(self, kind: str | None = None) -> list[Call]:
        """The calls of one kind, layer by layer; by default those that views show first."""
        kind = kind or self.kind
        found = [call for call in self.calls if call.kind == kind]
        if not found:
            kinds = ", ".join(repr(kind) for kind in dict.fromkeys(call.kind for call in self.calls))
            raise KliegError(f"there is no attention of kind {kind!r}; the trace has {kinds}.")
        return found

    def stream(self, kind: str | None = None) -> Stream:
        """The residual stream of a stack, by default the decoder's or the only one's; KliegError says why there is none."""
        kind = kind or ("self" if any(call.kind == "self" for call in self.calls) else self.calls[0].kind)
        if kind in (self.streams or {}):
            return self.streams[kind]
        why = self.without_stream.get(kind)
        if why:
            raise KliegError(f"there is no stream of the stack {kind!r} of {self.model!r}: {why}.")
        raise KliegError(f"the stream of the stack {kind!r} was not kept; watch it again with streams=True. klieg.trace() "
                         "always keeps it.")

    def axes(self, call: Call) -> tuple[list[str], list[str]]:
        """The labels of a call's queries and those of its keys; empty for a text that the trace does not have."""
        read = self.tokens
        if call.kind != "self" and self.source is not None:
            read = self.source.tokens
        elif call.kind != "self" and any(other.kind == "self" for other in self.calls):
            read = []
        return (self.tokens if call.kind == "cross" else read), read

    stack = property(lambda self: self.of())
    layers = property(lambda self: len(self.stack))
    heads = property(lambda self: self.stack[0].heads)
    kv_heads = property(lambda self: self.stack[0].kv_heads)

    @property
    def kernel(self) -> str:
        """Name of the kernel that computed the attention; several, joined, where layers differ."""
        return " + ".join(dict.fromkeys(call.kernel for call in self.calls))

    def __len__(self) -> int:
        return len(self.calls)

    def __getitem__(self, at: int | tuple[int, str]) -> Call:
        layer, kind = at if isinstance(at, tuple) else (at, "self")
        found = next((call for call in self.calls if (call.layer, call.kind) == (layer, kind)), None)
        if found is not None:
            return found
        there = [call.layer for call in self.of(kind)]
        whole = there == list(range(len(there)))
        raise KliegError(f"there is no layer {layer}; the model has layers "
                         f"{f'0 to {there[-1]}' if whole else ', '.join(map(str, there))}.")

    @property
    def predicts(self) -> bool:
        """Whether the model expects a next token; an encoder alone does not, and its trace has no logits."""
        return len(self.logits) > 0

    def probabilities(self, after: int | None = None) -> Tensor:
        """The probability of every possible next token after token `after`, by default the last: (vocabulary,), float64."""
        last = len(self.tokens) - 1
        back = last - (last if after is None else self._token(after))
        if back >= len(self.logits):
            raise KliegError(f"the logits after token {last - back} were not kept; the trace has those of its last "
                             f"{len(self.logits)} tokens.")
        return self.logits[len(self.logits) - 1 - back].double().softmax(-1)

    def next_tokens(self, count: int = 10, after: int | None = None) -> list[Candidate]:
        """The likeliest next tokens, best first."""
        p, ids = self.probabilities(after).topk(min(count, self.logits.shape[-1]))
        return [Candidate(self.vocabulary[i], i, v, rank)
                for rank, (v, i) in enumerate(zip(p.tolist(), ids.tolist(), strict=True), start=1)]

    def candidate(self, id: int, after: int | None = None) -> Candidate:
        """One token of the vocabulary with its probability and rank."""
        p = self.probabilities(after)
        return Candidate(self.vocabulary[id], id, p[id].item(), int((p > p[id]).sum()) + 1)

    def cell(self, layer: int, head: int, query: int, key: int, batch: int = 0, *, kind: str = "self") -> Arithmetic:
        """One weight's whole arithmetic, from q and k to its share of the output."""
        call = self[layer, kind]
        call._one(head, batch)
        queries, keys = self.axes(call)
        return arithmetic(call, queries, keys, head, self._token(query, queries), self._token(key, keys), batch)

    def _token(self, index: int, labels: list[str] | None = None) -> int:
        """The index of a token, checked: of the target or the only text, unless others are given."""
        labels = self.tokens if labels is None else labels
        if not 0 <= index < len(labels):
            whose = "source" if self.source is not None and labels is self.source.tokens else "text"
            raise KliegError(f"there is no token {index}; the {whose} has tokens 0 to {len(labels) - 1}.")
        return index

    def save(self, path: str | Path) -> None:
        """One file, whole or not at all; see tracefile.py."""
        from klieg.tracefile import write
        write(self, Path(path))

    @staticmethod
    def load(path: str | Path) -> Trace:
        """A saved trace; its certificate is computed again from the numbers that were read, or for long ones sampled."""
        from klieg.tracefile import read
        return read(Path(path))

    def widget(self, height: int = 860) -> AnyWidget:
        """The Explorer's page as a widget of a notebook, so many pixels high."""
        from klieg.views.widget import widget
        return widget(self, height)

    def _repr_html_(self) -> str:
        from klieg.views.notebook import notebook
        return notebook(self)
