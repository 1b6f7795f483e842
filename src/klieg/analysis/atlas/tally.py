"""What is summed over the texts of a corpus, a number for every head: sums in float64 and how far the corpus was read.

A tally holds no text, so it takes the same few bytes after ten texts as after ten million, and tallies of different texts
add up. On disk it is one file of safetensors with its facts as JSON, and that file is also its checkpoint: sums and the
place in the corpus are written together, so what was read is counted once whenever the process ends.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from klieg.analysis.reader import Heads
from klieg.atomic import atomic
from klieg.errors import KliegError, first_line

Place = tuple[int, int, int]
"""The piece of a corpus that comes next, the window in it, and how many tokens were read before."""


@dataclass(eq=False)
class Tally:
    """Sums over the windows of a corpus, as a kind of tally lays them out; layers are in the order of `rows`."""

    what: ClassVar[str]
    """What a message calls it, and the command that makes one."""
    command: ClassVar[str]
    form: ClassVar[str]
    """The name of its format."""

    model: str
    window: int
    identity: dict[str, str] = field(default_factory=dict)
    """By which the model, the corpus and what was done with it are known again."""
    rows: list[Heads] = field(default_factory=list)
    sums: dict[str, Tensor] = field(default_factory=dict)
    place: Place = (0, 0, 0)
    start: Place = (0, 0, 0)
    """The place from which the sums are; not the corpus's beginning in a process's part of them."""
    counts: Counter[str] = field(default_factory=Counter)
    """Of windows, tokens, short windows that were left out, and pieces with a fault."""
    whole: bool = False
    """Whether the corpus was read to its end."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every sum, where `rows` are known."""
        raise NotImplementedError

    @classmethod
    def layout(cls) -> list[str]:
        """What the places of the sums stand for, as far as a version of Klieg decides it."""
        return []

    def of(self, rows: list[Heads]) -> None:
        """These are the layers of one more text: those of the first, or a KliegError."""
        if not self.rows:
            self.rows = rows
            self.sums = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in self.shapes().items()}
        if rows != self.rows:
            raise KliegError(f"the layers of {self.model!r} changed from text to text; {self.what} is of one model.")

    def __add__(self, other: Self) -> Self:
        """The tally of both's texts; they must be of one model and different texts, read in windows of one size."""
        pair = (self, other)
        for name in ("model", "window", *(("rows",) if self.rows and other.rows else ())):
            if getattr(self, name) != getattr(other, name):
                raise self._apart(other, {"rows": "layers"}.get(name, name))
        for name in sorted({*self.identity, *other.identity} - {"corpus"}):
            if self.identity.get(name) != other.identity.get(name):
                raise self._apart(other, name)
        corpora = [set(filter(None, one.identity.get("corpus", "").split("+"))) for one in pair]
        if corpora[0] & corpora[1]:
            raise KliegError("both are of one corpus, whose texts would count twice; add those of different corpora.")
        return type(self)(self.model, self.window, {**self.identity, "corpus": "+".join(sorted(corpora[0] | corpora[1]))},
                          self.rows or other.rows, _total(self, other), counts=self.counts + other.counts,
                          whole=self.whole and other.whole)

    def _apart(self, other: Self, what: str) -> KliegError:
        return KliegError(f"those of {self.model!r} and of {other.model!r} cannot be added; they differ in {what}.")

    def take(self, part: Self) -> None:
        """The part of another process, which began where this one ends, and read on in the same corpus."""
        if part.rows:
            self.of(part.rows)
            self.sums = _total(self, part)
        self.counts += part.counts

    # ---- as plain data, and on disk ----

    def plain(self) -> dict[str, Any]:
        """Everything as JSON can hold it, every bit of it."""
        return {"facts": self._facts(), "sums": {name: x.tolist() for name, x in self.sums.items()}}

    def _facts(self) -> dict[str, Any]:
        return {"format": self.form, "model": self.model, "window": self.window, "identity": self.identity,
                "layout": self.layout(), "rows": [asdict(row) for row in self.rows], "place": list(self.place),
                "start": list(self.start), "counts": dict(self.counts), "whole": self.whole}

    @classmethod
    def of_plain(cls, said: dict[str, Any]) -> Self:
        """From what plain() gave."""
        return cls._of(said["facts"], {name: torch.tensor(x, dtype=torch.float64) for name, x in said["sums"].items()})

    @classmethod
    def _of(cls, facts: dict[str, Any], sums: dict[str, Tensor]) -> Self:
        rows = [Heads(int(row["layer"]), str(row["kind"]), int(row["heads"]), int(row["kv_heads"])) for row in facts["rows"]]
        places = [tuple(map(int, facts[name])) for name in ("place", "start")]
        if any(len(place) != 3 for place in places):
            raise ValueError("it has no place in a corpus")
        found = cls(str(facts["model"]), int(facts["window"]), dict(facts["identity"]), rows, {}, *places,
                    Counter(facts["counts"]), bool(facts["whole"]))
        if rows:
            shapes = found.shapes()
            if {name: tuple(x.shape) for name, x in sums.items()} != shapes or any(
                    x.dtype != torch.float64 or not x.isfinite().all() for x in sums.values()):
                raise ValueError("its sums are no finite numbers of its heads")
            found.sums = sums
        return found

    def save(self, path: str | Path) -> None:
        """One file, whole or not at all."""
        # A file of safetensors has at least one tensor.
        body = save(self.sums or {"nothing": torch.zeros(0)}, {"facts": json.dumps(self._facts(), ensure_ascii=False)})
        with atomic(Path(path)) as part:
            part.write_bytes(body)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """A saved one; KliegError if it is none or is damaged."""
        try:
            with safe_open(path, framework="pt") as file:
                facts = json.loads((file.metadata() or {})["facts"])
                sums = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if facts["format"] != cls.form or facts["layout"] != cls.layout():
                raise KliegError(f"{path} is {cls.what} of another version of Klieg; make it anew in another folder.")
            return cls._of(facts, sums)
        except FileNotFoundError:
            raise KliegError(f"there is no {cls.what.split()[-1]} in {path}; make one: klieg {cls.command} MODEL CORPUS "
                             "-o FOLDER.") from None
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError) as e:
            raise KliegError(f"{path} is damaged or no {cls.what.split()[-1]} ({first_line(e)}); make it anew in another "
                             "folder.") from None


def _total(a: Tally, b: Tally) -> dict[str, Tensor]:
    return {name: sum((one.sums[name] for one in (a, b) if one.rows), torch.zeros((), dtype=torch.float64))
            for name in {**a.sums, **b.sums}}
