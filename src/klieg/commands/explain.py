"""The command `explain`: where every head looks in a text, and the arithmetic of each number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from klieg import shell
from klieg.errors import KliegError
from klieg.shell import Language, Model

if TYPE_CHECKING:
    from klieg.trace import Trace


def explain(
    text: Annotated[str, typer.Argument(help="The text to look into; - reads standard input.")],
    model: Model = "chat",
    to: Annotated[str | None, typer.Option(help="Language of a translator's target, where it has several.")] = None,
    target: Annotated[str | None, typer.Option(help="Target to look into; by default what the translator finds.")] = None,
    kind: Annotated[str | None, typer.Option(help="Of a translator: encoder, self (the decoder's own) or cross.")] = None,
    layer: Annotated[int | None, typer.Option(help="Layer to open, from 0; by default the most certain head's.")] = None,
    head: Annotated[int | None, typer.Option(help="Head to open, from 0.")] = None,
    token: Annotated[int | None, typer.Option(help="Token whose view is taken, from 0; by default the last.")] = None,
    cell: Annotated[str | None, typer.Option(metavar="LAYER.HEAD.QUERY.KEY", help="Write out one weight's arithmetic.")] = None,
    scale: Annotated[str, typer.Option(help="linear, log, or no-first (hide the first token's column).")] = "linear",
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Numbers; - for standard output.")] = None,
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="The picture, at any size.")] = None,
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="The picture in pixels.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="One page that works offline.")] = None,
    save: Annotated[Path | None, typer.Option(metavar="FILE", help="The trace itself, for klieg.Trace.load.")] = None,
    dark: Annotated[bool, typer.Option("--dark", help="Dark pictures.")] = False,
    cut: Annotated[bool, typer.Option("--cut", help="Cut a text that is longer than the model's positions.")] = False,
    lang: Language = None,
) -> None:
    """Show where every head looks, and the arithmetic of each number."""
    language = shell.language(lang)
    shell.one_of("scale", scale, ["linear", "log", "no-first"])
    if kind is not None:
        shell.one_of("kind", kind, ["encoder", "self", "cross"])
    place = _place(cell) if cell is not None else None
    if str(save) == "-":
        raise KliegError("--save writes a file; name one, for example --save love.klieg.")
    files = shell.files(place is not None, json=json_file, svg=svg, png=png, html=html, save=save)
    given = shell.given(text)
    from klieg.views.focus import focus
    from klieg.watch import trace

    found = trace(model, given, target=target, to=to, cut=cut)
    opened = {"layer": layer, "head": head, "token": token, "kind": kind}
    focus(found, **opened)  # refuses what is not there, also where the export does not need it
    card = found.cell(*place, kind=kind or found.kind) if place is not None else None
    _export(found, opened, scale, dark, language, files)
    if card is not None:
        from klieg.views.arithmetic import arithmetic
        shell.console().print(arithmetic(card, language=language))
    elif not files:
        from klieg.views.terminal import screen
        shell.console().print(screen(found, **opened, scale=scale, language=language))


def _export(found: Trace, opened: dict, scale: str, dark: bool, language: str, files: dict[str, Path]) -> None:
    """Make what was asked for, then write it."""
    from klieg.views.figures import page
    from klieg.views.palette import DARK, LIGHT

    def made(kind: str) -> bytes:
        if kind == "json":
            return _json(found, opened).encode()
        if kind == "html":
            return _page(found)
        theme = DARK if dark else LIGHT
        return shell.drawn(page(found, **opened, scale=scale, theme=theme, language=language), kind)

    shell.deliver({path: made(kind) for kind, path in files.items() if kind != "save"})
    if "save" in files:
        found.save(files["save"])
        shell.wrote(files["save"])


def _json(found: Trace, opened: dict) -> str:
    from klieg.views.summary import summary

    return json.dumps(summary(found, **opened), ensure_ascii=False, indent=1) + "\n"


def _page(found: Trace) -> bytes:
    from klieg.views.html import html

    return html(found).encode()


def _place(cell: str) -> tuple[int, int, int, int]:
    parts = cell.split(".")
    if len(parts) != 4 or not all(part.isascii() and part.isdecimal() and len(part) < 10 for part in parts):
        raise KliegError(f"--cell is {cell!r}; it must be LAYER.HEAD.QUERY.KEY, four whole numbers, for example 3.2.4.1.")
    return tuple(int(part) for part in parts)
