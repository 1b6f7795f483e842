"""What a model loses without each head: all heads in one picture, and in a terminal those that are missed most and least."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from rich.table import Table

from klieg.views.atlas import grid, word
from klieg.views.heads import Row
from klieg.views.palette import LIGHT, Theme
from klieg.views.picture import Picture

LISTED = 10     # effects at either end


class Effect(Protocol):
    """What muting one head, group or layer does to the loss."""

    of: str
    layer: int
    head: int
    change: float
    low: float
    high: float
    texts: int
    tokens: int
    whole: bool


def ablation(model: str, of: str, rows: Sequence[Row], changes: list[list[float]], theme: Theme = LIGHT, *,
             whole: bool = True, language: str = "en") -> Picture:
    """Layers x heads (or K/V groups, or one column of layers), coloured by how much worse the loss is without each."""
    return grid(model, f"mute {of}", "mnats", rows, [[1000 * change for change in line] for line in changes], theme,
                whole=whole, language=language)


def effects(found: Sequence[Effect], language: str) -> Table:
    """The effects at both ends of a sorted list, a line each; what lies between is left out, and that is said."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in (found[0].of, "change", "interval"):
        table.add_column(word(name, language), justify="left" if name == found[0].of else "right")
    for n, effect in enumerate(found):
        if LISTED <= n < len(found) - LISTED:
            if n == LISTED:
                table.add_row("…", "", word("between", language, count=len(found) - 2 * LISTED))
            continue
        name = f"{effect.layer}" if effect.of == "layers" else f"{effect.layer}.{'g' * (effect.of == 'groups')}{effect.head}"
        table.add_row(name, f"{effect.change:+.4f}",
                      "—" if math.isnan(effect.low) else f"{effect.low:+.4f} … {effect.high:+.4f}")
    return table
