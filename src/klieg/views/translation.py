"""What a translator wrote: source and target on one line, and the probability of every word of the target.

The decoder is run once over the whole target, so each probability is that of the word given the
source and the target's words before it, whether the target was found or given.
"""

from __future__ import annotations

import math
from dataclasses import replace

from klieg.trace import Candidate, Trace
from klieg.views.glyphs import crop, safe, width
from klieg.views.palette import LIGHT, Paint, Theme
from klieg.views.picture import FAINT, INK, PAPER, Bar, Mark, Medium, Picture, Span, Text
from klieg.views.words import phrase, say

MOST = 24        # words of a target that the figure has lines for
LABEL = 18       # columns of a word


def translated(trace: Trace) -> tuple[Span, ...]:
    """source → target, as they were read and written."""
    return Span(safe(trace.source.text), INK, bold=True), Span("  →  ", FAINT), Span(safe(trace.text) or "∅", INK, bold=True)


def prefix(trace: Trace, after: int, columns: int) -> str:
    """The target up to a token; of one wider than the columns its end, behind an ellipsis."""
    kept: list[str] = []
    for token in reversed([safe(token) for token in trace.tokens[:after + 1]]):
        if kept and width(" ".join([token, *kept])) > columns:
            return " ".join(["…", *kept])
        kept.insert(0, token)
    return " ".join(kept)


def steps(trace: Trace) -> list[tuple[Candidate, Candidate]]:
    """For every token of the target and its end mark: what was written, and what was likeliest there."""
    # Every target ends with the mark that every source ends with. A label is that of the token in its place.
    ids, labels = [*trace.ids[1:], trace.source.ids[-1]], [*trace.tokens[1:], trace.source.tokens[-1]]
    return [(replace(trace.candidate(id, after), token=label), trace.next_tokens(1, after)[0])
            for after, (id, label) in enumerate(zip(ids, labels, strict=True))]


def written(trace: Trace, token: int | None = None, theme: Theme = LIGHT, *, medium: Medium = PAPER,
            room: float | None = None, gutter: float = 0, language: str = "en") -> Picture:
    """A bar for each word of the target, and beside it what was likelier; of a long target, those around a token."""
    paper, every = medium is PAPER, steps(trace)
    token = len(every) - 1 if token is None else token
    start = max(min(token - MOST // 2, len(every) - MOST), 0)
    shown = range(start, min(start + MOST, len(every)))
    gutter = max((max(min(width(safe(every[n][0].token)), LABEL) for n in shown) + 1) * medium.char, gutter)
    likelier = {n: say("likelier", language, token=crop(safe(every[n][1].token), LABEL), share=_percent(every[n][1].p))
                for n in shown if every[n][0].id != every[n][1].id}
    beside = max((width(words) + 3 for words in likelier.values()), default=0)
    length = min(120.0 if paper else 32.0, (room or 1000) - gutter - (12 + beside) * medium.char)
    length = length if paper else max(length // 1, 1)
    marks: list[Mark] = [Text(0 if paper else gutter, 0, phrase("written", language))]
    y, right = medium.line * (1.3 if paper else 1), gutter + length + 11 * medium.char
    for n in shown:
        own, best = every[n]
        label = Span(crop(safe(own.token), LABEL), INK, bold=n == token)
        marks.append(Text(gutter - medium.char, y, (label,), "end"))
        marks.append(Bar(gutter, y + (4 if paper else 0), length, medium.line - (8 if paper else 0), own.p, own.p,
                         Paint("output", strength=1 if own.id == best.id else 0.55),
                         f"{safe(own.token)}, probability {own.p:.6g}"))
        marks.append(Text(right, y, (Span(_percent(own.p), INK),), "end"))
        if n in likelier:
            marks.append(Text(right + 3 * medium.char, y, (Span(likelier[n], FAINT),)))
        y += medium.line
    if len(shown) < len(every):
        marks.append(Text(gutter, y, phrase("of steps", language, shown=len(shown), all=len(every))))
        y += medium.line
    title = say("written", language)
    across = max(right + beside * medium.char, (0 if paper else gutter) + width(title) * medium.char)
    return Picture(min(across, room or math.inf), y, tuple(marks), title, theme, medium)


def _percent(p: float) -> str:
    return f"{100 * p:.2f} %" if p >= 5e-4 or p == 0 else f"{100 * p:.3g} %"
