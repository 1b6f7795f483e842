"""Parallel texts: a corpus by its name, or two files whose lines stand for each other.

    source = PairSource("tatoeba", "en", "de")             # or the files mine.en and mine.de: PairSource("mine", "en", "de")
    pairs = read_pairs(source, data, "train")

A mistake in a text is told with its file, line and byte.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import zip_longest
from pathlib import Path

from klieg.data import data_folder, is_validation
from klieg.encoded import Pair
from klieg.errors import KliegError, first_line, nearest
from klieg.recipe import PairSource

LANGUAGES = {"de": "deu", "fr": "fra", "zh": "cmn"}   # as the files of Tatoeba are called
WMT14 = {"de": ["training/europarl-v7.de-en", "commoncrawl.de-en", "training/news-commentary-v9.de-en"],
         "fr": ["training/europarl-v7.fr-en", "commoncrawl.fr-en", "un/undoc.2000.fr-en", "training/news-commentary-v9.fr-en",
                "giga-fren.release2.fixed"]}
TESTS = {"de": ("deu-eng", "deu", "eng"), "fr": ("eng-fra", "fra", "eng"), "zh": ("eng-zho", "zho", "eng")}


def lines(path: Path) -> list[str]:
    """The lines of a text file, or of a .gz of one; KliegError says at which line and byte it is not UTF-8."""
    return list(_lines(path))


def _lines(path: Path) -> Iterator[str]:
    found = path if path.exists() or not path.name else path.with_name(f"{path.name}.gz")
    try:
        with (gzip.open if found.suffix == ".gz" else open)(found, "rb") as file:
            for number, line in enumerate(file, 1):
                yield _text(found, number, line)
    except FileNotFoundError:
        raise KliegError(f"{path} is not there; name a file that is (docs/data.md lists the texts of recipes).") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as e:
        raise KliegError(f"{found} is damaged ({first_line(e)}); fetch it again.") from None
    except OSError as e:
        raise KliegError(f"{found} cannot be read ({(e.strerror or first_line(e)).lower()}); name a file of text.") from None


def _text(path: Path, number: int, line: bytes) -> str:
    line = line.removesuffix(b"\n") if not line.endswith(b"\r\n") else line[:-2]
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as e:
        raise KliegError(f"{path} is not UTF-8 in line {number} at byte {e.start + 1} of it; convert it first.") from None


def together(source: Path, target: Path) -> list[Pair]:
    """The pairs of two files, line by line; KliegError where one ends before the other."""
    return list(_together(source, target))


def _together(source: Path, target: Path) -> Iterator[Pair]:
    sides = _lines(source), _lines(target)
    for number, pair in enumerate(zip_longest(*sides)):
        if None in pair:
            shorter, longer = (source, target) if pair[0] is None else (target, source)
            count = number + 1 + sum(1 for _ in sides[longer is target])
            raise KliegError(f"{shorter} ends after line {number:,} and {longer} has {count:,} lines; each line needs "
                             "its translation in the same line of the other file.")
        yield pair


def _multi30k(root: Path, source: str, target: str, split: str, kind: str = "") -> list[Pair]:
    name = {"train": "train", "validation": "val"}[split]
    return together(*(root / f"multi30k/{name}{kind}.{language}" for language in (source, target)))


def _tokenized(root: Path, source: str, target: str, split: str) -> list[Pair]:
    return _multi30k(root, source, target, split, ".lc.norm.tok")


def _captions(root: Path, source: str, target: str, split: str) -> list[Pair]:
    """3AM; captions that also occur in its test part are left out."""
    def part(name: str) -> list[Pair]:
        return together(*(root / f"en_zh_3am/{name}.{language}" for language in (source, target)))

    tested = {side for pair in part("test") for side in pair}
    name = {"train": "train", "validation": "val"}[split]
    return [pair for pair in part(name) if not tested & set(pair)]


def _tatoeba(root: Path, source: str, target: str, split: str) -> list[Pair]:
    """Sentences of Tatoeba, without those of its test sets on either side; one English sentence in a hundred is held out."""
    other = target if source == "en" else source
    if other not in LANGUAGES or "en" not in (source, target):
        raise KliegError(f"tatoeba has no {source}-{target}; it has en with {', '.join(LANGUAGES)}.")
    rows = [line.split("\t") for line in lines(root / f"tatoeba/{LANGUAGES[other]}.txt")]
    tested = _tested(root)
    kept = [(row[0], row[1]) for row in rows if len(row) > 1 and not tested & set(row[:2])
            and is_validation(row[0]) == (split == "validation")]
    return kept if source == "en" else [(b, a) for a, b in kept]


def _tested(root: Path) -> set[str]:
    """All sentences of Tatoeba's test sets."""
    found: set[str] = set()
    for folder, *sides in TESTS.values():
        for language in sides:
            for path in (root / "testsets/tatoeba" / folder).glob(f"*.{language}*"):
                found.update(lines(path))
    if not found:
        raise KliegError(f"{root / 'testsets/tatoeba'} is not there; without it the sentences of the test could not be kept "
                         "out of training. docs/data.md says where it comes from.")
    return found


def _wmt14(root: Path, source: str, target: str, split: str) -> Iterator[Pair]:
    """The parts of WMT 2014 in its own order, a pair at a time: in memory they would be gigabytes."""
    other = target if source == "en" else source
    if "en" not in (source, target) or other not in WMT14:
        raise KliegError(f"wmt14 has no {source}-{target}; it has en with {' and '.join(WMT14)}.")
    for part in WMT14[other] if split == "train" else ["dev/newstest2013"]:
        yield from _together(*(root / f"wmt14/{part}.{language}" for language in (source, target)))


CORPORA: dict[str, Callable[[Path, str, str, str], Iterable[Pair]]] = {
    "multi30k": _multi30k, "multi30k-tokenized": _tokenized, "captions": _captions, "tatoeba": _tatoeba, "wmt14": _wmt14}


def read_pairs(source: PairSource, data: str | None, split: str) -> Iterable[Pair]:
    """The pairs of one [[data]] entry: a corpus by its name, or NAME.en and NAME.de; `split` is train or validation."""
    if split == "validation" and source.validation == "-":
        return []
    if source.name in CORPORA:
        return CORPORA[source.name](data_folder(data), source.source, source.target, split)
    prefix = source.validation if split == "validation" and source.validation else source.name
    sides = [Path(f"{prefix}.{language}") for language in (source.source, source.target)]
    if not any(path.is_file() or path.with_name(f"{path.name}.gz").is_file() for path in sides):
        raise KliegError(f"no corpus or files {prefix!r} ({sides[0]} and {sides[1]}).{nearest(source.name, list(CORPORA))}")
    pairs = together(*sides)
    if source.validation:
        return pairs
    return [pair for pair in pairs if is_validation(pair[0]) == (split == "validation")]
