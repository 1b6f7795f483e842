"""What was found of changed passes and of heads, kept as long as the traces that it is about, so that it is saved as it was
shown and not computed again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary, ref

from klieg.changes import Change
from klieg.trace import Trace
from klieg.whatif import HeadEffect, Shift, WhatIf


@dataclass(frozen=True, eq=False)
class _Found:
    """A WhatIf without its second pass, under which it is kept: it would keep itself for ever."""

    made: tuple[Change, ...]
    before: Trace
    token: int
    changes: list[Shift]
    divergence: float
    ranked: ref[Trace]
    """The open trace that the change was asked for, under which its heads are ranked."""
    after: int | None


class Findings:
    """Of every changed pass what it did, and of every text the ranking of its heads, by the token whose next one is asked."""

    def __init__(self) -> None:
        self._found: WeakKeyDictionary[Trace, _Found] = WeakKeyDictionary()
        self._ranked: WeakKeyDictionary[Trace, dict[int | None, list[HeadEffect]]] = WeakKeyDictionary()

    def keep(self, found: WhatIf, before: Trace, open: Trace, after: int | None) -> None:
        """What a change did; `before` is the unchanged pass as it lies on the desk."""
        self._found[found.after] = _Found(found.made, before, found.token, found.changes, found.divergence, ref(open), after)

    def rank(self, open: Trace, after: int | None, effects: list[HeadEffect]) -> None:
        """All heads of a text."""
        self._ranked.setdefault(open, {})[after] = effects

    def of(self, trace: Trace, after: int | None) -> tuple[Trace, WhatIf | None, Sequence[HeadEffect] | None]:
        """The unchanged pass, what was found of a changed one, and the ranking; of a text that is as it was only the ranking
        `after` a token."""
        known = self._found.get(trace)
        if known is None:
            return trace, None, self._ranked.get(trace, {}).get(after)
        open = known.ranked()
        effects = None if open is None else self._ranked.get(open, {}).get(known.after)
        return known.before, WhatIf(known.made, known.before, trace, known.token, known.changes, known.divergence), effects
