"""What if: a text is read once more with changes, and the page gets what is expected next, before and after.

Both passes are traces on the desk, so that the maps of the changed one are looked at like any other's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field, StringConstraints

from klieg.changes import read
from klieg.errors import KliegError
from klieg.explorer.chunks import check
from klieg.explorer.desk import Desk
from klieg.explorer.exports import LONGEST, SCALES, Format, Head, Language, Place, Scale, drawn, file, plain, theme
from klieg.explorer.findings import Findings
from klieg.explorer.jobs import Event, streamed, worked
from klieg.explorer.looks import Id, call_of
from klieg.explorer.reader import Reader
from klieg.explorer.spoken import line
from klieg.explorer.turns import Turn
from klieg.trace import Trace
from klieg.views import supposition
from klieg.whatif import effects, loaded, whatif

BEST = 8      # likeliest tokens of each pass that are compared
MOST = 100    # changes at once

Written = Annotated[str, StringConstraints(max_length=2000)]


class Text(BaseModel):
    """A text: that of an open trace by its `id`, or one for a model; `after` is the token whose next one is asked for."""

    id: str | None = Field(None, max_length=200)
    text: str | None = Field(None, max_length=1_000_000)
    model: str | None = Field(None, max_length=500)
    to: str | None = Field(None, max_length=20)
    after: int | None = Field(None, ge=0, le=1 << 30)


class Supposed(Text):
    """And its changes, as klieg.changes.read() takes them."""

    changes: list[Written] = Field(min_length=1, max_length=MOST)


def routes(desk: Desk) -> APIRouter:
    """The routes, on a desk."""
    router, findings = APIRouter(prefix="/api"), Findings()

    @router.post("/suppositions")
    async def suppose(asked: Supposed, request: Request) -> dict:
        changes = [read(change) for change in asked.changes]

        def job(turn: Turn) -> dict[str, Any]:
            text, reader, open = _asked(desk, asked)
            found = whatif(_model(reader), text, changes, asked.after, BEST, to=_language(reader, asked.to), name=reader.name)
            turn.check()  # or nobody would ever close them
            told = found.as_json()
            before = open if open is not None and _same(open, found.before) else found.before
            told["before"]["id"] = asked.id if before is open else desk.put(before)
            told["after"]["id"] = desk.put(found.after)
            findings.keep(found, before, open or before, asked.after)
            return told

        return await worked(request, desk.turns, job)

    @router.get("/suppositions/{id}")
    async def changeable(id: Id, request: Request) -> dict:
        """Nothing where the model that read an open text can read it again with changes; else why it cannot, as a refusal."""
        def job(turn: Turn) -> dict:
            _, reader, _ = _asked(desk, Text.model_validate({"id": id}))
            loaded(_model(reader), reader.name)
            return {}

        return await worked(request, desk.turns, job)

    @router.post("/suppositions/ranks")
    async def ranks(asked: Text, request: Request) -> StreamingResponse:
        def job(turn: Turn) -> Iterator[Event]:
            text, reader, open = _asked(desk, asked)
            every = []
            for effect in effects(_model(reader), text, asked.after, to=_language(reader, asked.to)):
                every.append(effect)
                yield "head", asdict(effect)
            if open is not None:
                findings.rank(open, asked.after, every)

        return await streamed(request, desk.turns, job, lambda error: line(error, request))

    @router.get("/suppositions/{id}/pictures/{format}")
    async def picture(id: Id, format: Format, request: Request, after: Place = None, call: Place = None, head: Head = 0,
                      scale: Scale = "linear", lang: Language = "en", dark: bool = False) -> Response:
        """A changed pass beside the unchanged one, and the ranking of heads if all were ranked; of a text that is not changed
        what is likeliest `after` a token."""
        def job(turn: Turn) -> bytes:
            known = _supposed(findings, desk.trace(id), after, call, head)
            if format == "json":
                return plain(supposition.numbers(known))
            return drawn(supposition.page(known, theme(dark), scale=SCALES[scale], language=lang), format)

        return file(await worked(request, desk.turns, job), format)

    return router


def _supposed(findings: Findings, trace: Trace, after: int | None, call: int | None, head: int) -> supposition.Supposition:
    """What is known of a trace, with the map of one of its heads."""
    if max(max(each.queries, each.keys) for each in trace.calls) > LONGEST:
        raise KliegError(f"what is saved has texts of up to {LONGEST:,} tokens; take a shorter one.")
    at = call_of(trace, call) if call is not None else trace.stack[0]
    check(at, head, (0, at.queries), (0, at.keys), None)
    if after is not None and after >= len(trace.tokens):
        raise KliegError(f"there is no token {after}; the text has tokens 0 to {len(trace.tokens) - 1}.")
    before, found, ranked = findings.of(trace, after)
    return supposition.Supposition(before, found, ranked, at.layer, head, at.kind, after)


def _asked(desk: Desk, asked: Text) -> tuple[str, Reader, Trace | None]:
    """The text, who reads it, and the open trace if it is that of one."""
    if (asked.id is None) == (asked.text is None or asked.model is None):
        raise KliegError("the request names neither one open text nor one text and its model; name one of both.")
    if asked.id is None:
        assert asked.text is not None and asked.model is not None
        open, text, name = None, asked.text, asked.model
    else:
        open = desk.trace(asked.id)
        text, name = open.text if open.source is None else open.source.text, open.model
    reader = desk.model(name)
    if not isinstance(reader, Reader):
        raise KliegError(f"{name!r} is no model that can run again with changes; choose another one.")
    return text, reader, open


def _model(reader: Reader) -> tuple[Any, Any]:
    """The model and its tokenizer; whatif() says why one of transformers is refused."""
    if reader.own is not None:
        return reader.own
    assert reader.foreign is not None
    return reader.foreign.model, reader.foreign.tokenizer


def _language(reader: Reader, to: str | None) -> str | None:
    return to or next(iter(reader.languages), None)


def _same(a: Trace, b: Trace) -> bool:
    """Whether two passes went through the same tokens."""
    return a.ids == b.ids and (a.source and a.source.ids) == (b.source and b.source.ids)
