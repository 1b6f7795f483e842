"""The sheet of a comparison: two texts or two models, one token of each, how alike their vectors are layer by layer, the same
head of both, and what comes next in both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from klieg.trace import Call, Trace
from klieg.views.curve import line
from klieg.views.figures import certificate, next_tokens, summary
from klieg.views.focus import labels
from klieg.views.glyphs import crop, safe, width
from klieg.views.heatmap import LABEL, heatmap, located, number
from klieg.views.palette import LIGHT, Paint, Theme
from klieg.views.picture import FAINT, INK, PAPER, Cell, Mark, Picture, Rule, Span, Text
from klieg.views.sheet import Line, sheet, together
from klieg.views.words import phrase, say

HIGH, WIDE, LEFT = 150.0, 64.0, 96.0   # pixels of the curve, of a step along it, and before the first
DASHES = 12         # and gaps of a dashed stretch
ACROSS = 110         # columns of a text before it is broken
WORDS = 120          # tokens of a text around the chosen one
LIKELY = 8           # next tokens of each


class Step(Protocol):
    """How alike two tokens are at one place of the stream; see klieg.analysis.similarity."""

    @property
    def name(self) -> str: ...
    @property
    def layer(self) -> int | None: ...
    @property
    def cosine(self) -> float: ...
    @property
    def mean(self) -> float | None: ...


@dataclass(frozen=True, eq=False)
class Side:
    """One text, its chosen token, and the call and head whose map is shown."""

    trace: Trace
    token: int
    call: Call
    head: int
    name: Literal["A", "B"]

    @property
    def tokens(self) -> list[str]:
        return labels(self.trace, self.call)[0]

    @property
    def after(self) -> int | None:
        """After which token its prediction is: the chosen one, or the last where that was not kept; None: it has none."""
        if not self.trace.predicts:
            return None
        last = len(self.trace.tokens) - 1
        return self.token if self.call.kind != "encoder" and self.token > last - len(self.trace.logits) else last


@dataclass(frozen=True, eq=False)
class Comparison:
    """Both sides, and the steps of their similarity; None with a `why`, a key of words.py, where there is none."""

    a: Side
    b: Side
    steps: Sequence[Step] | None
    why: str = ""


def page(of: Comparison, theme: Theme = LIGHT, *, scale: str = "linear", language: str = "en") -> Picture:
    """Everything on one sheet, sealed by the certificates of both passes."""
    sides = of.a, of.b
    models = list(dict.fromkeys((side.trace.model, summary(side.trace, language)) for side in sides))
    words = [(Span(safe(name), INK, bold=True), Span(f"   {safe(said)}", FAINT)) for name, said in models]
    rows = [texts(of, theme, language=language)]
    head: list[Line] = [*words]
    if of.steps is None:
        head.append(phrase(of.why, language))
    alike = [curve(of, theme, language=language)] if of.steps else []
    following = [next_tokens(side.trace, LIKELY, side.after, theme, language=language)
                 for side in sides if side.after is not None]
    maps = [heatmap(side.trace, side.call.layer, side.head, "weights", scale, theme, kind=side.call.kind, token=side.token,
                    heading=f"{side.name} · {located(side.trace, side.call.layer, side.head, side.call.kind, language)}",
                    language=language) for side in sides if side.call.q is not None and side.call.k is not None]
    rows += [together(row) for row in (alike, following, maps) if row]
    foot = [(Span(f"{side.name}  ", INK, bold=True), *certificate(side.trace, language, PAPER)) for side in sides]
    title = " · ".join(dict.fromkeys(crop(safe(side.trace.text), 80) for side in sides))
    return sheet(head, rows, foot, f"{say('compare', language)}: {title}")


def texts(of: Comparison, theme: Theme = LIGHT, *, language: str = "en") -> Picture:
    """Both texts, the chosen tokens in the colour of a query; of a long one what is around it."""
    marks: list[Mark] = []
    y = 0.0
    for side in (of.a, of.b):
        marks.append(Text(0, y, (Span(side.name, INK, bold=True),)))
        for words in _lines(side):
            marks.append(Text(3 * PAPER.char, y, words))
            y += PAPER.line
        y += 4
    right = max(mark.x + mark.columns * PAPER.char for mark in marks if isinstance(mark, Text))
    return Picture(right, y, tuple(marks), say("compare", language), theme, PAPER)


def _lines(side: Side) -> list[Line]:
    """The tokens of a text in lines."""
    tokens, first = [safe(token) for token in side.tokens], max(side.token - 2 * WORDS // 3, 0)
    stop = min(first + WORDS, len(tokens))
    spans = [Span(f"{crop(tokens[n], 4 * LABEL)} ", Paint("query") if n == side.token else INK, n == side.token)
             for n in range(first, stop)]
    spans = [*([Span("… ", FAINT)] if first else []), *spans, *([Span("…", FAINT)] if stop < len(tokens) else [])]
    lines: list[list[Span]] = [[]]
    for span in spans:
        if lines[-1] and sum(width(s.text) for s in lines[-1]) + width(span.text) > ACROSS:
            lines.append([])
        lines[-1].append(span)
    return [tuple(words) for words in lines]


def curve(of: Comparison, theme: Theme = LIGHT, *, language: str = "en") -> Picture:
    """The cosine of the two tokens' vectors from the embedding to the last layer, and the mean of all pairs; with numbers."""
    steps = of.steps or []
    values = [value for step in steps for value in (step.cosine, step.mean) if value is not None]
    low = -1.0 if min(values) < -0.5 else -0.5 if min(values) < 0 else 0.0
    top = 2 * PAPER.line
    across = WIDE * len(steps)

    def at(n: int, value: float) -> tuple[float, float]:
        return LEFT + (n + 0.5) * WIDE, top + HIGH * (1 - value) / (1 - low)

    a, b = (Span(crop(safe(side.tokens[side.token]), LABEL), Paint("query"), True) for side in (of.a, of.b))
    heading = Text(0, 0, phrase("alike", language, a=a, b=b) + phrase("alike mean", language))
    marks: list[Mark] = [heading]
    for tick in (value / 2 for value in range(round(2 * low), 3)):
        y = at(0, tick)[1]
        marks += [Rule(LEFT, y, across, 0, Paint("line")),
                  Text(LEFT - 8, y - PAPER.line / 2, (Span(number(tick, 1, PAPER), FAINT),), "end", 11)]
    for name, paint, dashes in (("mean", FAINT, DASHES), ("cosine", INK, 0)):
        points = [(n, getattr(step, name)) for n, step in enumerate(steps) if getattr(step, name) is not None]
        marks += line([at(*point) for point in points], paint,
                      [f"{_place(steps[n], 'en')}, {name} {value:.6g}" for n, value in points], dashes)
    for n, step in enumerate(steps):
        x, y = at(n, step.cosine)
        marks.append(Cell(x - 3, y - 3, 6, 6, step.cosine, INK, "", f"{_place(step, 'en')}, cosine {step.cosine:.6g}"))
    y = top + HIGH + 8
    for key, name, paint in (("", "", FAINT), ("alike pair", "cosine", INK), ("alike pairs", "mean", FAINT)):
        if key:
            marks.append(Text(0, y, (Span(say(key, language), FAINT),), size=11))
        for n, step in enumerate(steps):
            value = getattr(step, name) if name else None
            said = _place(step, language) if not name else "–" if value is None else number(value, 4, PAPER)
            marks.append(Text(at(n, 0)[0], y, (Span(said, paint),), "middle", 11))
        y += PAPER.line
    title = "".join(span.text for span in phrase("alike", language, a=a, b=b))
    right = max(LEFT + across, heading.columns * PAPER.char)
    return Picture(right, y, tuple(marks), title, theme, PAPER)


