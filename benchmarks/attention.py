"""What does attention cost with its survey, beside torch's own attention alone?

klieg.bench measures in turns and checks every run against the formula in float64; here are the
bars, and what takes longer: 128k tokens, memory, a tile of a long map, transformers' eager
attention with the same statistics, and the same bits on every run.

    python benchmarks/attention.py [--quick]
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch
from torch import Tensor

from klieg import bench
from klieg.attention import Mask
from klieg.bench import SUMS, TOP, Case
from klieg.kernels import attend
from klieg.trace import Call

BARS = {
    Case(12, 12, 64, 2048, SUMS): 1.35, Case(12, 12, 64, 8192, SUMS): 1.35, Case(8, 2, 128, 8192, SUMS): 1.5,
    Case(12, 12, 64, 8192, TOP): 1.6, Case(1, 1, 64, 32768, TOP): 1.35, Case(12, 12, 64, 8192, SUMS, plain=True): 3.5}
LONG = Case(1, 1, 64, 131072, TOP)
MEGABYTE = 10**6


def row(what: str, figure: str, bar: str, met: bool) -> None:
    print(f"| {what} | {bar} | {figure} | {'yes' if met else 'NO'} |", flush=True)


def ratios(quick: bool) -> None:
    for case, bar in BARS.items():
        found = bench.measure(case, 3 if quick else 7)
        figure = f"{found.ratio:.2f} ({found.seconds:.2f} s beside {found.beside:.2f} s)"
        row(case.name, figure, f"<= {bar} x SDPA", found.ratio <= bar)


def memory() -> None:
    case = Case(12, 12, 64, 8192, SUMS)
    for one, bar in ((case, 100), (LONG, 200)):
        extra = bench.extra_memory(one) / MEGABYTE
        row(f"memory beyond q, k, v, output: {one.name}", f"{extra:.0f} MB", f"<= {bar} MB", extra <= bar)


def long_text() -> None:
    found = bench.measure(LONG, 1)
    row(LONG.name, f"{found.ratio:.2f} ({found.seconds:.1f} s beside {found.beside:.1f} s, one repetition)", "<= 1.3 x SDPA",
        found.ratio <= 1.3)


@torch.no_grad()
def tiles() -> None:
    """Exact tiles of 512 x 512 anywhere in a map of 131,072 x 131,072, from q, k and lse alone."""
    q, k, v = LONG.inputs()
    seen = attend(q, k, v, Mask.causal())
    call = Call(0, "self", q, k, v, seen.lse, seen.output, Mask.causal(), LONG.width**-0.5, seen.kernel)
    times = []
    for n in range(21):
        start = time.perf_counter()
        at = 512 * (255 - 6 * n)
        tile = call.tile(0, slice(at, at + 512), slice(0, 512))
        times.append(time.perf_counter() - start)
        s = q[0, 0, at:at + 512].double() @ k[0, 0, :512].double().T * LONG.width**-0.5
        s = s.masked_fill(torch.arange(512) > torch.arange(at, at + 512)[:, None], -torch.inf)
        truth = torch.exp(s - seen.lse[0, 0, at:at + 512, None].double())
        torch.testing.assert_close(tile.double(), truth, atol=1e-6, rtol=2e-5)
    took = 1000 * median(times)
    row("an exact 512 x 512 tile of a map of 128k tokens", f"{took:.1f} ms", "<= 20 ms", took <= 20)


def eager(q: Tensor, k: Tensor, v: Tensor, module: torch.nn.Module) -> dict[str, Tensor]:
    """transformers' eager attention, and from its weights what the survey has, in plain torch."""
    from transformers.models.llama.modeling_llama import eager_attention_forward

    length = q.shape[2]
    mask = torch.full((length, length), torch.finfo(q.dtype).min).triu(1)[None, None]
    w = eager_attention_forward(module, q, k, v, mask, scaling=q.shape[3] ** -0.5)[1]
    slot = torch.arange(length, dtype=q.dtype)
    cells = w.unflatten(2, (64, -1)).unflatten(4, (64, -1))         # these lengths are whole multiples of 64
    return {"entropy": torch.special.entr(w).sum(-1), "received": w.sum(2), "first": w[..., 0],
            "own": w.diagonal(dim1=2, dim2=3), "distance": slot - w @ slot, "squares": w @ slot.square(),
            "map_mean": cells.mean((3, 5)), "map_max": cells.amax((3, 5))}


@torch.no_grad()
def beside_eager(quick: bool) -> None:
    case = Case(12, 12, 64, 2048 if quick else 8192, SUMS)
    q, k, v = case.inputs()
    module = torch.nn.Module().eval()
    module.num_key_value_groups = 1
    pairs = []
    for n in range(3 if quick else 4):
        start = time.perf_counter()
        theirs = eager(q, k, v, module)
        middle = time.perf_counter()
        ours = attend(q, k, v, Mask.causal(), survey=SUMS).survey
        end = time.perf_counter()
        for name in ("entropy", "received", "first", "own", "map_mean", "map_max"):
            torch.testing.assert_close(theirs[name], getattr(ours, name), atol=1e-4, rtol=1e-4)
        if n:
            pairs.append((middle - start, end - middle))
        del theirs, ours
    ratio = median(a / b for a, b in pairs)
    theirs, ours = (median(times) for times in zip(*pairs, strict=True))
    row(f"transformers' eager attention with weights and the same statistics, {case.length:,} tokens",
        f"{ratio:.1f} ({theirs:.1f} s beside {ours:.1f} s, {len(pairs)} repetitions)", ">= 10 x ours", ratio >= 10)


@torch.no_grad()
def same_bits() -> None:
    q, k, v = Case(12, 12, 64, 2048, TOP).inputs()
    runs = []
    for threads in (torch.get_num_threads(), 1, torch.get_num_threads()):
        torch.set_num_threads(threads)
        found = attend(q, k, v, Mask.causal(), survey=TOP)
        runs.append([found.output, *found.survey.tensors().values()])
    same = all(torch.equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0], strict=True))
    row("the same bits on every run, and with one thread", "yes" if same else "no", "yes", same)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--quick", action="store_true", help="fewer repetitions, and neither 128k tokens nor eager at 8k")
    quick = options.parse_args().quick
    print("| what | bar | measured | met |\n| --- | --- | --- | --- |")
    ratios(quick)
    same_bits()
    beside_eager(quick)
    tiles()
    memory()
    if not quick:
        long_text()


if __name__ == "__main__":
    main()
