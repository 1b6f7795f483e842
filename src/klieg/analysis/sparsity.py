"""What sparse attention would cost: the weight that each head loses, and what the model says when it is really applied.

    found = sparsity("chat", text, [Pattern.read("window:128"), Pattern.read("top:16")])
    found[0].losses[3].mean          # layer 3: the weight mass that each head loses of a row, in the mean over rows
    found[0].divergence              # bits by which the next token's probabilities then differ

The two are different questions. Lost mass is read off the exact map: the sum of the weights of the pairs that a pattern
gives up. In a model that is really run under it, what is left of a row is normalised anew, and every layer reads what
the layers below made of that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from klieg.attention import slots
from klieg.certificate import Certificate
from klieg.changes import Heads, Keep, changed
from klieg.errors import KliegError
from klieg.models import Decoder, Model
from klieg.patterns import Pattern
from klieg.tokenizers import Tokenizer, check_text
from klieg.trace import Call, Candidate, Trace
from klieg.watch import trace as traced
from klieg.whatif import Shift, divergence, loaded, log_probabilities, shifts

TILE = 2**22          # weights that are held at once
SHOWN = 5             # likeliest next tokens
USUAL = ("window:8", "window:8+global:1", "block:8", "strided:4", "top:8")
"""A few small patterns to begin with."""
HIDDEN, GIVEN_UP, KEPT = range(3)
"""What becomes of a pair: the model's own mask hides it, the pattern gives it up, or it stays."""


@dataclass(frozen=True, eq=False)
class Loss:
    """What the heads of one call would lose, in the first text of a batch. A row is one query's weights, which sum to 1."""

    layer: int
    kind: str
    kv_heads: int
    mean: Tensor
    """(h,), float64: the lost mass of a row, in the mean over the rows that see something."""
    worst: Tensor
    """(h,), float64: the largest lost mass of a row."""
    worst_row: Tensor
    """(h,), int64: the query of that row."""
    share: float
    """Of the pairs that the mask leaves, the share that the pattern keeps."""

    heads = property(lambda self: len(self.mean))

    def group(self, head: int) -> int:
        """The key/value head that a query head reads."""
        return head * self.kv_heads // self.heads


@dataclass(frozen=True)
class Applied:
    """What the model expects when every head sees only what a pattern keeps."""

    divergence: float
    """Kullback and Leibler's, of the next token's probabilities after the last token, from those without: bits."""
    divergence_mean: float
    """The same in the mean over the next tokens after every token."""
    changes: list[Shift]
    """The likeliest next tokens after the last one without the pattern, best first; then those that are only among the
    likeliest with it."""
    certificate: Certificate
    """Of the pass under the pattern."""

    @property
    def likeliest(self) -> list[Candidate]:
        """The likeliest next tokens under the pattern, best first."""
        best = sorted((shift for shift in self.changes if shift.rank_after <= SHOWN), key=lambda shift: shift.rank_after)
        return [Candidate(shift.token, shift.id, shift.after, shift.rank_after) for shift in best]


@dataclass(frozen=True, eq=False)
class Sparsity:
    """One pattern, held to one text."""

    pattern: Pattern
    losses: list[Loss]
    applied: Applied | None
    """None for a saved trace, which has no model to run again."""

    @property
    def share(self) -> float:
        """Of the pairs that the masks of all calls leave, the share that the pattern keeps, in the mean over calls."""
        return sum(loss.share for loss in self.losses) / len(self.losses)

    @property
    def mean(self) -> float:
        """The lost mass of a row, in the mean over all heads."""
        return torch.cat([loss.mean for loss in self.losses]).mean().item()

    @property
    def worst(self) -> tuple[Loss, int]:
        """The call and the head that lose most in the mean over their rows."""
        loss = max(self.losses, key=lambda loss: loss.mean.max().item())
        return loss, int(loss.mean.argmax())

    def as_json(self) -> dict[str, Any]:
        """Plain data for other programs."""
        applied = self.applied and {
            "divergence": self.applied.divergence, "divergence_mean": self.applied.divergence_mean,
            "next": [{"token": c.token, "id": c.id, "p": c.p} for c in self.applied.likeliest],
            "changes": [asdict(shift) for shift in self.applied.changes]}
        return {"pattern": str(self.pattern), "share": self.share, "mean": self.mean, "applied": applied,
                "calls": [{"layer": loss.layer, "kind": loss.kind, "share": loss.share, "mean": loss.mean.tolist(),
                           "worst": loss.worst.tolist(), "worst_row": loss.worst_row.tolist()} for loss in self.losses]}


