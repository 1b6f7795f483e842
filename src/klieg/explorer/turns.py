"""Whose turn it is: models share the machine's cores, so one computes at a time, first come, first served.

A long job offers its turn between its steps, so that a short one need not wait for its end, and
it learns there that nobody waits for it any more.

    with turns.turn(gone) as turn:
        for layer in layers:
            ...
            turn.offer()             # others may compute now; Gone is raised if the page was closed

A turn comes with the cores, but short jobs that are asked for by the dozen, such as tiles, take one of them: work of a
few milliseconds that is shared between all ends when the last of them does, and beside a browser that draws with the same
cores that one may not even have begun. A tile then takes ten times as long, and the page stutters.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from klieg.errors import KliegError

MOST = 64  # jobs that wait; each holds a thread
LOOK = 0.05  # seconds between two looks at whether a waiting job's asker is still there


class Gone(Exception):
    """Nobody waits for the answer any more; the job ends and gives back what it holds."""


class Busy(KliegError):
    """So many wait that one more is refused."""


class Turn:
    """The turn of one job, until its block ends."""

    def __init__(self, turns: Turns, gone: threading.Event, threads: int | None = None) -> None:
        self._turns, self._gone, self._threads = turns, gone, threads or turns.threads
        self.held = False

    def offer(self) -> None:
        """Let those who wait go first; Gone if the asker has gone."""
        self.check()
        if self._turns.wanted:
            self.close()
            self._take(again=True)

    def check(self) -> None:
        """Gone if the asker has gone; the turn is kept."""
        if self._gone.is_set():
            raise Gone

    def open(self) -> None:
        """Wait for the turn; Gone if the asker goes away meanwhile, Busy if too many wait already."""
        self._take(again=False)

    def close(self) -> None:
        """Give the turn on, where it is held."""
        if self.held:
            self.held = False
            torch.set_num_threads(self._turns.threads)
            self._turns.release()

    def _take(self, again: bool) -> None:
        self._turns.take(self._gone, again)
        self.held = True
        torch.set_num_threads(self._threads)   # of the whole process, so whoever comes back from an offer says it again
        if self._gone.is_set():
            self.close()
            raise Gone


class Turns:
    """A lock that is given in the order in which it was asked for."""

    def __init__(self, most: int = MOST) -> None:
        self._lock = threading.Lock()
        self._queue: deque[threading.Event] = deque()
        self._busy, self._most = False, most
        self.threads = torch.get_num_threads()

    @property
    def wanted(self) -> bool:
        """Whether somebody waits."""
        return bool(self._queue)

    def take(self, gone: threading.Event, again: bool = False) -> None:
        """Wait for the turn; Gone if the asker went away meanwhile. Who only offered it is never refused it `again`."""
        with self._lock:
            if not self._busy:
                self._busy = True
                return
            if len(self._queue) >= self._most and not again:
                raise Busy("too many wait for this server already; try again in a moment.")
            mine = threading.Event()
            self._queue.append(mine)
        while not mine.wait(LOOK):
            with self._lock:
                if gone.is_set() and not mine.is_set():
                    self._queue.remove(mine)
                    raise Gone

    def release(self) -> None:
        """Give the turn to who has waited longest."""
        with self._lock:
            if self._queue:
                self._queue.popleft().set()
            else:
                self._busy = False

    @contextmanager
    def turn(self, gone: threading.Event | None = None, threads: int | None = None) -> Iterator[Turn]:
        """The turn, for the length of a block, with so many threads of torch or with all."""
        turn = Turn(self, gone or threading.Event(), threads)
        turn.open()
        try:
            yield turn
        finally:
            turn.close()
