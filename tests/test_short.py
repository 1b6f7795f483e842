"""The kernel of short texts: what the tests of all kernels do not ask. Those hold it to the formula, gradients too."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from klieg.attention import Mask
from klieg.kernels import attend, short
from klieg.kernels.native import instruction_sets
from klieg.survey import SurveySpec

NOTHING = {"softcap": None, "sinks": None, "bias": None}

pytestmark = pytest.mark.skipif(not instruction_sets(), reason="Klieg was installed without a C++ compiler")


def drawn(batch: int, heads: int, groups: int, queries: int, keys: int, width: int, value_width: int,
          dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """q, k and v as the layers make them, heads side by side, and a gradient."""
    torch.manual_seed(batch + 7 * queries + 31 * keys + width)
    sizes = (queries, heads, width), (keys, groups, width), (keys, groups, value_width), (queries, heads, value_width)
    return [torch.randn(batch, n, h, d).to(dtype).transpose(1, 2) for n, h, d in sizes]


def both_ways(q: Tensor, k: Tensor, v: Tensor, grad: Tensor, mask: Mask, **given: object) -> list[Tensor]:
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    output, lse = short.attention(*leaves, mask, scale=0.3, **given)
    return [output.detach(), lse, *torch.autograd.grad(output, leaves, grad)]


def formula(q: Tensor, k: Tensor, v: Tensor, grad: Tensor, seen: Tensor) -> list[Tensor]:
    """The same in float64, differentiated by torch; seen (b, 1, i, j)."""
    leaves = [x.detach().double().requires_grad_() for x in (q, k, v)]
    wide = [x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in leaves[1:]]
    s = (leaves[0] @ wide[0].mT * 0.3).masked_fill(~seen, -torch.inf)
    blind = ~seen.any(-1)
    weights = s.masked_fill(blind[..., None], 0).softmax(-1).masked_fill(blind[..., None], 0)
    output = weights @ wide[1]
    return [output.detach(), s.detach().logsumexp(-1), *torch.autograd.grad(output, leaves, grad.double())]


@given(st.data())
def test_both_ways_are_the_formulas_on_every_instruction_set(data: st.DataObject) -> None:
    groups, repeat, batch = (data.draw(st.integers(1, 3)) for _ in range(3))
    queries, keys = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    width, value_width = data.draw(st.integers(1, 35)), data.draw(st.integers(1, 35))
    q, k, v, grad = drawn(batch, groups * repeat, groups, queries, keys, width, value_width)
    seen, mask = torch.ones(batch, 1, queries, keys, dtype=torch.bool), Mask()
    if data.draw(st.booleans()):
        seen, mask = seen.tril(keys - queries), Mask.causal()
    if data.draw(st.booleans()):
        real = torch.rand(batch, keys) < 0.7
        seen, mask = seen & real[:, None, None], mask & Mask.padding(real)
        # Nobody sees these, whatever they hold.
        k, v = (x.masked_fill(~real[:, None, :, None], torch.nan) for x in (k, v))
    instructions = data.draw(st.sampled_from(instruction_sets()))
    found = both_ways(q, k, v, grad, mask, instructions=instructions)
    truths = formula(q, k.nan_to_num(), v.nan_to_num(), grad, seen)
    for a, b in zip(found, truths, strict=True):
        torch.testing.assert_close(a.double(), b, atol=2e-5, rtol=1e-5)


def test_a_text_has_the_same_bits_in_any_batch_and_on_any_number_of_threads() -> None:
    q, k, v, grad = drawn(5, 6, 3, 21, 33, 20, 12)
    real = torch.rand(5, 33) < 0.8
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        whole = both_ways(q, k, v, grad, Mask.padding(real))
    finally:
        torch.set_num_threads(threads)
    for n in range(5):
        one = both_ways(*(x[n:n + 1] for x in (q, k, v, grad)), Mask.padding(real[n:n + 1]))
        assert all(torch.equal(a[n:n + 1], b) for a, b in zip(whole, one, strict=True))


def test_more_padding_changes_no_bit() -> None:
    q, k, v, grad = drawn(2, 2, 2, 9, 13, 16, 16)
    more = [torch.nn.functional.pad(x, (0, 0, 0, 30)) for x in (k, v)]
    real = torch.arange(43).expand(2, -1) < 13
    narrow, wide = both_ways(q, k, v, grad, Mask()), both_ways(q, *more, grad, Mask.padding(real))
    for a, b in zip(narrow, wide, strict=True):
        assert torch.equal(a, b[:, :, :13] if b.ndim == 4 and b.shape[2] == 43 else b)


def test_bfloat16_is_read_as_it_is_and_rounded_once() -> None:
    """The very numbers of float32, rounded to the nearest."""
    halves = drawn(3, 4, 2, 19, 26, 32, 32, torch.bfloat16)
    found, wide = both_ways(*halves, Mask()), both_ways(*(x.float() for x in halves), Mask())
    assert found[1].dtype == torch.float32 and torch.equal(found[1], wide[1])
    for a, b in zip(found, wide, strict=True):
        assert torch.equal(a, b.to(a.dtype))
    nothing = torch.full((1, 1, 2, 4), torch.nan, dtype=torch.bfloat16)
    assert short.attention(nothing, nothing, nothing, Mask(), scale=1.0)[0].isnan().all()


def test_autocast_hands_over_bfloat16_and_gets_it_back() -> None:
    q, k, v, _ = drawn(3, 2, 2, 11, 11, 8, 8, torch.bfloat16)
    q.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = attend(q, k, v, Mask.causal())
    assert found.kernel == "short" and found.output.dtype == torch.bfloat16 and found.lse.dtype == torch.float32
    assert found.output.requires_grad and not found.lse.requires_grad
    assert attend(q, k, v, Mask.causal(), kernel="fused").kernel == "fused"
    assert attend(q.detach(), k, v, survey=SurveySpec()).kernel == "native"
    long = torch.zeros(1, 1, short.LONGEST + 1, 8, dtype=torch.bfloat16)
    assert attend(long, long, long).output.dtype == torch.bfloat16
    assert "at most" in short.refusal(long, long, long, Mask(), **NOTHING)


def test_what_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.zeros(1, 2, 4, 8)
    assert short.refusal(x, x, x, Mask.causal() & Mask.padding(torch.ones(1, 4)), **NOTHING) is None
    assert "of one type" in short.refusal(x, x.bfloat16(), x, Mask(), **NOTHING)
    assert "of one type" in short.refusal(x.half(), x.half(), x.half(), Mask(), **NOTHING)
    assert "masks" in short.refusal(x, x, x, Mask.window(2), **NOTHING)
    assert "softcap" in short.refusal(x, x, x, Mask(), **{**NOTHING, "softcap": 2.0})
    monkeypatch.setattr(short, "_library", lambda: None)
    assert "compiler" in short.refusal(x, x, x, Mask(), **NOTHING)
