"""The command line: which commands there are; each is in commands/, and how the process starts and ends in shell.py."""

from __future__ import annotations

from functools import cache

import typer

from klieg import shell
from klieg.commands import (
    ablate,
    atlas,
    bench,
    coref,
    explain,
    flow,
    generate,
    lab,
    maps,
    models,
    serve,
    sparse,
    train,
    translate,
    whatif,
)
from klieg.tongue import asked

COMMANDS = {
    "explain": explain.explain,
    "map": maps.map_text,
    "heads": maps.heads,
    "zoom": maps.zoom,
    "atlas": atlas.atlas,
    "ablate": ablate.ablate,
    "whatif": whatif.whatif,
    "flow": flow.flow,
    "sparse": sparse.sparse,
    "coref": coref.coref,
    "grammar": coref.grammar,
    "lab": lab.lab,
    "translate": translate.translate,
    "evaluate": translate.evaluate,
    "align": translate.align,
    "generate": generate.generate,
    "chat": generate.chat,
    "fill": generate.fill,
    "export": models.export,
    "train": train.train,
    "data": train.data,
    "models": models.list_models,
    "serve": serve.serve,
}

app = typer.Typer(help="Look into Transformers: exact attention, every number of it real.", add_completion=False,
                  rich_markup_mode=None)
benches = typer.Typer(help="Measure Klieg on this machine.", rich_markup_mode=None)

for _name, _command in COMMANDS.items():
    app.command(_name)(_command)
app.add_typer(benches, name="bench")
benches.command("attention")(bench.attention)


@cache
def _program(language: str) -> typer.core.TyperGroup:
    """All commands with their options, read off the functions above once in a process, and their help in a language."""
    if language == "en":
        return typer.main.get_command(app)
    from klieg.commands.help import chinese
    return chinese(typer.main.get_command(app))


def main() -> None:
    """Run the command that sys.argv names; ends by SystemExit if it cannot be done."""
    shell.run(_program(asked()))
