"""Where a model computes and in what type: on the processor in float32, or as the user says, on a GPU of NVIDIA."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from klieg.errors import KliegError, first_line

CPU = torch.device("cpu")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

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


@contextmanager
def no_autocast() -> Iterator[None]:
    """Matrix products in the types of their tensors, in a block or by a decorator.

    Autocast would narrow those of which a map is made from q, k and the log-sum-exp, where a program that trains or
    writes looks at a map in between.
    """
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield


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
