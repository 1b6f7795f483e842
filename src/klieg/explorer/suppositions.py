"""What if: a text is read once more with changes, and the page gets what is expected next, before and after.

Both passes are traces on the desk, so that the maps of the changed one are looked at like any other's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field, StringConstraints

from klieg.changes import read
from klieg.errors import KliegError
from klieg.explorer.desk import Desk
from klieg.explorer.jobs import Event, streamed, worked
from klieg.explorer.reader import Reader
from klieg.explorer.turns import Turn
from klieg.trace import Trace
from klieg.whatif import effects, whatif

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
    router = APIRouter(prefix="/api")

    @router.post("/suppositions")
    async def suppose(asked: Supposed, request: Request) -> dict:
        changes = [read(change) for change in asked.changes]

        def job(turn: Turn) -> dict[str, Any]:
            text, reader, open = _asked(desk, asked)
            found = whatif(_model(reader), text, changes, asked.after, BEST, to=_language(reader, asked.to), name=reader.name)
            turn.check()  # or nobody would ever close them
            told = found.as_json()
            before = asked.id if open is not None and _same(open, found.before) else desk.put(found.before)
            told["before"]["id"], told["after"]["id"] = before, desk.put(found.after)
            return told

        return await worked(request, desk.turns, job)

    @router.post("/suppositions/ranks")
    async def ranks(asked: Text, request: Request) -> StreamingResponse:
        def job(turn: Turn) -> Iterator[Event]:
            text, reader, _ = _asked(desk, asked)
            for effect in effects(_model(reader), text, asked.after, to=_language(reader, asked.to)):
                yield "head", asdict(effect)

        return await streamed(request, desk.turns, job)

    return router


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
