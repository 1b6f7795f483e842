"""What a picture is about: a kind of attention, a token, the head that is opened, and the head most certain of where it looks.

Certain means the largest weight that is neither where idle heads park their attention (the first
token in a decoder, the end mark of a translator's source) nor on the token itself.
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
    """The chosen kind, token, layer and head; where that head looks most, and the most certain head of all."""

    kind: str
    token: int
    layer: int
    head: int
    here: Peak
    peak: Peak


def focus(trace: Trace, layer: int | None = None, head: int | None = None, token: int | None = None,
          kind: str | None = None) -> Focus:
    """What the user chose; the last token and the most certain head (of the chosen layer) where nothing was chosen."""
    token, kind = chosen(trace, token, kind), kind or trace.kind
    peaks = _peaks(trace, token, kind)
    here = [p for p in peaks if layer is None or p.layer == layer]
    if not here:
        trace[layer, kind]   # raises, and names the layers there are
    best = max((p for p in here if head is None or p.head == head), key=lambda p: p.weight, default=None)
    if best is None:
        raise KliegError(f"there is no head {head}; the heads are 0 to {trace.of(kind)[0].heads - 1}.")
    return Focus(kind, token, best.layer, best.head, best, max(peaks, key=lambda p: p.weight))


def chosen(trace: Trace, token: int | None, kind: str | None = None) -> int:
    """The index of a query of one kind of attention, the last one by default; checked."""
    call = trace.of(kind)[0]
    last = call.queries - 1
    if token is not None and not 0 <= token <= last:
        whose = "text" if trace.source is None else "source" if call.kind == "encoder" else "target"
        raise KliegError(f"there is no token {token}; the {whose} has tokens 0 to {last}.")
    return last if token is None else token


def labels(trace: Trace, call: Call) -> tuple[list[str], list[str]]:
    """A label for every query and every key of a call: its number, where the trace does not have the text."""
    queries, keys = trace.axes(call)
    return queries or [str(n) for n in range(call.queries)], keys or [str(n) for n in range(call.keys)]


def rows(trace: Trace, token: int, kind: str | None = None) -> list[list[list[float | None]]]:
    """Where a token looks, by layer and head: a weight for each key, None where the mask hides it."""
    return [[row(call, head, token) for head in range(call.heads)] for call in trace.of(kind)]


def row(call: Call, head: int, token: int) -> list[float | None]:
    """Where a token looks in one head: a weight for each key, None where the mask hides it."""
    seen = call.visible(head, slice(token, token + 1), slice(None))[0]
    return values(call.row(head, token).tolist(), seen.tolist())


def values(numbers: Sequence[float], seen: Sequence[bool]) -> list[float | None]:
    """The numbers, and None where nothing is seen."""
    return [n if s else None for n, s in zip(numbers, seen, strict=True)]


def _peaks(trace: Trace, token: int, kind: str) -> list[Peak]:
    """The largest weight of every head; on other tokens than an idle head's and itself, as long as there are any."""
    peaks = []
    for call, heads in zip(trace.of(kind), rows(trace, token, kind), strict=True):
        aside = {0 if kind == "self" else call.keys - 1} | ({token} if kind != "cross" else set())
        for head, seen in enumerate(heads):
            weights = [-1.0 if w is None else w for w in seen]
            elsewhere = [j for j in range(len(seen)) if j not in aside and weights[j] >= 0]
            key = max(elsewhere or range(len(seen)), key=weights.__getitem__)
            peaks.append(Peak(call.layer, head, key, max(weights[key], 0.0)))
    return peaks
