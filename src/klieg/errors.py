"""What a user is shown when something they asked for cannot be done.

A KliegError is a message, never a bug: one line that says what is wrong, where, and what to
do about it. The command line prints it and exits with status 1; everything else propagates. It is made
in English; what it is in Chinese stands in a catalogue (chinese/).
"""

from __future__ import annotations

from difflib import get_close_matches

from klieg.chinese import chinese


class KliegError(Exception):
    """Base of everything that is shown to the user without a traceback."""

    @property
    def zh(self) -> str | None:
        """Its line in Chinese, if the catalogue has it."""
        return chinese(str(self))


class Follows(KliegError):
    """The end of a process because of a mistake that another one of its group tells."""


class KliegWarning(UserWarning):
    """What is done in another way than one would expect, and comes out the same; at the terminal a line, as an error is."""


def nearest(name: str, known: list[str]) -> str:
    """' Did you mean X?' for the known name most like `name`, else the whole list; '' if nothing is known."""
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else f" Known: {', '.join(sorted(known))}." if known else ""


def first_line(error: BaseException) -> str:
    """What another library's error says, as one line: its first, or its kind if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].strip()
