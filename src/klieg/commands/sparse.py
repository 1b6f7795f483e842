"""The command `sparse`: what sparse patterns would lose of a model's attention, and what the model says under them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from klieg import shell
from klieg.shell import Language, Model

if TYPE_CHECKING:
    from klieg.analysis.sparsity import Sparsity
    from klieg.trace import Trace

SAVED = ".klieg"


def sparse(
    text: Annotated[str, typer.Argument(metavar="TEXT|FILE", help="The text that is read, - for standard input; or a saved "
                                        "trace, FILE.klieg, of any model.")],
    pattern: Annotated[list[str] | None, typer.Option("--pattern", "-p", metavar="KIND:SIZE", help="window:128, block:64, "
                                                      "strided:64, each also with +global:4, or top:16; may be repeated. By "
                                                      "default a few small ones.")] = None,
    model: Model = "chat",
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Numbers; - for standard output.")] = None,
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="Every head by what it loses, at any size.")] = None,
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="The same in pixels.")] = None,
    lang: Language = None,
) -> None:
    """See what sparse attention would lose, head by head."""
    language = shell.language(lang)
    files = shell.files(json=json_file, svg=svg, png=png)
    from klieg.analysis.sparsity import USUAL
    from klieg.patterns import Pattern
    from klieg.views import sparsity as views

    patterns = [Pattern.read(each) for each in pattern or USUAL]
    trace, found = _saved(text, patterns) if text.endswith(SAVED) else _read(text, patterns, model)
    if files:
        numbers = {"model": trace.model, "text": trace.text, "tokens": len(trace.tokens),
                   "patterns": [each.as_json() for each in found]}
        shell.deliver({path: (json.dumps(numbers, ensure_ascii=False, indent=1) + "\n").encode() if kind == "json" else
                       shell.drawn(views.grid(trace, found, language=language), kind) for kind, path in files.items()})
        return
    from klieg.views.palette import DARK
    from klieg.views.picture import TERMINAL
    from klieg.views.text import lower
    from klieg.views.words import say

    console = shell.console()
    console.print(views.table(trace, found, language))
    if len(found) == 1:
        console.print()
        for line in lower(views.grid(trace, found, DARK, medium=TERMINAL, room=console.width, language=language)):
            console.print(line)
    for meaning in ("meaning", "bits meaning" if found[0].applied else "saved"):
        console.print(say(f"sparse {meaning}", language), style="dim")


def _saved(path: str, patterns: list) -> tuple[Trace, list[Sparsity]]:
    """What a saved trace would lose; its model cannot be run again."""
    from klieg.analysis.sparsity import Sparsity, losses
    from klieg.trace import Trace

    trace = Trace.load(path)
    return trace, [Sparsity(pattern, losses(trace, pattern), None) for pattern in patterns]


def _read(text: str, patterns: list, model: str) -> tuple[Trace, list[Sparsity]]:
    from klieg import models
    from klieg.analysis.sparsity import sparsity
    from klieg.views.progress import counted

    given, loaded = shell.given(text), models.load(model)
    with counted(shell.said("patterns"), shell.console(error=True)) as step:
        return sparsity(loaded, given, patterns, name=model, progress=step)
