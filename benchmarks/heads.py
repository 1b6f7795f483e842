"""Do our scores of heads rank them as TransformerLens's `detect_head` does?

The bundled model `chat`, and a model of its shape with random weights, read windows of held-out texts, the short beginnings
of others, and repeated random tokens.
Both tools get the same ids of the same models, each in an environment of its own; `detect_head` is at its defaults
(error_measure "mul"), and its score of a head is the mean over texts. Printed is Spearman's rank correlation over all heads,
for each behaviour; how well a tool agrees with itself, from one half of the texts to the other, by ours and by theirs; and the
largest difference once the two definitions are brought to one.

They differ in what a mean is over: `detect_head` divides the weight on a behaviour's links by the weight of all rows, ours
by the rows that have such a link; so within one text ours is larger by rows / rows with links, the same for every head, and
over several texts each text weighs otherwise. And for induction it counts a token that repeats the one before it as a link
to itself, which ours leaves out: nothing came after that earlier token but the query.

Without TransformerLens (--alone) our own weights stand for it, brought to its definition.

    KLIEG_DATA=FOLDER python benchmarks/heads.py [--texts 20] [--window 128] [--threads 2] [--alone] [--environments FOLDER]
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import islice
from pathlib import Path

import torch
from flow import LONGEST, SHORTEST, held_out
from peers import TOOLS, environment, process
from safetensors.torch import save_file
from scipy.stats import spearmanr
from torch import Tensor

from klieg import models
from klieg.analysis.atlas import Atlas
from klieg.analysis.atlas.probes import Repeated
from klieg.analysis.behaviour import Score, Text
from klieg.analysis.reader import Heads, Reader
from klieg.data import Source, is_validation
from klieg.tokenizers import Tokenizer
from klieg.watch import trace

THEIRS = {"previous": "previous_token_head", "duplicate": "duplicate_token_head", "induction": "induction_head"}
CORPORA = ("books", "stories", "dialogues")
BAR = 0.95


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--texts", type=int, default=20)
    options.add_argument("--window", type=int, default=128)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--data", help="folder of texts; by default KLIEG_DATA")
    options.add_argument("--environments", type=Path, default=Path(tempfile.gettempdir()) / "klieg-peers",
                         help="folder for TransformerLens's environment; kept")
    options.add_argument("--alone", action="store_true", help="without TransformerLens, by its definition")
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    python = None if given.alone else environment(TOOLS["transformer-lens"], given.environments)
    trained, tokenizer = models.load("chat")
    torch.manual_seed(0)
    made = models.build(trained.config).eval().requires_grad_(False)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "q_proj" in name or "k_proj" in name:
                parameter.mul_(8)       # first weights look at all keys nearly alike, and such ranks would be rounding
    print("| model | texts | behaviour | bar | rank correlation | halves of the texts, ours, theirs | "
          "largest difference by one definition | met |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for whose, model in (("trained (chat)", trained), ("random, of its shape", made)):
        for what, texts in sets(tokenizer, given).items():
            rows(whose, what, model, tokenizer, texts, python)


def sets(tokenizer: Tokenizer, given: argparse.Namespace) -> dict[str, list[list[int]]]:
    """Windows of held-out documents, beginnings of such, and random tokens that come twice; each opens with its mark."""
    reader = Reader(models.load("chat")[0], tokenizer, "chat")
    documents = (text for corpus in CORPORA for text in islice(filter(is_validation, Source(corpus).documents(given.data)), 40))
    windows = [window.ids.tolist() for text in documents for window in islice(reader.windows(text, given.window), 1)
               if len(window) == given.window][:given.texts]
    short = [tokenizer.encode(text) for corpus in CORPORA
             for text in islice(held_out(corpus, tokenizer, given.data), -(-given.texts // len(CORPORA)))]
    random = [next(Repeated(reader).texts("", seed, given.window)).ids.tolist() for seed in range(given.texts)]
    return {f"{len(windows)} held-out windows of {given.window} tokens": windows,
            f"{len(short)} held-out beginnings of {SHORTEST} to {LONGEST} tokens": short,
            f"{len(random)} windows of {given.window} repeated random tokens": random}


def rows(whose: str, what: str, model: models.Decoder, tokenizer: Tokenizer, texts: list[list[int]],
         python: str | None) -> None:
    """The lines of the table for one model and one set of texts."""
    reader, atlas = Reader(model, tokenizer, whose), Atlas(whose, max(map(len, texts)))
    found = [reader.scores(Text(torch.tensor(ids))) for ids in texts]
    for scores in found:
        atlas.add(scores)
    lines = None if python is None else detected(model, tokenizer, texts, python)
    for name, theirs in THEIRS.items():
        ours = torch.stack([by_ours(scores, name) for scores in found])                     # (texts, layers, heads)
        redone = torch.stack([by_theirs(scores, (model, tokenizer), ids, name)
                              for scores, ids in zip(found, texts, strict=True)])
        mean = redone.mean(0)
        b = mean if lines is None else torch.tensor(lines[theirs])
        correlation = ranked(torch.tensor(atlas.means(name)), b)
        halves = ", ".join(f"{ranked(x[::2].nanmean(0), x[1::2].nanmean(0)):.2f}" for x in (ours, redone))
        apart = "—" if lines is None else f"{(mean - b).abs().max().item():.1e}"
        print(f"| {whose} | {what} | {name} | >= {BAR} | {correlation:.4f} | {halves} | {apart} | "
              f"{'yes' if correlation >= BAR else 'NO'} |", flush=True)


def ranked(a: Tensor, b: Tensor) -> float:
    """Spearman's rank correlation over all heads."""
    return float(spearmanr(a.flatten(), b.flatten()).statistic)


