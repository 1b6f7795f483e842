"""A film on paper: every token that was written with the probability it had, what else it might have been, and where it looked.

One line a token. Solid is what was written, pale what was not, the likeliest first; the cells beside it are the row
of weights that it was chosen from, which is that of the token before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from klieg.errors import KliegError
from klieg.trace import Call, Trace
from klieg.views import wire
from klieg.views.figures import certificate, summary
from klieg.views.focus import labels, row
from klieg.views.glyphs import crop, safe, width
from klieg.views.heatmap import limit, located
from klieg.views.palette import LIGHT, Paint, Theme
from klieg.views.picture import FAINT, INK, PAPER, Bar, Cell, Mark, Picture, Ramp, Rule, Span, Text
from klieg.views.sheet import Line, sheet
from klieg.views.translation import translated
from klieg.views.words import phrase, say

BESIDE = 12          # candidates of a step that are told
NAMED = 3            # of them that are written out on paper
LINES = 96           # steps on paper; of more the last ones
LABEL = 12           # columns of a word
LONG = 200.0         # pixels of a bar of 100 %
CELLS = 120          # cells of a row of weights; more tokens are pooled
SHOWN = 40           # keys up to which each has its label
NARROW, WIDE = 4.0, 16.0   # pixels of a cell
PALE, OWN = Paint("output", strength=0.2), Paint("output", strength=0.55)


@dataclass(frozen=True, eq=False)
class Strip:
    """The tokens of a trace from `start` on, up to the step that is open; those before it are not of the film."""

    trace: Trace
    start: int
    stop: int
    call: Call
    """Whose rows are shown, of `head`."""
    head: int
    name: str = ""
    """"A" or "B", where there are two."""

    @property
    def looks(self) -> bool:
        """Whether its rows of weights can be computed."""
        return self.call.q is not None and self.call.k is not None


def told(trace: Trace, start: int, stop: int | None = None) -> dict[str, Any]:
    """Where the film begins, and of each of its tokens the probability that it had and what stood beside it."""
    if not trace.predicts or trace.kind == "encoder":
        raise KliegError("this model expects no next token, so it has no film; choose a model that writes.")
    count = len(trace.tokens)
    known = range(max(start, 1, count - len(trace.logits) + 1), count if stop is None else min(stop, count))
    return {"start": known.start, "steps": [_step(trace, at) for at in known]}


def _step(trace: Trace, at: int) -> dict[str, Any]:
    chosen = trace.candidate(trace.ids[at], at - 1)
    return {"id": chosen.id, "token": trace.tokens[at], "p": chosen.p, "rank": chosen.rank,
            "candidates": wire.candidates(trace, at - 1, BESIDE)}


def film(strip: Strip, theme: Theme = LIGHT, *, language: str = "en") -> Picture:
    """One line for each step, the open one framed; of more than LINES the last."""
    found = told(strip.trace, strip.start, strip.stop)
    every, first = found["steps"], found["start"]
    shown = every[-LINES:]
    first += len(every) - len(shown)
    char, line = PAPER.char, PAPER.line
    gutter = (max((min(width(safe(s["token"])), LABEL) for s in shown), default=0) + 6) * char
    after = gutter + LONG + 9 * char                     # where the percents end
    named = [_others(s, language) for s in shown]
    left = after + (max((sum(width(span.text) for span in spans) for spans in named), default=0) + 4) * char
    marks: list[Mark] = [Text(0, 0, _title(strip, language))]
    y = 2 * line
    if strip.looks and shown:
        y = max(y, line + _named_keys(marks, strip, first + len(shown) - 1, left, language))
    top = y
    for n, step in enumerate(shown):
        open = n == len(shown) - 1
        own = Paint("output") if open else INK
        marks += [Text(gutter - char, y, (Span(f"{first + n - found['start'] + 1}  ", FAINT),
                                          Span(crop(safe(step["token"]), LABEL), own, open)), "end"),
                  *_stack(step, gutter, y + 4, Paint("output") if open else OWN),
                  Text(after, y, (Span(percent(step["p"]), own, open),), "end"), Text(after + 2 * char, y, named[n], size=12)]
        if strip.looks:
            marks += _row(strip, first + n - 1, first + len(shown) - 1, left, y)
        y += line
    right = left + (_wide(strip, first + len(shown) - 1) if strip.looks and shown else 0)
    if shown:
        marks.append(Rule(0, y - line, right + 4, line, Paint("output"), 1.5))
    if len(shown) < len(every):
        marks.append(Text(gutter, y + 4, phrase("of steps", language, shown=len(shown), all=len(every))))
    if strip.looks and shown:
        marks.append(Ramp(left, y + 12, 120, 8, "weight", limit(0, PAPER), limit(1, PAPER)))
    title = f"{say('film', language)} {strip.name}".strip()
    right = max(right, sum(width(s.text) for s in _title(strip, language)) * char, left + 200 if top else 0)
    return Picture(right + 8, y + line + 8, tuple(marks), title, theme, PAPER)


def page(strips: Sequence[Strip], theme: Theme = LIGHT, *, language: str = "en") -> Picture:
    """Every strip under the other on one sheet, each sealed by the certificate of its pass."""
    trace = strips[0].trace
    head: list[Line] = [(Span(safe(trace.model), INK, bold=True), Span(f"   {safe(summary(trace, language))}", FAINT))]
    head.append(translated(trace) if trace.source is not None else (Span(crop(safe(_text(trace)), 120), INK, bold=True),))
    head.append(phrase("film help", language))
    rows = [film(strip, theme, language=language) for strip in strips]
    foot = [((Span(f"{strip.name}  ", INK, bold=True),) if strip.name else ()) + certificate(strip.trace, language, PAPER)
            for strip in strips]
    return sheet(head, rows, foot, crop(safe(f"{trace.model}: {say('film', language)}: {_text(trace)}"), 200))


def numbers(strips: Sequence[Strip]) -> dict[str, Any]:
    """The same as plain data for other programs: of every strip its steps, and with each the row of weights it looked with."""
    return {"model": strips[0].trace.model, "strips": [_numbers(strip) for strip in strips]}


def _numbers(strip: Strip) -> dict[str, Any]:
    trace, sealed = strip.trace, strip.trace.certificate
    found = told(trace, strip.start, strip.stop)
    for n, step in enumerate(found["steps"]):
        if strip.looks:
            step["looks"] = strip.call.row(strip.head, found["start"] + n - 1).tolist()
    return {"text": trace.text, "ids": trace.ids, "tokens": trace.tokens, "kernel": trace.kernel, **found,
            "open": {"layer": strip.call.layer, "head": strip.head, "kind": strip.call.kind},
            "certificate": {"row_sum_error": sealed.row_sum_error, "output_error": sealed.output_error}}


def percent(p: float) -> str:
    """A probability with two decimals, a small one with three digits."""
    return f"{100 * p:.2f} %" if p >= 5e-4 or p == 0 else f"{100 * p:.3g} %"


def _text(trace: Trace) -> str:
    return " ".join(trace.text.split())


def _title(strip: Strip, language: str) -> Line:
    place = located(strip.trace, strip.call.layer, strip.head, strip.call.kind, language)
    name = f"{say('film', language)} {strip.name}".strip()
    said = phrase("film looks", language, place=Span(place, INK)) if strip.looks else ()
    return (Span(f"{name}   ", INK, bold=True), *said)


def _others(step: dict[str, Any], language: str) -> Line:
    """What else it might have been, and the rank of what was written where that is not the first."""
    others = [c for c in step["candidates"] if c["id"] != step["id"]][:NAMED]
    said = " · ".join(f"{crop(safe(c['token']), LABEL)} {percent(c['p'])}" for c in others)
    rank = say("film rank", language, rank=step["rank"]) if step["rank"] > 1 else ""
    return tuple(span for span in (Span(f"{rank}   " if rank else "", INK), Span(said, FAINT)) if span.text)


def _stack(step: dict[str, Any], x: float, y: float, own: Paint) -> list[Mark]:
    """A bar of 100 %: what was written, then what was not."""
    high = PAPER.line - 8
    pieces = [(step["token"], step["p"], own)]
    pieces += [(c["token"], c["p"], PALE) for c in step["candidates"] if c["id"] != step["id"] and c["p"] >= 0.005]
    marks: list[Mark] = [Rule(x, y + high, LONG, 0, Paint("line"))]
    for token, p, paint in pieces:
        marks.append(Bar(x, y, max(LONG * p - 1.5, 1), high, p, 1.0, paint, f"{safe(token)}, probability {p:.6g}"))
        x += LONG * p
    return marks


def _keys(strip: Strip, last: int) -> int:
    """How many keys the rows see: the tokens before the last step, or a translator's source."""
    return strip.call.keys if strip.call.kind == "cross" else min(last, strip.call.keys)


