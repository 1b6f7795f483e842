"""The help of every command in Chinese.

The English stands in the commands, beside what it explains. The Chinese stands in chinese/help.toml, by the English
paragraph, and page.py lays it out. A paragraph that has no Chinese yet stays English, and tests/test_help.py names it.
"""

from __future__ import annotations

import typer

from klieg.chinese import catalogue
from klieg.commands.page import Page


class Context(typer.Context):
    """The run of a command whose help is Chinese."""

    formatter_class = Page


def chinese(command: typer.core.TyperCommand | typer.core.TyperGroup) -> typer.core.TyperCommand | typer.core.TyperGroup:
    """The command as typer made it, with Chinese help for itself and all below it. It is changed in place."""
    command.context_class = Context
    if command.help:
        command.help = text(command.help)
        command.short_help = command.help.partition("。")[0] + "。"      # typer finds no end of a sentence that is Chinese
    command.options_metavar = text(command.options_metavar)
    for param in command.get_params(Context(command)):
        param.help = text(param.help or "")
        if param.metavar or param.param_type_name == "argument":
            param.metavar = text(param.metavar or param.name)
    if isinstance(command, typer.core.TyperGroup):
        command.subcommand_metavar = text(command.subcommand_metavar)
        for below in command.commands.values():
            chinese(below)
    return command


def text(english: str) -> str:
    """Paragraphs, each in Chinese."""
    return "\n\n".join(catalogue()["help"].get(paragraph, paragraph) for paragraph in paragraphs(english))


def paragraphs(english: str) -> list[str]:
    """The paragraphs of a text, each in one line, as the catalogue has them."""
    return [" ".join(paragraph.split()) for paragraph in english.split("\n\n")]
