"""Sparse attention as it is written: which pairs a head keeps, and which it gives up.

    Pattern.read("window:128")             # keys nearer than 128
    Pattern.read("block:64")               # the block of 64 that the query stands in
    Pattern.read("strided:64+global:4")    # keys nearer than 64 and every 64-th beyond; the first 4 tokens with all
    Pattern.read("top:16")                 # the 16 largest scores of each row

The first three go by position: they are rules of a Mask, of O(1) size, and rules.py names their sources. The largest
scores are only known once all are (Gupta et al. 2021, "Memory-efficient Transformers via Top-k Attention"), so `top`
spares no computation; it is what the others can be held to: no pattern that keeps k keys of a row loses less of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from klieg.attention import Mask
from klieg.errors import KliegError, nearest
from klieg.rules import SPARSE, Rule

TOP = "top"
KINDS = (*SPARSE, TOP)
FORM = "KIND:SIZE, for example window:128, block:64, strided:64+global:4 or top:16"


@dataclass(frozen=True)
class Pattern:
    """Which pairs are kept; str() writes it as read() takes it."""

    kind: str
    size: int
    """The width of a window, a block or a stride in tokens, or the number of largest scores; at least 1."""
    global_tokens: int = 0
    """So many first tokens see all and are seen by all; not of `top`."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise KliegError(f"there is no pattern {self.kind!r}; it must be one of {', '.join(KINDS)}."
                             + nearest(self.kind, list(KINDS)))
        if self.size < 1 or self.global_tokens < 0 or (self.kind == TOP and self.global_tokens):
            raise KliegError(f"the pattern {self} is not {FORM}; a size is at least 1, and top has no global tokens.")

    @staticmethod
    def read(text: str) -> Pattern:
        """A pattern as it is written. KliegError says how it must look."""
        found = re.fullmatch(r"([a-z]+):(\d{1,9})(?:\+global:(\d{1,9}))?", text, re.ASCII)
        if found is None:
            raise KliegError(f"a pattern is given as {text!r}; it must be {FORM}.")
        return Pattern(found[1], int(found[2]), int(found[3] or 0))

    def __str__(self) -> str:
        return f"{self.kind}:{self.size}" + (f"+global:{self.global_tokens}" if self.global_tokens else "")

    @property
    def mask(self) -> Mask | None:
        """The pattern as a mask; None for `top`, which is not by position."""
        return None if self.kind == TOP else Mask((Rule(self.kind, self.size, global_tokens=self.global_tokens),))

    def kept(self, scores: Tensor, slots: Tensor, keys: Tensor) -> Tensor:
        """Which pairs of whole rows of masked scores (b, h, i, j) are kept, True where they are: broadcastable to them.

        slots (i,) and keys (j,), int64; what the scores hide at -inf stays hidden either way.
        """
        if self.mask is not None:
            return self.mask.visible(slots, keys)
        largest = scores.topk(min(self.size, scores.shape[-1]), sorted=False).indices
        return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, largest, True)
