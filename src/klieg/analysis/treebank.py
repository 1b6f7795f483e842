"""A treebank: sentences in which people joined every word to its head, in CoNLL-U, the format of Universal Dependencies.

A word here is what stands between spaces or is written apart, as a reader sees it: "vámonos", which the format takes apart
into "vamos nos", is one word that has the links of both, and words that are not written at all are none. A relation is the
universal one, without what a language adds after a colon. The root has no head, and punctuation is left out, as it is
attached by convention. Format: https://universaldependencies.org/format.html
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from klieg.analysis.coreference.mentions import Place
from klieg.errors import KliegError, first_line

COLUMNS = 10
SUFFIXES = (".conllu", ".conllu.gz")
_LEFT_OUT = ("root", "punct")


@dataclass(frozen=True)
class Link:
    """Word `word` of a sentence depends on its word `head`, by a relation; words count from 0."""

    word: int
    head: int
    relation: str


@dataclass(frozen=True)
class Sentence:
    """A text, the characters of each of its words, and their links."""

    text: str
    words: tuple[Place, ...]
    links: tuple[Link, ...]


@dataclass(frozen=True)
class _Row:
    """A syntactic word: the line it stands in, the written word that it is part of, and its head by the file's number."""

    line: int
    word: int
    head: int
    relation: str


def read_treebank(path: str | Path) -> list[Sentence]:
    """All sentences of a file, or of a .gz of one; KliegError names the line that is not in the format."""
    path = Path(path)
    found = [_sentence(path, block) for block in _blocks(path)]
    if not any(sentence.links for sentence in found):
        raise KliegError(f"{path} has no sentence with a link; name a treebank in CoNLL-U.")
    return found


def _blocks(path: Path) -> Iterator[list[tuple[int, str]]]:
    """The lines of each sentence with their numbers, without comments."""
    block: list[tuple[int, str]] = []
    try:
        with (gzip.open if path.suffix.lower() == ".gz" else open)(path, "rb") as file:
            for number, raw in enumerate(file, 1):
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                except UnicodeDecodeError:
                    raise _wrong(path, number, "it is no UTF-8 text; name a treebank in CoNLL-U") from None
                if line.strip() and not line.startswith("#"):
                    block.append((number, line))
                elif not line.strip() and block:
                    yield block
                    block = []
    except (OSError, ValueError, EOFError, zlib.error) as e:
        raise KliegError(f"{path} cannot be read as a treebank ({first_line(e)}); name a file in CoNLL-U.") from None
    if block:
        yield block


def _sentence(path: Path, block: list[tuple[int, str]]) -> Sentence:
    text, words, rows, joined, last = "", list[Place](), list[_Row](), 0, 0
    for number, line in block:
        cells = line.split("\t")
        if len(cells) != COLUMNS:
            raise _wrong(path, number, f"it has {len(cells)} columns; a word of CoNLL-U has {COLUMNS}, with tabs between")
        kind = re.fullmatch(r"([0-9]{1,6})(?:([-.])([0-9]{1,6}))?", cells[0])
        if kind is None:
            raise _wrong(path, number, f"{cells[0][:20]!r} is no number of a word; expected {last + 1}")
        start, mark, end = int(kind[1]), kind[2], int(kind[3] or 0)
        if mark == ".":
            continue
        if start != last + 1 or (mark and (end <= start or joined > last)):
            raise _wrong(path, number, f"the word has the number {cells[0]}; expected {last + 1}")
        if mark or start > joined:
            if not cells[1].strip():
                raise _wrong(path, number, "the word has no form in column 2; write what the text has")
            words.append((len(text), len(text) + len(cells[1])))
            text += cells[1] + " " * ("SpaceAfter=No" not in cells[9].split("|"))
        if mark:
            joined = end
        else:
            last = start
            rows.append(_row(path, number, cells, len(words) - 1))
    if joined > last:
        raise _wrong(path, block[-1][0], f"the sentence ends at word {last}, and a form goes on to word {joined}; add the rest")
    for row in rows:
        if row.head > last or (row.head and rows[row.head - 1] is row):
            raise _wrong(path, row.line, f"the head is word {row.head}; expected 0 or another of the {last} words")
    links = (Link(row.word, rows[row.head - 1].word, row.relation) for row in rows
             if row.head and row.relation not in _LEFT_OUT)
    return Sentence(text.rstrip(" "), tuple(words), tuple(link for link in links if link.word != link.head))


def _row(path: Path, number: int, cells: list[str], word: int) -> _Row:
    head, relation = cells[6], cells[7].partition(":")[0].strip()
    if not re.fullmatch(r"[0-9]{1,6}", head):
        raise _wrong(path, number, f"column 7 is {head[:20]!r} and should be the number of the word's head, 0 for the root")
    if relation in ("", "_"):
        raise _wrong(path, number, "column 8 should name the word's relation to its head, and is empty")
    return _Row(number, word, int(head), relation)


def _wrong(path: Path, number: int, what: str) -> KliegError:
    return KliegError(f"{path}, line {number}: {what}.")
