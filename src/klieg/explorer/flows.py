"""The questions of the flow: what reaches a token of an open text through all layers, beside what hiding each token does.

The text is read once more by its model, as hiding tokens needs the model itself.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from weakref import WeakKeyDictionary

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from klieg.analysis.flow import Flow, Share, flow
from klieg.errors import KliegError
from klieg.explorer.desk import Desk
from klieg.explorer.exports import LONGEST, Format, Language, Place, drawn, file, plain, theme
from klieg.explorer.jobs import Tell, streamed_by, worked
from klieg.explorer.looks import Id
from klieg.explorer.reader import Reader
from klieg.explorer.spoken import line
from klieg.explorer.turns import Turn
from klieg.models import Decoder
from klieg.trace import Trace
from klieg.views.flow import flow as picture_of


class Asked(BaseModel):
    """An open text, and the token that is flowed to, by default the last."""

    id: str = Field(max_length=200)
    token: int | None = Field(None, ge=0, le=1 << 30)
    without_first: bool = False


@dataclass(frozen=True, eq=False)
class _Found:
    """A Flow without its trace, under which it is kept: it would keep itself for ever."""

    effects: list[float]
    ways: list[Share]


class Kept:
    """The flows of every open text, as long as it is open, by their token and whether the first one was left out."""

    def __init__(self) -> None:
        self._found: WeakKeyDictionary[Trace, dict[tuple[int, bool], _Found]] = WeakKeyDictionary()

    def keep(self, trace: Trace, found: Flow) -> None:
        """A flow of the tokens of an open text; the pass that it was computed from is given back."""
        self._found.setdefault(trace, {})[found.token, found.without_first] = _Found(found.effects, found.ways)

    def of(self, trace: Trace, token: int | None, without_first: bool) -> Flow | None:
        """None for what was not computed yet."""
        at = len(trace.tokens) - 1 if token is None else token
        found = self._found.get(trace, {}).get((at, without_first))
        return None if found is None else Flow(trace, at, found.effects, found.ways, without_first)


def routes(desk: Desk) -> APIRouter:
    """The routes, on a desk."""
    router, kept = APIRouter(prefix="/api"), Kept()

    @router.post("/flows")
    async def follow(asked: Asked, request: Request) -> StreamingResponse:
        """Events "progress" while tokens are hidden, then one "found"."""
        def job(turn: Turn, tell: Tell) -> None:
            trace = desk.trace(asked.id)
            found = kept.of(trace, asked.token, asked.without_first)
            if found is None:
                found = _computed(desk, trace, asked, turn, tell)
                kept.keep(trace, found)
            tell("found", {"token": found.token, "without_first": found.without_first, "effects": found.effects,
                           "ways": [asdict(way) for way in found.ways]})

        return await streamed_by(request, desk.turns, job, lambda error: line(error, request))

    @router.get("/flows/{id}/pictures/{format}")
    async def picture(id: Id, format: Format, request: Request, token: Place = None, without_first: bool = False,
                      lang: Language = "en", dark: bool = False) -> Response:
        """A flow that was computed, as the table of `klieg flow`."""
        def job(turn: Turn) -> bytes:
            found = kept.of(desk.trace(id), token, without_first)
            if found is None:
                raise KliegError("this flow was not computed yet; compute it first.")
            if format == "json":
                return plain(found.as_json())
            return drawn(picture_of(found, theme(dark), language=lang), format)

        return file(await worked(request, desk.turns, job), format)

    return router


def _computed(desk: Desk, trace: Trace, asked: Asked, turn: Turn, tell: Tell) -> Flow:
    """The flow of the open text's own tokens; the turn is offered after every step."""
    reader = desk.model(trace.model)
    if not isinstance(reader, Reader) or reader.own is None or not isinstance(reader.own[0], Decoder):
        raise KliegError(f"{trace.model!r} is no decoder of Klieg's own, and only in one does all flow to the last token; "
                         "choose another model.")
    if len(trace.tokens) > LONGEST:
        raise KliegError(f"this text has {len(trace.tokens):,} tokens, and flows are followed through up to {LONGEST:,}; "
                         "take a shorter one.")

    def step(done: int, expected: int) -> None:
        tell("progress", {"done": done, "expected": expected})
        turn.offer()

    return flow(reader.own, trace.ids, asked.token, without_first=asked.without_first, name=trace.model, progress=step)
