"""What a lab found, or why it refused, as one line of JSON, so that it can run in a process of its own; and that line again
as what it was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from klieg.errors import KliegError
from klieg.labs import Finding
from klieg.views.chart import Chart


def write(found: Finding) -> str:
    """One line; NaN and infinity are none of a lab's numbers, and a ValueError."""
    return json.dumps(plain(found), ensure_ascii=False, allow_nan=False)


def plain(found: Finding) -> dict[str, Any]:
    """Plain data: pairs of words as lists, English first; the series of a chart as a list of names and values."""
    rest = {part.name: getattr(found, part.name) for part in fields(found) if part.name != "charts"}
    return {"charts": [_chart(chart) for chart in found.charts],
            **{name: dict(value) if isinstance(value, Mapping) else value for name, value in rest.items()}}


def refusal(error: KliegError) -> str:
    """One line too."""
    return json.dumps({"error": str(error)}, ensure_ascii=False)


def read(line: str) -> Finding:
    """What was written; a refusal is raised."""
    said = json.loads(line)
    if "error" in said:
        raise KliegError(said["error"])
    charts = [{**chart, "series": {tuple(one["name"]): one["values"] for one in chart["series"]}} for chart in said["charts"]]
    return Finding(**{**_paired(said), "charts": tuple(Chart(**_paired(chart)) for chart in charts)})


def _chart(chart: Chart) -> dict[str, Any]:
    series = [{"name": words, "values": list(values)} for words, values in chart.series.items()]
    return {part.name: series if part.name == "series" else getattr(chart, part.name) for part in fields(chart)}


def _paired(said: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in said.items()}
