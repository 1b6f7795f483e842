"""The command that opens the Explorer: on models, and on traces that were saved before."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from klieg import shell
from klieg.shell import Language

if TYPE_CHECKING:
    from klieg.trace import Trace


def serve(
    traces: Annotated[list[Path] | None, typer.Argument(metavar="TRACE", help="Saved traces; the first is shown.")] = None,
    model: Annotated[list[str] | None, typer.Option("--model", "-m", help="A model to offer; may be repeated.")] = None,
    port: Annotated[int, typer.Option(help="Of the page on this machine.")] = 8137,
    host: Annotated[str, typer.Option(help="Another address of this machine, for others; 0.0.0.0 is all.")] = "127.0.0.1",
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")] = True,
    lang: Language = None,
) -> None:
    """Open the Explorer in the browser, on models and traces."""
    from klieg import models
    from klieg.explorer.desk import Desk
    from klieg.explorer.reader import Reader
    from klieg.explorer.server import serve as run

    language = shell.language(lang) if lang is not None else None
    readers = {name: Reader(name) for name in model or models.bundled()}
    if model or not traces:
        readers[next(iter(readers))].languages  # noqa: B018 - what cannot be opened is said before the page is
    files = opened(traces or [])
    run(Desk(readers, files), port, browser, language, lambda line: shell.write(f"{line}\n"), host)
    raise KeyboardInterrupt  # nothing else ends it


def opened(paths: list[Path]) -> dict[str, Trace]:
    """The traces of files, by names that the page can tell apart."""
    from klieg.trace import Trace

    found: dict[str, Trace] = {}
    for path in paths:
        name, n = path.name, 1
        while name in found:
            name, n = f"{path.name} ({n + 1})", n + 1
        found[name] = Trace.load(path)
    return found
