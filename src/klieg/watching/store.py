"""Where q and k of a watched model are kept: in memory or in files of a folder, within a budget.

What does not fit is not kept, and the account says so: the model's own run goes on, and its
survey is there all the same.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import torch
from torch import Tensor

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
class Kept:
    """An account of what was kept: bytes of q and k by (layer, kind), where they are, and why others are missing."""

    where: str
    budget: int
    bytes: dict[tuple[int, str], int] = field(default_factory=dict)
    missing: dict[tuple[int, str], str] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(self.bytes.values())

    def __str__(self) -> str:
        lines = [f"q and k of {len(self.bytes)} calls, {size(self.total)} of at most {size(self.budget)}, in {self.where}"]
        lines += [f"layer {layer} ({kind}): {size(count)}" for (layer, kind), count in self.bytes.items()]
        lines += [f"layer {layer} ({kind}): not kept, {why}" for (layer, kind), why in self.missing.items()]
        return "\n".join(lines)


class Store:
    """Keeps copies of tensors until its budget is spent; None where one is not kept."""

    def __init__(self, folder: str | Path | None = None, budget: int | None = None) -> None:
        """budget: bytes; by default a quarter of the free memory, or in a folder what its disk has free."""
        self._folder = None if folder is None else Path(folder)
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
        if budget is None:
            budget = free_memory() // SHARE if self._folder is None else _free_disk(self._folder)
        self.kept = Kept("memory" if folder is None else str(folder), budget)

    def keep(self, at: tuple[int, str], tensors: Iterable[Tensor], *, needed: bool = True) -> list[Tensor] | None:
        """Copies of the tensors of one call, all or none. If they are `needed`, the account says why there are none."""
        tensors = list(tensors)
        count = sum(prod(x.shape) * x.element_size() for x in tensors)
        found, why = None, f"{size(self.kept.total + count)} are more than the {size(self.kept.budget)} that may be taken"
        if self.kept.total + count <= self.kept.budget and at not in self.kept.missing:
            try:
                found = [self._copy(x) for x in tensors]
            except (MemoryError, OSError, RuntimeError) as e:
                if isinstance(e, RuntimeError) and not out_of_memory(e):
                    raise
                why = first_line(e)
        if found is not None:
            self.kept.bytes[at] = self.kept.bytes.get(at, 0) + count
        elif needed:
            self.lost(at, why)
        return found

    def lost(self, at: tuple[int, str], why: str) -> None:
        """Nothing of a call is kept any more."""
        self.kept.bytes.pop(at, None)
        self.kept.missing.setdefault(at, why)

    def _copy(self, x: Tensor) -> Tensor:
        if self._folder is None:
            return x.detach().clone(memory_format=torch.contiguous_format)
        handle, name = tempfile.mkstemp(".kept", dir=self._folder)
        try:
            # Room on the disk is taken now: a mapping that runs out of it later ends the process.
            os.posix_fallocate(handle, 0, prod(x.shape) * x.element_size())
            kept = torch.from_file(name, shared=True, size=prod(x.shape), dtype=x.dtype).view(x.shape)
        finally:
            # The mapping holds the bytes; without a name they are gone when the last tensor is.
            os.close(handle)
            Path(name).unlink()
        return kept.copy_(x.detach())


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch says that memory is short."""
    said = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in said or "out of memory" in said


def _free_disk(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