def detected(model: models.Decoder, tokenizer: Tokenizer, texts: list[list[int]], python: str) -> dict[str, list]:
    """What TransformerLens finds, by its own names."""
    with tempfile.TemporaryDirectory() as folder:
        models.save(Path(folder) / "model", model, tokenizer)
        save_file({f"{n:04d}": torch.tensor(ids) for n, ids in enumerate(texts)}, Path(folder) / "texts.safetensors")
        lines, ended = process(python, "heads_with_transformer_lens.py", Path(folder) / "model",
                               Path(folder) / "texts.safetensors", minutes=30)
        if ended:
            raise SystemExit(f"TransformerLens: {ended}")
    return lines[0]


def by_ours(found: list[tuple[Heads, dict[str, Score]]], name: str) -> Tensor:
    """Our scores of a text (layers, heads), NaN where it has no link."""
    return torch.stack([scores[name].weight if name in scores else torch.full((heads.heads,), torch.nan, dtype=torch.float64)
                        for heads, scores in found])


def by_theirs(found: list[tuple[Heads, dict[str, Score]]], model: tuple[models.Decoder, Tokenizer], ids: list[int],
              name: str) -> Tensor:
    """Our scores of a text (layers, heads) by the definition of detect_head: over all rows, and of induction with the links
    of a token to itself."""
    n, alike = len(ids), torch.tensor(ids)[:, None] == torch.tensor(ids)
    queries = {"previous": n - 1, "duplicate": int(alike.tril(-1).any(1).sum()),
               "induction": int((alike.roll(1, 1).tril(-1) & (torch.arange(n) > 0)).any(1).sum())}[name]
    total = torch.stack([scores[name].weight * queries if name in scores else torch.zeros(heads.heads, dtype=torch.float64)
                         for heads, scores in found])
    again = [i for i in range(1, n) if ids[i] == ids[i - 1]]
    if name == "induction" and again:
        total += torch.stack([torch.stack([call.weights(head).diagonal()[again].sum().double() for head in range(call.heads)])
                              for call in trace(model, ids).calls])
    return total / n


if __name__ == "__main__":
    main()
