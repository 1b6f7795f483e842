"""What do output and survey cost on a GPU, beside the best that torch has there?

One call prints the table of the bars and writes it as Markdown, in at most eight minutes. Figures are medians, taken
in turns with the peers of the same row; whatever came out of a run is compared with the formula in float64 in some
rows of every head, and then overwritten with NaN, so that no later run passes with what an earlier one left. A row
that fails says why, and the others go on.

    python benchmarks/gpu.py [--out gpu.md] [--minutes 8] [--tune]

Needs a GPU of NVIDIA, torch and Triton; the package need not be installed (PYTHONPATH=src). Without a GPU,
`--interpret` goes through the same rows at toy sizes in Triton's interpreter: a test of this file, and no figure.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from functools import partial
from pathlib import Path

import torch

if "--interpret" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"            # which Triton asks for when it is imported

from on_gpu.harness import HALF, TOY, Sizes, Table
from on_gpu.passes import beside_eager, forward, longest, same_bits, tune, whole
from on_gpu.training import training

from klieg.kernels import gpu


def refusal(interpreted: bool) -> str | None:
    """Why nothing can be measured here."""
    if interpreted:
        return gpu.refusal(torch.empty(1, 1, 1, 16), torch.empty(1, 1, 1, 16))
    if not torch.cuda.is_available():
        return "this machine has no CUDA GPU that torch can use (--interpret only tests this file)"
    some = torch.empty(1, 1, 1, 64, device="cuda", dtype=HALF)
    return gpu.refusal(some, some)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--out", type=Path, default=Path("gpu.md"))
    options.add_argument("--minutes", type=float, default=8)
    options.add_argument("--interpret", action="store_true", help="toy sizes in Triton's interpreter, on the CPU")
    options.add_argument("--tune", action="store_true", help="also time the survey in blocks of several sizes")
    given = options.parse_args()
    if why := refusal(given.interpret):
        sys.exit(f"benchmarks/gpu.py: nothing was measured: {why}.")
    sizes, table = TOY if given.interpret else Sizes(), Table(time.monotonic() + 60 * given.minutes - 30, given.interpret)
    where = "Triton's interpreter, toy sizes: no figures" if given.interpret else torch.cuda.get_device_name()
    import triton
    table.lines += [f"{where}; torch {torch.__version__}, Triton {triton.__version__}; {time.strftime('%Y-%m-%d')}", "",
                    "| what | bar | measured | met |", "| --- | --- | --- | --- |"]
    print("\n".join(table.lines), flush=True)
    for width in sizes.widths:
        table.part(f"forward, d {width}", lambda width=width: forward(sizes, table, sizes.short[0], width))
    table.part("the whole survey", lambda: whole(sizes, table, sizes.long[0], sizes.widths[0]))
    table.part("the same bits", lambda: same_bits(sizes, table))
    table.part("eager", lambda: beside_eager(sizes, table))
    table.part("training", lambda: training(sizes, table))
    table.part(f"{sizes.longest:,} tokens", lambda: longest(sizes, table))
    for width in sizes.widths:
        for length in sizes.short[1:]:
            table.part(f"forward, {length:,} tokens, d {width}", partial(forward, sizes, table, length, width))
    for length in sizes.long[1:]:
        table.part(f"the whole survey, {length:,} tokens", partial(whole, sizes, table, length, sizes.widths[0]))
    if given.tune:
        tune(sizes, table)
    given.out.write_text("\n".join(table.lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
