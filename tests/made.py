"""Traces and atlases made of random numbers, for tests of what shows them: every number of theirs is known, and no model is
loaded."""

from __future__ import annotations

import zlib

import torch

from klieg import attention
from klieg.analysis.atlas import Atlas
from klieg.analysis.behaviour import Score
from klieg.analysis.chance import Rate
from klieg.analysis.coreference import Head
from klieg.analysis.reader import Heads
from klieg.analysis.syntax import Relation, Syntax
from klieg.attention import Mask
from klieg.errors import KliegError
from klieg.explorer.turns import Turn
from klieg.trace import Call, Source, Trace

SCRIPT = "<script>alert(1)</script>"


def made(model: str, text: str) -> Trace:
    """A trace of random q, k and v: 3 layers, 4 heads on 2 K/V heads, width 24, a softcap in the last layer."""
    tokens = ["⟨s⟩", *text.split()]
    if tokens == ["⟨s⟩"]:
        raise KliegError("the text is empty; give at least one word.")
    random = torch.Generator().manual_seed(zlib.crc32(text.encode()))
    n, calls = len(tokens), []
    for layer in range(3):
        q, k, v = (torch.randn(1, heads, n, 24, generator=random) * 1.5 for heads in (4, 2, 2))
        softcap = 3.0 if layer == 2 else None
        s = attention.hide(attention.scores(q, k, softcap=softcap), Mask.causal())
        lse = attention.log_sum_exp(s)
        calls.append(Call(layer, "self", q, k, v, lse, attention.output(attention.weights(s, lse), v), Mask.causal(),
                          24 ** -0.5, "dense", softcap=softcap))
    vocabulary = [SCRIPT, "too", *(f"word{i}" for i in range(14))]
    return Trace(model, text, [i % 16 for i in range(n)], tokens, calls, torch.randn(n, 16, generator=random), vocabulary)


def translated(model: str, text: str, to: str = "zh") -> Trace:
    """A translation of random q, k and v: 2 layers of 4 heads; the target is the source in capitals, and one word more."""
    source, target = [f"⟨{to}⟩", *text.split(), "⟨/s⟩"], ["⟨pad⟩", *text.upper().split(), "!"]
    random = torch.Generator().manual_seed(zlib.crc32(f"{to} {text}".encode()))
    calls, i, j = [], len(target), len(source)
    for kind, rows, columns in [("encoder", j, j)] * 2 + [("self", i, i), ("cross", i, j)] * 2:
        q, k, v = (torch.randn(1, 4, n, 24, generator=random) * 1.5 for n in (rows, columns, columns))
        mask = Mask.causal() if kind == "self" else Mask()
        s = attention.hide(attention.scores(q, k), mask)
        lse = attention.log_sum_exp(s)
        layer = sum(call.kind == kind for call in calls)
        calls.append(Call(layer, kind, q, k, v, lse, attention.output(attention.weights(s, lse), v), mask, 24 ** -0.5, "dense"))
    return Trace(model, " ".join(target[1:]), list(range(i)), target, calls, torch.randn(i, 20, generator=random),
                 [f"word{n}" for n in range(20)], Source(text, [*range(j - 1), 19], source))


class Maker:
    """A model on the desk that makes its traces up; a translator where it is named so."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.languages = ["zh", "de"] if name == "translator" else []

    def read(self, text: str, to: str | None, turn: Turn, written: list[int] | None = None) -> Trace:
        return translated(self.name, text, to or "zh") if self.languages else made(self.name, text)


def gathered(texts: int = 5, model: str = "chat") -> Atlas:
    """An atlas of random scores: 3 layers, 4 heads on 2 K/V heads; every text has `first`, and `own` only the last one."""
    random, found = torch.Generator().manual_seed(7), Atlas(model, 64)
    for n in range(texts):
        def score() -> Score:
            return Score(torch.rand(4, generator=random, dtype=torch.float64), torch.full((4,), 0.25, dtype=torch.float64))

        names = ["first", "entropy"] + (["own"] if n == texts - 1 else [])
        found.add([(Heads(layer, "self", 4, 2), {name: score() for name in names}) for layer in range(3)])
        found.counts.update(windows=1, tokens=64)
    return found


def parsed(model: str = "chat") -> Syntax:
    """What random heads make of a treebank: 3 layers, 4 heads on 2 K/V heads, two relations from either side."""
    random, relations = torch.Generator().manual_seed(3), []
    for name, count, offset in (("all", 40, -1), ("ns<b>ubj", 12, 2)):
        for to in ("head", "dependent"):
            every = [Rate(float(right), count) for right in torch.randint(0, count, (12,), generator=random)]
            chance = torch.rand(12, generator=random, dtype=torch.float64).tolist()
            relations.append(Relation(name, to, every, chance, Head(1, "self", 2), 6, Rate(9.5, 10), offset, Rate(3.0, count),
                                      0.125))
    return Syntax(model, [Heads(layer, "self", 4, 2) for layer in range(3)], relations, 21, {"long": 1})
