from __future__ import annotations

import io

import pytest
import torch
from conftest import build
from rich.console import Console

from klieg.analysis.sparsity import USUAL, Applied, Sparsity, losses
from klieg.patterns import Pattern
from klieg.trace import Trace
from klieg.views.picture import PAPER, TERMINAL, Cell, Medium, Picture, Ramp, Text
from klieg.views.sparsity import grid, table
from klieg.views.text import lower
from klieg.whatif import Shift

PATTERNS = [Pattern("window", 2), Pattern("top", 2)]


@pytest.fixture(scope="module")
def seen() -> tuple[Trace, list[Sparsity]]:
    trace = build(heads=4, groups=2, layers=3)
    return trace, [Sparsity(pattern, losses(trace, pattern), None) for pattern in PATTERNS]


def cells(picture: Picture) -> list[Cell]:
    return [mark for mark in picture.marks if isinstance(mark, Cell)]


@pytest.mark.parametrize("medium", [PAPER, TERMINAL], ids=lambda m: m.name)
def test_a_cell_for_every_head_under_every_pattern_on_one_scale(seen, medium: Medium) -> None:
    trace, found = seen
    picture = grid(trace, found, medium=medium)
    wanted = [loss.mean[head].item() for each in found for loss in reversed(each.losses) for head in range(4)]
    assert [cell.value for cell in cells(picture)] == wanted
    assert max(cell.paint.at for cell in cells(picture)) == 1
    (ramp,) = [mark for mark in picture.marks if isinstance(mark, Ramp)]
    assert (ramp.low, ramp.high) == ("0.00", f"{max(wanted):.2f}")
    told = "\n".join(mark.string for mark in picture.marks if isinstance(mark, Text))
    assert "under window:2" in told and "under top:2" in told and ("K/V 1" if medium is PAPER else "K/V group 1") in told
    if medium is TERMINAL:
        assert all(len(line.plain) <= picture.width for line in lower(picture))


def test_a_narrow_terminal_breaks_the_heads_into_bands(seen) -> None:
    picture = grid(*seen, medium=TERMINAL, room=30, language="zh")
    assert len(cells(picture)) == 24 and max(c.x + c.width for c in cells(picture)) <= 30 >= picture.width
    assert "失去的权重" in "".join(mark.string for mark in picture.marks if isinstance(mark, Text))


def test_nothing_lost_has_a_scale_too(seen) -> None:
    trace, _ = seen
    pattern = Pattern("window", 1000)
    picture = grid(trace, [Sparsity(pattern, losses(trace, pattern), None)])
    assert {cell.paint.at for cell in cells(picture)} == {0.0}


def test_the_table_has_bits_where_the_model_was_run(seen) -> None:
    trace, found = seen
    assert len(table(trace, found).columns) == 4 and table(trace, found).row_count == 2
    shifts = [Shift(one.token, one.id, one.p, one.p, one.rank, one.rank) for one in trace.next_tokens(5)]
    asked = [Sparsity(each.pattern, each.losses, Applied(0.5, 0.25, shifts, trace.certificate)) for each in found]
    full = table(trace, asked)
    assert len(full.columns) == 7 and full.row_count == 3
    assert list(full.columns[4].cells) == ["", "0.500", "0.500"] and torch.tensor(asked[0].mean) > 0


@pytest.mark.parametrize("language", ["en", "zh"])
def test_in_a_terminal_of_eighty_columns_a_pattern_has_one_line(seen, language: str) -> None:
    trace, _ = seen
    likely = [Shift("because", 1, 0.177, 0.177, 1, 1)]
    found = [Sparsity(pattern, losses(trace, pattern), Applied(0.5, 0.25, likely, trace.certificate))
             for pattern in map(Pattern.read, USUAL)]
    console = Console(width=80, file=io.StringIO(), color_system=None, legacy_windows=False, _environ={})
    console.print(table(trace, found, language))
    assert len(console.file.getvalue().splitlines()) == len(USUAL) + 2
