"""A Trace: everything that any view needs to know of one pass of a model. Plain data.

The map of attention is never stored. A Call keeps q, k and the log-sum-exp of each row as
the model's own kernel gave them, and any tile of the map is exp(score - lse), exact, when
somebody looks. The certificate says how far the worst row is from summing to one and the
worst output from the model's own; a trace that fails it is an error and never a picture.

    trace = klieg.trace("chat", "I love you")
    trace[3].weights(head=2)         # (i, j)
    trace.cell(3, 2, 3, 1).dot       # one weight's arithmetic
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from klieg.attention import Mask, output, scores, slots, weights
from klieg.errors import KliegError
from klieg.survey import Survey

TILE = 2**22          # weights that the certificate looks at together
TOLERANCE = 1e-4      # of the certificate: of 1 for row sums, of the largest value for outputs


@dataclass(frozen=True)
class Stages:
    """One head's map step by step, each (i, j): q k^T, scaled (and capped, and biased), masked, softmaxed."""

    dot: Tensor
    scaled: Tensor
    masked: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Certificate:
    """Worst |row sum - 1| and worst |A V - the module's own output| over all heads, and whether both hold."""

    row_sum_error: float
    output_error: float
    heads: int
    largest_value: float

    @property
    def passed(self) -> bool:
        return self.row_sum_error <= TOLERANCE and self.output_error <= TOLERANCE * max(1.0, self.largest_value)


@dataclass(frozen=True)
class Candidate:
    """A possible next token: its label, id, probability, and rank from 1."""

    token: str
    id: int
    p: float
    rank: int


@dataclass(frozen=True)
class Arithmetic:
    """One weight written out; vectors in float64, every number recomputable from those before it."""

    layer: int
    head: int
    query: int
    key: int
    query_token: str
    key_token: str
    unrotated_q: Tensor | None
    q: Tensor
    unrotated_k: Tensor | None
    k: Tensor
    products: Tensor
    """(d,): q times k, width by width."""
    dot: float
    """The sum of the products."""
    scale: float
    scaled: float
    """scale * dot, then softcap and bias where the model has them."""
    softcap: float | None
    bias: float
    reason: str | None
    """Why the mask hides this key, or None where it is seen."""
    score: float
    """What enters the softmax: scaled, or -inf where hidden."""
    row_scores: Tensor
    """(j,): the scores of the whole row."""
    row_max: float
    row_sum: float
    """Sum over the row of exp(score - row_max), the sink included."""
    weight: float
    v: Tensor
    contribution: Tensor
    """(e,): weight * v."""
    output: Tensor
    """(e,): what the head gave at this query, by the model."""
    share: float
    """contribution . output / output . output; the shares of a row sum to 1."""
    model_weight: float
    """exp(score - lse) with the lse of the kernel that ran."""
    difference: float
    """|weight - model_weight|."""


