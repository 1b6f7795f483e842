"""The questions of coreference: where every head looks from a pronoun of an open text, and what the model itself says that it
stands for."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from klieg.analysis import reader as corpora
from klieg.analysis.coreference import READINGS, Look, look, own_shares
from klieg.analysis.coreference.mentions import Place, words
from klieg.analysis.coreference.riddles import Riddle, marked
from klieg.analysis.likelihood import Scorer, continues
from klieg.errors import KliegError
from klieg.explorer.desk import Desk
from klieg.explorer.exports import LONGEST, Format, Language, drawn, file, plain, theme
from klieg.explorer.jobs import worked
from klieg.explorer.looks import Id
from klieg.explorer.reader import Reader
from klieg.explorer.turns import Turn
from klieg.seq2seq import Marian
from klieg.trace import Trace
from klieg.views.coreference import one_grid

MOST = 12           # candidates

Span = tuple[Annotated[int, Field(ge=0, le=1 << 30)], Annotated[int, Field(ge=0, le=1 << 30)]]
Written = Annotated[str, Query(pattern=r"^\d{1,9}-\d{1,9}$", description="FROM-TO, in characters.")]
Places = Annotated[str, Query(pattern=rf"^\d{{1,9}}-\d{{1,9}}(,\d{{1,9}}-\d{{1,9}}){{0,{MOST - 1}}}$",
                              description="The same, several.")]
From = Literal["pronoun", "clause", "end"]
Right = Annotated[int, Query(ge=0, le=MOST)]


class Asked(BaseModel):
    """An open text, and in its characters the pronoun, what it may stand for, and which of these is right."""

    id: str = Field(max_length=200)
    pronoun: Span
    candidates: list[Span] = Field(min_length=1, max_length=MOST)
    right: int = Field(0, ge=0, le=MOST)


def routes(desk: Desk) -> APIRouter:
    """The routes, on a desk."""
    router = APIRouter(prefix="/api")

    @router.post("/coreferences")
    async def solve(asked: Asked, request: Request) -> dict:
        def job(turn: Turn) -> dict[str, Any]:
            reader, riddle = _posed(desk, asked)
            return _told(riddle, look(reader, riddle), _itself(reader, riddle))

        return await worked(request, desk.turns, job)

    @router.get("/coreferences/{id}")
    async def pieces(id: Id, request: Request) -> dict:
        """The words of an open text to choose from, each with its place and its tokens; a mark has no place."""
        def job(turn: Turn) -> dict[str, Any]:
            trace = desk.trace(id)
            _, places = _read(desk, trace)
            return {"words": [{"place": place if place[1] else None, "tokens": tokens,
                               "label": trace.text[slice(*place)] if place[1] else trace.tokens[tokens[0]]}
                              for place, tokens in words(trace.text, places)]}

        return await worked(request, desk.turns, job)

    @router.get("/coreferences/{id}/pictures/{format}")
    async def picture(id: Id, format: Format, pronoun: Written, candidates: Places, request: Request, right: Right = 0,
                      at: From = "pronoun", lang: Language = "en", dark: bool = False) -> Response:
        """Every head by the share of its weight that is on the right candidate, as `klieg coref` draws it; or its numbers."""
        [place], named = _spans(pronoun), _spans(candidates)
        asked = Asked.model_validate({"id": id, "pronoun": place, "candidates": named, "right": right})

        def job(turn: Turn) -> bytes:
            reader, riddle = _posed(desk, asked)
            seen = look(reader, riddle)
            phrases = [riddle.phrase(place) for place in riddle.candidates]
            if format == "json":
                return plain({**seen.as_json(), "model": reader.name, "text": riddle.text, "itself": _itself(reader, riddle),
                              "pronoun": riddle.phrase(riddle.pronoun), "candidates": phrases, "right": list(riddle.right)})
            good = riddle.right.index(True)
            names = [phrases[good], *(phrase for n, phrase in enumerate(phrases) if n != good)]
            shares = seen.shares(READINGS.index(at), riddle.right)
            return drawn(one_grid(reader.name, seen.rows, shares, at, riddle.phrase(riddle.pronoun), names, theme(dark),
                                  language=lang), format)

        return file(await worked(request, desk.turns, job), format)

    return router


def analysed(desk: Desk, name: str) -> corpora.Reader:
    """A model of the desk as one that reads a text and says what its heads do; KliegError for one that cannot."""
    known = desk.model(name)
    if isinstance(known, Reader):
        if known.foreign is not None:
            return corpora.Reader(known.foreign, known.foreign.tokenizer, name)
        if known.own is not None and not isinstance(known.own[0], Marian):
            return corpora.Reader(known.own[0], known.own[1], name)
    raise KliegError(f"{name!r} does not read one text by itself; choose a model that continues texts or fills gaps.")


def _posed(desk: Desk, asked: Asked) -> tuple[corpora.Reader, Riddle]:
    """Who reads the open text, and the riddle in it."""
    trace = desk.trace(asked.id)
    reader, _ = _read(desk, trace)
    return reader, marked(trace.text, asked.pronoun, asked.candidates, asked.right)


def _read(desk: Desk, trace: Trace) -> tuple[corpora.Reader, list[Place]]:
    """Who reads an open text, and the places of its tokens. KliegError where they are not the tokens that the page shows."""
    reader = analysed(desk, trace.model)
    if len(trace.tokens) > LONGEST:
        raise KliegError(f"this text has {len(trace.tokens):,} tokens, and a pronoun is followed in up to {LONGEST:,}; take a "
                         "shorter one.")
    ids, places = reader.placed(trace.text)
    if ids != trace.ids:
        raise KliegError("this text was not typed but written by the model, in other tokens than its characters have; type it.")
    return reader, places


def _itself(reader: corpora.Reader, riddle: Riddle) -> list[float] | None:
    """The model's own answer, of each candidate a share; None of one that gives texts no probability."""
    return own_shares(Scorer.of(reader), riddle) if continues(reader.model) else None


def _told(riddle: Riddle, found: Look, itself: list[float] | None) -> dict[str, Any]:
    readings = []
    for n, name in enumerate(READINGS):
        most, blind = found.most(n, riddle.right)
        readings.append({"name": name, "tokens": found.queries[n], "shares": found.shares(n, riddle.right), "most": most,
                         "blind": blind, "weights": found.weights[n, 0].tolist()})
    return {"rows": [asdict(row) for row in found.rows],
            "candidates": [{"phrase": riddle.phrase(place), "place": place, "tokens": tokens, "right": right} for
                           place, tokens, right in zip(riddle.candidates, found.keys, riddle.right, strict=True)],
            "readings": readings, "itself": itself}


def _spans(written: str) -> list[tuple[int, ...]]:
    return [tuple(map(int, part.split("-"))) for part in written.split(",")]

