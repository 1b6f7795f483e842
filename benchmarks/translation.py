"""How fast are sentences translated with five beams, beside transformers' generate() on the same weights?

transformers, Klieg, and the same model exported to CTranslate2 in float32 and int8. Each runs in a
process of its own, from texts to texts; they take turns, so that whatever else the machine does falls on
all. transformers and CTranslate2 have the batch size and the threads for a batch that were fastest for them in a
trial (with one thread each, CTranslate2 translates several batches at once), and both stop when five hypotheses are
finished; Klieg makes its own batches. CTranslate2 runs as it is deployed, without PyTorch. Memory is the most that a
process ever held, Python and libraries included. Every text must be translated.

    python benchmarks/translation.py --model runs/multi30k-en-de/model [--language fr] [--turns 3]
    python benchmarks/translation.py --model translate --to de --source FILE --reference FILE --tokenize 13a

The texts are by default Multi30k's test of 2016 in the folder KLIEG_DATA, tokenised and lower-cased. With --keep FOLDER
the exports, the trial and the turns stay there, and another call adds turns to them.
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
from contextlib import nullcontext
from itertools import product
from pathlib import Path

QUANTIZATIONS = {"ctranslate2, float32": "none", "ctranslate2, int8": "int8"}
TOOLS = ("transformers", "klieg", *QUANTIZATIONS)
SIZES = (8, 16, 32, 64, 128)
TRIAL = 128  # texts that a setting is tried on
BEAM = 5
Translate = Callable[[list[str]], list[str]]
Setting = tuple[int, int]  # texts of a batch, and threads that work on it


# ---- a process for each tool ----

def opened(tool: str, folder: str, to: str | None, setting: Setting, threads: int) -> Translate:
    """Texts to texts by this tool, in batches of texts of like length; `threads` are what all batches share."""
    mark, (size, of_batch) = f">>{to}<< " if to else "", setting
    if tool.startswith("ctranslate2"):
        return _ctranslate2(folder, mark, size, of_batch, threads // of_batch)
    import torch

    torch.set_num_threads(of_batch)
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


def _ctranslate2(folder: str, mark: str, size: int, threads: int, batches: int) -> Translate:
    sys.modules |= dict.fromkeys(("torch", "transformers"))  # which it would import where they are installed
    import ctranslate2
    from tokenizers import Tokenizer

    words = Tokenizer.from_file(f"{folder}/tokenizer.json")
    engine = ctranslate2.Translator(folder, intra_threads=threads, inter_threads=batches)

    def run(texts: list[str]) -> list[str]:
        encoded = words.encode_batch([mark + text for text in texts])
        sources = [[words.id_to_token(id) for id in encoding.ids] for encoding in encoded]
        found = engine.translate_batch(sources, beam_size=BEAM, max_batch_size=size)
        return words.decode_batch([[words.token_to_id(piece) for piece in one.hypotheses[0]] for one in found])
    return run


def peak() -> int:
    """Bytes of memory that this process had at most."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def work(given: argparse.Namespace) -> None:
    """One tool: for each setting that comes, seconds, texts and the peak of memory, as a line of JSON."""
    texts = json.loads(Path(given.texts).read_text("utf-8"))
    known, run = None, None
    for line in sys.stdin:
        setting = tuple(json.loads(line))
        if setting != known:
            known, run = setting, opened(given.work, given.folder, given.to, setting, given.threads)
            run(texts[:2])
        started = time.perf_counter()
        found = run(texts)
        print(json.dumps([time.perf_counter() - started, found, peak()]), flush=True)


class Worker:
    """A tool in its process."""

    def __init__(self, tool: str, folder: Path, texts: Path, given: argparse.Namespace) -> None:
        command = [sys.executable, __file__, "--work", tool, "--folder", str(folder), "--texts", str(texts),
                   "--threads", str(given.threads), *(["--to", given.to] if given.to else [])]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def turn(self, setting: Setting) -> tuple[float, list[str], int]:
        """Seconds, texts and bytes of one run."""
        self._process.stdin.write(f"{json.dumps(setting)}\n")
        self._process.stdin.flush()
        return tuple(json.loads(self._process.stdout.readline()))

    def end(self) -> None:
        self._process.stdin.close()
        assert self._process.wait() == 0


# ---- the comparison ----

