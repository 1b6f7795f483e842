"""How much of every earlier token reaches a token through all layers, said by maps of attention, and by muting.

A map of one layer says what its rows look at, but after a few layers every row is a mixture already. So each layer
becomes a matrix of shares (what of a token's stream is its own, and what came from others), and flows go through all
of them:

    raw        the mean of all maps of all layers: no flow at all, what people look at first
    rollout    half of a token's stream is its own, half is the heads' mean; the product over the layers
               (Abnar & Zuidema 2020, "Quantifying Attention Flow in Transformers", section 3)
    max-flow   the most that can go from a token to another through the same shares as pipes (the same, section 3)
    value      shares by what is really added to the stream: norms of the weighted values after W_O, the residual in
               its place (Kobayashi et al. 2021, "Incorporating Residual and Normalization Layers", without its norm,
               as blocks here norm before they attend); the product over the layers. The norms are squared, as vectors
               of many numbers are nearly at right angles, and it is their squares that add up to the whole

In a decoder the first tokens lie on more paths than the last ones, whatever the heads do. `corrected` divides by what
the same shares would bring if every head looked at all tokens before alike: the receptive field of causal layers.
`without_first` takes the weight on the first token away before: many heads rest there.

Beside all of these stands the truth that they stand for: `ablation`, what the prediction after the token loses when
a token is hidden from all others, in every head of every layer. flow() holds each map to it by Spearman's correlation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from klieg.attention import Mask
from klieg.errors import KliegError
from klieg.models import Decoder, Model
from klieg.tokenizers import Tokenizer, check_text
from klieg.trace import Trace
from klieg.watch import trace as traced
from klieg.whatif import divergence, loaded, log_probabilities

WAYS = ("raw", "rollout", "max-flow", "value")
CELLS = 2**24        # numbers of added vectors, or of streams, that are held at once
AT_ONCE = 8          # tokens that are hidden side by side; between two such steps a job may be ended
UNITS = 2**30        # max-flow counts in whole parts of this


@dataclass(frozen=True)
class Share:
    """What one way says of every token before the last: shares that sum to one."""

    way: str
    corrected: bool
    shares: list[float]
    correlation: float | None
    """Spearman's, with the effects of hiding; None for fewer than three tokens, or where all are alike."""


@dataclass(frozen=True, eq=False)
class Flow:
    """Where what a token says comes from: by every way, and by hiding each token before it."""

    trace: Trace
    token: int
    effects: list[float]
    """Of hiding each token before: bits by which the next token's probabilities diverge."""
    ways: list[Share]
    without_first: bool

    def as_json(self) -> dict[str, Any]:
        """Everything but the tensors."""
        return {"model": self.trace.model, "text": self.trace.text, "tokens": self.trace.tokens, "token": self.token,
                "without_first": self.without_first, "effects": self.effects, "ways": [asdict(way) for way in self.ways]}


def flow(model: str | tuple[Model, Tokenizer], text: str | Sequence[int], token: int | None = None, *,
         without_first: bool = False, name: str | None = None,
         progress: Callable[[int, int], None] = lambda done, expected: None) -> Flow:
    """Follow attention through all layers of a decoder to one token, by default the last, and hide each token before it.

    Ids of the vocabulary may stand in the place of the text. progress(done, expected) is told of every token that was
    hidden, and then again of all while flows are computed. KliegError for a model that is no decoder of Klieg's own
    shapes, and for a token with none before it.
    """
    network, tokenizer, name = loaded(model, name)
    if not isinstance(network, Decoder):
        raise KliegError(f"{name!r} is no decoder, and only in one does all flow to the last token; name another model.")
    if isinstance(text, str):
        tokenizer.fitting(check_text(text), network.positions)
    trace = traced((network, tokenizer), text, name=name)
    token = len(trace.tokens) - 1 if token is None else trace._token(token)
    first = 1 if without_first else 0
    if token <= first:
        raise KliegError(f"nothing flows to token {token} but itself{' and the first token' if without_first else ''}; name a "
                         "later token, or a longer text.")
    effects = hidden_effects(network, torch.tensor(trace.ids[:token + 1]), progress)
    ends, found = ENDS | {"max-flow": partial(_most, step=lambda: progress(token, token))}, []
    for way in WAYS:
        steps = [_without_first(step) if without_first else step for step in STEPS[way](network, trace, token + 1)]
        shares = ends[way](steps)[:token]
        found.append(_share(way, False, shares, effects, first))
        if way in ("rollout", "value"):
            even = ends[way]([_even(step, first) for step in steps])[:token]
            found.append(_share(way, True, (shares / even).where(even > 0, 0.0), effects, first))
    return Flow(trace, token, effects.tolist(), found, without_first)


# ---- what a layer moves ----

def _maps(network: Decoder, trace: Trace, count: int) -> list[Tensor]:
    """The mean over heads of each layer's map, with no stream beside it: (i, j), float64."""
    rows = slice(0, count)
    return [call.every(rows)[0, :, :, :count].double().mean(0) for call in trace.of("self")]


def _halves(network: Decoder, trace: Trace, count: int) -> list[Tensor]:
    """Half the stream, half the heads' mean."""
    return [(step + torch.eye(count, dtype=torch.float64)) / 2 for step in _maps(network, trace, count)]


