"""The forward pass and the survey on a GPU, beside torch's backends and eager attention."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from on_gpu.harness import CAUSAL, EXACT, HALF, SUMS, Problem, Sizes, Table, milliseconds, ratio, turns
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention as sdpa

from klieg.errors import KliegError, first_line
from klieg.kernels import attend, gpu, survey
from klieg.kernels.surveys import received
from klieg.survey import SurveySpec


def backends(problem: Problem) -> dict[str, Callable[[], Tensor]]:
    """Torch's own, those that run here, and flash-attn's where it is installed."""
    q, k, v, found = problem.q, problem.k, problem.v, {}

    def by(backend: SDPBackend) -> Tensor:
        with sdpa_kernel(backend):
            return sdpa(q, k, v, is_causal=True, enable_gqa=problem.shared)

    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH):
        # The last forms the whole map, and is there for the toy.
        if (backend == SDPBackend.MATH) == (q.device.type == "cpu"):
            found[f"SDPA {backend.name.removesuffix('_ATTENTION').lower()}"] = partial(by, backend)
    if q.device.type == "cuda":
        found["FlexAttention"] = flex(problem)
        try:
            from flash_attn import flash_attn_func
            across = [x.transpose(1, 2) for x in (q, k, v)]
            found["flash-attn"] = lambda: flash_attn_func(*across, causal=True).transpose(1, 2)
        except ImportError:
            pass
    able = {}
    for name, run in found.items():
        try:
            problem.check(name, run())
            able[name] = run
        except Exception as e:                      # a peer that does not run here is said, and left out
            print(f"{name} does not run here: {first_line(e)[:160]}", file=sys.stderr)
    return able


def flex(problem: Problem) -> Callable[[], Tensor]:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention
    length = problem.q.shape[2]
    mask = create_block_mask(lambda b, h, i, j: i >= j, None, None, length, length, device=problem.q.device)
    run = torch.compile(flex_attention)
    return lambda: run(problem.q, problem.k, problem.v, block_mask=mask, enable_gqa=problem.shared)


def best(times: dict[str, list[float]]) -> str:
    """The quickest backend of torch's scaled_dot_product_attention."""
    return min((name for name in times if name.startswith("SDPA")), key=lambda name: median(times[name]))


def ours(problem: Problem, statistics: bool) -> object:
    run = gpu.attended if statistics else gpu.attention
    return run(problem.q, problem.k, problem.v, CAUSAL, scale=problem.q.shape[3]**-0.5, softcap=None, sinks=None, bias=None)


def columns(problem: Problem, own: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """Output and sums of columns; the output and its log-sum-exp from us, or from torch's flash kernel."""
    q, k, v = problem.q, problem.k, problem.v
    if own:
        out, lse = ours(problem, statistics=False)
    else:
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, True, False)[:2]
    return out, {"received": received(q, k, lse, CAUSAL, kernel="gpu")}


@torch.no_grad()
def forward(sizes: Sizes, table: Table, length: int, width: int) -> None:
    problem = Problem(sizes, length, width)
    runs = {**backends(problem), "plain": lambda: ours(problem, False)[0], "rows": lambda: ours(problem, True),
            "columns": lambda: columns(problem, own=True)}
    if sizes.device == "cuda":
        runs["columns on torch's output"] = lambda: columns(problem, own=False)
    times, errors = turns(runs, sizes.repetitions, problem.check)
    first, at = best(times), f"{length:,} tokens, {sizes.heads} heads, d {width}"
    flops = 2 * length * length * width * sizes.heads          # two products of N x N x d, half of each
    for name in times:
        if name in ("plain", first) or not name.startswith(("rows", "columns")):
            table.add(f"{name}, {at}", "", f"{milliseconds(times[name])}, {flops / median(times[name]) / 1e12:.0f} TFLOP/s")
    bar = 1.08 if width >= 128 else 1.15
    extra = ratio(times["rows"], times["plain"])
    table.add(f"row statistics on top of our own forward, {at}", f"<= {bar}x", f"{extra:.3f}x", extra <= bar)
    speed = ratio(times[first], times["plain"])
    table.add(f"our plain forward against {first}, {at}", ">= 0.65", f"{speed:.2f}", speed >= 0.65)
    least = min((name for name in times if name.startswith("columns")), key=lambda name: median(times[name]))
    more = ratio(times[least], times[first])
    table.add(f"output + column sums ({least}) over {first}, {at}", "<= 1.75x", f"{more:.2f}x", more <= 1.75)
    error = errors["plain"] / errors[first]
    table.add(f"error against float64 over that of {first}, {at}", "<= 2x", f"{error:.2f}x", error <= 2)


