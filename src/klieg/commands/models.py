"""The commands about models as they lie on disk: `models` lists the bundled ones, `export` writes one for another program."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from klieg import shell
from klieg.shell import Language, Model

LINE = 10_000        # columns that a line of the table may have


def list_models(lang: Language = None) -> None:
    """The models that come with Klieg."""
    from rich.table import Table

    from klieg import checkpoint, models
    from klieg.config import parse_config
    from klieg.views.words import say

    table = Table(box=None, pad_edge=False, header_style="dim")
    language = shell.language(lang)
    for column in ("name", "shape", "layers", "heads", "kv heads", "positions", "parameters", "folder"):
        table.add_column(say(f"model {column}", language), no_wrap=True)
    for name in models.bundled():
        folder = models.find(name)
        config = parse_config(checkpoint.read_config(folder), str(folder))
        model = models.outline(config)
        table.add_row(name, config.model_type, str(model.layers), str(model.heads), str(model.kv_heads),
                      str(model.positions), f"{model.parameter_count / 1e6:.1f} M", str(folder))
    # A path is there to be copied: where a terminal is narrower, it breaks the line itself, and no column is folded.
    console = shell.console()
    console.width = console.measure(table, options=console.options.update(max_width=LINE)).maximum
    console.print(table)


def export(
    to: Annotated[str, typer.Option(help="ctranslate2, gguf, huggingface or onnx.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Written whole or not at all.")],
    model: Model = "chat",
    quantization: Annotated[str, typer.Option(help="Of ctranslate2: none, int8, int16, float16, bfloat16, ...")] = "none",
    lang: Language = None,
) -> None:
    """Write a model for another program."""
    from klieg.export import export as written

    shell.language(lang)
    for line in written(model, to, out, quantization):
        print(shell.said(line), file=sys.stderr)
    shell.wrote(out)