def _place(step: Step, language: str) -> str:
    return say(f"alike {step.name}", language, layer=step.layer)


def numbers(of: Comparison) -> dict[str, Any]:
    """The same as plain data for other programs."""
    steps = None if of.steps is None else [{"name": s.name, "layer": s.layer, "cosine": s.cosine, "mean": s.mean}
                                           for s in of.steps]
    return {"a": _numbers(of.a), "b": _numbers(of.b), "steps": steps, "why": say(of.why, "en") if of.why else None}


def _numbers(side: Side) -> dict[str, Any]:
    trace, sealed, call = side.trace, side.trace.certificate, side.call
    said: dict[str, Any] = {"model": trace.model, "text": trace.text, "ids": trace.ids, "tokens": trace.tokens,
                            "token": side.token, "kernel": trace.kernel,
                            "certificate": {"row_sum_error": sealed.row_sum_error, "output_error": sealed.output_error},
                            "open": {"layer": call.layer, "head": side.head, "kind": call.kind}}
    if trace.source is not None:
        said["source"] = {"text": trace.source.text, "ids": trace.source.ids, "tokens": trace.source.tokens}
    if call.q is not None and call.k is not None:
        said["open"]["weights"] = call.weights(side.head).tolist()
    if side.after is not None:
        said["next"] = {"after": side.after,
                        "candidates": [{"token": c.token, "id": c.id, "p": c.p}
                                       for c in trace.next_tokens(LIKELY, side.after)]}
    return said
