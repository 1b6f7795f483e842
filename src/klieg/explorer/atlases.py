"""The atlases that the server was started with: what every head does over a corpus, score by score."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from klieg.analysis.atlas import SCORES, Atlas, Line
from klieg.analysis.behaviour import UNITS
from klieg.errors import KliegError
from klieg.explorer.desk import Desk
from klieg.explorer.exports import Format, Language, drawn, file, plain, theme
from klieg.explorer.jobs import worked
from klieg.explorer.turns import Turn
from klieg.views.atlas import WORDS, grid

Name = Annotated[str, Path(max_length=300)]
Score = Annotated[str, Path(max_length=50)]


def routes(desk: Desk) -> APIRouter:
    """The routes, on a desk."""
    router = APIRouter(prefix="/api")

    @router.get("/atlases")
    def atlases() -> dict:
        return {"atlases": [_outline(name, found) for name, found in desk.atlases.items()]}

    @router.get("/atlases/{name}/scores/{score}")
    def lines(name: Name, score: Score) -> dict:
        found = _scored(desk.atlas(name), name, score)
        return {"score": score, "unit": UNITS[score], "lines": _lines(found, score)}

    @router.get("/atlases/{name}/scores/{score}/pictures/{format}")
    async def picture(name: Name, score: Score, format: Format, request: Request, lang: Language = "en",
                      dark: bool = False) -> Response:
        """The grid of heads as a picture; or every head with its interval and its chance."""
        def job(turn: Turn) -> bytes:
            found = _scored(desk.atlas(name), name, score)
            if format == "json":
                return plain({**_outline(name, found), "score": score, "unit": UNITS[score], "lines": _lines(found, score)})
            picture = grid(found.model, score, UNITS[score], found.rows, found.means(score), theme(dark), language=lang)
            return drawn(picture, format)

        return file(await worked(request, desk.turns, job), format)

    return router


def _outline(name: str, found: Atlas) -> dict[str, Any]:
    """What an atlas is of, and the scores that it has."""
    return {"name": name, "model": found.model, "window": found.window, "tokens": found.counts["tokens"],
            "texts": found.counts["windows"], "whole": found.whole, "rows": [asdict(row) for row in found.rows],
            "scores": [{"name": score, "unit": UNITS[score], "words": WORDS[score]} for score in SCORES if found.has(score)]}


def _scored(found: Atlas, name: str, score: str) -> Atlas:
    if score not in SCORES or not found.has(score):
        has = [each for each in SCORES if found.has(each)]
        raise KliegError(f"the atlas {name!r} has no score {score!r}. It has: {', '.join(has) or 'none'}.",
                         zh=f"图谱 {name!r} 没有指标 {score!r}。它有的是：{'、'.join(has) or '一个也没有'}。")
    return found


def _lines(found: Atlas, score: str) -> list[dict[str, Any]]:
    """Every head that has the score, the highest first; the interval of a single text is null."""
    return [_known(line) for line in found.table(score)]


def _known(line: Line) -> dict[str, Any]:
    return {name: None if isinstance(x, float) and math.isnan(x) else x for name, x in asdict(line).items()}
