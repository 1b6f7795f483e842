"""The commands that let a model write: `generate` continues a text, `chat` talks, `fill` fills gaps."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from klieg import shell
from klieg.errors import KliegError
from klieg.shell import Language, Model

if TYPE_CHECKING:
    from klieg.decoders import Decoder
    from klieg.generate import Sampling
    from klieg.tokenizers import Tokenizer

Temperature = Annotated[float, typer.Option(help="0 takes the likeliest token; below 1 sharpens, above 1 flattens.")]
TopK = Annotated[int, typer.Option(help="Choose among the k likeliest tokens; 0 for all.")]
TopP = Annotated[float, typer.Option(help="Choose among the likeliest tokens of this total probability.")]
Seed = Annotated[int | None, typer.Option(help="The same seed gives the same text.")]


def generate(
    prompt: Annotated[str, typer.Argument(help="How the text begins; - reads standard input.")],
    model: Model = "chat",
    tokens: Annotated[int, typer.Option(min=1, help="At most so many new tokens.")] = 256,
    temperature: Temperature = 0.8,
    top_k: TopK = 0,
    top_p: TopP = 0.95,
    seed: Seed = None,
    lang: Language = None,
) -> None:
    """Continue a text, token by token."""
    from klieg.generate import stream
    from klieg.tokenizers import check_text

    shell.language(lang)
    sampling = _sampling(temperature, top_k, top_p, seed)
    prompt = check_text(shell.given(prompt))
    decoder, tokenizer = _decoder(model)
    pieces = stream(decoder, tokenizer, prompt, sampling, tokens)
    shell.write(prompt)
    for piece in pieces:
        shell.write(piece)
    shell.write("\n")


def chat(model: Model = "chat", temperature: Temperature = 0.7, top_k: TopK = 0, top_p: TopP = 0.9, seed: Seed = None,
         lang: Language = None) -> None:
    """Talk with a model; an empty line or Ctrl-D ends."""
    from klieg.generate import Conversation

    shell.language(lang)
    sampling = _sampling(temperature, top_k, top_p, seed)
    conversation = Conversation(*_decoder(model), sampling)
    if sys.stdin.isatty():
        print(shell.said("Talk; an empty line ends."), file=sys.stderr)
    while line := shell.ask("› "):
        for piece in conversation.say(line):
            shell.write(piece)
        shell.write("\n")


def fill(
    text: Annotated[str, typer.Argument(help="A text with [MASK] where tokens are to be found; - reads standard input.")],
    model: Annotated[str, typer.Option("--model", "-m", help="A folder or a Hugging Face id of BERT's shape.")],
    top: Annotated[int, typer.Option(min=1, help="Candidates for each [MASK].")] = 8,
    lang: Language = None,
) -> None:
    """Say what may stand at every [MASK] of a text."""
    from rich.table import Table

    from klieg import masked, models
    from klieg.views.words import say

    language = shell.language(lang)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column, side in (("mask", "right"), ("candidate", "left"), ("probability", "right")):
        table.add_column(say(f"fill {column}", language), justify=side, overflow="fold")
    for place, guesses in enumerate(masked.fill(*models.load(model), shell.given(text), top)):
        for guess in guesses:
            table.add_row(str(place) if guess.rank == 1 else "", guess.token, f"{guess.p:.2%}")
    shell.console().print(table)


def _decoder(name: str) -> tuple[Decoder, Tokenizer]:
    """A model that continues texts; KliegError for any other."""
    from klieg import models

    model, tokenizer = models.load(name)
    if not isinstance(model, models.Decoder):
        use = "klieg translate" if isinstance(model, models.Marian) else "klieg fill"
        raise KliegError(f"{name!r} does not continue texts; it is for {use}.")
    return model, tokenizer


def _sampling(temperature: float, top_k: int, top_p: float, seed: int | None) -> Sampling:
    """The options of sampling, checked."""
    from klieg.generate import Sampling

    return Sampling(temperature, top_k, top_p, seed)
