"""The questions of whole sets of riddles: how many the heads of a model solve, beside chance, baselines and the model itself.

Sets are those of the folder of public texts that the server was started with, by their names. A set is gone through once
for each model, riddle by riddle, and the turn is offered between them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path as Folder
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from klieg.analysis.coreference import Coreference, coreference
from klieg.analysis.coreference.riddles import SETS, riddles
from klieg.analysis.likelihood import Scorer
from klieg.data import data_folder
from klieg.errors import KliegError
from klieg.explorer.coreferences import analysed
from klieg.explorer.desk import Desk
from klieg.explorer.exports import Format, Language, drawn, file, plain, theme
from klieg.explorer.jobs import Tell, streamed_by, worked
from klieg.explorer.spoken import line
from klieg.explorer.turns import Turn
from klieg.views.coreference import set_grid

FILLS = "chat"      # the bundled model that fills the gaps of masked sets, as in `klieg coref`

Set = Annotated[str, Path(max_length=50)]
Model = Annotated[str, Query(max_length=500)]


class Asked(BaseModel):
    """A set by its name, and the model whose heads answer."""

    name: str = Field(max_length=50)
    model: str = Field(max_length=500)


def routes(desk: Desk) -> APIRouter:
    """The routes, on a desk."""
    router = APIRouter(prefix="/api")
    found: dict[tuple[str, str], Coreference] = {}

    @router.get("/riddles")
    def sets() -> dict:
        """The sets that there are texts for."""
        return {"sets": [name for name in SETS if _there(name)]}

    @router.post("/riddles")
    async def go_through(asked: Asked, request: Request) -> StreamingResponse:
        """Events "progress", a riddle each, then one "found"."""
        folder = _folder(asked.name)

        def job(turn: Turn, tell: Tell) -> None:
            def step(done: int, expected: int) -> None:
                tell("progress", {"done": done, "expected": expected})
                turn.offer()

            key = asked.name, asked.model
            if key not in found:
                found[key] = coreference(analysed(desk, asked.model), riddles(asked.name, folder, _filler(turn)), step)
            tell("found", _told(found[key]))

        return await streamed_by(request, desk.turns, job, lambda error: line(error, request))

    @router.get("/riddles/{name}/pictures/{format}")
    async def picture(name: Set, format: Format, model: Model, request: Request, lang: Language = "en",
                      dark: bool = False) -> Response:
        """What was found of a set: every head by how many riddles it solves; or all numbers."""
        def job(turn: Turn) -> bytes:
            if (known := found.get((name, model))) is None:
                raise KliegError(f"the set {name!r} was not gone through with {model!r} since this server was started; do that "
                                 "first.")
            return plain(known.as_json()) if format == "json" else drawn(set_grid(known, theme(dark), language=lang), format)

        return file(await worked(request, desk.turns, job), format)

    return router


def _told(found: Coreference) -> dict[str, Any]:
    return {**found.as_json(), "rows": [asdict(row) for row in found.rows]}


def _filler(turn: Turn) -> Callable[[Sequence[Sequence[str]]], list[int]]:
    """What puts pronouns in where a set masked them; loaded when it is needed."""
    scorers: list[Scorer] = []

    def likeliest(choices: Sequence[Sequence[str]]) -> list[int]:
        scorers[:] = scorers or [Scorer.load(FILLS)]
        turn.offer()
        return scorers[0].likeliest(choices)

    return likeliest


def _there(name: str) -> bool:
    try:
        folder = data_folder()
    except KliegError:
        return False
    return all((folder / each).is_file() for each in (*SETS[name].development, *SETS[name].test))


def _folder(name: str) -> Folder:
    """The folder of public texts; KliegError for a set that is none, and for one that is not there."""
    if name not in SETS:
        raise KliegError(f"there is no set {name!r}; there are {', '.join(SETS)}.")
    if not _there(name):
        raise KliegError(f"the texts of {name!r} are not there; set KLIEG_DATA to their folder and start the server "
                         "again.")
    return data_folder()
