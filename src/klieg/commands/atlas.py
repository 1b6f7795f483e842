"""The command `atlas`: what every head of a model does over a whole corpus, and how two such atlases differ.

The folder holds one file that is both the atlas and the checkpoint, a table and a picture; the same command goes on
where the last one ended.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from klieg import shell
from klieg.errors import KliegError
from klieg.shell import Language

if TYPE_CHECKING:
    from klieg.analysis.atlas import Atlas

FILE = "atlas.safetensors"
SHOWN = 3       # heads of every score


def atlas(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A bundled name, a folder, or a Hugging Face id; with "
                                         "--compare the folder of an atlas.")],
    corpus: Annotated[str, typer.Argument(metavar="CORPUS", help="A text in UTF-8, its documents set apart by blank lines, or "
                                          ".jsonl with a \"text\" in every line; also .gz. With --compare another atlas.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="Where the atlas is kept, and goes "
                                             "on.")] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="Stop after so many tokens; by default at the corpus's "
                                               "end.")] = None,
    window: Annotated[int | None, typer.Option(min=1, help="Tokens of a text; by default 256, or the model's positions if "
                                               "fewer.")] = None,
    by: Annotated[str | None, typer.Option(metavar="SCORE", help="The score of the picture, for example induction.")] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Print the heads in which two atlases differ most.")] = False,
    lang: Language = None,
) -> None:
    """Score what every head of a model does over a corpus.

    Induction, previous token and more, each with its interval and its chance. Interrupt it at any time and give the same
    command to go on.
    """
    from klieg.analysis.atlas import SCORES
    from klieg.views.atlas import left_out, word

    language = shell.language(lang)
    if by is not None:
        shell.one_of("by", by, SCORES)
    if compare:
        given = [name for name, value in (("out", out), ("tokens", tokens), ("window", window)) if value is not None]
        if given:
            raise KliegError(f"--compare reads two atlases and no corpus; leave --{given[0]} away.")
        _compare(Path(model), Path(corpus), [by] if by else SCORES, language)
        return
    if out is None:
        raise KliegError("an atlas is kept in a folder; name one, for example -o atlas.")
    found = _made(model, corpus, out, tokens, window)
    if by is None:
        by = "induction" if found.has("induction") else "previous" if found.has("previous") else "entropy"
    _drawn(found, out, by, language)
    console = shell.console(error=True)
    console.print(word("read", language, **found.counts) + ("" if found.whole else word("more", language)), soft_wrap=True)
    for line in left_out(found.counts, _shortest(), language):
        console.print(line, soft_wrap=True)


def _made(model: str, corpus: str, out: Path, tokens: int | None, window: int | None) -> Atlas:
    """The atlas of the folder, new or gone on with, as far as was asked for."""
    from klieg.analysis.atlas import begin, gather
    from klieg.analysis.corpus import Corpus
    from klieg.analysis.reader import load
    from klieg.views.atlas import left_out
    from klieg.views.progress import counted

    texts, reader, path = Corpus(corpus), load(model), out / FILE
    found = begin(reader, texts, window, path)
    with suppress(OSError):     # what is wrong with the folder is said where the file is tried
        out.mkdir(parents=True, exist_ok=True)
    console = shell.console(error=True)
    try:
        shell.writable(path)
        if found.whole or (tokens is not None and found.counts["tokens"] >= tokens):
            console.print(f"{path} has all of it already; nothing is left to read", soft_wrap=True)
            return found
        if found.counts["windows"]:
            console.print(f"going on after {found.counts['tokens']:,} tokens", soft_wrap=True)
        with counted("tokens", console) as step:
            gather(found, reader, texts, tokens, path, step=step)
    except KliegError as e:
        kept = f" {path} has what was saved last; the same command goes on from there." if path.exists() else ""
        raise KliegError(f"{e}{kept}") from None
    finally:
        if not path.exists():
            with suppress(OSError):
                out.rmdir()
    if not found.rows:
        why = "; ".join(left_out(found.counts, _shortest(), "en")) or "it is empty"
        raise KliegError(f"{corpus} has no text of {_shortest()} tokens or more ({why}); name another corpus.")
    return found


def _shortest() -> int:
    from klieg.analysis.reader import SHORTEST

    return SHORTEST


def _drawn(found: Atlas, out: Path, by: str, language: str) -> None:
    """The table and the picture beside the atlas, and on standard output the highest heads of every score."""
    from klieg.analysis.atlas import SCORES
    from klieg.analysis.behaviour import UNITS
    from klieg.views.atlas import grid, highest

    if not found.has(by):
        raise KliegError(f"no text had anything of {by!r}; the atlas is kept in {out / FILE}, choose another score with --by.")
    picture = grid(found.model, by, UNITS[by], found.rows, found.means(by), language=language)
    shell.deliver({out / "atlas.csv": found.csv().encode(), out / "atlas.svg": shell.drawn(picture, "svg")})
    print(f"wrote {out / FILE}", file=sys.stderr)
    shell.console().print(highest((line for score in SCORES for line in found.table(score)[:SHOWN]), language))


def _compare(first: Path, second: Path, scores: list[str], language: str) -> None:
    from klieg.analysis.atlas import Atlas, compare
    from klieg.views.atlas import differences

    a, b = (Atlas.load(path / FILE if path.is_dir() else path) for path in (first, second))
    found = [one for score in scores for one in compare(a, b, score)[:SHOWN]]
    if not found:
        raise KliegError(f"{first} and {second} have no score in common; make both with one version of Klieg.")
    shell.console().print(differences(found, (str(first), str(second)), language))
