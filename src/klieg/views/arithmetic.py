"""One weight's whole arithmetic, written so that a reader can recompute every number from its neighbours.

    console.print(arithmetic(trace.cell(2, 3, 4, 2)))

Numbers have at least seven significant digits and seven decimals where they are 1 or more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text as Line

from klieg.trace import Arithmetic
from klieg.views.glyphs import crop, safe, width
from klieg.views.palette import DARK, Paint, Theme
from klieg.views.picture import FAINT, INK, Span
from klieg.views.text import ink
from klieg.views.words import phrase, reason, say

LONGEST_ROW = 64    # scores of a row that are written one by one; of a longer row the largest half as many
STEP = 32           # columns of a step's name
Q, K, V, OUT, AMBER = (Paint(name) for name in ("query", "key", "value", "output", "amber"))


def exact(value: float) -> str:
    """A number with enough digits to go on computing with it."""
    if value == 0:
        return "0"
    if not math.isfinite(value):
        return "-∞" if value < 0 else "∞"
    return f"{value:.7f}" if abs(value) >= 1 else f"{value:#.7g}"


@dataclass(frozen=True)
class arithmetic:
    """The card of one weight, as wide as the terminal; rich prints it."""

    cell: Arithmetic
    language: str = "en"
    theme: Theme = DARK

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for spans in self.lines(options.max_width):
            line = Line(overflow="fold")
            for span in spans:
                line.append(span.text, ink(self.theme, span.paint, span.bold))
            yield line

    def lines(self, columns: int) -> Iterator[Sequence[Span]]:
        """Every line as spans."""
        yield from self._title()
        yield from self._products(columns)
        yield from self._score()
        yield from self._row(columns)
        yield from self._weight()
        yield from self._output(columns)

    def _say(self, key: str, /, **values: object) -> str:
        return say(key, self.language, **values)

    def _title(self) -> Iterator[Sequence[Span]]:
        c = self.cell
        names = {"query": Span(safe(c.query_token), Q, True), "key": Span(safe(c.key_token), K, True)}
        if c.reason is None:
            yield phrase("cell", self.language, INK, weight=Span(exact(c.weight), AMBER, True), **names)
        else:
            yield phrase("no cell", self.language, INK, reason=reason(c.reason, self.language), **names)
        kind = "" if c.kind == "self" else f"{self._say(c.kind)} · "
        yield [Span(kind + self._say("place", layer=c.layer, head=c.head, query=c.query, key=c.key), FAINT)]
        yield []

    def _products(self, columns: int) -> Iterator[Sequence[Span]]:
        c = self.cell
        rows = [("q", c.q, Q), ("k", c.k, K), ("q·k", c.products, INK)]
        if c.unrotated_q is not None:
            rows.insert(0, (f"q {self._say('before')}", c.unrotated_q, Paint("query", strength=0.7)))
            rows[1] = (f"q {self._say('after')}", c.q, Q)
        if c.unrotated_k is not None:
            rows.insert(-2, (f"k {self._say('before')}", c.unrotated_k, Paint("key", strength=0.7)))
            rows[-2] = (f"k {self._say('after')}", c.k, K)
        yield from self._vectors([(name, values.tolist(), paint) for name, values, paint in rows], columns)

    def _vectors(self, rows: list[tuple[str, list[float], Paint]], columns: int) -> Iterator[Sequence[Span]]:
        """Vectors under each other, in as many blocks of columns as the width asks for."""
        gutter = max(width(name) for name, _, _ in rows) + 1
        texts = [[exact(v) for v in values] for _, values, _ in rows]
        step = max(len(text) for row in texts for text in row) + 2
        across = max((columns - gutter) // step, 1)
        for start in range(0, len(texts[0]), across):
            places = range(start, min(start + across, len(texts[0])))
            yield [Span(_pad(self._say("widths"), gutter) + "".join(f"{n:>{step}}" for n in places), FAINT)]
            for (name, _, paint), row in zip(rows, texts, strict=True):
                yield [Span(_pad(name, gutter), paint, True), Span("".join(row[n].rjust(step) for n in places), paint)]
            yield []

    def _step(self, name: str, formula: str, value: str, paint: Paint = INK) -> Sequence[Span]:
        """One step: what, how, and the number."""
        equation = Span(formula and f"{formula} = ", Paint("ink2"))
        return [Span(_pad(name, STEP), FAINT), equation, Span(value, paint, True)]

    def _score(self) -> Iterator[Sequence[Span]]:
        c = self.cell
        yield self._step(self._say("product sum", d=len(c.products)), "q · k", exact(c.dot))
        score = c.scale * c.dot
        root = f" (1/√{len(c.q)})" if abs(c.scale * len(c.q) ** 0.5 - 1) < 1e-9 else ""
        yield self._step(self._say("scale"), f"{exact(c.dot)} × {exact(c.scale)}{root}", exact(score))
        if c.softcap is not None:
            capped = c.softcap * math.tanh(score / c.softcap)
            yield self._step(self._say("capped", cap=f"{c.softcap:g}"), "", exact(capped))
            score = capped
        if c.bias:
            yield self._step(self._say("bias"), f"{exact(score)} + {exact(c.bias)}", exact(c.scaled))
        seen = self._say("seen") if c.reason is None else self._say("not seen", reason=reason(c.reason, self.language))
        yield self._step(self._say("mask"), "", seen)
        yield self._step(self._say("score"), "", exact(c.score))
        yield []

    def _row(self, columns: int) -> Iterator[Sequence[Span]]:
        """Score and exponential of every key that is seen, the largest of a long row, and the sum of what is left."""
        c = self.cell
        scores = c.row_scores.tolist()
        seen = [j for j, s in enumerate(scores) if s > -math.inf]
        named = seen if len(seen) <= LONGEST_ROW else sorted(sorted(seen, key=lambda j: -scores[j])[:LONGEST_ROW // 2])
        parts = {j: math.exp(scores[j] - c.row_max) for j in seen}
        entries = [(str(j), exact(scores[j]), exact(parts[j]), j == c.key) for j in named]
        yield [Span(self._say("row"), INK, True), Span(f"   {self._say('key')}   {self._say('score')}   ", FAINT),
               Span(self._say("exponential", minus="-"), FAINT)]
        wide = [max((len(entry[n]) for entry in entries), default=0) + 2 for n in range(3)]
        across = max(columns // (sum(wide) + 2), 1)
        for start in range(0, len(entries), across):
            yield [span for j, score, part, own in entries[start:start + across] for span in (
                Span(j.rjust(wide[0]), K, own), Span(score.rjust(wide[1]), INK, own),
                Span(part.rjust(wide[2]) + "  ", AMBER if own else FAINT, own))]
        others = math.fsum(parts[j] for j in seen if j not in set(named))
        if len(named) < len(seen):
            yield self._step(self._say("others", count=len(seen) - len(named)), "", exact(others))
        sink = c.row_sum - math.fsum(parts.values())
        if sink > 1e-9 * c.row_sum:
            yield self._step(self._say("learned sink"), "", exact(sink))
        yield self._step(self._say("row max"), "", exact(c.row_max))
        yield self._step(self._say("row total"), "", exact(c.row_sum))
        yield []

    def _weight(self) -> Iterator[Sequence[Span]]:
        c = self.cell
        part = math.exp(c.score - c.row_max)
        exponent, quotient = f"{exact(c.score)} - {exact(c.row_max)}", f"{exact(part)} / {exact(c.row_sum)}"
        yield self._step(self._say("exponential", minus="-"), f"exp({exponent})", exact(part))
        yield self._step(self._say("weight"), quotient if c.row_sum else "", exact(c.weight), AMBER)
        yield self._step(self._say("model's own", minus="-"), "", exact(c.model_weight))
        yield self._step(self._say("difference"), "", f"{c.difference:.1e}" if c.difference else "0", V)
        yield []

    def _output(self, columns: int) -> Iterator[Sequence[Span]]:
        c = self.cell
        yield from self._vectors([("v", c.v.tolist(), V), (self._say("times v"), c.contribution.tolist(), V),
                                  (self._say("output"), c.output.tolist(), OUT)], columns)
        mine, all_of_it = (c.contribution @ c.output).item(), (c.output @ c.output).item()
        name, formula, quotient = self._say("share"), "(w·v · o) / (o · o)", f"{exact(mine)} / {exact(all_of_it)}"
        whole = self._step(name, f"{formula} = {quotient}", exact(c.share), OUT)
        if sum(width(span.text) for span in whole) <= columns:
            yield whole
        else:
            yield self._step(name, "", formula, Paint("ink2"))
            yield self._step("", quotient, exact(c.share), OUT)


def _pad(text: str, columns: int) -> str:
    return crop(text, columns) + " " * max(columns - width(text), 0)
