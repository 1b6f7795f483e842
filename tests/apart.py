"""Processes of their own, forked from one that has torch and Klieg loaded, which would take each of them seconds."""

from __future__ import annotations

import multiprocessing
import socket
import time
from collections.abc import Callable
from contextlib import suppress

import pytest
import torch.multiprocessing as mp

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["klieg.train", "klieg.analysis.atlas.census"])
PATIENCE = 120


def free() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def together(work: Callable[..., None], *given: object, count: int = 2) -> bool:
    """Runs work(rank, *given) in so many processes to their end, which is True; one that hangs is killed and fails the test."""
    processes = mp.start_processes(work, given, nprocs=count, join=False, start_method="forkserver")
    until = time.monotonic() + PATIENCE
    try:
        while not processes.join(1):
            if time.monotonic() > until:
                pytest.fail(f"the processes did not end in {PATIENCE} s")
        return True
    finally:
        for process in processes.processes:
            process.kill()


def died(work: Callable[..., None], *given: object) -> bool:
    """Whether one of two such processes died by itself."""
    with suppress(mp.ProcessExitedException):
        return not together(work, *given)
    return True
