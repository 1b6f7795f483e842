"""How fast are sentences translated with five beams, beside transformers' generate() on the same weights?

transformers, Klieg, and the same model exported to CTranslate2 in float32 and int8. Each runs in a
process of its own, from texts to texts; they take turns, so that whatever else the machine does falls on
all. transformers and CTranslate2 have the batch size that was fastest for them in a trial, and both stop when five
hypotheses are finished; Klieg makes its own batches. CTranslate2 runs as it is deployed, without PyTorch. Every
text must be translated.

    python benchmarks/translation.py --model runs/multi30k-en-de/model [--turns 3]
    python benchmarks/translation.py --model translate --to de --source FILE --reference FILE --tokenize 13a

The texts are by default Multi30k's test of 2016 in the folder KLIEG_DATA, tokenised and lower-cased.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

QUANTIZATIONS = {"ctranslate2, float32": "none", "ctranslate2, int8": "int8"}
TOOLS = ("transformers", "klieg", *QUANTIZATIONS)
SIZES = (16, 32, 64, 128)
TRIAL = 128  # texts that a batch size is tried on
BEAM = 5
Translate = Callable[[list[str]], list[str]]


# ---- a process for each tool ----

def opened(tool: str, folder: str, to: str | None, size: int, threads: int) -> Translate:
    """Texts to texts by this tool, in batches of `size` texts of like length."""
    mark = f">>{to}<< " if to else ""
    if tool.startswith("ctranslate2"):
        return _ctranslate2(folder, mark, size, threads)
    import torch

    torch.set_num_threads(threads)
    return _transformers(folder, mark, size) if tool == "transformers" else _klieg(folder, to)


def _klieg(folder: str, to: str | None) -> Translate:
    from klieg.beam import Search
    from klieg.translate import Translator

    translator = Translator.load(folder)
    return lambda texts: translator.translate(texts, to, Search(beam=BEAM))


def _transformers(folder: str, mark: str, size: int) -> Translate:
    import torch
    from transformers import AutoTokenizer, MarianMTModel

    words = AutoTokenizer.from_pretrained(folder)
    model = MarianMTModel.from_pretrained(folder, dtype=torch.float32).eval()

    def run(texts: list[str]) -> list[str]:
        order = sorted(range(len(texts)), key=lambda n: -len(texts[n]))
        found = [""] * len(texts)
        for start in range(0, len(order), size):
            places = order[start:start + size]
            batch = words([mark + texts[n] for n in places], return_tensors="pt", padding=True)
            written = model.generate(**batch, num_beams=BEAM, early_stopping=True)
            for place, text in zip(places, words.batch_decode(written, skip_special_tokens=True), strict=True):
                found[place] = text
        return found
    return run


def _ctranslate2(folder: str, mark: str, size: int, threads: int) -> Translate:
    sys.modules |= dict.fromkeys(("torch", "transformers"))  # which it would import where they are installed
    import ctranslate2
    from tokenizers import Tokenizer

    words = Tokenizer.from_file(f"{folder}/tokenizer.json")
    engine = ctranslate2.Translator(folder, intra_threads=threads, inter_threads=1)

    def run(texts: list[str]) -> list[str]:
        sources = [encoding.tokens for encoding in words.encode_batch([mark + text for text in texts])]
        found = engine.translate_batch(sources, beam_size=BEAM, max_batch_size=size)
        return words.decode_batch([[words.token_to_id(piece) for piece in one.hypotheses[0]] for one in found])
    return run


def peak() -> int:
    """Bytes of memory that this process had at most."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def work(given: argparse.Namespace) -> None:
    """One tool: a line of JSON for each line that comes, and its peak memory at the end."""
    texts = json.loads(Path(given.texts).read_text("utf-8"))
    run = opened(given.work, given.folder, given.to, given.size, given.threads)
    run(texts[:2])
    print("ready", flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        found = run(texts)
        print(json.dumps([time.perf_counter() - started, found, peak()]), flush=True)


class Worker:
    """A tool in its process."""

    def __init__(self, tool: str, folder: Path, texts: Path, size: int, given: argparse.Namespace) -> None:
        command = [sys.executable, __file__, "--work", tool, "--folder", str(folder), "--texts", str(texts),
                   "--size", str(size), "--threads", str(given.threads), *(["--to", given.to] if given.to else [])]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.size = size
        assert self._process.stdout.readline() == "ready\n", f"{tool} did not start"

    def turn(self) -> tuple[float, list[str], int]:
        """Seconds, texts and bytes of one run."""
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        seconds, found, memory = json.loads(self._process.stdout.readline())
        return seconds, found, memory

    def end(self) -> None:
        self._process.stdin.close()
        assert self._process.wait() == 0


# ---- the comparison ----

def fastest(tool: str, folder: Path, texts: Path, given: argparse.Namespace) -> int:
    """The batch size that this tool is fastest with."""
    seconds = {}
    for size in SIZES if tool != "klieg" else SIZES[:1]:
        worker = Worker(tool, folder, texts, size, given)
        seconds[size] = worker.turn()[0]
        worker.end()
    return min(seconds, key=seconds.get)


def measured(given: argparse.Namespace, texts: list[str], place: Path) -> dict[str, tuple[list[float], list[str], int, int]]:
    """By tool: seconds of each turn, the texts, peak bytes, batch size."""
    from klieg.export import export
    from klieg.models import find

    whole, part = place / "texts.json", place / "part.json"
    whole.write_text(json.dumps(texts), "utf-8")
    part.write_text(json.dumps(texts[::max(1, len(texts) // TRIAL)][:TRIAL]), "utf-8")
    folders = {tool: place / tool for tool in TOOLS} | {"klieg": find(given.model)}
    export(given.model, "huggingface", folders["transformers"])
    for tool, quantization in QUANTIZATIONS.items():
        export(given.model, "ctranslate2", folders[tool], quantization)
    workers = {tool: Worker(tool, folder, whole, fastest(tool, folder, part, given), given) for tool, folder in folders.items()}
    seconds: dict[str, list[float]] = {tool: [] for tool in TOOLS}
    last = {}
    for _ in range(given.turns):
        for tool, worker in workers.items():
            taken, found, memory = worker.turn()
            assert len(found) == len(texts) and all(text.strip() for text in found), f"{tool} left a text untranslated"
            seconds[tool].append(taken)
            last[tool] = found, memory, worker.size
    for worker in workers.values():
        worker.end()
    return {tool: (seconds[tool], *last[tool]) for tool in TOOLS}


def table(found: dict[str, tuple[list[float], list[str], int, int]], references: list[str] | None, tokenize: str) -> str:
    """The figures as Markdown; ratios are medians of those of each turn."""
    from klieg.evaluate import bleu

    theirs, texts, memory, _ = found["transformers"]
    lines = ["| | seconds | speed | peak memory | BLEU | texts as in transformers | batch |", "|---|---|---|---|---|---|---|"]
    for tool, (seconds, mine, bytes_, size) in found.items():
        speed = statistics.median(a / b for a, b in zip(theirs, seconds, strict=True))
        score = f"{bleu(mine, references, tokenize):.2f}" if references else ""
        same = sum(a == b for a, b in zip(mine, texts, strict=True)) / len(texts)
        lines.append(f"| {tool} | {statistics.median(seconds):.1f} | {speed:.2f} × | {bytes_ / 2**20:,.0f} MiB "
                     f"({bytes_ / memory:.2f} ×) | {score} | {same:.1%} | {'its own' if tool == 'klieg' else size} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="translate")
    parser.add_argument("--source", type=Path, help="texts, one a line")
    parser.add_argument("--reference", type=Path, help="their translations, for BLEU")
    parser.add_argument("--tokenize", help="of sacreBLEU; by default none for the default texts, else 13a")
    parser.add_argument("--to", help="language, where the model has several")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    for name in ("--work", "--folder", "--texts"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if given.work:
        work(given)
        return
    from klieg.data import data_folder
    from klieg.pairs import lines

    source, reference, tokenize = given.source, given.reference, given.tokenize or ("13a" if given.source else "none")
    if source is None:
        files = data_folder(None) / "multi30k" / "test_2016_flickr.lc.norm.tok"
        source, reference = (files.with_name(f"{files.name}.{language}") for language in ("en", "de"))
    texts = lines(source)
    with tempfile.TemporaryDirectory() as place:
        found = measured(given, texts, Path(place))
    print(f"{len(texts):,} texts, beam {BEAM}, {given.threads} threads, {given.turns} turns\n")
    print(table(found, lines(reference) if reference else None, tokenize))
    print("\nbars: klieg 3 ×; int8 4 ×, at most 0.3 BLEU below and 0.25 × the memory of transformers")


if __name__ == "__main__":
    main()
