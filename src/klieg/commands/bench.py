"""The commands `bench`: what Klieg costs on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from klieg import shell
from klieg.shell import Language


def attention(
    repetitions: Annotated[int, typer.Option(min=1, help="Turns of each; the median of their ratios is printed.")] = 7,
    device: Annotated[str, typer.Option(help="cpu, or cuda or cuda:1 for a GPU of NVIDIA, in bfloat16.")] = "cpu",
    lang: Language = None,
) -> None:
    """What attention costs here with its survey, beside torch's own attention alone; some minutes."""
    from klieg.bench import cases, measured
    from klieg.views.costs import costs

    language = shell.language(lang)
    usual = cases(device)
    costs(measured(usual, repetitions), len(usual), shell.console(), language)
