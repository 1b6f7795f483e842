"""A trace as one JSON object for other programs: the shape, the tokens, the open head, what comes next."""

from __future__ import annotations

from typing import Any

from klieg.trace import Trace
from klieg.views.focus import focus


def summary(trace: Trace, layer: int | None = None, head: int | None = None, token: int | None = None) -> dict[str, Any]:
    """The open head is the one asked for, else the most certain one for the token, as in the terminal.

    `scores` are scaled, null where the mask hides the key; `looks` is where the token looks in
    every head, layers x heads x keys.
    """
    seen = focus(trace, layer, head, token)
    stages = trace[seen.layer].stages(seen.head)
    hidden = ~trace[seen.layer].visible(seen.head, slice(None), slice(None))
    scores = [[None if gone else value for value, gone in zip(row, gaps, strict=True)]
              for row, gaps in zip(stages.scaled.tolist(), hidden.tolist(), strict=True)]
    return {
        "model": trace.model, "text": trace.text, "ids": trace.ids, "tokens": trace.tokens, "layers": trace.layers,
        "heads": trace.heads, "kv_heads": trace.kv_heads, "kernel": trace.kernel,
        "next": [{"token": c.token, "p": c.p} for c in trace.next_tokens(10, seen.token)],
        "certificate": {"row_sum_error": trace.certificate.row_sum_error, "output_error": trace.certificate.output_error},
        "open": {"layer": seen.layer, "head": seen.head, "token": seen.token, "scale": trace[seen.layer].scale,
                 "scores": scores, "weights": stages.weights.tolist()},
        "looks": [[call.row(h, seen.token).tolist() for h in range(call.heads)] for call in trace.stack],
    }