def fastest(tool: str, folder: Path, texts: Path, given: argparse.Namespace) -> Setting:
    """The setting that this tool is fastest with; Klieg has one, as it makes its own batches."""
    if tool == "klieg":
        return 0, given.threads
    worker = Worker(tool, folder, texts, given)
    seconds = {setting: worker.turn(setting)[0] for setting in product(SIZES, sorted({1, given.threads}))}
    worker.end()
    return min(seconds, key=seconds.get)


def measured(given: argparse.Namespace, texts: list[str], place: Path) -> dict[str, dict]:
    """By tool: seconds of each turn, the texts, peak bytes, and the setting."""
    from klieg.export import export
    from klieg.models import find

    whole, part, kept = place / "texts.json", place / "part.json", place / "turns.json"
    folders = {tool: place / tool for tool in TOOLS} | {"klieg": find(given.model)}
    if not kept.exists():
        whole.write_text(json.dumps(texts), "utf-8")
        part.write_text(json.dumps(texts[::max(1, len(texts) // TRIAL)][:TRIAL]), "utf-8")
        export(given.model, "huggingface", folders["transformers"])
        for tool, quantization in QUANTIZATIONS.items():
            export(given.model, "ctranslate2", folders[tool], quantization)
        found = {tool: {"setting": fastest(tool, folder, part, given), "seconds": [], "memory": 0}
                 for tool, folder in folders.items()}
        kept.write_text(json.dumps(found), "utf-8")
    found = json.loads(kept.read_text("utf-8"))
    workers = {tool: Worker(tool, folder, whole, given) for tool, folder in folders.items()}
    for _ in range(given.turns):
        for tool, worker in workers.items():
            seconds, mine, memory = worker.turn(found[tool]["setting"])
            assert len(mine) == len(texts) and all(text.strip() for text in mine), f"{tool} left a text untranslated"
            found[tool]["seconds"].append(seconds)
            found[tool] |= {"texts": mine, "memory": max(memory, found[tool]["memory"])}
    for worker in workers.values():
        worker.end()
    kept.write_text(json.dumps(found), "utf-8")
    return found


def table(found: dict[str, dict], references: list[str] | None, tokenize: str) -> str:
    """The figures as Markdown; ratios are medians of those of each turn."""
    from klieg.evaluate import bleu

    theirs = found["transformers"]
    lines = ["| | seconds | speed | peak memory | BLEU | texts as in transformers | batch, threads |",
             "|---|---|---|---|---|---|---|"]
    for tool, one in found.items():
        speed = statistics.median(a / b for a, b in zip(theirs["seconds"], one["seconds"], strict=True))
        score = f"{bleu(one['texts'], references, tokenize):.2f}" if references else ""
        same = sum(a == b for a, b in zip(one["texts"], theirs["texts"], strict=True)) / len(theirs["texts"])
        size, threads = one["setting"]
        lines.append(f"| {tool} | {statistics.median(one['seconds']):.2f} | {speed:.2f} × | {one['memory'] / 2**20:,.0f} MiB "
                     f"({one['memory'] / theirs['memory']:.2f} ×) | {score} | {same:.1%} | {size or 'its own'}, {threads} |")
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
    parser.add_argument("--language", default="de", help="of the default texts' translations")
    parser.add_argument("--keep", type=Path, help="a folder to go on in")
    for name in ("--work", "--folder", "--texts"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if given.work:
        work(given)
        return
    from klieg.bitexts import lines
    from klieg.data import data_folder

    source, reference, tokenize = given.source, given.reference, given.tokenize or ("13a" if given.source else "none")
    if source is None:
        files = data_folder(None) / "multi30k" / "test_2016_flickr.lc.norm.tok"
        source, reference = (files.with_name(f"{files.name}.{language}") for language in ("en", given.language))
    texts = lines(source)
    with nullcontext(given.keep) if given.keep else tempfile.TemporaryDirectory() as place:
        Path(place).mkdir(parents=True, exist_ok=True)
        found = measured(given, texts, Path(place))
    turns = len(found["klieg"]["seconds"])
    if not turns:
        return
    print(f"{len(texts):,} texts, beam {BEAM}, {given.threads} threads, {turns} turns\n")
    print(table(found, lines(reference) if reference else None, tokenize))
    print("\nbars: klieg 3 ×; int8 4 ×, at most 0.3 BLEU below and 0.25 × the memory of transformers")


if __name__ == "__main__":
    main()
