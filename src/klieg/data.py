"""Texts for training: named public corpora and a user's own files.

A corpus is read from a folder (`KLIEG_DATA` or `--data`) and cut into documents. One in a hundred is
held out, chosen by its own text.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from klieg.errors import KliegError, nearest

VALIDATION_SHARE = 100  # one document in so many is kept for validation


def read(path: Path) -> str:
    """A text in UTF-8, also compressed (.gz), its lines ended by \\n alone; KliegError if there is none."""
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
        return text.replace("\r\n", "\n").replace("\r", "\n")
    except FileNotFoundError:
        raise KliegError(f"{path} is not there; see docs/data.md for the texts and where they come from.") from None
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as e:
        raise KliegError(f"{path} cannot be read as UTF-8 text ({e}); fetch it again.") from None


def _dialogues(root: Path) -> Iterator[str]:
    for conversation in read(root / "dialogue/self_dialogues.txt.gz").split("\n\n"):
        if conversation.strip():
            yield conversation.strip()


def _questions(root: Path) -> Iterator[str]:
    import yaml

    for language in ("english", "chinese"):
        folder = root / "dialogue/chatterbot_corpus/chatterbot_corpus/data" / language
        for path in sorted(folder.glob("*.yml")):
            for turns in yaml.safe_load(read(path)).get("conversations") or []:
                yield "\n".join(" ".join(str(turn).split()) for turn in turns)


def _stories(root: Path) -> Iterator[str]:
    for story in read(root / "text/tinystories_sample.txt.gz").split("<|endoftext|>"):
        if story.strip():
            yield story.strip()


def _books(root: Path) -> Iterator[str]:
    """Passages of about 1,500 characters, cut between paragraphs."""
    for book in read(root / "text/classic_books.txt.gz").split("\f"):
        passage = ""
        for paragraph in book.split("\n\n")[1:]:
            passage += " ".join(paragraph.split()) + "\n"
            if len(passage) > 1500:
                yield passage.strip()
                passage = ""
        if passage.strip():
            yield passage.strip()


def _sentences(root: Path) -> Iterator[str]:
    """Each English and each Chinese sentence of Tatoeba, by itself and once."""
    lines = [line.split("\t") for line in read(root / "tatoeba/cmn.txt.gz").splitlines()]
    for column in (0, 1):
        yield from dict.fromkeys(line[column] for line in lines)


def _captions(root: Path) -> Iterator[str]:
    for language in ("en", "zh"):
        yield from (line for line in read(root / f"en_zh_3am/train.{language}.gz").splitlines() if line.strip())


def _poems(root: Path) -> Iterator[str]:
    for line in read(root / "text/chinese_poetry.jsonl.gz").splitlines():
        poem = json.loads(line)
        verses = [verse for part in poem["lines"] for verse in (part["paragraphs"] if isinstance(part, dict) else [part])]
        yield poem["title"] + "\n" + "\n".join(verses)


CORPORA = {"dialogues": _dialogues, "questions": _questions, "stories": _stories, "books": _books,
           "sentences": _sentences, "captions": _captions, "poems": _poems}


def data_folder(given: str | None = None) -> Path:
    """The folder of public texts: --data, else KLIEG_DATA."""
    name = given or os.environ.get("KLIEG_DATA")
    if not name:
        raise KliegError("no folder of texts is named; pass --data FOLDER or set KLIEG_DATA (docs/data.md lists them).")
    if not Path(name).is_dir():
        raise KliegError(f"the folder of texts {name!r} is not there; see docs/data.md.")
    return Path(name)


@dataclass(frozen=True)
class Source:
    """One part of a mixture: a corpus by name, or a text file; `repeat` times an epoch."""

    name: str
    repeat: float = 1.0

    def documents(self, data: str | None) -> Iterator[str]:
        """A corpus of the data folder; else a file whose documents are set apart by blank lines."""
        if self.name in CORPORA:
            return CORPORA[self.name](data_folder(data))
        if Path(self.name).is_file():
            return (part.strip() for part in re.split(r"\n\s*\n", read(Path(self.name))) if part.strip())
        raise KliegError(f"no corpus or file {self.name!r}.{nearest(self.name, list(CORPORA))}")


def is_validation(document: str) -> bool:
    """Whether a document is held out: by its own text, so that repeats and reorderings agree.

    An empty one never is: its checksum is 0, and pairs without a source would take the places of others.
    """
    return document != "" and zlib.crc32(document.encode("utf-8")) % VALIDATION_SHARE == 0
