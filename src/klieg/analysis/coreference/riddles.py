"""Riddles of coreference: a text, a pronoun in it, and candidates that it may stand for, of which people know the right ones.

Five sets are known by name, read from the folder of public texts as docs/data.md says; any file in one of their formats
is read too, told by its ending:

    .txt            records of five lines: sentence, pronoun, candidates (comma between), answer, blank (Winograd riddles)
    .tsv            a header and tab-separated columns with character offsets (GAP, Webster et al. 2018)
    .json, .jsonl   a JSON object a line with spans and a label, riddles put together from lines (CLUEWSC, Xu et al. 2020)

Where candidates stand is told in mentions.py, and how a pronoun that was masked is put in again in gaps.py. Riddles are in
two parts, one to choose a head on and one to report it on: the set's own, or else halves by a checksum of the group, so
that the twins of a schema stay together.

    found = riddles("gap", Path("data"))
    found.development[0].candidates
"""

from __future__ import annotations

import json
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from klieg.analysis.coreference.gaps import GAP, Gap, Likeliest, filled
from klieg.analysis.coreference.mentions import Place, apart, bare, mention, standing
from klieg.data import read
from klieg.errors import KliegError, nearest

REASONS = ("gaps", "absent", "overlap", "neither", "alone")
"""Why a record is left out: it has several gaps; a candidate is not in the text as it is named; candidates share
characters; no candidate is right; there are not both a right and a wrong candidate."""
_COLUMNS = ["ID", "Text", "Pronoun", "Pronoun-offset", "A", "A-offset", "A-coref", "B", "B-offset", "B-coref", "URL"]
_FEMININE = ("she", "her", "hers")


@dataclass(frozen=True)
class Riddle:
    """A pronoun and its candidates, in the order of the text; `right` says of each whether the pronoun stands for it.

    Riddles of one `group` stay in one part; `facet` is the kind of the riddle, where its set tells kinds apart.
    """

    text: str
    pronoun: Place
    candidates: tuple[Place, ...]
    right: tuple[bool, ...]
    group: str
    facet: str = ""

    def phrase(self, place: Place) -> str:
        """The characters at a place."""
        return self.text[slice(*place)]


@dataclass(frozen=True)
class Riddles:
    """A set in its two parts, with the number of records that were left out, by REASONS."""

    name: str
    development: list[Riddle]
    test: list[Riddle]
    left_out: Counter[str] = field(default_factory=Counter)
    files: tuple[str, ...] = ()
    own_split: bool = False


@dataclass(frozen=True)
class _Set:
    """Where a set lies: files of both parts, or of one that is halved; and which pronouns may fill its gaps."""

    development: tuple[str, ...]
    test: tuple[str, ...] = ()
    kind: str = ""


SETS = {
    "wsc273": _Set(("eval/winograd/wsc273.txt",)),
    "winobias": _Set(("eval/winograd/winobias_dev.txt",), kind="stereotype"),
    "winogender": _Set(("eval/winograd/WinoGender.txt",), kind="gender"),
    "gap": _Set(("eval/gap/gap-development.tsv",), ("eval/gap/gap-validation.tsv",)),
    # Its own parts for training and development hold 32 riddles together, too few to choose a head on.
    "cluewsc": _Set(tuple(f"eval/cluewsc_fewclue/{name}.json" for name in ("train_few_all", "dev_few_all", "test_public"))),
}


def riddles(name: str | Path, data: Path | None = None, likeliest: Likeliest | None = None) -> Riddles:
    """A set by its name, from the folder `data` of public texts, or a file; KliegError names the file and line at fault.

    likeliest: given lists of texts, the place of the likeliest of each; needed where a set has gaps.
    """
    known = SETS.get(str(name))
    left: Counter[str] = Counter()
    if known is None:
        path = Path(name)
        if not is_file(path):
            raise KliegError(f"there is no set or file {str(name)!r}.{nearest(str(name), list(SETS))} A file ends in .txt, "
                             ".tsv, .json or .jsonl.")
        known, root = _Set((str(path),)), Path()
    elif data is None:
        raise KliegError(f"the set {name!r} is read from the folder of public texts; pass --data FOLDER or set KLIEG_DATA.")
    else:
        root = data
    parts = [list(_read([root / file for file in files], known.kind, likeliest, left)) if files else []
             for files in (known.development, known.test)]
    if not known.test:
        both = list(dict.fromkeys(parts[0]))
        parts = [[riddle for riddle in both if in_development(riddle) is first] for first in (True, False)]
    found = Riddles(str(name), *parts, left, (*known.development, *known.test), bool(known.test))
    if not found.development or not found.test:
        raise KliegError(f"{name} has {len(found.development)} riddles to choose a head on and {len(found.test)} to report it "
                         f"on ({sum(left.values())} records were left out); both parts need some, so name a larger set.")
    return found


