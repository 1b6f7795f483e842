"""The questions about one text: its outline, and what the page looks at in it, piece by piece."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, Field

from klieg.errors import KliegError
from klieg.explorer.desk import Desk
from klieg.explorer.jobs import worked
from klieg.explorer.turns import Turn
from klieg.trace import Call, Trace
from klieg.views import wire

WRITTEN = 1024  # tokens after a text

Id = Annotated[str, Path(max_length=200)]
Index = Annotated[int, Path(ge=0, le=1 << 30)]


class Asked(BaseModel):
    """A text for a model, and the ids of what was written after it; for a translator also the language that it is to be
    translated into."""

    text: str = Field(max_length=1_000_000)
    model: str = Field(max_length=500)
    to: str | None = Field(None, max_length=20)
    written: list[int] = Field(default_factory=list, max_length=WRITTEN)


def packed(body: dict, tensors: dict | None = None) -> Response:
    """A message of views.wire."""
    return Response(wire.pack(body, tensors), media_type="application/octet-stream")


def call_of(trace: Trace, index: int) -> Call:
    """The call at a place of the outline."""
    calls = wire.shown(trace)
    if index >= len(calls):
        raise KliegError(f"there is no call {index}; the text has calls 0 to {len(calls) - 1}.")
    return calls[index]


def routes(desk: Desk) -> APIRouter:
    """The routes, on a desk."""
    router = APIRouter(prefix="/api")

    @router.get("/models")
    def names() -> dict:
        return {"models": list(desk.models), "files": list(desk.files)}

    @router.post("/traces")
    async def read(asked: Asked, request: Request) -> Response:
        def job(turn: Turn) -> Response:
            model = desk.model(asked.model)
            to = asked.to or next(iter(model.languages), None)  # the page shows which one it is, and offers the others
            found = model.read(asked.text, to, turn, asked.written)
            body, tensors = wire.outline(found)
            turn.check()  # or nobody would ever close it
            return packed({**body, "id": desk.put(found), "languages": model.languages, "to": to}, tensors)

        return await worked(request, desk.turns, job)

    @router.get("/traces/{id}")
    async def outline(id: Id, request: Request) -> Response:
        def job(turn: Turn) -> Response:
            body, tensors = wire.outline(desk.trace(id))
            return packed({**body, "id": id, "languages": [], "to": None}, tensors)

        return await worked(request, desk.turns, job)

    @router.delete("/traces/{id}")
    def close(id: Id) -> dict:
        desk.close(id)
        return {}

    @router.get("/traces/{id}/heads/{call}/{head}")
    def head(id: Id, call: Index, head: Index) -> Response:
        return packed({}, wire.head(call_of(desk.trace(id), call), head))

    @router.get("/traces/{id}/next/{after}")
    def likeliest(id: Id, after: Index, count: Annotated[int, Query(ge=1, le=1000)] = wire.CANDIDATES) -> dict:
        return {"candidates": wire.candidates(desk.trace(id), after, count)}

    return router
