"""What a model loses without each of its heads: the loss over a corpus with a head muted, less the loss as it is.

A muted head gives zeros on; see changes.Mute. The layers below it run once for all heads (reruns.py). Both losses are of
the same tokens, so the difference is paired text by text, and its interval is narrower than that of either loss.

    found = ablate("chat", "my-text.txt", tokens=10_000)
    for effect in found.effects()[:3]:
        print(effect.layer, effect.head, effect.change, effect.low, effect.high)      # nats a token
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from klieg.analysis.atlas import student
from klieg.analysis.atlas.census import Source, Step, Visit, begun, read
from klieg.analysis.atlas.corpus import Corpus
from klieg.analysis.atlas.probes import Plain
from klieg.analysis.atlas.tally import Tally
from klieg.analysis.behaviour import Text
from klieg.analysis.reader import Heads, Reader, load
from klieg.changes import Heads as Which
from klieg.changes import Mute
from klieg.decoders import Decoder
from klieg.errors import KliegError, nearest
from klieg.loss import CHUNK
from klieg.reruns import reruns

# What is muted at a time: how many there are in a layer, and the one of a number.
OF: dict[str, tuple[Callable[[Decoder], int], Callable[[int, int], Which]]] = {
    "heads": (lambda model: model.heads, Which),
    "groups": (lambda model: model.kv_heads, lambda layer, group: Which(layer, group=group)),
    "layers": (lambda model: 1, lambda layer, _: Which(layer)),
}


@dataclass(frozen=True)
class Effect:
    """What muting one head, one K/V group (`head` is then its number) or the attention of one layer (0) does."""

    of: str
    layer: int
    head: int
    change: float
    """Of the loss, nats a token: above 0 where the model is worse without it."""
    low: float
    """The 95 % interval of the change, by text; NaN for a single text."""
    high: float
    texts: int
    tokens: int
    """Tokens that were predicted."""
    whole: bool
    """Whether the corpus was read to its end."""


@dataclass(eq=False)
class Ablation(Tally):
    """Sums over the windows of a corpus, float64. Of D, the change of a text's loss (nats, its sum over n tokens), for every
    layer and head: D, D squared and D n; and of the text itself n, n squared and the loss."""

    what: ClassVar[str] = "an ablation"
    command: ClassVar[str] = "ablate"
    form: ClassVar[str] = "klieg-ablation/1"

    def shapes(self) -> dict[str, tuple[int, ...]]:
        wide = len(self.rows), max(row.heads for row in self.rows)
        return {"change": wide, "squares": wide, "cross": wide, "texts": (3,)}

    @property
    def loss(self) -> float:
        """Of the unchanged model, nats a token."""
        return float(self.sums["texts"][2] / self.sums["texts"][0])

    def add(self, changes: Tensor, loss: float, count: int) -> None:
        """One more text of `count` predicted tokens: its loss, and how much larger it is without each head (layers, heads)."""
        for name, x in (("change", changes), ("squares", changes.square()), ("cross", changes * count),
                        ("texts", torch.tensor([count, count ** 2, loss], dtype=torch.float64))):
            self.sums[name] += x

    def changes(self) -> list[list[float]]:
        """The mean change of every head of every layer, nats a token."""
        return (self.sums["change"] / self.sums["texts"][0]).tolist()

    def effects(self) -> list[Effect]:
        """Every head, the one that is missed most first.

        The change is the ratio of two sums over texts, all D over all n, and the interval is that of a ratio estimator by
        Student's t (Cochran 1977, Sampling Techniques, chapter 6).
        """
        texts, (count, squares, _) = self.counts["windows"], self.sums["texts"].tolist()
        of, found = self.identity["unit"], []
        for layer, row in enumerate(self.rows):
            for head in range(row.heads):
                change, square, cross = (float(self.sums[name][layer, head]) for name in ("change", "squares", "cross"))
                mean, reach = change / count, math.nan
                if texts > 1:
                    spread = max(square - 2 * mean * cross + mean ** 2 * squares, 0.0)
                    reach = student(texts - 1) * math.sqrt(spread * texts / (texts - 1)) / count
                found.append(Effect(of, row.layer, head, mean, mean - reach, mean + reach, texts, int(count), self.whole))
        return sorted(found, key=lambda effect: -effect.change)


def ablate(model: str, corpus: str | Path, of: str = "heads", tokens: int | None = None, window: int | None = None,
           path: Path | None = None, step: Step | None = None) -> Ablation:
    """Mute each of a model's heads, K/V groups or layers (`of`) over a corpus, to its end or until so many tokens were read.

    The ablation is kept in `path`, and goes on there. step(done, expected) is told how far it is.
    """
    reader, texts = load(model), Corpus(corpus)
    found = begun(empty(reader, texts, of, window), path, texts, window)
    read(found, texts, Plain(reader), muted(found, reader), tokens, path, step=step)
    return found


def empty(reader: Reader, corpus: Source, of: str = "heads", window: int | None = None) -> Ablation:
    """An ablation of no texts yet."""
    if of not in OF:
        raise KliegError(f"there are no {of!r} to mute.{nearest(of, list(OF))}")
    reader.decoder()
    identity = {"model": reader.fingerprint, "corpus": corpus.fingerprint(), "unit": of}
    return Ablation(reader.name, reader.window(window), identity)


def muted(ablation: Ablation, reader: Reader) -> Visit:
    """What counts a window into an ablation."""
    model, (count, which) = reader.decoder(), OF[ablation.identity["unit"]]
    rows = [Heads(layer, "self", count(model), min(count(model), model.kv_heads)) for layer in range(model.layers)]
    changes = [Mute(which(row.layer, head)) for row in rows for head in range(row.heads)]

    def visit(text: Text, seed: int) -> None:
        ids = text.ids
        usual, runs = reruns(model, ids[None], changes)
        loss = _loss(model, usual[0], ids)
        without = torch.tensor([_loss(model, stream[0], ids) for _, stream in runs], dtype=torch.float64)
        ablation.of(rows)
        ablation.add((without - loss).view(len(rows), -1), loss, len(ids) - 1)

    return visit


@torch.no_grad()
def _loss(model: Decoder, stream: Tensor, ids: Tensor) -> float:
    """The sum of the losses, in nats, of every token but the first; stream: (n, d)."""
    pairs = zip(stream[:-1].split(CHUNK), ids[1:].split(CHUNK), strict=True)
    return sum(F.cross_entropy(model.head(model.normed(x)), wanted, reduction="none").double().sum().item()
               for x, wanted in pairs)
