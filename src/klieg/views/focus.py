"""What a picture is about: a token, the head that is opened, and the head most certain of where it looks.

Certain means the largest weight that is neither on the first token, where idle heads park
their attention, nor on the token itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from klieg.errors import KliegError
from klieg.trace import Call, Trace


@dataclass(frozen=True)
class Peak:
    """One weight and where it is."""

    layer: int
    head: int
    key: int
    weight: float


@dataclass(frozen=True)
class Focus:
    """The chosen token, layer and head; where that head looks most, and the most certain head of all."""

    token: int
    layer: int
    head: int
    here: Peak
    peak: Peak


def focus(trace: Trace, layer: int | None = None, head: int | None = None, token: int | None = None) -> Focus:
    """What the user chose; the last token and the most certain head (of the chosen layer) where nothing was chosen."""
    token = chosen(trace, token)
    peaks = _peaks(trace, token)
    here = [p for p in peaks if layer is None or p.layer == layer]
    if not here:
        trace[layer]   # raises, and names the layers there are
    best = max((p for p in here if head is None or p.head == head), key=lambda p: p.weight, default=None)
    if best is None:
        raise KliegError(f"there is no head {head}; the heads are 0 to {trace.heads - 1}.")
    return Focus(token, best.layer, best.head, best, max(peaks, key=lambda p: p.weight))


def chosen(trace: Trace, token: int | None) -> int:
    """The token's index, the last one by default; checked."""
    last = len(trace.tokens) - 1
    if token is not None and not 0 <= token <= last:
        raise KliegError(f"there is no token {token}; the text has tokens 0 to {last}.")
    return last if token is None else token


def rows(trace: Trace, token: int) -> list[list[list[float | None]]]:
    """Where a token looks, by layer and head: a weight for each key, None where the mask hides it."""
    return [[row(call, head, token) for head in range(call.heads)] for call in trace.stack]


def row(call: Call, head: int, token: int) -> list[float | None]:
    """Where a token looks in one head: a weight for each key, None where the mask hides it."""
    seen = call.visible(head, slice(token, token + 1), slice(None))[0]
    return values(call.row(head, token).tolist(), seen.tolist())


def values(numbers: Sequence[float], seen: Sequence[bool]) -> list[float | None]:
    """The numbers, and None where nothing is seen."""
    return [n if s else None for n, s in zip(numbers, seen, strict=True)]


def _peaks(trace: Trace, token: int) -> list[Peak]:
    """The largest weight of every head; on other tokens than the first and itself, as long as there are any."""
    peaks = []
    for call, heads in zip(trace.stack, rows(trace, token), strict=True):
        for head, seen in enumerate(heads):
            weights = [-1.0 if w is None else w for w in seen]
            elsewhere = [j for j in range(1, len(seen)) if j != token and weights[j] >= 0]
            key = max(elsewhere or range(len(seen)), key=weights.__getitem__)
            peaks.append(Peak(call.layer, head, key, max(weights[key], 0.0)))
    return peaks
