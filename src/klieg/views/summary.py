"""A trace as one JSON object for other programs: the shape, the tokens, the open head, what comes next."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from klieg.trace import Trace
from klieg.views.focus import focus
from klieg.views.translation import steps


def summary(trace: Trace, layer: int | None = None, head: int | None = None, token: int | None = None,
            kind: str | None = None) -> dict[str, Any]:
    """The open head is the one asked for, else the most certain one for the token, as in the terminal.

    `scores` are scaled, null where the mask hides the key; `looks` is where the token looks in
    every head, layers x heads x keys. Of a translation `tokens` are the target's, what the decoder
    read, `source` is what the encoder read, and `written` is the target with its end mark.
    """
    seen = focus(trace, layer, head, token, kind)
    call = trace[seen.layer, seen.kind]
    stages = call.stages(seen.head)
    hidden = ~call.visible(seen.head, slice(None), slice(None))
    scores = [[None if gone else value for value, gone in zip(row, gaps, strict=True)]
              for row, gaps in zip(stages.scaled.tolist(), hidden.tolist(), strict=True)]
    after = None if seen.kind == "encoder" else seen.token
    said = {
        "model": trace.model, "text": trace.text, "ids": trace.ids, "tokens": trace.tokens, "layers": trace.layers,
        "heads": trace.heads, "kv_heads": trace.kv_heads, "kernel": trace.kernel,
        "next": [{"token": c.token, "p": c.p} for c in trace.next_tokens(10, after)] if trace.predicts else [],
        "certificate": {"row_sum_error": trace.certificate.row_sum_error, "output_error": trace.certificate.output_error},
        "open": {"layer": seen.layer, "head": seen.head, "token": seen.token, "scale": call.scale,
                 "scores": scores, "weights": stages.weights.tolist()},
        "looks": [[call.row(h, seen.token).tolist() for h in range(call.heads)] for call in trace.of(seen.kind)],
    }
    if trace.source is not None:
        said["source"] = asdict(trace.source)
        said["kinds"] = {kind: {"layers": len(calls), "heads": calls[0].heads, "kv_heads": calls[0].kv_heads}
                         for kind in ("encoder", "self", "cross") for calls in [trace.of(kind)]}
        said["open"]["kind"] = seen.kind
        said["written"] = [{"token": own.token, "p": own.p} for own, _ in steps(trace)]
    return said
