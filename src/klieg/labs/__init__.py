"""Experiments with one claim about attention each: what is said, what is measured, and what follows from the numbers.

A lab is a file with a `LAB`. It runs in seconds to a few minutes on two cores, always with the same seeds, and its
conclusion is written from the numbers that it found: where they do not bear the claim out, it says so. Numbers that the
clock or the memory gave stand apart, as they alone are not the same a second time.

    found = klieg.labs.find("scale").run()
    found.numbers["entropy at d 1024, without"]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module

import torch

from klieg.errors import KliegError, nearest
from klieg.views.chart import Chart, Words

NAMES = ("similarity", "softmax", "ages", "scale", "length", "positions", "groups", "cost", "recall", "experts", "context",
         "too", "embeddings")


@dataclass(frozen=True)
class Finding:
    """What a lab found: its charts, its conclusion, and the numbers that both are made of."""

    charts: tuple[Chart, ...]
    conclusion: Words
    numbers: Mapping[str, float]
    """The same in every run on one machine."""
    measured: Mapping[str, float] = field(default_factory=dict)
    """What the clock and the memory of this machine said in this run."""


@dataclass(frozen=True)
class Table:
    """Keys, and the number that each of them gives: small enough for a reader to ask by hand with a query of their own."""

    names: tuple[Words, ...]
    keys: tuple[tuple[float, ...], ...]
    values: tuple[float, ...]
    query: tuple[float, ...]
    """The one to begin with."""


@dataclass(frozen=True)
class Lab:
    """An experiment that can be run; `source` is where its claim comes from."""

    title: Words
    claim: Words
    source: str
    run: Callable[[], Finding] = field(repr=False)
    table: Table | None = None
    """What the experiment asks, where a reader can play with it."""


def find(name: str) -> Lab:
    """A lab by its name; KliegError if there is none."""
    if name not in NAMES:
        raise KliegError(f"there is no lab {name!r}; klieg lab without a name lists them.{nearest(name, list(NAMES))}")
    found: Lab = import_module(f"klieg.labs.{name}").LAB
    return found


@contextmanager
def repeatable(seed: int) -> Iterator[None]:
    """Inside, torch draws and sums the same every time, on one thread; whatever was set outside is as it was afterwards."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
