"""A Trace on disk: one zip that holds tensors.safetensors and trace.json, nothing that can run.

The zip is not compressed, so the tensors lie in it as they lie in memory, and reading maps them
instead of loading them: a trace of 128k tokens opens in seconds, and a tile of it touches only
its own pages. safetensors' own lazy reader takes a path and no place inside a file, so the
header is read here, and every span that it claims is checked before it is used. One file rather
than a folder, because it can be sent, and any zip tool opens it. Writing goes tensor by tensor
and holds no second copy of a long trace.

Masks are written as their rules, surveys field by field; a tensor that several calls share,
such as a padding table, is written once, and so is the stream that leaves one block and enters
the next. What kept q, k, v and the output is certified anew from what was read; of a call that
gave some of them away, the certificate is read, and where q and k are kept, every head is
spot-checked on SPOTS rows.
"""

from __future__ import annotations

import json
import mmap
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from klieg.atomic import atomic
from klieg.attention import Mask
from klieg.blocks import ORDERS, Block, Stream
from klieg.certificate import Certificate, Place, recomputed
from klieg.errors import KliegError, first_line
from klieg.rules import Rule
from klieg.survey import Survey
from klieg.trace import Call, Source, Trace

FORMAT = "klieg-trace/2"
OF_TWO_TEXTS = "klieg-trace/3"   # the same, and the source of a translation
OF_STREAMS = "klieg-trace/4"     # the same, with a source or none, and what happens around attention
SPOTS = 64            # rows of every head that are recomputed when a call that gave v away is read
CHUNK = 2**26         # bytes written at once
LONGEST = 2**28       # bytes of a header or of trace.json
_TENSORS = ("q", "k", "v", "lse", "output", "sinks", "bias", "unrotated_q", "unrotated_k")
_FACTS = {"layer": (int,), "kind": (str,), "scale": (float, int), "kernel": (str,), "softcap": (float, int, type(None)),
          "groups": (int, type(None))}
_OF_BLOCK = ("input", "normed", "attended", "fed_input", "fed", "output", "cross_input", "crossed")
_OF_STREAM = ("embedded", "positions", "types", "final")
_BODY, _SHELF = "trace.json", "tensors.safetensors"
# An empty field before the tensors, so that they begin at byte 128 of the file: 30 + 19 of the zip's header, 20 for sizes
# beyond 4 GiB, and these 59. Aligned tensors need no copy.
_PAD = struct.pack("<HH55x", 0xD935, 55)
_TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
          "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}


# ---- writing ----

