"""A line of Klieg in Chinese, by a catalogue that stands beside the source; the source says its lines in English only.

The catalogue is the .toml files of this folder. Each entry of their tables [line] gives a line as a template: "no model
{0!r}." has one field, which is quoted as repr() does. Its Chinese fills in the same fields. One that it has as {1:side} holds
words of Klieg itself, which the table [side] translates in their turn; other words do not match. A table with the entry
"{0}" = "{0}" leaves what it does not know as it is. All other fields are what the user or the system said, and stay.

A line that no template matches has no Chinese; tests/test_chinese.py holds every line of the source to have one.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

LINES = "line"

_FIELD = re.compile(r"\{(\d+)(!r)?(?::(\w+))?\}")
_ANY, _SENTENCES, _QUOTED = ".*?", ".*[.?]", r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^'"](?:.*?[^'"])?)"""


def chinese(line: str, table: str = LINES) -> str | None:
    """The line in Chinese, or None if no template of the table matches all of it."""
    found = _read(line, table)
    return None if found is None else found[1]


@cache
def catalogue() -> dict[str, dict[str, str]]:
    """The tables of all files: English templates and their Chinese."""
    import tomllib

    tables: dict[str, dict[str, str]] = {}
    for path in sorted(Path(__file__).parent.glob("*.toml")):
        for name, entries in tomllib.loads(path.read_text("utf-8")).items():
            tables.setdefault(name, {}).update(entries)
    return tables


def _read(line: str, table: str) -> tuple[int, str] | None:
    """How many letters of the line the catalogue has, and its Chinese: by the template that leaves the fewest to fields."""
    found = []
    for english, pieces in _templates(table):
        if _may_fit(pieces, line) and (fits := _pattern(english, table).fullmatch(line)):
            said = catalogue()[table][english]
            fields = {(number, name): _read(fits[f"f{number}"], name) if name else (0, fits[f"f{number}"])
                      for number, _, name in _FIELD.findall(said)}
            known = {key: field for key, field in fields.items() if field is not None}
            if len(known) == len(fields):
                found.append((sum(map(len, pieces)) + sum(letters for letters, _ in known.values()),
                              _FIELD.sub(lambda field, known=known: known[field[1], field[3] or ""][1], said)))
    return max(found, default=None)


@cache
def _templates(table: str) -> list[tuple[str, list[str]]]:
    """The templates of a table, with the fixed words of each."""
    return [(english, _FIELD.split(english)[::4]) for english in catalogue()[table]]


def _may_fit(pieces: list[str], line: str) -> bool:
    """Whether a line holds the fixed words of a template in their order: says no at once to nearly all of them."""
    at = 0
    for piece in pieces:
        at = line.find(piece, at) + len(piece)
        if at < len(piece):
            return False
    return line.startswith(pieces[0]) and line.endswith(pieces[-1])


@cache
def _pattern(english: str, table: str) -> re.Pattern[str]:
    return re.compile(_expression(english, catalogue()[table][english], named=True), re.DOTALL)


def _expression(english: str, said: str, named: bool) -> str:
    """What a template matches, as a regular expression. A field that comes again is the same again."""
    tables = {number: table for number, _, table in _FIELD.findall(said)}
    rest, built, seen = _FIELD.split(english), "", set()
    for at in range(0, len(rest) - 1, 4):
        fixed, number, quoted = rest[at:at + 3]
        inner = _QUOTED if quoted else _words(tables[number]) if named and tables[number] else _ANY
        again = f"(?P=f{number})" if number in seen else f"(?P<f{number}>{inner})"
        built += re.escape(fixed) + (again if named else inner)
        seen.add(number)
    return built + re.escape(rest[-1])


@cache
def _words(table: str) -> str:
    """All that a table knows, as a regular expression; the fields of its own entries are not looked into."""
    entries = catalogue()[table]
    if table == LINES or "{0}" in entries:
        return _SENTENCES if table == LINES else _ANY
    return f"(?:{'|'.join(_expression(english, said, named=False) for english, said in entries.items())})"