@torch.no_grad()
def added(network: Decoder, trace: Trace, count: int) -> list[Tensor]:
    """Of each layer the norms of what every token adds to every token's stream: (i, j), float64, not yet shares.

    On the diagonal stands the stream itself together with what the token adds to itself.
    """
    found, stream = [], trace.stream("self")
    for call, block, held in zip(trace.of("self"), network.blocks, stream.blocks, strict=True):
        outward = block.outward.double()                                                    # (h, e, width)
        call.need("v")
        v = call.v[0, :, :count].double().repeat_interleave(call.heads // call.kv_heads, 0)     # (h, j, e)
        vectors, x = v @ outward, held.input[0, :count].double()                            # (h, j, width), (i, width)
        norms = torch.empty(count, count, dtype=torch.float64)
        for rows in torch.arange(count).split(max(CELLS // vectors[0].numel(), 1)):
            moved = torch.einsum("hij,hjw->ijw", call.every(rows)[0, :, :, :count].double(), vectors)
            moved[torch.arange(len(rows)), rows] += x[rows]
            norms[rows] = moved.norm(dim=-1)
        found.append(norms)
    return found


def _valued(network: Decoder, trace: Trace, count: int) -> list[Tensor]:
    """The squared norms as shares."""
    return [_rows(norms.square()) for norms in added(network, trace, count)]


def _rows(step: Tensor) -> Tensor:
    return step / step.sum(1, keepdim=True)


def _without_first(step: Tensor) -> Tensor:
    """The first token gives nothing to the others, whose shares are made one again."""
    step = step.clone()
    step[1:, 0] = 0
    return _rows(step)


def _even(step: Tensor, first: int) -> Tensor:
    """The same share of every token stays its own; the rest is spread alike over the tokens before, from `first` on."""
    count = len(step)
    before = torch.ones(count, count, dtype=torch.float64).tril(-1)
    before[:, :first] = 0
    own = step.diagonal().where(before.sum(1) > 0, 1.0)
    return torch.diag(own) + (1 - own)[:, None] * before / before.sum(1, keepdim=True).clamp(min=1)


# ---- through all layers, to the last token ----

def _mean(steps: list[Tensor]) -> Tensor:
    return torch.stack(steps).mean(0)[-1]


def _product(steps: list[Tensor]) -> Tensor:
    """What of the last token after the last layer was each token before the first: (j,)."""
    row = steps[-1][-1]
    for step in reversed(steps[:-1]):
        row = row @ step
    return row


def _most(steps: list[Tensor], step: Callable[[], None] = lambda: None) -> Tensor:
    """The most that can come to the last token from each, through pipes as wide as the shares: (j,). step() is called after
    each of them."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import maximum_flow

    count, layers = len(steps[0]), len(steps)
    query, key = torch.tril_indices(count, count)
    starts = torch.cat([key + layer * count for layer in range(layers)]).numpy()
    ends = torch.cat([query + (layer + 1) * count for layer in range(layers)]).numpy()
    widths = torch.cat([(step[query, key] * UNITS).round().int() for step in steps]).numpy()
    graph = coo_array((widths, (starts, ends)), shape=((layers + 1) * count,) * 2).tocsr()
    end = (layers + 1) * count - 1
    found = []
    for start in range(count):
        found.append(maximum_flow(graph, start, end).flow_value / UNITS)
        step()
    return torch.tensor(found, dtype=torch.float64)


STEPS = {"raw": _maps, "rollout": _halves, "max-flow": _halves, "value": _valued}
ENDS = {"raw": _mean, "rollout": _product, "max-flow": _most, "value": _product}


# ---- the truth, and how near a map comes to it ----

@torch.no_grad()
def hidden_effects(network: Decoder, ids: Tensor, progress: Callable[[int, int], None] = lambda done, expected: None) -> Tensor:
    """What hiding each token but the last from all others does to the prediction after the last: (i - 1,), bits, float64.

    ids (i,). The token is taken out of sight in every head of every layer; the others keep their places.
    """
    count = len(ids)
    usual = log_probabilities(network.head(network.hidden(ids[None])[0, -1]))
    found: list[float] = []
    for tokens in torch.arange(count - 1).split(min(max(CELLS // (count * network.vocabulary.shape[1] * 4), 1), AT_ONCE)):
        real = torch.ones(len(tokens), count, dtype=torch.bool)
        real[torch.arange(len(tokens)), tokens] = False
        last = network.hidden(ids.expand(len(tokens), -1), mask=Mask.padding(real))[:, -1]
        found += [divergence(usual, log_probabilities(row)) for row in network.head(last)]
        progress(len(found), count - 1)
    return torch.tensor(found, dtype=torch.float64)


def _share(way: str, corrected: bool, shares: Tensor, effects: Tensor, first: int) -> Share:
    return Share(way, corrected, (shares / shares.sum()).tolist(), correlation(shares[first:], effects[first:]))


def correlation(shares: Tensor, effects: Tensor) -> float | None:
    """Spearman's rank correlation of two (n,), ties sharing their mean rank; None where it is not defined."""
    from scipy.stats import rankdata

    if len(shares) < 3 or (shares == shares[0]).all() or (effects == effects[0]).all():
        return None
    a, b = (torch.from_numpy(rankdata(x.numpy())) for x in (shares, effects))
    return torch.corrcoef(torch.stack([a, b]))[0, 1].item()
