"""The native kernel: output, log-sum-exp and survey of exact attention in one sweep over the scores.

native/attention.cpp does the work; this file tells it where the numbers lie. It takes every mask,
softcap, sinks, bias and any widths, in float32 on the CPU, and has no backward pass.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor

from klieg.attention import Mask
from klieg.errors import KliegError
from klieg.kernels.spans import spans
from klieg.library import native
from klieg.tiles import Scores

_COUNT, _PLACE = ctypes.c_int64, ctypes.c_void_p


class _Problem(ctypes.Structure):
    """klieg::Attention of native/attention.h, field by field."""

    _fields_ = [(name, _COUNT) for name in ("batch", "heads", "groups", "queries", "keys", "width", "value_width")]
    _fields_ += [(name, _PLACE) for name in ("q", "k", "v")]
    _fields_ += [(name, _COUNT * 3) for name in ("q_strides", "k_strides", "v_strides")]
    _fields_ += [("scale", ctypes.c_float), ("softcap", ctypes.c_float), ("sinks", _PLACE), ("bias", _PLACE),
                 ("bias_strides", _COUNT * 4), ("seen_from", _PLACE), ("seen_to", _PLACE), ("span_stride", _COUNT),
                 ("real", _PLACE), ("real_stride", _COUNT), ("documents_i", _PLACE), ("documents_j", _PLACE),
                 ("documents_strides", _COUNT * 2), ("allowed", _PLACE), ("allowed_strides", _COUNT * 3),
                 ("known_lse", _PLACE), ("first_slot", _COUNT), ("probe", _PLACE), ("output", _PLACE),
                 ("output_strides", _COUNT * 3)]
    _fields_ += [(name, _PLACE) for name in ("lse", "max", "mass", "entropy", "first", "own", "probed",
                                             "distance_sum", "distance_squares", "received")]
    _fields_ += [("bins", _COUNT), ("histogram", _PLACE), ("top", _COUNT), ("top_weights", _PLACE), ("top_keys", _PLACE),
                 ("map_rows", _COUNT), ("map_columns", _COUNT), ("row_edges", _PLACE), ("column_edges", _PLACE),
                 ("map_sum", _PLACE), ("map_max", _PLACE), ("threads", _COUNT)]


@cache
def _library() -> ctypes.CDLL | None:
    """The library, once it is sure that both sides mean the same struct."""
    library = native()
    if library is None:
        return None
    library.klieg_instruction_set.restype = ctypes.c_char_p
    library.klieg_attention.argtypes = [ctypes.POINTER(_Problem), ctypes.c_char_p]
    library.klieg_attention_size.restype = ctypes.c_size_t
    if library.klieg_attention_size() != ctypes.sizeof(_Problem):
        raise KliegError("the native library is of another version than this Klieg; install Klieg anew.")
    return library


def instruction_sets() -> list[str]:
    """What of the compiled versions this processor can run, the widest first; empty without a native library."""
    library, found = _library(), []
    while library is not None and (name := library.klieg_instruction_set(len(found))) is not None:
        found.append(name.decode())
    return found


def refusal(q: Tensor, k: Tensor, v: Tensor | None, *others: Tensor | None) -> str | None:
    """Why the native kernel cannot do this call; None if it can. `others` may ask for gradients too."""
    if q.device.type != "cpu":
        return "it runs on the CPU only"
    if q.dtype != torch.float32:
        return f"it computes in float32, not in {str(q.dtype).removeprefix('torch.')}"
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (q, k, v, *others)):
        return "it has no backward pass"
    return "Klieg was installed without a C++ compiler" if _library() is None else None


@dataclass(eq=False)
class Wanted:
    """What a call shall give besides the log-sum-exp. The map has buckets between these bounds of the part's rows and keys."""

    output: Tensor | None = None      # (b, h, i, e), to be filled
    sums: bool = False
    bins: int = 0
    top: int = 0
    row_edges: list[int] = field(default_factory=list)
    key_edges: list[int] = field(default_factory=list)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Mask, *, scale: float, softcap: float | None, sinks: Tensor | None,
              bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Output (b, h, i, e) and log-sum-exp (b, h, i), float32."""
    output = room(q, v)
    scores = Scores.of(q, k, mask, scale=scale, softcap=softcap, bias=bias)
    return output, compute(scores, Wanted(output), v=v, sinks=sinks)["lse"]


def room(q: Tensor, v: Tensor) -> Tensor:
    """An output without values, (b, h, i, e), its heads side by side in memory as the next layer wants them."""
    return q.new_empty(q.shape[0], q.shape[2], q.shape[1], v.shape[3]).transpose(1, 2)


def compute(scores: Scores, wanted: Wanted, *, v: Tensor | None = None, lse: Tensor | None = None,
            sinks: Tensor | None = None, probe: Tensor | None = None, instructions: str | None = None) -> dict[str, Tensor]:
    """Fill wanted.output from v, and give what was wanted by name: shapes by klieg.survey.Survey, of the part alone.

    With lse (b, h, i) the weights are exp(score - lse); without, it is computed too. The map is
    given as map_sum and map_max.
    """
    problem, kept = _problem(scores, v, lse, sinks, probe)
    q, keys = scores.q, scores.k.shape[2]
    lead, rows = q.shape[:2], q.shape[:3]
    found = {"lse": q.new_empty(rows)}
    if wanted.output is not None:
        problem.output, problem.output_strides = wanted.output.data_ptr(), wanted.output.stride()[:3]
    if wanted.sums:
        names = ["max", "mass", "entropy", "first", "own", *(["probed"] if probe is not None else [])]
        found |= {name: q.new_empty(rows) for name in names}
        found |= {name: q.new_empty(rows, dtype=torch.float64) for name in ("distance_sum", "distance_squares")}
        found |= {"received": q.new_empty(*lead, keys), "histogram": q.new_empty(*lead, wanted.bins)}
        problem.bins = wanted.bins
    if wanted.top:
        found |= {"top_weights": q.new_empty(*rows, wanted.top), "top_keys": q.new_empty(*rows, wanted.top, dtype=torch.int64)}
        problem.top = wanted.top
    if wanted.row_edges:
        edges = [torch.tensor(x) for x in (wanted.row_edges, wanted.key_edges)]
        problem.map_rows, problem.map_columns = (len(x) - 1 for x in edges)
        problem.row_edges, problem.column_edges = (x.data_ptr() for x in edges)
        kept += edges
        found |= {name: q.new_empty(*lead, problem.map_rows, problem.map_columns) for name in ("map_sum", "map_max")}
    for name, x in found.items():
        setattr(problem, name, x.data_ptr())
    status = _library().klieg_attention(problem, instructions and instructions.encode())
    if status == -2:
        raise KliegError(f"this processor has no {instructions}; it has {', '.join(instruction_sets())}.")
    if status:
        raise MemoryError("the native attention kernel found no memory for a block of queries")
    return found


def _problem(scores: Scores, v: Tensor | None, lse: Tensor | None, sinks: Tensor | None,
             probe: Tensor | None) -> tuple[_Problem, list[Tensor | None]]:
    """The question, and the tensors that must live until it is answered."""
    q, k = _close(scores.q), _close(scores.k)
    batch, heads, queries, width = q.shape
    groups, keys = k.shape[1:3]
    seen = spans(scores.mask, scores.slots(slice(0, queries)), scores.keys(slice(0, keys)))
    first, last = (x.expand(max(len(seen.first), len(seen.last)), -1).contiguous() for x in (seen.first, seen.last))
    problem = _Problem(
        batch, heads, groups, queries, keys, width, 0 if v is None else v.shape[3], q.data_ptr(), k.data_ptr(),
        scale=scores.scale, softcap=scores.softcap or 0.0, seen_from=first.data_ptr(), seen_to=last.data_ptr(),
        span_stride=queries if len(first) > 1 else 0, first_slot=scores.first_slot - scores.first_key,
        threads=torch.get_num_threads())
    problem.q_strides, problem.k_strides = q.stride()[:3], k.stride()[:3]
    kept = [q, k, first, last]

    def put(name: str, x: Tensor | None, dtype: torch.dtype = torch.float32) -> Tensor | None:
        if x is not None:
            x = x.to(dtype).contiguous()
            setattr(problem, name, x.data_ptr())
            kept.append(x)
        return x

    if v is not None:
        v = _close(v)
        problem.v, problem.v_strides = v.data_ptr(), v.stride()[:3]
        kept.append(v)
    put("sinks", sinks)
    put("known_lse", lse)
    put("probe", probe)
    if (bias := put("bias", scores.bias)) is not None:
        problem.bias_strides = bias.expand(batch, heads, queries, keys).stride()
    if (real := put("real", seen.real, torch.bool)) is not None:
        problem.real_stride = keys if len(real) > 1 else 0
    if seen.documents is not None:
        ids_i, ids_j = (put(f"documents_{axis}", x, torch.int64) for axis, x in zip("ij", seen.documents, strict=True))
        problem.documents_strides = queries if len(ids_i) > 1 else 0, keys if len(ids_j) > 1 else 0
    if (allowed := put("allowed", seen.allowed, torch.bool)) is not None:
        problem.allowed_strides = allowed.expand(batch, heads, queries, keys).stride()[:3]
    return problem, kept


def _close(x: Tensor) -> Tensor:
    """x with a last axis without gaps."""
    return x if x.stride(3) == 1 else x.contiguous()
