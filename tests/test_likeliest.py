"""The likeliest next tokens against the softmax in float64, and the sort of all of it."""

from __future__ import annotations

import pytest
import torch

from klieg import likeliest
from klieg.likeliest import LINES, Likeliest


@pytest.mark.parametrize(("rows", "vocabulary", "count"),
                         [(1, 1, 4), (3, 6, 12), (7, 64, 1), (LINES + 5, 1000, 12), (2, 131, 131)])
@pytest.mark.parametrize("size", [1.0, 40.0])
@pytest.mark.parametrize("compiled", [True, False])
def test_they_are_the_first_of_all_sorted(rows: int, vocabulary: int, count: int, size: float, compiled: bool,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr(likeliest, "_native", lambda: None)
    torch.manual_seed(vocabulary)
    hidden, weight, bias = size * torch.randn(rows, 8), torch.randn(vocabulary, 8), torch.randn(vocabulary)
    truth = (hidden.double() @ weight.double().T + bias.double()).log_softmax(1)
    ordered, order = truth.sort(dim=1, descending=True)
    find, also = Likeliest(weight, bias, count), vocabulary // 2
    for _ in range(2):                                           # its memory is used again
        log_p, tokens, one = find(hidden, also)
        kept = min(count, vocabulary)
        assert log_p.shape == tokens.shape == (rows, kept)
        torch.testing.assert_close(log_p.double(), ordered[:, :kept], atol=2e-5 * size, rtol=0)
        torch.testing.assert_close(truth.gather(1, tokens), ordered[:, :kept], atol=2e-5 * size, rtol=0)
        assert all(len(set(row)) == kept for row in tokens.tolist())
        assert (tokens == order[:, :kept]).float().mean() > 0.95
        torch.testing.assert_close(one.double(), truth[:, also], atol=2e-5 * size, rtol=0)


def test_a_broken_model_says_so() -> None:
    """A number that is none makes all of its row so."""
    hidden = torch.zeros(2, 4)
    hidden[0, 1] = torch.nan
    log_p, _, one = Likeliest(torch.randn(100, 4), torch.zeros(100), 5)(hidden, 3)
    assert log_p[0].isnan().all() and one[0].isnan() and log_p[1].isfinite().all() and one[1].isfinite()
