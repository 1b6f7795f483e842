"""The command that opens the Explorer: on models, and on traces and atlases that were saved before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from klieg import shell
from klieg.commands.atlas import FILE
from klieg.commands.syntax import FILE as SYNTAX
from klieg.shell import Device, Language, Precision

T = TypeVar("T")


def serve(
    traces: Annotated[list[Path] | None, typer.Argument(metavar="FILE", help="Saved traces, of which the first is shown, and "
                                                        "atlases by their folders.")] = None,
    model: Annotated[list[str] | None, typer.Option("--model", "-m", help="A model to offer; may be repeated.")] = None,
    port: Annotated[int, typer.Option(help="Of the page on this machine.")] = 8137,
    host: Annotated[str, typer.Option(help="Another address of this machine, for others; 0.0.0.0 is all.")] = "127.0.0.1",
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")] = True,
    device: Device = "cpu", precision: Precision = "fp32",
    lang: Language = None,
) -> None:
    """Open the Explorer on models, traces and atlases."""
    from klieg import models
    from klieg.analysis.atlas import Atlas
    from klieg.analysis.syntax import Syntax
    from klieg.explorer.desk import Desk
    from klieg.explorer.reader import Reader
    from klieg.explorer.server import serve as run
    from klieg.trace import Trace

    language, where = shell.language(lang) if lang is not None else None, shell.place(device, precision)
    readers = {name: Reader(name, *where) for name in model or models.bundled()}
    for name in [name for name in readers if name in models.bundled()]:
        shell.on_the_processor(name, device, precision)
    folders = [path for path in traces or [] if path.is_dir() or path.suffix in (".safetensors", ".json")]
    saved = [path for path in traces or [] if path not in folders]
    if model or not saved:
        readers[next(iter(readers))].languages  # noqa: B018 - what cannot be opened is said before the page is
    files = opened(saved, Trace.load)

    def atlas(path: Path) -> Atlas | Syntax:
        if path.is_dir():
            path /= SYNTAX if (path / SYNTAX).exists() and not (path / FILE).exists() else FILE
        return Syntax.load(path) if path.suffix == ".json" else Atlas.load(path)

    atlases = opened(folders, atlas)
    run(Desk(readers, files, atlases=atlases), port, browser, language, lambda line: shell.write(f"{shell.said(line)}\n"), host)
    raise KeyboardInterrupt  # nothing else ends it


def opened(paths: list[Path], load: Callable[[Path], T]) -> dict[str, T]:
    """What is in files, by names that the page can tell apart."""
    found: dict[str, T] = {}
    for path in paths:
        name, n = path.name, 1
        while name in found:
            name, n = f"{path.name} ({n + 1})", n + 1
        found[name] = load(path)
    return found
