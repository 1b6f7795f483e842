"""What a translator learns from: mixtures of parallel texts, and the batches made of them.

A pair is a sentence and its translation. Pairs of like length share a batch, so little of it is
padding; which pairs, in which pieces, and in what order the batches come, follows from the seed
and the epoch alone. A translator of several target languages is told the wanted one by a mark
before the source.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from klieg.beam import Search, padded, search
from klieg.bitexts import read_pairs
from klieg.encoded import Coded, Entry, Pair
from klieg.errors import KliegError
from klieg.evaluate import bleu, cutting
from klieg.loss import token_loss, twin_loss
from klieg.parallel import ALONE, Group
from klieg.recipe import PairSource, PairTraining
from klieg.segments import Dropout, Segments
from klieg.seq2seq import Marian
from klieg.tokenizers import Tokenizer
from klieg.translate import languages

# ---- texts and marks ----

def texts(sources: Iterable[PairSource], data: str | None) -> Iterator[str]:
    """Both sides of everything that is trained on: what the tokenizer learns from."""
    for source in sources:
        for pair in read_pairs(source, data, "train"):
            yield from pair


def marks(sources: Iterable[PairSource]) -> list[str]:
    """A mark for each target language; none where there is only one."""
    written = written_languages(sources)
    return [mark_of(language) for language in written] if len(written) > 1 else []


def written_languages(sources: Iterable[PairSource]) -> list[str]:
    """The languages that a mixture is translated into."""
    return list(dict.fromkeys(language for s in sources for language in ([s.target, s.source] if s.both else [s.target])))


def mark_of(language: str) -> str:
    """What stands before a source that is to be translated into a language."""
    return f">>{language}<<"


# ---- batches ----

GRID = 8  # lengths on a card are multiples of it: few shapes, each launched as one

@dataclass(frozen=True, eq=False)
class PairBatch:
    """source (b, i), inputs (b, t), int64; real (b, i), bool, or None; targets (b, t), -100 where nothing is predicted."""

    source: Tensor
    real: Tensor | None
    inputs: Tensor
    targets: Tensor

    @property
    def count(self) -> int:
        """Tokens that are predicted, end marks included."""
        return int((self.targets >= 0).sum())

    def to(self, device: torch.device) -> PairBatch:
        """The same batch on a device."""
        real = None if self.real is None else self.real.to(device)
        return replace(self, source=self.source.to(device), real=real, inputs=self.inputs.to(device),
                       targets=self.targets.to(device))

    def loss(self, model: Marian, train: PairTraining, run: Callable[..., Tensor] | None = None) -> Tensor:
        """What is trained on, nats a token, with smoothing and R-Drop; `run` stands in for model.hidden."""
        half, twice = train.precision == "bf16", train.r_drop > 0
        given = [self.source, self.inputs, self.real]
        if twice:
            given = [x if x is None else torch.cat([x, x]) for x in given]
        with torch.autocast(self.source.device.type, torch.bfloat16, enabled=half):
            hidden = (run or model.hidden)(*given)
        kind, targets = torch.bfloat16 if half else torch.float32, self.targets.flatten()
        hidden, weight = hidden.flatten(0, 1).to(kind), model.vocabulary.to(kind)
        if twice:
            return twin_loss(hidden, weight, targets, train.label_smoothing, train.r_drop)
        return token_loss(hidden, weight, targets, train.label_smoothing)

    @torch.no_grad()
    def surprise(self, model: Marian) -> float:
        """Mean loss without smoothing, nats a token."""
        hidden = model.hidden(self.source, self.inputs, self.real)
        return token_loss(hidden.flatten(0, 1), model.vocabulary, self.targets.flatten()).item()


class PairCorpus:
    """Encoded pairs and the batches made of them.

    With a `grid` the lengths of batches are multiples of it, or `longest`, and their rows what then fits, the last of them
    empty where pairs are few: so there are few shapes of batches, and no row whose source is all padding.
    """

    def __init__(self, coded: Coded, tokenizer: Tokenizer, train: PairTraining, grid: int = 1) -> None:
        self.grid = grid
        self.coded, self.tokenizer, self._train = coded, tokenizer, train
        self._pad, self._marks = tokenizer.pad, tokenizer.marks
        self._lengths = np.stack([coded.sides[0].lengths + 2, coded.sides[1].lengths + 1], axis=1)
        self._repeats = np.array([repeat for _, repeat in coded.entries])
        self.counts: list[int] = []                                 # batches of each epoch so far
        self._current: tuple[int, list[tuple[np.ndarray, np.ndarray]]] = (-1, [])
        self._segments: list[Segments] = []
        if train.bpe_dropout:
            dropout = Dropout(tokenizer, train.bpe_dropout)
            self._segments = [Segments(dropout, side.ids, side.starts, train.longest - 2) for side in coded.sides]

    @property
    def pairs(self) -> list[Pair]:
        """The texts of all pairs that are used."""
        return [(self._text(n, 0), self._text(n, 1)) for n in range(len(self.coded))]

    @property
    def targets(self) -> list[str | None]:
        """The language that each pair's source is marked with."""
        return [self.coded.entries[entry][0] for entry in self.coded.which]

    @property
    def digest(self) -> str:
        """What a run that goes on knows its texts by: of the pairs' lengths, as tens of millions are too many to read again."""
        digest = hashlib.sha256(self._lengths.ravel())
        digest.update(self.coded.which)
        return digest.hexdigest()

    def _text(self, number: int, side: int) -> str:
        return self.tokenizer.decode(self.coded.sides[side][number])

    def _epoch(self, epoch: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """The batches of an epoch, each as numbers of pairs and the seeds by which these are cut into pieces."""
        if self._current[0] != epoch:
            rng = np.random.default_rng((self._train.seed, epoch))
            repeats = self._repeats[self.coded.which]
            whole = np.floor(repeats + rng.random(len(repeats))).astype(np.int64)
            order = rng.permutation(np.repeat(np.arange(len(whole)), whole))
            seeds = np.random.default_rng((self._train.seed, epoch, 1)).integers(2**62, size=len(order))
            lengths = self._lengths[order]
            if self._segments:
                lengths = np.stack([side.counts(order, 2 * seeds + n) + 2 - n for n, side in enumerate(self._segments)], 1)
            lengths = self._round(lengths)
            by_length = np.lexsort(lengths.T)
            order, seeds = order[by_length], seeds[by_length]
            found = cut(lengths[by_length], self._train.batch_tokens)
            batches = [(order[start:stop], seeds[start:stop]) for start, stop in found]
            self._current = (epoch, [batches[n] for n in rng.permutation(len(batches))])
        return self._current[1]

    def batches(self, step: int, train: PairTraining, group: Group = ALONE) -> list[PairBatch]:
        """The parts of one optimizer step that are this process's."""
        first = step * train.accumulate
        return [self.batch(*self._place(part)) for part in group.share(range(first, first + train.accumulate))]

    def _place(self, part: int) -> tuple[int, int]:
        epoch = 0
        while True:
            if epoch == len(self.counts):
                self.counts.append(len(self._epoch(epoch)))
            if part < self.counts[epoch]:
                return epoch, part
            part, epoch = part - self.counts[epoch], epoch + 1

    def batch(self, epoch: int, index: int) -> PairBatch:
        """One batch of an epoch."""
        numbers, seeds = self._epoch(epoch)[index]
        if self._segments:
            sides = [side.cut(numbers, 2 * seeds + n) for n, side in enumerate(self._segments)]
        else:
            sides = [[side[n] for n in numbers] for side in self.coded.sides]
        batch = self._filled(numbers, *sides)
        return batch if self.grid == 1 else self._on_grid(batch)

    def _filled(self, numbers: Iterable[int], sources: list[list[int]], targets: list[list[int]]) -> PairBatch:
        eos = self.tokenizer.eos
        source, real = padded([[*self._opening(n), *ids, eos] for n, ids in zip(numbers, sources, strict=True)], self._pad)
        inputs, _ = padded([[self._pad, *ids] for ids in targets], self._pad)
        wanted, _ = padded([[*ids, eos] for ids in targets], -100)
        return PairBatch(source, real, inputs, wanted)

    def _on_grid(self, batch: PairBatch) -> PairBatch:
        """The same pairs in one of few shapes."""
        wide, long = (int(self._round(side.shape[1])) for side in (batch.source, batch.inputs))
        rows = max(len(batch.source), self._train.batch_tokens // max(wide, long))

        def grown(side: Tensor, width: int, value: int) -> Tensor:
            return F.pad(side, (0, width - side.shape[1], 0, rows - len(side)), value=value)

        real = grown(torch.ones_like(batch.source, dtype=torch.bool) if batch.real is None else batch.real, wide, False)
        real[:, 0] = True                                           # an empty row looks at something too
        return PairBatch(grown(batch.source, wide, self._pad), real, grown(batch.inputs, long, self._pad),
                         grown(batch.targets, long, -100))

    def _round(self, lengths: np.ndarray | int) -> np.ndarray:
        """Lengths as they are on the grid, within the model's positions."""
        return np.minimum(-(-lengths // self.grid) * self.grid, self._train.longest)

    def _opening(self, number: int) -> list[int]:
        language = self.coded.entries[self.coded.which[number]][0]
        return [] if language is None else [self._marks[mark_of(language)]]

    def look(self, model: Marian, train: PairTraining, group: Group = ALONE) -> tuple[float, float]:
        """The loss over all pairs, nats a token, and the BLEU of greedy translations, the mean over target languages.

        The processes of a group share the work.
        """
        total, count, (sources, targets) = 0.0, 0, self.coded.sides
        for start, stop in group.share(cut(self._lengths, self._train.batch_tokens)):
            numbers = range(start, stop)
            batch = self._filled(numbers, [sources[n] for n in numbers], [targets[n] for n in numbers])
            total += batch.to(group.device).surprise(model) * batch.count
            count += batch.count
        loss = group.sum(total) / group.sum(count)
        mine = [[*self._opening(n), *sources[n], self.tokenizer.eos] for n in group.share(range(len(self.coded)))]
        with nullcontext() if group.device.type == "cpu" else group.device:       # what search() makes is on the model's device
            found = [self.tokenizer.decode(best[0].ids) for best in search(model, mine, Search(beam=1))]
        found, languages = group.merge(found), self.targets
        scores = [self._bleu(found, languages, language) for language in dict.fromkeys(languages)]
        return loss, sum(scores) / len(scores)

    def _bleu(self, found: list[str], languages: list[str | None], language: str | None) -> float:
        rows = [n for n, target in enumerate(languages) if target == language]
        references = [self._text(n, 1) for n in rows]
        return bleu([found[n] for n in rows], references, self._train.bleu or cutting(references, language))


def cut(lengths: np.ndarray, most: int) -> list[tuple[int, int]]:
    """Runs (start, stop) of pairs whose padded sides have at most `most` tokens each; lengths (n, 2)."""
    runs, start, widest = [], 0, 0
    for n, longer in enumerate(lengths.max(1, initial=0).tolist()):
        wider = max(widest, longer)
        if n > start and (n - start + 1) * wider > most:
            runs.append((start, n))
            start, wider = n, longer
        widest = wider
    return [*runs, (start, len(lengths))] if start < len(lengths) else runs


def encode(sources: tuple[PairSource, ...], tokenizer: Tokenizer, train: PairTraining,
           data: str | None = None) -> tuple[PairCorpus, PairCorpus]:
    """Training and validation pairs of a mixture; of the latter the first `validation_pairs` of each entry and direction."""
    tokenizer.check_marks("eos", "pad")
    known, wanted = languages(tokenizer), written_languages(sources)
    missing = [language for language in wanted if language not in known]
    if missing and (known or len(wanted) > 1):
        raise KliegError(f"the model to start from has no mark for {', '.join(missing)}, and writes "
                         f"{', '.join(known) or 'one language'}; name other texts, or train a model of its own.")
    found = []
    for split in ("train", "validation"):
        coded = Coded.of(_rows(sources, data, split, train, marked=bool(known)), tokenizer, train.longest)
        if not len(coded) and coded.left_out:
            raise KliegError(f"all {coded.left_out:,} pairs for {split} are left out: a side is empty, or longer than "
                             f"{train.longest} tokens; give other texts, or a larger `longest`.")
        if not len(coded):
            raise KliegError(f"the [[data]] tables hold no pairs for {split}; one pair in a hundred is held out where no "
                             "`validation` files are named, so give more text or name such files.")
        found.append(PairCorpus(coded, tokenizer, train))
    return found[0], found[1]


def _rows(sources: tuple[PairSource, ...], data: str | None, split: str, train: PairTraining,
          marked: bool) -> Iterator[tuple[Pair, Entry]]:
    """Every pair of a mixture in each of its directions, with the language its source is marked with and its repeats."""
    held = split == "validation"
    for source in sources:
        for turned in (False, True)[:1 + source.both]:
            language = source.source if turned else source.target
            entry = language if marked else None, 1.0 if held else source.repeat
            for pair in islice(read_pairs(source, data, split), train.validation_pairs if held else None):
                yield pair[::-1] if turned else pair, entry
