"""Where a model computes and in what type: on the processor in float32, or as the user says, on a GPU of NVIDIA."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from klieg.errors import KliegError, first_line

CPU = torch.device("cpu")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_MATMUL = torch.backends.mkldnn.matmul, torch.backends.cuda.matmul
Place = tuple[torch.device, torch.dtype]
T = TypeVar("T")


def device(name: str) -> torch.device:
    """cpu, cuda, or cuda:1 for the second GPU; KliegError if this machine has none that PyTorch can use."""
    if not re.fullmatch(r"cpu|cuda(:[0-9]{1,3})?", name):
        raise KliegError(f"there is no device {name!r}; give cpu, cuda, or cuda:1 for the second GPU.")
    if name == "cpu":
        return CPU
    if torch.version.cuda is None:
        raise KliegError("the PyTorch that is installed here is made for processors alone; install one for CUDA (pytorch.org), "
                         "or leave --device away.")
    if not torch.cuda.is_available():
        raise KliegError("PyTorch finds no GPU of NVIDIA here, or its driver is too old; see what nvidia-smi says, or leave "
                         "--device away.")
    found = torch.device(name if ":" in name else "cuda:0")
    if found.index >= torch.cuda.device_count():
        raise KliegError(f"there is no GPU {found.index} on this machine; GPUs are counted from 0, and there are "
                         f"{torch.cuda.device_count()}.")
    return found


def home(model: nn.Module) -> torch.device:
    """Where a model computes: where its first numbers are; the processor if it has none."""
    return next((x.device for x in model.parameters()), CPU)


def moved(thing: T, device: torch.device) -> T:
    """Tensors, and lists, dicts and dataclasses of them, on a device; what lies there already is the same object."""
    if isinstance(thing, Tensor):
        return thing.to(device)
    if is_dataclass(thing) and not isinstance(thing, type):
        given = {field.name: getattr(thing, field.name) for field in fields(thing) if field.init}
        found = {name: moved(x, device) for name, x in given.items()}
        changed = {name: x for name, x in found.items() if x is not given[name]}
        return replace(thing, **changed) if changed else thing
    if isinstance(thing, dict):
        found = {name: moved(x, device) for name, x in thing.items()}
        return thing if all(x is thing[name] for name, x in found.items()) else type(thing)(found)
    if isinstance(thing, tuple | list):
        parts = [moved(x, device) for x in thing]
        return thing if all(x is y for x, y in zip(parts, thing, strict=True)) else type(thing)(parts)
    return thing


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch says that memory is short."""
    said = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in said or "out of memory" in said


def narrowed(kind: str) -> bool:
    """Whether torch would round the matrix products of float32 tensors on this kind of device: by autocast, or as it was told
    by torch.set_float32_matmul_precision() and the settings of its backends."""
    return torch.is_autocast_enabled(kind) or (not torch.compiler.is_compiling() and rounded())


def rounded() -> bool:
    """Whether torch was told to round the factors of float32 products."""
    return any(backend.fp32_precision in ("tf32", "bf16") for backend in _MATMUL)


@contextmanager
def full_precision() -> Iterator[None]:
    """Matrix products in the types of their tensors, in a block or by a decorator, whatever the program around it chose for
    its own: a map is made of q, k and the log-sum-exp again and again, also between two steps of a training."""
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False), _unrounded():
        yield


@contextmanager
def _unrounded() -> Iterator[None]:
    if not rounded():
        yield
        return
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:
        # It was told backend by backend, and torch refuses to mix both ways.
        kept = [backend.fp32_precision for backend in _MATMUL]
        try:
            for backend in _MATMUL:
                backend.fp32_precision = "ieee"
            yield
        finally:
            for backend, precision in zip(_MATMUL, kept, strict=True):
                backend.fp32_precision = precision
        return
    try:
        torch.set_float32_matmul_precision("highest")
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def room(what: str) -> Iterator[None]:
    """In the block, memory that runs out is a KliegError which says while `what`."""
    try:
        yield
    except (MemoryError, RuntimeError) as e:
        if not out_of_memory(e):
            raise
        raise KliegError(f"memory ran out while {what} ({first_line(e)}), and nothing was kept; read fewer tokens at once, "
                         "take --precision bf16, or another --device.") from None
