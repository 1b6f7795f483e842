"""Where a test of numbers looks, and what stands on several screens: the card, the list of next tokens, the certificate."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from urllib.parse import quote

import oracle
import torch
from oracle import Head, largest, softmax

from klieg.trace import Trace

Claims = dict[str, Sequence]


class Look:
    """Where one looks: a trace, and a head, a query and a key that it sees, by chance."""

    def __init__(self, host: str, name: str, found: Trace, chance: random.Random) -> None:
        self.host, self.name, self.trace, self.chance = host, name, found, chance
        self.layer, self.head = chance.randrange(found.layers), chance.randrange(found.heads)
        self.query = chance.randrange(2, len(found.tokens))
        self.key = chance.randrange(self.query)
        self.own = Head(found, self.layer, self.head)

    def address(self, screen: str, more: str = "", theme: str = "light", text: str = "") -> str:
        """Where it is seen on a screen; `text` is what the model is given, where it wrote the rest."""
        text = f"&text={quote(text or self.trace.text)}" if self.name == "chat" else ""
        return (f"{self.host}#lang=en&theme={theme}&screen={screen}&model={self.name}{text}&layer={self.layer}&head={self.head}"
                f"&cell={self.query}.{self.key}{more}")

    @property
    def weight(self) -> float:
        return float(self.own.weight[self.query, self.key])

    def next(self, after: int) -> list[float]:
        """Of every next token its probability, the likeliest first."""
        return softmax(self.trace.logits[after]).sort(descending=True).values.tolist()


def sealed(found: Trace) -> Claims:
    error = found.certificate
    return {".certificate": [[1, error.row_sum_error]], ".certificate@title": [[error.output_error]]}


def card(look: Look, page, noted: bool = False) -> Claims:
    """One weight written out; of folded products and exponentials the largest stand alone."""
    own, query, key = look.own, look.query, look.key
    q, k = own.q[query].tolist(), own.k[key].tolist()
    products, scores = [a * b for a, b in zip(q, k, strict=True)], own.scaled[query, :query + 1]
    highest = float(scores.max())
    off = 0.0 if abs(highest) <= 9 else highest
    powers = torch.exp(scores - off).tolist()
    shown = page.locator(".card tr.q td.factor").count()
    chosen, folded = largest(products, shown), shown < len(q)
    listed = page.locator(".card .under > span:not(.quiet)").count()
    terms = largest([math.inf if n == key else power for n, power in enumerate(powers)], listed)   # its own is always there
    under = [powers[n] for n in terms]
    others = [len(powers) - len(terms), sum(powers) - sum(under)] if len(terms) < len(powers) else []
    factors = sum(products[n] for n in chosen)
    shift = abs(look.weight - float(own.own[query, key]))
    return {
        ".card .headline": [look.weight], ".card data.weight": [look.weight], ".card data.dot": [sum(products)],
        ".card data.scaled": [float(scores[key])], ".card tr.q td.factor": [q[n] for n in chosen],
        ".card tr.k td.factor": [k[n] for n in chosen],
        ".card tr.sums td": [*[products[n] for n in chosen], *([sum(products) - factors] if folded else [])],
        ".card .fraction > span:first-child": [[float(scores[key]), *([off] if off else []), powers[key]]],
        ".card .under": [[*under, *others]],
        ".card .own": [[*([] if noted else [shift]), *([len(q)] if folded else [])]],
        ".card .own@title": [[shift] if noted else []],
    }


def likely(look: Look, ranks: Sequence[int]) -> Claims:
    """The list of next tokens after the query."""
    p = look.next(look.query)
    return {"ol:has(.name) data": [p[rank - 1] for rank in ranks if rank <= len(p)]}


def ramp(stage: str, theme: str, share: float) -> oracle.RGB:
    """The colour of a number of a map, whose ramp ends at 1."""
    if stage == "weight":
        return oracle.along(oracle.WEIGHT[theme], share)
    return oracle.along(oracle.SIGNED[theme], (share + 1) / 2)


def limit(values: torch.Tensor) -> float:
    """The largest number of a map, which is the end of its ramp."""
    return float(values[~values.isnan()].abs().max())


def cells(values: torch.Tensor, width: float, height: float, colour: Callable[[float], oracle.RGB]) -> dict:
    """The pixel in the corner of every cell, off its digits, and its colour."""
    return {(j * width + 5, i * height + 5): colour(float(w)) for i, row in enumerate(values) for j, w in enumerate(row)
            if not math.isnan(w)}
