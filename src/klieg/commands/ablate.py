"""The command `ablate`: what muting each head, group or layer does to a model's loss over a corpus."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from klieg import shell
from klieg.shell import Language

if TYPE_CHECKING:
    from klieg.analysis.ablation import Ablation

FILE = "ablation.safetensors"


def ablate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A bundled name, a folder, or a Hugging Face id, of Llama's or "
                                         "GPT-2's shape.")],
    corpus: Annotated[str, typer.Argument(metavar="CORPUS", help="A text in UTF-8, its documents set apart by blank lines, or "
                                          ".jsonl with a \"text\" in every line; also .gz.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Where the ablation is kept, and goes on.")],
    of: Annotated[str, typer.Option(help="What is muted at a time: heads, groups (those of one key/value head), or "
                                    "layers.")] = "heads",
    tokens: Annotated[int | None, typer.Option(min=1, help="Stop after so many tokens; by default at the corpus's "
                                               "end.")] = None,
    window: Annotated[int | None, typer.Option(min=1, help="Tokens of a text; by default 256, or the model's positions if "
                                               "fewer.")] = None,
    parquet: Annotated[bool, typer.Option("--parquet", help="The table as Parquet too.")] = False,
    lang: Language = None,
) -> None:
    """Mute each head in turn, and measure the loss over a corpus.

    In nats a token, with a 95 % interval. Interrupt it at any time and give the same command to go on. Several processes
    share a corpus: torchrun --nproc-per-node 2 -m klieg ablate MODEL CORPUS -o FOLDER
    """
    from klieg.analysis.ablation import OF, empty, muted
    from klieg.analysis.atlas.columns import need_parquet
    from klieg.analysis.atlas.corpus import Corpus
    from klieg.analysis.atlas.probes import Plain
    from klieg.analysis.reader import load
    from klieg.commands.census import census, tell

    language = shell.language(lang)
    shell.one_of("of", of, list(OF))
    if parquet:
        need_parquet()
    texts, reader = Corpus(corpus), load(model)
    probe = Plain(reader)
    found = census(lambda: empty(reader, texts, of, window), lambda ablation: muted(ablation, reader), texts, probe, out / FILE,
                   tokens, window)
    if found is not None:
        _written(found, out, parquet, language)
        tell(found, probe, language)


def _written(found: Ablation, out: Path, parquet: bool, language: str) -> None:
    """Table and picture beside the ablation; on standard output what is missed most and least."""
    from klieg.analysis.atlas import columns
    from klieg.views.ablation import ablation, effects
    from klieg.views.atlas import word

    of, lines = found.identity["unit"], found.effects()
    bodies = {out / "ablation.csv": columns.csv(lines).encode()}
    if parquet:
        bodies[out / "ablation.parquet"] = columns.parquet(lines, {"model": found.model, "whole": str(found.whole)})
    picture = ablation(found.model, of, found.rows, found.changes(), whole=found.whole, language=language)
    shell.deliver({**bodies, out / "ablation.svg": shell.drawn(picture, "svg")})
    shell.wrote(out / FILE)
    console = shell.console()
    console.print(word("loss", language, loss=found.loss), soft_wrap=True)
    console.print(effects(lines, language))
