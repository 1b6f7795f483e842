"""What a head does in one text, as shares of its attention: on the token before, on the same token earlier, and so on.

A behaviour is a set of links: which keys a query would look at if the head did this and nothing else. Its score is
the weight on these keys, a mean over the queries that may see any, so a head built to do it scores 1 and one that never
does scores 0. Exact rows of the map are walked over once for all behaviours, a few at a time; the map of N x N is never
held.

Beside each score stands what a head would score without the behaviour. For links by position that is a head that looks
at all keys alike. For links by content it is the same head over links of the same distances anywhere in the text: a
head that looks at a fixed distance, or at its neighbourhood, has that much on any link, and no more. Both are exact
means and not drawn; only `positional` draws, from the generator that it is given.

    found = measure(trace.calls[5], Text(torch.tensor(trace.ids)), torch.Generator())
    found["induction"].weight, found["induction"].chance      # (h,), (h,)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from klieg.attention import Mask
from klieg.errors import KliegError, nearest
from klieg.survey import Survey, SurveySpec
from klieg.trace import Call

BAND = 64           # distances that `positional` tells apart
CELLS = 2**22       # weights that are held at once
ROWS = SurveySpec(top=0, map=0, bins=1)


@dataclass(frozen=True, eq=False)
class Text:
    """The ids of a text: (n,), int64; and which of them are punctuation or separators: (n,), bool, or None if unknown."""

    ids: Tensor
    marks: Tensor | None = None
    needle: Tensor | None = None
    """(n,), int64: where the token that comes next stands in a needle, and -1 at all other tokens; None without a needle."""

    def __len__(self) -> int:
        return len(self.ids)


# Which keys (r, n) the behaviour of a query looks at, for some rows (r,) of a text.
_Links = Callable[[Text, Tensor], Tensor]


def _beside(offset: int) -> _Links:
    return lambda text, rows: torch.arange(len(text)) == rows[:, None] + offset


def _earlier(text: Text, rows: Tensor) -> Tensor:
    return torch.arange(len(text)) < rows[:, None]


def _first(text: Text, rows: Tensor) -> Tensor:
    return _earlier(text, rows) & (torch.arange(len(text)) == 0)


def _duplicate(text: Text, rows: Tensor) -> Tensor:
    return _earlier(text, rows) & (text.ids == text.ids[rows, None])


def _induction(text: Text, rows: Tensor) -> Tensor:
    return _earlier(text, rows) & (text.ids.roll(1) == text.ids[rows, None]) & (torch.arange(len(text)) > 0)


def _copy(text: Text, rows: Tensor) -> Tensor:
    return _earlier(text, rows) & (text.ids == text.ids.roll(-1)[rows, None]) & (rows[:, None] < len(text) - 1)


def _marks(text: Text, rows: Tensor) -> Tensor:
    found = torch.zeros(len(text), dtype=torch.bool) if text.marks is None else text.marks
    return _earlier(text, rows) & found & (torch.arange(len(text)) > 0)


def _needle(text: Text, rows: Tensor) -> Tensor:
    hidden = rows.new_full((len(text),), -1) if text.needle is None else text.needle
    return torch.arange(len(text)) == hidden[rows, None]


@dataclass(frozen=True)
class Behaviour:
    """One thing that a head may do."""

    name: str
    says: str
    source: str
    links: _Links = field(repr=False)
    content: bool = False
    """Whether its links depend on which tokens stand there, and not on the places alone."""


BEHAVIOURS = {b.name: b for b in (
    Behaviour("previous", "the weight on the token before", "Elhage et al. 2021", _beside(-1)),
    Behaviour("next", "the weight on the token after; encoders only", "Clark et al. 2019, section 3.1", _beside(1)),
    Behaviour("own", "the weight on the token itself", "Clark et al. 2019, section 3.1", _beside(0)),
    Behaviour("first", "the weight on the first token, from all others", "Xiao et al. 2023, attention sinks", _first),
    Behaviour("duplicate", "the weight on earlier tokens that are the same", "Wang et al. 2022, duplicate token heads",
              _duplicate, content=True),
    Behaviour("induction", "the weight on tokens that came after earlier tokens that are the same",
              "Olsson et al. 2022, prefix matching", _induction, content=True),
    Behaviour("copy", "the weight on earlier tokens that are the same as the one that comes next",
              "McDougall et al. 2023, copying", _copy, content=True),
    Behaviour("marks", "the weight on earlier punctuation and separators but the first token",
              "Clark et al. 2019, section 3.2", _marks, content=True),
    Behaviour("retrieval", "the weight on the token of a needle that is to be copied next; with --probe needle only",
              "Wu et al. 2024, retrieval heads", _needle, content=True),
)}

# Every score with its unit: the behaviours, and what else is measured of a head.
UNITS = {**dict.fromkeys([*BEHAVIOURS, "positional"], "share"), "entropy": "nats", "distance": "tokens", "sharpest": "share"}


@dataclass(frozen=True, eq=False)
class Score:
    """Of one text: what every head does, and what it would by chance; (h,), float64, NaN for a head that may do neither."""

    weight: Tensor
    chance: Tensor


def measure(call: Call, text: Text, generator: torch.Generator, names: Sequence[str] | None = None,
            batch: int = 0) -> dict[str, Score]:
    """The scores of every head of one call; see Meter, which is quicker for many layers."""
    return Meter(text, generator, names).read(call, batch)


class Meter:
    """Measures the heads of a text, layer by layer; what follows from the text and a mask alone is worked out once.

    `names` are of UNITS, by default all. A behaviour that no query of the text has a link of, or may see one of, is left
    out. A key that no query sees is padding, and counts neither as a key nor as a query.

    `positional` is the share of the variance of the weights that their distance alone explains, over the BAND nearest
    distances (half the text where it is shorter) and the rows that reach so far; its chance is the same after the
    weights of every row were shuffled within it, alike for all heads. `entropy` (nats), `distance` (tokens) and
    `sharpest`, the largest weight, are means over the rows; their chance is a head that looks at all keys alike.
    """

    def __init__(self, text: Text, generator: torch.Generator, names: Sequence[str] | None = None) -> None:
        unknown = [name for name in names or () if name not in UNITS]
        if unknown:
            raise KliegError(f"there is no score {unknown[0]!r}.{nearest(unknown[0], list(UNITS))}")
        self._text, self._generator, self._names = text, generator, list(UNITS) if names is None else list(names)
        self._plans: list[tuple[Mask, int, _Plan]] = []

    @torch.no_grad()
    def read(self, call: Call, batch: int = 0) -> dict[str, Score]:
        """The scores of every head of a call in one text of its batch, by name."""
        if call.queries != call.keys or len(self._text) != call.keys:
            raise KliegError(f"behaviours are of a text that looks at itself; layer {call.layer} ({call.kind}) has "
                             f"{call.queries} queries and {call.keys} keys, and the text {len(self._text)} tokens.")
        call.need("q", "k")
        plan = self._plan(call.mask, batch)
        sums, band, squares = (torch.zeros(call.heads, *size, dtype=torch.float64) for size in
                               ((plan.columns,), (2, plan.width), (1,)))
        for block in plan.blocks(max(CELLS // (call.heads * call.keys), 1)):
            weights = call.every(block.rows)[batch].flatten(1)                              # (h, r n)
            mixed = weights @ block.mix[0].T if len(block.mix) == 1 else (weights[:, None] @ block.mix.mT)[:, 0]
            sums += mixed.double()
            if block.near is not None:
                near = weights.gather(1, block.near.expand(call.heads, -1)).view(call.heads, 2, -1, plan.width)
                band += near.sum(2).double()
                squares += near[:, 0].square().sum((1, 2), dtype=torch.float64)[:, None]
        found = {**plan.behaviours(sums), **plan.positional(band, squares), **self._rows(call, plan, batch)}
        return {name: found[name] for name in self._names if name in found and bool(found[name].weight.isfinite().any())}

    def _plan(self, mask: Mask, batch: int) -> _Plan:
        for known, text, plan in self._plans:
            if known is mask and text == batch:
                return plan
        chosen = [behaviour for name, behaviour in BEHAVIOURS.items() if name in self._names]
        plan = _Plan(self._text, mask, chosen, batch, self._generator)
        self._plans.append((mask, batch, plan))
        return plan

    def _rows(self, call: Call, plan: _Plan, batch: int) -> dict[str, Score]:
        """What the survey says of whole rows; it is made here where the call has none."""
        if not {"entropy", "distance", "sharpest"} & set(self._names):
            return {}
        survey = call.surveyed(ROWS).survey
        assert isinstance(survey, Survey)
        live = ((survey.lse > -torch.inf) & (survey.mass > 0))[batch] & plan.real
        count, even = live.sum(-1).double(), plan.even.expand(-1, call.heads)
        every = {"entropy": survey.entropy, "distance": survey.distance_mean, "sharpest": torch.exp(survey.max - survey.lse)}
        return {name: Score(x[batch].double().where(live, 0.0).sum(-1) / count.where(count > 0, torch.nan), even[n])
                for n, (name, x) in enumerate(every.items())}


@dataclass(frozen=True, eq=False)
class _Block:
    """Some rows (r,) of a map: `mix` (m, columns, r n) are the factors of every weight in every sum, and `near`
    (m, 2 x width) the places of the near weights, as they are and shuffled; m is 1, or the heads where masks differ."""

    rows: slice
    mix: Tensor
    near: Tensor | None


class _Plan:
    """All that follows from a text and a mask: the sums that are to be made of a map, and what they are divided by."""

    def __init__(self, text: Text, mask: Mask, chosen: list[Behaviour], batch: int, generator: torch.Generator) -> None:
        self._mask, self._batch, self._chosen, self._count = mask, batch, chosen, len(text)
        self._seed = int(torch.randint(2**62, (1,), generator=generator))
        self.real, ahead = self._outline()
        # Padding is like no other token.
        self._text = text if self.real.all() else replace(text, ids=text.ids.where(self.real, -1 - torch.arange(len(text))))
        self._content = [place for place, behaviour in enumerate(chosen) if behaviour.content]
        self.columns = len(chosen) + len(self._content)
        self.width = min(BAND, int(self.real.sum()) // 2)
        before = (self.width - 1) // 2 if ahead else 0
        self._offsets = torch.arange(-before, self.width - before)          # how far a key is before its query
        self._tally()
        self._blocks: list[_Block] = []

    def _seen(self, rows: Tensor) -> Tensor:
        """Which pairs the mask leaves: (m, r, n), bool."""
        seen = self._mask.visible(rows, torch.arange(self._count))
        return seen[self._batch % len(seen)]

    def _pairs(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Which pairs count (m, r, n), and which of them are links (m, B, r, n); both bool."""
        seen = self._seen(rows) & self.real[rows, None]
        links = [behaviour.links(self._text, rows) for behaviour in self._chosen]
        return seen, torch.stack(links) & seen[:, None] if links else seen.new_zeros(len(seen), 0, *seen.shape[1:])

    def _parts(self) -> tuple[Tensor, ...]:
        return torch.arange(self._count).split(max(CELLS // (16 * self._count), 1))

    def _outline(self) -> tuple[Tensor, bool]:
        """Which tokens (n,) are seen by any query, and whether any query sees a later one."""
        real, ahead = torch.zeros(self._count, dtype=torch.bool), False
        for rows in self._parts():
            seen = self._seen(rows).any(0)
            real |= seen.any(0)
            ahead = ahead or bool(seen.triu(1 + int(rows[0])).any())
        return real, ahead

    def _tally(self) -> None:
        """Queries with links (m, B); what a head that looks at all keys alike has; by distance, links over pairs."""
        n, m = self._count, len(self._seen(torch.arange(1)))
        wide = {"dtype": torch.float64}
        queries, alike = torch.zeros(m, len(self._chosen), **wide), torch.zeros(m, len(self._chosen), **wide)
        pairs, linked = torch.zeros(m, 2 * n - 1, **wide), torch.zeros(m, len(self._content), 2 * n - 1, **wide)
        even, live, near = torch.zeros(3, m, **wide), torch.zeros(m, **wide), torch.zeros(m, self.width, **wide)
        for rows in self._parts():
            seen, links = self._pairs(rows)
            per_row, per_query = seen.sum(-1).clamp(min=1).double(), links.sum(-1)
            queries += (per_query > 0).sum(-1)
            alike += (per_query / per_row[:, None]).sum(-1)
            there, away = seen.any(-1), (rows[:, None] - torch.arange(n)).abs()
            live += there.sum(-1)
            even += torch.stack([per_row.log(), (seen * away).sum(-1) / per_row, there / per_row]).sum(-1)
            places = slice(int(rows[0]), int(rows[-1]) + n)
            pairs[:, places] += by_distance(seen.float())
            near += self._near_seen(rows, seen)[1].sum(1)
            linked[:, :, places] += by_distance(links[:, self._content].flatten(0, 1).float()).view(m, len(self._content),
                                                                                                    n + len(rows) - 1)
        self._queries = queries.where(queries > 0, torch.nan)
        self._alike, self.even = alike / self._queries, even / live.where(live > 0, torch.nan)
        self._near_count = near
        self._usual = (linked / pairs.clamp(min=1)[:, None]).float()

    def blocks(self, most: int) -> Iterator[_Block]:
        """The rows in blocks of at most so many; those of a text of usual length are kept for the next layer."""
        if not self._blocks:
            generator = torch.Generator().manual_seed(self._seed)
            made = (self._block(rows, generator) for rows in torch.arange(self._count).split(most))
            if self._count ** 2 * self.columns > 4 * CELLS:
                yield from made
                return
            self._blocks = list(made)
        yield from self._blocks

    def _block(self, rows: Tensor, generator: torch.Generator) -> _Block:
        seen, links = self._pairs(rows)
        distances = (rows[:, None] - torch.arange(self._count)) + self._count - 1
        # A weight counts in a chance as often as links are as far apart as it is, over all pairs that are.
        usual = self._usual[:, :, distances.flatten()] * self.real[rows].repeat_interleave(self._count)
        mix = torch.cat([links.flatten(2).float(), usual], 1)
        return _Block(slice(int(rows[0]), int(rows[-1]) + 1), mix, self._near(rows, seen, generator))

    def _near_seen(self, rows: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Of the rows whose nearest keys are all in the text and no padding: places (x, width) among (r, n), and whether they
        are seen."""
        keys = rows[:, None] - self._offsets
        inside = ((keys >= 0) & (keys < self._count) & self.real[keys.clamp(0, self._count - 1)]).all(1)
        seen = seen[:, inside].gather(2, keys[inside].expand(len(seen), -1, -1))
        return (keys + torch.arange(len(rows))[:, None] * self._count)[inside], seen

    def _near(self, rows: Tensor, seen: Tensor, generator: torch.Generator) -> Tensor | None:
        """Where near weights are among those of a block, and where they are after a shuffle: (m, 2 x width)."""
        places, seen = self._near_seen(rows, seen)
        if not seen.numel():
            return None
        # The cells that may be seen change places among themselves, row by row.
        drawn = torch.rand(seen.shape, generator=generator).masked_fill(~seen, 2).argsort(-1)
        source = torch.empty_like(drawn).scatter_(-1, (~seen).to(torch.uint8).argsort(dim=-1, stable=True), drawn)
        places = places.expand(seen.shape)
        return torch.stack([places, places.gather(2, source)], 1).flatten(1)

    def behaviours(self, sums: Tensor) -> dict[str, Score]:
        """The scores of behaviours from the sums (h, columns) of all blocks."""
        found, heads = {}, len(sums)
        for place, behaviour in enumerate(self._chosen):
            queries, chance = self._queries[:, place].expand(heads), self._alike[:, place].expand(heads)
            if behaviour.content:
                chance = sums[:, len(self._chosen) + self._content.index(place)] / queries
            found[behaviour.name] = Score(sums[:, place] / queries, chance)
        return found

    def positional(self, sums: Tensor, squares: Tensor) -> dict[str, Score]:
        """From sums (h, 2, width) over the rows of all blocks, and the squares (h, 1)."""
        if not self.width:
            return {}
        level = sums.sum(-1).square() / self._near_count.sum(-1, keepdim=True)                  # (h, 2)
        between = (sums.square() / self._near_count.clamp(min=1)[:, None]).sum(-1) - level
        total = squares - level
        # Weights that are all alike have nothing to explain, and what is left of their variance is rounding.
        share = (between / total).where(total > 1e-9 * squares, 0.0).clamp(0, 1)
        return {"positional": Score(share[:, 0], share[:, 1])}


def by_distance(block: Tensor) -> Tensor:
    """The sums along the diagonals of (x, r, n), whose place is query - key: (x, n + r - 1), the least place first."""
    x, r, n = block.shape
    # Rows that are n + r cells long and read as if they were one longer move by one place each.
    room = block.new_zeros(x, r * (n + r + 1))
    room.as_strided((x, r, n), (r * (n + r + 1), n + r, 1), r).copy_(block)
    return room.view(x, r, n + r + 1).sum(1)[:, 1:n + r].flip(1)


def repeated(vocabulary: int, length: int, generator: torch.Generator) -> Tensor:
    """Random tokens in which every stretch comes twice: (length,), int64, for induction, previous and duplicate.

    Stretches differ in length (4 to a quarter of the text), so no fixed distance leads from a token to its like. While
    the vocabulary lasts no token comes in two stretches. Source: Olsson et al. 2022, repeated random tokens.
    """
    if vocabulary < 1 or length < 8:
        raise KliegError(f"repeated tokens were asked for with a vocabulary of {vocabulary} and a length of {length}; expected "
                         "at least 1 and 8.")
    fresh = torch.randperm(vocabulary, generator=generator)
    if vocabulary < length:
        fresh = torch.randint(vocabulary, (length,), generator=generator)
    parts, used, made = [], 0, 0
    while made < length:
        size = int(torch.randint(4, max(length // 4, 4) + 1, (1,), generator=generator))
        parts += [fresh[used:used + size]] * 2
        used, made = used + size, made + 2 * size
    return torch.cat(parts)[:length]
