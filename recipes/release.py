"""From a finished run to a bundled model: weights in bfloat16, and the card with its figures.

    python recipes/release.py runs/chat src/klieg/weights/chat --data FOLDER
    python recipes/release.py runs/translate-more src/klieg/weights/translate --recipe recipes/translate-more.toml --data FOLDER
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from pathlib import Path

import torch

from klieg import models
from klieg.beam import Search
from klieg.generate import Conversation, Sampling, stream
from klieg.models import Decoder, Marian, Model
from klieg.recipe import Recipe, read
from klieg.tokenizers import Tokenizer
from klieg.translate import Translator

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "benchmarks"))
import bleu  # noqa: E402  (the benchmarks that measure what the cards say)
import bundled  # noqa: E402

PROMPTS = ("Once upon a time", "The cat", "春")
QUESTIONS = ("Hello, how are you?", "I love you", "你好")
SENTENCES = {"de": ("I love you.", "The animal didn't cross the street because it was too tired."),
             "fr": ("I love you.", "I read a book in the library."),
             "zh": ("I love you.", "The cat chased the mouse."), "en": ("我爱你。", "今天天气很好。")}


def shape(model: Model) -> str:
    """One line about the model."""
    count = f"{model.vocabulary.shape[0]} pieces of byte-level BPE, {model.parameter_count:,} parameters, stored in bfloat16."
    if isinstance(model, Marian):
        c = model.config
        return (f"Marian's: {c.encoder_layers} layers of encoder and {c.decoder_layers} of decoder, width {c.d_model}, "
                f"{c.encoder_attention_heads} heads, inner width {c.encoder_ffn_dim}, {model.positions} positions, {count}")
    return (f"Llama's: {model.layers} layers, {model.heads} query heads over {model.kv_heads} heads of keys and values, "
            f"head width {model.head_width}, {model.positions} positions, {count}")


def run(recipe: Recipe, folder: Path) -> str:
    """What the run's own table says of it."""
    with (folder / "loss.csv").open(encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    validated = [row for row in rows if row["validation_loss"]]
    first, last = validated[0], validated[-1]
    loss = (f"Loss on the held-out part of the mixture: {float(last['validation_loss']):.3f} nats a token "
            f"(step {first['step']}: {float(first['validation_loss']):.3f}).")
    said = f"Recipe `recipes/{recipe.name}.toml`, {int(last['step']):,} steps, AdamW, on a CPU."
    if recipe.start is not None:
        said = f"{said} It began with the weights of `{recipe.start}` as they were before."
    if last.get("bleu"):
        return f"{said} {loss} BLEU of greedy translations of it: {float(last['bleu']):.1f}."
    tokens = recipe.train.tokens_per_step
    return f"{said} Each of {tokens:,} tokens, {int(last['step']) * tokens / 1e6:.1f} million in all. {loss}"


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


def translations(model: Marian, tokenizer: Tokenizer) -> str:
    """A few sentences as they come."""
    translator = Translator(model, tokenizer)
    return "\n".join(f"- {language}: {source} — {found}" for language, sources in SENTENCES.items()
                     for source, found in zip(sources, translator.translate(sources, to=language), strict=True))


def scores(folder: str, data: str | None) -> str:
    """BLEU on the test sets of Tatoeba, in each direction."""
    return "\n\n".join("\n".join(bleu.table("tatoeba", pair, [folder], Search(), data))
                       for pair in ("en-de", "en-fr", "en-zh", "zh-en"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--recipe", type=Path, default=HERE / "chat.toml")
    parser.add_argument("--data", help="folder of texts; by default KLIEG_DATA")
    given = parser.parse_args()
    trained, tokenizer = models.load(str(given.run / "model"))
    recipe, template = read(given.recipe), (HERE / f"{given.target.name}.card.md").read_text("utf-8")
    with tempfile.TemporaryDirectory() as folder:  # the figures are those of what ships, not of what was trained
        models.save(Path(folder) / "model", trained, tokenizer, dtype=torch.bfloat16)
        model, tokenizer = models.load(f"{folder}/model")
        translates = isinstance(model, Marian)
        figures = scores(f"{folder}/model", given.data) if translates else bundled.report(f"{folder}/model", given.data)
    shown = (translations if translates else samples)(model, tokenizer)
    card = template.format(shape=shape(model), run=run(recipe, given.run), samples=shown, figures=figures)
    extra = {"README.md": card, "loss.png": (given.run / "loss.png").read_bytes()}
    models.save(given.target, trained, tokenizer, extra, dtype=torch.bfloat16)


if __name__ == "__main__":
    main()
