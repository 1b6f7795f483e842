"""What every command shares: how the process starts and ends, what it is given, and where it writes.

A user's mistake ends in one line on standard error and status 1, or 2 where the command itself is
misspelt; of several processes one tells it. Nothing that a terminal would obey is written to one.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, TextIO

import typer

from klieg.chinese import chinese
from klieg.errors import Follows, KliegError, KliegWarning, first_line
from klieg.tongue import LANGUAGES, asked, spoken

if TYPE_CHECKING:
    from rich.console import Console

    from klieg.device import Place
    from klieg.views.picture import Picture

Model = Annotated[str, typer.Option("--model", "-m", help="A bundled name, a folder, or a Hugging Face id.")]
Device = Annotated[str, typer.Option(help="Where the model computes: cpu, cuda, or cuda:1 for the second GPU of NVIDIA.")]
Precision = Annotated[str, typer.Option(help="The type in which it computes: fp32, bf16 or fp16.")]
Language = Annotated[str | None, typer.Option("--lang", help="en or zh; by default the system's.")]

MOST_TEXT = 2**28  # bytes of a text
ORDER = "\ufeff"   # the byte order mark, by which editors of Windows begin a text
HEARD = 1.0        # seconds: the launcher of several processes ends all at once if one ends, and another is to speak first


def run(command: typer.core.TyperCommand | typer.core.TyperGroup) -> None:
    """Run the command that sys.argv names; ends by SystemExit if it cannot be done."""
    _streams()
    warnings.showwarning = _warned
    try:
        with command.make_context("klieg", sys.argv[1:] or ["--help"]) as context:
            command.invoke(context)
        sys.stdout.flush()
    except typer.Exit as e:
        sys.exit(e.exit_code)
    except typer.TyperException as e:
        _end(_usage(e), 2)
    except Follows as e:
        time.sleep(HEARD)
        _leave_word(str(e))
        sys.exit(1)
    except KliegError as e:
        _end(str(e), 1)
    except BrokenPipeError:
        # The reader of our output went away, which is its right; closing quietly is what it expects.
        _forget_output()
        sys.exit(1)
    except OSError as e:
        _forget_output()
        _end(f"{e.filename or 'standard output'} failed: {(e.strerror or first_line(e)).lower()}.", 1)


def _streams() -> None:
    """Make standard streams safe to use: a closed one is empty, and a letter that one cannot write is a question mark."""
    if sys.stdout is None:
        _end("standard output is closed; send it to a file or to /dev/null.", 1)
    for name, mode in (("stdin", "r"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _warned(message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None,
            line: str | None = None) -> None:
    """In place of warnings.showwarning: what Klieg warns of is said as its mistakes are, other libraries' as Python does."""
    if issubclass(category, KliegWarning):
        tell(str(message), asked())
    elif sys.stderr is not None:
        sys.stderr.write(warnings.formatwarning(str(message), category, filename, lineno, line))


def _forget_output() -> None:
    """What is still buffered for a standard output that takes no more goes nowhere, or Python's exit would fail over it."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _usage(error: typer.TyperException) -> str:
    """What is wrong with the command itself, and where its help is."""
    said, context = error.format_message().strip(), getattr(error, "ctx", None)
    if said.startswith("Got unexpected extra argument"):
        texts = context is not None and any(param.param_type_name == "argument" for param in context.command.params)
        hint = "a text of several words stands in quotes" if texts else "this command takes nothing but options"
        said = f"{said.rstrip('.')}; {hint}."
    end = "" if said.endswith((".", "?")) else "."
    return f"{said[:1].lower()}{said[1:]}{end} See {context.command_path if context else 'klieg'} --help."


def _end(line: str, status: int) -> NoReturn:
    """One line on standard error, without anything in it that a terminal would obey; then the end."""
    tell(line, asked())
    _leave_word(line)
    sys.exit(status)


def _leave_word(line: str) -> None:
    """What torchrun shall give as the cause in its summary, in the form of torch's own ErrorHandler; else that has none."""
    if place := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        said = _told(line, asked())
        body = {"message": {"message": said, "extraInfo": {"py_callstack": said, "timestamp": str(int(time.time()))}}}
        with suppress(OSError):
            Path(place).write_text(json.dumps(body), "utf-8")


def tell(line: str, language: str) -> None:
    """A line in English or Chinese on standard error, without anything in it that a terminal would obey."""
    with suppress(OSError):
        print(_told(line, language), file=sys.stderr)


def _told(line: str, language: str) -> str:
    said = (chinese(line) if language == "zh" else None) or line
    return "klieg: " + "".join(c if c.isprintable() else "\ufffd" for c in said)


def said(note: str) -> str:
    """What a command says of its work, in the language that it was asked in."""
    return (chinese(note, "note") if asked() == "zh" else None) or note


def drawn(picture: Picture, kind: str) -> bytes:
    """A picture as the bytes of an svg or a png."""
    if kind == "svg":
        from klieg.views import svg
        return svg.lower(picture).encode()
    from klieg.views import png
    return png.lower(picture)


