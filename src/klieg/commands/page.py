"""A page of help in Chinese: typer's page, with its own words in Chinese and laid out by columns.

A Chinese character takes two columns and may be followed by a line's end without a space, but no
line begins with a mark that closes or ends with one that opens; typer counts characters and breaks at spaces.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import typer

from klieg.views.glyphs import width

HEADINGS = {"Arguments": "参数", "Options": "选项", "Commands": "命令"}
EXTRAS = {"required": "必填", "default: ": "默认："}
TYPES = {"str": "字符串", "int": "整数", "float": "小数", "path": "路径", "list[str]": "字符串列表", "list[Path]": "路径列表"}
# A space, and what no line's end may part: what stands in quotes, narrow characters without a space, or a wide one, with the
# marks around them.
PIECE = re.compile(r"( *)([（《]*(?:'[^']+'|[^ \u2e80-\uffef]+|[\u2e80-\uffef])[，。；：！？、）》]*)")
WORD = re.compile(r"( *)([^ ]+)")


class Page(typer.Context.formatter_class):
    """What typer writes a page of help with. Its texts are Chinese already (help.py)."""

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        """How the command is written; typer's `prefix` is its English one."""
        start = f"用法：{prog} "
        self._lines(wrapped(args, self.width - width(start), WORD), start)

    def write_heading(self, heading: str) -> None:
        """What the lines below it are."""
        self._lines([f"{HEADINGS.get(heading, heading)}："])

    def write_text(self, text: str) -> None:
        """Paragraphs, a blank line between them."""
        for n, paragraph in enumerate(text.split("\n\n")):
            self.write("\n" if n else "")
            self._lines(wrapped(paragraph, self.width - self.current_indent))

    def write_dl(self, rows: Sequence[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        """Names and what they are, side by side; beside a name wider than `col_max`, from the next line on."""
        named = [(re.sub(r"<([\w\[\]]+)( range)?>", _type, name), said) for name, said in rows]
        column = min(max(width(name) for name, _ in named), col_max) + col_spacing
        for name, said in named:
            fits = width(name) <= column - col_spacing
            if not fits:
                self._lines([name])
            self._lines(explained(said, self.width - column - self.current_indent),
                        name + " " * (column - width(name)) if fits else " " * column)

    def _lines(self, lines: list[str], start: str = "") -> None:
        """Lines below each other, the first of them behind `start`."""
        for n, line in enumerate(lines):
            self.write(" " * self.current_indent + (" " * width(start) if n else start) + line + "\n")


def explained(said: str, columns: int) -> list[str]:
    """What an option is, and in brackets its default, its range and whether it must be given, which typer adds in English."""
    text, bracket, extras = said.rpartition("  [")
    if not bracket:
        return wrapped(said, columns)
    for english, chinese in EXTRAS.items():
        extras = re.sub(rf"(^|; ){english}", rf"\1{chinese}", extras)
    lines, extras = wrapped(text, columns), "[" + extras.replace("; ", "；")
    if width(lines[-1]) + 2 + width(extras) <= columns:
        lines[-1] += f"  {extras}"
    else:
        lines.append(extras)
    return lines


def wrapped(text: str, columns: int, pieces: re.Pattern = PIECE) -> list[str]:
    """The text in lines of so many columns; a piece wider than that has a line of its own."""
    lines = [""]
    for space, piece in pieces.findall(text):
        if lines[-1] and width(lines[-1] + space + piece) > columns:
            lines.append(piece)
        else:
            lines[-1] += space + piece
    return lines


def _type(found: re.Match) -> str:
    """A type in Chinese; which numbers may be given stands in the brackets."""
    return f"<{TYPES.get(found[1], found[1])}>"