@torch.no_grad()
def whole(sizes: Sizes, table: Table, length: int, width: int) -> None:
    problem = Problem(sizes, length, width)
    def by(kernel: str | None) -> object:
        return attend(problem.q, problem.k, problem.v, CAUSAL, survey=sizes.whole, kernel=kernel)

    runs = {**{name: run for name, run in backends(problem).items() if name.startswith("SDPA")}, "whole": lambda: by("gpu")}
    if sizes.device == "cuda":
        runs["whole on torch's output"] = lambda: by(None)
    times, _ = turns(runs, max(1, sizes.repetitions // 3), problem.check)
    first = best(times)
    for name in (name for name in times if name.startswith("whole")):
        more = ratio(times[name], times[first])
        table.add(f"output + the whole survey, top-32, map of 64 x 64 ({name}), over {first}, {length:,} tokens, {sizes.heads} "
                  f"heads, d {width}", "<= 2.0x", f"{more:.2f}x ({milliseconds(times[name])})", more <= 2)


def peak(run: Callable[[], object]) -> int:
    """Bytes that a run needs at its worst, beyond what was there."""
    if not torch.cuda.is_available():
        run()
        return 1
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def eager(problem: Problem, spec: SurveySpec) -> tuple[Tensor, dict[str, Tensor]]:
    """The weights as transformers' eager attention makes them, and the same statistics from them."""
    q, k, v = problem.q, problem.k, problem.v
    length = q.shape[2]
    s = (q @ k.mT) * q.shape[3]**-0.5
    s += torch.full((length, length), torch.finfo(q.dtype).min, device=q.device, dtype=q.dtype).triu(1)
    w = torch.softmax(s, dim=-1, dtype=torch.float32)
    out, slot = w.to(q.dtype) @ v, torch.arange(length, device=q.device, dtype=torch.float32)
    bands = w.tensor_split(min(spec.map, length), dim=2)
    return out, {"entropy": torch.special.entr(w).sum(-1), "received": w.sum(2), "first": w[..., 0].clone(),
                 "own": w.diagonal(dim1=2, dim2=3).clone(), "distance": slot - w @ slot,
                 "top": w.topk(min(spec.top, length)).values, "map_mean": torch.stack([band.mean(2) for band in bands], 2),
                 "map_max": torch.stack([band.amax(2) for band in bands], 2)}


@torch.no_grad()
def beside_eager(sizes: Sizes, table: Table) -> None:
    problem = Problem(sizes, sizes.short[0], sizes.widths[0])

    def surveyed() -> object:
        return attend(problem.q, problem.k, problem.v, CAUSAL, survey=sizes.whole, kernel="gpu")

    def check(name: str, found: object) -> float:
        # In bfloat16 its scores are rounded before the softmax: its statistics are not held to ours.
        return 0.0 if name == "eager" else problem.check(name, found)

    times, _ = turns({"eager": lambda: eager(problem, sizes.whole), "ours": surveyed}, max(1, sizes.repetitions // 3), check)
    faster, less = ratio(times["eager"], times["ours"]), peak(lambda: eager(problem, sizes.whole)) / max(1, peak(surveyed))
    table.add(f"eager with weights and the same statistics, {sizes.short[0]:,} tokens", ">= 10x ours, >= 50x its memory",
              f"{faster:.1f}x, {less:.0f}x", faster >= 10 and less >= 50)


@torch.no_grad()
def longest(sizes: Sizes, table: Table) -> None:
    """One layer, key head by key head; what was found of each goes to the machine's memory, as a trace keeps it."""
    length, width, share = sizes.longest, sizes.widths[0], sizes.heads // sizes.groups
    random = torch.Generator(sizes.device).manual_seed(0)
    q, k, v = (torch.randn(1, h, length, width, generator=random, device=sizes.device, dtype=HALF)
               for h in (sizes.heads, sizes.groups, sizes.groups))
    out = torch.full_like(q, torch.nan)
    inputs = sum(x.numel() * x.element_size() for x in (q, k, v, out))
    worst = [0.0]

    def run() -> None:
        for group in range(sizes.groups):
            of = slice(group * share, (group + 1) * share)
            found = attend(q[:, of], k[:, group:group + 1], v[:, group:group + 1], CAUSAL, survey=sizes.whole, kernel="gpu")
            out[:, of] = found.output
            kept = {name: x.cpu() for name, x in found.survey.tensors().items()}
            live = kept["received"].double().sum(2) / length - 1
            worst[0] = max(worst[0], (kept["mass"] - 1).abs().max().item(), live.abs().max().item(),
                           float((kept["top_keys"] < -1).any()))

    begun = time.perf_counter()
    beyond = peak(run)
    took = time.perf_counter() - begun
    if not worst[0] < EXACT or not out.isfinite().all():
        raise KliegError(f"the sums of rows or columns are off by {worst[0]:.1e}; the figure is void")
    times = (inputs + beyond) / inputs
    table.add(f"one layer, {sizes.heads} query / {sizes.groups} kv heads, d {width}, {length:,} tokens: output, column sums, "
              "entropy, top-32, pooled map", "<= 45 s, peak <= 1.6x of q, k, v, out", f"{took:.1f} s, {times:.2f}x",
              took <= 45 and times <= 1.6)


@torch.no_grad()
def same_bits(sizes: Sizes, table: Table) -> None:
    problem = Problem(sizes, sizes.short[0], sizes.widths[0], sizes.groups)
    runs = []
    for _ in range(3):
        found = attend(problem.q, problem.k, problem.v, CAUSAL, survey=sizes.whole, kernel="gpu")
        runs.append([found.output, *found.survey.tensors().values()])
    same = all(torch.equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0], strict=True))
    table.add("the same bits on every run", "yes", "yes" if same else "no", same)


@torch.no_grad()
def tune(sizes: Sizes, table: Table) -> None:
    """The survey by blocks of several sizes: which one BLOCKS of kernels/gpu/tiles.py should name."""
    from klieg.kernels.gpu import tiles
    problem = Problem(sizes, sizes.short[-1], sizes.widths[0])
    lse = ours(problem, False)[1]
    usual = tiles.BLOCKS
    for blocks in ((128, 64, 8), (128, 128, 8), (128, 64, 4), (64, 64, 4), (64, 128, 4), (128, 32, 4)):
        tiles.BLOCKS = tiles.WIDE_BLOCKS = blocks
        for name, spec in (("sums", SUMS), ("map", SurveySpec(top=0, map=64)), ("all", sizes.whole)):
            def rows(name: str = name, spec: SurveySpec = spec, blocks: tuple = blocks) -> None:
                run = partial(survey, problem.q, problem.k, lse, CAUSAL, spec, kernel="gpu")
                times, _ = turns({"": run}, sizes.repetitions, lambda *_: 0.0)
                table.add(f"survey ({name}) in blocks of {blocks}", "", milliseconds(times[""]))
            table.part(f"survey ({name}) in blocks of {blocks}", rows)
    tiles.BLOCKS, tiles.WIDE_BLOCKS = usual, (64, 64, 8)
