"""Two sentences beside each other, token by token: what each token costs a model, and what that brings the first sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from klieg.views.glyphs import crop, safe, width
from klieg.views.palette import LIGHT, Paint, Theme
from klieg.views.picture import FAINT, INK, PAPER, Cell, Mark, Medium, Picture, Span, Text
from klieg.views.scale import Scale

NUMBER, LONGEST = 9, 20     # columns of a cell with its number, and of the longest token that is written out
WORDS = {
    "likelier": ("“{text}” is likelier by {bits} bits; “{token}” makes most of the difference",
                 "“{text}”更可能，多 {bits} 比特；差别主要来自“{token}”"),
    "equal": ("both are as likely", "两句一样可能"),
    "model": ("model: {model}; the bits of a token are -log2 of its probability, given all before it",
              "模型：{model}；词元的意外程度是 −log₂ p（已知前文）"),
    "bits": ("bits", "比特"), "gain": ("B - A", "B − A"), "all": ("all", "合计"),
}


class Sentence(Protocol):
    """A text and the surprise of each of its tokens, in bits."""

    @property
    def text(self) -> str: ...
    @property
    def tokens(self) -> Sequence[str]: ...
    @property
    def bits(self) -> Sequence[float]: ...
    @property
    def total(self) -> float: ...


class Contrast(Protocol):
    """Two sentences, which tokens of theirs stand beside each other, and what each such line brings the first, in bits."""

    @property
    def model(self) -> str: ...
    @property
    def one(self) -> Sentence: ...
    @property
    def other(self) -> Sentence: ...
    @property
    def columns(self) -> Sequence[tuple[int | None, int | None]]: ...
    @property
    def gains(self) -> Sequence[float]: ...
    @property
    def difference(self) -> float: ...


def word(key: str, language: str, **given: str) -> str:
    """One phrase."""
    return WORDS[key][language == "zh"].format(**given)


def verdict(found: Contrast, language: str) -> str:
    """Which sentence is the likelier, by how much, and which token makes most of that."""
    if not found.difference:
        return word("equal", language)
    a, b = found.columns[max(range(len(found.gains)), key=lambda n: abs(found.gains[n]))]
    token = found.other.tokens[b] if b is not None else found.one.tokens[a or 0]
    text = (found.one if found.difference > 0 else found.other).text
    return word("likelier", language, text=safe(text), bits=f"{abs(found.difference):.2f}", token=safe(token))


def contrast(found: Contrast, theme: Theme = LIGHT, *, medium: Medium = PAPER, language: str = "en") -> Picture:
    """The table: a line for each pair of tokens; surprise is coloured from nothing to the largest of either sentence."""
    c, line = medium.char, medium.line
    gap = 1 if medium is PAPER else 0
    sides = ((0, found.one), (1, found.other))
    # A heading, a number: where the tokens of a sentence end, and where its cells begin.
    wide = [max(width(_label(sentence.tokens, n)) for n in [*range(len(sentence.tokens)), None]) for _, sentence in sides]
    ends = [(max(wide[0], width(word("all", language))) + 1) * c, 0.0]
    ends[1] = ends[0] + (1 + NUMBER + 2 + wide[1]) * c
    last = ends[1] + (2 + NUMBER) * c
    surprise = Scale("statistic", 0.0, max([*found.one.bits, *found.other.bits]) or 1.0)
    most = max(map(abs, found.gains)) or 1.0
    gain = Scale("signed", -most, most)
    marks: list[Mark] = [Text(0, 0, (Span(verdict(found, language), INK, bold=True),)),
                         Text(0, line, (Span(word("model", language, model=safe(found.model)), FAINT),))]
    y = 2.5 * line if medium is PAPER else 3 * line
    for name, end in zip("AB", ends, strict=True):
        marks += [Text(end, y, (Span(name, INK, bold=True),), "end"),
                  Text(end + (1 + NUMBER) * c, y, (Span(word("bits", language), FAINT),), "end")]
    marks.append(Text(last + NUMBER * c, y, (Span(word("gain", language), FAINT),), "end"))
    for pair, brought in zip(found.columns, found.gains, strict=True):
        y += line
        apart = len({None if at is None else sentence.tokens[at] for at, (_, sentence) in zip(pair, sides, strict=True)}) > 1
        for at, (side, sentence) in zip(pair, sides, strict=True):
            if at is None:
                continue
            label, bits = _label(sentence.tokens, at), sentence.bits[at]
            marks.append(Text(ends[side], y, (Span(label, INK, bold=apart),), "end"))
            marks.append(Cell(ends[side] + c, y, NUMBER * c - gap, line - gap, bits, Paint("statistic", surprise.at(bits)),
                              f"{bits:.2f}", f"{'AB'[side]}, {label}: {bits:.6g}"))
        marks.append(Cell(last, y, NUMBER * c - gap, line - gap, brought, Paint("signed", gain.at(brought)),
                          _signed(brought, medium), f"{word('gain', language)}: {brought:+.6g}"))
    y += line * (1.2 if medium is PAPER else 1)
    marks.append(Text(ends[0], y, (Span(word("all", language), FAINT),), "end"))
    sums = [f"{found.one.total:.2f}", f"{found.other.total:.2f}", _signed(found.difference, medium)]
    for end, total in zip((ends[0] + c, ends[1] + c, last), sums, strict=True):
        marks.append(Text(end + NUMBER * c, y, (Span(total, INK, bold=True),), "end"))
    right = max([last + NUMBER * c, *(mark.columns * c for mark in marks[:2] if isinstance(mark, Text))])
    return Picture(right, y + line, tuple(marks), verdict(found, language), theme, medium)


def _label(tokens: Sequence[str], at: int | None) -> str:
    return "" if at is None else crop(safe(tokens[at]), LONGEST)


def _signed(x: float, medium: Medium) -> str:
    return f"{x:+.2f}".replace("-", medium.minus)
