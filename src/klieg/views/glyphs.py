"""Characters as they are seen: how wide a label is, and what must not reach the screen as it is.

Widths are display columns (a Chinese character takes two). Control characters, escape
sequences and the marks that reverse the direction of text are written out visibly, so that
no token can recolour a terminal, hide itself or turn its neighbours around.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

_JOINERS = "\u200c\u200d"                              # shape emoji and Persian; harmless and meant
_ARABIC_SIGNS = frozenset("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u08e2")   # format characters that are seen


@lru_cache(4096)
def column(character: str) -> int:
    """Columns of one character: 0, 1 or 2."""
    if unicodedata.category(character) in ("Mn", "Me") or character in _JOINERS:
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def width(text: str) -> int:
    """Columns of a text in a terminal."""
    return sum(map(column, text))


def wide(text: str) -> bool:
    """Whether a text has Chinese, Japanese or Korean characters, or others as wide as they are."""
    return any(column(c) == 2 for c in text)


def safe(text: str) -> str:
    """The text with everything that acts instead of being seen written out: ESC is ␛, U+202E is ⟨202E⟩."""
    return "".join(map(_seen, text))


@lru_cache(4096)
def _seen(character: str) -> str:
    code, kind = ord(character), unicodedata.category(character)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "␡"
    acts = kind in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in _JOINERS and character not in _ARABIC_SIGNS
    return f"⟨{code:04X}⟩" if acts else character


def crop(text: str, columns: int) -> str:
    """The text, or as much of it as fits with an ellipsis at its end."""
    if width(text) <= columns:
        return text
    kept, used = "", 0
    for c in text:
        if used + column(c) > columns - 1:
            break
        kept, used = kept + c, used + column(c)
    return kept + "…" if columns > 0 else ""
