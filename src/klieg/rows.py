"""Rows packed from texts: what a decoder is trained on.

Documents are encoded once and laid end to end in a new order every epoch. A row is the next
`context` tokens of that stream, whatever documents they belong to; the documents' numbers
travel with the row so that they do not see each other. The row of any step follows from the
seed and the step alone, which is what lets an interrupted training go on exactly where it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from klieg.attention import Mask
from klieg.data import Source, is_validation
from klieg.decoders import Decoder
from klieg.errors import KliegError
from klieg.loss import token_loss
from klieg.parallel import ALONE, Group
from klieg.recipe import RowTraining
from klieg.tokenizers import Tokenizer


@dataclass(frozen=True)
class Batch:
    """ids (b, i) and their targets (b, i), int64; -100 where there is nothing to predict; documents (b, i)."""

    ids: Tensor
    targets: Tensor
    documents: Tensor

    @property
    def count(self) -> int:
        """Tokens that are predicted."""
        return int((self.targets >= 0).sum())

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return replace(self, ids=self.ids.to(device), targets=self.targets.to(device), documents=self.documents.to(device))

    def loss(self, model: Decoder, train: RowTraining, run: Callable[..., Tensor] | None = None) -> Tensor:
        """Mean loss of next tokens, nats a token; `run` stands in for model.hidden."""
        half = train.precision == "bf16"
        with torch.autocast(self.ids.device.type, torch.bfloat16, enabled=half):
            hidden = (run or model.hidden)(self.ids, mask=Mask.documents(self.documents), positions=self.positions)
        kind = torch.bfloat16 if half else torch.float32
        return token_loss(hidden.flatten(0, 1).to(kind), model.vocabulary.to(kind), self.targets.flatten())

    @property
    def positions(self) -> Tensor:
        """Each token's place in its own document: (b, i)."""
        slot = torch.arange(self.ids.shape[1], device=self.ids.device)
        starts = torch.where(self.documents.diff(dim=1, prepend=self.documents[:, :1] - 1) != 0, slot, 0)
        return slot - starts.cummax(dim=1).values


