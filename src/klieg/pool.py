"""Any region of a head's map in a few buckets: the mean and the largest weight of each, exact at every zoom.

The survey of a call holds one pooled map of the whole. A region that begins and ends on its
bounds, in no more buckets than it has there, is united from them: the mean of a union is the
mean of the parts weighted by their cells, its maximum the largest of theirs, and q and k are
not touched. Everything else is computed anew from q and k, tile by tile. Nothing is ever
interpolated, so a single large weight is in the maximum of its bucket at any zoom.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from klieg.errors import KliegError
from klieg.kernels import Pooled, pooled
from klieg.kernels.surveys import tile as weights_of
from klieg.survey import edges
from klieg.tiles import mask_of

if TYPE_CHECKING:
    from klieg.trace import Call


def pool(call: Call, head: int, rows: tuple[int, int], keys: tuple[int, int], size: int | tuple[int, int],
         batch: int = 0) -> Pooled:
    """The region of one head in min(size, rows) x min(size, keys) buckets; mean and max are (R, C). A pair of sizes is
    that of the rows and that of the keys.

    The bounds of the buckets, row_edges and key_edges, are as equal as they may be: in whole tokens
    where the region is computed anew, in buckets of the survey's map where it is united from them.
    """
    for name, (start, stop), count in (("rows", rows, call.queries), ("keys", keys, call.keys)):
        if not 0 <= start < stop <= count:
            raise KliegError(f"there are no {name} {start}:{stop}; layer {call.layer} has {name} 0:{count}.")
    sizes = size if isinstance(size, tuple) else (size, size)
    if min(sizes) < 1:
        raise KliegError(f"a map of {size} x {size} buckets shows nothing; give a size of at least 1.")
    down, across = (_stored(call, axis, *span, sizes[axis]) for axis, span in enumerate((rows, keys)))
    if down and across:
        mean, largest = call.survey.map_mean[batch, head], call.survey.map_max[batch, head]
        return Pooled(*_united(call, mean, largest, down, across), down, across)
    if call.q is None or call.k is None:
        counts = [_count(call, axis, *span) for axis, span in enumerate((rows, keys))]
        call.need("q", "k", instead=f", or ask for at most {min(counts)} buckets of this region" if min(counts) else "")
    found = pooled(**_region(call, head, slice(*rows), slice(*keys), batch), size=size)
    return Pooled(found.mean[0, 0], found.max[0, 0], found.row_edges, found.key_edges)


def tile(call: Call, head: int, rows: slice, keys: slice, batch: int = 0) -> Tensor:
    """The exact weights (i, j) of a region of one head, by the kernel that is quickest where its numbers are."""
    call.need("q", "k")
    return weights_of(**_region(call, head, rows, keys, batch))[0, 0]


def _region(call: Call, head: int, rows: slice, keys: slice, batch: int) -> dict[str, object]:
    """A region of one head as the kernels take it. What was kept elsewhere comes to where the model ran."""
    text, one, group = slice(batch, batch + 1), slice(head, head + 1), call.group(head)
    bias = None if call.bias is None else call.bias.expand(*call.lse.shape, call.keys)[text, one, rows, keys]
    q, k = (x.to(call.lse.device) for x in (call.q[text, one, rows], call.k[text, group:group + 1, keys]))
    return {"q": q, "k": k, "lse": call.lse[text, one, rows], "mask": mask_of(call.mask, text, one), "rows": rows, "keys": keys,
            "shape": (call.queries, call.keys), "scale": call.scale, "softcap": call.softcap, "bias": bias}


def _bounds(call: Call, axis: int) -> list[int]:
    """The bounds of the buckets of the survey's map along the rows (0) or the keys (1); none if it has no map."""
    if call.survey is None or call.survey.map_mean is None:
        return []
    return edges((call.queries, call.keys)[axis], call.survey.map_mean.shape[2 + axis])


def _count(call: Call, axis: int, start: int, stop: int) -> int:
    """The buckets of the survey's map from start to stop; 0 if they do not begin or end there."""
    bounds = _bounds(call, axis)
    return bounds.index(stop) - bounds.index(start) if start in bounds and stop in bounds else 0


def _stored(call: Call, axis: int, start: int, stop: int, size: int) -> list[int] | None:
    """Bounds of at most `size` buckets that the survey's map can be united to; None if it cannot."""
    count = _count(call, axis, start, stop)
    if count < min(size, stop - start):
        return None
    bounds = _bounds(call, axis)
    return [bounds[bounds.index(start) + n] for n in edges(count, size)]


def _united(call: Call, mean: Tensor, largest: Tensor, down: list[int], across: list[int]) -> tuple[Tensor, Tensor]:
    """Mean and max of buckets between these bounds, each a union of buckets of the stored map."""
    total = mean.double()
    for axis, bounds in enumerate((down, across)):
        stored = _bounds(call, axis)
        wide = torch.tensor(stored, device=mean.device).diff()
        places = [stored.index(n) for n in bounds]
        parts = [slice(a, b) for a, b in zip(places, places[1:], strict=False)]
        sized = total * (wide[:, None] if axis == 0 else wide)
        pick = (lambda x, part: x[part]) if axis == 0 else (lambda x, part: x[:, part])
        total = torch.stack([pick(sized, p).sum(axis) / wide[p].sum() for p in parts], dim=axis)
        largest = torch.stack([pick(largest, p).amax(axis) for p in parts], dim=axis)
    return total.to(mean.dtype), largest
