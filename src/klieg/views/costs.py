"""What attention with its survey costs on this machine, line by line as it is measured."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from rich.console import Console
from rich.table import Table

from klieg.survey import SurveySpec
from klieg.views.words import say


class Case(Protocol):
    heads: int
    groups: int
    width: int
    length: int
    spec: SurveySpec | None
    plain: bool
    type: str


class Figure(Protocol):
    case: Case
    ratio: float
    seconds: float
    beside: float
    kernel: str


def costs(figures: Iterable[Figure], count: int, console: Console, language: str) -> None:
    """Print the table of `count` figures; in a terminal it says which of them is being measured."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("asked", "heads asked", "length asked", "time over", "seconds", "made by"):
        table.add_column(say(f"cost {name}", language), justify="left" if name in ("asked", "made by") else "right")
    with console.status(say("cost measuring", language, done=0, count=count)) as status:
        for done, figure in enumerate(figures, start=1):
            table.add_row(*_row(figure, language))
            status.update(say("cost measuring", language, done=done, count=count))
    console.print(table)
    console.print(say("cost meaning", language, type=figure.case.type), style="dim")


def _row(figure: Figure, language: str) -> tuple[str, ...]:
    case = figure.case
    asked = say("cost output", language) if case.spec is None else say("cost survey", language)
    if case.spec is not None and case.spec.top:
        asked += say("cost top", language, top=case.spec.top)
    heads = str(case.heads) if case.heads == case.groups else f"{case.heads}/{case.groups}"
    kernel = say("cost plain", language) if case.plain else figure.kernel
    return (asked, f"{heads} × {case.width}", f"{case.length:,}", f"{figure.ratio:.2f} ×",
            f"{_short(figure.seconds)} / {_short(figure.beside)}", kernel)


def _short(seconds: float) -> str:
    """Two places behind the point, or what a GPU takes in three digits."""
    return f"{seconds:.2f}" if seconds >= 0.1 else f"{seconds:.3g}"