class Corpus:
    """Encoded documents of several sources, and the rows packed from them."""

    def __init__(self, documents: list[np.ndarray], repeats: np.ndarray, bos: int, context: int, seed: int,
                 ends: bool = False) -> None:
        """documents: token ids that start with `bos`; repeats (n,): how often each occurs in an epoch.

        ends: whether the next document's `bos` is what a document ends with too, as in GPT-2, and so is predicted.
        """
        self._lengths = np.array([len(d) for d in documents], dtype=np.int64)
        if self._lengths @ repeats <= context:
            raise KliegError(f"the texts, or the hundredth of their documents that is held out, hold less than one row of "
                             f"{context} tokens; add text, set documents apart by blank lines, raise `repeat`, or shorten "
                             "`context`.")
        self._tokens = np.concatenate(documents)
        self._starts = np.concatenate([[0], np.cumsum(self._lengths)])
        self._repeats, self._bos, self._context, self._seed, self._ends = repeats, bos, context, seed, ends
        self.counts: list[int] = []                                 # rows of each epoch so far
        self._epoch: tuple[int, np.ndarray] = (-1, self._tokens[:0])

    @property
    def tokens(self) -> int:
        """Distinct tokens of text, repeats not counted."""
        return len(self._tokens)

    @property
    def digest(self) -> str:
        """Of every document's tokens: what a run that goes on knows its texts by."""
        digest = hashlib.sha256(self._tokens)
        digest.update(self._starts)
        return digest.hexdigest()

    def _repeated(self, epoch: int) -> tuple[np.random.Generator, np.ndarray]:
        """An epoch's draws, and how often it has each document: the fraction of a repeat is drawn anew."""
        rng = np.random.default_rng((self._seed, epoch))
        return rng, np.floor(self._repeats + rng.random(len(self._repeats))).astype(np.int64)

    def _count(self, epoch: int) -> int:
        """Rows of an epoch, which may have none; only one that is read from is laid out."""
        while len(self.counts) <= epoch:
            _, whole = self._repeated(len(self.counts))
            self.counts.append(max(0, int(whole @ self._lengths) - 1) // self._context)
        return self.counts[epoch]

    def _stream(self, epoch: int) -> np.ndarray:
        """All documents of an epoch, shuffled, end to end."""
        if self._epoch[0] != epoch:
            rng, whole = self._repeated(epoch)
            order = rng.permutation(np.repeat(np.arange(len(whole)), whole))
            stream = np.concatenate([self._tokens[self._starts[d]:self._starts[d + 1]] for d in order])
            self._epoch = (epoch, stream)
        return self._epoch[1]

    def batches(self, step: int, train: RowTraining, group: Group = ALONE) -> list[Batch]:
        """The parts of one optimizer step that are this process's."""
        first = step * train.accumulate
        return [self.rows((first + part) * train.batch, train.batch) for part in group.share(range(train.accumulate))]

    @torch.no_grad()
    def look(self, model: Decoder, train: RowTraining, group: Group = ALONE) -> tuple[float, None]:
        """Mean loss of the first rows, nats a token, the same rows every time; there is no BLEU. Processes share the work."""
        parts = max(1, train.validation_rows // train.batch)
        losses = [self.rows(part * train.batch, train.batch).to(group.device).loss(model, train).item()
                  for part in group.share(range(parts))]
        return group.sum(sum(losses)) / parts, None

    def rows(self, first: int, count: int) -> Batch:
        """Rows `first` to `first + count` of the endless series of epochs."""
        picked, epoch = [], 0
        while len(picked) < count:
            here = self._count(epoch)
            while first < here and len(picked) < count:
                stream = self._stream(epoch)
                picked.append(stream[first * self._context:(first + 1) * self._context + 1])
                first += 1
            first, epoch = first - here, epoch + 1
        return self._batch(np.stack(picked).astype(np.int64))

    def _batch(self, rows: np.ndarray) -> Batch:
        ids, targets = torch.from_numpy(rows[:, :-1]), torch.from_numpy(rows[:, 1:].copy())
        if not self._ends:
            targets[targets == self._bos] = -100
        return Batch(ids.contiguous(), targets, (ids == self._bos).cumsum(1))


def texts(sources: tuple[Source, ...], data: str | None) -> Iterator[str]:
    """Every document of a mixture: what the tokenizer learns from."""
    found = [source.documents(data) for source in sources]  # refuses a text that is not there
    return chain.from_iterable(found)


def encode(sources: tuple[Source, ...], tokenizer: Tokenizer, train: RowTraining,
           data: str | None = None) -> tuple[Corpus, Corpus]:
    """Training and validation corpora of a mixture."""
    parts = documents(sources, tokenizer, data)
    return tuple(Corpus(*part, tokenizer.bos, train.context, train.seed, tokenizer.bos == tokenizer.eos) for part in parts)


def documents(sources: tuple[Source, ...], tokenizer: Tokenizer,
              data: str | None) -> list[tuple[list[np.ndarray], np.ndarray]]:
    """The documents of a mixture and how often each occurs in an epoch: (for training, held out). Each is bos + text + eos, or
    where these are one mark, bos + text: the next one's is its end."""
    tokenizer.check_marks("bos", "eos")
    closing = [] if tokenizer.bos == tokenizer.eos else [tokenizer.eos]
    parts: dict[bool, tuple[list[np.ndarray], list[float]]] = {False: ([], []), True: ([], [])}
    for source in sources:
        texts = list(source.documents(data))
        for text, ids in zip(texts, tokenizer.encode_all(texts), strict=True):
            held_out = is_validation(text)
            found, repeats = parts[held_out]
            found.append(np.array([tokenizer.bos, *ids, *closing], dtype=np.uint32))
            repeats.append(1.0 if held_out else source.repeat)
    return [(found, np.array(repeats)) for found, repeats in (parts[False], parts[True])]