def write(trace: Trace, path: Path) -> None:
    """Save a trace, whole or not at all."""
    shelf: dict[str, Tensor] = {"logits": trace.logits}
    names: dict[int, str] = {id(trace.logits): "logits"}

    def put(name: str, tensor: Tensor | None) -> str | None:
        if tensor is None:
            return None
        if id(tensor) not in names:
            names[id(tensor)], shelf[name] = name, tensor.detach()
        return names[id(tensor)]

    calls = []
    for index, call in enumerate(trace.calls):
        said = {name: getattr(call, name) for name in _FACTS}
        said |= {name: put(f"{index}.{name}", getattr(call, name)) for name in _TENSORS}
        said["mask"] = [{"kind": rule.kind, "size": rule.size, "table": put(f"{index}.mask.{n}", rule.table),
                         "global_tokens": rule.global_tokens} for n, rule in enumerate(call.mask.rules)]
        said["certificate"] = call.certificate and asdict(call.certificate)
        said["survey"] = call.survey and {"kernel": call.survey.kernel} | {
            name: put(f"{index}.survey.{name}", x) for name, x in call.survey.tensors().items()}
        calls.append(said)
    body = {"format": FORMAT} if trace.source is None else {"format": OF_TWO_TEXTS, "source": asdict(trace.source)}
    if trace.streams is not None:
        body |= {"format": OF_STREAMS, "without_stream": trace.without_stream,
                 "streams": {kind: _said(stream, f"stream.{kind}", put) for kind, stream in trace.streams.items()}}
    body |= {"model": trace.model, "text": trace.text, "ids": trace.ids, "tokens": trace.tokens,
             "vocabulary": list(trace.vocabulary), "calls": calls}
    with atomic(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as file:
        place = zipfile.ZipInfo(_SHELF)
        place.extra = _PAD
        with file.open(place, "w", force_zip64=True) as shelved:
            for piece in _safetensors(shelf):
                shelved.write(piece)
        file.writestr(_BODY, json.dumps(body, ensure_ascii=False))


def _said(stream: Stream, name: str, put: Callable[[str, Tensor | None], str | None]) -> dict[str, Any]:
    """A stream as trace.json names it; its tensors are put on the shelf."""
    blocks = [{"order": block.order} | {part: put(f"{name}.{n}.{part}", getattr(block, part)) for part in _OF_BLOCK}
              for n, block in enumerate(stream.blocks)]
    said = {part: put(f"{name}.{part}", getattr(stream, part)) for part in _OF_STREAM}
    return said | {"embedding_norm": stream.embedding_norm, "blocks": blocks}


def _safetensors(shelf: dict[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file, a piece at a time; wide types go first, which keeps all of them aligned."""
    order = sorted(shelf, key=lambda name: (-shelf[name].element_size(), name))
    header, at = {}, 0
    for name in order:
        tensor, start = shelf[name], at
        at += tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, at]}
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-(8 + len(head)) % 64)
    yield struct.pack("<Q", len(head)) + head
    for name in order:
        body = memoryview(shelf[name].cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        for start in range(0, len(body), CHUNK):
            yield body[start:start + CHUNK]


# ---- reading ----

def read(path: Path) -> Trace:
    """Open a saved trace; KliegError if it is not one, is damaged, or fails its certificate."""
    try:
        with zipfile.ZipFile(path) as file:
            if file.getinfo(_BODY).file_size > LONGEST:
                raise ValueError(f"{_BODY} is too large")
            body = json.loads(file.read(_BODY))
            if body["format"] not in (FORMAT, OF_TWO_TEXTS, OF_STREAMS):
                raise KliegError(f"{path} is of format {body['format']!r} and this version reads {FORMAT!r}, {OF_TWO_TEXTS!r} "
                                 f"and {OF_STREAMS!r}; trace it again.")
            if not all(isinstance(word, str) for word in (body["model"], body["text"], *body["tokens"], *body["vocabulary"])):
                raise ValueError("its model, text or tokens are no words")
            if len(body["ids"]) != len(body["tokens"]) or not all(type(id) is int for id in body["ids"]):
                raise ValueError("its ids are not those of its tokens")
            shelf = _shelf(file, path)
        calls = [_call(said, shelf) for said in body["calls"]]
        for call in calls:
            if call.certificate is not None and call.q is not None and call.k is not None:
                _spots(call).check(str(path))
        two = body["format"] == OF_TWO_TEXTS or (body["format"] == OF_STREAMS and "source" in body)
        source = _source(body["source"], calls) if two else None
        streams, why = _streams(body, shelf, calls) if body["format"] == OF_STREAMS else (None, {})
        return Trace(body["model"], body["text"], body["ids"], body["tokens"], calls, shelf["logits"], body["vocabulary"],
                     source, streams, why)
    except FileNotFoundError:
        raise KliegError(f"there is no trace {str(path)!r}; make one with klieg map, or with klieg explain --save.") from None
    except (OSError, zipfile.BadZipFile, ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError,
            RecursionError, NotImplementedError, RuntimeError) as e:
        raise KliegError(f"{path} is not a whole trace ({type(e).__name__}: {first_line(e)}); save it again.") from None


def _source(said: dict[str, Any], calls: list[Call]) -> Source:
    """The source of a translation, with a label for every key that is its token."""
    source = Source(said["text"], said["ids"], said["tokens"])
    counts = {len(source.ids), *(call.keys for call in calls if call.kind != "self")}
    if not all(isinstance(word, str) for word in (source.text, *source.tokens)) or counts != {len(source.tokens)}:
        raise ValueError("its source is not the one that was read")
    return source


def _streams(body: dict[str, Any], shelf: dict[str, Tensor], calls: list[Call]) -> tuple[dict[str, Stream], dict[str, str]]:
    """What happens around attention, and why it is missing of other stacks; ValueError unless it is of the calls' shapes."""
    why, found = body["without_stream"], {}
    if not all(isinstance(said, str) for said in why.values()):
        raise ValueError("it says in no words why a stream is missing")
    for kind, said in body["streams"].items():
        blocks = [Block(layer=n, kind=kind, order=part["order"], **{name: _at(part[name], shelf) for name in _OF_BLOCK})
                  for n, part in enumerate(said["blocks"])]
        stream = Stream(blocks=blocks, embedding_norm=said["embedding_norm"],
                        **{name: _at(said[name], shelf) for name in _OF_STREAM})
        _flows(stream, [call for call in calls if call.kind == kind])
        found[kind] = stream
    return found, why


def _flows(stream: Stream, calls: list[Call]) -> None:
    """ValueError unless a stream is one of the texts that the calls of its own stack read."""
    shape = (calls[0].texts, calls[0].queries, stream.final.shape[-1])
    own = {"embedded": stream.embedded, "final": stream.final}
    shared = {name: x for name in ("positions", "types") if (x := getattr(stream, name)) is not None}
    whole = {f"{part} of block {block.layer}": getattr(block, part) for block in stream.blocks for part in _OF_BLOCK
             if not part.startswith("cross") or block.crossed is not None or block.cross_input is not None}
    for name, x in (own | shared | whole).items():
        if x is None or x.dtype != torch.float32 or x.shape not in (shape, (1, *shape[1:]) if name in shared else shape):
            raise ValueError(f"{name} of the stack of {calls[0].kind!r} is of shape {x if x is None else tuple(x.shape)}")
    if len(stream.blocks) <= max(call.layer for call in calls) or type(stream.embedding_norm) is not bool:
        raise ValueError(f"a stack has {len(stream.blocks)} blocks for its calls")
    if any(block.order not in ORDERS for block in stream.blocks):
        raise ValueError("the norms of a block stand in no order that there is")


def _at(name: str | None, shelf: dict[str, Tensor]) -> Tensor | None:
    return None if name is None else shelf[name]


def _spots(call: Call) -> Certificate:
    """The certificate of SPOTS rows, spread evenly from the first to the last."""
    count = min(SPOTS, call.queries)
    return recomputed(call, torch.linspace(0, call.queries - 1, count).round().long().unique())


def _shelf(file: zipfile.ZipFile, path: Path) -> dict[str, Tensor]:
    """The tensors of a trace, mapped from the file; nothing that its header claims is believed."""
    place = file.getinfo(_SHELF)
    if place.compress_type != zipfile.ZIP_STORED or place.flag_bits & 1:
        raise ValueError("its tensors are compressed or encrypted")
    with path.open("rb") as handle:
        whole = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_COPY)
    # The header beside the data may have other extra fields than the directory at the end of the zip.
    signature, name, extra = struct.unpack("<4s22xHH", whole[place.header_offset:place.header_offset + 30])
    start = place.header_offset + 30 + name + extra
    if signature != b"PK\x03\x04" or start + place.file_size > len(whole) or place.file_size < 8:
        raise ValueError("its tensors are cut short")
    (length,) = struct.unpack("<Q", whole[start:start + 8])
    if not 2 <= length <= min(place.file_size - 8, LONGEST):
        raise ValueError("the header of its tensors is too long")
    header = json.loads(whole[start + 8:start + 8 + length])
    header.pop("__metadata__", None)
    room, at = place.file_size - 8 - length, 0
    shelf: dict[str, Tensor] = {}
    for key, said in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, shape, (begin, end) = _TYPES[said["dtype"]], said["shape"], said["data_offsets"]
        if not all(type(n) is int and n >= 0 for n in (*shape, begin, end)):
            raise ValueError(f"the tensor {key} has no whole shape")
        # Each begins where the one before it ends, so none overlaps another and none is outside.
        if begin != at or end - begin != prod(shape) * dtype.itemsize or end > room:
            raise ValueError(f"the tensor {key} does not lie where it should")
        shelf[key] = _mapped(whole, start + 8 + length + begin, end - begin, dtype).view(shape)
        at = end
    if at != room:
        raise ValueError("its tensors do not fill their place")
    return shelf


def _mapped(whole: mmap.mmap, start: int, size: int, dtype: torch.dtype) -> Tensor:
    """A flat tensor over bytes of the map: a view, or a copy where another zip tool has laid them askew."""
    if sys.byteorder != "little":
        raise ValueError("this machine is big-endian, and traces are little-endian")
    if size == 0:
        return torch.empty(0, dtype=dtype)
    if start % dtype.itemsize == 0:
        return torch.frombuffer(whole, dtype=dtype, count=size // dtype.itemsize, offset=start)
    return torch.frombuffer(bytearray(whole[start:start + size]), dtype=dtype)


def _call(said: dict[str, Any], shelf: dict[str, Tensor]) -> Call:
    if said["kind"] not in ("self", "encoder", "cross"):
        raise ValueError(f"a layer is of kind {said['kind']!r}")
    for name, kinds in _FACTS.items():
        if not isinstance(said[name], kinds):
            raise ValueError(f"the {name} of a layer is {said[name]!r}")
    mask = Mask(tuple(Rule(rule["kind"], rule["size"], _at(rule["table"], shelf), rule.get("global_tokens", 0))
                      for rule in said["mask"]))
    survey = said["survey"] and Survey(**{
        f.name: said["survey"]["kernel"] if f.name == "kernel" else _at(said["survey"].get(f.name), shelf)
        for f in fields(Survey)})
    tensors = {name: _at(said[name], shelf) for name in _TENSORS}
    whole = all(tensors[name] is not None for name in ("q", "k", "v", "output"))
    sealed = None if whole else said["certificate"] and _certificate(said["certificate"])
    call = Call(**{name: said[name] for name in _FACTS}, **tensors, mask=mask, survey=survey, certificate=sealed)
    _fits(call)
    return call


def _certificate(said: dict[str, Any]) -> Certificate:
    places = {name: said[name] and Place(**said[name]) for name in ("row_sum_at", "output_at")}
    return Certificate(**{**said, **places})


def _fits(call: Call) -> None:
    """ValueError unless the tensors of a call are of one shape, as the rest of Klieg takes for granted."""
    batch, heads, queries = call.lse.shape
    groups, keys = call.kv_heads, call.keys
    if min(batch, heads, queries, keys, groups) < 1 or heads % groups:
        raise ValueError(f"layer {call.layer} has {heads} heads over {groups} key heads")
    rows, columns = (batch, heads, queries), (batch, groups, keys)
    lead = {"q": rows, "k": columns, "v": columns, "output": rows, "unrotated_q": rows, "unrotated_k": columns}
    found = {name: (getattr(call, name), shape, 4) for name, shape in lead.items()}
    if call.survey is not None:
        special = {"received": ((batch, heads, keys), 3), "histogram": ((batch, heads), 3), "map_mean": ((batch, heads), 4),
                   "map_max": ((batch, heads), 4), "top_weights": (rows, 4), "top_keys": (rows, 4)}
        found |= {name: (x, *special.get(name, (rows, 3))) for name, x in call.survey.tensors().items()}
    for name, (tensor, shape, axes) in found.items():
        if tensor is not None and (tensor.ndim != axes or tensor.shape[:len(shape)] != shape):
            raise ValueError(f"{name} of layer {call.layer} is of shape {tuple(tensor.shape)}")
    if call.q is not None and call.k is not None and call.q.shape[3] != call.k.shape[3]:
        raise ValueError(f"q and k of layer {call.layer} are of different widths")
    for rule in call.mask.rules:
        rule.reason  # noqa: B018 - KeyError for a kind that there is not
        if rule.kind in ("block", "strided") and rule.size < 1:
            raise ValueError(f"a {rule.kind} of layer {call.layer} is of size {rule.size}")
        if type(rule.global_tokens) is not int or rule.global_tokens < 0:
            raise ValueError(f"layer {call.layer} has {rule.global_tokens!r} global tokens")