@dataclass(eq=False)
class Call:
    """One call of attention. Shapes by the legend of attention.py; q and k as they entered the product."""

    layer: int
    kind: str
    q: Tensor
    k: Tensor
    v: Tensor
    lse: Tensor
    output: Tensor
    mask: Mask
    scale: float
    kernel: str
    softcap: float | None = None
    sinks: Tensor | None = None
    bias: Tensor | None = None
    unrotated_q: Tensor | None = None
    unrotated_k: Tensor | None = None
    survey: Survey | None = None

    heads = property(lambda self: self.q.shape[1])
    kv_heads = property(lambda self: self.k.shape[1])
    queries = property(lambda self: self.q.shape[2])
    keys = property(lambda self: self.k.shape[2])

    def group(self, head: int) -> int:
        """The key/value head that a query head reads."""
        return head * self.kv_heads // self.heads

    def slot(self, query: int) -> int:
        """The slot at which a query stands: its own place among the keys."""
        return self.keys - self.queries + query

    def _scaled(self, texts: slice, heads: slice, rows: slice, keys: slice, wide: bool = False) -> Tensor:
        """Scores before the mask: (b, h, i, j). `heads` is all of them, or one."""
        groups = slice(None) if heads == slice(None) else slice(self.group(heads.start), self.group(heads.start) + 1)
        q, k = self.q[texts, heads, rows], self.k[texts, groups, keys]
        bias = None if self.bias is None else self.bias.expand(*self.q.shape[:3], self.keys)[texts, heads, rows, keys]
        if wide:
            q, k, bias = q.double(), k.double(), None if bias is None else bias.double()
        return scores(q, k, scale=self.scale, softcap=self.softcap, bias=bias)

    def _visible(self, texts: slice, heads: slice, rows: slice, keys: slice) -> Tensor:
        """Which pairs of a tile the mask leaves: (b, h, i, j), bool."""
        i = slots(self.queries, self.keys, self.q.device)[rows]
        seen = self.mask.visible(i, torch.arange(self.keys, device=self.q.device)[keys])
        return seen.expand(*self.q.shape[:2], *seen.shape[2:])[texts, heads]

    def _weights(self, texts: slice, heads: slice, rows: slice, keys: slice) -> Tensor:
        s = self._scaled(texts, heads, rows, keys)
        return weights(s.masked_fill(~self._visible(texts, heads, rows, keys), -torch.inf), self.lse[texts, heads, rows])

    def visible(self, head: int, rows: slice, keys: slice, batch: int = 0) -> Tensor:
        """Which pairs of a tile the mask leaves: (i, j), bool."""
        return self._visible(*self._one(head, batch), rows, keys)[0, 0]

    def tile(self, head: int, rows: slice, keys: slice, batch: int = 0) -> Tensor:
        """Exact weights of a tile of the map: (i, j)."""
        return self._weights(*self._one(head, batch), rows, keys)[0, 0]

    def weights(self, head: int, batch: int = 0) -> Tensor:
        """A head's whole map: (i, j)."""
        return self.tile(head, slice(None), slice(None), batch)

    def row(self, head: int, query: int, batch: int = 0) -> Tensor:
        """Where one query looks: (j,)."""
        return self.tile(head, slice(query, query + 1), slice(None), batch)[0]

    def stages(self, head: int, batch: int = 0) -> Stages:
        """Every step of a head's map."""
        text, one = self._one(head, batch)
        everything = slice(None), slice(None)
        dot = self.q[batch, head] @ self.k[batch, self.group(head)].T
        scaled = self._scaled(text, one, *everything)[0, 0]
        masked = scaled.masked_fill(~self.visible(head, *everything, batch), -torch.inf)
        return Stages(dot, scaled, masked, weights(masked, self.lse[batch, head]))

    def reason(self, head: int, query: int, key: int, batch: int = 0) -> str | None:
        """Why a query may not see a key; None if it may."""
        return self.mask.reason(self.slot(query), key, batch, head)

    def certify(self) -> Certificate:
        """Recompute every row from q, k and lse, a block at a time, and compare with what the model gave."""
        texts = self.q.shape[0]
        row_error = output_error = 0.0
        block = max(1, TILE // (texts * self.heads * self.keys))
        for start in range(0, self.queries, block):
            rows = slice(start, start + block)
            w = self._weights(slice(None), slice(None), rows, slice(None))
            lse = self.lse[:, :, rows]
            total = w.sum(-1)
            if self.sinks is not None:
                total = total + torch.exp(self.sinks[:, None] - lse)
            live = (lse > -torch.inf).to(total)
            row_error = _worse(row_error, (total - live).abs().max())
            output_error = _worse(output_error, (output(w, self.v) - self.output[:, :, rows]).abs().max())
        return Certificate(row_error, output_error, texts * self.heads, self.v.abs().max().item())

    def _one(self, head: int, batch: int) -> tuple[slice, slice]:
        """One text and one head as slices; refuses what is not there."""
        if not 0 <= head < self.heads:
            raise KliegError(f"there is no head {head}; layer {self.layer} has heads 0 to {self.heads - 1}.")
        if not 0 <= batch < self.q.shape[0]:
            raise KliegError(f"there is no text {batch} in the batch of {self.q.shape[0]}.")
        return slice(batch, batch + 1), slice(head, head + 1)


def _worse(so_far: float, found: Tensor) -> float:
    """The larger of two errors; NaN, which compares with nothing, is the worst of all."""
    value = found.item()
    return float("inf") if value != value else max(so_far, value)


@dataclass(eq=False)
class Trace:
    """One pass of a model over one text: `trace[layer]` is that layer's Call."""

    model: str
    text: str
    ids: list[int]
    tokens: list[str]
    calls: list[Call]
    logits: Tensor
    """(n, vocabulary), float32, of every token."""
    vocabulary: Sequence[str]
    """The label of every id."""
    certificate: Certificate = field(init=False)

    def __post_init__(self) -> None:
        found = [call.certify() for call in self.calls]
        self.certificate = Certificate(max(c.row_sum_error for c in found), max(c.output_error for c in found),
                                       sum(c.heads for c in found), max(c.largest_value for c in found))
        if not self.certificate.passed:
            raise KliegError(f"the trace of {self.model!r} fails its certificate: worst |row sum - 1| is "
                             f"{self.certificate.row_sum_error:.1e} and worst |A V - model output| is "
                             f"{self.certificate.output_error:.1e}; its numbers cannot be shown. Please report this model.")

    layers = property(lambda self: len(self.calls))
    heads = property(lambda self: self.calls[0].heads)
    kv_heads = property(lambda self: self.calls[0].kv_heads)

    @property
    def kernel(self) -> str:
        """Name of the kernel that computed the attention; several, joined, where layers differ."""
        return " + ".join(dict.fromkeys(call.kernel for call in self.calls))

    def __len__(self) -> int:
        return len(self.calls)

    def __getitem__(self, layer: int) -> Call:
        if not 0 <= layer < len(self.calls):
            raise KliegError(f"there is no layer {layer}; the model has layers 0 to {len(self.calls) - 1}.")
        return self.calls[layer]

    def probabilities(self, after: int | None = None) -> Tensor:
        """Of every next token after token `after` (the last by default): (vocabulary,), float64."""
        return self.logits[self._token(len(self.tokens) - 1 if after is None else after)].double().softmax(-1)

    def next_tokens(self, count: int = 10, after: int | None = None) -> list[Candidate]:
        """The likeliest next tokens, best first."""
        p, ids = self.probabilities(after).topk(min(count, self.logits.shape[-1]))
        return [Candidate(self.vocabulary[i], i, v, rank)
                for rank, (v, i) in enumerate(zip(p.tolist(), ids.tolist(), strict=True), start=1)]

    def candidate(self, id: int, after: int | None = None) -> Candidate:
        """One token of the vocabulary with its probability and rank."""
        p = self.probabilities(after)
        return Candidate(self.vocabulary[id], id, p[id].item(), int((p > p[id]).sum()) + 1)

    def cell(self, layer: int, head: int, query: int, key: int, batch: int = 0) -> Arithmetic:
        """One weight's whole arithmetic, from q and k to its share of the output."""
        call = self[layer]
        one = call._one(head, batch)
        query, key = self._token(query), self._token(key)
        group, rows = call.group(head), slice(query, query + 1)
        q, k = call.q[batch, head, query].double(), call.k[batch, group, key].double()
        v, own = call.v[batch, group].double(), call.output[batch, head, query].double()
        seen = call.visible(head, rows, slice(None), batch)
        row = call._scaled(*one, rows, slice(None), wide=True)[0, 0]
        scaled, row = row[0, key].item(), row.masked_fill(~seen, -torch.inf)[0]
        sink = call.sinks[head].double() if call.sinks is not None else row.new_tensor(-torch.inf)
        row_max = torch.maximum(row.max(), sink)
        row_max = row_max.masked_fill(row_max == -torch.inf, 0)
        row_sum = torch.exp(row - row_max).sum() + torch.exp(sink - row_max)
        weight = (torch.exp(row[key] - row_max) / row_sum).item() if row_sum > 0 else 0.0
        model_weight = weights(row, call.lse[batch, head, query].double())[key].item()
        contribution = weight * v[key]
        bias = 0.0 if call.bias is None else call.bias.expand(*call.q.shape[:3], call.keys)[batch, head, query, key].item()
        return Arithmetic(
            layer, head, query, key, self.tokens[query], self.tokens[key],
            None if call.unrotated_q is None else call.unrotated_q[batch, head, query].double(), q,
            None if call.unrotated_k is None else call.unrotated_k[batch, group, key].double(), k,
            products=q * k, dot=(q @ k).item(), scale=call.scale, scaled=scaled, softcap=call.softcap, bias=bias,
            reason=call.reason(head, query, key, batch), score=row[key].item(), row_scores=row,
            row_max=row_max.item(), row_sum=row_sum.item(), weight=weight, v=v[key], contribution=contribution,
            output=own, share=(contribution @ own / (own @ own)).item() if own.any() else 0.0, model_weight=model_weight,
            difference=abs(weight - model_weight))

    def _token(self, index: int) -> int:
        if not 0 <= index < len(self.tokens):
            raise KliegError(f"there is no token {index}; the text has tokens 0 to {len(self.tokens) - 1}.")
        return index

    def save(self, path: str | Path) -> None:
        """One file: a zip of trace.json and tensors.safetensors; whole or not at all."""
        from klieg.tracefile import write
        write(self, Path(path))

    @staticmethod
    def load(path: str | Path) -> Trace:
        """A saved trace; its certificate is computed again from the numbers that were read."""
        from klieg.tracefile import read
        return read(Path(path))

    def _repr_html_(self) -> str:
        from klieg.views.notebook import notebook
        return notebook(self)
