"""Beam search: the best targets of many sources, by an encoder-decoder.

Sources of like length are searched together; whoever is done leaves, so the last steps are small.
A beam of 1 is greedy search, and a beam as large as all that can be written is brute force.

    best = search(model, sources, Search(beam=5))      # sources: lists of ids; best[0][0].ids

Source: Wu et al. 2016, "Google's Neural Machine Translation System", equation 14, for the
penalties of length and coverage; Vaswani et al. 2017 search with beam 4 and alpha 0.6.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from klieg.attention import weights
from klieg.config import MarianConfig
from klieg.errors import KliegError
from klieg.generate import Sampling, choose
from klieg.layers import Observation
from klieg.likeliest import Likeliest
from klieg.seq2seq import Marian

ROOM = 2**14  # rows times source tokens that are searched together
MOST = 10      # what a penalty may be: beyond, lengths to its power have no room in a float


@dataclass(frozen=True)
class Hypothesis:
    """A target without its marks, and ln p of it with its end mark."""

    ids: list[int]
    log_p: float
    score: float
    """log_p over the penalty of length, plus the penalty of coverage: what hypotheses are ranked by."""


@dataclass(frozen=True)
class Search:
    """How targets are searched."""

    beam: int = 5
    alpha: float = 1.0
    """Of the length penalty ((5 + length) / 6)^alpha; 0 prefers short targets, as probability does."""
    beta: float = 0.0
    """Of the coverage penalty: above 0, sources tokens that nobody looked at cost."""
    best: int = 1
    """So many hypotheses of each source, the best first."""
    ratio: float = 2.0
    extra: int = 20
    """A target has at most ratio * source tokens + extra tokens."""

    def __post_init__(self) -> None:
        if self.beam < 1:
            raise KliegError(f"beam is {self.beam}; it must be at least 1.")
        if not 1 <= self.best <= self.beam:
            raise KliegError(f"{self.best} hypotheses are wanted of a beam of {self.beam}; ask for 1 to {self.beam}, "
                             "or follow more.")
        if not (0 <= self.alpha <= MOST and 0 <= self.beta <= MOST):
            raise KliegError(f"the penalties are {self.alpha} and {self.beta}; they must be from 0 to {MOST}.")
        if not self.ratio >= 0 or self.extra < 1:
            raise KliegError(f"a target of {self.ratio} times its source and {self.extra} tokens; extra must be at least 1.")

    def longest(self, source: int, positions: int) -> int:
        """Tokens that the target of a source of so many may have, by a model of so many positions."""
        return min(int(self.ratio * source) + self.extra, positions)

    def penalty(self, length: int) -> float:
        """What ln p of a target of `length` tokens, its end mark included, is divided by."""
        return ((5 + length) / 6) ** self.alpha


def search(model: Marian, sources: list[list[int]], options: Search | None = None,
           told: Callable[[int], None] = lambda done: None) -> list[list[Hypothesis]]:
    """The best targets of each source, in the order of the sources; `told` hears how many are done.

    A source ends in the end mark. One that the model has no positions for is a KliegError.
    """
    options = options or Search()
    found: list[list[Hypothesis]] = [[] for _ in sources]
    done = 0
    for places in groups([len(source) for source in sources], options.beam):
        for place, best in zip(places, _Group(model, [sources[place] for place in places], options).run(), strict=True):
            found[place] = best
        done += len(places)
        told(done)
    return found


def groups(lengths: list[int], beam: int) -> Iterator[list[int]]:
    """Places of sources that are searched together: of like length, the longest first."""
    order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    start = 0
    while start < len(order):
        size = max(1, ROOM // (lengths[order[start]] * beam))
        yield order[start:start + size]
        start += size


def padded(sources: list[list[int]], pad: int) -> tuple[Tensor, Tensor | None]:
    """ids (b, i), padded on the right; real (b, i), bool, or None where there is no padding."""
    longest = max(map(len, sources))
    ids = torch.tensor([[*source, *[pad] * (longest - len(source))] for source in sources])
    lengths = torch.tensor([len(source) for source in sources])
    return ids, None if int(lengths.min()) == longest else torch.arange(longest) < lengths[:, None]


def sample(model: Marian, sources: list[list[int]], sampling: Sampling, generators: list[torch.Generator],
           told: Callable[[int], None] = lambda done: None) -> list[list[int]]:
    """One target of each source without its marks, as long as Search's may be, token by token as generate.py chooses them.

    Each source has a generator of its own, and so draws the same whatever else is drawn beside it.
    """
    found: list[list[int]] = [[] for _ in sources]
    done = 0
    for places in groups([len(source) for source in sources], 1):
        drawn = _drawn(model, [sources[place] for place in places], sampling, [generators[place] for place in places])
        for place, ids in zip(places, drawn, strict=True):
            found[place] = ids
        done += len(places)
        told(done)
    return found


@torch.inference_mode()
def _drawn(model: Marian, sources: list[list[int]], sampling: Sampling, generators: list[torch.Generator]) -> list[list[int]]:
    """One target of each of some sources, which are written together."""
    config = model.config
    limits = [Search().longest(len(source), model.positions) for source in sources]
    memory, cache = model.encode(*padded(sources, config.pad_token_id)), model.new_cache(len(sources), max(limits))
    found: list[list[int]] = [[] for _ in sources]
    places = list(range(len(sources)))                                           # those that are still written
    token = torch.full((len(sources), 1), config.decoder_start_token_id)
    while places:
        logits = _allowed(model.head(model.decode(token, memory, cache=cache)[:, -1]), config)
        tokens = choose(logits, sampling, [generators[place] for place in places])
        stay = []
        for row, (place, id) in enumerate(zip(places, tokens.tolist(), strict=True)):
            if id != config.eos_token_id:
                found[place].append(id)
                if len(found[place]) < limits[place]:
                    stay.append(row)
        if len(stay) < len(places):
            rows = torch.tensor(stay, dtype=torch.long)
            places, tokens, memory = [places[row] for row in stay], tokens[rows], memory.select(rows)
            cache.select(rows)
        token = tokens[:, None]
    return found


def _allowed(logits: Tensor, config: MarianConfig) -> Tensor:
    """Nobody writes padding, or the mark that a target begins with."""
    logits[:, [config.pad_token_id, config.decoder_start_token_id]] = -torch.inf
    return logits


@dataclass(eq=False)
class _Group:
    """Sources that are searched together. n sources are still open; each has `beam` rows, side by side."""

    model: Marian
    sources: list[list[int]]
    options: Search
    finished: list[list[Hypothesis]] = field(init=False)

    @torch.inference_mode()
    def run(self) -> list[list[Hypothesis]]:
        """The best hypotheses of each source."""
        model, options, config = self.model, self.options, self.model.config
        beam = options.beam
        ids, real = padded(self.sources, config.pad_token_id)
        self.finished = [[] for _ in self.sources]
        longest = [options.longest(len(source), model.positions) for source in self.sources]
        self.memory = model.encode(ids, real)
        self.cache = model.new_cache(len(ids) * beam, max(longest))
        self.places = torch.arange(len(ids))                                     # (n,) which sources are open
        self.limits = torch.tensor(longest)                                      # (n,)
        self.scores = torch.full((len(ids), beam), -torch.inf)                   # (n, beam) ln p
        self.scores[:, 0] = 0
        self.written = torch.full((len(ids), beam, 1), config.decoder_start_token_id)
        self.coverage = torch.zeros(len(ids), beam, ids.shape[1]) if options.beta else None
        # Two more than are wanted, as two marks are never written.
        self.likeliest = Likeliest(model.vocabulary, model.final_logits_bias[0], 2 * beam + 2)
        while len(self.places):
            self._step()
        return [sorted(found, key=lambda h: -h.score)[:options.best] for found in self.finished]

    def _step(self) -> None:
        """Write one more token of every hypothesis."""
        beam, eos = self.options.beam, self.model.config.eos_token_id
        ends = self.limits <= self.written.shape[2]                              # (n,) must end now
        log_p, tokens = self._next(ends)                                         # (n, beam, k)
        total = (self.scores[:, :, None] + log_p).flatten(1)
        top = total.topk(min(2 * beam, total.shape[1]), dim=1)
        parents, tokens = top.indices // log_p.shape[2], tokens.flatten(1).gather(1, top.indices)
        over = tokens == eos
        self._finish(top.values[:, :beam], parents[:, :beam], over[:, :beam])
        # The best that do not end go on; those that do are put last.
        order = (over | (top.values == -torch.inf)).to(torch.int8).sort(dim=1, stable=True).indices[:, :beam]
        if order.shape[1] < beam:
            order = torch.cat([order, order[:, :1].expand(-1, beam - order.shape[1])], 1)
        scores = top.values.masked_fill(over, -torch.inf).gather(1, order)
        closed = [len(self.finished[place]) >= beam for place in self.places.tolist()]
        stay = (~(torch.tensor(closed) | ends | (scores[:, 0] == -torch.inf))).nonzero().squeeze(1)
        self._go_on(stay, parents.gather(1, order), tokens.gather(1, order), scores)

    def _next(self, ends: Tensor) -> tuple[Tensor, Tensor]:
        """ln p of the likeliest next tokens of each hypothesis, and the tokens: (n, beam, k), as many as could be taken.

        Of a source that `ends` (n,) it is the end mark alone.
        """
        config, beam = self.model.config, self.options.beam
        log_p, tokens, end = (part.unflatten(0, (-1, beam)) for part in self.likeliest(self._hidden(), config.eos_token_id))
        log_p.masked_fill_((tokens == config.pad_token_id) | (tokens == config.decoder_start_token_id), -torch.inf)
        if ends.any():
            log_p[ends] = -torch.inf
            log_p[ends, :, 0], tokens[ends, :, 0] = end[ends], config.eos_token_id
        return log_p, tokens

    def _hidden(self) -> Tensor:
        """The stream behind the last token of every hypothesis: (n * beam, width)."""
        seen: list[Observation] = []
        observe = seen.append if self.coverage is not None else None
        hidden = self.model.decode(self.written[:, :, -1].flatten()[:, None], self.memory, cache=self.cache, observe=observe)
        if self.coverage is not None:
            self._cover(seen[-1])
        return hidden[:, -1]

    def _cover(self, last: Observation) -> None:
        """Add where the last layer's heads looked, on average."""
        s = (last.q @ last.k.transpose(-1, -2).repeat_interleave(last.q.shape[1] // last.k.shape[1], 1)) * last.scale
        self.coverage += weights(s, last.attention.lse).mean(1)

    def _finish(self, values: Tensor, parents: Tensor, over: Tensor) -> None:
        length = self.written.shape[2]                                           # the end mark for the start mark
        rows, ranks = (over & (values > -torch.inf)).nonzero(as_tuple=True)
        parents, places = parents[rows, ranks], self.places[rows]
        ended = zip(rows.tolist(), places.tolist(), parents.tolist(), values[rows, ranks].tolist(),
                    self.written[rows, parents, 1:].tolist(), strict=True)
        for row, place, parent, log_p, ids in ended:
            score = log_p / self.options.penalty(length)
            if self.coverage is not None:
                covered = self.coverage[row, parent, :len(self.sources[place])].clamp(1e-9, 1)
                score += self.options.beta * float(covered.log().sum())
            self.finished[place].append(Hypothesis(ids, log_p, score))

    def _go_on(self, stay: Tensor, parents: Tensor, tokens: Tensor, scores: Tensor) -> None:
        """Keep the open sources, and of each the best hypotheses."""
        parents, beam = parents[stay], self.options.beam
        order = _at_home(parents)
        parents, tokens, scores = (x.gather(1, order) for x in (parents, tokens[stay], scores[stay]))
        rows = stay[:, None] * beam + parents                                    # (n, beam) rows of the old batch
        self.written = torch.cat([self.written.flatten(0, 1)[rows], tokens[:, :, None]], 2)
        if self.coverage is not None:
            self.coverage = self.coverage.flatten(0, 1)[rows]
        if len(stay) < len(self.places):
            self.memory = self.memory.select(stay)
        self.places, self.limits, self.scores = self.places[stay], self.limits[stay], scores
        if len(stay):
            self.cache.select(rows.flatten())


def _at_home(parents: Tensor) -> Tensor:
    """An order (n, beam) of hypotheses by which as many as can be stand in the row of their parent (n, beam)."""
    beam = parents.shape[1]
    younger = (parents[:, :, None] == parents[:, None, :]).tril(-1).any(2)       # an earlier one has the same parent
    home = parents.masked_fill(younger, beam)
    free = torch.ones(len(parents), beam + 1, dtype=torch.bool).scatter_(1, home, False)[:, :beam]
    # Of each source as many rows are free as there are younger hypotheses.
    home[younger] = torch.arange(beam).expand_as(parents)[free]
    return home.argsort(1)
