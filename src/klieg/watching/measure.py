"""One call of a watched model, measured: its survey, and the proof that its numbers are the model's own.

The log-sum-exp comes from the model's own kernel where that is exact (units.py), else it is computed anew.
Row sums and A V of every row are certified in the same pass, in O(N); a call that fails is
refused by name, whatever its module did differently.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from klieg import kernels
from klieg.certificate import Certificate, probe_of, surveyed
from klieg.errors import KliegError
from klieg.survey import Survey, SurveySpec
from klieg.watching.masks import Reading
from klieg.watching.registry import Heard
from klieg.watching.units import in_nats

# Keywords that say nothing of the formula, or are read; any other is named when a certificate fails.
_UNDERSTOOD = {"dropout", "scaling", "is_causal", "sliding_window", "softcap", "s_aux", "sinks", "position_bias",
               "position_ids", "position_embeddings", "output_attentions", "use_cache", "cache_position", "layer_idx"}


@dataclass(frozen=True, eq=False)
class Measured:
    survey: Survey
    certificate: Certificate
    probe: Tensor
    """(b, g, j): V r of the keys that count."""
    mixed: Tensor
    """(b, h, i): output r."""


def measure(call: Heard, reading: Reading, layer: int, kind: str, row: int, spec: SurveySpec) -> Measured:
    """A call whose first row is row number `row` of its layer; KliegError if its certificate fails."""
    k, v, sinks, lse = call.k[:, :, :reading.keys], call.v[:, :, :reading.keys], call.sinks, call.lse
    if lse is not None and reading.blind is not None:
        lse = lse.masked_fill(reading.blind, -torch.inf)     # torch's kernel gives 0 for a row that sees nothing
    if lse is not None and call.lse_by is not None:
        lse = in_nats(lse, call.lse_by, call.q, k, reading.mask, scale=call.scale, bias=reading.bias)
    signs, probe = probe_of(v)
    survey = kernels.survey(call.q, k, lse, reading.mask, spec, scale=call.scale, softcap=call.softcap, sinks=sinks,
                            bias=reading.bias, probe=probe)
    certificate = surveyed(survey, call.output, signs, probe, layer=layer, kind=kind, sinks=sinks, first_row=row)
    if not certificate.passed:
        raise KliegError(_why(call, certificate))
    return Measured(survey, certificate, probe, call.output.to(signs.dtype) @ signs)


def _why(call: Heard, certificate: Certificate) -> str:
    """Why a call is refused: its certificate, and what is known of the reason."""
    whose = f"the {call.name} attention of {type(call.module).__name__}"
    for name, x in (("q", call.q), ("k", call.k), ("v", call.v)):
        if not x.isfinite().all():
            at = certificate.output_at if name == "v" else certificate.row_sum_at
            return f"{whose} at {at}: its {name} holds NaN or infinity, and there is no map of that."
    if call.rounded and call.q.dtype == torch.float32:
        return (f"{whose} at {certificate.output_at} is not exact: torch was told to round the products of float32; call "
                "torch.set_float32_matmul_precision(\"highest\") before the model runs.")
    try:
        certificate.check(whose)
    except KliegError as failure:
        strange = sorted(name for name, x in call.options.items() if name not in _UNDERSTOOD and x is not None)
        return f"{failure} Its attention was also given {', '.join(strange)}." if strange else str(failure)
    raise AssertionError
