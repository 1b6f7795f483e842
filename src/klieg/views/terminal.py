"""What `klieg explain` shows: tokens, heads, every step of one head, the next tokens, the certificate.

    console.print(screen(trace, layer=2, head=3))

The screen is as wide as the terminal and never wider. A long text is shown around the chosen
token, and the screen says which tokens are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import isqrt

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text as Line

from klieg.trace import Candidate, Trace
from klieg.views import figures, text
from klieg.views.focus import Focus, focus
from klieg.views.glyphs import crop, safe, width
from klieg.views.heatmap import MOST, ranges
from klieg.views.palette import DARK, Paint, Theme
from klieg.views.picture import FAINT, INK, TERMINAL, Cell, Picture, Span, Text
from klieg.views.table import STAGES
from klieg.views.words import phrase, say

GAP = 2             # columns between two tables
LINES = 3           # lines of tokens; a longer text is cut around the chosen one
MARKED = {"query": Paint("query"), "key": Paint("key")}


@dataclass(frozen=True)
class screen:
    """The whole screen of one trace; rich prints it."""

    trace: Trace
    layer: int | None = None
    head: int | None = None
    token: int | None = None
    scale: str = "linear"
    next: int = 8
    also: Sequence[Candidate] = ()
    """Tokens of interest besides the likeliest; they are shown with their rank."""
    language: str = "en"
    theme: Theme = DARK

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from self.lines(options.max_width)

    def lines(self, columns: int) -> Iterator[Line]:
        """Every line, at most `columns` wide."""
        seen = focus(self.trace, self.layer, self.head, self.token)
        gutter = max(width(self._say(key)) for key in ("tokens", "heads", "next")) + 3
        yield from self._header(columns)
        yield from self._tokens(seen, gutter, columns)
        yield from self._heads(seen, gutter, columns)
        yield from self._tables(seen, columns)
        yield from self._next(seen, gutter, columns)
        yield from self._seal(seen, columns)

    def _say(self, key: str, **values: object) -> str:
        return say(key, self.language, **values)

    def _line(self, columns: int, *spans: Span) -> Line:
        return text.written(spans, self.theme, columns)

    def _header(self, columns: int) -> Iterator[Line]:
        name, rest = Span(safe(self.trace.model), INK, True), safe(figures.summary(self.trace, self.language))
        if width(name.text) + 3 + width(rest) <= columns:
            yield self._line(columns, name, Span(f"   {rest}", FAINT))
        else:
            yield self._line(columns, name)
            yield from (self._line(columns, Span(part, FAINT)) for part in _wrap(rest.split(" · "), " · ", columns))
        yield self._line(columns)

    def _tokens(self, seen: Focus, gutter: int, columns: int) -> Iterator[Line]:
        """The tokens with their numbers, the chosen one blue, the one that the opened head is on red."""
        lines: list[list[Span]] = [[]]
        first, used = 0, 0
        for n, token in enumerate(map(safe, self.trace.tokens)):
            label = crop(token, max(columns - gutter - 8, 1))
            need = width(f"{n} {label}") + 3
            if lines[-1] and used + need > columns - gutter + 3:
                if n > seen.token and len(lines) >= LINES:
                    break
                lines.append([])
                used = 0
            role = "query" if n == seen.token else "key" if n == seen.here.key else None
            lines[-1] += [Span(f"{n} ", FAINT), Span(label, MARKED.get(role, INK), role is not None), Span("   ")]
            used, first = used + need, n + 1
        kept = lines[-LINES:]
        start = int(kept[0][0].text)
        name = self._say("tokens")
        for n, line in enumerate(kept):
            left = name + " " * (gutter - width(name)) if n == 0 else " " * gutter
            yield self._line(columns, Span(left, INK, True), *line[:-1])
        out = [(0, start - 1), (first, len(self.trace.tokens) - 1)]
        if start > 0 or first < len(self.trace.tokens):
            said = self._say("left out of", tokens=ranges(out, self.language))
            yield self._line(columns, Span(" " * gutter), Span(said, FAINT))
        yield self._line(columns)

    def _heads(self, seen: Focus, gutter: int, columns: int) -> Iterator[Line]:
        key = "certain" if seen.here is seen.peak else "certain at"
        picture = figures.overview(self.trace, seen.token, self.theme, opened=(seen.layer, seen.head), medium=TERMINAL,
                                   note=figures.certainty(self.trace, seen.peak, self.language, key),
                                   room=columns, gutter=gutter, language=self.language)
        yield from self._named("heads", picture)
        yield self._line(columns)

    def _named(self, key: str, picture: Picture) -> Iterator[Line]:
        """A picture with its name in the empty gutter of its first line."""
        name = Text(0, 0, (Span(self._say(key), INK, True),))
        yield from text.lower(replace(picture, marks=(*picture.marks, name)))

    def _tables(self, seen: Focus, columns: int) -> Iterator[Line]:
        """The four stages of the opened head: in a row, in pairs, or under each other, as the width allows."""
        yield self._line(columns, Span(self._say("layer and head", layer=seen.layer, head=seen.head), INK, True))
        for finest, across in ((4, 4), (4, 2), (3, 2), (4, 1)):
            pictures = [self._table(seen, stage, finest, columns) for stage in STAGES]
            shelves = [pictures[n:n + across] for n in range(0, len(pictures), across)]
            if all(sum(p.width + GAP for p in shelf) - GAP <= columns for shelf in shelves):
                break
        fewest = min(isqrt(sum(isinstance(mark, Cell) for mark in p.marks)) for p in pictures)
        if fewest < len(self.trace.tokens):
            yield from self._shelf([self._table(seen, "weights", finest, columns, bare=True)], columns)
            shelves = [[self._table(seen, stage, finest, columns, fewest)] for stage in STAGES]
        for shelf in shelves:
            yield from self._shelf(shelf, columns)

    def _table(self, seen: Focus, stage: str, finest: int, columns: int, most: int = MOST, bare: bool = False) -> Picture:
        """One stage; `most` keeps the four on the same tokens where one of them has room for fewer; bare: no numbers."""
        return figures.heatmap(
            self.trace, seen.layer, seen.head, stage, figures.scale_of(stage, self.scale), self.theme, token=seen.token,
            medium=TERMINAL, room=columns, finest=finest, most=most, bare=bare, heading="", language=self.language)

    def _shelf(self, pictures: list[Picture], columns: int) -> Iterator[Line]:
        """Pictures next to each other, and an empty line under them."""
        blocks = [text.lower(picture) for picture in pictures]
        for n in range(max(map(len, blocks))):
            line = Line(no_wrap=True, overflow="crop")
            for picture, block in zip(pictures, blocks, strict=True):
                part = block[n] if n < len(block) else Line()
                line.append_text(part)
                if picture is not pictures[-1]:
                    line.append(" " * (int(picture.width) + GAP - width(part.plain)))
            yield line
        yield self._line(columns)

    def _next(self, seen: Focus, gutter: int, columns: int) -> Iterator[Line]:
        picture = figures.next_tokens(self.trace, self.next, seen.token, self.theme, also=self.also, medium=TERMINAL,
                                      room=columns, gutter=gutter, language=self.language)
        yield from self._named("next", picture)
        yield self._line(columns)

    def _seal(self, seen: Focus, columns: int) -> Iterator[Line]:
        """The certificate, and what to do next."""
        mark, *bounds = figures.certificate(self.trace, self.language, TERMINAL)
        parts = _wrap(bounds[0].text.split(" · "), " · ", columns - width(mark.text))
        for n, part in enumerate(parts):
            yield self._line(columns, mark if n == 0 else Span(" " * width(mark.text)), Span(part, bounds[0].paint))
        cell = f"--cell {seen.layer}.{seen.head}.{seen.token}.{seen.here.key}"
        for key, command in (("one weight", cell), ("browser", "klieg serve")):
            yield self._line(columns, *phrase(key, self.language, command=Span(command, INK)))


def _wrap(parts: Sequence[str], between: str, columns: int) -> list[str]:
    """Parts joined into lines no wider than the columns, broken only between parts."""
    lines: list[str] = []
    for part in parts:
        if lines and width(lines[-1] + between + part) <= columns:
            lines[-1] += between + part
        else:
            lines.append(part)
    return lines
