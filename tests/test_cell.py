"""One weight's arithmetic: every number recomputed from those before it."""

from __future__ import annotations

import pytest
import torch
from test_trace import tokenizer, trace, translation  # noqa: F401


def test_every_number_of_a_cell_follows_from_its_neighbours(trace) -> None:  # noqa: F811
    model_logits = trace.logits.double().softmax(-1)
    assert torch.allclose(torch.tensor([c.p for c in trace.next_tokens(5)]).double(), model_logits[-1].topk(5).values)
    n = len(trace.tokens)
    for layer in range(trace.layers):
        for head in range(trace.heads):
            for query, key in [(0, 0), (n - 1, 0), (n - 1, n - 1), (n // 2, n // 3), (1, n - 1)]:
                check_cell(trace, trace.cell(layer, head, query, key))


def test_a_cell_of_two_texts_follows_from_its_neighbours_too(translation) -> None:  # noqa: F811
    for kind in ("encoder", "self", "cross"):
        call = translation[1, kind]
        for query, key in [(0, 0), (call.queries - 1, call.keys - 1), (0, call.keys - 1)]:
            cell = translation.cell(1, 2, query, key, kind=kind)
            assert cell.products.sum().item() == pytest.approx(cell.dot) and cell.scaled == pytest.approx(cell.dot / 8 ** 0.5)
            assert cell.reason == ("future" if kind == "self" and key > query else None)
            assert cell.difference < 1e-5 and len(cell.row_scores) == call.keys
            row = [translation.cell(1, 2, query, j, kind=kind) for j in range(call.keys)]
            assert torch.allclose(sum(c.contribution for c in row), cell.output, atol=1e-5)
            assert sum(c.share for c in row) == pytest.approx(1, abs=1e-5)


def check_cell(trace, cell) -> None:  # noqa: F811
    close = lambda a, b: abs(a - b) <= 1e-5 * max(1.0, abs(b))  # noqa: E731
    if cell.unrotated_q is not None:
        for turned, plain, at in ((cell.q, cell.unrotated_q, cell.query), (cell.k, cell.unrotated_k, cell.key)):
            assert close(float(turned.norm()), float(plain.norm()))
            half = len(plain) // 2
            angle = torch.atan2(turned[half], turned[0]) - torch.atan2(plain[half], plain[0])
            assert close(float((angle - at).sin()), 0)  # the first pair turns one radian a position
    assert close(cell.dot, float((cell.q * cell.k).sum()))
    assert close(cell.dot, float(cell.products.sum()))
    assert close(cell.scaled, cell.dot * cell.scale + cell.bias)
    assert (cell.reason == "future") == (cell.key > cell.query)
    assert cell.score == (cell.scaled if cell.reason is None else -float("inf"))
    assert cell.row_max == float(cell.row_scores.max())
    assert close(cell.row_sum, float((cell.row_scores - cell.row_max).exp().sum()))
    assert close(cell.weight, float(torch.tensor(cell.score - cell.row_max).exp()) / cell.row_sum)
    assert close(cell.weight, float(trace[cell.layer].weights(cell.head)[cell.query, cell.key]))
    assert cell.difference < 1e-5
    assert torch.allclose(cell.contribution, cell.weight * cell.v)
    row = [trace.cell(cell.layer, cell.head, cell.query, j) for j in range(len(trace.tokens))]
    assert torch.allclose(sum(c.contribution for c in row), cell.output, atol=1e-5)
    assert close(sum(c.share for c in row), 1.0)
