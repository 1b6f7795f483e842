"""Links in files: gold that people made, and Pharaoh lines that every aligner writes.

One line a sentence, `1-2 2-1 3p3`: source word, target word; `-` is a sure link and `p` one that
is only possible. Gold counts words from 0 or from 1, as its makers liked; here they count from 0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from klieg.analysis.alignment.links import Agreement, Links, agreement
from klieg.errors import KliegError, first_line


@dataclass(frozen=True)
class Gold:
    """The links of each sentence pair: sure ones, and possible ones, which hold the sure ones too.

    `first` is the number that the file gives the first word.
    """

    sure: list[Links]
    possible: list[Links]
    first: int

    def part(self, chosen: list[int]) -> Gold:
        """Some of its sentences, by number."""
        return Gold([self.sure[n] for n in chosen], [self.possible[n] for n in chosen], self.first)

    def against(self, found: list[Links]) -> Agreement:
        """How right the links are that somebody found."""
        return agreement(self.sure, self.possible, found)


def read_gold(path: Path, first: int | None = None) -> Gold:
    """Gold from a file; KliegError names the line that is none.

    first: what the file calls the first word, 0 or 1; by default 0 if a 0 stands anywhere in it, else 1.
    """
    lines = [_links(path, number, line) for number, line in enumerate(_text(path).splitlines(), 1)]
    if first is None:
        first = min([1, *(min(s, t) for line in lines for s, _, t in line)])
    sure = [{(s - first, t - first) for s, mark, t in line if mark == "-"} for line in lines]
    return Gold(sure, [{(s - first, t - first) for s, _, t in line} for line in lines], first)


def pharaoh(links: Links) -> str:
    """The line of one sentence, in order, counted from 0."""
    return " ".join(f"{s}-{t}" for s, t in sorted(links))


def _text(path: Path) -> str:
    try:
        return Path(path).read_text("utf-8-sig")
    except (OSError, ValueError) as e:
        raise KliegError(f"{path} cannot be read as gold ({first_line(e)}); name a text file of links.") from None


def _links(path: Path, number: int, line: str) -> list[tuple[int, str, int]]:
    found = []
    for word in line.split():
        parts = re.fullmatch(r"([0-9]{1,9})([-p])([0-9]{1,9})", word)
        if parts is None:
            raise KliegError(f"{path}, line {number}: {word[:40]!r} is no link; one is written 3-4, or 3p4 if only possible.")
        found.append((int(parts[1]), parts[2], int(parts[3])))
    return found
