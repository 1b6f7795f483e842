"""What does an atlas of heads cost, beside the same model that only reads the same texts?

A model of GPT-2 small's shape (12 layers of 12 heads, width 768, a vocabulary of 50,257) with random weights reads this
repository's own documentation in windows of 256 tokens, again and again until it has read as many as were asked for.
For every window the plain pass and the pass with all scores of all heads take turns; reading and cutting the corpus
count as the atlas's own time. Of the plain pass there are two: with the logits, and the layers alone, which is all that
the atlas needs. Memory is the peak of the process from the loaded model on, in a run of its own.

    python benchmarks/atlas.py [--tokens 1000000] [--threads 2] [--foreign]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch

from klieg import models
from klieg.analysis.atlas import Atlas, begin, gather
from klieg.analysis.corpus import Corpus
from klieg.analysis.reader import Reader
from klieg.config import GPT2Config
from klieg.tokenizers import Tokenizer, train

ROOT = Path(__file__).parents[1]
SLOWER, MEMORY = 1.6, 500     # the bars: times, and MB


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--tokens", type=int, default=1_000_000)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--foreign", action="store_true", help="the same model in transformers, watched")
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer, corpus = written(Path(folder), given.tokens)
        model = built(given.foreign, tokenizer)
        start = reset()
        reader = Reader(model, tokenizer, "random")
        gather(begin(reader, corpus, path=Path(folder) / "atlas.safetensors"), reader, corpus, min(given.tokens, 50_000),
               Path(folder) / "atlas.safetensors")
        memory = (peak() - start) / 1000
        whole, layers, atlas, count = turns(model, reader, corpus, given.tokens)
    whose = "transformers', watched" if given.foreign else "Klieg's own"
    print("| what | bar | measured | met |\n| --- | --- | --- | --- |")
    for name, plain in (("plain forward passes", whole), ("its layers alone, without logits", layers)):
        ratio = atlas / plain
        print(f"| atlas of 12 x 12 heads over {count:,} tokens, {whose}: time over {name} | <= {SLOWER} x | {ratio:.2f} "
              f"({atlas:.1f} s beside {plain:.1f} s) | {'yes' if ratio <= SLOWER else 'NO'} |")
    met = "yes" if memory <= MEMORY else "NO"
    print(f"| the same: peak memory beyond the model | <= {MEMORY} MB | {memory:.0f} MB | {met} |")


def written(folder: Path, tokens: int) -> tuple[Tokenizer, Corpus]:
    """The documentation as a corpus of more tokens than that, and a tokenizer that was trained on it."""
    text = "\n\n".join(path.read_text("utf-8") for path in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]))
    tokenizer = train(iter([text]), 4000)
    path = folder / "corpus.txt"
    with path.open("w", encoding="utf-8") as file:
        for _ in range(tokens // len(tokenizer.encode(text)) + 2):
            # One document, which the corpus cuts: windows are full.
            file.write(text.replace("\n\n", "\n") + "\n")
    return tokenizer, Corpus(path)


def built(foreign: bool, tokenizer: Tokenizer) -> object:
    """A model of GPT-2 small's shape with random weights."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=50257, n_embd=768, n_layer=12, n_head=12, n_positions=1024, n_inner=3072)
    if not foreign:
        return models.build(config).eval().requires_grad_(False)
    from transformers import AutoModelForCausalLM
    from transformers import GPT2Config as Theirs

    from klieg.foreign import Foreign

    return Foreign("random", AutoModelForCausalLM.from_config(Theirs(), attn_implementation="sdpa").eval(), tokenizer)


@torch.no_grad()
def turns(model: object, reader: Reader, corpus: Corpus, tokens: int) -> tuple[float, float, float, int]:
    """Seconds of plain passes, of the layers alone, and of the atlas, in turns; and how many tokens were read."""
    seconds, count, atlas = [0.0, 0.0, 0.0], 0, Atlas("random", reader.window(None))
    plain = [model, model.hidden] if hasattr(model, "hidden") else [
        lambda ids: model.model(ids, use_cache=False), lambda ids: model.model.transformer(ids, use_cache=False)]
    pieces = corpus.pieces()
    while count < tokens:
        started = time.perf_counter()
        windows = list(reader.windows(next(pieces).text, atlas.window))
        seconds[2] += time.perf_counter() - started
        for text in windows:
            order = [(count // 256 + n) % 3 for n in range(3)]
            for n in order:
                started = time.perf_counter()
                atlas.add(reader.scores(text)) if n == 2 else plain[n](text.ids[None])
                seconds[n] += time.perf_counter() - started
            count += len(text)
            if count >= tokens:
                break
    return *seconds, count


def reset() -> int:
    """Makes the peak start anew, where the system can; what the process holds now, in KB."""
    Path("/proc/self/clear_refs").write_text("5")
    return held("VmRSS")


def peak() -> int:
    return held("VmHWM")


def held(name: str) -> int:
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


if __name__ == "__main__":
    main()
