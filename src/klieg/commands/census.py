"""How a command reads a corpus into a tally: progress, checkpoint, one process or several, and one line where it fails."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from klieg import shell
from klieg.errors import KliegError

if TYPE_CHECKING:
    from klieg.analysis.atlas.census import Probe, Source, Visit
    from klieg.analysis.atlas.tally import Tally
    from klieg.parallel import Group

T = TypeVar("T", bound="Tally")


def census(make: Callable[[], T], visit: Callable[[T], Visit], source: Source, probe: Probe, path: Path,
           tokens: int | None, window: int | None) -> T | None:
    """The tally of a file, new or gone on with as far as was asked for; None for a process that is not the first.

    `make` gives one that holds nothing, visit(tally) what counts a window into it.
    """
    from klieg.parallel import group

    with group(cards=False) as processes:
        try:
            found = _read(make, visit, source, probe, path, tokens, window, processes)
        finally:
            with suppress(OSError):     # a folder with nothing in it
                path.parent.rmdir()
        if found is not None and not found.rows:
            why = "; ".join(left_out(found, probe, "en")) or "it is empty"
            raise KliegError(f"{source.path} has no text of {probe.shortest} tokens or more ({why}); name another corpus.")
        return found


def _read(make: Callable[[], T], visit: Callable[[T], Visit], source: Source, probe: Probe, path: Path, tokens: int | None,
          window: int | None, processes: Group) -> T | None:
    from klieg.analysis.atlas.census import begun, leftover, read, shared
    from klieg.views.progress import counted

    console, first, base = shell.console(error=True), processes.rank == 0, list[T]()

    def prepare() -> None:
        base.append(begun(make(), path, source, window))
        with suppress(OSError):     # what is wrong with the folder is said where the file is tried
            path.parent.mkdir(parents=True, exist_ok=True)
        shell.writable(path)
        leftover(path, base[0], processes.size)

    processes.lead(prepare)
    done = base[0].place[2] if first else 0
    if processes.sum(float(first and (base[0].whole or (tokens is not None and done >= tokens)))):
        if first:
            console.print(shell.said(f"{path} has all of it already; nothing is left to read"), soft_wrap=True)
        return base[0] if first else None
    if done:
        console.print(shell.said(f"going on after {done:,} tokens"), soft_wrap=True)
    with counted(shell.said("tokens"), console) if first else nullcontext() as step:
        def work(tally: T, place: Path, most: int | None) -> None:
            try:
                read(tally, source, probe, visit(tally), most, place, step=step, group=processes)
            except KliegError as e:
                if not place.exists():
                    raise
                raise KliegError(f"{e} {place} has what was saved last: the same command goes on there"
                                 f"{', and with --tokens 1 shows what there is' if processes.size == 1 else ''}.") from None

        if processes.size == 1:
            work(base[0], path, tokens)
            return base[0]
        with suppress(OSError):     # of a machine that shares no folder with the first
            path.parent.mkdir(parents=True, exist_ok=True)
        return shared(base[0] if first else None, path, make(), work, tokens, processes)


def left_out(found: Tally, probe: Probe, language: str) -> list[str]:
    """What of a corpus was not counted, a line for each reason."""
    from klieg.views.atlas import left_out as said

    return said(found.counts, probe.shortest, language)


def tell(found: Tally, probe: Probe, language: str) -> None:
    """What was read and what was left out, on standard error."""
    from klieg.views.atlas import word

    console = shell.console(error=True)
    console.print(word("read", language, **found.counts) + ("" if found.whole else word("more", language)), soft_wrap=True)
    for line in left_out(found, probe, language):
        console.print(line, soft_wrap=True)
