"""The command `whatif`: a model reads a text as it is and once more with changes, and what it expects next is compared."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from klieg import shell
from klieg.errors import KliegError
from klieg.shell import Language, Model

if TYPE_CHECKING:
    from klieg.views.picture import Picture
    from klieg.whatif import WhatIf

HEADS = "LAYER.HEAD"


def whatif(
    text: Annotated[str, typer.Argument(help="The text that is read; - reads standard input.")],
    mute: Annotated[list[str] | None, typer.Option(metavar=HEADS, help="A head that gives nothing on; a K/V group is 3.g1, a "
                                                   "layer 3.all, everything all. May be repeated, as all changes.")] = None,
    cut: Annotated[list[str] | None, typer.Option(metavar=f"{HEADS}.QUERY.KEY", help="A token that no longer sees another, "
                                                  "for example 3.2.4.1, as --cell of klieg explain has it.")] = None,
    hide_first: Annotated[list[str] | None, typer.Option("--hide-first", metavar=f"{HEADS}|all", help="Heads that do not see "
                                                         "the first token.")] = None,
    sharpen: Annotated[list[str] | None, typer.Option(metavar=f"{HEADS}=FACTOR", help="Multiplies the scores of a head: above "
                                                      "1 sharper, below 1 flatter.")] = None,
    keep: Annotated[list[str] | None, typer.Option(metavar=f"{HEADS}|all=PATTERN", help="Heads that see only what a sparse "
                                                   "pattern keeps, for example all=window:128; see klieg sparse.")] = None,
    replace: Annotated[list[str] | None, typer.Option(metavar="OLD=NEW", help="Another word instead.")] = None,
    rank: Annotated[bool, typer.Option("--rank", help="Rank all heads by what muting each does.")] = False,
    after: Annotated[int | None, typer.Option(help="Token whose next one is asked for, from 0; by default the last.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Likeliest tokens of each pass that are compared.")] = 8,
    model: Model = "chat",
    to: Annotated[str | None, typer.Option(help="Language of a translator's target, where it has several.")] = None,
    target: Annotated[str | None, typer.Option(help="A translator's target; by default what it finds unchanged.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Numbers; - for standard output.")] = None,
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="The picture of what changes, at any size.")] = None,
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="The same in pixels.")] = None,
    lang: Language = None,
) -> None:
    """Change heads, edges or words, and compare what comes next."""
    language = shell.language(lang)
    asked = {"mute": mute, "cut": cut, "hide-first": hide_first, "sharpen": sharpen, "keep": keep,
             "replace": replace}
    written = [f"{verb} {given}" for verb, several in asked.items() for given in several or []]
    if not written and not rank:
        raise KliegError("nothing is changed; name a change, for example --mute 3.2, or rank all heads with --rank.")
    files = shell.files(json=json_file, svg=svg, png=png)
    pictures = [kind for kind in files if kind != "json"]
    if pictures and not written:
        raise KliegError(f"--{pictures[0]} is a picture of changes; name a change, for example --mute 3.2.")
    from klieg import models
    from klieg.changes import read
    from klieg.views.progress import counted
    from klieg.whatif import rank as ranked
    from klieg.whatif import whatif as compared

    changes, given = [read(change) for change in written], shell.given(text)
    loaded = models.load(model)
    told = {"target": target, "to": to}
    found = compared(loaded, given, changes, after, count, **told, name=model) if changes else None
    heads = None
    if rank:
        with counted(shell.said("heads"), shell.console(error=True)) as step:
            heads = ranked(loaded, given, after, step, **told)
    if files:
        numbers = {"model": model, **({} if found is None else found.as_json()),
                   **({} if heads is None else {"ranking": [asdict(head) for head in heads]})}
        shell.deliver({path: _body(kind, numbers, found, language) for kind, path in files.items()})
    else:
        _show(found, heads, language)


def _body(kind: str, numbers: dict, found: Any, language: str) -> bytes:
    from klieg.views.difference import difference

    if kind == "json":
        return (json.dumps(numbers, ensure_ascii=False, indent=1) + "\n").encode()
    return shell.drawn(difference(found, language=language), kind)


def _show(found: WhatIf | None, heads: list | None, language: str) -> None:
    """What changed, sealed by the certificate of the changed pass; then the ranking."""
    from klieg.views.difference import difference, ranking
    from klieg.views.palette import DARK
    from klieg.views.picture import TERMINAL
    from klieg.views.terminal import sealed
    from klieg.views.text import lower

    console = shell.console()

    def draw(picture: Picture) -> None:
        for line in lower(picture):
            console.print(line)

    if found is not None:
        draw(difference(found, DARK, medium=TERMINAL, room=console.width, language=language))
        for line in sealed(found.after, language, console.width):
            console.print(line)
    if heads is not None:
        if found is not None:
            console.print()
        draw(ranking(heads, DARK, medium=TERMINAL, room=console.width, language=language))
