"""How fast does a step of the Multi30k recipe train, beside transformers' Marian in a plain loop?

Both have the same weights, batches, AdamW, clipping, precision and threads, and take turns. Before the
clock starts the two must give the same loss; after it stops both must have learned. Ours also
smooths its labels and drops 0.3, theirs drops the same; the recipe's text is used where KLIEG_DATA
names it, else made-up sentences of its lengths.

    python benchmarks/translator_training.py [--steps 12] [--precision bf16]

Prints a row for docs/benchmarks.md: target tokens a second of both, and the median of the ratios.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F

from klieg import models
from klieg.pairs import PairBatch
from klieg.recipe import Recipe, read
from klieg.train import Stepper, Trainer

RECIPE = Path(__file__).parents[1] / "recipes/multi30k-en-de.toml"
WARM = 3  # steps that are not counted


def batches(recipe: Recipe, count: int) -> list[PairBatch]:
    """Parts of the recipe's first steps; made up where its texts are not there."""
    if os.environ.get("KLIEG_DATA"):
        with tempfile.TemporaryDirectory() as folder:
            corpus = Trainer(recipe, Path(folder)).corpus
            return [corpus.batches(step, recipe.train)[0] for step in range(count)]
    torch.manual_seed(0)
    return [made_up(recipe, 10 + 4 * (step % 5)) for step in range(count)]


def made_up(recipe: Recipe, width: int) -> PairBatch:
    """Sentences of `width` tokens on both sides, a few of them shorter; common ids, so that a dozen steps learn them."""
    rows = recipe.train.batch_tokens // width
    source, target = (torch.randint(3, 300, (rows, width)) for _ in range(2))
    real = torch.arange(width) < torch.randint(width - 2, width + 1, (rows, 1))
    inputs = torch.cat([torch.full((rows, 1), 2), target[:, :-1]], 1)
    return PairBatch(source.masked_fill(~real, 2), real, inputs, target)


def theirs(ours: models.Model) -> torch.nn.Module:
    """transformers' Marian with our weights, as it comes: sdpa attention, float32."""
    from transformers import MarianConfig, MarianMTModel

    model = MarianMTModel(MarianConfig(**ours.config.to_json()))
    missing = model.load_state_dict(ours.state_dict(), strict=False)
    assert not missing.unexpected_keys, missing.unexpected_keys
    model.tie_weights()
    return model


def asked(batch: PairBatch) -> dict[str, torch.Tensor]:
    """A batch in their words."""
    real = torch.ones_like(batch.source) if batch.real is None else batch.real.long()
    return {"input_ids": batch.source, "attention_mask": real, "decoder_input_ids": batch.inputs, "labels": batch.targets}


@torch.no_grad()
def same_loss(ours: models.Model, other: torch.nn.Module, batch: PairBatch) -> None:
    """Both models, with nothing dropped, are the same function."""
    logits = ours.eval()(batch.source, batch.inputs, batch.real)
    mine = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())
    their = other.eval()(**asked(batch)).loss
    assert abs(mine - their) < 1e-4, f"losses differ: ours {mine:.6f}, theirs {their:.6f}"


def plain_loop(model: torch.nn.Module, recipe: Recipe) -> Callable[[PairBatch], float]:
    """A step as one writes it."""
    train = recipe.train
    optimizer = torch.optim.AdamW(model.parameters(), lr=train.learning_rate, betas=(train.beta1, train.beta2),
                                  eps=train.epsilon, weight_decay=train.weight_decay)
    model.train()

    def step(batch: PairBatch) -> float:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=train.precision == "bf16"):
            loss = model(**asked(batch)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), train.clip)
        optimizer.step()
        return loss.item()

    return step


def clocked(work: Callable[[], float]) -> tuple[float, float]:
    started = time.perf_counter()
    loss = work()
    return time.perf_counter() - started, loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of both")
    args = parser.parse_args()
    steps, precision = args.steps + WARM, args.precision
    warnings.simplefilter("ignore")
    recipe = read(RECIPE)
    recipe = replace(recipe, train=replace(recipe.train, accumulate=1, warmup=1, learning_rate=1e-3, precision=precision))
    torch.manual_seed(recipe.train.seed)
    ours = models.build(recipe.model)
    other, rows = theirs(ours), batches(recipe, steps)
    same_loss(ours, other, rows[0])
    stepper, loop = Stepper(ours, recipe.train), plain_loop(other, recipe)
    mine, their = [], []
    for n, batch in enumerate(rows):
        turns = [lambda n=n, batch=batch: mine.append(clocked(lambda: stepper(n, [batch])[0])),
                 lambda batch=batch: their.append(clocked(lambda: loop(batch)))]
        for turn in turns[::-1] if n % 2 else turns:
            turn()
    for name, run in (("our model", mine), ("their model", their)):
        assert run[-1][1] < run[0][1], f"{name} did not learn: {[loss for _, loss in run]}"
    counts = [batch.count for batch in rows]
    speeds = [statistics.median(c / seconds for c, (seconds, _) in list(zip(counts, run, strict=True))[WARM:])
              for run in (mine, their)]
    ratio = statistics.median(b[0] / a[0] for a, b in list(zip(mine, their, strict=True))[WARM:])
    text = "Multi30k" if os.environ.get("KLIEG_DATA") else "made-up text"
    print(f"| a step of `{RECIPE.name}`, {text}, {precision}, {torch.get_num_threads()} threads, {steps - WARM} steps "
          f"| {speeds[0]:,.0f} target tokens/s | transformers' Marian {speeds[1]:,.0f} | {ratio:.2f}x (bar 1.5) |")


if __name__ == "__main__":
    main()
