"""What do scores of heads at every so many steps cost a training?

A model of the chat recipe's shape trains on made-up rows of the recipe's size. Each round has a step as it is, a look (the
scores of all heads on eight texts of 256 tokens, with the file that is written), and the step that comes after it, which
may be slower for it; so all three see the same machine. The share is that of a training which looks at every 100 steps. On
one thread the seconds are those that the processor spent on this process, whatever else runs on the machine.

    python benchmarks/diary.py [--rounds 8] [--every 100] [--threads 2]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from training import CHAT, batches

from klieg import models
from klieg.analysis.atlas.diary import Diary
from klieg.recipe import read
from klieg.train import Stepper

TEXTS, TOKENS = 8, 256


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rounds", type=int, default=8)
    options.add_argument("--every", type=int, default=100)
    options.add_argument("--threads", type=int, default=2)
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    clock = time.process_time if given.threads == 1 else time.perf_counter
    recipe = read(CHAT)
    recipe = replace(recipe, train=replace(recipe.train, accumulate=1, warmup=1))
    tokenizer = models.load("chat")[1]
    model = models.build(recipe.model)
    step = Stepper(model, replace(recipe.train, compile=False))
    rows = batches(recipe, 2 * given.rounds + 2)
    page = tokenizer.encode((Path(__file__).parents[1] / "README.md").read_text("utf-8"), bos=False)
    texts = [tokenizer.decode(page[n * TOKENS:(n + 1) * TOKENS - 1]) for n in range(TEXTS)]
    alone, looks, after = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        diary = Diary(folder, tokenizer, texts, given.every, TOKENS)
        for n in range(given.rounds + 1):
            alone.append(seconds(clock, lambda n=n: step(2 * n, [rows[2 * n]])))
            looks.append(seconds(clock, lambda n=n: diary.look(model, n)))
            after.append(seconds(clock, lambda n=n: step(2 * n + 1, [rows[2 * n + 1]])))
    # The first of each has libraries to load.
    usual, look, late = (statistics.median(x[1:]) for x in (alone, looks, after))
    cost = look + max(late - usual, 0)
    print(f"{torch.get_num_threads()} threads, {recipe.train.tokens_per_step} tokens a step, {TEXTS} texts of {TOKENS} tokens, "
          f"{given.rounds} rounds")
    print(f"a step                 {usual:8.3f} s")
    print(f"a look                 {look:8.3f} s, {look / usual:.2f} of a step")
    print(f"the step after a look  {late / usual:8.2f} x")
    print(f"share of a training that looks at every {given.every} steps   "
          f"{100 * cost / (cost + given.every * usual):.2f} %")


def seconds(clock: Callable[[], float], work: Callable[[], object]) -> float:
    started = clock()
    work()
    return clock() - started


if __name__ == "__main__":
    main()
