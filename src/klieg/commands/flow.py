"""The command `flow`: what reaches a token through all layers by the maps, beside what hiding each token really does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from klieg import shell
from klieg.shell import Language, Model


def flow(
    text: Annotated[str, typer.Argument(help="The text that is read; - reads standard input.")],
    token: Annotated[int | None, typer.Option(help="Token that is flowed to, from 0; by default the last.")] = None,
    without_first: Annotated[bool, typer.Option("--without-first", help="Leave out what rests on the first token.")] = False,
    model: Model = "chat",
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Numbers; - for standard output.")] = None,
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="The table in colour, at any size.")] = None,
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="The same in pixels.")] = None,
    lang: Language = None,
) -> None:
    """Follow attention through all layers, and check it."""
    language = shell.language(lang)
    files = shell.files(json=json_file, svg=svg, png=png)
    from klieg import models
    from klieg.analysis import flow as flows
    from klieg.views.flow import flow as drawn
    from klieg.views.palette import DARK
    from klieg.views.picture import TERMINAL
    from klieg.views.progress import counted
    from klieg.views.text import lower

    given, loaded = shell.given(text), models.load(model)
    with counted(shell.said("tokens"), shell.console(error=True)) as step:
        found = flows.flow(loaded, given, token, without_first=without_first, name=model, progress=step)
    if files:
        numbers = (json.dumps(found.as_json(), ensure_ascii=False, indent=1) + "\n").encode()
        shell.deliver({path: numbers if kind == "json" else shell.drawn(drawn(found, language=language), kind)
                       for kind, path in files.items()})
        return
    console = shell.console()
    for line in lower(drawn(found, DARK, medium=TERMINAL, room=console.width, language=language)):
        console.print(line)
