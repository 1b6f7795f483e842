"""Work on a card that is launched at once: a CUDA graph for each shape of what it is done with.

A small model's training step is thousands of launches, each of which takes the processor longer than the
card. So the first batch of a shape is worked on as it comes, which readies the libraries for it; with the
second the launches are recorded, and from then on they are replayed as one, over the same memory.
What is recorded must not wait for the card, and its dropout follows torch's generator as it is at the replay.
Where the recording fails a warning says why, and all work is done as it comes from then on.

    work = Graphs(step, device)          # step(batch) -> Tensor
    told = work(batch)                   # on the card, until the next call

Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Generic, TypeVar

import torch
from torch import Tensor

from klieg.errors import KliegWarning, first_line

B = TypeVar("B")


def shapes(batch: object) -> tuple:
    """The shapes of a dataclass of tensors, some of which may be None."""
    return tuple(None if x is None else tuple(x.shape) for x in _tensors(batch))


def _tensors(batch: object) -> list[Tensor | None]:
    return [getattr(batch, field.name) for field in fields(batch)]


def record(work: Callable[[], Tensor], pool: tuple[int, int]) -> tuple[Tensor, Callable[[], None]]:
    """(result, replay) of work on the current stream, none of which is done yet; its memory is of the pool.

    RuntimeError where it cannot be recorded; torch's generator is then as it was.
    """
    graph, generator = torch.cuda.CUDAGraph(), torch.cuda.default_generators[torch.cuda.current_device()]
    before = generator.clone_state()
    try:
        # Other threads make batches meanwhile, and may use the card's library for it.
        with torch.cuda.graph(graph, pool=pool, stream=torch.cuda.current_stream(), capture_error_mode="thread_local"):
            result = work()
    except RuntimeError:
        graph.reset()
        generator.graphsafe_set_state(before)     # torch leaves it counting for a recording that never ends
        raise
    return result, graph.replay


@dataclass(eq=False)
class _Recorded(Generic[B]):
    """One shape's memory, what the work recorded over it gives, and that work."""

    batch: B
    result: Tensor
    replay: Callable[[], None]


class Graphs(Generic[B]):
    """work(batch) -> Tensor, on a card as one launch. The work begins by forgetting what it left unfinished."""

    def __init__(self, work: Callable[[B], Tensor], device: torch.device) -> None:
        self._work, self._device = work, device
        self._known: dict[tuple, _Recorded[B] | None] = {}
        self._records, cuda = True, device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if cuda else None
        self._pool = torch.cuda.graph_pool_handle() if cuda else (0, 0)

    def __call__(self, batch: B) -> Tensor:
        """The result for a batch in the processor's memory; it lies on the device, and the next call may overwrite it."""
        if self._stream is None:
            return self._done(batch)
        outside = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(outside)
        with torch.cuda.stream(self._stream):
            result = self._done(batch)
        outside.wait_stream(self._stream)
        return result

    @property
    def recorded(self) -> int:
        """Shapes that are replayed."""
        return sum(known is not None for known in self._known.values())

    def _done(self, batch: B) -> Tensor:
        shape = shapes(batch)
        known = self._known.get(shape)
        if known is not None:
            for there, here in zip(_tensors(known.batch), _tensors(batch), strict=True):
                if there is not None:
                    there.copy_(self._pinned(here), non_blocking=True)
        else:
            placed = self._placed(batch)
            if self._records and shape in self._known:
                known = self._record(placed)
            if known is None:
                self._known.setdefault(shape)
                return self._work(placed)
            self._known[shape] = known
        known.replay()
        return known.result

    def _record(self, batch: B) -> _Recorded[B] | None:
        try:
            return _Recorded(batch, *record(partial(self._work, batch), self._pool))
        except RuntimeError as e:
            self._records = False
            self._known.clear()                   # their dropout would follow a generator that is no longer torch's
            warnings.warn(f"the card cannot record a step ({first_line(e.__context__ or e)}); steps are launched part by part, "
                          "which is slower and gives the same.", KliegWarning, stacklevel=2)
            return None

    def _pinned(self, x: Tensor) -> Tensor:
        """In memory that a card reads by itself; torch keeps it until it has been read."""
        return x if self._stream is None else x.pin_memory()

    def _placed(self, batch: B) -> B:
        return type(batch)(*(None if x is None else self._pinned(x).to(self._device, non_blocking=True, copy=True)
                             for x in _tensors(batch)))
