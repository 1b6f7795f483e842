"""The atlases that the server was started with: what every head does over a corpus, score by score, or in a treebank, relation
by relation and way by way."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Path, Request, Response

from klieg.analysis.atlas import SCORES, Atlas, Line
from klieg.analysis.behaviour import UNITS
from klieg.analysis.coreference import heads_of
from klieg.analysis.syntax import Relation, Syntax
from klieg.errors import KliegError
from klieg.explorer.desk import Desk
from klieg.explorer.exports import Format, Language, drawn, file, plain, theme
from klieg.explorer.jobs import worked
from klieg.explorer.turns import Turn
from klieg.views import syntax as relations
from klieg.views.atlas import WORDS, grid
from klieg.views.palette import Theme
from klieg.views.picture import Picture

Name = Annotated[str, Path(max_length=300)]
Score = Annotated[str, Path(max_length=50)]


class Shown(Protocol):
    """What the screen asks of an atlas."""

    def outline(self) -> dict[str, Any]:
        """What it is of, and the scores that it has."""
        ...

    def score(self, name: str) -> dict[str, Any]:
        """Unit and lines of a score: every head that has it, the highest first."""
        ...

    def picture(self, score: str, theme: Theme, language: str) -> Picture: ...


def routes(desk: Desk) -> APIRouter:
    """The routes, on a desk."""
    router = APIRouter(prefix="/api")

    @router.get("/atlases")
    def atlases() -> dict:
        return {"atlases": [{"name": name, **_shown(found).outline()} for name, found in desk.atlases.items()]}

    @router.get("/atlases/{name}/scores/{score}")
    def lines(name: Name, score: Score) -> dict:
        return {"score": score, **_scored(desk, name, score).score(score)}

    @router.get("/atlases/{name}/scores/{score}/pictures/{format}")
    async def picture(name: Name, score: Score, format: Format, request: Request, lang: Language = "en",
                      dark: bool = False) -> Response:
        """The grid of heads as a picture; or every head with its interval and its chance."""
        def job(turn: Turn) -> bytes:
            found = _scored(desk, name, score)
            if format == "json":
                return plain({"name": name, **found.outline(), "score": score, **found.score(score)})
            return drawn(found.picture(score, theme(dark), lang), format)

        return file(await worked(request, desk.turns, job), format)

    return router


class _Corpus:
    """An atlas of a corpus."""

    def __init__(self, found: Atlas) -> None:
        self.found = found

    def outline(self) -> dict[str, Any]:
        found = self.found
        scores = [{"name": score, "unit": UNITS[score], "words": WORDS[score]} for score in SCORES if found.has(score)]
        return {"of": "corpus", "model": found.model, "window": found.window, "tokens": found.counts["tokens"],
                "texts": found.counts["windows"], "whole": found.whole, "rows": [asdict(row) for row in found.rows],
                "scores": scores}

    def score(self, name: str) -> dict[str, Any]:
        return {"unit": UNITS[name], "lines": [_known(line) for line in self.found.table(name)]}

    def picture(self, score: str, theme: Theme, language: str) -> Picture:
        return grid(self.found.model, score, UNITS[score], self.found.rows, self.found.means(score), theme, language=language)


class _Treebank:
    """What heads make of a treebank; a score is a relation from one side, such as nsubj.head."""

    def __init__(self, found: Syntax) -> None:
        self.found = found
        self.relations = {f"{each.name}.{each.to}": each for each in found.relations}

    def outline(self) -> dict[str, Any]:
        scores = [{"name": name, "unit": "share", "words": [relations.short(each, language) for language in ("en", "zh")]}
                  for name, each in self.relations.items()]
        return {"of": "treebank", "model": self.found.model, "texts": self.found.sentences, "whole": True,
                "rows": [asdict(row) for row in self.found.rows], "scores": scores}

    def score(self, name: str) -> dict[str, Any]:
        one = self.relations[name]
        lines = []
        for head, rate, chance in zip(heads_of(self.found.rows), one.every, one.chance, strict=True):
            low, high = rate.interval
            lines.append({**asdict(head), "mean": rate.share, "low": low, "high": high, "chance": chance, "texts": rate.count})
        return {"unit": "share", "lines": sorted(lines, key=lambda line: -line["mean"]), "gold": _gold(one)}

    def picture(self, score: str, theme: Theme, language: str) -> Picture:
        return relations.grid(self.found, self.relations[score], theme, language)


def _gold(one: Relation) -> dict[str, Any]:
    """The head that was chosen on the other half of the sentences, and the best fixed offset, beside which it is held."""
    return {"chosen": asdict(one.best), "share": one.chosen.share, "development": one.development.share, "offset": one.offset,
            "baseline": one.baseline.share, "p": one.p}


def _shown(found: Atlas | Syntax) -> Shown:
    return _Treebank(found) if isinstance(found, Syntax) else _Corpus(found)


def _scored(desk: Desk, name: str, score: str) -> Shown:
    """An atlas that has this score. KliegError for one that has it not."""
    found = _shown(desk.atlas(name))
    has = [each["name"] for each in found.outline()["scores"]]
    if score not in has:
        raise KliegError(f"the atlas {name!r} has no score {score!r}. It has: {', '.join(has) or 'none'}.")
    return found


def _known(line: Line) -> dict[str, Any]:
    """A line; the interval of a single text is null."""
    return {name: None if isinstance(x, float) and math.isnan(x) else x for name, x in asdict(line).items()}
