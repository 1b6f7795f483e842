"""One readable label for every token: what pictures and tables show instead of raw pieces.

A token is some bytes, not some characters, so the labels of a text are made together: the
bytes are joined, cut into characters, and every token gets the characters that it holds.
Different tokens get different labels, by these rules:

    love  too     a word with the space before it; at the start of a text or line, without one
    ·able ·2      a letter or digit joined to what stands before it
    ,  ’  沈  に   what needs no space before it, without one
    ␣(  ␣沈  ␣    every other space
    ↩ ⇥ ␛         line end, tabulator, control characters; ⟨U+202E⟩: other invisible ones
    沈 1/3        the first of three tokens that share one character; whole emoji count as one
    ⟨E6 B2⟩       bytes that are no character
    ◌́             a combining mark without its letter
    ⟨s⟩           a mark of the tokenizer

Labels that hold right-to-left letters are isolated (U+2068 ... U+2069), so that they leave the
order of their neighbours alone. Nothing is escaped here: `<script>` stays what it is.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from itertools import groupby

# One emoji as one sees it: a flag, a keycap, a tagged flag, or pictures joined by U+200D.
_PICTURE = ("[\u00a9\u00ae\u203c\u2049\u2122\u2139\u2190-\u21ff\u2300-\u23ff\u2460-\u27bf\u2900-\u2bff"
            "\u3030\u303d\u3297\u3299\U0001f000-\U0001faff]")
_DRESSED = f"{_PICTURE}(?:\ufe0f|[\U0001f3fb-\U0001f3ff])?"
_CHARACTER = re.compile("[\U0001f1e6-\U0001f1ff]{2}|[0-9#*]\ufe0f?\u20e3|\U0001f3f4[\U000e0020-\U000e007f]+"
                        f"|{_DRESSED}(?:\u200d{_DRESSED})*|.", re.DOTALL)

# Scripts that put no space between words: Thai, Lao, Burmese, Khmer, and the East Asian ones but Hangul.
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u312f\u31a0-\ua4cf\uf900-\ufaff"
                       "\uff66-\uff9f\U0001b000-\U0001b16f\U00020000-\U0003ffff]")
# Letters, signs and marks that draw nothing, although their category does not say so.
_BLANK = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
_SIGNS = {" ": "␣", "\n": "↩", "\t": "⇥", "\x7f": "␡"}


def mark(name: str) -> str:
    """The label of a special token: <s> is ⟨s⟩, <|endoftext|> is ⟨endoftext⟩."""
    return f"⟨{name.strip('<>[]|') or name}⟩"


def labels(tokens: list[bytes | str]) -> list[str]:
    """A label for each token of a text. Tokens are bytes; marks come as strings and are labels already."""
    found: list[str] = []
    run: list[bytes] = []
    for token in tokens:
        if isinstance(token, str):
            found += [*_run(run), token]
            run = []
        else:
            run.append(token)
    return found + _run(run)


def _run(tokens: list[bytes]) -> list[str]:
    """Labels of a stretch of text without marks."""
    found, before = [], ""
    for characters in _shares(tokens):
        found.append(_label(characters, before))
        before = characters[-1][0] if characters else before
    return found


def _shares(tokens: list[bytes]) -> list[list[tuple[str, str]]]:
    """Each token's characters, with the seam of those it holds only in part: [("沈", "3/3"), ("阳", "")].

    A byte that is no part of any character comes as a lone surrogate, as `surrogateescape` has it.
    """
    shares: list[list[tuple[str, str]]] = [[] for _ in tokens]
    owner = [n for n, token in enumerate(tokens) for _ in token]
    start = 0
    for found in _CHARACTER.finditer(b"".join(tokens).decode("utf-8", "surrogateescape")):
        end = start + len(found[0].encode("utf-8", "surrogateescape"))
        parts = range(owner[start], owner[end - 1] + 1) if tokens else range(0)
        for k, n in enumerate(parts, 1):
            shares[n].append((found[0], f"{k}/{len(parts)}" if len(parts) > 1 else ""))
        start = end
    return shares


def _label(characters: list[tuple[str, str]], before: str) -> str:
    """The label of one token; `before` is the character that ends the token before it, '' at a start."""
    if not characters:
        return mark("")
    spaced = characters[0] == (" ", "") and len(characters) > 1
    first, seam = characters[1 if spaced else 0]
    opens = ""
    if before.strip() and first.isalnum() and not _UNSPACED.match(first) and (not seam or seam.startswith("1/")):
        characters, opens = (characters[1:], "") if spaced else (characters, "·")
    return opens + " ".join(_segments(characters))


def _segments(characters: list[tuple[str, str]]) -> Iterator[str]:
    """Whole characters together, every partial one with its seam."""
    for seam, group in groupby(characters, lambda character: character[1]):
        text = [character for character, _ in group]
        yield f"{_isolated(_visible(text))} {seam}" if seam else _isolated(_visible(text))


def _visible(text: list[str]) -> str:
    plain = "".join(text)
    if plain.isascii() and plain.isprintable() and " " not in plain:
        return plain  # Almost every token, and a vocabulary is labelled whole at every start.
    shown, base = "", False  # base: whether a combining mark has something to stand on
    for is_byte, group in groupby(text, lambda c: "\udc80" <= c <= "\udcff"):
        if is_byte:
            shown, base = shown + mark(" ".join(f"{ord(c) - 0xDC00:02X}" for c in group)), False
            continue
        for c in group:
            sign = _sign(c)
            is_mark = sign is None and len(c) == 1 and unicodedata.category(c)[0] == "M"
            shown += ("◌" if is_mark and not base else "") + (c if sign is None else sign)
            base = sign is None
    return shown


def _sign(c: str) -> str | None:
    """What stands for a character that draws nothing; None for one that draws itself."""
    if c in _SIGNS:
        return _SIGNS[c]
    if len(c) > 1 or re.match(_PICTURE, c):
        return None
    if c < " ":
        return chr(0x2400 + ord(c))
    return f"⟨U+{ord(c):04X}⟩" if unicodedata.category(c)[0] in "CZ" or _BLANK.match(c) else None


def _isolated(text: str) -> str:
    right_to_left = not text.isascii() and any(unicodedata.bidirectional(c) in ("R", "AL", "AN") for c in text)
    return f"\u2068{text}\u2069" if right_to_left else text
