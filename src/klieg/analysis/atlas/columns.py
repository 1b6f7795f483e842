"""A table of heads for other programs: dataclasses, a line each, as CSV or as Parquet with the same columns.

Numbers are written in full; one that is not a number, as the interval of a single text, is an empty cell, in Parquet null.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import astuple, fields
from importlib.util import find_spec
from typing import Any

from klieg.errors import KliegError


def csv(lines: Sequence[Any]) -> str:
    """Lines of one dataclass, at least one; the first line has the names of its fields."""
    body = [",".join(_names(lines))]
    for line in lines:
        body.append(",".join("" if value is None else repr(value) if isinstance(value, float) else str(value)
                             for value in map(_cell, astuple(line))))
    return "\n".join(body) + "\n"


def parquet(lines: Sequence[Any], facts: Mapping[str, str]) -> bytes:
    """The same by pyarrow, with facts as the table's metadata; KliegError if it is not installed."""
    need_parquet()
    import pyarrow
    from pyarrow import parquet as file

    columns = zip(*map(astuple, lines), strict=True)
    table = pyarrow.table({name: pyarrow.array([_cell(value) for value in column]) for name, column in
                           zip(_names(lines), columns, strict=True)})
    stream = io.BytesIO()
    file.write_table(table.replace_schema_metadata(dict(facts)), stream)
    return stream.getvalue()


def need_parquet() -> None:
    """KliegError if Parquet cannot be written here: known before a corpus is read."""
    if find_spec("pyarrow") is None:
        raise KliegError("Parquet is written by pyarrow, which is not installed; `pip install 'klieg[atlas]'`, or leave "
                         "--parquet away: the CSV has the same columns.")


def _names(lines: Sequence[Any]) -> list[str]:
    return [part.name for part in fields(lines[0])]


def _cell(value: Any) -> Any:
    return None if value != value else value
