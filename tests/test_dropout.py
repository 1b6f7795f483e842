"""Dropout: as many zeros as were asked for, in places that follow from the seed and from nothing else."""

from __future__ import annotations

import pytest
import torch

from klieg import dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.75])
def test_a_share_is_dropped_and_the_rest_scaled(share: float, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    x = torch.ones(300, 1001, dtype=dtype)
    y = dropout.add(None, x, share, True).float()
    assert y.unique().tolist() == pytest.approx([0, 1 / (1 - share)], rel=1e-2)
    assert float((y == 0).double().mean()) == pytest.approx(share, abs=5 * (share * (1 - share) / x.numel()) ** 0.5)


@pytest.mark.parametrize("shift", [1, 2, 16, 1001, 65536])
def test_places_are_independent(shift: int) -> None:
    torch.manual_seed(2)
    kept = (dropout.add(None, torch.ones(2**18), 0.5, True) > 0).double() - 0.5
    other = (dropout.add(None, torch.ones(2**18), 0.5, True) > 0).double() - 0.5
    bound = 5 * 0.25 / 2**9
    assert abs(float((kept[shift:] * kept[:-shift]).mean())) < bound
    assert abs(float((kept * other).mean())) < bound
    assert abs(float((kept[shift:] * other[:-shift]).mean())) < bound


@pytest.mark.parametrize("threads", [1, 2])
def test_the_seed_decides_and_threads_do_not(threads: int) -> None:
    x, before = torch.randn(7, 12345), torch.get_num_threads()
    torch.manual_seed(5)
    expected = dropout.add(x, x, 0.3, True)
    try:
        torch.set_num_threads(threads)
        torch.manual_seed(5)
        assert torch.equal(dropout.add(x, x, 0.3, True), expected)
        assert not torch.equal(dropout.add(x, x, 0.3, True), expected)
    finally:
        torch.set_num_threads(before)


def test_the_gradient_goes_where_the_numbers_went() -> None:
    x, base = torch.randn(33, 65, requires_grad=True), torch.randn(33, 65, requires_grad=True)
    y = dropout.add(base, x, 0.4, True)
    towards = torch.randn(33, 65)
    (y * towards).sum().backward()
    kept = (y - base).detach() != 0
    assert torch.equal(base.grad, towards)
    assert torch.allclose(x.grad, towards * kept / 0.6, rtol=1e-6, atol=0)


def test_a_transposed_input_is_read_by_its_places() -> None:
    x = torch.randn(40, 50)
    torch.manual_seed(3)
    expected = dropout.add(None, x.T.contiguous(), 0.5, True)
    torch.manual_seed(3)
    assert torch.equal(dropout.add(None, x.T, 0.5, True), expected)


def test_without_training_or_share_nothing_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(5)
    assert dropout.add(None, x, 0.5, False) is x and torch.equal(dropout.add(x, x, 0.0, True), x + x)
    monkeypatch.setattr(dropout, "_native", lambda: None)
    torch.manual_seed(0)
    y = dropout.add(torch.zeros(1000), torch.ones(1000), 0.5, True)
    assert y.unique().tolist() == [0, 2]
