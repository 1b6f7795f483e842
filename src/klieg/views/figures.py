"""The other figures: where a token looks in every head, its lines in one head, the next tokens, and the whole page.

    picture = figures.page(trace)
    Path("page.svg").write_text(svg.lower(picture))
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from klieg.trace import Call, Candidate, Trace
from klieg.views import focus as focusing
from klieg.views import translation
from klieg.views.focus import chosen, labels
from klieg.views.glyphs import crop, safe, width
from klieg.views.heatmap import LABEL, bound, heatmap, limit, located, percent
from klieg.views.palette import LIGHT, Paint, Theme
from klieg.views.picture import (
    FAINT,
    INK,
    PAPER,
    Bar,
    Link,
    Mark,
    Medium,
    Picture,
    Ramp,
    Rule,
    Span,
    Text,
)
from klieg.views.sheet import BETWEEN, Line, sheet, together
from klieg.views.words import phrase, say

__all__ = ["heatmap", "links", "next_tokens", "overview", "page"]
QUERY = Paint("query")
COLUMNS = 48       # tokens a small bar chart shows one by one; more are pooled
ACROSS = 13        # tokens up to which three maps stand side by side
MOST_LINKS = 16    # lines that can be told apart


def overview(trace: Trace, token: int | None = None, theme: Theme = LIGHT, *, kind: str | None = None,
             opened: tuple[int, int] | None = None, note: tuple[Span, ...] = (), medium: Medium = PAPER,
             room: float | None = None, gutter: float = 0, language: str = "en") -> Picture:
    """Layers x heads, the last layer on top: small bars of where one token looks. Heads of a K/V group stand together.

    opened: (layer, head) that is framed, with a note beside it, or below where there is no room. gutter: columns of the
    labels on the left, at least. With more tokens than columns neighbours are max-pooled, and it says so.
    """
    calls, token, paper = trace.of(kind), chosen(trace, token, kind), medium is PAPER
    queries, keys = ([safe(label) for label in axis] for axis in labels(trace, calls[0]))
    unit, line = (6.0 if paper else 1.0), (34.0 if paper else 1.0)
    room = room or (900 if paper else 100)
    names = [say("layer", language, layer=call.layer) for call in calls]
    gutter = max((max(map(width, names)) + 2) * medium.char, gutter)
    label = (width(say("head", language, head=calls[0].heads - 1)) + paper) * medium.char
    most = max(int(((room - gutter) / calls[0].heads - 2 * medium.char) / unit), 8)
    table = focusing.rows(trace, token, kind)
    pool = -(-len(keys) // min(most, COLUMNS))
    slots = -(-len(keys) // pool)
    across = max(slots * unit, label)
    for gap in (3 * medium.char, 2 * medium.char):
        bands = _bands(calls, across + gap, gap, room - gutter)
        if len(bands) == 1:
            break
    sentence = _looks(queries[token], keys, pool, (room - gutter) / medium.char, language)
    marks: list[Mark] = [Text(0 if paper else gutter, 0, sentence)]
    y = medium.line * (1.4 if paper else 1)
    for band in bands:
        layout = (gutter, across, gap, y, unit, line)
        y = _band(marks, calls, keys, table, band, names, layout, pool, opened, medium, language)
    if note:
        y = _note(marks, note, gutter, y, room, medium)
    if paper:
        marks.append(Ramp(gutter, y + 4, 120, 8, "weight", limit(0, medium), limit(1, medium)))
        y += 18
    right = max(mark.x + (mark.width if isinstance(mark, Bar | Rule | Ramp) else mark.columns * medium.char
                          if isinstance(mark, Text) and mark.anchor == "start" else 0) for mark in marks)
    title = "".join(span.text for span in phrase("looks short", language, token=queries[token]))
    return Picture(right + 24 if paper else min(right, room), y, tuple(marks), title, theme, medium)


def _note(marks: list[Mark], note: tuple[Span, ...], gutter: float, y: float, room: float, medium: Medium) -> float:
    """A note beside the framed head if it fits on that line, else below; returns where the picture ends."""
    words = Text(gutter, y, note)
    frame = next((mark for mark in marks if isinstance(mark, Rule) and not mark.bracket), None)
    right = max(mark.x + mark.width for mark in marks if isinstance(mark, Bar)) + 4 * medium.char
    if frame is not None and right + words.columns * medium.char <= room:
        words = Text(right, frame.y, note)
    marks.append(words)
    return max(y, words.y + medium.line)


def _looks(query: str, keys: list[str], pool: int, columns: float, language: str) -> tuple[Span, ...]:
    """The sentence over the overview, with the keys in their order where they fit."""
    itself = Span(query, QUERY, bold=True)
    if pool > 1:
        return phrase("looks pooled", language, token=itself, pool=pool)
    spans = (*phrase("looks", language, token=itself), Span(" ".join(keys), FAINT))
    return spans if sum(width(s.text) for s in spans) <= columns else phrase("looks short", language, token=itself)


def _bands(calls: Sequence[Call], step: float, gap: float, room: float) -> list[list[list[int]]]:
    """Heads in bands that fit the width: lists of groups, which are lists of heads and broken only if they must be."""
    first = calls[0]
    heads, grouped = range(first.heads), first.kv_heads < first.heads
    groups = [[h for h in heads if first.group(h) == g] for g in range(first.kv_heads)] if grouped else [list(heads)]
    most = max(int(room // step), 1)
    bands: list[list[list[int]]] = [[]]
    used = 0.0
    for part in (group[n:n + most] for group in groups for n in range(0, len(group), most)):
        if bands[-1] and used + len(part) * step > room:
            bands.append([])
            used = 0.0
        bands[-1].append(part)
        used += len(part) * step + gap
    return bands


def _band(marks: list[Mark], calls: Sequence[Call], keys: list[str], table: list, band: list[list[int]], names: list[str],
          layout: tuple[float, ...], pool: int, opened: tuple[int, int] | None, medium: Medium, language: str) -> float:
    """One band of heads with its brackets and every layer; returns where the next band starts."""
    left, across, gap, y, unit, line = layout
    paper, grouped, x = medium is PAPER, calls[0].kv_heads < calls[0].heads, left
    heads_y = y + (medium.line * (1.2 if paper else 1) if grouped else 0)
    slots = -(-len(keys) // pool)
    inner = (across - slots * unit) / 2 if paper else 0.0
    first_y = heads_y + medium.line
    for group in band:
        start = x
        for head in group:
            name = Span(say("head", language, head=head), FAINT)
            marks.append(Text(x + across / 2 if paper else x, heads_y, (name,), "middle" if paper else "start", 12))
            for row, place in enumerate(reversed(range(len(calls)))):
                layer = calls[place].layer
                box = (x + inner, first_y + row * line, unit, line - (8 if paper else 0))
                marks += _small_bars(keys, table[place][head], layer, head, box, pool)
                if opened == (layer, head):
                    edge = 5 if paper else 1
                    marks.append(Rule(box[0] - edge, box[1] - (4 if paper else 0), slots * unit + 2 * edge,
                                      line if paper else 1, Paint("amber"), 2))
            x += across + gap
        if grouped:
            name = Span(say("group", language, group=calls[0].group(group[0])), FAINT)
            span = x - gap - start
            marks.append(Rule(start, y + (medium.line if paper else 0), span, 0, FAINT, bracket=True))
            if (width(name.text) + 2) * medium.char <= span:
                name = Span(f" {name.text} ", FAINT) if (width(name.text) + 4) * medium.char <= span else name
                marks.append(Text(start + span / 2, y, (name,), "middle", 12))
            x += gap
    for row, place in enumerate(reversed(range(len(calls)))):
        middle = first_y + row * line + ((line - 8 - medium.line) / 2 if paper else 0)
        marks.append(Text(0, middle, (Span(names[place], FAINT),)))
    return first_y + len(calls) * line


def _small_bars(tokens: list[str], row: list[float | None], layer: int, head: int, box: tuple[float, ...],
                pool: int) -> list[Mark]:
    """One head's row as upright bars, `pool` tokens in each."""
    x, y, unit, height = box
    bars: list[Mark] = []
    for slot, start in enumerate(range(0, len(row), pool)):
        keys = range(start, min(start + pool, len(row)))
        best = max((j for j in keys if row[j] is not None), key=lambda j: row[j], default=None)
        value = None if best is None else row[best]
        name = f"layer {layer}, head {head}, key {tokens[start if best is None else best]}"
        part = value or 0.0
        title = f"{name}, masked" if value is None else f"{name}, weight {value:.6g}"
        bars.append(Bar(x + slot * unit, y, unit, height, value, part, _light(part), title, upright=True))
    return bars


