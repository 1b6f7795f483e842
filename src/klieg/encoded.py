"""Pairs of sentences as token ids, in memory or mapped from the disk.

A corpus of tens of millions of pairs does not fit into a computer's memory as strings, and several
processes would each have it there. As ids, two bytes a token in a vocabulary below 65,536, laid end
to end in a file that is mapped, it is read once and shared by all of them.

    coded = Coded.of([(("a dog", "ein Hund"), (None, 1.0))], tokenizer, longest=256)
    coded.save(folder)
    Coded.open(folder).sides[0][7]                       # ids of the source of pair 7
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from klieg.checkpoint import atomic, read_json
from klieg.errors import KliegError, first_line
from klieg.tokenizers import Tokenizer

AT_ONCE = 20_000  # pairs that are held as strings

Pair = tuple[str, str]
Entry = tuple[str | None, float]
"""The language that a source is marked with, or None, and how often an epoch has the pair."""


@dataclass(frozen=True, eq=False)
class Side:
    """Sources or targets: ids (tokens,), uint16 or uint32, of all texts end to end; starts (texts + 1,), int64."""

    ids: np.ndarray
    starts: np.ndarray

    def __getitem__(self, number: int) -> list[int]:
        return self.ids[self.starts[number]:self.starts[number + 1]].tolist()

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each text: (texts,), int32."""
        return np.diff(self.starts).astype(np.int32)


@dataclass(frozen=True, eq=False)
class Coded:
    """Sources and targets; of pair n, `entries[which[n]]` says what holds for it."""

    sides: tuple[Side, Side]
    which: np.ndarray
    entries: list[Entry]
    left_out: int
    """Pairs with an empty side, or with more tokens than may be."""

    def __len__(self) -> int:
        return len(self.which)

    @classmethod
    def of(cls, rows: Iterable[tuple[Pair, Entry]], tokenizer: Tokenizer, longest: int) -> Coded:
        """Encodes pairs as they come; one with more than `longest` tokens on a side, its marks counted, is left out."""
        kind = np.uint16 if tokenizer.size <= 2**16 else np.uint32
        flat, lengths = (bytearray(), bytearray()), (bytearray(), bytearray())
        which, known, left_out, stream = bytearray(), {}, 0, iter(rows)
        while part := list(islice(stream, AT_ONCE)):
            coded = [list(tokenizer.encode_all([pair[side] for pair, _ in part])) for side in (0, 1)]
            for (pair, entry), *both in zip(part, *coded, strict=True):
                # A source may open with a mark of its language, and has an end mark; so has a target.
                if max(len(both[0]) + 2, len(both[1]) + 1) > longest or not (pair[0].strip() and pair[1].strip()):
                    left_out += 1
                    continue
                for side in (0, 1):
                    flat[side].extend(np.array(both[side], dtype=kind).tobytes())
                    lengths[side].extend(np.int32(len(both[side])).tobytes())
                which.append(known.setdefault(entry, len(known)))
        sides = [Side(np.frombuffer(ids, dtype=kind), _starts(np.frombuffer(counts, dtype=np.int32)))
                 for ids, counts in zip(flat, lengths, strict=True)]
        return cls((sides[0], sides[1]), np.frombuffer(which, dtype=np.uint8), list(known), left_out)

    def save(self, folder: Path) -> None:
        """Writes a folder, whole or not at all."""
        with atomic(Path(folder), folder=True) as part:
            for number, side in enumerate(self.sides):
                np.save(part / f"ids-{number}.npy", side.ids)
                np.save(part / f"starts-{number}.npy", side.starts)
            np.save(part / "which.npy", self.which)
            (part / "facts.json").write_text(json.dumps({"entries": self.entries, "left_out": self.left_out}), "utf-8")

    @classmethod
    def open(cls, folder: Path) -> Coded:
        """What save() wrote; the tokens stay on the disk until they are asked for."""
        folder = Path(folder)
        facts = read_json(folder / "facts.json")
        try:
            sides = [Side(np.load(folder / f"ids-{n}.npy", mmap_mode="r"), np.load(folder / f"starts-{n}.npy", mmap_mode="r"))
                     for n in (0, 1)]
            which = np.load(folder / "which.npy", mmap_mode="r")
            return cls((sides[0], sides[1]), which, [tuple(entry) for entry in facts["entries"]], facts["left_out"])
        except (OSError, EOFError, ValueError, KeyError) as e:
            raise KliegError(f"{folder} is damaged ({first_line(e)}); remove it, and it is made anew.") from None


def _starts(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], lengths.cumsum(dtype=np.int64)])