def files(card: bool = False, **given: Path | None) -> dict[str, Path]:
    """The files that options name, by the options; refuses what would run together on standard output, `card` on it too, what
    would take another one's place, and at once what could not be written in the end."""
    found = {option: path for option, path in given.items() if path is not None}
    there = [f"--{option} -" for option, path in found.items() if str(path) == "-"] + ["--cell"] * card
    if len(there) > 1:
        raise KliegError(f"{' and '.join(there)} would run together on standard output; name files.")
    takers = {os.path.realpath(path): option for option, path in found.items()}
    for option, path in found.items():
        if (last := takers[os.path.realpath(path)]) != option:
            raise KliegError(f"--{option} and --{last} are the same file, {path}; name two.")
        if str(path) != "-":
            writable(path)
    return found


def deliver(bodies: dict[Path, bytes]) -> None:
    """Each body to its file, whole or not at all, and a line for each; - is standard output."""
    from klieg.atomic import atomic

    for path, body in bodies.items():
        if str(path) == "-":
            send(body)
            continue
        with atomic(path) as part:
            part.write_bytes(body)
        wrote(path)


def wrote(path: Path) -> None:
    """Say that a file is there."""
    print(said(f"wrote {path}"), file=sys.stderr)


def writable(path: Path) -> None:
    """KliegError now, and not after an hour, if a file cannot be written there."""
    from klieg.atomic import atomic

    with suppress(OSError):     # what is wrong with the name is said below
        if path.is_dir():
            raise KliegError(f"{path} cannot be written: it is a folder; name a file.")
    # A file beside it that is written and gone again tells what the disk says.
    trial = path.with_name(f".{path.name}.trial")
    try:
        with atomic(trial) as part:
            part.touch()
    except KliegError as e:
        raise KliegError(str(e).replace(str(trial), str(path))) from None
    trial.unlink()


def send(body: bytes) -> None:
    """All of it to standard output, which may take only a part at a time where Python runs unbuffered."""
    rest = memoryview(body)
    while rest:
        rest = rest[sys.stdout.buffer.write(rest):]
    sys.stdout.buffer.flush()


def given(text: str) -> str:
    """The text of an argument, - being standard input."""
    return text if text != "-" else _decoded(sys.stdin.buffer.read(MOST_TEXT + 1), "standard input")


def text_of(path: str) -> str:
    """The text of a file, - being standard input."""
    if path == "-":
        return given(path)
    try:
        with Path(path).open("rb") as file:
            return _decoded(file.read(MOST_TEXT + 1), path)
    except (OSError, ValueError) as e:
        reason = "no such file" if isinstance(e, FileNotFoundError) else (getattr(e, "strerror", None) or first_line(e)).lower()
        raise KliegError(f"there is no text in {path!r} ({reason}); name a file, or - for standard input.") from None


def _decoded(body: bytes, source: str) -> str:
    if len(body) > MOST_TEXT:
        raise KliegError(f"{source} holds more than {MOST_TEXT:,} bytes; send a shorter text.")
    try:
        text = body.decode("utf-8").removeprefix(ORDER)
        return text[:-2] if text.endswith("\r\n") else text.removesuffix("\n")
    except UnicodeDecodeError as e:
        raise KliegError(f"{source} is not UTF-8 at byte {e.start}; convert it first.") from None


def one_of(name: str, value: str, valid: list[str]) -> None:
    if value not in valid:
        raise KliegError(f"--{name} is {value!r}; it must be one of {', '.join(valid)}.")


def place(device: str, precision: str) -> Place:
    """--device and --precision."""
    from klieg.device import PRECISIONS
    from klieg.device import device as found

    one_of("precision", precision, list(PRECISIONS))
    return found(device), PRECISIONS[precision]


def on_the_processor(source: str, device: str, precision: str) -> None:
    """KliegError if what is there already, or comes with Klieg, was to be computed elsewhere."""
    if (device, precision) != ("cpu", "fp32"):
        raise KliegError(f"{source!r} is read on the processor, in float32; leave --device and --precision away.")


def language(given: str | None) -> str:
    """--lang, else what the system speaks."""
    if given is not None:
        one_of("lang", given, LANGUAGES)
        return given
    return spoken()


def console(error: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=error, highlight=False, markup=False, emoji=False)


def write(piece: str) -> None:
    """Text as it comes; on a terminal without the characters that one would obey, for a model may write anything."""
    if sys.stdout.isatty():
        piece = "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in piece)
    sys.stdout.flush()
    send(piece.encode(sys.stdout.encoding, "replace"))


def ask(prompt: str) -> str:
    """The user's next line without the spaces around it; '' at the end. Only a terminal is shown the prompt, never a file."""
    terminal = sys.stdin.isatty()
    shown = prompt if terminal else ""
    if not sys.stdout.isatty():
        print(shown, end="", file=sys.stderr, flush=True)
        shown = ""
    try:
        return input(shown).removeprefix(ORDER).strip()
    except EOFError:
        if terminal:
            print(file=sys.stderr)      # Ctrl-D ends no line
        return ""
    except UnicodeDecodeError:
        remedy = "set the terminal to UTF-8" if terminal else "convert it first"
        raise KliegError(f"what was written is not UTF-8; {remedy}.") from None
