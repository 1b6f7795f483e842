"""The commands for texts of any length: `map` watches a model, `heads` lists what its heads do, `zoom` opens a region.

A bundled model is traced whole, as `explain` does; every other model is watched through
transformers, on its own fast kernel, and q and k are kept for the layers that were asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from klieg import shell
from klieg.errors import KliegError
from klieg.shell import Device, Language, Precision

if TYPE_CHECKING:
    from klieg.trace import Trace
    from klieg.views.picture import Picture

Out = Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The trace that klieg heads and klieg zoom open.")]
Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Numbers; - for standard output.")]
Svg = Annotated[Path | None, typer.Option(metavar="FILE", help="The picture, at any size.")]
Png = Annotated[Path | None, typer.Option(metavar="FILE", help="The picture in pixels.")]
Dark = Annotated[bool, typer.Option("--dark", help="Dark pictures.")]
BY = ("entropy (nats): how spread a row is; sharpest: its largest weight; distance (tokens): how far it looks; first: its "
      "weight on the first token; own: on the query's own; beside: on the tokens next to it; received: what the most attended "
      "key gets of all weight. All but the last are means over the queries. By default a table of all.")

POOLED = ("Rows and columns of the pooled map of every head; by default 256, of a long text one for every 128 tokens, at most "
          "1024.")


def map_text(
    text_file: Annotated[str, typer.Argument(metavar="TEXTFILE", help="A text in UTF-8; - reads standard input.")],
    out: Out,
    model: Annotated[str, typer.Option("--model", "-m", help="A folder, a Hugging Face id, or a bundled name.")] = "chat",
    layers: Annotated[str | None, typer.Option(metavar="0,5,...", help="Survey only these layers; by default all.")] = None,
    top: Annotated[int, typer.Option(min=0, help="The largest weights of every row that are kept.")] = 16,
    pooled: Annotated[int | None, typer.Option("--map", min=0, help=POOLED)] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="Take the first tokens only.")] = None,
    keep: Annotated[str, typer.Option(metavar="all|none|0,5,...", help="Layers whose q and k are kept, to zoom.")] = "all",
    device: Device = "cpu", precision: Precision = "fp32",
    lang: Language = None,
) -> None:
    """Watch a model read a text of any length, and save what it saw."""
    from klieg import reading
    from klieg.models import bundled

    language = shell.language(lang)
    chosen, kept, where = _numbers("layers", layers), _kept(keep), shell.place(device, precision)
    if str(out) == "-":
        raise KliegError("--out writes a file; name one, for example -o map.klieg.")
    shell.writable(out)
    text = shell.text_of(text_file)
    if model in bundled():
        if layers is not None or keep != "all":
            raise KliegError(f"{model!r} comes with Klieg and is traced whole; leave --layers and --keep away.")
        shell.on_the_processor(model, device, precision)
        found = reading.bundled(model, text, top, pooled, tokens, out)
    else:
        found = reading.watched(model, text, top, pooled, tokens, chosen, kept, out, shell.console(error=True), shell.said,
                                *where)
    _summary(found, out, language)


def heads(
    source: Annotated[str, typer.Argument(metavar="TRACE|MODEL", help="A trace that klieg map wrote, or a model.")],
    text: Annotated[str | None, typer.Argument(help="What a model is to read; - reads standard input.")] = None,
    by: Annotated[str | None, typer.Option(help=BY)] = None,
    device: Device = "cpu", precision: Precision = "fp32",
    json_file: Json = None, svg: Svg = None, png: Png = None, dark: Dark = False, lang: Language = None,
) -> None:
    """Show what every head does, by layer and head."""
    from klieg.views.heads import grid, table
    from klieg.views.palette import DARK, LIGHT
    from klieg.views.picture import PAPER, TERMINAL, Medium
    from klieg.views.statistics import STATISTICS
    from klieg.views.statistics import heads as measured

    language = shell.language(lang)
    if by is not None:
        shell.one_of("by", by, list(STATISTICS))
    found = _source(source, text, device, precision)

    def picture(medium: Medium, dark: bool) -> Picture:
        theme, room = DARK if dark else LIGHT, None if medium is PAPER else shell.console().width
        if by is None:
            return table(found, theme, medium=medium, room=room, language=language)
        return grid(found, by, theme, medium=medium, room=room, language=language)

    if not _written(json_file, svg, png, lambda: measured(found), lambda: picture(PAPER, dark), language):
        _show(picture(TERMINAL, True))


def zoom(
    trace: Annotated[Path, typer.Argument(metavar="TRACE", help="A trace that klieg map or klieg explain --save wrote.")],
    place: Annotated[str, typer.Argument(metavar="LAYER.HEAD", help="Which head, for example 5.3.")],
    rows: Annotated[str | None, typer.Option(metavar="FROM:TO", help="Queries; by default all.")] = None,
    keys: Annotated[str | None, typer.Option(metavar="FROM:TO", help="Keys; by default all.")] = None,
    size: Annotated[int | None, typer.Option(min=1, max=4096, help="Buckets along each side; by default what fits.")] = None,
    mean: Annotated[bool, typer.Option("--mean", help="Colour by the mean of a bucket, not its largest weight.")] = False,
    scale: Annotated[str, typer.Option(help="log or linear.")] = "log",
    kind: Annotated[str, typer.Option(help="self, encoder or cross.")] = "self",
    json_file: Json = None, svg: Svg = None, png: Png = None, dark: Dark = False, lang: Language = None,
) -> None:
    """Open a region of one head's map, exact at any zoom."""
    from klieg.trace import Trace
    from klieg.views import region
    from klieg.views.palette import DARK, LIGHT
    from klieg.views.picture import PAPER, TERMINAL, Medium

    language = shell.language(lang)
    shell.one_of("scale", scale, list(region.SCALES))
    layer, head = _place(place)
    spans = _span("rows", rows), _span("keys", keys)
    found = Trace.load(trace)

    def opened(medium: Medium) -> region.Region:
        room = None if medium is PAPER else shell.console().width
        return region.pooled_region(found, layer, head, *spans, size, kind=kind, medium=medium, room=room)

    def picture(medium: Medium, dark: bool) -> Picture:
        return region.region(found, opened(medium), "mean" if mean else "max", scale, DARK if dark else LIGHT, medium=medium,
                             room=shell.console().width, language=language)

    if not _written(json_file, svg, png, lambda: region.numbers(found, opened(PAPER)), lambda: picture(PAPER, dark), language):
        _show(picture(TERMINAL, True))


