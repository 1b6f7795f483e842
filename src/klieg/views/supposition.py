"""The sheet of what if: what is expected next before and after the changes, one head's map in both passes, and the heads by
what muting each of them does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from klieg.trace import Call, Trace
from klieg.views import difference
from klieg.views.figures import certificate, next_tokens, summary
from klieg.views.glyphs import crop, safe
from klieg.views.heatmap import heatmap, located
from klieg.views.palette import LIGHT, Theme
from klieg.views.picture import FAINT, INK, PAPER, Picture, Span
from klieg.views.sheet import Line, sheet, together
from klieg.views.translation import translated
from klieg.views.words import say


class WhatIf(difference.WhatIf, Protocol):
    """What was changed, and what it did; see klieg.whatif."""

    @property
    def after(self) -> Trace: ...

    def as_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True, eq=False)
class Supposition:
    """What a reader has supposed of a text so far: nothing at first, then changes, and a ranking where one was asked for."""

    trace: Trace
    """The unchanged pass."""
    found: WhatIf | None
    effects: Sequence[difference.HeadEffect] | None
    layer: int
    """Of the head whose map is shown."""
    head: int
    kind: str
    after: int | None = None
    """The token whose next one is asked for; None for the last."""


def page(of: Supposition, theme: Theme = LIGHT, *, scale: str = "linear", language: str = "en") -> Picture:
    """Everything that was found, on one sheet, sealed by the certificates of both passes."""
    trace, found = of.trace, of.found
    place = located(trace, of.layer, of.head, of.kind, language)
    head: list[Line] = [(Span(safe(trace.model), INK, bold=True), Span(f"   {safe(summary(trace, language))}", FAINT)),
                        (Span(crop(safe(" ".join(trace.text.split())), 120), INK, bold=True),)
                        if trace.source is None else translated(trace)]
    if found is not None and found.after.tokens != trace.tokens:
        head.append((Span(f"{say('change after', language)}  ", FAINT), *((Span(crop(safe(found.after.text), 120), INK),)
                     if found.after.source is None else translated(found.after))))
    predicted = ([difference.difference(found, theme, language=language)] if found is not None else
                 [next_tokens(trace, 8, of.after, theme, language=language)] if trace.predicts else [])
    ranked = [difference.ranking(of.effects, theme, room=620, language=language)] if of.effects else []
    maps = [_map(each, of, f"{place} · {say(key, language)}" if found is not None else place, scale, theme, language)
            for each, key in ((trace, "change before"), (None if found is None else found.after, "change after"))
            if each is not None and _kept(each[of.layer, of.kind])]
    rows = [together(row) for row in ([*predicted, *ranked], maps) if row]
    sealed = [(trace, "change before"), *([] if found is None else [(found.after, "change after")])]
    foot = [((Span(f"{say(key, language)}  ", INK),) if found is not None else ()) + certificate(each, language, PAPER)
            for each, key in sealed]
    made = "" if found is None else " · ".join(safe(str(change)) for change in found.made)
    return sheet(head, rows, foot, f"{safe(trace.model)}: {say('what if', language)} {made}".strip())


def numbers(of: Supposition) -> dict[str, Any]:
    """The same as plain data for other programs, as `klieg whatif --json` writes it, with the open head's weights in both
    passes; while nothing is changed what is likeliest next."""
    trace = of.trace
    said: dict[str, Any] = {"model": trace.model, "text": trace.text, "ids": trace.ids, "tokens": trace.tokens}
    if of.found is not None:
        said = of.found.as_json()
    elif trace.predicts:
        said["next"] = [{"token": c.token, "id": c.id, "p": c.p} for c in trace.next_tokens(8, of.after)]
    if of.effects is not None:
        said["ranking"] = [asdict(effect) for effect in of.effects]
    both = {"before": trace, **({} if of.found is None else {"after": of.found.after})}
    said["open"] = {"layer": of.layer, "head": of.head, "kind": of.kind,
                    **{name: each[of.layer, of.kind].weights(of.head).tolist() for name, each in both.items()
                       if _kept(each[of.layer, of.kind])}}
    return said


def _kept(call: Call) -> bool:
    return call.q is not None and call.k is not None


def _map(trace: Trace, of: Supposition, heading: str, scale: str, theme: Theme, language: str) -> Picture:
    return heatmap(trace, of.layer, of.head, "weights", scale, theme, kind=of.kind, heading=heading, language=language)