def sparsity(model: str | tuple[Model, Tokenizer], text: str, patterns: Sequence[Pattern], *, name: str | None = None,
             progress: Callable[[int, int], None] = lambda done, expected: None) -> tuple[Trace, list[Sparsity]]:
    """A decoder reads a text once as it is, and once more under each pattern: its trace, and what each costs. Every pass has
    its certificate.

    progress(done, expected) is told of every pattern. KliegError for a model that is no decoder of Klieg's own shapes,
    and for a text that is longer than it reads.
    """
    network, tokenizer, name = _decoder(model, name)
    tokenizer.fitting(check_text(text), network.positions)
    trace, found = traced((network, tokenizer), text, name=name), []
    for done, pattern in enumerate(patterns, start=1):
        found.append(Sparsity(pattern, losses(trace, pattern), applied((network, tokenizer), trace, pattern, name=name)))
        progress(done, len(patterns))
    return trace, found


def applied(model: str | tuple[Model, Tokenizer], trace: Trace, pattern: Pattern, count: int = SHOWN, *,
            name: str | None = None) -> Applied:
    """The decoder that read a trace reads its tokens again under a pattern, in every head; `count` of the likeliest next
    tokens of both are compared. KliegError for a model that is no decoder of Klieg's own shapes."""
    network, tokenizer, name = _decoder(model, name)
    after = traced((changed(network, [Keep(Heads(), pattern)]), tokenizer), trace.ids, name=name)
    before, under = log_probabilities(trace.logits), log_probabilities(after.logits)
    bits = [divergence(p, q) for p, q in zip(before, under, strict=True)]
    return Applied(bits[-1], sum(bits) / len(bits), shifts(before[-1], under[-1], trace.vocabulary, count), after.certificate)


def _decoder(model: str | tuple[Model, Tokenizer], name: str | None) -> tuple[Decoder, Tokenizer, str]:
    network, tokenizer, name = loaded(model, name)
    if not isinstance(network, Decoder):
        raise KliegError(f"{name!r} is no decoder, and only one that continues a text can be asked what comes next; name "
                         "another model.")
    return network, tokenizer, name


def losses(trace: Trace, pattern: Pattern) -> list[Loss]:
    """What every head of a trace would lose. Of cross-attention, which has no positions in common, `top` alone is said."""
    calls = [call for call in trace.calls if pattern.mask is None or call.kind != "cross"]
    return [loss(call, pattern) for call in calls]


@torch.no_grad()
def loss(call: Call, pattern: Pattern) -> Loss:
    """What the heads of one call would lose, from exact rows, some at a time; KliegError where q and k were not kept."""
    lost, kept, seen = [], 0, 0
    for w, visible, keep in _rows(call, pattern):
        lost.append(w.masked_fill(keep, 0).sum(-1))
        kept, seen = kept + int((keep & visible).sum()), seen + int(visible.sum())
    rows = torch.cat(lost, dim=1)                                                        # (h, i)
    live = (call.lse[0] > -torch.inf).sum(-1).clamp(min=1)
    worst = rows.max(-1)
    return Loss(call.layer, call.kind, call.kv_heads, rows.sum(-1) / live, worst.values, worst.indices, kept / max(seen, 1))


@torch.no_grad()
def fate(call: Call, head: int, pattern: Pattern) -> tuple[Tensor, Tensor]:
    """What becomes of every pair of one head: (i, j), uint8, HIDDEN, GIVEN_UP or KEPT; and the mass that each row loses:
    (i,), float64. KliegError for cross-attention and a pattern of positions, and where q and k were not kept."""
    if pattern.mask is not None and call.kind == "cross":
        raise KliegError(f"{pattern} goes by position, and a target has none in its source; choose top.")
    pairs, lost = [], []
    for w, visible, keep in _rows(call, pattern):
        pairs.append(torch.where(visible, torch.where(keep, KEPT, GIVEN_UP), HIDDEN)[head].to(torch.uint8))
        lost.append(w.masked_fill(keep, 0).sum(-1)[head])
    return torch.cat(pairs), torch.cat(lost)


def _rows(call: Call, pattern: Pattern) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Some rows at a time, (h, r, j) each of the first text: their weights in float64, what the mask leaves of them, and
    what the pattern keeps."""
    call.need("q", "k")
    keys = torch.arange(call.keys, device=call.lse.device)
    every = slots(call.queries, call.keys, call.lse.device)
    for rows in torch.arange(call.queries).split(max(1, TILE // (call.texts * call.heads * call.keys))):
        w = call.every(rows)[:1].double()
        visible = call.mask.visible(every[rows], keys)[:1].expand(w.shape)
        # Weights stand in the order of the scores, and what is hidden is behind all of them.
        keep = pattern.kept(w.masked_fill(~visible, -1), every[rows], keys).expand(w.shape)
        yield w[0], visible[0], keep[0]
