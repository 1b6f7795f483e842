"""Those that hold a model to what people know of language: coref, whether heads look from a pronoun to what it stands for,
and grammar, whether the model finds a right sentence likelier than a wrong one.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from klieg import shell
from klieg.errors import KliegError
from klieg.shell import Device, Language, Model, Precision

if TYPE_CHECKING:
    from klieg.analysis.coreference.riddles import Riddle, Riddles
    from klieg.analysis.likelihood import Scorer
    from klieg.analysis.reader import Reader
    from klieg.device import Place

SETS = "wsc273, winobias, winogender, gap, cluewsc"
Data = Annotated[str | None, typer.Option("--data", metavar="FOLDER", help="Folder of public texts; by default KLIEG_DATA.")]
Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Numbers; - for standard output.")]


def coref(
    what: Annotated[str, typer.Argument(metavar="SET|FILE|TEXT", help=f"One of {SETS}; a file of riddles; or, with --pronoun, "
                                        "a text of your own.")],
    pronoun: Annotated[str | None, typer.Option(metavar="WORD", help="The pronoun of the text, the last of its kind.")] = None,
    candidates: Annotated[str | None, typer.Option(metavar="WORDS", help="What it may stand for, commas between, the right one "
                                                   "first.")] = None,
    at: Annotated[str, typer.Option(help="From where heads look in the text: pronoun, clause or end.")] = "pronoun",
    model: Model = "chat", device: Device = "cpu", precision: Precision = "fp32",
    data: Data = None,
    json_file: Json = None,
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="Every head in one picture, at any size.")] = None,
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="The same in pixels.")] = None,
    lang: Language = None,
) -> None:
    """See whether heads look from a pronoun to what it stands for.

    In one sentence, or over a set of riddles: the best head is chosen on one part of it and reported on the other, beside
    chance, simple baselines, and the model's own answer.
    """
    from klieg.analysis.coreference import READINGS
    from klieg.analysis.reader import load

    language, where = shell.language(lang), shell.place(device, precision)
    files = shell.files(json=json_file, svg=svg, png=png)
    shell.one_of("at", at, list(READINGS))
    if (pronoun is None) != (candidates is None):
        missing = "--candidates" if candidates is None else "--pronoun"
        raise KliegError(f"a text of your own needs its pronoun and its candidates; add {missing}.")
    if pronoun is not None and candidates is not None:
        from klieg.analysis.coreference.riddles import posed
        names = [name.strip() for name in candidates.replace("，", ",").split(",") if name.strip()]
        text = shell.given(what)
        _one(load(model, *where), posed(text, pronoun, names), names, at, files, language)
    else:
        _set(load(model, *where), _riddles(what, data), files, language)


def grammar(
    what: Annotated[str | None, typer.Argument(metavar="FILE|SENTENCE", help="Minimal pairs as BLiMP writes them, by default "
                                               "BLiMP from the folder of public texts; or the first of two sentences.")] = None,
    other: Annotated[str | None, typer.Argument(metavar="SENTENCE", help="The second, token by token beside it.")] = None,
    pairs: Annotated[int | None, typer.Option(min=1, help="Read so many pairs of each paradigm; by default all.")] = None,
    model: Model = "chat", device: Device = "cpu", precision: Precision = "fp32",
    data: Data = None,
    json_file: Json = None,
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="All phenomena, or both sentences, in one picture.")] = None,
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="The same in pixels.")] = None,
    lang: Language = None,
) -> None:
    """See whether right sentences are likelier than wrong ones.

    Minimal pairs of sentences that differ by a fault, by phenomenon, with intervals; or two sentences of your own, token by
    token.
    """
    from klieg.analysis.likelihood import Scorer

    language, where = shell.language(lang), shell.place(device, precision)
    files = shell.files(json=json_file, svg=svg, png=png)
    if other is not None:
        if pairs is not None or data is not None:
            raise KliegError("--pairs and --data are for a file of pairs; leave them out, or name one file instead of two "
                             "sentences.")
        _two(Scorer.load(model, *where), shell.given(what or ""), shell.given(other), files, language)
    else:
        _pairs(model, where, what, pairs, data, files, language)


def _two(scorer: Scorer, one: str, other: str, files: dict[str, Path], language: str) -> None:
    from klieg.analysis.grammar import contrast
    from klieg.views.contrast import contrast as drawn
    from klieg.views.palette import DARK
    from klieg.views.picture import TERMINAL
    from klieg.views.text import lower

    found = contrast(scorer, one, other)
    if files:
        shell.deliver({path: _numbers(found.as_json()) if kind == "json" else shell.drawn(drawn(found, language=language), kind)
                       for kind, path in files.items()})
        return
    console = shell.console()
    for line in lower(drawn(found, DARK, medium=TERMINAL, language=language)):
        console.print(line, soft_wrap=True)


def _pairs(model: str, where: Place, what: str | None, pairs: int | None, data: str | None, files: dict[str, Path],
           language: str) -> None:
    from klieg.analysis.grammar import FILE, read_pairs
    from klieg.analysis.grammar import grammar as ordered
    from klieg.analysis.likelihood import Scorer
    from klieg.data import data_folder
    from klieg.views.grammar import phenomena, picture
    from klieg.views.progress import counted

    path = data_folder(data) / FILE if what is None else Path(what)
    if what is not None and not _there(path):
        raise KliegError(f"there is no file {what!r}; name a file of minimal pairs, or two sentences to compare.")
    given = read_pairs(path, pairs)
    scorer = Scorer.load(model, *where)
    with counted(shell.said("sentences"), shell.console(error=True)) as step:
        found = ordered(scorer, given, step)
    if files:
        shell.deliver({path: _numbers(found.as_json()) if kind == "json" else
                       shell.drawn(picture(found.model, found.total, found.phenomena, language=language), kind)
                       for kind, path in files.items()})
        return
    shell.console().print(phenomena(found.total, found.phenomena, language))


def _there(path: Path) -> bool:
    """Whether there is anything of that name; also of a text that nothing could be named by."""
    with suppress(OSError):
        return path.exists()
    return False


def _riddles(what: str, data: str | None) -> Riddles:
    """A set or a file, its gaps filled by the bundled model."""
    from klieg.analysis.coreference.riddles import SETS, is_file, riddles
    from klieg.analysis.likelihood import Scorer
    from klieg.data import data_folder

    scorers: list[Scorer] = []

    def likeliest(choices: Any) -> list[int]:
        scorers[:] = scorers or [Scorer.load("chat")]
        return scorers[0].likeliest(choices)

    if what not in SETS and not is_file(Path(what)) and " " in what.strip():
        raise KliegError("a text of your own needs its pronoun and its candidates; add --pronoun and --candidates.")
    return riddles(what, data_folder(data) if what in SETS else None, likeliest)


def _set(reader: Reader, riddles: Riddles, files: dict[str, Path], language: str) -> None:
    from klieg.analysis.coreference import coreference
    from klieg.views.coreference import answers, remarks, set_grid
    from klieg.views.palette import DARK
    from klieg.views.picture import TERMINAL
    from klieg.views.progress import counted
    from klieg.views.text import lower

    with counted(shell.said("riddles"), shell.console(error=True)) as step:
        found = coreference(reader, riddles, step)
    if files:
        shell.deliver({path: _numbers(found.as_json()) if kind == "json" else
                       shell.drawn(set_grid(found, language=language), kind) for kind, path in files.items()})
        return
    console = shell.console()
    for line in lower(set_grid(found, DARK, medium=TERMINAL, room=console.width, language=language)):
        console.print(line)
    console.print()
    console.print(answers(found, language))
    for line in remarks(found, language):
        console.print(line, soft_wrap=True)


def _one(reader: Reader, riddle: Riddle, names: list[str], at: str, files: dict[str, Path], language: str) -> None:
    from klieg.analysis.coreference import READINGS, look, own_shares
    from klieg.analysis.likelihood import Scorer, continues
    from klieg.models import Decoder
    from klieg.views.coreference import one_grid, word
    from klieg.views.palette import DARK
    from klieg.views.picture import TERMINAL
    from klieg.views.text import lower

    found = look(reader, riddle)
    shares = found.shares(READINGS.index(at), riddle.right)
    own = own_shares(Scorer.of(reader), riddle) if continues(reader.model) else None
    right = riddle.phrase(riddle.candidates[riddle.right.index(True)])
    shown = [right, *(riddle.phrase(place) for place, good in zip(riddle.candidates, riddle.right, strict=True) if not good)]
    pronoun = riddle.phrase(riddle.pronoun)
    picture = {"rows": found.rows, "shares": shares, "where": at, "pronoun": pronoun, "names": shown, "language": language}
    if files:
        numbers = found.as_json() | {"model": reader.name, "text": riddle.text, "pronoun": pronoun,
                                     "candidates": [riddle.phrase(place) for place in riddle.candidates],
                                     "right": list(riddle.right), "itself": own}
        shell.deliver({path: _numbers(numbers) if kind == "json" else shell.drawn(one_grid(reader.name, **picture), kind)
                       for kind, path in files.items()})
        return
    console = shell.console()
    for line in lower(one_grid(reader.name, **picture, theme=DARK, medium=TERMINAL, room=console.width)):
        console.print(line)
    most, blind = found.most(READINGS.index(at), riddle.right)
    console.print(word("most", language, heads=most, all=len(shares), right=right)
                  + (word("blind", language, heads=blind) if blind else ""), soft_wrap=True)
    if own is not None:
        said = "  ".join(f"{riddle.phrase(place)} {100 * share:.1f} %" for place, share in
                         zip(riddle.candidates, own, strict=True))
        console.print(word("itself", language, pronoun=pronoun) + said, soft_wrap=True)
    if at == "pronoun" and isinstance(reader.model, Decoder):
        console.print(word("later", language, pronoun=pronoun), soft_wrap=True)


def _numbers(found: dict[str, Any]) -> bytes:
    return (json.dumps(found, ensure_ascii=False, indent=1) + "\n").encode()
