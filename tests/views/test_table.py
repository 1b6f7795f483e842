from __future__ import annotations

import pytest

from klieg.trace import Trace
from klieg.views.table import STAGES, Table


def test_stages_after_the_mask_have_no_number_where_it_hides(trace: Trace) -> None:
    for stage in STAGES:
        table = Table.of(trace[1], 2, stage)
        part = table.cut(range(1, 4), range(1, 4))
        truth = getattr(trace[1].stages(2), stage)
        for i in range(3):
            for j in range(3):
                hidden = j > i and stage in ("masked", "weights")
                assert part[i][j] == (None if hidden else truth[1 + i, 1 + j].item())
        assert table.masks == (stage in ("masked", "weights"))


def test_sums_limits_and_what_is_outside(trace: Trace) -> None:
    table, weights = Table.of(trace[0], 1, "weights"), trace[0].weights(1).double()
    assert table.sums() == pytest.approx(weights.sum(-1).tolist())
    assert table.first() == pytest.approx(weights[1:, 0].tolist())
    assert table.outside(4, range(1, 3)) == pytest.approx((weights[4].sum() - weights[4, 1:3].sum()).item())
    seen = [weights[i, j].item() for i in range(5) for j in range(i + 1)]
    assert table.limits() == (min(seen), max(seen)) and sorted(table.values().tolist()) == sorted(seen)
    assert len(table.values(after_first=True)) == len(seen) - 5
    assert table.limits(range(1, 3), range(1, 3)) == (min(weights[1, 1], weights[2, 1], weights[2, 2]),
                                         max(weights[1, 1], weights[2, 1], weights[2, 2]))


def test_a_table_without_a_seen_pair_has_limits(trace: Trace) -> None:
    table = Table.of(trace[0], 0, "masked")
    assert Table(table.numbers, table.seen & False).limits() == (0.0, 0.0)
