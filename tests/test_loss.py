"""The chunked loss against torch's cross-entropy, value and gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from klieg.loss import CHUNK, token_loss


@pytest.mark.parametrize("tokens", [1, 7, CHUNK, 2 * CHUNK + 3])
@pytest.mark.parametrize("dtype,bound", [(torch.float64, 1e-9), (torch.float32, 2e-6)])
def test_loss_and_gradients_are_those_of_cross_entropy(tokens: int, dtype: torch.dtype, bound: float) -> None:
    torch.manual_seed(tokens)
    hidden, weight = torch.randn(tokens, 24, dtype=torch.float64), torch.randn(101, 24, dtype=torch.float64)
    targets = torch.randint(0, 101, (tokens,))
    targets[1::5] = -100
    found, exact = ([x.to(kind).requires_grad_() for x in (hidden, weight)] for kind in (dtype, torch.float64))
    loss = token_loss(*found, targets)
    (3 * loss).backward()
    expected = F.cross_entropy(exact[0] @ exact[1].T, targets)
    (3 * expected).backward()
    assert abs(loss.item() - expected.item()) < max(bound, 1e-6) * expected.item()
    for a, b in zip(found, exact, strict=True):
        assert (a.grad.double() - b.grad).norm() <= bound * 10 * b.grad.norm()


def test_a_certain_and_wrong_answer_is_finite() -> None:
    hidden = torch.tensor([[200.0, 0.0]], requires_grad=True)
    loss = token_loss(hidden, torch.eye(2), torch.tensor([1]))
    loss.backward()
    assert loss.item() == pytest.approx(200) and torch.isfinite(hidden.grad).all()
