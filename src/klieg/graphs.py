"""Work on a card that is launched at once: a CUDA graph for each shape of what it is done with.

A small model's training step is thousands of launches, each of which takes the processor longer than the
card. So the first batch of a shape is worked on as it comes, which readies the libraries for it; with the
second the launches are recorded, and from then on they are replayed as one, over the same memory.
What is recorded must not wait for the card, and its dropout follows torch's generator as it is at the replay.

    work = Graphs(step, device)          # step(batch) -> Tensor
    told = work(batch)                   # on the card, until the next call

Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Generic, TypeVar

import torch
from torch import Tensor

B = TypeVar("B")


def shapes(batch: object) -> tuple:
    """The shapes of a dataclass of tensors, some of which may be None."""
    return tuple(None if x is None else tuple(x.shape) for x in _tensors(batch))


def _tensors(batch: object) -> list[Tensor | None]:
    return [getattr(batch, field.name) for field in fields(batch)]


@dataclass(eq=False)
class _Recorded(Generic[B]):
    """One shape's memory, the work recorded over it, and what that gives."""

    batch: B
    replay: Callable[[], None]
    result: Tensor


class Graphs(Generic[B]):
    """work(batch) -> Tensor, on a card as one launch. On the processor the same memory is worked on again, step by step."""

    def __init__(self, work: Callable[[B], Tensor], device: torch.device) -> None:
        self._work, self._device = work, device
        self._known: dict[tuple, _Recorded[B] | None] = {}
        self._cuda = device.type == "cuda"
        if self._cuda:
            self._stream, self._pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()

    def __call__(self, batch: B) -> Tensor:
        """The result for a batch in the processor's memory; it lies on the device, and the next call may overwrite it."""
        if not self._cuda:
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
        if shape not in self._known:
            self._known[shape] = None
            return self._work(self._placed(batch))
        known = self._known[shape]
        if known is None:
            known = self._known[shape] = self._record(self._placed(batch))
        else:
            for there, here in zip(_tensors(known.batch), _tensors(batch), strict=True):
                if there is not None:
                    there.copy_(self._pinned(here), non_blocking=True)
        known.replay()
        return known.result

    def _pinned(self, x: Tensor) -> Tensor:
        """In memory that a card reads by itself; torch keeps it until it has been read."""
        return x.pin_memory() if self._cuda else x

    def _placed(self, batch: B) -> B:
        return type(batch)(*(None if x is None else self._pinned(x).to(self._device, non_blocking=True, copy=True)
                             for x in _tensors(batch)))

    def _record(self, batch: B) -> _Recorded[B]:
        if not self._cuda:
            known = _Recorded(batch, lambda: None, torch.empty(0))

            def replay() -> None:
                known.result = self._work(batch)

            known.replay = replay
            return known
        graph = torch.cuda.CUDAGraph()
        # Other threads make batches meanwhile, and may use the card's library for it.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            result = self._work(batch)
        return _Recorded(batch, graph.replay, result)
