"""How fast does a step of the chat recipe train, beside transformers' Llama in its own Trainer?

The Trainer runs with the same shape, batch, precision, AdamW and threads; after each of its
steps one of ours is timed, so that both see the same machine. Before the clock starts the two
models get the same weights and must give the same loss; after it stops both must have learned.

    python benchmarks/training.py [--compile] [--precision fp32] [--steps 12]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path

import torch

from klieg import models
from klieg.loss import token_loss
from klieg.recipe import Recipe, read
from klieg.rows import Batch
from klieg.train import Stepper

CHAT = Path(__file__).parents[1] / "recipes/chat.toml"
DOCUMENT = 160  # tokens of a document of the recipe's texts, on average


def batches(recipe: Recipe, count: int) -> list[Batch]:
    """Packed rows of made-up documents: their contents do not matter to the clock, their lengths do."""
    torch.manual_seed(0)
    rows = recipe.train.batch, recipe.train.context
    found = []
    for _ in range(count):
        ids = torch.randint(3, 200, rows)  # few enough that a dozen steps learn how common they are
        ids[torch.rand(rows) < 1 / DOCUMENT] = 0
        targets = ids.roll(-1, 1)
        targets[:, -1] = -100
        found.append(Batch(ids, targets.masked_fill(targets == 0, -100), (ids == 0).cumsum(1)))
    return found


def theirs(recipe: Recipe, ours: models.Decoder) -> torch.nn.Module:
    """transformers' Llama with our weights, as it comes: sdpa attention, float32."""
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig(**recipe.model.to_json()))
    missing = model.load_state_dict(ours.state_dict(), strict=False)
    assert not missing.unexpected_keys and missing.missing_keys in ([], ["lm_head.weight"])
    return model


def same_loss(ours: models.Decoder, other: torch.nn.Module, batch: Batch) -> None:
    """Both models, the mask of documents aside, are the same function."""
    with torch.no_grad():
        mine = token_loss(ours.hidden(batch.ids).flatten(0, 1), ours.vocabulary, batch.targets.flatten())
        labels = torch.cat([torch.full_like(batch.ids[:, :1], -100), batch.targets[:, :-1]], 1)
        their = other(input_ids=batch.ids, labels=labels).loss
    assert abs(mine - their) < 1e-4, f"losses differ: ours {mine:.6f}, theirs {their:.6f}"


def measure(recipe: Recipe, steps: int, compiled: bool) -> tuple[list[float], list[float]]:
    """Seconds of each step: ours, theirs."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    ours = models.build(recipe.model)
    other = theirs(recipe, ours)
    rows = batches(recipe, steps)
    same_loss(ours, other, rows[0])
    stepper = Stepper(ours, replace(recipe.train, compile=compiled))
    mine: list[float] = []
    losses: list[float] = []
    their: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, args, state, control, **kwargs) -> None:
            their.append(time.perf_counter() - self.started)
            started = time.perf_counter()
            losses.append(stepper(state.global_step - 1, [rows[state.global_step - 1]])[0])
            mine.append(time.perf_counter() - started)

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, max_steps=steps, per_device_train_batch_size=recipe.train.batch, learning_rate=recipe.train.learning_rate,
            weight_decay=recipe.train.weight_decay, max_grad_norm=recipe.train.clip, bf16=recipe.train.precision == "bf16",
            torch_compile=compiled, use_cpu=True, report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True)
        rows_of_text = [{"input_ids": ids, "labels": ids} for batch in rows for ids in batch.ids]
        sampler = torch.utils.data.SequentialSampler(rows_of_text)
        trainer = Trainer(other, arguments, train_dataset=rows_of_text, callbacks=[Clock()])
        trainer._get_train_sampler = lambda *_: sampler
        result = trainer.train()
    assert losses[-1] < losses[0], f"our model did not learn: {losses}"
    assert result.training_loss < losses[0] + 1, "their model did not learn"
    return mine, their


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=14)
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--compile", action="store_true")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    recipe = read(CHAT)
    recipe = replace(recipe, train=replace(recipe.train, precision=given.precision, accumulate=1, warmup=1))
    mine, their = (times[3:] for times in measure(recipe, given.steps, given.compile))
    ratio = statistics.median(b / a for a, b in zip(mine, their, strict=True))
    tokens = recipe.train.tokens_per_step
    print(f"{given.precision}{', torch.compile' if given.compile else ''}, {torch.get_num_threads()} threads, "
          f"{tokens} tokens a step, {len(mine)} steps")
    print(f"klieg         {tokens / statistics.median(mine):8,.0f} tokens/s")
    print(f"transformers  {tokens / statistics.median(their):8,.0f} tokens/s")
    print(f"ratio         {ratio:8.2f}   (bar: {1.05 if given.compile else 1.2})")


if __name__ == "__main__":
    main()
