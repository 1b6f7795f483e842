"""A Trace over the wire: safetensors, with what is no number as JSON in their metadata.

Weights are not sent. The page computes any of them from q, k and lse as Klieg itself does, or
asks for a tile where the text is long. The page's server sends an outline and then single heads,
streams and tiles as they are looked at; the one-file HTML carries the whole trace in itself.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from klieg.errors import KliegError
from klieg.survey import SurveySpec
from klieg.trace import Call, Trace
from klieg.views.statistics import STATISTICS, measured
from klieg.views.translation import steps

FORMAT = "klieg-wire/1"
CANDIDATES = 10
_OF_QUERIES = ("q", "unrotated_q", "output")
_OF_KEYS = ("k", "unrotated_k", "v")
CARRIED = 128  # tokens of a text whose streams a file carries too: of a longer one they would be most of it


def pack(body: dict[str, Any], tensors: dict[str, Tensor] | None = None) -> bytes:
    """One message: numbers as float32, int32 or uint8, little endian; `body` is JSON under "klieg" in the metadata."""
    said = json.dumps(body, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return save({name: _plain(x) for name, x in (tensors or {}).items()}, {"klieg": said})


def _plain(tensor: Tensor) -> Tensor:
    kind = torch.uint8 if tensor.element_size() == 1 else torch.float32 if tensor.is_floating_point() else torch.int32
    return tensor.detach().cpu().to(kind).contiguous()


def shown(trace: Trace) -> list[Call]:
    """The calls that the page shows: of a translation all three kinds, else those of one stack."""
    return trace.stack if trace.source is None else trace.calls


def outline(trace: Trace) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What the page draws first: texts, shape, certificate, and `statistics` (S, h) of every call, without q and k."""
    sealed, source = trace.certificate, trace.source
    body = {
        "format": FORMAT,
        "model": {"name": trace.model, "layers": trace.layers, "heads": trace.heads, "kv_heads": trace.kv_heads},
        "text": trace.text, "tokens": list(trace.tokens),
        "translation": None if source is None else {"source": source.text, "target": trace.text, "tokens": list(source.tokens)},
        "kernel": trace.kernel,
        "certificate": {"row_sum_error": sealed.row_sum_error, "output_error": sealed.output_error},
        "predicted": len(trace.logits), "vocabulary": trace.logits.shape[-1],
        "statistics": [{"name": name, "unit": known.unit} for name, known in STATISTICS.items()],
        "calls": [_facts(call) for call in shown(trace)],
    }
    return body, {f"statistics.{n}": _statistics(call) for n, call in enumerate(shown(trace))}


def _facts(call: Call) -> dict[str, Any]:
    return {"layer": call.layer, "kind": call.kind, "heads": call.heads, "kv_heads": call.kv_heads, "queries": call.queries,
            "keys": call.keys, "scale": call.scale, "softcap": call.softcap, "kept": call.q is not None and call.k is not None,
            "rules": [{"kind": rule.kind, "size": rule.size, "reason": rule.reason,
                       **({"global_tokens": rule.global_tokens} if rule.global_tokens else {})} for rule in call.mask.rules]}


def _statistics(call: Call) -> Tensor:
    """Every statistic of every head: (S, h); nought where the call has neither a survey nor q and k to make one from."""
    if call.survey is None and (call.q is None or call.k is None):
        return torch.zeros(len(STATISTICS), call.heads)
    surveyed = call.surveyed(SurveySpec(top=0, map=0))
    return torch.tensor([measured(surveyed, name) for name in STATISTICS])


def head(call: Call, head: int) -> dict[str, Tensor]:
    """All that one head's map is computed from: q (i, d), k (j, d), lse (i), and where there are any, v, output, q and k
    before rotation, bias (i, j), and `table.r`, the table of the mask's r-th rule."""
    call.need("q", "k")
    if not 0 <= head < call.heads:
        raise KliegError(f"there is no head {head}; layer {call.layer} has heads 0 to {call.heads - 1}.")
    found = _tensors(call)
    group = call.group(head)
    place = {**dict.fromkeys(("lse", *_OF_QUERIES), head), **dict.fromkeys(_OF_KEYS, group)}
    return {name: x[place.get(name, head) % len(x)] for name, x in found.items()}


