"""A small language with agreement over any distance, whose own entropy is known, to train small models on.

Clauses open and close, one inside another. A clause is of a kind; what closes it must be of the same kind, however much stands
between, and words keep to the kind of the innermost clause that is open. All of this can be read off the text, so what is
left to chance is known: the generator tells for each token how likely it was, and no model can do better than that.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

KINDS, WORDS, DEPTH = 8, 32, 6
OPENS, CLOSES = 0.15, 0.15           # how likely a clause opens or closes, where it can
VOCABULARY = 2 * KINDS + WORDS       # what opens each kind, what closes it, words


@dataclass(frozen=True, eq=False)
class Text:
    """Rows of the language: ids (b, i), int64, and the surprisal of each given those before it, in nats: (b, i), float64."""

    ids: Tensor
    surprisal: Tensor


def habits() -> Tensor:
    """How likely each word is in a clause of each kind, and outside all clauses: (KINDS + 1, WORDS), rows sum to 1."""
    spread = torch.randn(KINDS + 1, WORDS, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return (2 * spread).softmax(1)


def write(rows: int, length: int, chance: torch.Generator) -> Text:
    """Rows that begin outside all clauses, drawn one token after another, all rows at once."""
    words, row = habits(), torch.arange(rows)
    stack, depth = torch.full((rows, DEPTH + 1), KINDS), torch.zeros(rows, dtype=torch.int64)     # the outside is at the bottom
    ids, likely = torch.empty(rows, length, dtype=torch.int64), torch.empty(rows, length, dtype=torch.float64)
    for n in range(length):
        opens, closes = OPENS * (depth < DEPTH), CLOSES * (depth > 0)
        draw, inner = torch.rand(rows, dtype=torch.float64, generator=chance), stack[row, depth]
        kind = torch.randint(KINDS, (rows,), generator=chance)
        word = torch.multinomial(words[inner], 1, generator=chance)[:, 0]
        opened, closed = draw < opens, draw >= 1 - closes
        ids[:, n] = torch.where(opened, kind, torch.where(closed, KINDS + inner, 2 * KINDS + word))
        said = (1 - opens - closes) * words[inner, word]
        likely[:, n] = torch.where(opened, opens / KINDS, torch.where(closed, closes, said))
        depth = depth + opened.long() - closed.long()
        stack[row[opened], depth[opened]] = kind[opened]
    return Text(ids, -likely.log())