def is_file(path: Path) -> bool:
    """Whether there is a file of that name; also of a text that no file could be named by."""
    with suppress(OSError):
        return path.is_file()
    return False


def in_development(riddle: Riddle) -> bool:
    """Whether a riddle is one to choose on: by its group, so that twins, repeats and reorderings agree."""
    return zlib.crc32(riddle.group.encode("utf-8")) % 2 == 0


def posed(text: str, pronoun: str, candidates: list[str]) -> Riddle:
    """A riddle of one's own, the first candidate being the right one; KliegError for a word that is not in the text.

    Of a pronoun that stands several times the last is meant.
    """
    places = standing(text, pronoun)
    if not places:
        raise KliegError(f"the pronoun {pronoun!r} is not in the text; name a word of it.")
    if len(set(candidates)) < 2:
        raise KliegError("a riddle has at least two candidates; name them with a comma between, the right one first.")
    found = [mention(text, candidate, places[-1]) for candidate in candidates]
    for candidate, place in zip(candidates, found, strict=True):
        if place is None:
            raise KliegError(f"the candidate {candidate!r} is not in the text beside the pronoun; name words of it.")
    if not apart([places[-1], *found]):
        raise KliegError("the candidates share words; name such that stand apart.")
    return _riddle(text, places[-1], [(place, n == 0) for n, place in enumerate(found)], "")


def marked(text: str, pronoun: Place, candidates: Sequence[Place], right: int = 0) -> Riddle:
    """A riddle of one's own by its places; `right` is the right one of the candidates. KliegError for places that are none."""
    if len(set(candidates)) < 2 or not 0 <= right < len(candidates):
        raise KliegError("a riddle has at least two candidates, one of which is right; choose words that the pronoun may stand "
                         "for.")
    for start, end in (pronoun, *candidates):
        if not 0 <= start < end <= len(text) or not text[start:end].strip():
            raise KliegError(f"there are no words at {start} to {end} of a text of {len(text):,} characters; choose others.")
    if not apart([pronoun, *candidates]):
        raise KliegError("the candidates share words; choose such that stand apart.")
    return _riddle(text, pronoun, [(place, n == right) for n, place in enumerate(candidates)], "")


# ---- files ----

def _read(paths: list[Path], kind: str, likeliest: Likeliest | None, left: Counter[str]) -> Iterator[Riddle]:
    """The riddles of files of one form; those of CLUEWSC are put together from all of them."""
    path = paths[0]
    if path.suffix in (".json", ".jsonl"):
        return _cluewsc(paths, left)
    if path.suffix not in (".txt", ".tsv"):
        raise KliegError(f"{path} ends in none of .txt, .tsv, .json, .jsonl, which say how riddles are written.")
    return _winograd(path, kind, likeliest, left) if path.suffix == ".txt" else _gap(path, left)


