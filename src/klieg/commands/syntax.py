"""`klieg atlas` over a treebank: which heads look along the links of grammar."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from klieg import shell
from klieg.errors import KliegError, nearest

if TYPE_CHECKING:
    from klieg.analysis.syntax import Relation
    from klieg.device import Place

FILE = "syntax.json"        # in the folder: what `klieg serve` opens


def syntax(model: str, where: Place, path: Path, out: Path, by: str | None, parquet: bool, language: str) -> None:
    """Read the treebank; table, picture and page in the folder, and the best head of every relation on standard output."""
    from klieg.analysis.atlas import columns
    from klieg.analysis.reader import load
    from klieg.analysis.syntax import Line
    from klieg.analysis.syntax import syntax as read
    from klieg.analysis.treebank import read_treebank
    from klieg.views.ledger import ledger
    from klieg.views.progress import counted
    from klieg.views.syntax import grid, name, remarks, table

    sentences = read_treebank(path)
    reader = load(model, *where)
    with suppress(OSError):     # what is wrong with the folder is said where the file is tried
        out.mkdir(parents=True, exist_ok=True)
    shell.writable(out / "syntax.csv")
    try:
        with counted(shell.said("sentences"), shell.console(error=True)) as step:
            found = read(reader, sentences, step)
        relations = found.ways()
        first = _one(relations, by)
    except KliegError:
        with suppress(OSError):     # a folder with nothing in it
            out.rmdir()
        raise
    lines, said = found.lines(), remarks(found, relations, language)
    pictures = {name(one, language): grid(found, one, language=language)
                for one in [first, *(one for one in relations if one is not first)]}
    bodies = {out / "syntax.csv": columns.csv(lines).encode()}
    bodies[out / FILE] = (json.dumps(found.as_json(), ensure_ascii=False) + "\n").encode()
    if parquet:
        bodies[out / "syntax.parquet"] = columns.parquet(lines, {"model": found.model, "treebank": path.name})
    bodies |= {out / "syntax.svg": shell.drawn(pictures[name(first, language)], "svg"),
               out / "syntax.html": ledger(found.model, lines, pictures, said, columns=[part.name for part in fields(Line)],
                                           language=language).encode()}
    shell.deliver(bodies)
    console = shell.console()
    console.print(table(relations, language))
    for line in said:
        print(line, file=sys.stderr)


def _one(relations: list[Relation], by: str | None) -> Relation:
    """The relation of the picture: the one that was asked for, or the first."""
    names = [relation.name for relation in relations]
    if by is not None and by not in names:
        raise KliegError(f"the treebank has no relation {by!r} in both halves.{nearest(by, names)}")
    return relations[names.index(by) if by is not None else 0]
