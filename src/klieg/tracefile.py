"""A Trace on disk: a zip that holds trace.json and tensors.safetensors, nothing that can run.

Masks are written as their rules, surveys field by field; a tensor that several calls share,
such as a padding table, is written once. Reading checks everything it builds on, and the
certificate is computed again from what was read.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import fields
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from klieg import checkpoint
from klieg.attention import Mask, Rule
from klieg.errors import KliegError, first_line
from klieg.survey import Survey
from klieg.trace import Call, Trace

FORMAT = "klieg-trace/1"
_TENSORS = ("q", "k", "v", "lse", "output", "sinks", "bias", "unrotated_q", "unrotated_k")
_FACTS = ("layer", "kind", "scale", "kernel", "softcap")


def write(trace: Trace, path: Path) -> None:
    """Save a trace, whole or not at all."""
    shelf: dict[str, Tensor] = {"logits": trace.logits}
    names: dict[int, str] = {id(trace.logits): "logits"}

    def put(name: str, tensor: Tensor | None) -> str | None:
        if tensor is None:
            return None
        if id(tensor) not in names:
            names[id(tensor)], shelf[name] = name, tensor.detach().cpu().contiguous().clone()
        return names[id(tensor)]

    calls = []
    for index, call in enumerate(trace.calls):
        said = {name: getattr(call, name) for name in _FACTS}
        said |= {name: put(f"{index}.{name}", getattr(call, name)) for name in _TENSORS}
        said["mask"] = [{"kind": rule.kind, "size": rule.size, "table": put(f"{index}.mask.{n}", rule.table)}
                        for n, rule in enumerate(call.mask.rules)]
        said["survey"] = None if call.survey is None else {
            f.name: put(f"{index}.survey.{f.name}", getattr(call.survey, f.name)) for f in fields(Survey)}
        calls.append(said)
    body = {"format": FORMAT, "model": trace.model, "text": trace.text, "ids": trace.ids, "tokens": trace.tokens,
            "vocabulary": list(trace.vocabulary), "calls": calls}
    with checkpoint.atomic(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as file:
        file.writestr("trace.json", json.dumps(body, ensure_ascii=False))
        file.writestr("tensors.safetensors", save(shelf))


def read(path: Path) -> Trace:
    """Open a saved trace; KliegError if it is not one, is damaged, or fails its certificate."""
    try:
        with zipfile.ZipFile(path) as file:
            body, shelf = json.loads(file.read("trace.json")), load(file.read("tensors.safetensors"))
        if body["format"] != FORMAT:
            raise KliegError(f"{path} is of format {body['format']!r} and this version reads {FORMAT!r}; trace it again.")
        calls = [_call(said, shelf) for said in body["calls"]]
        return Trace(body["model"], body["text"], body["ids"], body["tokens"], calls, shelf["logits"], body["vocabulary"])
    except FileNotFoundError:
        raise KliegError(f"there is no trace {str(path)!r}.") from None
    except (OSError, zipfile.BadZipFile, SafetensorError, ValueError, KeyError, TypeError, IndexError,
            NotImplementedError, RuntimeError) as e:
        raise KliegError(f"{path} is not a whole trace ({type(e).__name__}: {first_line(e)}); save it again.") from None


def _call(said: dict, shelf: dict[str, Tensor]) -> Call:
    def get(name: str | None) -> Tensor | None:
        return None if name is None else shelf[name]

    rules = tuple(Rule(rule["kind"], rule["size"], get(rule["table"])) for rule in said["mask"])
    survey = said["survey"] and Survey(**{name: get(tensor) for name, tensor in said["survey"].items()})
    tensors = {name: get(said[name]) for name in _TENSORS}
    return Call(**{name: said[name] for name in _FACTS}, **tensors, mask=Mask(rules), survey=survey)