def _cell(strip: Strip, last: int) -> tuple[int, float]:
    """Keys in a cell, and its width."""
    pool = -(-_keys(strip, last) // CELLS)
    return pool, min(max(560 / -(-_keys(strip, last) // pool), NARROW), WIDE)


def _wide(strip: Strip, last: int) -> float:
    pool, wide = _cell(strip, last)
    return -(-_keys(strip, last) // pool) * wide


def _row(strip: Strip, query: int, last: int, x: float, y: float) -> list[Mark]:
    """The row of one query as cells, several keys in each where there are many: the largest of their weights."""
    pool, wide = _cell(strip, last)
    weights, names = row(strip.call, strip.head, query), labels(strip.trace, strip.call)[1]
    cells: list[Mark] = []
    for n, start in enumerate(range(0, _keys(strip, last), pool)):
        seen = [(w, start + j) for j, w in enumerate(weights[start:start + pool]) if w is not None]
        if seen:
            weight, key = max(seen)
            cells.append(Cell(x + n * wide, y + 2, wide - 1, PAPER.line - 4, weight, Paint("weight", weight), "",
                              f"{safe(names[key])} {key}, weight {weight:.6g}"))
    return cells


def _named_keys(marks: list[Mark], strip: Strip, last: int, left: float, language: str) -> float:
    """The labels of the keys over their cells, or that they are pooled; returns how high they are."""
    keys, (pool, wide) = _keys(strip, last), _cell(strip, last)
    names = [crop(safe(name), LABEL) for name in labels(strip.trace, strip.call)[1][:keys]]
    if keys > SHOWN:
        said = phrase("film pooled" if pool > 1 else "film keys", language, pool=pool, last=keys - 1)
        marks.append(Text(left, PAPER.line, said, size=12))
        return PAPER.line
    long = [width(name) * PAPER.char * 12 / 13 for name in names]
    high = max(long) + 10
    for n, name in enumerate(names):
        fits = long[n] < wide
        marks.append(Text(left + (n + 0.5) * wide, high, (Span(name, Paint("key")),), "middle" if fits else "start", 12,
                          turn=0 if fits else -90))
    return high - 4
