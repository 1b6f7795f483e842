"""What the next steps need, made by another thread while this one works.

    batches = Ahead(lambda step: corpus.batches(step, train))
    batches(0); batches(1); batches(2)          # each was begun before it was asked for
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")

DEPTH = 8  # steps that may be ready: a new epoch's order takes as long as several


class Ahead(Generic[T]):
    """make(step), for one step after the other; only one thread ever makes."""

    def __init__(self, make: Callable[[int], T], depth: int = DEPTH) -> None:
        self._make, self._depth = make, depth
        self._maker = ThreadPoolExecutor(1)
        self._begun: deque[tuple[int, Future[T]]] = deque()

    def __call__(self, step: int) -> T:
        """What make(step) gives; an error in it is raised here."""
        if not self._begun or self._begun[0][0] != step:
            self._begun.clear()
        while len(self._begun) < self._depth:
            next_step = self._begun[-1][0] + 1 if self._begun else step
            self._begun.append((next_step, self._maker.submit(self._make, next_step)))
        return self._begun.popleft()[1].result()
