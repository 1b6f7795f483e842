"""A corpus is read into a tally: from where it was left, by one process or by several that share the windows.

Process r of n takes the windows whose piece and place add up to r, counted round; which windows are read, and their
seeds, are those of one process. Each writes sums of its own beside the tally, NAME.part-R-of-N, from the place that the
tally has reached; when all have come to the end, or to as many tokens as were asked for, process 0 adds the parts to the
tally, and they are removed. A part knows from which place it is, so what has been added is never added again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

from klieg.analysis.atlas.corpus import Piece
from klieg.analysis.atlas.tally import Tally
from klieg.analysis.behaviour import Text
from klieg.errors import KliegError
from klieg.parallel import ALONE, Group

T = TypeVar("T", bound=Tally)
EVERY = 64          # windows between checkpoints


class Source(Protocol):
    """Pieces of text, the same ones each time, and how much of them has been read; see corpus.Corpus."""

    path: Path

    @property
    def read(self) -> float: ...
    def pieces(self) -> Iterable[Piece]: ...
    def fingerprint(self) -> str: ...


class Probe(Protocol):
    """How a piece of a source becomes windows of at least `shortest` tokens; see probes.py."""

    @property
    def name(self) -> str: ...
    @property
    def usual(self) -> int: ...
    @property
    def shortest(self) -> int: ...
    def texts(self, piece: str, number: int, window: int) -> Iterator[Text]: ...


class Visit(Protocol):
    """Counts one window: its text and the seed of what is drawn for it."""

    def __call__(self, text: Text, seed: int) -> None: ...


Step = Callable[[int, int], None]


def read(tally: Tally, source: Source, probe: Probe, visit: Visit, tokens: int | None = None, path: Path | None = None,
         every: int = EVERY, step: Step | None = None, group: Group = ALONE) -> None:
    """From the tally's place to the end of the source, or until so many tokens were read in all; `visit` counts a window.

    The tally is saved to `path` every so many windows, at the end, and where the source cannot be read on.
    step(done, expected) is told the tokens that were read and about how many there will be. Of a group's windows only
    those of this process are visited, and the tokens of all are counted.
    """
    def keep() -> None:
        if path is not None and (tally.rows or group.size > 1):
            tally.save(path)

    try:
        for number, piece in enumerate(source.pieces()):
            piece_at, window_at, done = tally.place
            if number < piece_at:
                continue
            if piece.fault is not None:
                tally.counts[piece.fault] += number % group.size == group.rank
            for n, text in enumerate(probe.texts(piece.text, number, tally.window) if piece.fault is None else ()):
                if number == piece_at and n < window_at:
                    continue
                if tokens is not None and done >= tokens:
                    return keep()
                mine, long = (number + n) % group.size == group.rank, len(text) >= probe.shortest
                if mine and long:
                    visit(text, number << 20 | n)
                    tally.counts.update(windows=1, tokens=len(text))
                elif mine:
                    tally.counts["short"] += 1
                done += len(text) * long
                tally.place = number, n + 1, done
                if step is not None:
                    expected = int(done / max(source.read, 1e-9))
                    step(done, min(expected, tokens or expected))
                if mine and long and tally.counts["windows"] % every == 0:
                    keep()
            tally.place = number + 1, 0, done
    except KliegError:
        keep()
        raise
    tally.whole = True
    return keep()


def begun(new: T, path: Path | None, source: Source, window: int | None = None) -> T:
    """The tally that is saved in `path`, to go on with; else the new one. KliegError if it is of another model, corpus or
    purpose, or of windows other than those that were asked for."""
    if path is None or not path.exists():
        return new
    found = type(new).load(path)
    now = {"model": new.model, "corpus": str(source.path)}
    for what in new.identity:
        if found.identity.get(what) != new.identity[what]:
            than = f" than {now[what]!r}" if what in now else ""
            raise KliegError(f"{path} is {new.what} of another {what}{than}; choose another folder.")
    if window is not None and window != found.window:
        raise KliegError(f"{path} was made in windows of {found.window} tokens, and {window} were asked for; choose another "
                         "folder.")
    return found


def shared(base: T | None, path: Path, new: T, work: Callable[[T, Path, int | None], None], tokens: int | None,
           group: Group) -> T | None:
    """The tally in `path` after every process of a group has done its share of `work`; None for all but process 0, which
    alone has `base`, the tally as it was.

    `new` is this process's part while it holds nothing. work(part, path of the part, tokens) reads on, as read() does.
    """
    if any(identity != new.identity for identity in group.merge([new.identity])):
        raise KliegError("the processes see different models or corpora; all machines need the same ones.")
    [(window, *start), *_] = group.merge([[base.window, *base.place] if base is not None else []])
    new.window, new.start, new.place = window, tuple(start), tuple(start)
    mine = _part(path, group.rank, group.size)
    part = _gone_on(mine, new) if mine.exists() else new
    if tokens is not None:      # a part that came further than is asked for now takes the others with it
        tokens = max(tokens, *(done for _, _, done in group.merge([list(part.place)])))
    work(part, mine, tokens)
    parts = [type(new).of_plain(said) for said in group.merge([part.plain()])]
    if len({(part.place, part.whole) for part in parts}) > 1:
        raise KliegError("the processes came to different places of the corpus; all machines need the same file.")

    def add() -> None:
        assert base is not None
        for part in parts:
            base.take(part)
        base.place, base.whole = parts[0].place, parts[0].whole
        if base.rows:
            base.save(path)

    group.lead(add)
    mine.unlink(missing_ok=True)
    return base


def _gone_on(path: Path, new: T) -> T:
    """The part in a file, if it goes on from where the tally is; else the new one. KliegError if it is of something else."""
    found = type(new).load(path)
    if found.start != new.start:
        return new
    if (found.identity, found.window) != (new.identity, new.window):
        raise KliegError(f"{path} is a share of another model, corpus or window; choose another folder.")
    return found


def leftover(path: Path, base: Tally, size: int) -> None:
    """KliegError if parts of another number of processes are beside a tally and hold what it does not have yet."""
    for part in path.parent.glob(f"{path.stem}.part-*-of-*{path.suffix}"):
        of = part.stem.rpartition("-")[2]
        if type(base).load(part).start != base.place:
            part.unlink(missing_ok=True)        # it has been added; the process was killed before it removed it
        elif of != str(size):
            raise KliegError(f"{part} is a share of {of} processes that have not come to their end; go on with {of} "
                             f"(torchrun --nproc-per-node {of}), or remove it.")


def _part(path: Path, rank: int, size: int) -> Path:
    return path.with_name(f"{path.stem}.part-{rank}-of-{size}{path.suffix}")
