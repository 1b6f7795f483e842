"""What a reader takes along: the open head as a picture, its numbers, or the whole trace as one page that needs no server.

The same files as `klieg explain` writes, of the place that is looked at.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response

from klieg.errors import KliegError
from klieg.explorer.desk import Desk
from klieg.explorer.jobs import worked
from klieg.explorer.looks import Id, call_of
from klieg.explorer.turns import Turn
from klieg.trace import Call, Trace
from klieg.views import figures, svg
from klieg.views.html import html
from klieg.views.palette import DARK, LIGHT, Theme
from klieg.views.picture import Picture
from klieg.views.region import numbers, pooled_region, region
from klieg.views.summary import summary

LONGEST = 2048   # tokens of a text that is drawn or written out whole
_TYPES = {"svg": "image/svg+xml", "png": "image/png", "html": "text/html; charset=utf-8", "json": "application/json"}
SCALES = {"linear": "linear", "log": "log", "hide": "no-first"}   # the page's names and those of the figures

Format = Literal["svg", "png", "json"]
Kind = Literal["svg", "png", "html", "json"]
Language = Literal["en", "zh"]
Scale = Literal["linear", "log", "hide"]
Head = Annotated[int, Query(ge=0, le=1 << 30)]
Place = Annotated[int | None, Query(ge=0, le=1 << 30)]
Other = Annotated[str | None, Query(max_length=200, description="Another trace.")]
View = Annotated[str, Query(max_length=2000, pattern=r"^[A-Za-z0-9_.~%&=*+-]*$", description="The page's address, behind #.")]
Span = Annotated[str | None, Query(pattern=r"^\d{1,9}-\d{1,9}$")]


def routes(desk: Desk) -> APIRouter:
    """The routes, on a desk."""
    router = APIRouter(prefix="/api")

    @router.get("/traces/{id}/pictures/{kind}")
    async def picture(id: Id, kind: Kind, request: Request, call: Place = None, head: Place = None, token: Place = None,
                      rows: Span = None, keys: Span = None, scale: Scale = "linear",
                      lang: Language = "en", dark: bool = False, view: View = "") -> Response:
        """Of a region, queries `rows` and keys `keys` as FROM-TO (TO is left out), or of the whole text; a page opens on its
        `view`."""
        def job(turn: Turn) -> bytes:
            trace = desk.trace(id)
            at = call_of(trace, call) if call is not None else trace.stack[0]
            long = max(max(each.queries, each.keys) for each in trace.calls) > LONGEST
            if kind == "html":
                return _page(trace, long, view)
            look = theme(dark)
            if long or rows is not None or keys is not None:
                return _region(trace, kind, at, head or 0, _span(rows), _span(keys), scale, look, lang)
            opened = {"layer": at.layer if call is not None else None, "kind": at.kind, "head": head, "token": token}
            return _sheet(trace, kind, opened, scale, look, lang)

        return file(await worked(request, desk.turns, job), kind)

    return router


def file(body: bytes, format: Kind) -> Response:
    """A file to be kept."""
    return Response(body, media_type=_TYPES[format], headers={"Content-Disposition": f'attachment; filename="klieg.{format}"'})


def plain(said: dict[str, Any]) -> bytes:
    """Numbers for other programs."""
    return json.dumps(said, ensure_ascii=False, allow_nan=False).encode()


def drawn(picture: Picture, format: str) -> bytes:
    """A picture as svg or png."""
    from klieg.views import png

    return svg.lower(picture).encode() if format == "svg" else png.lower(picture)


def theme(dark: bool) -> Theme:
    """The colours of the page."""
    return DARK if dark else LIGHT


def _span(given: str | None) -> tuple[int, int] | None:
    if given is None:
        return None
    first, last = given.split("-")
    return int(first), int(last)


def _page(trace: Trace, long: bool, view: str) -> bytes:
    """The whole trace as one page that needs no server."""
    if long:
        raise KliegError(f"this text has {len(trace.tokens):,} tokens; one page holds up to {LONGEST:,}. Save a picture of a "
                         "part of it, or the trace itself with `klieg map`.")
    return html(trace, view).encode()


def _sheet(trace: Trace, kind: str, opened: dict[str, Any], scale: str, theme: Theme, language: str) -> bytes:
    """The maps of the open head, its lines, where the token looks in every head, and what is next; or these numbers."""
    if kind == "json":
        return plain(summary(trace, **opened))
    return drawn(figures.page(trace, **opened, scale=SCALES[scale], theme=theme, language=language), kind)


def _region(trace: Trace, kind: str, call: Call, head: int, rows: tuple[int, int] | None, keys: tuple[int, int] | None,
            scale: str, theme: Theme, language: str) -> bytes:
    """A part of a head's map in as many buckets as a sheet has room for, each its largest weight; or its numbers."""
    found = pooled_region(trace, call.layer, head, rows, keys, kind=call.kind)
    if kind == "json":
        return plain(numbers(trace, found))
    return drawn(region(trace, found, scale="log" if scale == "log" else "linear", theme=theme, language=language), kind)
