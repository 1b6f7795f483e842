"""A corpus of any size as a stream: a text file, or a file of JSON lines, each also compressed (.gz).

In a text file documents are set apart by blank lines or form feeds; of .jsonl every line is an object whose "text" is
one document. Nothing is held but the piece at hand: a document of more than LONGEST characters is cut at white space
into several. What is no text is not passed over in silence: it comes as a piece with its fault.

    for piece in Corpus("books.txt.gz").pieces():
        print(piece.text if piece.fault is None else piece.fault)
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import io
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from klieg.errors import KliegError, first_line

LONGEST = 2**14     # characters of a piece
LINE = 2**26        # bytes of one JSON line
CHUNK = 2**16       # bytes that are read at once
SAMPLED = 2**20     # bytes of each of up to 64 parts by which a corpus is known again

FAULTS = ("junk", "broken", "empty")     # no UTF-8 text; a line that is no JSON object with a "text"; nothing in it
_APART = re.compile(r"\n[ \t]*\n|\f")


@dataclass(frozen=True)
class Piece:
    """A document or a part of one; with a fault, one of FAULTS, it has no text."""

    text: str
    fault: str | None = None


class Corpus:
    """A file of documents; KliegError if it cannot be read."""

    def __init__(self, path: str | Path) -> None:
        self.path, self.size = Path(path), 0
        self._raw: IO[bytes] | None = None
        self._zipped = self.path.suffix == ".gz"
        self._lines = (self.path.with_suffix("") if self._zipped else self.path).suffix == ".jsonl"
        try:
            with self.path.open("rb") as file:
                self.size = file.seek(0, io.SEEK_END)
        except (OSError, ValueError) as e:
            missing, why = isinstance(e, FileNotFoundError), getattr(e, "strerror", "") or first_line(e)
            raise KliegError(f"there is no corpus in {str(path)!r} ({'no such file' if missing else why.lower()}); name a text "
                             "file, or one of JSON lines that ends in .jsonl.") from None

    @property
    def read(self) -> float:
        """The share of the file that has been read."""
        return self._raw.tell() / self.size if self._raw is not None and not self._raw.closed and self.size else 1.0

    def fingerprint(self) -> str:
        """By which the same file is known again: its size, and up to 64 parts of a megabyte, evenly spaced."""
        digest = hashlib.sha256(str(self.size).encode())
        parts = min(-(-self.size // SAMPLED), 64)
        with self.path.open("rb") as file:
            for part in range(parts):
                file.seek((self.size - SAMPLED) * part // max(parts - 1, 1) if self.size > SAMPLED else 0)
                digest.update(file.read(SAMPLED))
        return digest.hexdigest()

    def pieces(self) -> Iterator[Piece]:
        """All pieces, in order; the same ones each time."""
        with self.path.open("rb") as raw:
            self._raw = raw
            stream: IO[bytes] = gzip.GzipFile(fileobj=raw) if self._zipped else raw     # type: ignore[assignment]
            try:
                yield from self._of_lines(stream) if self._lines else self._of_text(stream)
            except (OSError, EOFError, zlib.error) as e:
                raise KliegError(f"{self.path} is damaged ({first_line(e)}); fetch it again.") from None

    def _of_text(self, stream: IO[bytes]) -> Iterator[Piece]:
        letters = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8-sig")("replace"), translate=True)
        rest = ""
        while True:
            chunk = stream.read(CHUNK)
            rest += letters.decode(chunk, final=not chunk)
            *whole, rest = _APART.split(rest) if chunk else [*_APART.split(rest), ""]
            for document in whole:
                yield from _cut(document)
            *parts, rest = _parts(rest)
            for part in filter(str.strip, parts):
                yield _read(part)
            if not chunk:
                return

    def _of_lines(self, stream: IO[bytes]) -> Iterator[Piece]:
        while line := stream.readline(LINE):
            if len(line) == LINE and not line.endswith(b"\n"):
                while (more := stream.readline(LINE)) and not more.endswith(b"\n"):
                    pass
                yield Piece("", "broken")
                continue
            if not line.strip():
                continue
            try:
                said = json.loads(line)
                text = said["text"] if isinstance(said, dict) else None
            except UnicodeDecodeError:
                yield Piece("", "junk")
                continue
            except (ValueError, KeyError, RecursionError):
                text = None
            if not isinstance(text, str):
                yield Piece("", "broken")
            elif not text.strip():
                yield Piece("", "empty")
            else:
                yield from _cut(text)


def _cut(document: str) -> Iterator[Piece]:
    """A whole document in pieces; none of what is only white space."""
    return (_read(part) for part in filter(str.strip, _parts(document)))


def _parts(text: str) -> list[str]:
    """A text in parts of at most LONGEST characters, cut at white space where there is any."""
    parts = []
    while len(text) > LONGEST:
        at = max(text.rfind(" ", 1, LONGEST), text.rfind("\n", 1, LONGEST))
        at = at if at > 0 else LONGEST
        parts.append(text[:at])
        text = text[at:]
    return [*parts, text]


def _read(text: str) -> Piece:
    """A piece, or its fault: bytes that are no text became U+FFFD, and no text has zeros or halves of characters."""
    junk = "\ufffd" in text or "\0" in text or (not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text))
    return Piece("", "junk") if junk else Piece(text.strip())
