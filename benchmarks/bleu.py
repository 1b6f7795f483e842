"""How well do our translators translate, beside the published figures on the same test sets?

Models of several seeds may be given; the mean is printed with each. The search is beam 5 with a length penalty of
1, or with --choose the one of ALPHAS that is best on Multi30k's validation part: nothing is chosen on a test set.

    python benchmarks/bleu.py multi30k en-de runs/multi30k-en-de/model [MORE ...] [--choose] [--data FOLDER]
    python benchmarks/bleu.py tatoeba en-zh translate [--data FOLDER]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import torch

from klieg.beam import Search
from klieg.bitexts import TESTS, lines, together
from klieg.data import data_folder
from klieg.evaluate import score
from klieg.translate import Translator

ALPHAS = (0.6, 1.0, 1.4, 1.8, 2.2)
PUBLISHED = {
    ("multi30k", "en-de"): {"test_2016_flickr": 41.02, "test_2017_flickr": 33.36, "test_2017_mscoco": 29.88},
    ("multi30k", "en-fr"): {"test_2016_flickr": 61.80, "test_2017_flickr": 53.46, "test_2017_mscoco": 44.52},
    ("tatoeba", "en-de"): {"tatoeba-test-v2021-08-07": 43.7},
    ("tatoeba", "en-fr"): {"tatoeba-test-v2021-08-07": 50.5},
    ("tatoeba", "en-zh"): {"tatoeba-test-v2021-08-07": 31.4},
}
"""Wu et al. 2021 (text only, tokenised and lower-cased); OPUS-MT (detokenised, 75 million parameters)."""


def test_sets(corpus: str, source: str, target: str, data: str | None) -> dict[str, list[tuple[str, str]]]:
    """The pairs of each test set by its name."""
    root = data_folder(data)
    if corpus == "multi30k":
        return {name: together(*(root / f"multi30k/{name}.lc.norm.tok.{language}" for language in (source, target)))
                for name in PUBLISHED["multi30k", "en-de"]}
    other = target if source == "en" else source
    folder, theirs, english = TESTS[other]
    name = "tatoeba-test-v2021-08-07"
    sides = {other: theirs, "en": english}
    return {name: list(zip(*(lines(root / "testsets/tatoeba" / folder / f"{name}.{sides[language]}") for language in
                             (source, target)), strict=True))}


def mark(translator: Translator, target: str) -> str | None:
    """The language a translator of several is told; one of a single language is told none."""
    return target if translator.languages else None


def chosen(pair: str, models: list[str], beam: int, data: str | None) -> Search:
    """The search whose mean BLEU over the models is best on Multi30k's validation part."""
    source, target = pair.split("-")
    pairs = together(*(data_folder(data) / f"multi30k/val.lc.norm.tok.{language}" for language in (source, target)))
    translators = [Translator.load(model) for model in models]
    found = {}
    for alpha in ALPHAS:
        search = Search(beam=beam, alpha=alpha)
        found[search] = statistics.mean(
            score(translator.translate([s for s, _ in pairs], mark(translator, target), search), [t for _, t in pairs], target,
                  tokenized=True).bleu for translator in translators)
        print(f"validation, length penalty {alpha:g}: BLEU {found[search]:.2f}", file=sys.stderr)
    return max(found, key=found.__getitem__)


def table(corpus: str, pair: str, models: list[str], search: Search, data: str | None) -> list[str]:
    """The rows of one corpus and pair of languages, and the signature, as Markdown."""
    source, target = pair.split("-")
    rows = [f"| {pair} test set | sentences | BLEU | chrF | published BLEU | seconds |", "|---|---|---|---|---|---|"]
    for name, pairs in test_sets(corpus, source, target, data).items():
        found, times = [], []
        for model in models:
            translator = Translator.load(model)
            started = time.perf_counter()
            hypotheses = translator.translate([s for s, _ in pairs], mark(translator, target), search)
            times.append(time.perf_counter() - started)
            found.append(score(hypotheses, [t for _, t in pairs], target, tokenized=corpus == "multi30k"))
        each = f" ({', '.join(f'{s.bleu:.2f}' for s in found)})" if len(found) > 1 else ""
        published = PUBLISHED.get((corpus, pair), {}).get(name)
        rows.append(f"| {name} | {len(pairs):,} | {statistics.mean(s.bleu for s in found):.2f}{each} | "
                    f"{statistics.mean(s.chrf for s in found):.2f} | {published or ''} | {statistics.mean(times):.1f} |")
    return [*rows, "", f"{found[-1].bleu_signature}; beam {search.beam}, length penalty {search.alpha:g}; "
                       f"{torch.get_num_threads()} threads"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", choices=["multi30k", "tatoeba"])
    parser.add_argument("pair", help="en-de, en-fr, en-zh, zh-en")
    parser.add_argument("models", nargs="+", help="a bundled name or a folder; several are several seeds")
    parser.add_argument("--beam", type=int, default=5)
    parser.add_argument("--alpha", type=float, default=1.0)
    parser.add_argument("--choose", action="store_true", help="choose the length penalty on Multi30k's validation part")
    parser.add_argument("--data", help="folder of texts; by default KLIEG_DATA")
    given = parser.parse_args()
    if given.choose and given.corpus != "multi30k":
        parser.error("--choose is for multi30k, which has a validation part of its own")
    search = (chosen(given.pair, given.models, given.beam, given.data) if given.choose else
              Search(beam=given.beam, alpha=given.alpha))
    print("\n".join(table(given.corpus, given.pair, given.models, search, given.data)))


if __name__ == "__main__":
    main()
