"""The commands `bench`: what Klieg costs on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from klieg import shell
from klieg.shell import Language


def attention(
    repetitions: Annotated[int, typer.Option(min=1, help="Turns of each; the median of their ratios is printed.")] = 7,
    lang: Language = None,
) -> None:
    """What attention costs here with its survey, beside torch's own attention alone; some minutes."""
    from klieg.bench import USUAL, measured
    from klieg.views.costs import costs

    language = shell.language(lang)
    costs(measured(USUAL, repetitions), len(USUAL), shell.console(), language)
