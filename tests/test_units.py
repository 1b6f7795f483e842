"""A log-sum-exp of somebody else's kernel is used only in the unit that its first use proves."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from klieg.attention import Mask, hide, log_sum_exp, scores
from klieg.watching import units
from klieg.watching.units import in_nats


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "_known", {})


def call(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Mask, Tensor]:
    """q, k, a mask under which the first rows of a text see nothing, and the log-sum-exp, 0 for those as fused kernels give."""
    random = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, h, 21, 8, generator=random).to(dtype) for h in (4, 2))
    mask = Mask.causal() & Mask.padding(torch.arange(21)[None] >= torch.tensor([[9], [0]]))
    lse = log_sum_exp(hide(scores(q.double(), k.double()), mask))
    return q, k, mask, lse.masked_fill(lse == -torch.inf, 0).float()


@pytest.mark.parametrize("unit", [1.0, math.log(2)], ids=["nats", "bits"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("keys", [2**16, 5], ids=["at once", "key by key"])
def test_the_unit_is_found(unit: float, dtype: torch.dtype, keys: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "KEYS", keys)
    q, k, mask, lse = call(dtype)
    found = in_nats(lse / unit, "somebody", q, k, mask, scale=8**-0.5, bias=None)
    torch.testing.assert_close(found, lse)


@pytest.mark.parametrize("wrong", [lambda x: x + 0.3, lambda x: x * 1.1, lambda x: torch.rand_like(x), lambda x: x * torch.nan])
def test_what_is_neither_is_not_used(wrong: object) -> None:
    q, k, mask, lse = call()
    assert in_nats(wrong(lse), "somebody", q, k, mask, scale=8**-0.5, bias=None) is None
    assert in_nats(lse, "somebody", q, k, mask, scale=8**-0.5, bias=None) is None, "its kernel stays unknown on this machine"
    assert in_nats(lse, "another", q, k, mask, scale=8**-0.5, bias=None) is lse


def test_a_bias_is_in_the_scores() -> None:
    q, k, mask, _ = call()
    bias = torch.randn(4, 21, 21, generator=torch.Generator().manual_seed(1))[None]
    lse = log_sum_exp(hide(scores(q, k, bias=bias), mask)).nan_to_num(neginf=0)
    assert in_nats(lse, "somebody", q, k, mask, scale=8**-0.5, bias=bias) is lse


def test_where_nothing_can_be_told_the_next_call_is_asked() -> None:
    """A log-sum-exp of 0 is the same in every unit."""
    q, k, mask, lse = call()
    nothing = torch.zeros_like(q[..., :1, :]), k[:, :, :1]
    assert in_nats(torch.zeros(2, 4, 1), "somebody", *nothing, Mask(), scale=1.0, bias=None) is None
    assert in_nats(lse / math.log(2), "somebody", q, k, mask, scale=8**-0.5, bias=None) is not None
