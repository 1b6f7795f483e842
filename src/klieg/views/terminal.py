"""What `klieg explain` shows: tokens, heads, every step of one head, the next tokens, the certificate.

    console.print(screen(trace, layer=2, head=3))
    console.print(screen(translation, kind="encoder"))    # or "self", or "cross", which is what comes first

The screen is as wide as the terminal and never wider. A long text is shown around the chosen
token, and the screen says which tokens are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text as Line

from klieg.trace import Candidate, Trace
from klieg.views import figures, text
from klieg.views.focus import Focus, focus
from klieg.views.glyphs import crop, safe, width
from klieg.views.heatmap import MOST, located, ranges
from klieg.views.palette import DARK, Paint, Theme
from klieg.views.picture import FAINT, INK, TERMINAL, Cell, Picture, Span, Text
from klieg.views.table import STAGES
from klieg.views.translation import translated, written
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
    kind: str | None = None
    """Of a translator the attention that is opened: encoder, self (the decoder's own) or cross."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from self.lines(options.max_width)

    def lines(self, columns: int) -> Iterator[Line]:
        """Every line, at most `columns` wide."""
        seen = focus(self.trace, self.layer, self.head, self.token, self.kind)
        texts = ("tokens",) if self.trace.source is None else ("source", "target", "writes")
        gutter = max(width(self._say(key)) for key in (*texts, "heads", "next")) + 3
        yield from self._header(columns)
        yield from self._texts(seen, gutter, columns)
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
        if self.trace.source is not None:
            source, arrow, target = translated(self.trace)
            together = sum(width(span.text) for span in (source, arrow, target)) <= columns
            yield from ([self._line(columns, source, arrow, target)] if together else
                        [self._line(columns, source), self._line(columns, Span("→ ", FAINT), target)])
        yield self._line(columns)

    def _texts(self, seen: Focus, gutter: int, columns: int) -> Iterator[Line]:
        """The tokens, of a translator those of both texts."""
        query, key = {seen.token: "query"}, {seen.here.key: "key"}
        if self.trace.source is None:
            yield from self._tokens("tokens", self.trace.tokens, key | query, gutter, columns)
        else:
            of_source = {"encoder": key | query, "cross": key, "self": {}}[seen.kind]
            of_target = {"encoder": {}, "cross": query, "self": key | query}[seen.kind]
            yield from self._tokens("source", self.trace.source.tokens, of_source, gutter, columns)
            yield from self._tokens("target", self.trace.tokens, of_target, gutter, columns)
        yield self._line(columns)

    def _tokens(self, name: str, tokens: Sequence[str], roles: dict[int, str], gutter: int, columns: int) -> Iterator[Line]:
        """The tokens of one text with their numbers: the query blue, the key that the opened head is on red."""
        lines: list[list[Span]] = [[]]
        first, used, middle = 0, 0, next((n for n, role in roles.items() if role == "query"), max(roles, default=0))
        for n, token in enumerate(map(safe, tokens)):
            label = crop(token, max(columns - gutter - 8, 1))
            need = width(f"{n} {label}") + 3
            if lines[-1] and used + need > columns - gutter + 3:
                if n > middle and len(lines) >= LINES:
                    break
                lines.append([])
                used = 0
            role = roles.get(n)
            lines[-1] += [Span(f"{n} ", FAINT), Span(label, MARKED.get(role, INK), role is not None), Span("   ")]
            used, first = used + need, n + 1
        kept = lines[-LINES:]
        start = int(kept[0][0].text)
        name = self._say(name)
        for n, line in enumerate(kept):
            left = name + " " * (gutter - width(name)) if n == 0 else " " * gutter
            yield self._line(columns, Span(left, INK, True), *line[:-1])
        out = [(0, start - 1), (first, len(tokens) - 1)]
        if start > 0 or first < len(tokens):
            said = self._say("left out of", tokens=ranges(out, self.language))
            yield self._line(columns, Span(" " * gutter), Span(said, FAINT))

    def _heads(self, seen: Focus, gutter: int, columns: int) -> Iterator[Line]:
        key = "certain" if seen.here is seen.peak else "certain at"
        picture = figures.overview(self.trace, seen.token, self.theme, kind=seen.kind, opened=(seen.layer, seen.head),
                                   medium=TERMINAL, note=figures.certainty(self.trace, seen, self.language, key),
                                   room=columns, gutter=gutter, language=self.language)
        yield from self._named("heads", picture)
        yield self._line(columns)

    def _named(self, key: str, picture: Picture) -> Iterator[Line]:
        """A picture with its name in the empty gutter of its first line."""
        name = Text(0, 0, (Span(self._say(key), INK, True),))
        yield from text.lower(replace(picture, marks=(*picture.marks, name)))

    def _tables(self, seen: Focus, columns: int) -> Iterator[Line]:
        """The four stages of the opened head: in a row, in pairs, or under each other, as the width allows."""
        yield self._line(columns, Span(located(self.trace, seen.layer, seen.head, seen.kind, self.language), INK, True))
        for finest, across in ((4, 4), (4, 2), (3, 2), (4, 1)):
            pictures = [self._table(seen, stage, finest, columns) for stage in STAGES]
            shelves = [pictures[n:n + across] for n in range(0, len(pictures), across)]
            if all(sum(p.width + GAP for p in shelf) - GAP <= columns for shelf in shelves):
                break
        fewest = min(len({mark.x for mark in p.marks if isinstance(mark, Cell)}) for p in pictures)
        if fewest < self.trace[seen.layer, seen.kind].keys:
            yield from self._shelf([self._table(seen, "weights", finest, columns, bare=True)], columns)
            shelves = [[self._table(seen, stage, finest, columns, fewest)] for stage in STAGES]
        for shelf in shelves:
            yield from self._shelf(shelf, columns)

    def _table(self, seen: Focus, stage: str, finest: int, columns: int, most: int = MOST, bare: bool = False) -> Picture:
        """One stage; `most` keeps the four on the same tokens where one of them has room for fewer; bare: no numbers."""
        return figures.heatmap(
            self.trace, seen.layer, seen.head, stage, figures.scale_of(stage, self.scale), self.theme, kind=seen.kind,
            token=seen.token, medium=TERMINAL, room=columns, finest=finest, most=most, bare=bare, heading="",
            language=self.language)

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
        if not self.trace.predicts:
            return
        after = figures.after_of(seen)
        picture = figures.next_tokens(self.trace, self.next, after, self.theme, also=self.also, medium=TERMINAL,
                                      room=columns, gutter=gutter, language=self.language)
        yield from self._named("next", picture)
        yield self._line(columns)
        if self.trace.source is not None:
            picture = written(self.trace, after, self.theme, medium=TERMINAL, room=columns, gutter=gutter,
                              language=self.language)
            yield from self._named("writes", picture)
            yield self._line(columns)

    def _seal(self, seen: Focus, columns: int) -> Iterator[Line]:
        """The certificate, and what to do next."""
        yield from sealed(self.trace, self.language, columns, self.theme)
        kind = "" if seen.kind == self.trace.kind else f"--kind {seen.kind} "
        cell = f"{kind}--cell {seen.layer}.{seen.head}.{seen.token}.{seen.here.key}"
        others = " · ".join(f"--kind {kind}" for kind in ("encoder", "self", "cross") if kind != seen.kind)
        last = ("browser", "klieg serve") if self.trace.source is None else ("other kinds", others)
        for key, command in (("one weight", cell), last):
            yield self._line(columns, *phrase(key, self.language, command=Span(command, INK)))


def sealed(trace: Trace, language: str, columns: int, theme: Theme = DARK) -> Iterator[Line]:
    """The certificate in lines no wider than the columns, broken only between its parts."""
    mark, bounds = figures.certificate(trace, language, TERMINAL)
    for n, part in enumerate(_wrap(bounds.text.split(" · "), " · ", columns - width(mark.text))):
        yield text.written((mark if n == 0 else Span(" " * width(mark.text)), Span(part, bounds.paint)), theme, columns)


def _wrap(parts: Sequence[str], between: str, columns: int) -> list[str]:
    """Parts joined into lines no wider than the columns, broken only between parts."""
    lines: list[str] = []
    for part in parts:
        if lines and width(lines[-1] + between + part) <= columns:
            lines[-1] += between + part
        else:
            lines.append(part)
    return lines
