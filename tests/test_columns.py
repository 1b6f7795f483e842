"""Tables for other programs: every number comes back as it was, and what is none is an empty cell."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from unittest.mock import patch

import pytest

from klieg.analysis.atlas import columns
from klieg.errors import KliegError


@dataclass(frozen=True)
class Line:
    name: str
    layer: int
    mean: float
    whole: bool


LINES = [Line("one", 0, 0.1 + 0.2, True), Line("two", 11, math.nan, False), Line("three", 2, -1e-300, True)]


def test_csv() -> None:
    found = list(csv.DictReader(columns.csv(LINES).splitlines()))
    assert list(found[0]) == ["name", "layer", "mean", "whole"] and found[1]["mean"] == ""
    assert [float(line["mean"]) for line in (found[0], found[2])] == [0.1 + 0.2, -1e-300]
    assert [(line["name"], int(line["layer"]), line["whole"]) for line in found] == [
        (line.name, line.layer, str(line.whole)) for line in LINES]


def test_parquet() -> None:
    from pyarrow import parquet

    table = parquet.read_table(io.BytesIO(columns.parquet(LINES, {"model": "小"})))
    assert table.schema.metadata == {b"model": "小".encode()}
    assert [str(kind) for kind in table.schema.types] == ["string", "int64", "double", "bool"]
    rows = table.to_pylist()
    assert [row["mean"] for row in rows] == [0.1 + 0.2, None, -1e-300] and [row["layer"] for row in rows] == [0, 11, 2]


def test_without_pyarrow_it_is_one_line() -> None:
    none = patch("klieg.analysis.atlas.columns.find_spec", return_value=None)
    with none, pytest.raises(KliegError, match=r"pip install .klieg\[atlas\]"):
        columns.parquet(LINES, {})