def _light(weight: float) -> Paint:
    """The colour of a thin mark: from a quarter up the ramp, as the foot of it would be lost against the ground."""
    return Paint("weight", 0.25 + 0.75 * weight)


def next_tokens(trace: Trace, k: int = 10, after: int | None = None, theme: Theme = LIGHT, *,
                also: Sequence[Candidate] = (), medium: Medium = PAPER, room: float | None = None, gutter: float = 0,
                language: str = "en") -> Picture:
    """The k likeliest tokens after token `after` (the last by default) as bars; `also` adds others, with their rank."""
    after, paper = chosen(trace, after), medium is PAPER
    likeliest = trace.next_tokens(k, after)
    gutter = max((max(min(width(safe(c.token)), LABEL + 4) for c in (*likeliest, *also)) + 1) * medium.char, gutter)
    rank = max((width(_rank(trace, c, language)) + 3 for c in also), default=0)
    length = min(172.0 if paper else 48.0, (room or 1000) - gutter - (12 + rank) * medium.char)
    length = length if paper else max(length // 1, 1)
    said = _after(trace, after, (room or 1000) / medium.char - 40, language)
    marks: list[Mark] = [Text(0 if paper else gutter, 0, said)]
    y, right = medium.line * (1.3 if paper else 1), gutter + length + 11 * medium.char
    for c in (*likeliest, *also):
        extra, first = c in also, c.rank == 1
        ink = FAINT if extra else INK
        points = f"{100 * c.p:.2f} %" if c.p >= 5e-4 or c.p == 0 else f"{100 * c.p:.3g} %"
        marks.append(Text(gutter - medium.char, y, (Span(crop(safe(c.token), LABEL + 4), ink, first),), "end"))
        marks.append(Bar(gutter, y + (4 if paper else 0), length, medium.line - (8 if paper else 0), c.p,
                         c.p / likeliest[0].p, Paint("output", strength=1 if first else 0.55),
                         f"{safe(c.token)}, probability {c.p:.6g}"))
        marks.append(Text(right, y, (Span(points, ink, first),), "end"))
        if extra:
            marks.append(Text(right + 3 * medium.char, y, (Span(_rank(trace, c, language), FAINT),)))
        y += medium.line
    title, right = "".join(span.text for span in said), right + rank * medium.char
    if trace.source is not None:   # the words of a prefix may be wider than the bars
        right = min(max(right, (0 if paper else gutter) + width(title) * medium.char), room or math.inf)
    return Picture(right, y, tuple(marks), title, theme, medium)


def _after(trace: Trace, after: int, columns: float, language: str) -> tuple[Span, ...]:
    """What the next tokens are the next tokens of."""
    if trace.source is None:
        return phrase("probability", language, token=Span(safe(trace.tokens[after]), QUERY, bold=True))
    before = translation.prefix(trace, after, min(int(columns), 40))
    return phrase("writes after", language, prefix=Span(before, QUERY, bold=True))


def _rank(trace: Trace, candidate: Candidate, language: str) -> str:
    return say("rank", language, rank=candidate.rank, size=len(trace.vocabulary))


def links(trace: Trace, layer: int, head: int, token: int | None = None, theme: Theme = LIGHT, *,
          kind: str | None = None, medium: Medium = PAPER, language: str = "en") -> Picture:
    """Lines from one token to the keys it looks at in one head, each as wide as its weight; up to MOST_LINKS keys."""
    call, token, paper = trace[layer, kind or trace.kind], chosen(trace, token, kind), medium is PAPER
    row = focusing.row(call, head, token)
    keys = [j for j, w in enumerate(row) if w is not None]
    if len(keys) > MOST_LINKS:
        keys = sorted(sorted(keys, key=lambda j: -row[j])[:MOST_LINKS])
    queries, names = labels(trace, call)
    own, names = crop(safe(queries[token]), LABEL), [crop(safe(name), LABEL) for name in names]
    gutter, span = (width(own) + 1) * medium.char, 20 * medium.char
    right = gutter + span + (max(width(f"{names[j]}  {j}") for j in keys) + 11) * medium.char
    title = phrase("lines of", language, token=Span(own, QUERY, bold=True))
    if len(keys) < sum(w is not None for w in row):
        title += phrase("largest", language, count=len(keys), all=sum(w is not None for w in row))
    top = medium.line * (1.3 if paper else 1)
    middle = top + (len(keys) // 2) * medium.line
    half = medium.line / 2 if paper else 0
    itself = Text(gutter - medium.char, middle, (Span(own, QUERY, bold=True),), "end")
    marks: list[Mark] = [Text(0, 0, title), itself]
    for n, j in enumerate(keys):
        y, weight = top + n * medium.line, row[j]
        marks.append(Link(gutter, middle + half, gutter + span, y + half, weight, _light(weight),
                          f"query {own} {token}, key {names[j]} {j}, weight {weight:.6g}"))
        marks.append(Text(gutter + span + medium.char, y, (Span(names[j], Paint("key")), Span(f"  {j}", FAINT))))
        marks.append(Text(right, y, (Span(percent(weight), FAINT),), "end"))
    words = "".join(s.text for s in title)
    across, height = max(right, width(words) * medium.char), top + len(keys) * medium.line
    return Picture(across, height, tuple(marks), words, theme, medium)


def page(trace: Trace, layer: int | None = None, head: int | None = None, token: int | None = None, *,
         kind: str | None = None, scale: str = "linear", theme: Theme = LIGHT, language: str = "en") -> Picture:
    """Everything on one sheet: the maps of a head, where the token looks in all heads, its lines, the next tokens."""
    seen = focusing.focus(trace, layer, head, token, kind)
    call = trace[seen.layer, seen.kind]
    stages = ("dot", "masked", "weights") if max(call.queries, call.keys) <= ACROSS else ("weights",)
    maps = [heatmap(trace, seen.layer, seen.head, stage, scale_of(stage, scale), theme, kind=seen.kind, token=seen.token,
                    heading=_step(n, stage, stages, language), language=language)
            for n, stage in enumerate(stages, start=1)]
    lines = links(trace, seen.layer, seen.head, seen.token, theme, kind=seen.kind, language=language)
    after = [next_tokens(trace, 10, after_of(seen), theme, language=language)] if trace.predicts else []
    upper = together(maps if len(maps) > 1 else [*maps, together([*after, lines], down=True)])
    beside = [lines, *after] if len(maps) > 1 else []
    if trace.source is not None:
        beside.append(translation.written(trace, after_of(seen), theme, language=language))
    room = max(700.0, upper.width - sum(picture.width + BETWEEN for picture in beside))
    lower = together([overview(trace, seen.token, theme, kind=seen.kind, opened=(seen.layer, seen.head), room=room,
                                language=language), *beside])
    title = crop(safe(f"{trace.model}: {' '.join(trace.tokens)}"), 200)
    return sheet(_head(trace, seen, language), [upper, lower], [certificate(trace, language, PAPER)], title)


def after_of(seen: focusing.Focus) -> int | None:
    """The token whose next ones are shown: the chosen one, unless it is the source's; then the last."""
    return None if seen.kind == "encoder" else seen.token


def scale_of(stage: str, scale: str) -> str:
    """The scale of a stage where one was chosen for the weights: scores are never logarithmic."""
    return "linear" if scale == "log" and stage != "weights" else scale


def _step(n: int, stage: str, stages: tuple[str, ...], language: str) -> str:
    """The heading of a map on the page: numbered where there are several."""
    name = say(f"step {stage}", language)
    return f"{n}  {name}" if len(stages) > 1 else name


def summary(trace: Trace, language: str) -> str:
    """The model's shape, its kernel and the number of tokens."""
    if trace.source is not None:
        return say("translator", language, encoder=len(trace.of("encoder")), decoder=trace.layers, heads=trace.heads,
                   d=trace.stack[0].width, kernel=trace.kernel, source=len(trace.source.tokens), target=len(trace.tokens))
    return say("model", language, layers=trace.layers, heads=trace.heads, groups=trace.kv_heads, d=trace.stack[0].width,
               kernel=trace.kernel, tokens=len(trace.tokens))


def certainty(trace: Trace, seen: focusing.Focus, language: str, key: str = "certain at") -> tuple[Span, ...]:
    """The one sentence: which head is most certain where the token looks; a label that is not unique has its number."""
    peak, keys = seen.peak, labels(trace, trace[seen.layer, seen.kind])[1]
    again = (Span(f" {peak.key}", FAINT),) if keys.count(keys[peak.key]) > 1 else ()
    return phrase(key, language, layer=peak.layer, head=peak.head, share=percent(peak.weight),
                  token=Span(safe(keys[peak.key]), Paint("key"), bold=True)) + again


def certificate(trace: Trace, language: str, medium: Medium) -> tuple[Span, ...]:
    """The certificate's line."""
    sealed, value = trace.certificate, Paint("value")
    parts = [say("row sum", language, minus=medium.minus, error=bound(sealed.row_sum_error)),
             say("output error", language, minus=medium.minus, error=bound(sealed.output_error)),
             say("checked", language, heads=sealed.heads)]
    return (Span(f"✓ {say('exact', language)}  ", value, bold=True), Span(" · ".join(parts), value))


def _head(trace: Trace, seen: focusing.Focus, language: str) -> list[Line]:
    """What is looked at, in words."""
    lines = [(Span(safe(trace.model), INK, bold=True), Span(f"   {safe(summary(trace, language))}", FAINT))]
    if trace.source is not None:
        lines.append(translation.translated(trace))
    place = Span(located(trace, seen.layer, seen.head, seen.kind, language) + "   ", INK, bold=True)
    return [*lines, (place, *certainty(trace, seen, language))]
