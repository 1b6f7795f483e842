"""The colours: one warm ramp for weights, four hues for the roles, ink and paper for all else.

Ramps are monotone in lightness and never used for anything but their own quantity. A Paint
names a colour (a role, or a place on a ramp); a Theme knows what it looks like.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Paint:
    """A colour by meaning: the name of a Theme's role, or a ramp and a place on it from 0 to 1."""

    name: str
    at: float | None = None
    strength: float = 1.0
    """Below 1 the colour is mixed with the panel under it."""


@dataclass(frozen=True)
class Theme:
    """What every Paint looks like, as #rrggbb; the three ramps are stops from low to high."""

    name: str
    page: str
    panel: str
    sunk: str
    line: str
    strong: str
    ink: str
    ink2: str
    ink3: str
    query: str
    key: str
    value: str
    output: str
    amber: str
    """A weight written as text."""
    weight: tuple[str, ...]
    signed: tuple[str, ...]
    statistic: tuple[str, ...]

    def colour(self, paint: Paint) -> str:
        """The #rrggbb of a paint."""
        found = getattr(self, paint.name)
        colour = found if paint.at is None else interpolate(found, paint.at)
        return colour if paint.strength == 1 else interpolate((self.panel, colour), paint.strength)

    def on(self, colour: str) -> str:
        """The ink that is easier to read on a colour: the dark or the light one."""
        return max(("#050506", "#ffffff"), key=lambda ink: contrast(ink, colour))


LIGHT = Theme(
    name="light", page="#fbfaf7", panel="#ffffff", sunk="#f4f2ec", line="#e4e1d8", strong="#d3cfc3",
    ink="#16181d", ink2="#4a4f5a", ink3="#6a7080",
    query="#1a45b0", key="#b0132f", value="#007d63", output="#a336da", amber="#a95103",
    weight=("#fdfbf6", "#f9e9c1", "#f7d086", "#f4b046", "#e88b00", "#cd6b00", "#a95103", "#803a12", "#542613"),
    signed=("#5b6b80", "#ffffff", "#e88b00"),
    statistic=("#daf6ef", "#83bfbc", "#4b838a", "#2d4b56", "#1b2228"))
DARK = Theme(
    name="dark", page="#0f1115", panel="#15181e", sunk="#1b1f26", line="#262b33", strong="#363c47",
    ink="#f1efe9", ink2="#b9bcc4", ink3="#8b909c",
    query="#5a9aff", key="#ff6b76", value="#45e3aa", output="#d2b0ff", amber="#f2bd4d",
    weight=("#191a1d", "#3a261a", "#66381d", "#904e1d", "#b96c18", "#dd921e", "#f2bd4d", "#f8e092", "#fef8d9"),
    signed=("#5b6b80", "#191a1d", "#e88b00"),
    statistic=("#1b2228", "#2d4b56", "#4b838a", "#83bfbc", "#daf6ef"))
THEMES = {theme.name: theme for theme in (LIGHT, DARK)}


def channels(colour: str) -> tuple[int, int, int]:
    """#rrggbb -> red, green, blue, 0 to 255."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def interpolate(stops: Sequence[str], at: float) -> str:
    """The colour at a place from 0 to 1 on evenly spaced stops, straight in sRGB between two; clamped outside."""
    place = min(max(at, 0.0), 1.0) * (len(stops) - 1)
    left = min(int(place), len(stops) - 2)
    part = place - left
    mixed = [round(a + (b - a) * part) for a, b in zip(channels(stops[left]), channels(stops[left + 1]), strict=True)]
    return "#{:02x}{:02x}{:02x}".format(*mixed)


def luminance(colour: str) -> float:
    """Relative luminance by WCAG 2, 0 (black) to 1 (white)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in channels(colour))]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Contrast ratio by WCAG 2, 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
