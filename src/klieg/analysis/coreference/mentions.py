"""Where phrases stand in a text: a place is (start, end) in characters.

English phrases are whole words in any case. In a script that does not set words apart, such as Chinese, a phrase stands
wherever its characters do.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

Place = tuple[int, int]

ARTICLES = ("the", "a", "an", "my", "your", "his", "her", "its", "our", "their")
_ARTICLE = re.compile(rf"(?:{'|'.join(ARTICLES)})\s+(?=\S)", re.IGNORECASE)
_LETTER = "[^\\W\u2e80-\u9fff\uf900-\ufaff]"     # of scripts that set words apart


def bare(phrase: str) -> str:
    """A phrase without the article or possessive that it opens with."""
    return _ARTICLE.sub("", phrase.strip(), count=1)


def apart(places: Sequence[Place]) -> bool:
    """Whether no two places share a character."""
    ordered = sorted(places)
    return all(one[1] <= other[0] for one, other in zip(ordered, ordered[1:], strict=False))


def standing(text: str, phrase: str) -> list[Place]:
    """Everywhere that a phrase stands in a text, in order."""
    before = f"(?<!{_LETTER})" if re.match(_LETTER, phrase) else ""
    after = f"(?!{_LETTER})" if re.match(_LETTER, phrase[-1:]) else ""
    return [found.span() for found in re.finditer(before + re.escape(phrase) + after, text, re.IGNORECASE)] if phrase else []


def mention(text: str, phrase: str, pronoun: Place) -> Place | None:
    """Where a candidate is mentioned, its article aside: the last time before the pronoun, else the first time after it."""
    places = standing(text, bare(phrase))
    before = [place for place in places if place[1] <= pronoun[0]]
    after = [place for place in places if place[0] >= pronoun[1]]
    return before[-1] if before else after[0] if after else None


def words(text: str, places: Sequence[Place]) -> list[tuple[Place, list[int]]]:
    """The words of a text by the places of its tokens: where each stands, without the spaces around it, and its tokens.

    Tokens are one word where a letter meets a letter in a script that sets words apart; any other token is one by itself.
    A token without a character, such as a mark, is a word of the place (0, 0).
    """
    found: list[tuple[Place, list[int]]] = []
    for n, (start, end) in enumerate(places):
        whole = text[start:end]
        bare = (start + len(whole) - len(whole.lstrip()), start + len(whole.rstrip())) if whole.strip() else (0, 0)
        last = found[-1][0] if found else (0, 0)
        if last[1] and bare[1] and (bare[0] < last[1] or (bare[0] == last[1] and _joined(text, bare[0]))):
            found[-1] = (last[0], max(last[1], bare[1])), [*found[-1][1], n]
        else:
            found.append((bare, [n]))
    return found


def _joined(text: str, at: int) -> bool:
    """Whether the characters before and after a place belong to one word."""
    return all(re.match(f"{_LETTER}|['’]", text[n]) for n in (at - 1, at))
