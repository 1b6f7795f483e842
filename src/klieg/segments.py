"""BPE dropout: the same text cut into pieces in another way each time it is read.

A merge that could be made is passed over with some probability, so that rare long pieces and
the short ones they are made of learn from each other. By a seed: the `tokenizers` library has
this too, but draws from a source that cannot be seeded, and a run could not be taken up again.

Source: Provilkov et al. 2020, "BPE-Dropout: Simple and Effective Subword Regularization".
"""

from __future__ import annotations

import json
from random import Random

from klieg.errors import KliegError
from klieg.tokenizers import Tokenizer


class Dropout:
    """A tokenizer that leaves out a share of its merges."""

    def __init__(self, tokenizer: Tokenizer, share: float) -> None:
        """share: of merges, 0 to below 1. A tokenizer that is no byte-level BPE is a KliegError."""
        self._backend, self._share = tokenizer.backend, share
        model = json.loads(self._backend.to_str())["model"]
        if model["type"] != "BPE" or self._backend.pre_tokenizer is None:
            raise KliegError("dropout of merges needs a byte-level BPE tokenizer.")
        self._ranks = {tuple(pair): rank for rank, pair in enumerate(model["merges"])}
        self._ids: dict[str, int] = model["vocab"]

    def encode(self, text: str, random: Random) -> list[int]:
        """Ids of a text, bare; with a share of 0 those of the tokenizer itself."""
        return [self._ids[piece] for word, _ in self._backend.pre_tokenizer.pre_tokenize_str(text)
                for piece in self._pieces(word, random)]

    def _pieces(self, word: str, random: Random) -> list[str]:
        pieces, ranks, share = list(word), self._ranks, self._share
        while len(pieces) > 1:
            best, place = len(ranks), -1
            for at in range(len(pieces) - 1):
                rank = ranks.get((pieces[at], pieces[at + 1]), len(ranks))
                if rank < best and random.random() >= share:
                    best, place = rank, at
            if place < 0:
                break
            pieces[place:place + 2] = [pieces[place] + pieces[place + 1]]
        return pieces
