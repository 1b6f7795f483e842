"""Sequences with something to remember: tokens that tell the value of a key, noise, and questions for the value of a key.

With one key this is copying a token over a distance, with several it is associative recall (Arora et al. 2023, Zoology).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from klieg.loss import token_loss
from klieg.recipe import Training

VALUES = 4
ASKED = 0.25          # the share of tokens that are questions, once something can be asked


@dataclass(frozen=True, eq=False)
class Questions:
    """ids (b, i) and what is to be answered at each (b, i), -100 where nothing is asked; distance (b, i) to what told it."""

    ids: Tensor
    answers: Tensor
    distance: Tensor

    @property
    def count(self) -> int:
        """Questions in all."""
        return int((self.answers >= 0).sum())

    def to(self, device: torch.device) -> Questions:
        """The same questions on a device."""
        return Questions(*(x.to(device) for x in (self.ids, self.answers, self.distance)))

    def loss(self, model: torch.nn.Module, train: Training | None = None, run: None = None) -> Tensor:
        """Mean loss of the answers, nats a question; what train.Stepper asks of a batch."""
        hidden = model.hidden(model.embedding(self.ids))
        return token_loss(hidden.flatten(0, 1), model.vocabulary, self.answers.flatten())


def vocabulary(keys: int) -> int:
    """Values, which alone are noise, then a question for each key, then every key with every value."""
    return VALUES + keys + keys * VALUES


def ask(keys: int, rows: int, length: int, chance: torch.Generator) -> Questions:
    """Every key is told once, at a random place; what was told before may be asked at any place behind, ever again."""
    noise, values = (torch.randint(VALUES, (rows, n), generator=chance) for n in (length, keys))
    told = torch.rand(rows, length - 1, generator=chance).argsort(1)[:, :keys]                    # where: (rows, keys)
    place = torch.arange(length)
    known = told[:, None] < place[None, :, None]                                                  # (rows, length, keys)
    key = (torch.rand(rows, length, keys, generator=chance) * known).argmax(2)
    asked = known.any(2) & (torch.rand(rows, length, generator=chance) < ASKED)
    asked.scatter_(1, told, False)
    ids = torch.where(asked, VALUES + key, noise)
    ids.scatter_(1, told, VALUES + keys + VALUES * torch.arange(keys) + values)
    return Questions(ids, torch.where(asked, values.gather(1, key), -100), torch.where(asked, place - told.gather(1, key), 0))
