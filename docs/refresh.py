"""What the documents print: every command and snippet in them is run, and its output put under it.

    python docs/refresh.py        # after new weights, or after a change of what Klieg prints

A block of output follows a comment that names its source, a command of a shell block above it, or
`python` for the snippet above it. Of a long output it shows the lines from one pattern to (or up to)
another. A comment may also name the command that draws the picture below it.

    <!-- output: klieg models -->
    <!-- output from "Next" to "✓": klieg explain "I love you" -->
    <!-- picture: klieg explain "I love you" --svg docs/explain.svg -->

All runs in one process and, but for pictures, in an empty folder. Chinese documents run in Chinese.
tests/test_readme.py runs the same functions to see that no document is out of date.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).parents[1]
ENGLISH = [ROOT / "README.md", ROOT / "docs/tour.md"]
CHINESE = [path.with_suffix(".zh.md") for path in ENGLISH]
COLUMNS = "88"      # as wide as a code block is on most pages

_BLOCK = re.compile(r'(?:^<!-- output(?: from "(?P<first>.+?)" (?P<to>to|up to) "(?P<last>.+?)")?: (?P<source>.+?) -->\n)?'
                    r"^```(?P<kind>\w+)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_PICTURE = re.compile(r"^<!-- picture: (.+?) -->$", re.MULTILINE)
_NUMBER = re.compile(r"(\d+(?:\.\d+)?(?:e[-+]?\d+)?)")
_BARS = re.compile("[▁▂▃▄▅▆▇█▉▊▋▌▍▎▏]+")
# The tour's training run, made short: it is run to see that it runs.
_SHORT = {"steps": 2, "warmup": 1, "batch": 2, "validate_every": 2, "validation_rows": 2, "checkpoint_every": 2,
          "average": 1, "batch_tokens": 256}


@dataclass(frozen=True)
class Block:
    """A fenced block; one with a `source` shows what that command or snippet prints."""

    kind: str
    body: str
    source: str | None
    first: str | None
    last: str | None
    inclusive: bool
    start: int
    end: int

    def commands(self) -> list[str]:
        """The lines of a shell block that are commands."""
        lines = self.body.splitlines() if self.kind == "sh" else []
        return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]

    def cut(self, output: str) -> str:
        """The lines that this block shows of its source's output."""
        lines = [line.rstrip() for line in output.strip("\n").splitlines()]
        if self.first is not None:
            begin = next(n for n, line in enumerate(lines) if re.match(self.first, line.lstrip()))
            end = next(n for n, line in enumerate(lines) if n >= begin and re.match(self.last, line.lstrip()))
            lines = lines[begin:end + self.inclusive]
        return "\n".join(lines).rstrip() + "\n"


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a document, in order."""
    return [Block(m["kind"], m["body"], m["source"], m["first"], m["last"], m["to"] == "to", m.start("body"), m.end("body"))
            for m in _BLOCK.finditer(text)]


def words(command: str) -> list[str]:
    """A command as the shell reads it, without its comment."""
    return shlex.split(command, comments=True)


@dataclass
class Reader:
    """Somebody who does what a document says, from top to bottom, in a folder of their own."""

    folder: Path
    chinese: bool = False
    names: dict = field(default_factory=dict)
    """What the Python snippets have defined so far."""

    def prepare(self) -> None:
        """What a reader brings along: a text of their own, pairs of sentences, a treebank, and the recipes."""
        nouns = "cat dog moon house river bird child letter garden song winter road friend lamp".split()
        lines = [f"The {nouns[n % 14]} and the {nouns[n * 5 % 13]} met {nouns[n * n % 11]} number {n}." for n in range(3000)]
        (self.folder / "my-text.txt").write_text("\n\n".join(lines), "utf-8")
        (self.folder / "my-pairs.en").write_text("\n".join(lines), "utf-8")
        (self.folder / "my-pairs.de").write_text("\n".join(line.upper() for line in lines), "utf-8")
        parts = "2 det", "3 nsubj", "0 root", "5 det", "3 obj"       # of each word: the place of its head, and what it is to it
        trees = [zip(f"The {nouns[n % 14]} met a {nouns[n * 5 % 13]}".split(), parts, strict=True) for n in range(12)]
        rows = [[f"{at} {word} _ _ _ _ {part} _ _\n" for at, (word, part) in enumerate(tree, 1)] for tree in trees]
        (self.folder / "my-treebank.conllu").write_text("\n".join(map("".join, rows)).replace(" ", "\t"), "utf-8")
        (self.folder / "recipes").mkdir()
        for path in (ROOT / "recipes").glob("*.toml"):
            recipe = path.read_text("utf-8")
            for name, value in _SHORT.items():
                recipe = re.sub(rf"^{name} = \d+", f"{name} = {value}", recipe, flags=re.MULTILINE)
            (self.folder / "recipes" / path.name).write_text(recipe, "utf-8")

    def run(self, command: str) -> str:
        """What one command of the document prints. Other programs than klieg are left to the reader."""
        arguments, said = words(command), ""
        if arguments[0] == "echo" and "|" in arguments:
            said, arguments = arguments[1] + "\n", arguments[arguments.index("|") + 1:]
        if arguments[0] != "klieg":
            return ""
        if arguments[1:3] == ["train", "recipes/chat.toml"]:  # hours, and texts that are not here
            from klieg.recipe import read
            read(self.folder / "recipes/chat.toml")
            return ""
        if arguments[1] == "serve":                           # all but the serving, which Ctrl-C would end
            with patch("klieg.explorer.server.serve"), contextlib.suppress(KeyboardInterrupt):
                klieg(arguments[1:], said, self.folder, self.chinese)
            return ""
        return klieg(arguments[1:], said, self.folder, self.chinese)

    def snippet(self, code: str) -> str:
        """What a Python snippet prints; snippets of one document share their names."""
        out = io.StringIO()
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(out):
            exec(compile(code, "<snippet>", "exec"), self.names)
        return out.getvalue()

    def outputs(self, text: str, everything: bool = True) -> Iterator[tuple[Block, str]]:
        """Follow a document; each block of output with what stands there now. Or run only what such blocks show."""
        printed: dict[str, str] = {}
        wanted = {block.source for block in blocks(text)}
        for block in blocks(text):
            if block.source is not None:
                yield block, block.cut(printed[block.source])
            elif block.kind == "python":
                printed["python"] = self.snippet(block.body)
            for command in block.commands():
                plain = command.split("  #")[0].rstrip()
                if everything or plain in wanted:
                    printed[plain] = self.run(command)


def klieg(arguments: list[str], said: str = "", folder: Path = ROOT, chinese: bool = False) -> str:
    """The command line, in this process: what it prints. A failure is raised with its message."""
    from klieg.cli import main

    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    stdin = io.TextIOWrapper(io.BytesIO(said.encode()), "utf-8")
    environment = {"COLUMNS": COLUMNS, "LC_ALL": "zh_CN.UTF-8" if chinese else "C.UTF-8", "NO_COLOR": "1", "FORCE_COLOR": ""}
    with (patch.dict(os.environ, environment), patch.object(sys, "argv", ["klieg", *arguments]),
          patch.object(sys, "stdin", stdin), contextlib.chdir(folder), contextlib.redirect_stdout(out),
          contextlib.redirect_stderr(err)):
        try:
            main()
            status = 0
        except SystemExit as end:
            status = end.code
    if status:
        raise RuntimeError(f"klieg {shlex.join(arguments)} ended with {status}: {err.buffer.getvalue().decode()}")
    return out.buffer.getvalue().decode()


def same(then: str, now: str) -> bool:
    """Whether two outputs agree but for the rounding of another machine: the last digit, an eighth of a bar."""
    a, b = (_NUMBER.split(_BARS.sub("█", text)) for text in (then, now))
    if [part.split() for part in a[::2]] != [part.split() for part in b[::2]]:
        return False
    return all(_close(x, y) for x, y in zip(a[1::2], b[1::2], strict=True))


def _close(x: str, y: str) -> bool:
    digit = 1.0 if "." not in x and "." not in y else 10.0 ** -min(len(n.partition(".")[2].split("e")[0]) for n in (x, y))
    if "e" not in x + y and "." not in x + y:
        return x == y
    return math.isclose(float(x), float(y), rel_tol=1e-3, abs_tol=1e-5 if "e" in x + y else max(1.5 * digit, 1e-5))


def pictures(text: str) -> list[tuple[list[str], Path]]:
    """The commands that draw a document's pictures, and the files they write."""
    found = [words(command)[1:] for command in _PICTURE.findall(text)]
    return [(arguments, ROOT / arguments[arguments.index("--svg") + 1]) for arguments in found]


def first_trace() -> bytes:
    """What the Explorer's page shows before anything was computed."""
    from klieg.explorer.first import MODEL, TEXT
    from klieg.views.wire import whole
    from klieg.watch import trace

    return whole(trace(MODEL, TEXT))


def main() -> None:
    import gallery

    from klieg.explorer.first import FILE

    FILE.write_bytes(first_trace())
    gallery.refresh()
    for path in ENGLISH + CHINESE:
        text, chinese = path.read_text("utf-8"), path in CHINESE
        with tempfile.TemporaryDirectory() as folder:
            reader = Reader(Path(folder), chinese)
            reader.prepare()
            stale = [(block, now) for block, now in reader.outputs(text) if not same(block.body, now)]
        for block, now in reversed(stale):
            text = text[:block.start] + now + text[block.end:]
        path.write_text(text, "utf-8")
        for arguments, _ in pictures(text):
            klieg(arguments, chinese=chinese)
        print(f"{path.relative_to(ROOT)}: {len(stale)} outputs written anew")


if __name__ == "__main__":
    main()
