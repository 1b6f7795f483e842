"""What if: a model reads a text as it is and once more with changes, and what it expects next is held side by side.

    found = whatif("chat", "I love you", [Mute(Heads(3, 2)), Replace("love", "hate")])
    found.changes[0].before, found.changes[0].after     # a next token's probabilities
    found.divergence                                    # bits
    rank("chat", "I love you")[0]                       # the head that is missed most

The changes are those of changes.py. Both passes are Traces with their certificates: a changed pass
shows what was really computed in it. Klieg's own shapes can be changed, whoever trained them;
a model of any other shape computes its attention in functions of transformers, and is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from klieg.changes import Change, Cut, Heads, Mute, Replace, changed, stacks
from klieg.errors import KliegError
from klieg.models import Decoder, Model, opened
from klieg.reruns import reruns
from klieg.seq2seq import Marian, Memory
from klieg.tokenizers import Tokenizer, check_text
from klieg.trace import Trace
from klieg.translate import opening
from klieg.watch import trace as traced


@dataclass(frozen=True)
class Shift:
    """A possible next token: its probability and its rank, from 1, before and after."""

    token: str
    id: int
    before: float
    after: float
    rank_before: int
    rank_after: int


@dataclass(frozen=True, eq=False)
class WhatIf:
    """Two passes over a text, and the changes that were made for the second."""

    made: tuple[Change, ...]
    before: Trace
    after: Trace
    token: int
    """The token whose next one is asked for; of `after` the last, where it has other tokens."""
    changes: list[Shift]
    """The likeliest next tokens before, best first; then those that are only among the likeliest after."""
    divergence: float
    """Kullback and Leibler's, of the next token's probabilities after from those before, in bits: 0 if they are the same."""

    def as_json(self) -> dict[str, Any]:
        """Everything but the tensors, as one JSON object; the changes as klieg.changes.read() takes them."""
        def said(trace: Trace, token: int) -> dict[str, Any]:
            sealed = trace.certificate
            found = {"text": trace.text, "ids": trace.ids, "tokens": trace.tokens, "token": token, "kernel": trace.kernel,
                     "certificate": {"row_sum_error": sealed.row_sum_error, "output_error": sealed.output_error}}
            return found if trace.source is None else {**found, "source": asdict(trace.source)}
        last = self.token if len(self.after.tokens) == len(self.before.tokens) else len(self.after.tokens) - 1
        return {"model": self.before.model, "made": [str(change) for change in self.made],
                "before": said(self.before, self.token), "after": said(self.after, last),
                "changes": [asdict(shift) for shift in self.changes], "divergence": self.divergence}


@dataclass(frozen=True)
class HeadEffect:
    """What muting one head does to the next token."""

    layer: int
    head: int
    kind: str
    divergence: float
    """As that of WhatIf, in bits."""
    change: float
    """Of the binary logarithm of the likeliest token's probability: -1 if it is halved."""


def whatif(model: str | tuple[Model, Tokenizer], text: str, changes: Sequence[Change], after: int | None = None,
           count: int = 10, *, target: str | None = None, to: str | None = None, name: str | None = None) -> WhatIf:
    """Change how a model reads a text, or the text, and compare what it expects after token `after`, by default the last.

    `count` of the likeliest tokens of each pass are compared. A translator goes through the same `target`
    in both, by default the best that it finds unchanged; `to` is the target's language, where it has several.
    The changes are made in their order, those of the text first; `after` needs the same number of tokens in both texts.
    """
    network, tokenizer, name = loaded(model, name)
    if not changes:
        raise KliegError("nothing is changed; name a change, for example mute 3.2 (on the command line --mute 3.2).")
    made = [change for change in changes if not isinstance(change, Replace)]
    other, new = changed(network, made), text
    for change in changes:
        new = change.of(new) if isinstance(change, Replace) else new
    before = _read(network, tokenizer, text, name, target, to)
    token = len(before.tokens) - 1 if after is None else before._token(after)
    # A decoder goes through the same tokens again, whatever it would write now.
    altered = _read(other, tokenizer, new, name, target if before.source is None else before.ids[1:], to)
    _reached(made, network, altered)
    if after is not None and len(altered.tokens) != len(before.tokens):
        raise KliegError(f"token {after} of {len(before.tokens)} has no like in the new text, which has {len(altered.tokens)} "
                         "tokens; leave --after (in Python, after) away for the last of each.")
    p, q = (log_probabilities(trace.logits[token if after is not None else -1]) for trace in (before, altered))
    return WhatIf(tuple(changes), before, altered, token, shifts(p, q, before.vocabulary, count), divergence(p, q))


def rank(model: str | tuple[Model, Tokenizer], text: str, after: int | None = None,
         progress: Callable[[int, int], None] = lambda done, expected: None, *, target: str | None = None,
         to: str | None = None) -> list[HeadEffect]:
    """Every head by what muting it does to the prediction after token `after`, the largest divergence first.

    progress(done, expected) is told of every head. effects() gives the same one by one.
    """
    network, tokenizer, _ = loaded(model, None)
    expected = sum(stack.layers * stack.heads for stack in stacks(network).values())
    found = []
    for effect in effects((network, tokenizer), text, after, target=target, to=to):
        found.append(effect)
        progress(len(found), expected)
    return sorted(found, key=lambda effect: -effect.divergence)


