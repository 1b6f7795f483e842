"""The job that every tool gets, and the clock and scales it is measured with.

A tool's script calls `main(prepare)`. Its process loads the model, warms up on a short text, is then
held to the memory it may use, and reports each finished phase as a line of JSON, so that what was
reached before a failure is known. Whatever the tool hands over is compared with truth.py outside
the clock; a wrong answer is a failure. Linux: memory is read from /proc.

    python with_TOOL.py FOLDER WANT LENGTH GIBIBYTES
"""

from __future__ import annotations

import gc
import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

TOP, CELLS = 16, 64
SHORT = 64          # tokens of the text that warms up
RUNS, ENOUGH = 3, 20.0     # calls in one process at most, and seconds after which no further one begins
TOLERANCE = 1e-3    # of weights and, relative to their largest value, of statistics
GIB = 2**30


@dataclass(frozen=True, eq=False)
class Statistics:
    """What is asked of the weights of one layer, all heads h."""

    entropy: Tensor
    """(h, i): nats."""
    received: Tensor
    """(h, j): the sum of a column."""
    top: Tensor
    """(h, i, 16): the largest weights of a row, falling."""
    map: Tensor
    """(h, 64, 64): the mean weight of each bucket."""
    distance: Tensor
    """(h, i): the mean of |i - j| over a row's weights."""


@dataclass(frozen=True, eq=False)
class Found:
    """What a tool hands over after one pass; what it does not give is None."""

    weights: list[Tensor] | None = None
    """Of each layer (h, i, j)."""
    statistics: list[Statistics] | None = None
    row: Callable[[int, int], Tensor] | None = None
    """From a layer and a query to its weights (h, j)."""
    page: str | None = None
    """What was drawn."""
    check: Callable[[], None] | None = None
    """Further assertions, made outside the clock."""


def text(length: int) -> Tensor:
    """(1, length): ids drawn by a seed."""
    return torch.randint(50257, (1, length), generator=torch.Generator().manual_seed(length))


def load(folder: Path, attention: str) -> torch.nn.Module:
    """The model of truth.py in transformers, with every page of its weights in memory."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention).eval()
    for parameter in model.parameters():
        parameter.sum()
    return model


def statistics(weights: Tensor) -> Statistics:
    """In plain torch, of causal weights (h, i, j): a few heads at a time, so that copies stay small."""
    place = torch.arange(weights.shape[1], dtype=weights.dtype)
    parts = []
    for w in weights.split(max(1, 2**24 // place.numel() ** 2)):
        parts.append((torch.special.entr(w).sum(-1), w.sum(-2), w.topk(TOP).values,
                      torch.nn.functional.adaptive_avg_pool2d(w, CELLS), place * w.sum(-1) - w @ place))
    return Statistics(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _memory(name: str) -> int:
    """Bytes by the kernel's count: VmRSS, VmHWM (its peak) or VmSize."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}")


def _report(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def _difference(what: str, found: Tensor, truth: Tensor, scale: float = 1.0) -> float:
    assert found.shape == truth.shape, f"{what}: shape {tuple(found.shape)}, expected {tuple(truth.shape)}"
    worst = (found.double() - truth).abs().max().item() / scale
    assert worst <= TOLERANCE, f"{what}: {worst:.1e} away from float64"     # NaN is not below anything either
    return worst


def _compare(found: Found, truth: dict[str, Tensor]) -> dict[str, float]:
    """The worst differences from the formula: of single weights, and of statistics by their largest value."""
    worst: dict[str, float] = {}
    if found.weights or found.row:
        worst["weights"] = 0.0
        for layer, rows in enumerate(truth["weights"]):
            for place, query in enumerate(truth["queries"].tolist()):
                got = found.row(layer, query) if found.row else found.weights[layer][:, query]
                what = f"weights of layer {layer}, query {query}"
                worst["weights"] = max(worst["weights"], _difference(what, got, rows[:, place]))
    if found.statistics:
        worst["statistics"] = 0.0
        for layer, of_layer in enumerate(found.statistics):
            for name in (field.name for field in fields(Statistics)):
                want = truth[name][layer]
                # truth.py surveys one head of each layer, another one each time.
                got = getattr(of_layer, name)[layer % len(of_layer.entropy)]
                scale = want.abs().max().item()
                worst["statistics"] = max(worst["statistics"], _difference(f"{name} of layer {layer}", got, want, scale))
    if found.check:
        found.check()
    return worst


def _runs(call: Callable[[Tensor], Found], want: str, ids: Tensor, base: int) -> Found:
    """Time calls, and report each. A tool that kept the weights is then given the statistics to compute."""
    begun = time.perf_counter()
    for _ in range(RUNS):
        found = None    # the last call's weights go before the next one's come
        gc.collect()
        started = time.perf_counter()
        found = call(ids)
        page = len(found.page) if found.page else None
        _report(phase=want, seconds=time.perf_counter() - started, peak=_memory("VmHWM") - base, page=page)
        if want == "weights":
            found = Found(found.weights, [statistics(w) for w in found.weights])
            _report(phase="both", seconds=time.perf_counter() - started, peak=_memory("VmHWM") - base, page=None)
        if time.perf_counter() - begun > ENOUGH:
            break
    return found


@torch.no_grad()
def main(prepare: Callable[[Path, str], Callable[[Tensor], Found]]) -> None:
    """Do what the command line says with the tool that `prepare` sets up for a folder and a want."""
    folder, want, length, cap = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    try:
        call = prepare(folder, want)
        warm = call(text(SHORT))
        if want == "weights":
            statistics(warm.weights[0])
        del warm
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")      # the peak counts from here
        base = _memory("VmRSS")
        limit = _memory("VmSize") + int(cap * GIB) - base
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        found = _runs(call, want, text(length), base)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except Exception as error:      # whatever a tool raises is its result
        _report(failed=f"{type(error).__name__}: {error}".removesuffix(": "))
        return
    try:
        from safetensors.torch import load_file

        _report(**_compare(found, load_file(folder / f"truth-{length}.safetensors")))
    except AssertionError as error:
        _report(wrong=str(error))
