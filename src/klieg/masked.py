"""Masked tokens: what an encoder is trained on, and what it can be asked.

Of every row a share of the tokens is chosen. Of the chosen, eight in ten are replaced by the mask,
one in ten by any token, and one in ten stays; the model is to name all of them as they were, and so
can never trust what it reads. Which tokens are chosen follows from the seed and the number of the
row alone, as the rows themselves do.

    for guesses in fill(model, tokenizer, "The cat [MASK] on the mat"):
        print(guesses[0].token, guesses[0].p)

Source: Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers", section 3.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from klieg import rows
from klieg.attention import Mask
from klieg.data import Source
from klieg.encoders import Bert
from klieg.errors import KliegError
from klieg.loss import picks
from klieg.recipe import MaskTraining
from klieg.rows import Batch, Corpus
from klieg.tokenizers import LONGEST_PIECE, MASK, Tokenizer, check_text

REPLACED, CHANGED = 0.8, 0.1  # of the chosen tokens: by the mask, and by any token; the rest stays

texts = rows.texts


@dataclass(frozen=True)
class MaskedBatch(Batch):
    """ids (b, i) with some tokens hidden; targets (b, i): what stood at the chosen places, -100 at the others."""

    def loss(self, model: Bert, train: MaskTraining, run: Callable[..., Tensor] | None = None) -> Tensor:
        """Mean loss of the chosen tokens, nats a token; `run` stands in for model.hidden."""
        chosen = self.targets >= 0
        with torch.autocast(self.ids.device.type, torch.bfloat16, enabled=train.precision == "bf16"):
            hidden = (run or model.hidden)(self.ids, mask=Mask.documents(self.documents), positions=self.positions)
            if not picks(self.ids.device):
                return F.cross_entropy(model.head(hidden).flatten(0, 1).float(), self.targets.flatten())
            logits = model.head(hidden[chosen])
        return F.cross_entropy(logits.float(), self.targets[chosen])


class MaskedCorpus(Corpus):
    """The rows of texts, with some of their tokens hidden."""

    def __init__(self, documents: list[np.ndarray], repeats: np.ndarray, tokenizer: Tokenizer, train: MaskTraining) -> None:
        """documents: token ids that start with the first mark; repeats (n,): how often each occurs in an epoch."""
        super().__init__(documents, repeats, tokenizer.bos, train.context, train.seed)
        self._share, self._mask = train.mask_share, mask_of(tokenizer)
        self._marks = np.array(sorted(tokenizer.marks.values()))
        self._words = np.setdiff1d(np.arange(tokenizer.size), self._marks)

    def rows(self, first: int, count: int) -> MaskedBatch:
        """Rows `first` to `first + count` of the endless series of epochs; a look hides the same tokens every time."""
        batch = super().rows(first, count)
        hidden = [self._hide(row, first + n) for n, row in enumerate(batch.ids.numpy())]
        ids, targets = (torch.from_numpy(np.stack(side)) for side in zip(*hidden, strict=True))
        return MaskedBatch(ids, targets, batch.documents)

    def _hide(self, row: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
        """A row (i,) as the model reads it, and what it should name; marks are never chosen."""
        rng = np.random.default_rng((self._seed, number, 1))
        places = rng.permutation(np.flatnonzero(~np.isin(row, self._marks)))
        chosen = places[:max(1, round(self._share * len(places)))]
        fate = rng.random(len(chosen))
        masked, changed = chosen[fate < REPLACED], chosen[fate >= 1 - CHANGED]
        ids, targets = row.copy(), np.full_like(row, -100)
        ids[masked], ids[changed] = self._mask, rng.choice(self._words, len(changed))
        targets[chosen] = row[chosen]
        return ids, targets


def encode(sources: tuple[Source, ...], tokenizer: Tokenizer, train: MaskTraining,
           data: str | None = None) -> tuple[MaskedCorpus, MaskedCorpus]:
    """Training and validation corpora of a mixture. Every document becomes bos + text + eos."""
    return tuple(MaskedCorpus(*part, tokenizer, train) for part in rows.documents(sources, tokenizer, data))


# ---- asking ----

@dataclass(frozen=True)
class Guess:
    """What may stand at a masked place: a token's label, its id, its probability, and its rank from 1."""

    token: str
    id: int
    p: float
    rank: int


@torch.no_grad()
def fill(model: Bert, tokenizer: Tokenizer, text: str, count: int = 10) -> list[list[Guess]]:
    """The likeliest tokens at each [MASK] of a text, best first.

    All places are asked at once, so no guess knows what is guessed at another place.
    """
    if not isinstance(model, Bert):
        raise KliegError(f"a {type(model).__name__} does not fill masks; take a BertForMaskedLM, or train one with "
                         "recipes/masked.toml.")
    mask, ids = mask_of(tokenizer), read(tokenizer, check_text(text), model.positions)
    places = [n for n, id in enumerate(ids) if id == mask]
    if not places:
        raise KliegError(f"the text has no {MASK}; write {MASK} where a token is to be found.")
    probabilities = model.head(model.hidden(torch.tensor([ids]))[0, places]).double().softmax(-1)
    best = probabilities.topk(min(count, probabilities.shape[-1]))
    return [_guesses(tokenizer, *row) for row in zip(best.values.tolist(), best.indices.tolist(), strict=True)]


def read(tokenizer: Tokenizer, text: str, positions: int, cut: bool = False, offer: str = "") -> list[int]:
    """The ids of a text between the tokenizer's own marks, each [MASK] in it being the mark, which takes the space before it.

    A text of more tokens than `positions` is refused with an `offer`, or cut before the closing marks.
    """
    most, size = positions * LONGEST_PIECE, f"{len(text):,} characters"
    if cut or len(text) <= most:
        *parts, last = text[:most].split(MASK) if MASK in tokenizer.marks else [text[:most]]
        ids = tokenizer.encode("")
        for part in parts:
            ids += [*tokenizer.encode(part.rstrip(), bos=False), tokenizer.marks[MASK]]
        ids += tokenizer.encode(last, bos=False)
        room = positions - len(tokenizer.closing)
        if cut or len(ids) <= room:
            return [*ids[:room], *tokenizer.closing]
        size = f"{len(ids) + positions - room:,} tokens"
    raise KliegError(f"the text has {size} and the model has positions for {positions} tokens; shorten it{offer}.")


def mask_of(tokenizer: Tokenizer) -> int:
    """The id of the mask; KliegError if the tokenizer has none."""
    if MASK not in tokenizer.marks:
        raise KliegError(f"the tokenizer has no mark {MASK}; take one of a model that was trained on masked tokens.")
    return tokenizer.marks[MASK]


def _guesses(tokenizer: Tokenizer, probabilities: Iterable[float], ids: Iterable[int]) -> list[Guess]:
    return [Guess(tokenizer.piece(id), id, p, rank) for rank, (p, id) in enumerate(zip(probabilities, ids, strict=True), 1)]