def stream(trace: Trace, kind: str, layer: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What happens around one call of attention, each (i, width): the tensors of blocks.Stream and of the call's Block,
    `start`, what the first block reads, and `joined`, the outputs of the call's heads side by side.

    A trace without streams has no more than the last, and the body says `why`.
    """
    call = trace[layer, kind]
    found = {} if call.output is None else {"joined": call.output[0].transpose(0, 1).flatten(1)}
    try:
        known = trace.stream("self" if kind == "cross" else kind)
    except KliegError as why:
        return {"why": str(why)}, found
    block = next(block for block in known.blocks if block.layer == layer)
    tensors = {**known.tensors(), "start": known.blocks[0].input, **block.tensors()}
    body = {"why": None, "order": block.order, "embedding_norm": known.embedding_norm, "final_norm": known.final_norm}
    return body, {name: x[0] for name, x in tensors.items()} | found


def _carried(trace: Trace) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Of every call of a short text what stream() gives, but what is joined, by "kind.layer"; its `tensors` name where each
    lies, and one that stands in several places lies there once."""
    said: dict[str, Any] = {}
    names: dict[tuple[int, torch.Size], str] = {}
    tensors: dict[str, Tensor] = {}
    for call in shown(trace):
        if call.queries > CARRIED:
            continue
        body, found = stream(trace, call.kind, call.layer)
        found.pop("joined", None)
        places = {name: names.setdefault((x.data_ptr(), x.shape), f"streams.{len(names)}") for name, x in found.items()}
        tensors |= {places[name]: x for name, x in found.items()}
        said[f"{call.kind}.{call.layer}"] = body | {"tensors": places}
    return said, tensors


def whole(trace: Trace) -> bytes:
    """The trace in one message: its outline, every tensor of every call as `calls.n.name` with the heads as first axis,
    the streams around them as `streams.n`, the likeliest next tokens after every token whose logits were kept, and the ids;
    of a translation also the probabilities of what was written, as summary() has them."""
    body, tensors = outline(trace)
    body["ids"] = list(trace.ids)
    if trace.source is not None:
        body["translation"]["ids"] = list(trace.source.ids)
        body["written"] = [{"token": own.token, "p": own.p} for own, _ in steps(trace)]
    body["streams"], streams = _carried(trace)
    tensors |= streams
    for n, call in enumerate(shown(trace)):
        call.need("q", "k")
        tensors |= {f"calls.{n}.{name}": x for name, x in _tensors(call).items()}
    last = len(trace.tokens)
    body["next"] = [{"after": after, "candidates": candidates(trace, after)}
                    for after in range(last - len(trace.logits), last)]
    return pack(body, tensors)


def candidates(trace: Trace, after: int, count: int = CANDIDATES) -> list[dict[str, Any]]:
    """The likeliest tokens after a token, best first."""
    return [{"token": c.token, "id": c.id, "p": c.p} for c in trace.next_tokens(count, after)]


def _tensors(call: Call) -> dict[str, Tensor]:
    """Of the first text of a batch: each with the heads, or one for all of them, as first axis."""
    found = {name: getattr(call, name) for name in (*_OF_QUERIES, *_OF_KEYS, "lse")}
    if call.bias is not None:
        heads = call.bias.shape[-3] if call.bias.dim() > 2 else 1
        found["bias"] = call.bias.expand(call.texts, heads, call.queries, call.keys)
    for n, rule in enumerate(call.mask.rules):
        if rule.table is not None:
            found[f"table.{n}"] = rule.table if rule.kind == "explicit" else rule.table[:, None]
    return {name: x[0] for name, x in found.items() if x is not None}
