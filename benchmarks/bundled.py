"""What does the bundled model expect after "I love you"? And how well does it predict held-out text?

A next word is a token that starts one, straight away or after a comma, as the sentence has it:
p(word) = p(word) + p(,) p(word | ,). Words longer than a token take the product of their pieces.

    python benchmarks/bundled.py [--model chat] [--data FOLDER]
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace

import torch

from klieg import models
from klieg.data import Source
from klieg.models import Decoder
from klieg.recipe import RowTraining
from klieg.rows import encode
from klieg.tokenizers import Tokenizer

PROMPTS = {
    "story": 'Lily hugged her mom and said, "I love you',
    "story, as an answer": '"I love you, Mom," said Tom. His mom smiled and said, "I love you',
    "dialogue": "I love you\nI love you",
    "alone": "I love you",
}
CORPORA = ("dialogues", "stories", "books", "sentences", "captions", "poems")


@torch.no_grad()
def word_probability(model: Decoder, tokenizer: Tokenizer, prompt: str, word: str) -> float:
    """Of ` word` coming next, straight away or after a comma."""
    return sum(_continues(model, tokenizer, prompt, middle + " " + word) for middle in ("", ","))


def _continues(model: Decoder, tokenizer: Tokenizer, prompt: str, continuation: str) -> float:
    start = tokenizer.encode(prompt)
    rest = tokenizer.encode(continuation, bos=False)
    logits = model(torch.tensor([start + rest]))[0].double().log_softmax(-1)
    return math.exp(sum(logits[len(start) - 1 + n, id].item() for n, id in enumerate(rest)))


@torch.no_grad()
def next_words(model: Decoder, tokenizer: Tokenizer, prompt: str) -> list[tuple[str, float]]:
    """Tokens that start a word, likeliest first."""
    start, comma = tokenizer.encode(prompt), tokenizer.encode(",", bos=False)
    now, after = (model(torch.tensor([ids]))[0, -1].double().softmax(-1) for ids in (start, start + comma))
    p = now + now[comma[0]] * after
    pieces = [tokenizer.decode([id]) for id in range(tokenizer.size)]
    words = [id for id, piece in enumerate(pieces) if piece[:1] == " " and piece[1:2].isalpha()]
    return sorted(((pieces[id].strip(), p[id].item()) for id in words), key=lambda pair: -pair[1])


def validation_loss(model: Decoder, tokenizer: Tokenizer, corpus: str, data: str | None) -> tuple[float, int]:
    """Nats a token on the held-out documents of a corpus, and how many tokens those are."""
    train = RowTraining(steps=1, batch=1, context=model.positions)
    _, held_out = encode((Source(corpus),), tokenizer, train, data)
    rows = max(1, held_out.tokens // model.positions)
    loss, _ = held_out.look(model, replace(train, validation_rows=min(rows, 40)))
    return loss, held_out.tokens


def report(name: str, data: str | None) -> str:
    """The figures of a model's card, as Markdown."""
    model, tokenizer = models.load(name)
    lines = ["| after | three likeliest next words | too | chair | database |", "|---|---|---|---|---|"]
    for kind, prompt in PROMPTS.items():
        words = next_words(model, tokenizer, prompt)
        rank = [word for word, _ in words].index("too") + 1
        best = ", ".join(f"{word} {p:.1%}" for word, p in words[:3])
        rare = " | ".join(f"{word_probability(model, tokenizer, prompt, word):.1e}" for word in ("chair", "database"))
        shown = prompt.replace("\n", " ↩ ")
        lines.append(f"| {kind}: `{shown}` | {best} | rank {rank}, {words[rank - 1][1]:.1%} | {rare} |")
    if data:
        lines += ["", "| held-out text | loss, nats a token | tokens |", "|---|---|---|"]
        for corpus in CORPORA:
            loss, tokens = validation_loss(model, tokenizer, corpus, data)
            lines.append(f"| {corpus} | {loss:.3f} | {tokens:,} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="chat")
    parser.add_argument("--data", help="folder of texts, to measure the loss on what was held out")
    given = parser.parse_args()
    print(report(given.model, given.data))


if __name__ == "__main__":
    main()
