"""A few queries over many keys, wherever those lie."""

from __future__ import annotations

import pytest
import torch
from formula import NOTHING, call

from klieg.kernels import attend, few


@pytest.mark.parametrize("mask", ["none", "padding", "causal left padding"])
@pytest.mark.parametrize(("queries", "keys", "groups"), [(1, 1, 4), (1, 37, 2), (5, 64, 1), (3, few.KEYS, 4)])
def test_a_few_queries_meet_keys_wherever_they_lie(mask: str, queries: int, keys: int, groups: int) -> None:
    """In a cache, whose slots lie apart, as much as in memory of their own; where nothing is seen, nothing comes out."""
    exact = call(mask, queries=queries, keys=keys, groups=groups, width=24, value_width=17)
    low = exact.at(torch.float32)
    if few.refusal(low.q, low.k, low.v, low.mask, **NOTHING):
        assert mask == "causal left padding" and queries > 1
        return
    apart = [torch.empty(keys + 5, 2, groups, x.shape[3]).permute(1, 2, 0, 3)[:, :, :keys].copy_(x) for x in (low.k, low.v)]
    output, lse = exact.formula()
    for k, v in ((low.k, low.v), apart):
        found = attend(low.q, k, v, low.mask, kernel="few")
        torch.testing.assert_close(found.output.double(), output, atol=2e-6, rtol=0)
        torch.testing.assert_close(found.lse.double(), lse, atol=2e-6, rtol=1e-6)


def test_a_number_that_is_none_is_not_lost_among_a_few() -> None:
    exact = call("none", queries=1).at(torch.float32)
    exact.k[0, 0, 7] = torch.nan
    found = attend(exact.q, exact.k, exact.v, exact.mask, kernel="few").output
    assert found[0, :2].isnan().all() and found[0, 2:].isfinite().all() and found[1].isfinite().all()
