"""Where q and k of a watched model are kept: on its GPU, in memory, or in files of a folder, within a budget.

They are kept in the model's own type, which for most models on a GPU is bfloat16. What no place has room for is not
kept, and the account says so: the model's own run goes on, and its survey is there all the same.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from klieg.device import out_of_memory
from klieg.errors import first_line

SHARE = 4      # q and k take at most a quarter of the memory that is free when watching begins


def free_memory() -> int:
    """Bytes of memory that are free or could be freed at once."""
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def size(count: float) -> str:
    """Bytes as one reads them."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if count >= 10 or unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


@dataclass(eq=False)
class Place:
    """Somewhere to keep tensors, within a budget of bytes."""

    name: str
    budget: int
    copy: Callable[[Tensor], Tensor]
    used: int = 0

    def take(self, tensors: list[Tensor], count: int) -> list[Tensor] | str:
        """Copies of the tensors, of `count` bytes, or why there are none."""
        if self.used + count > self.budget:
            return f"{size(self.used + count)} are more than the {size(self.budget)} that may be taken"
        try:
            found = [self.copy(x.detach()) for x in tensors]
        except (MemoryError, OSError, RuntimeError) as e:
            if isinstance(e, RuntimeError) and not out_of_memory(e):
                raise
            return first_line(e)
        self.used += count
        return found


@dataclass(eq=False)
class Kept:
    """An account of what was kept: bytes of q and k by (layer, kind), where they are, and why others are missing."""

    places: list[Place]
    bytes: dict[tuple[int, str], int] = field(default_factory=dict)
    missing: dict[tuple[int, str], str] = field(default_factory=dict)

    budget = property(lambda self: sum(place.budget for place in self.places))
    where = property(lambda self: " and ".join(place.name for place in self.places))

    @property
    def total(self) -> int:
        return sum(self.bytes.values())

    def __str__(self) -> str:
        several = [f"{size(place.used)} of at most {size(place.budget)} in {place.name}" for place in self.places]
        lines = [f"q and k of {len(self.bytes)} calls, {', '.join(several)}"]
        lines += [f"layer {layer} ({kind}): {size(count)}" for (layer, kind), count in self.bytes.items()]
        lines += [f"layer {layer} ({kind}): not kept, {why}" for (layer, kind), why in self.missing.items()]
        return "\n".join(lines)


class Store:
    """Keeps copies of tensors in the first of its places that has room; None where one is not kept."""

    def __init__(self, folder: str | Path | None = None, budget: int | None = None, device: torch.device | None = None) -> None:
        """budget: bytes in all, by default a quarter of what is free: of the GPU's memory first if the model runs on one
        (`device`), then of the machine's. In a folder it is by default what its disk has free, and all goes there."""
        if folder is None:
            there = [Place("memory", free_memory() // SHARE, _in_memory)]
            if device is not None and device.type == "cuda":
                there.insert(0, Place("the GPU's memory", torch.cuda.mem_get_info(device)[0] // SHARE, _beside))
        else:
            Path(folder).mkdir(parents=True, exist_ok=True)
            there = [Place(str(folder), _free_disk(Path(folder)), partial(_in_file, Path(folder)))]
        left = budget
        for place in there if budget is not None else []:
            # What was asked for may be more than is thought free; the last place takes the rest.
            place.budget = left if place is there[-1] else min(place.budget, left)
            left -= place.budget
        self.kept, self._shares = Kept(there), {}

    def keep(self, at: tuple[int, str], tensors: Iterable[Tensor], *, needed: bool = True) -> list[Tensor] | None:
        """Copies of the tensors of one call, all or none. If they are `needed`, the account says why there are none."""
        tensors, why = list(tensors), []
        count = sum(prod(x.shape) * x.element_size() for x in tensors)
        for place in self.kept.places if at not in self.kept.missing else []:
            found = place.take(tensors, count)
            if not isinstance(found, str):
                self.kept.bytes[at] = self.kept.bytes.get(at, 0) + count
                self._shares.setdefault(at, []).append((place, count))
                return found
            why.append(found if len(self.kept.places) == 1 else f"{place.name}: {found}")
        if needed:
            self.lost(at, "; ".join(why))
        return None

    def lost(self, at: tuple[int, str], why: str) -> None:
        """Nothing of a call is kept any more."""
        self.kept.bytes.pop(at, None)
        for place, count in self._shares.pop(at, []):
            place.used -= count
        self.kept.missing.setdefault(at, why)


def _beside(x: Tensor) -> Tensor:
    """A copy where x is."""
    return x.clone(memory_format=torch.contiguous_format)


def _in_memory(x: Tensor) -> Tensor:
    return x.to("cpu", copy=True, memory_format=torch.contiguous_format)


def _in_file(folder: Path, x: Tensor) -> Tensor:
    handle, name = tempfile.mkstemp(".kept", dir=folder)
    try:
        # Room on the disk is taken now: a mapping that runs out of it later ends the process.
        os.posix_fallocate(handle, 0, prod(x.shape) * x.element_size())
        kept = torch.from_file(name, shared=True, size=prod(x.shape), dtype=x.dtype).view(x.shape)
    finally:
        # The mapping holds the bytes; without a name they are gone when the last tensor is.
        os.close(handle)
        Path(name).unlink()
    return kept.copy_(x)


def _free_disk(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
