"""The questions of the walk: what happens around one layer's attention, for the few tokens that are on the page."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response
from pydantic import Field

from klieg.errors import KliegError
from klieg.explorer.desk import Desk
from klieg.explorer.looks import Id, Index, packed
from klieg.views import wire

MOST = 64  # tokens of one answer

Row = Annotated[int, Field(ge=0, le=1 << 30)]
Rows = Annotated[list[Row], Query(min_length=1, max_length=MOST, description="Tokens, from 0; the rows come in this order.")]
Kind = Literal["encoder", "self", "cross"]


def routes(desk: Desk) -> APIRouter:
    """The routes, on a desk."""
    router = APIRouter(prefix="/api")

    @router.get("/traces/{id}/streams/{kind}/{layer}")
    def stream(id: Id, kind: Kind, layer: Index, row: Rows) -> Response:
        trace = desk.trace(id)
        queries = trace[layer, kind].queries
        if max(row) >= queries:
            raise KliegError(f"there is no token {max(row)}; the text has tokens 0 to {queries - 1}.")
        body, tensors = wire.stream(trace, kind, layer)
        return packed(body, {name: x[row] for name, x in tensors.items()})

    return router
