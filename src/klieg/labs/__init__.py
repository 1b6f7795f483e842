"""Experiments with one claim about attention each: what is said, what is measured, and what follows from the numbers.

A lab is a file with a `LAB`. It runs in seconds to a few minutes on two cores, always with the same seeds, and its
conclusion is written from the numbers that it found: where they do not bear the claim out, it says so.

    found = klieg.labs.find("scale").run()
    found.numbers["entropy at d 1024, without"]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module

from klieg.errors import KliegError, nearest
from klieg.views.chart import Chart, Words

NAMES = ("similarity", "softmax", "ages", "scale", "length", "positions", "embeddings", "context", "too", "experts")


@dataclass(frozen=True)
class Finding:
    """What a lab found: its charts, its conclusion, and the numbers that both are made of."""

    charts: tuple[Chart, ...]
    conclusion: Words
    numbers: Mapping[str, float]


@dataclass(frozen=True)
class Lab:
    """An experiment that can be run; `source` is where its claim comes from."""

    title: Words
    claim: Words
    source: str
    run: Callable[[], Finding] = field(repr=False)


def find(name: str) -> Lab:
    """A lab by its name; KliegError if there is none."""
    if name not in NAMES:
        raise KliegError(f"there is no lab {name!r}; the labs are {', '.join(NAMES)}.{nearest(name, list(NAMES))}")
    found: Lab = import_module(f"klieg.labs.{name}").LAB
    return found
