"""How words are written as a text, and which pieces of the text spell which word.

Aligners are given words set apart by spaces: `it 's true .`, `我 爱 你 。`. A translator has read texts
as people write them, so it is given `it's true.` and `我爱你。`, and the words are found again by their bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from klieg.errors import KliegError

_CLOSING = re.compile(r"[,.!?;:%)\]}…]+|'(?:s|m|d|ll|re|ve|t)?|n't", re.IGNORECASE)
_OPENING = re.compile(r"[(\[{]|\w+['’]")
_UNSPACED = ("\u2e80", "\u30ff"), ("\u3400", "\u9fff"), ("\uf900", "\ufaff"), ("\uff00", "\uffef"), ("\U00020000", "\U0003ffff")


@dataclass(frozen=True)
class Sentence:
    """A text and the (start, end) of each word in its UTF-8 bytes."""

    text: str
    spans: list[tuple[int, int]]

    @classmethod
    def of(cls, words: list[str]) -> Sentence:
        """The words as they are written: without spaces in Chinese and Japanese, around brackets and before marks."""
        text, spans = "", []
        for n, word in enumerate(words):
            text += " " if n and _apart(words[n - 1], word) else ""
            start = len(text.encode())
            text += word
            spans.append((start, len(text.encode())))
        return cls(text, spans)

    def shares(self, pieces: list[bytes | str]) -> np.ndarray:
        """How each piece belongs to the words: (pieces, words); a row sums to 1, or to 0 for marks and spaces.

        Marks are given as str. The bytes of the others must be the text, spaces at its start aside.
        """
        lengths = [len(piece) if isinstance(piece, bytes) else 0 for piece in pieces]
        spelt, body = b"".join(piece for piece in pieces if isinstance(piece, bytes)), self.text.encode()
        if spelt.lstrip(b" ") != body.lstrip(b" "):
            raise KliegError(f"the tokenizer changes {self.text[:40]!r}, so its pieces are not those of the words; "
                             "use a tokenizer that gives back every byte.")
        ends = np.cumsum(lengths) - (len(spelt) - len(body))
        starts = ends - lengths
        words = np.array(self.spans, dtype=np.int64).reshape(-1, 2)
        common = np.minimum(ends[:, None], words[:, 1]) - np.maximum(starts[:, None], words[:, 0])
        common = np.maximum(common, 0).astype(np.float64)
        return common / np.maximum(common.sum(1, keepdims=True), 1)


def _apart(left: str, right: str) -> bool:
    """Whether a space is written between two words."""
    if _unspaced(left[-1]) or _unspaced(right[0]):
        return False
    return not (_CLOSING.fullmatch(right) or _OPENING.fullmatch(left))


def _unspaced(letter: str) -> bool:
    return any(first <= letter <= last for first, last in _UNSPACED)
