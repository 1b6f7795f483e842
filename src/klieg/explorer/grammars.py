"""The questions of grammar: which of two sentences a model finds likelier and where that comes from, and how often it is the
right one over the minimal pairs of BLiMP."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from klieg.analysis.grammar import FILE, Grammar, contrast, grammar, read_pairs
from klieg.analysis.likelihood import Scorer, continues
from klieg.data import data_folder
from klieg.errors import KliegError
from klieg.explorer.coreferences import analysed
from klieg.explorer.desk import Desk
from klieg.explorer.exports import Format, Language, drawn, file, plain, theme
from klieg.explorer.jobs import Tell, streamed_by, worked
from klieg.explorer.spoken import line
from klieg.explorer.turns import Turn
from klieg.views import grammar as views

Count = Annotated[int, Query(ge=1, le=1000)]


class Asked(BaseModel):
    """Two sentences for a model."""

    model: str = Field(max_length=500)
    one: str = Field(max_length=2000)
    other: str = Field(max_length=2000)


class Wanted(BaseModel):
    """So many pairs of each paradigm of BLiMP, for a model."""

    model: str = Field(max_length=500)
    pairs: int = Field(ge=1, le=1000)


def routes(desk: Desk) -> APIRouter:
    """The routes, on a desk."""
    router = APIRouter(prefix="/api")
    found: dict[tuple[str, int], Grammar] = {}

    @router.post("/grammar/pair")
    async def pair(asked: Asked, request: Request) -> dict:
        def job(turn: Turn) -> dict[str, Any]:
            return contrast(_scorer(desk, asked.model), asked.one, asked.other).as_json()

        return await worked(request, desk.turns, job)

    @router.get("/grammar")
    def there() -> dict:
        """Whether there are pairs to go through."""
        try:
            return {"there": (data_folder() / FILE).is_file()}
        except KliegError:
            return {"there": False}

    @router.post("/grammar")
    async def go_through(asked: Wanted, request: Request) -> StreamingResponse:
        """Events "progress" while sentences are read, then one "found"."""
        if not there()["there"]:
            raise KliegError(f"{FILE} is not there; set KLIEG_DATA to the folder of public texts and start the server again.")

        def job(turn: Turn, tell: Tell) -> None:
            def step(done: int, expected: int) -> None:
                tell("progress", {"done": done, "expected": expected})
                turn.offer()

            key = asked.model, asked.pairs
            if key not in found:
                found[key] = grammar(_scorer(desk, asked.model), read_pairs(data_folder() / FILE, asked.pairs), step)
            tell("found", _told(found[key]))

        return await streamed_by(request, desk.turns, job, lambda error: line(error, request))

    @router.get("/grammar/pictures/{format}")
    async def picture(format: Format, model: Annotated[str, Query(max_length=500)], pairs: Count, request: Request,
                      lang: Language = "en", dark: bool = False) -> Response:
        """What was found over BLiMP, as `klieg grammar` draws it; or its numbers."""
        def job(turn: Turn) -> bytes:
            if (known := found.get((model, pairs))) is None:
                raise KliegError(f"BLiMP was not gone through with {model!r} since this server was started; do that first.")
            if format == "json":
                return plain(known.as_json())
            return drawn(views.picture(known.model, known.total, known.phenomena, theme(dark), language=lang), format)

        return file(await worked(request, desk.turns, job), format)

    return router


def _scorer(desk: Desk, name: str) -> Scorer:
    """A model of the desk as one that says how likely a text is."""
    reader = analysed(desk, name)
    if not continues(reader.model):
        raise KliegError(f"{name!r} is an encoder and gives no probability to a text; choose a model that continues texts.")
    return Scorer.of(reader)


def _told(found: Grammar) -> dict[str, Any]:
    """All rates, phenomena by their names in both languages, the best first."""
    return {"model": found.model, "total": found.total.as_json(),
            "phenomena": [{"name": views.named(name), **found.phenomena[name].as_json()} for name, _ in
                          views.ordered(found.phenomena)]}
