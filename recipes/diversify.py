"""More pairs out of a corpus's own: what models translate its sources into, and its targets back.

    python recipes/diversify.py multi30k-tokenized en de runs/diverse/pairs --data FOLDER \
        --forward runs/multi30k-both-more/model --backward runs/multi30k-both/model

gives runs/diverse/pairs.en and .de: each pair once, and none that the corpus has. Several models may be named of each
kind. What each has written is kept in runs/diverse too, under a name that follows from its weights and what it was given,
so that after an interruption the same command goes on. A kill never leaves one side new beside an old other one.

Source: Nguyen et al., "Data Diversification: A Simple Strategy For Neural Machine Translation" (NeurIPS 2020).
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from klieg import shell
from klieg.atomic import atomic
from klieg.bitexts import lines, read_pairs
from klieg.encoded import Pair
from klieg.errors import KliegError
from klieg.models import find
from klieg.recipe import PairSource
from klieg.translate import Translator
from klieg.views.progress import counted


def kept(model: str, texts: list[str], to: str) -> str:
    """The name of the file with a model's translations: other weights or texts have another."""
    digest = hashlib.sha256("\n".join(texts).encode())
    for file in sorted(find(model).glob("*.safetensors")):
        digest.update(file.read_bytes())
    return f"{digest.hexdigest()[:16]}.{to}"


def written(model: str, texts: list[str], to: str, place: Path) -> list[str]:
    """The translation of each text by beam 5; from the file `place` if they are kept there."""
    if not place.is_file():
        translator = Translator.load(model)
        with counted(model, shell.console(error=True)) as step:
            write(place, translator.translate(texts, to if translator.languages else None, told=step))
    return lines(place)


def write(path: Path, texts: Iterable[str]) -> None:
    """A line for each text, whole or not at all."""
    with atomic(path) as part:
        part.write_text(_lines(texts), "utf-8")


def _lines(texts: Iterable[str]) -> str:
    return "".join(f"{text}\n" for text in texts)


def deliver(places: list[Path], pairs: list[Pair]) -> None:
    """Sources and targets to their files, both new or both as they were; a kill between the two renames leaves one file, which
    no training accepts without the other."""
    with ExitStack() as stack:
        parts = [stack.enter_context(atomic(place)) for place in places]
        for part, side in zip(parts, zip(*pairs, strict=True), strict=True):
            part.write_text(_lines(side), "utf-8")
        places[0].unlink(missing_ok=True)       # the last that takes its place


def further(pairs: list[Pair], forward: list[list[str]], backward: list[list[str]]) -> list[Pair]:
    """Sources with what models wrote for them, and what they wrote for targets with these: each pair once, without `pairs`."""
    sources, targets = map(list, zip(*pairs, strict=True))
    made = [pair for texts in forward for pair in zip(sources, texts, strict=True)]
    made += [pair for texts in backward for pair in zip(texts, targets, strict=True)]
    there = set(pairs)
    return [pair for pair in dict.fromkeys(made) if pair not in there and all(side.strip() for side in pair)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", help="as [[data]] names it in a recipe")
    parser.add_argument("source", help="language of the sources: en, de ...")
    parser.add_argument("target", help="language of the targets")
    parser.add_argument("out", type=Path, help="the new pairs, as [[data]] will name them")
    parser.add_argument("--forward", nargs="*", default=[], help="models that translate sources")
    parser.add_argument("--backward", nargs="*", default=[], help="models that translate targets back")
    parser.add_argument("--data", help="folder of texts; by default KLIEG_DATA")
    given = parser.parse_args()
    if not given.forward and not given.backward:
        parser.error("name models after --forward, --backward or both")
    try:
        pairs = list(read_pairs(PairSource(given.corpus, given.source, given.target), given.data, "train"))
        if not pairs:
            raise KliegError(f"{given.corpus} has no pairs; name another corpus.")
        sources, targets = map(list, zip(*pairs, strict=True))
        given.out.parent.mkdir(parents=True, exist_ok=True)
        jobs = [(model, sources, given.target) for model in given.forward]
        jobs += [(model, targets, given.source) for model in given.backward]
        places = [given.out.parent / kept(*job) for job in jobs]    # a model that is not there is told before any work
        texts = [written(*job, place) for job, place in zip(jobs, places, strict=True)]
        made = further(pairs, texts[:len(given.forward)], texts[len(given.forward):])
        if not made:
            raise KliegError("the models wrote nothing that the corpus does not have; name others.")
        deliver([given.out.with_name(f"{given.out.name}.{language}") for language in (given.source, given.target)], made)
    except (KliegError, OSError) as e:
        sys.exit(f"diversify.py: {e}")
    print(f"{len(made):,} further pairs in {given.out}.{given.source} and .{given.target}, of {len(pairs):,} that were there")


if __name__ == "__main__":
    main()
