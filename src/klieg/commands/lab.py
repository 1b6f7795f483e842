"""The command `lab`: experiments with claims about attention, one by one or all on one page."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from klieg import shell
from klieg.errors import KliegError
from klieg.shell import Language

if TYPE_CHECKING:
    from klieg.labs import Finding, Lab

ALL = "all"


def lab(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="A lab, or all; without one the labs are listed.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="The claims, charts and conclusions as one "
                                             "HTML page.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Numbers; - for standard output.")] = None,
    lang: Language = None,
) -> None:
    """Try what is said of attention, in seconds to minutes."""
    from klieg.labs import NAMES, find
    from klieg.views.gallery import gallery
    from klieg.views.words import LANGUAGES

    language = shell.language(lang)
    files = shell.files(out=out, json=json_file)
    if name is None:
        if files:
            raise KliegError(f"--{next(iter(files))} is of labs that are run; name one, or all.")
        _listed(LANGUAGES.index(language))
        return
    chosen = {each: find(each) for each in (NAMES if name == ALL else [name])}
    found, began = [], time.perf_counter()
    for each, tried in chosen.items():
        started = time.perf_counter()
        found.append((each, tried, tried.run()))
        shell.console(error=True).print(shell.said(f"{each}: {time.perf_counter() - started:.1f} s"), soft_wrap=True)
    if name == ALL:
        shell.console(error=True).print(shell.said(f"together: {time.perf_counter() - began:.1f} s"), soft_wrap=True)
    if not files:
        for _, tried, finding in found:
            _shown(tried, finding, language)
        return
    bodies = {"out": lambda: gallery(found, language),
              "json": lambda: json.dumps({each: {**finding.numbers, **finding.measured} for each, _, finding in found},
                                         ensure_ascii=False, indent=1) + "\n"}
    shell.deliver({path: bodies[kind]().encode() for kind, path in files.items()})


def _listed(tongue: int) -> None:
    """Every lab with its claim."""
    from rich.table import Table

    from klieg.labs import NAMES, find

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name in NAMES:
        table.add_row(name, find(name).claim[tongue])
    shell.console().print(table)


def _shown(tried: Lab, found: Finding, language: str) -> None:
    from klieg.views.chart import table
    from klieg.views.words import LANGUAGES, say

    tongue, console = LANGUAGES.index(language), shell.console()
    console.print(tried.title[tongue], style="bold")
    console.print(say("lab claim", language, claim=tried.claim[tongue]), style="dim")
    for chart in found.charts:
        console.print(f"\n{chart.title[tongue]}  [{chart.unit[tongue]}]")
        console.print(table(chart, language))
    console.print(f"\n{found.conclusion[tongue]}\n")
