"""Does a training that is killed at any moment end as the one that never was? `kill -9` at random moments, then a look.

    python benchmarks/crashes.py [--kills 20]

A small translator with BPE dropout and R-Drop is trained once from start to end, and once more with
SIGKILL at moments drawn from the whole of a run: while it starts, while it steps, while it writes.
After the last kill it runs to its end. Every loss of the curve and every weight must be the same bits.
"""

from __future__ import annotations

import argparse
import csv
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

RECIPE = """
[model]
model_type = "marian"
d_model = 64
encoder_layers = 2
decoder_layers = 2
encoder_attention_heads = 4
decoder_attention_heads = 4
encoder_ffn_dim = 128
decoder_ffn_dim = 128
max_position_embeddings = 64
dropout = 0.2
[tokenizer]
pieces = 400
[train]
steps = 200
batch_tokens = 600
longest = 40
warmup = 20
learning_rate = 2e-3
schedule = "inverse-sqrt"
r_drop = 1.0
bpe_dropout = 0.1
validate_every = 20
checkpoint_every = 5
average = 3
[[data]]
name = "NAME"
source = "en"
target = "xx"
"""
WORDS = "the cat dog moon sees loves finds a little red house and then goes home again".split()


def written(folder: Path) -> Path:
    """A recipe and its texts: made-up lines, and the same with every word turned around."""
    lines = [" ".join(WORDS[(n * 7 + m * m) % len(WORDS)] for m in range(2 + n % 9)) + f" {n}" for n in range(1500)]
    (folder / "pairs.en").write_text("".join(f"{line}\n" for line in lines), "utf-8")
    (folder / "pairs.xx").write_text("".join(" ".join(w[::-1] for w in line.split()) + "\n" for line in lines), "utf-8")
    recipe = folder / "crashes.toml"
    recipe.write_text(RECIPE.replace("NAME", str(folder / "pairs")), "utf-8")
    return recipe


def train(recipe: Path, out: Path, seconds: float | None = None) -> bool:
    """Train, killed after so many seconds; whether it came to its end."""
    run = subprocess.Popen([sys.executable, "-m", "klieg", "train", str(recipe), "--out", str(out)],
                           stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        _, said = run.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        run.send_signal(signal.SIGKILL)
        run.communicate()
        return False
    if run.returncode:
        raise SystemExit(f"the training ended with {run.returncode}: {said.strip()}")
    return True


def reached(out: Path) -> int:
    """Steps in the curve that a run has written."""
    curve = out / "loss.csv"
    return sum(1 for _ in csv.DictReader(curve.open())) if curve.exists() else 0


def curve(out: Path) -> list[tuple[str, str]]:
    with (out / "loss.csv").open() as file:
        return [(row["loss"], row["validation_loss"]) for row in csv.DictReader(file)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    draw = random.Random(given.seed)
    with tempfile.TemporaryDirectory(prefix="klieg-crashes-") as folder:
        recipe, whole, broken = written(Path(folder)), Path(folder, "whole"), Path(folder, "broken")
        started = time.perf_counter()
        train(recipe, whole)
        length = time.perf_counter() - started
        places, kills, runs = [], 0, 0
        while kills < given.kills:
            runs += 1
            if train(recipe, broken, draw.uniform(0, length)):
                # The end was reached before the kills were: the next ones hit a new run.
                compare(whole, broken)
                broken = Path(folder, f"broken-{runs}")
                continue
            kills += 1
            places.append(reached(broken))
        train(recipe, broken)
        compare(whole, broken)
    print(f"an unbroken run takes {length:.0f} s")
    print(f"killed with SIGKILL {kills} times, after step {', '.join(map(str, places))}")
    print("every loss and every weight are those of the unbroken run, bit for bit")


def compare(whole: Path, broken: Path) -> None:
    """SystemExit unless both runs ended with the same bits."""
    if curve(whole) != curve(broken):
        raise SystemExit("the losses differ from those of the unbroken run")
    a, b = (load_file(out / "model/model.safetensors") for out in (whole, broken))
    worse = [name for name in a if not torch.equal(a[name], b[name])]
    if worse or set(a) != set(b):
        raise SystemExit(f"the weights differ from those of the unbroken run: {worse}")


if __name__ == "__main__":
    main()
