"""The certificate that numbers are exact: every row of weights sums to one, and A V is what the model's own module gave.

There are two ways to make one. `recomputed` builds the weights of whole rows from q, k and the
log-sum-exp and compares every number: O(N^2), for short texts and for spot checks. `surveyed`
takes one pass and O(N) memory: the mass of every row comes from the survey, and A V is compared
with the output of every row by one projection (Freivalds 1977). With a vector r of random signs,

    |A (V r) - output r|        A (V r) is Survey.probed        V r is a value matrix of width one

If an output is wrong, the mean of this squared over all r is |A V - output|^2. So over thousands
of rows the worst difference found is, almost surely, at least as large as the worst single error.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from klieg.attention import output as product
from klieg.device import full_precision
from klieg.errors import KliegError
from klieg.survey import Survey

if TYPE_CHECKING:
    from klieg.trace import Call

TOLERANCE = 1e-4      # of 1 for row sums; of the largest value for outputs
TILE = 2**22          # weights that are recomputed together


@dataclass(frozen=True)
class Place:
    """One row of one head of one call; `text` is its place in the batch."""

    layer: int
    kind: str
    text: int
    head: int
    row: int

    def __str__(self) -> str:
        text = f"text {self.text}, " if self.text else ""
        return f"layer {self.layer} ({self.kind}), {text}head {self.head}, row {self.row}"


@dataclass(frozen=True)
class Certificate:
    """The worst |row sum - 1| and the worst |A V - the module's own output| over all rows and heads, and where they are."""

    row_sum_error: float
    output_error: float
    heads: int
    allowed: float
    """The output error that rounding explains: limit()."""
    row_sum_at: Place | None = None
    output_at: Place | None = None

    @property
    def passed(self) -> bool:
        return self.row_sum_error <= TOLERANCE and self.output_error <= self.allowed

    def check(self, whose: str) -> None:
        """KliegError that names the worst row, unless both errors are within their limits."""
        if self.passed:
            return
        rows = self.row_sum_error > TOLERANCE
        what, error, most, at = (("row sum - 1", self.row_sum_error, TOLERANCE, self.row_sum_at) if rows else
                                 ("A V - model output", self.output_error, self.allowed, self.output_at))
        raise KliegError(f"{whose} fails its certificate{f' at {at}' if at else ''}: |{what}| is {error:.1e}, at most "
                         f"{most:.1e} is rounding; its numbers cannot be shown. Please report this model.")


def limit(values: Tensor, dtype: torch.dtype = torch.float32) -> float:
    """How far A V may be from an output of this type through rounding alone; `values` is V, or V r.

    A V is a weighted mean of values, so its error is measured against the largest of them. A model that computes
    in a narrower type than float32 rounds its weights and its output to the last digit of that type.
    """
    return max(TOLERANCE, torch.finfo(dtype).eps) * max(1.0, values.abs().max().item())


def probe_of(v: Tensor) -> tuple[Tensor, Tensor]:
    """Random signs r (e,), the same for every call, and v r (b, g, j), both float32 or wider.

    Give v r as `probe` to klieg.kernels.survey, and both to surveyed().
    """
    wide = torch.promote_types(v.dtype, torch.float32)
    coin = torch.Generator().manual_seed(1977)
    signs = torch.randint(0, 2, v.shape[-1:], generator=coin).mul_(2).sub_(1).to(v.device, wide)
    return signs, v.to(wide) @ signs


def surveyed(survey: Survey, output: Tensor, signs: Tensor, probe: Tensor, *, layer: int, kind: str = "self",
             sinks: Tensor | None = None, first_row: int = 0) -> Certificate:
    """The certificate of all rows of one call, from a survey that carries `probed`.

    output (b, h, i, e) is what the module gave, in its own type; signs and probe come from
    probe_of(v). `first_row` is the number of the call's first row, so that the worst row is named rightly.
    For a row that sees nothing, the model's output is not attention, and is not compared.
    """
    mixed = survey.probed - output.to(signs.dtype) @ signs
    return _worst(survey.mass, mixed.abs(), survey.lse, sinks, layer, kind, first_row, limit(probe, output.dtype))


@torch.no_grad()
@full_precision()
def recomputed(call: Call, rows: Tensor | None = None) -> Certificate:
    """The certificate of some rows (n,), int64, or of all, from q, k and lse; of row sums alone where v was not kept.

    KliegError where q or k was not kept.
    """
    call.need("q", "k")
    texts = call.q.shape[0]
    rows = torch.arange(call.queries) if rows is None else rows
    both = call.v is not None and call.output is not None
    allowed = limit(call.v, call.output.dtype) if both else TOLERANCE
    parts = []
    for block in rows.split(max(1, TILE // (texts * call.heads * call.keys))):
        w = call.every(block)
        error = w.new_zeros(w.shape[:3])
        if both:
            wide = torch.promote_types(call.v.dtype, w.dtype)
            error = (product(w.to(wide), call.v.to(wide)) - call.output[:, :, block]).abs().amax(-1)
        parts.append(_worst(w.sum(-1), error, call.lse[:, :, block], call.sinks, call.layer, call.kind, block, allowed))
    return joined(parts, texts * call.heads)


def joined(certificates: Iterable[Certificate], heads: int | None = None) -> Certificate:
    """The worst of several certificates; `heads` in all, by default their sum. If one of them fails, so does the result."""
    found = list(certificates)
    rows = max(found, key=lambda c: c.row_sum_error)
    # One that fails goes before one with a larger error and a larger limit.
    outputs = max(found, key=lambda c: (c.output_error > c.allowed, c.output_error))
    return Certificate(rows.row_sum_error, outputs.output_error, sum(c.heads for c in found) if heads is None else heads,
                       outputs.allowed, rows.row_sum_at, outputs.output_at)


def _worst(mass: Tensor, error: Tensor, lse: Tensor, sinks: Tensor | None, layer: int, kind: str,
           first: int | Tensor, allowed: float) -> Certificate:
    """The worst row sum and the worst output error (b, h, i). NaN, which compares with nothing, is the worst of all."""
    live = lse > -torch.inf
    total = mass if sinks is None else mass + torch.exp(sinks.to(lse)[:, None] - lse)
    # NaN in lse is no number above -inf, and its row is not let off for that.
    off = (total - live.to(total)).abs() + torch.where(lse.isnan(), lse, 0.0)
    error = error.masked_fill(lse == -torch.inf, 0)

    def at(found: Tensor) -> tuple[float, Place]:
        found = found.nan_to_num(nan=torch.inf)
        rest, row = divmod(int(found.argmax()), found.shape[2])
        text, head = divmod(rest, found.shape[1])
        number = first + row if isinstance(first, int) else int(first[row])
        return found[text, head, row].item(), Place(layer, kind, text, head, number)

    rows, outputs = at(off), at(error)
    return Certificate(rows[0], outputs[0], mass.shape[0] * mass.shape[1], allowed, rows[1], outputs[1])
