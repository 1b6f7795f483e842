"""The chunked losses against torch's cross-entropy and the formulas in float64, value and gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from klieg import loss as losses
from klieg.loss import CHUNK, token_loss, twin_loss


@pytest.fixture(params=["native", "torch", "card"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the losses are computed: natively, by torch, or over all rows as on a card, in chunks of the same size."""
    if request.param != "native":
        monkeypatch.setattr(losses, "_native", lambda: None)
    if request.param == "card":
        monkeypatch.setattr(losses, "picks", lambda device: False)
        monkeypatch.setattr(losses, "WIDE", 0)
    return request.param


@pytest.mark.parametrize("tokens", [1, 7, CHUNK, 2 * CHUNK + 3])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_gradients_are_those_of_cross_entropy(tokens: int, smoothing: float, way: str) -> None:
    torch.manual_seed(tokens)
    hidden, weight = torch.randn(tokens, 24, dtype=torch.float64), torch.randn(101, 24, dtype=torch.float64)
    targets = torch.randint(0, 101, (tokens,))
    targets[1::5] = -100
    found, exact = ([x.to(kind).requires_grad_() for x in (hidden, weight)] for kind in (torch.float32, torch.float64))
    loss = token_loss(*found, targets, smoothing)
    (3 * loss).backward()
    expected = F.cross_entropy(exact[0] @ exact[1].T, targets, label_smoothing=smoothing)
    (3 * expected).backward()
    assert abs(loss.item() - expected.item()) < 2e-6 * expected.item()
    for a, b in zip(found, exact, strict=True):
        assert (a.grad.double() - b.grad).norm() <= 2e-6 * b.grad.norm()


@pytest.mark.parametrize("tokens", [1, 7, CHUNK + 3])
@pytest.mark.parametrize("alpha", [0.0, 5.0])
def test_the_loss_of_twins_is_the_papers(tokens: int, alpha: float, way: str) -> None:
    """Half of equation 4 of R-Drop, written out in float64 and differentiated by torch."""
    torch.manual_seed(tokens)
    given = torch.randn(2 * tokens, 24, dtype=torch.float64), torch.randn(101, 24, dtype=torch.float64)
    targets = torch.randint(0, 101, (tokens,))
    targets[1::5] = -100
    found, exact = ([x.to(kind).requires_grad_() for x in given] for kind in (torch.float32, torch.float64))
    loss = twin_loss(*found, targets, 0.1, alpha)
    (3 * loss).backward()
    expected = papers_loss(*exact, targets, 0.1, alpha)
    (3 * expected).backward()
    assert loss.item() == pytest.approx(expected.item(), rel=3e-6)
    for a, b in zip(found, exact, strict=True):
        assert (a.grad.double() - b.grad).norm() <= 5e-6 * b.grad.norm()


def papers_loss(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, smoothing: float,
                alpha: float) -> torch.Tensor:
    log_p, log_q = ((h @ weight.T)[targets >= 0].log_softmax(1) for h in hidden.chunk(2))
    apart = F.kl_div(log_q, log_p, reduction="sum", log_target=True) + F.kl_div(log_p, log_q, reduction="sum", log_target=True)
    wanted = sum(F.cross_entropy(l, targets[targets >= 0], label_smoothing=smoothing) for l in (log_p, log_q))
    return (wanted + alpha / 2 * apart / len(log_p)) / 2


def test_twins_that_are_one_cost_what_one_does(way: str) -> None:
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(9, 24), torch.randn(101, 24), torch.randint(0, 101, (9,))
    one, twins = token_loss(hidden, weight, targets, 0.1), twin_loss(hidden.repeat(2, 1), weight, targets, 0.1, 5.0)
    assert twins.item() == pytest.approx(one.item(), rel=1e-6)


def test_where_nothing_counts_there_is_no_mean(way: str) -> None:
    hidden, weight, targets = torch.randn(10, 8), torch.randn(11, 8), torch.full((5,), -100)
    assert F.cross_entropy(hidden[:5] @ weight.T, targets).isnan()
    assert token_loss(hidden[:5], weight, targets, 0.1).isnan() and twin_loss(hidden, weight, targets, 0.1, 5.0).isnan()


def test_a_card_has_larger_chunks() -> None:
    assert losses.chunk(32_000, torch.device("cpu")) == CHUNK == losses.chunk(2**20, torch.device("cuda"))
    assert losses.chunk(32_000, torch.device("cuda")) == 2**26 // 32_000


def test_a_certain_and_wrong_answer_is_finite(way: str) -> None:
    hidden = torch.tensor([[200.0, 0.0]], requires_grad=True)
    loss = token_loss(hidden, torch.eye(2), torch.tensor([1]))
    loss.backward()
    assert loss.item() == pytest.approx(200) and torch.isfinite(hidden.grad).all()


@pytest.mark.parametrize("alpha", [None, 5.0])
def test_half_precision_has_the_gradients_of_the_formula_over_several_chunks(alpha: float | None, way: str) -> None:
    torch.manual_seed(0)
    tokens = CHUNK + 9
    hidden, weight = (torch.randn(n, 16).bfloat16().requires_grad_() for n in (tokens if alpha is None else 2 * tokens, 40))
    targets = torch.randint(-1, 40, (tokens,))
    h, w = (x.detach().double().requires_grad_() for x in (hidden, weight))
    if alpha is None:
        token_loss(hidden, weight, targets, 0.1).backward()
        F.cross_entropy(h @ w.T, targets, ignore_index=-1, label_smoothing=0.1).backward()
    else:
        twin_loss(hidden, weight, targets, 0.1, alpha).backward()
        papers_loss(h, w, targets, 0.1, alpha).backward()
    for found, exact in ((hidden.grad, h.grad), (weight.grad, w.grad)):
        assert float((found.double() - exact).norm() / exact.norm()) < 0.01
