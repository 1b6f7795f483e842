"""The survey of what a stride lets a query see beyond its window, the piece that sparse.py calls far, in plain torch.

A row of every stride-th token is a small map by itself. All of these maps together have N / stride numbers for each query,
so few that they are made some rows at a time, and every statistic is one operation on them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from klieg.attention import scores
from klieg.kernels.sparse import causal, folded
from klieg.survey import Survey, edges
from klieg.tiles import Scores, blocks

ROOM = 2**18        # numbers of maps that are made at once, which stay near the core


def survey(text: Scores, lse: Tensor, found: Survey, first: int, stride: int, probe: Tensor | None) -> None:
    """Put what the tokens from slot `first` on see of each other off their windows into `found`, an empty survey of the whole.

    lse (b, h, i) and probe (b, g, j) are those of the text. The map gets sums, which the caller makes means.
    """
    stop = text.k.shape[2]
    q, k, logs = (folded(x[:, :, first:], stride) for x in (text.q, text.k, lse))
    probe = None if probe is None else folded(probe[:, :, first:], stride)
    batch, _, heads, high = logs.shape
    slots = first + torch.arange(high * stride, device=q.device).view(high, stride).T            # (stride, high)
    # What is no token, and what sees nothing, has weights of 0.
    logs = logs.masked_fill((logs == -torch.inf) | (slots[:, None] >= stop), torch.inf)
    rows = min(high, max(1, ROOM // (batch * heads * high)))
    for down in blocks(0, high, rows):
        across = slice(0, down.stop if causal(text.mask) else high)
        steps = torch.arange(high, device=q.device)
        steps = steps[down, None] - steps[across]
        for which in blocks(0, stride, max(1, ROOM // (batch * heads * high * rows))):
            s = scores(q[:, which, :, down].flatten(0, 1), k[:, which, :, across].flatten(0, 1),
                       scale=text.scale, softcap=text.softcap).unflatten(0, (batch, -1))           # (b, r, h, i, j)
            hidden = (steps <= 0 if causal(text.mask) else steps == 0) | (slots[which, None, across] >= stop)
            band = _Band(found, slots[which, down], slots[which, across], stop)
            band.put(s.masked_fill_(hidden[:, None], -torch.inf), logs[:, which, :, down], steps.abs() * stride)
            if probe is not None:
                band.mix(probe[:, which, :, across])


@dataclass(eq=False)
class _Band:
    """Some rows of some of the small maps: the slots (r, i) of queries and (r, j) of keys, tokens where below `stop`."""

    found: Survey
    rows: Tensor
    keys: Tensor
    stop: int

    def put(self, s: Tensor, lse: Tensor, distance: Tensor) -> None:
        """Masked scores (b, r, h, i, j), which are written over, log-sum-exps (b, r, h, i) and distances (i, j)."""
        found, here, there = self.found, self.rows[self.rows < self.stop], self.keys[self.keys < self.stop]
        found.max[:, :, here] = self._by_row(s.amax(-1))
        # 2^-1100 is 0 in every type; -inf times 0 would be NaN in the entropy.
        log = s.sub_(lse[..., None]).mul_(1 / math.log(2)).clamp_(min=-1100)
        self.w = w = log.exp2()
        wide = found.distance_sum.dtype
        found.mass[:, :, here] = self._by_row(w.sum(-1))
        found.entropy[:, :, here] = self._by_row(log.mul_(w).sum(-1)) * -math.log(2)
        found.distance_sum[:, :, here] = self._by_row((far := w * distance).sum(-1)).to(wide)
        found.distance_squares[:, :, here] = self._by_row(far.mul_(distance).sum(-1)).to(wide)
        found.received[:, :, there] += w.sum(3).movedim(1, 2)[:, :, self.keys < self.stop]
        if self.keys[0, 0] == 0:
            found.first[:, :, self.rows[0]] = w[:, 0, :, :, 0]
        bounds = [2**n for n in range(min(found.histogram.shape[2] - 1, 62))]
        bounds = torch.tensor(bounds, dtype=torch.int64, device=w.device)
        found.histogram.index_add_(2, torch.bucketize(distance.flatten(), bounds, right=True), w.sum(1).flatten(2))
        if found.map_mean is not None:
            self._pool()
        if found.top_keys is not None:
            best, at = w.topk(min(found.top_keys.shape[3], w.shape[4]))
            key = self.keys[:, None, None].expand(*w.shape).gather(4, at)
            found.top_weights[:, :, here, :best.shape[4]] = self._by_row(best)
            found.top_keys[:, :, here, :best.shape[4]] = self._by_row(key)

    def mix(self, probe: Tensor) -> None:
        """Weights times a number of every key, (b, r, g, j)."""
        every = probe.to(self.w).repeat_interleave(self.w.shape[2] // probe.shape[2], dim=2)
        self.found.probed[:, :, self.rows[self.rows < self.stop]] = self._by_row((self.w @ every[..., None])[..., 0])

    def _by_row(self, x: Tensor) -> Tensor:
        """(b, r, h, i, ...) -> (b, h, n, ...) of the queries that are tokens."""
        return x.movedim(1, 2)[:, :, self.rows < self.stop]

    def _pool(self) -> None:
        """Sums and maxima of the buckets of the map."""
        found, shape = self.found, self.found.map_mean.shape
        down, across = (_buckets(edges(self.stop, cells), places)
                        for places, cells in ((self.rows, shape[2]), (self.keys, shape[3])))
        cell = (down[:, :, None] * shape[3] + across[:, None]).flatten()
        w = self.w.movedim(1, 2).flatten(2)
        found.map_mean.flatten(2).scatter_add_(2, cell.expand_as(w), w)
        found.map_max.flatten(2).scatter_reduce_(2, cell.expand_as(w), w, "amax")


def _buckets(bounds: list[int], places: Tensor) -> Tensor:
    """The bucket between these bounds of each place; of what is no token the last."""
    sizes = torch.tensor(bounds, device=places.device).diff()
    return torch.arange(len(sizes), device=places.device).repeat_interleave(sizes)[places.clamp(max=bounds[-1] - 1)]