def _winograd(path: Path, kind: str, likeliest: Likeliest | None, left: Counter[str]) -> Iterator[Riddle]:
    """Records of five lines; those that have a gap are filled together, and twice where both genders are wanted."""
    lines = [" ".join(line.split()).replace(" 's", "'s") for line in read(path).split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    gaps: dict[Gap, None] = {}
    for start in range(0, len(lines), 5):
        sentence, pronoun, names, right = _record(path, start, lines[start:start + 5])
        if pronoun != GAP:
            yield from _found(sentence, standing(sentence, pronoun)[-1], names, right, "", left)
        elif sentence.count(GAP) > 1:
            left["gaps"] += 1
        else:
            gaps[Gap.of(sentence, names, right)] = None
    for text, place, gap, facet in filled(list(gaps), kind, likeliest):
        yield from _found(text, place, gap.candidates, gap.right, facet, left)


def _record(path: Path, start: int, lines: list[str]) -> tuple[str, str, tuple[str, ...], tuple[bool, ...]]:
    """Sentence, pronoun, candidates and which are right, from five lines of which the first is line `start`, from 0."""
    sentence, pronoun, named, answer, blank = [*lines, *[""] * 4][:5]
    names = tuple(name.strip() for name in named.split(","))
    right = tuple(name.casefold() == answer.casefold() for name in names)
    stands = pronoun in sentence if pronoun == GAP else bool(standing(sentence, pronoun))
    for n, (good, wanted) in enumerate((
            (sentence, "a sentence"), (stands, f"the pronoun, or {GAP}, as in the sentence above"),
            (len(names) > 1 and all(names), "two or more candidates with commas between"),
            (any(right), "one of the candidates above"), (not blank, "a blank line after a record of four")), start=1):
        if not good:
            raise _fault(path, start + n, wanted)
    return sentence, pronoun, names, right


def _found(text: str, pronoun: Place, names: Sequence[str], right: tuple[bool, ...], facet: str,
           left: Counter[str]) -> Iterator[Riddle]:
    """A riddle of candidates that are named, or none where they cannot be told in the text."""
    places = [mention(text, name, pronoun) for name in names]
    if any(place is None for place in places):
        left["absent"] += 1
    elif not apart([pronoun, *places]):
        left["overlap"] += 1
    else:
        group = "/".join(sorted(bare(name.casefold()) for name in names))
        yield _riddle(text, pronoun, list(zip(places, right, strict=True)), group, facet)


def _gap(path: Path, left: Counter[str]) -> Iterator[Riddle]:
    """GAP: two names and a pronoun by their offsets."""
    lines = read(path).split("\n")
    if lines[0].split() != _COLUMNS:
        raise _fault(path, 1, f"the header {' '.join(_COLUMNS)}, with tabs between")
    for number, line in enumerate(lines[1:], start=2):
        row = line.split("\t")
        if not line.strip():
            continue
        if len(row) != len(_COLUMNS):
            raise _fault(path, number, f"{len(_COLUMNS)} columns with tabs between, not {len(row)}")
        cells = dict(zip(_COLUMNS, row, strict=True))
        text, places = cells["Text"], []
        for name in ("Pronoun", "A", "B"):
            start = cells[f"{name}-offset"]
            if not start.isascii() or not start.isdigit() or not cells[name] or not text.startswith(cells[name], int(start)):
                raise _fault(path, number, f"{name}-offset to be where {cells[name][:40]!r} starts in the text")
            places.append((int(start), int(start) + len(cells[name])))
        said = [cells[f"{name}-coref"].strip().upper() for name in "AB"]
        if not set(said) <= {"TRUE", "FALSE"}:
            raise _fault(path, number, "TRUE or FALSE in A-coref and B-coref")
        if "TRUE" not in said or not apart(places):
            left["overlap" if "TRUE" in said else "neither"] += 1
            continue
        facet = "feminine" if cells["Pronoun"].casefold() in _FEMININE else "masculine"
        yield _riddle(text, places[0], list(zip(places[1:], (word == "TRUE" for word in said), strict=True)), text, facet)


def _cluewsc(paths: list[Path], left: Counter[str]) -> Iterator[Riddle]:
    """CLUEWSC: each line says of one span whether a pronoun stands for it; the lines of one pronoun are a riddle."""
    said: dict[tuple[str, Place], dict[Place, bool]] = defaultdict(dict)
    for path, (number, line) in ((one, found) for one in paths for found in enumerate(read(one).split("\n"), start=1)):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            text, target = row["text"], row["target"]
            candidate, pronoun = ((target[f"span{n}_index"], target[f"span{n}_index"] + len(target[f"span{n}_text"]))
                                  for n in (1, 2))
            spelt = all(place[0] >= 0 and text[slice(*place)] == target[f"span{n}_text"] != ""
                        for n, place in ((1, candidate), (2, pronoun)))
            label = {"true": True, "false": False}[row["label"]]
        except (ValueError, KeyError, TypeError, IndexError, RecursionError):
            spelt = False
        if not spelt:
            raise _fault(path, number, 'a JSON object with "text", a "label" of "true" or "false", and a "target" with the '
                                       'texts and starts of span1, the candidate, and span2, the pronoun')
        said[text, pronoun][candidate] = label
    for (text, pronoun), candidates in said.items():
        if len(set(candidates.values())) < 2 or not apart([pronoun, *candidates]):
            left["alone" if len(set(candidates.values())) < 2 else "overlap"] += 1
        else:
            yield _riddle(text, pronoun, list(candidates.items()), text)


def _riddle(text: str, pronoun: Place, candidates: list[tuple[Place, bool]], group: str, facet: str = "") -> Riddle:
    ordered = sorted(candidates)
    return Riddle(text, pronoun, tuple(place for place, _ in ordered), tuple(right for _, right in ordered), group, facet)


def _fault(path: Path, line: int, wanted: str) -> KliegError:
    return KliegError(f"{path}, line {line}: expected {wanted}.")
