"""The questions of coreference: where every head looks from a pronoun of an open text, what the model itself says it stands
for, and what heads make of whole sets of riddles.

Sets are those of the folder of public texts that the server was started with, by their names; a set is gone through once
for each model, riddle by riddle, and the turn is offered between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path as Folder
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from klieg.analysis import reader as corpora
from klieg.analysis.coreference import READINGS, Coreference, Look, coreference, look, own_shares
from klieg.analysis.likelihood import Scorer, continues
from klieg.analysis.riddles import SETS, Riddle, marked, riddles
from klieg.data import data_folder
from klieg.errors import KliegError
from klieg.explorer.desk import Desk
from klieg.explorer.exports import LONGEST, Format, Language, drawn, file, plain, theme
from klieg.explorer.jobs import Tell, streamed_by, worked
from klieg.explorer.looks import Id
from klieg.explorer.reader import Reader
from klieg.explorer.spoken import line
from klieg.explorer.turns import Turn
from klieg.seq2seq import Marian
from klieg.trace import Trace
from klieg.views.coreference import one_grid, set_grid

FILLS = "chat"      # the bundled model that fills the gaps of masked sets, as in `klieg coref`
MOST = 12           # candidates

Span = tuple[Annotated[int, Field(ge=0, le=1 << 30)], Annotated[int, Field(ge=0, le=1 << 30)]]
Set = Annotated[str, Path(max_length=50)]
Model = Annotated[str, Query(max_length=500)]
Places = Annotated[str, Query(pattern=r"^\d{1,9}-\d{1,9}(,\d{1,9}-\d{1,9}){0,20}$", description="FROM-TO, in characters.")]
From = Literal["pronoun", "clause", "end"]
Right = Annotated[int, Query(ge=0, le=MOST)]


class Asked(BaseModel):
    """An open text, and in its characters the pronoun, what it may stand for, and which of these is right."""

    id: str = Field(max_length=200)
    pronoun: Span
    candidates: list[Span] = Field(min_length=1, max_length=MOST)
    right: int = Field(0, ge=0, le=MOST)


class Wanted(BaseModel):
    """A set by its name, and the model whose heads answer."""

    name: str = Field(max_length=50)
    model: str = Field(max_length=500)


def routes(desk: Desk) -> APIRouter:
    """The routes, on a desk."""
    router = APIRouter(prefix="/api")
    found: dict[tuple[str, str], Coreference] = {}

    @router.post("/coreferences")
    async def solve(asked: Asked, request: Request) -> dict:
        def job(turn: Turn) -> dict[str, Any]:
            reader, riddle = _posed(desk, asked)
            return _told(riddle, look(reader, riddle), _itself(reader, riddle))

        return await worked(request, desk.turns, job)

    @router.get("/coreferences/{id}/pictures/{format}")
    async def picture(id: Id, format: Format, pronoun: Places, candidates: Places, request: Request, right: Right = 0,
                      at: From = "pronoun", lang: Language = "en", dark: bool = False) -> Response:
        """Every head by the share of its weight that is on the right candidate, as `klieg coref` draws it; or its numbers."""
        [place], named = _spans(pronoun)[:1], _spans(candidates)
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

    @router.get("/riddles")
    def sets() -> dict:
        """The sets that there are texts for."""
        try:
            folder = data_folder()
        except KliegError:
            return {"sets": []}
        return {"sets": [name for name, known in SETS.items()
                         if all((folder / each).is_file() for each in (*known.development, *known.test))]}

    @router.post("/riddles")
    async def go_through(asked: Wanted, request: Request) -> StreamingResponse:
        """Events "progress", a riddle each, then one "found"."""
        folder = _folder(asked.name)

        def job(turn: Turn, tell: Tell) -> None:
            def step(done: int, expected: int) -> None:
                tell("progress", {"done": done, "expected": expected})
                turn.offer()

            key = asked.name, asked.model
            if key not in found:
                reader = analysed(desk, asked.model)
                scorers: list[Scorer] = []

                def likeliest(choices: Sequence[Sequence[str]]) -> list[int]:
                    scorers[:] = scorers or [Scorer.load(FILLS)]
                    return scorers[0].likeliest(choices)

                found[key] = coreference(reader, riddles(asked.name, folder, likeliest), step)
            tell("found", _summed(found[key]))

        return await streamed_by(request, desk.turns, job, lambda error: line(error, request))

    @router.get("/riddles/{name}/pictures/{format}")
    async def set_picture(name: Set, format: Format, model: Model, request: Request, lang: Language = "en",
                          dark: bool = False) -> Response:
        """What was found of a set: every head by how many riddles it solves; or all numbers."""
        def job(turn: Turn) -> bytes:
            if (known := found.get((name, model))) is None:
                raise KliegError(f"the set {name!r} was not gone through with {model!r} since this server was started; do that "
                                 "first.", zh=f"服务器启动以来还没有用 {model!r} 做过题集 {name!r}；请先做一遍。")
            return plain(known.as_json()) if format == "json" else drawn(set_grid(known, theme(dark), language=lang), format)

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
    raise KliegError(f"{name!r} does not read one text by itself; choose a model that continues texts or fills gaps.",
                     zh=f"{name!r} 不是单读一段文字的模型；请换一个会续写或会填空的模型。")


def _posed(desk: Desk, asked: Asked) -> tuple[corpora.Reader, Riddle]:
    """Who reads the open text, and the riddle in it. KliegError where the text is not the tokens that the page shows."""
    trace = desk.trace(asked.id)
    reader = analysed(desk, trace.model)
    if len(trace.tokens) > LONGEST:
        raise KliegError(f"this text has {len(trace.tokens):,} tokens, and a pronoun is followed in up to {LONGEST:,}; take a "
                         "shorter one.",
                         zh=f"这段文字有 {len(trace.tokens):,} 个词元，最多只能在 {LONGEST:,} 个里追踪代词；请取一段较短的。")
    if _ids(reader, trace) != trace.ids:
        raise KliegError("this text was not typed but written by the model, in other tokens than its characters have; type it.",
                         zh="这段文字是模型写出的，与照字面切分的词元不同；请把它输入一遍。")
    return reader, marked(trace.text, asked.pronoun, asked.candidates, asked.right)


def _ids(reader: corpora.Reader, trace: Trace) -> list[int]:
    return reader.placed(trace.text)[0]


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


def _summed(found: Coreference) -> dict[str, Any]:
    return {**found.as_json(), "rows": [asdict(row) for row in found.rows]}


def _spans(written: str) -> list[tuple[int, ...]]:
    return [tuple(map(int, part.split("-"))) for part in written.split(",")]


def _folder(name: str) -> Folder:
    """The folder of public texts; KliegError for a set that is none, and where no folder is named."""
    if name not in SETS:
        raise KliegError(f"there is no set {name!r}; there are {', '.join(SETS)}.",
                         zh=f"没有题集 {name!r}；有的是：{'、'.join(SETS)}。")
    try:
        return data_folder()
    except KliegError:
        raise KliegError("no folder of texts is named; set KLIEG_DATA and start the server again (docs/data.md lists them).",
                         zh="没有指定公开文本的文件夹；请设好 KLIEG_DATA 再启动服务器（见 docs/data.md）。") from None