def effects(model: str | tuple[Model, Tokenizer], text: str, after: int | None = None, *, target: str | None = None,
            to: str | None = None) -> Iterator[HeadEffect]:
    """What rank() sorts, head by head as it is computed, layer by layer; it may be left at any head."""
    network, tokenizer, name = loaded(model, None)
    if isinstance(network, Marian):
        trace = _read(network, tokenizer, text, name, target, to)
        token = len(trace.tokens) - 1 if after is None else trace._token(after)
        read = [] if trace.source is None else trace.source.ids
        usual, runs = _translator_runs(network, torch.tensor([read]), torch.tensor([trace.ids[:token + 1]]))
    else:
        check_text(text)
        _no_translation(name, target, to)
        ids = tokenizer.fitting(text, network.positions)
        token = len(ids) - 1 if after is None else after
        if not 0 <= token < len(ids):
            raise KliegError(f"there is no token {after}; the text has tokens 0 to {len(ids) - 1}.")
        usual, runs = _decoder_runs(network, torch.tensor([ids[:token + 1]]))
    p = log_probabilities(usual)
    best = p.argmax()
    for layer, head, kind, logits in runs:
        q = log_probabilities(logits)
        yield HeadEffect(layer, head, kind, divergence(p, q), (q[best] - p[best]).item() / math.log(2))


Runs = tuple[Tensor, Iterator[tuple[int, int, str, Tensor]]]


@torch.no_grad()
def _decoder_runs(model: Decoder, ids: Tensor) -> Runs:
    """The logits (vocabulary,) after the last token: unchanged, then with each head muted."""
    heads = [(layer, head) for layer in range(model.layers) for head in range(model.heads)]
    usual, runs = reruns(model, ids, [Mute(Heads(layer, head)) for layer, head in heads])

    def logits(x: Tensor) -> Tensor:
        return model.head(model.normed(x[:, -1]))[0]

    @torch.no_grad()
    def muted() -> Iterator[tuple[int, int, str, Tensor]]:
        for (layer, head), (_, x) in zip(heads, runs, strict=True):
            yield layer, head, "self", logits(x)

    return logits(usual), muted()


@torch.no_grad()
def _translator_runs(model: Marian, source: Tensor, target: Tensor) -> Runs:
    """The same of a translator, every kind of attention in turn. The encoder runs again for its own heads only."""
    memory = model.encode(source)

    def logits(other: Marian, memory: Memory) -> Tensor:
        return other.head(other.decode(target, memory)[:, -1])[0]

    @torch.no_grad()
    def muted() -> Iterator[tuple[int, int, str, Tensor]]:
        for kind, stack in stacks(model).items():
            for layer in range(stack.layers):
                for head in range(stack.heads):
                    other = changed(model, [Mute(Heads(layer, head, kind=kind))])
                    yield layer, head, kind, logits(other, other.encode(source) if kind == "encoder" else memory)

    return logits(model, memory), muted()


def loaded(model: str | tuple[Model, Tokenizer], name: str | None) -> tuple[Decoder | Marian, Tokenizer, str]:
    """A model that says what comes next, its tokenizer and its name; KliegError for any other."""
    if isinstance(model, tuple) and not isinstance(model[0], Model):
        raise KliegError(f"{name or type(model[0]).__name__} is no model of Klieg's own, and its attention cannot be changed "
                         "exactly; save it, and if it has the shape of Llama, GPT-2 or Marian, klieg.load() opens it.")
    network, tokenizer = opened(model)
    name = name or (model if isinstance(model, str) else type(network).__name__)
    if not isinstance(network, Decoder | Marian):
        raise KliegError(f"{name!r} is an encoder, which expects no next token; name a model that continues texts or "
                         "translates.")
    return network, tokenizer, name


def _read(model: Decoder | Marian, tokenizer: Tokenizer, text: str, name: str,
          target: str | Sequence[int] | None, to: str | None) -> Trace:
    """One pass; a text that is too long is refused here, where nothing offers to cut its end."""
    check_text(text)
    if isinstance(model, Marian):
        tokenizer.fitting(text.strip(), model.positions - len(opening(tokenizer, to)) - 1, bos=False)
        if isinstance(target, str):
            tokenizer.fitting(check_text(target).strip(), model.positions - 1, bos=False)
    else:
        _no_translation(name, target, to)
        tokenizer.fitting(text, model.positions)
    return traced((model, tokenizer), text, target=target, to=to, name=name)


def _no_translation(name: str, target: object, to: str | None) -> None:
    if target is not None or to is not None:
        raise KliegError(f"{name!r} is no translator; leave --target and --to (in Python, target and to) away.")


def _reached(changes: Sequence[Change], model: Model, trace: Trace) -> None:
    """KliegError for an edge of a token that the pass never came to."""
    for change in changes:
        if isinstance(change, Cut):
            kind, layers, _ = change.heads.among(stacks(model))
            count = trace[layers[0], kind].queries
            if not 0 <= change.query < count:
                raise KliegError(f"{change}: there is no token {change.query}; the text has tokens 0 to {count - 1}.")


def log_probabilities(logits: Tensor) -> Tensor:
    """Natural logarithms of the probabilities, float64."""
    return logits.double().log_softmax(-1)


def divergence(p: Tensor, q: Tensor) -> float:
    """KL(p || q) in bits, of natural logarithms; rounding could take it below 0, which it never is."""
    return max((p.exp() * (p - q)).sum().item() / math.log(2), 0.0)


def shifts(p: Tensor, q: Tensor, vocabulary: Sequence[str], count: int) -> list[Shift]:
    """The `count` likeliest tokens of both, from natural logarithms of probabilities (vocabulary,): best first those of p,
    then those that are only among the likeliest of q."""
    count = min(count, len(p))
    ids = list(dict.fromkeys([*p.topk(count).indices.tolist(), *q.topk(count).indices.tolist()]))
    return [Shift(vocabulary[id], id, p[id].exp().item(), q[id].exp().item(), int((p > p[id]).sum()) + 1,
                  int((q > q[id]).sum()) + 1) for id in ids]
