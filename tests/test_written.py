"""What a lab found goes through one line of JSON and comes back the same; a process of its own says that line, or why not."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields

import pytest

from klieg.errors import KliegError
from klieg.labs import Finding, find
from klieg.labs.written import plain, read, refusal, write
from klieg.views.chart import Chart

CHART = Chart(("A", "甲"), ("n", "个数"), ("1", "2"), ("bits", "比特"),
              {("one", "一"): (0.1, 1 / 3), ("two", "二"): [2.0, -1e-300]}, bars=True)
MADE = Finding((CHART,), ("So it is.", "如此。"), {"third": 1 / 3})


def same(a: Finding, b: Finding) -> bool:
    """Whether all numbers and words are the same; a series may be a list or a tuple."""
    def bare(found: Finding) -> list:
        return [[[*vars(chart).items()][:4] + [(words, list(values)) for words, values in chart.series.items()] + [chart.bars]
                 for chart in found.charts]] + [getattr(found, part.name) for part in fields(found) if part.name != "charts"]
    return bare(a) == bare(b)


@pytest.mark.parametrize("found", [MADE, find("ages").run()], ids=["made", "ages"])
def test_what_is_written_is_read_back(found: Finding) -> None:
    line = write(found)
    assert "\n" not in line and same(read(line), found)
    assert same(read(json.dumps(plain(found))), found)
    changed = json.loads(line)
    changed["charts"][0]["series"][0]["values"][0] += 1e-9
    assert not same(read(json.dumps(changed)), found)


def test_a_refusal_keeps_both_languages() -> None:
    with pytest.raises(KliegError, match="no language 'x'") as raised:
        read(refusal(KliegError("there is no language 'x'.")))
    assert raised.value.zh == "没有语言 'x'。"


def test_no_number_is_a_mistake_of_the_lab() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write(Finding((), ("a", "甲"), {"none": float("nan")}))


def test_a_process_of_its_own() -> None:
    done = subprocess.run([sys.executable, "-m", "klieg.labs", "ages"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stderr == "" and same(read(done.stdout), find("ages").run())
    refused = subprocess.run([sys.executable, "-m", "klieg.labs", "age"], capture_output=True, text=True, timeout=120)
    assert refused.returncode == 1 and refused.stderr == ""
    with pytest.raises(KliegError, match="there is no lab 'age'"):
        read(refused.stdout)
