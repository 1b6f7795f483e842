"""Streams made of random numbers that add up, around a trace made of random numbers."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from klieg.blocks import Block, Stream
from klieg.trace import Trace

WIDTH = 40


def streamed(trace: Trace) -> Trace:
    """The trace with a pre-norm stream of WIDTH numbers around every stack, and learned positions."""
    kinds = dict.fromkeys(call.kind for call in trace.calls if call.kind != "cross")
    return replace(trace, streams={kind: _stream(trace, kind) for kind in kinds})


def _stream(trace: Trace, kind: str) -> Stream:
    calls = trace.of(kind)
    random = torch.Generator().manual_seed(len(calls) + calls[0].queries)

    def rows(size: float) -> Tensor:
        return torch.randn(1, calls[0].queries, WIDTH, generator=random) * size

    embedded, positions = rows(1.0), rows(0.1)
    x, blocks = embedded + positions, []
    for call in calls:
        attended, fed = rows(0.4), rows(0.6)
        crossed = rows(0.3) if kind == "self" and trace.source is not None else None
        middle = x + attended if crossed is None else x + attended + crossed
        blocks.append(Block(call.layer, kind, "pre", x, rows(1.0), attended, rows(1.0), fed, middle + fed,
                            None if crossed is None else rows(1.0), crossed))
        x = blocks[-1].output
    return Stream(embedded, positions, blocks, rows(1.0))
