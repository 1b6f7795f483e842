"""What a screen should show, computed anew in float64 from q, k and the logits of a trace, and the colours of the look's own
stops. Nothing here calls what Klieg computes with."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from klieg.trace import Trace

# The stops of the ramps, light first; see the look's README, 1.
WEIGHT = {"light": "fdfbf6 f9e9c1 f7d086 f4b046 e88b00 cd6b00 a95103 803a12 542613",
          "dark": "191a1d 3a261a 66381d 904e1d b96c18 dd921e f2bd4d f8e092 fef8d9"}
STATISTIC = {"light": "daf6ef 83bfbc 4b838a 2d4b56 1b2228", "dark": "1b2228 2d4b56 4b838a 83bfbc daf6ef"}
SIGNED = {"light": "5b6b80 ffffff e88b00", "dark": "7d8ea6 1b1f26 e88b00"}
ROLES = {"q": "1a45b0", "k": "b0132f", "v": "007d63", "o": "a336da", "ink": "16181d"}   # light
LEAST = 1e-4   # where the logarithmic scale of a head's own map begins

RGB = tuple[float, ...]


def along(stops: str, share: float) -> RGB:
    """The colour at a share of a ramp, 0 to 1, linear between its stops."""
    colours = [[int(stop[n:n + 2], 16) for n in (0, 2, 4)] for stop in stops.split()]
    place = min(max(share, 0.0), 1.0) * (len(colours) - 1)
    below = min(int(place), len(colours) - 2)
    return tuple(a + (b - a) * (place - below) for a, b in zip(colours[below], colours[below + 1], strict=True))


def role(name: str, share: float) -> RGB:
    """The colour of a vector's number in the light; `share` is it over the largest of its vector, -1 to 1."""
    return along(f"8a8f99 ffffff {ROLES[name]}", (share + 1) / 2)


def logarithmic(weight: float, least: float) -> float:
    """The place of a weight on the logarithmic scale, from `least` to 1."""
    return 1 - math.log(max(weight, least)) / math.log(least)


def softmax(logits: Tensor) -> Tensor:
    return torch.exp(logits.double() - logits.double().max()) / torch.exp(logits.double() - logits.double().max()).sum()


def bits(p: Tensor, q: Tensor) -> float:
    """Kullback and Leibler's divergence of q from p."""
    return float((p * (p / q).log2()).sum())


def cosines(x: Tensor, y: Tensor) -> Tensor:
    """Of every row of x (i, width) and of y (j, width): (i, j)."""
    x, y = x.double(), y.double()
    return (x @ y.T) / (x.norm(dim=1)[:, None] * y.norm(dim=1))


class Head:
    """One head of a decoder's trace, by the formula: dot, scaled and weight (i, j); hidden cells have weight 0."""

    def __init__(self, trace: Trace, layer: int, head: int) -> None:
        call = trace[layer]
        self.call, self.group = call, head // (call.heads // call.kv_heads)
        self.q, self.k, self.v = (x[0, n].double() for x, n in ((call.q, head), (call.k, self.group), (call.v, self.group)))
        n = len(self.q)
        self.dot = self.q @ self.k.T
        self.scaled = self.dot / math.sqrt(self.q.shape[1])
        if call.softcap is not None:
            self.scaled = call.softcap * torch.tanh(self.scaled / call.softcap)
        self.seen = torch.ones(n, n).tril().bool()
        self.masked = self.scaled.masked_fill(~self.seen, -math.inf)
        powers = torch.exp(self.masked - self.masked.max(1, keepdim=True).values)
        self.weight = powers / powers.sum(1, keepdim=True)
        self.own = torch.exp(self.masked - call.lse[0, head].double()[:, None])   # with what the kernel divided by

    def stage(self, name: str) -> Tensor:
        """The numbers of a map at "dot", "scaled", "masked" or "weight"; NaN where none is shown."""
        found = {"dot": self.dot, "scaled": self.scaled, "masked": self.scaled, "weight": self.weight}[name]
        return found.masked_fill(~self.seen, math.nan) if name in ("masked", "weight") else found

    def statistics(self) -> dict[str, float]:
        """The numbers that the grid of heads may be coloured by; entropy in bits."""
        w, n = self.weight, len(self.weight)
        far = torch.arange(n)[:, None] - torch.arange(n)
        return {
            "entropy": float(-torch.special.xlogy(w, w).sum(1).mean() / math.log(2)), "sharpest": float(w.max(1).values.mean()),
            "distance": float((w * far.abs()).sum(1).mean()), "first": float(w[:, 0].mean()), "own": float(w.diagonal().mean()),
            "beside": float(w.diagonal(-1).sum() / n), "received": float(w.sum(0).max() / n),
        }

    @property
    def rest(self) -> float:
        """What the rows after the first give the first token, on average."""
        return float(self.weight[1:, 0].mean())

    def links(self) -> list[tuple[float, int, int]]:
        """Every weight with its query and key, the largest first, those on the first token and on the query itself aside."""
        n = len(self.weight)
        return sorted(((float(self.weight[i, j]), i, j) for i in range(n) for j in range(1, i)), reverse=True)


def largest(numbers: list[float], count: int) -> list[int]:
    """The places of the numbers furthest from 0, in their own order."""
    return sorted(sorted(range(len(numbers)), key=lambda n: -abs(numbers[n]))[:count])
