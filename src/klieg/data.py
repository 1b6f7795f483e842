"""Texts for training: named public corpora, a user's own files, and rows packed from both.

A corpus is read from a folder (`KLIEG_DATA` or `--data`), cut into documents, encoded once,
and laid end to end in a new order every epoch. A row is the next `context` tokens of that
stream, whatever documents they belong to; the documents' numbers travel with the row so that
they do not see each other. The row of any step follows from the seed and the step alone,
which is what lets an interrupted training go on exactly where it was.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from klieg.errors import KliegError, nearest
from klieg.tokenizers import Tokenizer

VALIDATION_SHARE = 100  # one document in so many is kept for validation


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
        return text.replace("\r\n", "\n").replace("\r", "\n")
    except FileNotFoundError:
        raise KliegError(f"{path} is not there; see docs/data.md for the texts and where they come from.") from None
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as e:
        raise KliegError(f"{path} cannot be read as UTF-8 text ({e}); fetch it again.") from None


def _dialogues(root: Path) -> Iterator[str]:
    for conversation in _read(root / "dialogue/self_dialogues.txt.gz").split("\n\n"):
        if conversation.strip():
            yield conversation.strip()


def _questions(root: Path) -> Iterator[str]:
    import yaml

    for language in ("english", "chinese"):
        folder = root / "dialogue/chatterbot_corpus/chatterbot_corpus/data" / language
        for path in sorted(folder.glob("*.yml")):
            for turns in yaml.safe_load(_read(path)).get("conversations") or []:
                yield "\n".join(" ".join(str(turn).split()) for turn in turns)


def _stories(root: Path) -> Iterator[str]:
    for story in _read(root / "text/tinystories_sample.txt.gz").split("<|endoftext|>"):
        if story.strip():
            yield story.strip()


def _books(root: Path) -> Iterator[str]:
    """Passages of about 1,500 characters, cut between paragraphs."""
    for book in _read(root / "text/classic_books.txt.gz").split("\f"):
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
    lines = [line.split("\t") for line in _read(root / "tatoeba/cmn.txt.gz").splitlines()]
    for column in (0, 1):
        yield from dict.fromkeys(line[column] for line in lines)


def _captions(root: Path) -> Iterator[str]:
    for language in ("en", "zh"):
        yield from (line for line in _read(root / f"en_zh_3am/train.{language}.gz").splitlines() if line.strip())


def _poems(root: Path) -> Iterator[str]:
    for line in _read(root / "text/chinese_poetry.jsonl.gz").splitlines():
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
            return (part.strip() for part in _read(Path(self.name)).split("\n\n") if part.strip())
        raise KliegError(f"no corpus or file {self.name!r}.{nearest(self.name, list(CORPORA))}")


def is_validation(document: str) -> bool:
    """Whether a document is held out: by its own text, so that repeats and reorderings agree."""
    return zlib.crc32(document.encode("utf-8")) % VALIDATION_SHARE == 0


@dataclass(frozen=True)
class Batch:
    """ids (b, i) and their targets (b, i), int64; -100 where there is nothing to predict; documents (b, i)."""

    ids: Tensor
    targets: Tensor
    documents: Tensor

    @property
    def positions(self) -> Tensor:
        """Each token's place in its own document: (b, i)."""
        slot = torch.arange(self.ids.shape[1])
        starts = torch.where(self.documents.diff(dim=1, prepend=self.documents[:, :1] - 1) != 0, slot, 0)
        return slot - starts.cummax(dim=1).values


class Corpus:
    """Encoded documents of several sources, and the rows packed from them."""

    def __init__(self, documents: list[np.ndarray], repeats: np.ndarray, bos: int, context: int, seed: int) -> None:
        """documents: token ids that start with `bos`; repeats (n,): how often each occurs in an epoch."""
        if not documents or sum(map(len, documents)) <= context:
            raise KliegError(f"the texts, or the hundredth of their documents that is held out, hold less than one row of "
                             f"{context} tokens; add text, set documents apart by blank lines, or shorten `context`.")
        self._tokens = np.concatenate(documents)
        self._starts = np.concatenate([[0], np.cumsum([len(d) for d in documents])])
        self._repeats, self._bos, self._context, self._seed = repeats, bos, context, seed
        self._epoch: tuple[int, np.ndarray] = (-1, self._tokens[:0])

    @property
    def tokens(self) -> int:
        """Distinct tokens of text, repeats not counted."""
        return len(self._tokens)

    def _stream(self, epoch: int) -> np.ndarray:
        """All documents of an epoch, shuffled, end to end. The fraction of a repeat is drawn anew."""
        if self._epoch[0] != epoch:
            rng = np.random.default_rng((self._seed, epoch))
            whole = np.floor(self._repeats + rng.random(len(self._repeats))).astype(np.int64)
            order = rng.permutation(np.repeat(np.arange(len(whole)), whole))
            stream = np.concatenate([self._tokens[self._starts[d]:self._starts[d + 1]] for d in order])
            self._epoch = (epoch, stream)
        return self._epoch[1]

    def rows(self, first: int, count: int) -> Batch:
        """Rows `first` to `first + count` of the endless series of epochs."""
        picked, epoch = [], 0
        while len(picked) < count:
            stream = self._stream(epoch)
            here = (len(stream) - 1) // self._context
            while first < here and len(picked) < count:
                picked.append(stream[first * self._context:(first + 1) * self._context + 1])
                first += 1
            first, epoch = first - here, epoch + 1
        return self._batch(np.stack(picked).astype(np.int64))

    def _batch(self, rows: np.ndarray) -> Batch:
        ids, targets = torch.from_numpy(rows[:, :-1]), torch.from_numpy(rows[:, 1:].copy())
        targets[targets == self._bos] = -100
        return Batch(ids.contiguous(), targets, (ids == self._bos).cumsum(1))


def encode(sources: list[Source], tokenizer: Tokenizer, context: int, seed: int,
           data: str | None = None) -> tuple[Corpus, Corpus]:
    """Training and validation corpora of a mixture. Every document becomes bos + text + eos."""
    parts: dict[bool, tuple[list[np.ndarray], list[float]]] = {False: ([], []), True: ([], [])}
    for source in sources:
        texts = list(source.documents(data))
        for text, ids in zip(texts, tokenizer.encode_all(texts), strict=True):
            held_out = is_validation(text)
            documents, repeats = parts[held_out]
            documents.append(np.array([tokenizer.bos, *ids, tokenizer.eos], dtype=np.uint32))
            repeats.append(1.0 if held_out else source.repeat)
    return tuple(Corpus(d, np.array(r), tokenizer.bos, context, seed) for d, r in (parts[False], parts[True]))