def _source(source: str, text: str | None, device: str, precision: str) -> Trace:
    """The trace of a file, or of a model that reads a text; every call with its survey."""
    from klieg import reading
    from klieg.models import bundled
    from klieg.survey import SurveySpec
    from klieg.trace import Trace

    if Path(source).is_file():
        if text is not None:
            raise KliegError(f"{source} is a trace and has its own text; leave the other one away.")
        shell.on_the_processor(source, device, precision)
        found = Trace.load(source)
        found.calls = [call.surveyed(SurveySpec(top=0, map=0)) for call in found.calls]
        return found
    if text is None:
        raise KliegError(f"there is no trace {source!r}; if it is a model, give a text: klieg heads {source} \"I love you\".")
    where = shell.place(device, precision)
    if source in bundled():
        shell.on_the_processor(source, device, precision)
        return reading.bundled(source, shell.given(text), 0, 0, None)
    return reading.watched(source, shell.given(text), 0, 0, None, None, False, None, shell.console(error=True), shell.said,
                           *where)


# ---- what it says ----

def _summary(found: Trace, out: Path, language: str) -> None:
    """What was seen: the certificate, the head that looks farthest, and what to do next."""
    from klieg.views.palette import DARK
    from klieg.views.picture import TERMINAL
    from klieg.views.region import pooled_region, region
    from klieg.views.statistics import farthest
    from klieg.views.terminal import sealed
    from klieg.views.words import say

    console = shell.console()
    shell.wrote(out)
    for line in sealed(found, language, console.width):
        console.print(line)
    call, head = farthest(found)
    near = ""
    if call.survey.map_mean is not None:
        seen = pooled_region(found, call.layer, head, kind=call.kind, medium=TERMINAL, room=console.width)
        console.print(say("farthest", language), style="dim", soft_wrap=True)
        _show(region(found, seen, theme=DARK, medium=TERMINAL, room=console.width, language=language))
        links = seen.strongest(1) if call.q is not None else []
        near = "".join(f" --rows {_around(i, call.queries)} --keys {_around(j, call.keys)}" for i, j, _ in links)
    kind = "" if call.kind == "self" else f" --kind {call.kind}"
    region_of = f"klieg zoom {out} {call.layer}.{head}{kind}{near}"
    for key, command in (("every head", f"klieg heads {out}"), ("a region", region_of)):
        console.print(say(key, language, command=command), soft_wrap=True)


def _around(place: int, count: int) -> str:
    """Twelve tokens around one, as --rows and --keys take them."""
    start = max(min(place - 6, count - 12), 0)
    return f"{start}:{min(start + 12, count)}"


def _written(json_file: Path | None, svg: Path | None, png: Path | None, numbers: Callable[[], dict],
             picture: Callable[[], Picture], language: str) -> bool:
    """Whether files were asked for: they are made, then written."""
    bodies = {}
    for kind, path in shell.files(json=json_file, svg=svg, png=png).items():
        text = json.dumps(numbers(), ensure_ascii=False) + "\n" if kind == "json" else ""
        bodies[path] = text.encode() if kind == "json" else shell.drawn(picture(), kind)
    shell.deliver(bodies)
    return bool(bodies)


def _show(picture: Picture) -> None:
    from klieg.views.text import lower

    for line in lower(picture):
        shell.console().print(line)


# ---- what is asked ----

def _numbers(option: str, given: str | None) -> list[int] | None:
    """Layers, as 0,5,7."""
    if given is None:
        return None
    if not re.fullmatch(r"[0-9]{1,6}(,[0-9]{1,6})*", given):
        raise KliegError(f"--{option} is {given!r}; it must be layers with commas between them, for example 0,5.")
    return sorted({int(n) for n in given.split(",")})


def _kept(given: str) -> list[int] | bool | None:
    """--keep as watch() takes it: None for all, False for none."""
    if given in ("all", "none"):
        return None if given == "all" else False
    if not given[:1].isdigit():
        raise KliegError(f"--keep is {given!r}; it must be all, none, or layers, for example 0,5.")
    return _numbers("keep", given)


def _place(given: str) -> tuple[int, int]:
    if not re.fullmatch(r"[0-9]{1,6}\.[0-9]{1,6}", given):
        raise KliegError(f"the place is {given!r}; it must be LAYER.HEAD, two whole numbers, for example 5.3.")
    layer, head = given.split(".")
    return int(layer), int(head)


def _span(option: str, given: str | None) -> tuple[int, int] | None:
    """FROM:TO, both whole numbers."""
    if given is None:
        return None
    if not re.fullmatch(r"[0-9]{1,12}:[0-9]{1,12}", given):
        raise KliegError(f"--{option} is {given!r}; it must be FROM:TO, two whole numbers, for example 64000:96000.")
    start, stop = given.split(":")
    return int(start), int(stop)
