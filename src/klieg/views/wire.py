"""A Trace as JSON: what the page reads, and what the one-file HTML carries inside it.

Weights are not sent. The page computes any of them from q, k and lse as Klieg itself does.
Arrays are base64 of their bytes, little endian.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any

from torch import Tensor

from klieg.attention import Mask, slots
from klieg.trace import Call, Trace

FORMAT = "klieg-trace/1"
CANDIDATES = 10


def wire(trace: Trace) -> dict[str, Any]:
    """The whole trace of the first text of a batch, as plain lists, numbers and strings.

    Of a translation it has the calls of all three kinds, and `translation`: both texts and the source's tokens.
    """
    sealed, source = trace.certificate, trace.source
    both = None if source is None else {"source": source.text, "target": trace.text, "tokens": list(source.tokens)}
    return {
        "format": FORMAT,
        "model": {"name": trace.model, "layers": trace.layers, "heads": trace.heads, "kv_heads": trace.kv_heads},
        "tokens": list(trace.tokens),
        "translation": both,
        "kernel": trace.kernel,
        "certificate": {"row_sum_error": sealed.row_sum_error, "output_error": sealed.output_error},
        "calls": [_call(call) for call in (trace.stack if source is None else trace.calls)],
        "next": [{"after": n, "candidates": [{"token": c.token, "p": c.p} for c in trace.next_tokens(CANDIDATES, n)]}
                 for n in range(len(trace.tokens)) if trace.predicts],
    }


def _call(call: Call) -> dict[str, Any]:
    call.need("q", "k", "v")
    hidden, reasons = _hidden(call)
    bias = call.bias
    if bias is not None:
        heads = bias.shape[-3] if bias.dim() > 2 else 1
        bias = _array(bias.expand(call.q.shape[0], heads, call.queries, call.keys)[0])
    return {"layer": call.layer, "kind": call.kind, "scale": call.scale, "softcap": call.softcap,
            "q": _array(call.q[0]), "k": _array(call.k[0]), "v": _array(call.v[0]), "lse": _array(call.lse[0]),
            "bias": bias, "hidden": _array(hidden), "reasons": reasons}


def _hidden(call: Call) -> tuple[Tensor, list[str]]:
    """Which pairs are hidden and by what: (1 or h, i, j), uint8, 0 where seen, else a place in the list of reasons."""
    i, keys = slots(call.queries, call.keys), slots(call.keys, call.keys)
    reasons = [""]
    found = call.mask.visible(i, keys)[0].expand(-1, call.queries, call.keys).byte() * 0
    for rule in call.mask.rules:
        if rule.reason not in reasons:
            reasons.append(rule.reason)
        seen = Mask((rule,)).visible(i, keys)[0].to(found.device)
        found = found.masked_fill(~seen & (found == 0), reasons.index(rule.reason))
    return found, reasons


def _array(tensor: Tensor) -> dict[str, Any]:
    kind = "uint8" if tensor.element_size() == 1 else "float32"
    values = tensor.detach().cpu().contiguous().numpy().astype("u1" if kind == "uint8" else "<f4")
    return {"shape": list(tensor.shape), "dtype": kind, "data": b64encode(values.tobytes()).decode("ascii")}
