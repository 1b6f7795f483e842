"""What does an atlas of heads cost, beside the same model that only reads the same texts?

A model of GPT-2 small's shape (12 layers of 12 heads, width 768, a vocabulary of 50,257) with random weights reads this
repository's own documentation in windows of 256 tokens, again and again until it has read as many as were asked for.
For every window the plain pass and the pass with all scores of all heads take turns; reading and cutting the corpus and
writing the checkpoints count as the atlas's own time. The atlas needs no logits, so every eighth window is also read by
the layers alone. Memory is the peak of the process beyond the loaded model; the logits of the plain passes, 51 MB a window,
are in it.

A million tokens take hours, so everything is kept in a folder and the same command goes on. On one thread the seconds are
those that the processor spent on this process, so that whatever else runs on the machine counts for neither side.

    python benchmarks/atlas.py [--tokens 1000000] [--threads 2] [--width 768] [--folder FOLDER] [--foreign]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

from klieg import models
from klieg.analysis.atlas import Atlas, begin
from klieg.analysis.atlas.census import read
from klieg.analysis.atlas.corpus import Corpus
from klieg.analysis.atlas.probes import Plain
from klieg.analysis.behaviour import Text
from klieg.analysis.reader import Reader
from klieg.config import GPT2Config
from klieg.tokenizers import Tokenizer, train

ROOT = Path(__file__).parents[1]
SLOWER, MEMORY = 1.6, 500     # the bars: times, and MB
PASSES = ("plain", "atlas", "layers")
SELDOM = 8                    # windows, of which one is read by the layers alone


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--tokens", type=int, default=1_000_000)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--width", type=int, default=768, help="of the model, in 12 heads; 384 is MiniLM's and quicker")
    options.add_argument("--folder", type=Path, help="where corpus, atlas and times are kept, to go on with")
    options.add_argument("--foreign", action="store_true", help="the same model in transformers, watched")
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as passing:
        folder = given.folder or Path(passing)
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer, corpus = written(folder, given.tokens)
        model = built(given.foreign, given.width, tokenizer)
        reader = Reader(model, tokenizer, "random", f"random {given.width} {given.foreign} {given.threads}")
        path = folder / "atlas.safetensors"
        atlas = begin(reader, corpus, path=path)
        read(atlas, corpus, Plain(reader), Turns(model, reader, atlas, given.threads), given.tokens, path)
    report(atlas.counts, f"{'transformers, watched' if given.foreign else 'Klieg own'}, width {given.width}, "
           f"{given.threads} thread{'s' * (given.threads > 1)}")


def report(counts: Counter[str], whose: str) -> None:
    """A row for each plain pass, and one for the memory."""
    plain, atlas, layers = (counts[name] / counts[f"{name} tokens"] / 1e6 for name in PASSES)
    print("| what | bar | measured | met |\n| --- | --- | --- | --- |")
    for name, usual in (("plain forward passes", plain), ("its layers alone, without logits", layers)):
        ratio = atlas / usual
        print(f"| atlas of 12 x 12 heads over {counts['tokens']:,} tokens, {whose}: time over {name} | <= {SLOWER} x | "
              f"{ratio:.2f} ({atlas:.3f} beside {usual:.3f} ms a token) | {'yes' if ratio <= SLOWER else 'NO'} |")
    memory = counts["peak"] / 1000
    print(f"| the same: peak memory beyond the model | <= {MEMORY} MB | {memory:.0f} MB | "
          f"{'yes' if memory <= MEMORY else 'NO'} |")


def written(folder: Path, tokens: int) -> tuple[Tokenizer, Corpus]:
    """The documentation as a corpus of more tokens than that, and a tokenizer that was trained on it; those of the folder,
    where it has them."""
    source, path = folder / "text.txt", folder / "corpus.txt"
    if not source.exists():
        pages = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
        source.write_text("\n\n".join(page.read_text("utf-8") for page in pages), "utf-8")
    text = source.read_text("utf-8")
    tokenizer = train(iter([text]), 4000)
    if not path.exists():
        with path.open("w", encoding="utf-8") as file:
            for _ in range(tokens // len(tokenizer.encode(text)) + 2):
                # One document, which the corpus cuts: windows are full.
                file.write(text.replace("\n\n", "\n") + "\n")
    return tokenizer, Corpus(path)


def built(foreign: bool, width: int, tokenizer: Tokenizer) -> object:
    """A model of GPT-2 small's shape with random weights, or of another width."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=50257, n_embd=width, n_layer=12, n_head=12, n_positions=1024, n_inner=4 * width)
    if not foreign:
        return models.build(config).eval().requires_grad_(False)
    from transformers import AutoModelForCausalLM
    from transformers import GPT2Config as Theirs

    from klieg.foreign import Foreign

    model = AutoModelForCausalLM.from_config(Theirs(n_embd=width), attn_implementation="sdpa")
    return Foreign("random", model.eval(), tokenizer)


class Turns:
    """Counts a window into an atlas, in turns with the plain passes over it; nanoseconds of each are kept in its counts."""

    def __init__(self, model: object, reader: Reader, atlas: Atlas, threads: int) -> None:
        self.counts = atlas.counts
        plain, layers = (model, model.hidden) if hasattr(model, "hidden") else (
            lambda ids: model.model(ids, use_cache=False), lambda ids: model.model.transformer(ids, use_cache=False))
        self.passes = {"plain": lambda text, seed: plain(text.ids[None]), "layers": lambda text, seed: layers(text.ids[None]),
                       "atlas": lambda text, seed: atlas.add(reader.scores(text, seed))}
        self.clock = time.process_time_ns if threads == 1 else time.perf_counter_ns
        self.start = reset()
        self.ended = self.clock()

    @torch.no_grad()
    def __call__(self, text: Text, seed: int) -> None:
        counts, number = self.counts, self.counts["windows"]
        counts["atlas"] += self.clock() - self.ended        # the corpus was read and cut, and what was found written
        order = PASSES[:2 if number % SELDOM else 3]
        for n in range(len(order)):
            name = order[(number // SELDOM + number + n) % len(order)]
            started = self.clock()
            self.passes[name](text, seed)
            counts.update({name: self.clock() - started, f"{name} tokens": len(text)})
        counts["peak"] = max(counts["peak"], held("VmHWM") - self.start)
        self.ended = self.clock()


def reset() -> int:
    """Makes the peak start anew, where the system can; what the process holds now, in KB."""
    Path("/proc/self/clear_refs").write_text("5")
    return held("VmRSS")


def held(name: str) -> int:
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


if __name__ == "__main__":
    main()
