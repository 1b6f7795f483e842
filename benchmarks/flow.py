"""Do maps that are followed through all layers tell which tokens a prediction depends on?

The truth is ablation: every token before the last is hidden from all others, in every head of every layer, and the change
of the next token's probabilities is measured in bits. For each way of following attention (klieg.analysis.flow) this
prints the mean of Spearman's rank correlation with it over held-out texts that the bundled model has not been trained on,
with its 95 % interval, and the paired difference from raw attention's. Intervals are those of 2,000 bootstrap samples.

    KLIEG_DATA=FOLDER python benchmarks/flow.py [--texts 200] [--without-first] [--threads 2]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import chain, islice, zip_longest

import numpy as np
import torch
from rich.console import Console

from klieg import models
from klieg.analysis.flow import flow
from klieg.data import Source, is_validation
from klieg.tokenizers import Tokenizer
from klieg.views.progress import counted

CORPORA = ("stories", "dialogues", "captions", "sentences", "books")     # in turns
SHORTEST, LONGEST = 9, 64     # tokens of a text
SAMPLES = 2000


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--texts", type=int, default=200)
    options.add_argument("--without-first", action="store_true")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--data", help="folder of texts; by default KLIEG_DATA")
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    model, tokenizer = models.load("chat")
    turns = zip_longest(*(held_out(corpus, tokenizer, given.data) for corpus in CORPORA))
    texts = list(islice(filter(None, chain.from_iterable(turns)), given.texts))
    found: dict[str, list[float]] = {}
    with counted("texts", Console(stderr=True)) as step:
        for n, text in enumerate(texts, start=1):
            for way in flow((model, tokenizer), text, without_first=given.without_first).ways:
                name = f"{way.way}, corrected" if way.corrected else way.way
                found.setdefault(name, []).append(np.nan if way.correlation is None else way.correlation)
            step(n, len(texts))
    report({name: np.array(values) for name, values in found.items()}, given.without_first)


def held_out(corpus: str, tokenizer: Tokenizer, data: str | None) -> Iterator[str]:
    """The beginnings of held-out documents, a text each: to the end of the first sentence that makes it long enough."""
    for document in Source(corpus).documents(data):
        if not is_validation(document):
            continue
        text = ""
        for sentence in document.replace("\n", " \n").split(". "):
            text += sentence if not text else f". {sentence}"
            count = len(tokenizer.encode(text.strip()))
            if count >= SHORTEST:
                if count <= LONGEST:
                    yield text.strip()
                break


def report(found: dict[str, np.ndarray], without_first: bool) -> None:
    """The table, and whether value-weighted flow is nearer to ablation than raw attention is."""
    rng = np.random.default_rng(0)
    count = len(found["raw"])
    samples = rng.integers(count, size=(SAMPLES, count))

    def interval(values: np.ndarray) -> str:
        low, high = np.percentile(np.nanmean(values[samples], axis=1), [2.5, 97.5])
        return f"{np.nanmean(values):+.3f} ({low:+.3f} to {high:+.3f})"

    first = ", without the first token" if without_first else ""
    print(f"{count} held-out texts{first}; {sum(np.isnan(values).sum() for values in found.values())} correlations not defined")
    print("| way | rank correlation with hiding | difference from raw |\n| --- | --- | --- |")
    for name, values in found.items():
        print(f"| {name} | {interval(values)} | {interval(values - found['raw']) if name != 'raw' else ''} |")
    for name in ("value", "value, corrected"):
        better = float(np.nanmean(found[name] - found["raw"]))
        print(f"{name}: higher than raw attention: {'yes' if better > 0 else 'NO'} ({better:+.3f})")


if __name__ == "__main__":
    main()
