"""The command `atlas`: what every head of a model does over a whole corpus, and how two such atlases differ or add up.

The folder holds one file that is both the atlas and the checkpoint, a table, a picture and a page; the same command goes
on where the last one ended.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from klieg import shell
from klieg.errors import KliegError
from klieg.shell import Device, Language, Precision

if TYPE_CHECKING:
    from klieg.analysis.atlas import Atlas
    from klieg.device import Place
    from klieg.views.picture import Picture

FILE = "atlas.safetensors"
SHOWN = 3       # heads of every score


def atlas(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A bundled name, a folder, or a Hugging Face id; with "
                                         "--compare and --add the folder of an atlas.")],
    corpus: Annotated[str | None, typer.Argument(metavar="CORPUS", help="A text in UTF-8, its documents set apart by blank "
                                                 "lines, .jsonl with a \"text\" in every line, or a treebank in CoNLL-U, "
                                                 ".conllu; also .gz. With --compare and --add another atlas.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="Where the atlas is kept, and goes "
                                             "on.")] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="Stop after so many tokens; by default at the corpus's "
                                               "end.")] = None,
    window: Annotated[int | None, typer.Option(min=1, help="Tokens of a text; by default 256, 1024 for needles, or the "
                                               "model's positions if fewer.")] = None,
    probe: Annotated[str | None, typer.Option(metavar="PROBE", help="repeated: random tokens, each stretch twice, and no "
                                              "CORPUS; needle: a number hidden in each text and asked for at its "
                                              "end.")] = None,
    by: Annotated[str | None, typer.Option(metavar="SCORE", help="The score of the picture, for example induction; "
                                            "of a treebank the relation, for example nsubj.")] = None,
    parquet: Annotated[bool, typer.Option("--parquet", help="The table as Parquet too.")] = False,
    compare: Annotated[bool, typer.Option("--compare", help="Print the heads in which two atlases differ most.")] = False,
    add: Annotated[bool, typer.Option("--add", help="Add two atlases of one model over different corpora.")] = False,
    device: Device = "cpu", precision: Precision = "fp32",
    lang: Language = None,
) -> None:
    """Score what every head of a model does over a corpus.

    Induction, previous token and more, each with its interval and its chance; over a treebank, whether heads find the head
    and the dependents of a word. Interrupt a corpus at any time and give the same command to go on.
    Several processes share it: torchrun --nproc-per-node 2 -m klieg atlas MODEL CORPUS -o FOLDER
    """
    from klieg.analysis.atlas import SCORES
    from klieg.analysis.atlas.columns import need_parquet
    from klieg.analysis.atlas.probes import PROBES
    from klieg.analysis.treebank import SUFFIXES
    from klieg.commands.syntax import syntax

    language = shell.language(lang)
    gold, where = (corpus or "").lower().endswith(SUFFIXES), shell.place(device, precision)
    if by is not None and not gold:
        shell.one_of("by", by, SCORES)
    if probe is not None:
        shell.one_of("probe", probe, list(PROBES))
    if parquet:
        need_parquet()
    if gold and not (compare or add):
        _refused({"tokens": tokens, "window": window, "probe": probe}, "a treebank is read whole, sentence by sentence")
        syntax(model, where, Path(corpus or ""), _folder(out), by, parquet, language)
        return
    if compare or add:
        elsewhere = {"device": None if device == "cpu" else device, "precision": None if precision == "fp32" else precision}
        _two(model, corpus, {"tokens": tokens, "window": window, "probe": probe} | elsewhere, "compare" if compare else "add")
    if compare:
        if out is not None or add:
            raise KliegError("--compare prints and writes nothing; leave --out and --add away.")
        _compare(Path(model), Path(corpus or ""), [by] if by else SCORES, language)
        return
    out = _folder(out)
    if add:
        _written(_sum(Path(model), Path(corpus or ""), out), out, by, parquet, language)
        return
    _read(model, where, corpus, out, tokens, window, probe, lambda found: _written(found, out, by, parquet, language), language)


def _two(first: str, second: str | None, given: dict[str, object], option: str) -> None:
    """KliegError unless there are two atlases, and nothing that belongs to a reading."""
    if second is None:
        raise KliegError(f"--{option} is of two atlases; name another one beside {first}.")
    _refused(given, f"--{option} is of two atlases and reads no corpus")


def _refused(given: dict[str, object], why: str) -> None:
    """KliegError if one of these options was given."""
    for name, value in given.items():
        if value is not None:
            raise KliegError(f"{why}; leave --{name} away.")


def _folder(out: Path | None) -> Path:
    if out is None:
        raise KliegError("an atlas is kept in a folder; name one, for example -o atlas.")
    return out


def _read(model: str, where: Place, corpus: str | None, out: Path, tokens: int | None, window: int | None, asked: str | None,
          write: Callable[[Atlas], None], language: str) -> None:
    """Read the corpus into the atlas of the folder, new or gone on with; the first process writes what it shows."""
    from klieg.analysis.atlas import empty, scored
    from klieg.analysis.atlas.corpus import Corpus
    from klieg.analysis.atlas.probes import PROBES, Draws, Plain
    from klieg.analysis.reader import load
    from klieg.commands.census import census, tell

    if (corpus is None) != (asked == "repeated"):
        raise KliegError("random tokens need no corpus; leave it away." if corpus is not None else
                         "an atlas needs a corpus; name a text file, for example: klieg atlas chat my-text.txt -o atlas.")
    source = Draws() if corpus is None else Corpus(corpus)
    reader = load(model, *where)
    probe = PROBES.get(asked or "", Plain)(reader)
    found = census(lambda: empty(reader, source, window, probe), lambda atlas: scored(atlas, reader), source, probe, out / FILE,
                   tokens, window)
    if found is not None:
        write(found)
        tell(found, probe, language)


def _sum(first: Path, second: Path, out: Path) -> Atlas:
    """The sum of two atlases, in a folder that has none."""
    path = out / FILE
    found = _opened(first) + _opened(second)
    if path.exists():
        raise KliegError(f"{path} is there already; choose another folder for the sum.")
    with suppress(OSError):
        out.mkdir(parents=True, exist_ok=True)
    found.save(path)
    return found


def _opened(path: Path) -> Atlas:
    from klieg.analysis.atlas import Atlas

    return Atlas.load(path / FILE if path.is_dir() else path)


def _written(found: Atlas, out: Path, by: str | None, parquet: bool, language: str) -> None:
    """Table, picture and page beside the atlas, and on standard output the highest heads of every score."""
    from klieg.analysis.atlas import SCORES, columns
    from klieg.views.atlas import highest, word
    from klieg.views.ledger import ledger

    by = by or next((score for score in ("retrieval", "induction", "previous") if found.has(score)), "entropy")
    if not found.has(by):
        raise KliegError(f"no text had anything of {by!r}; the atlas is kept in {out / FILE}, choose another score with --by.")
    lines, pictures = found.lines(), _pictures(found, by, language)
    bodies = {out / "atlas.csv": columns.csv(lines).encode()}
    if parquet:
        bodies[out / "atlas.parquet"] = columns.parquet(lines, {"model": found.model, "whole": str(found.whole)})
    bodies |= {out / "atlas.svg": shell.drawn(pictures[by], "svg"),
               out / "atlas.html": ledger(found.model, lines, {word(score, language): picture for score, picture in
                                                               pictures.items()},
                                          [word("read", language, **found.counts), word("columns", language),
                                           word("units", language)],
                                          "" if found.whole else word("partial", language), language=language).encode()}
    shell.deliver(bodies)
    shell.wrote(out / FILE)
    shell.console().print(highest((line for score in SCORES for line in found.table(score)[:SHOWN]), language))


def _pictures(found: Atlas, by: str, language: str) -> dict[str, Picture]:
    """The grid of all heads for every score that all of them have, the one that was asked for first; that one must be."""
    from klieg.analysis.atlas import SCORES
    from klieg.analysis.behaviour import UNITS
    from klieg.views.atlas import grid

    drawn = {}
    for score in [by, *(score for score in SCORES if score != by and found.everywhere(score))]:
        drawn[score] = grid(found.model, score, UNITS[score], found.rows, found.means(score), whole=found.whole,
                            language=language)
    return drawn


def _compare(first: Path, second: Path, scores: list[str], language: str) -> None:
    from klieg.analysis.atlas import compare
    from klieg.views.atlas import differences, word

    a, b = _opened(first), _opened(second)
    found = [one for score in scores for one in compare(a, b, score)[:SHOWN]]
    if not found:
        raise KliegError(f"{first} and {second} have no score in common; make both with one version of Klieg.")
    shell.console().print(differences(found, (str(first), str(second)), language))
    if a.window != b.window:
        shell.console(error=True).print(word("windows", language, a=a.window, b=b.window), soft_wrap=True)
