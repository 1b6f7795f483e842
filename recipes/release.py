"""From a finished run to a bundled model: weights in bfloat16, and the card with its figures.

    python recipes/release.py runs/chat src/klieg/weights/chat --data FOLDER
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from pathlib import Path

import torch

from klieg import models
from klieg.generate import Conversation, Sampling, stream
from klieg.models import Decoder
from klieg.recipe import Recipe, read
from klieg.tokenizers import Tokenizer

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "benchmarks"))
import bundled  # noqa: E402  (the benchmark that measures what the card says)

PROMPTS = ("Once upon a time", "The cat", "春")
QUESTIONS = ("Hello, how are you?", "I love you", "你好")


def shape(model: Decoder) -> str:
    """One line about the model."""
    return (f"Llama's: {model.layers} layers, {model.heads} query heads over {model.kv_heads} heads of keys and values, "
            f"head width {model.head_width}, {model.positions} positions, {model.vocabulary.shape[0]} pieces of byte-level "
            f"BPE, {model.parameter_count:,} parameters, stored in bfloat16.")


def run(recipe: Recipe, folder: Path) -> str:
    """What the run's own table says of it."""
    with (folder / "loss.csv").open(encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    validated = [row for row in rows if row["validation_loss"]]
    last = validated[-1]
    return (f"Recipe `recipes/{recipe.name}.toml`, {int(last['step']):,} steps of {recipe.train.tokens_per_step:,} tokens, "
            f"{int(last['step']) * recipe.train.tokens_per_step / 1e6:.1f} million in all, AdamW, on a CPU. Loss on "
            f"the held-out part of the mixture: {float(last['validation_loss']):.3f} nats a token "
            f"(step {validated[0]['step']}: {float(validated[0]['validation_loss']):.3f}).")


def samples(model: Decoder, tokenizer: Tokenizer) -> str:
    """Texts and replies as they come."""
    lines = []
    for seed, prompt in enumerate(PROMPTS):
        text = prompt + "".join(stream(model, tokenizer, prompt, Sampling(0.8, top_p=0.95, seed=seed), 60))
        lines.append(f"- seed {seed}: {' ↩ '.join(text.split(chr(10)))}")
    for seed, question in enumerate(QUESTIONS):
        reply = "".join(Conversation(model, tokenizer, Sampling(0.8, top_p=0.95, seed=seed)).say(question, 40))
        lines.append(f"- seed {seed}: “{question}” — “{reply}”")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--recipe", type=Path, default=HERE / "chat.toml")
    parser.add_argument("--data", help="folder of texts; by default KLIEG_DATA")
    given = parser.parse_args()
    trained, tokenizer = models.load(str(given.run / "model"))
    recipe = read(given.recipe)
    with tempfile.TemporaryDirectory() as folder:  # the figures are those of what ships, not of what was trained
        models.save(Path(folder) / "model", trained, tokenizer, dtype=torch.bfloat16)
        model, tokenizer = models.load(f"{folder}/model")
        figures = bundled.report(f"{folder}/model", given.data)
    card = (HERE / f"{recipe.name}.card.md").read_text("utf-8").format(
        shape=shape(model), run=run(recipe, given.run), samples=samples(model, tokenizer), figures=figures)
    extra = {"README.md": card, "loss.png": (given.run / "loss.png").read_bytes()}
    models.save(given.target, trained, tokenizer, extra, dtype=torch.bfloat16)


if __name__ == "__main__":
    main()
