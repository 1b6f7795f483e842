"""attention.py against loops over plain numbers, and its masks against what they say in words."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from klieg.attention import Mask, hide, log_sum_exp, output, scores, slots, weights

# A rule in words: (mask, what it says of batch, head, slot and key, its reason).
Rule = tuple[Mask, Callable[[int, int, int, int], bool], str]


@st.composite
def rules(draw: st.DrawFn, batch: int, heads: int, keys: int) -> Rule:
    kind = draw(st.sampled_from(["causal", "window", "block", "strided", "prefix", "padding", "documents",
                                 "explicit"]))
    seed = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    if kind == "causal":
        return Mask.causal(), lambda b, h, i, j: j <= i, "future"
    if kind == "window":
        size, shared = draw(st.integers(1, keys + 1)), draw(st.sampled_from([0, 0, 1, 3]))
        return (Mask.window(size, shared), lambda b, h, i, j: -size < i - j < size or i < shared or j < shared,
                "outside the window")
    if kind == "block":
        size, shared = draw(st.integers(1, keys + 1)), draw(st.sampled_from([0, 0, 1, 3]))
        return (Mask.block(size, shared), lambda b, h, i, j: i // size == j // size or i < shared or j < shared,
                "another block")
    if kind == "strided":
        size, shared = draw(st.integers(1, keys + 1)), draw(st.sampled_from([0, 0, 1, 3]))
        return (Mask.strided(size, shared), lambda b, h, i, j: (-size < i - j < size or (i - j) % size == 0 or i < shared
                                                                or j < shared), "off the stride")
    if kind == "prefix":
        length = draw(st.integers(0, keys))
        return Mask.prefix(length), lambda b, h, i, j: j <= i or j < length, "future"
    if kind == "padding":
        real = (torch.rand(batch, keys, generator=seed) < 0.7)
        return Mask.padding(real), lambda b, h, i, j: bool(real[b, j]), "padding"
    if kind == "documents":
        ids = torch.randint(0, 3, (batch, keys), generator=seed)
        return Mask.documents(ids), lambda b, h, i, j: bool(ids[b, i] == ids[b, j]), "another document"
    shared = draw(st.booleans())
    allowed = torch.rand(1 if shared else batch, 1 if shared else heads, keys, keys, generator=seed) < 0.7
    return (Mask.explicit(allowed), lambda b, h, i, j: bool(allowed[b % len(allowed), h % allowed.shape[1], i, j]),
            "not allowed")


@st.composite
def masks(draw: st.DrawFn) -> tuple[list[Rule], int, int, int, int]:
    batch, heads, keys = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 7))
    queries = draw(st.integers(1, keys))
    return draw(st.lists(rules(batch, heads, keys), max_size=3)), batch, heads, queries, keys


def composed(parts: list[Rule]) -> Mask:
    mask = Mask()
    for part, _, _ in parts:
        mask = mask & part
    return mask


@given(masks())
def test_rules_compose_by_and_and_every_hidden_pair_has_the_first_reason(case) -> None:
    parts, batch, heads, queries, keys = case
    mask = composed(parts)
    seen = mask.visible(slots(queries, keys), torch.arange(keys)).expand(batch, heads, queries, keys)
    for b in range(batch):
        for h in range(heads):
            for row in range(queries):
                slot = keys - queries + row
                for key in range(keys):
                    reasons = [reason for _, sees, reason in parts if not sees(b, h, slot, key)]
                    assert seen[b, h, row, key].item() == (not reasons)
                    assert mask.reason(slot, key, b, h) == (reasons[0] if reasons else None)


@given(masks(), st.integers(1, 4), st.integers(1, 4))
def test_blocks_of_a_mask_are_the_mask(case, rows: int, columns: int) -> None:
    parts, batch, heads, queries, keys = case
    mask = composed(parts)
    whole = mask.visible(slots(queries, keys), torch.arange(keys)).expand(batch, heads, -1, -1)
    for i in slots(queries, keys).split(rows):
        for j in torch.arange(keys).split(columns):
            block = mask.visible(i, j).expand(batch, heads, -1, -1)
            first = keys - queries
            assert torch.equal(block, whole[:, :, i[0] - first:i[-1] - first + 1, j[0]:j[-1] + 1])


def test_the_last_query_stands_at_the_last_key() -> None:
    assert slots(3, 5).tolist() == [2, 3, 4]
    assert Mask.causal().visible(slots(1, 4), torch.arange(4)).all()


def test_an_explicit_table_may_begin_at_a_later_slot() -> None:
    table = torch.tensor([[True, False, False], [True, True, False]])[None, None]
    mask = Mask.explicit(table, first_slot=1)
    assert mask.visible(slots(2, 3), torch.arange(3))[0, 0].tolist() == table[0, 0].tolist()
    assert mask.reason(1, 1) == "not allowed"
    assert mask.reason(2, 1) is None


def by_hand(q, k, v, b: int, h: int, i: int, seen, scale: float, softcap, sink, bias) -> tuple[list[float], list[float]]:
    """Scores in, weights and output out, number by number."""
    group = h * k.shape[1] // q.shape[1]
    found = []
    for j in range(k.shape[2]):
        s = scale * sum(float(x) * float(y) for x, y in zip(q[b, h, i], k[b, group, j], strict=True))
        s = s if softcap is None else softcap * math.tanh(s / softcap)
        found.append(math.exp(s + (0 if bias is None else float(bias[h, i, j]))) if seen[i][j] else 0.0)
    total = sum(found) + (0 if sink is None else math.exp(sink))
    w = [x / total if total else 0.0 for x in found]
    return w, [sum(x * float(y) for x, y in zip(w, v[b, group, :, e], strict=True)) for e in range(v.shape[3])]


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("sunk", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_the_formula_number_by_number(softcap: float | None, sunk: bool, biased: bool) -> None:
    random = torch.Generator().manual_seed(7)
    q, k, v = (torch.randn(2, heads, n, d, dtype=torch.float64, generator=random)
               for heads, n, d in ((4, 3, 5), (2, 6, 5), (2, 6, 2)))
    sinks = torch.randn(4, dtype=torch.float64, generator=random) if sunk else None
    bias = torch.randn(4, 3, 6, dtype=torch.float64, generator=random) if biased else None
    allowed = torch.rand(1, 1, 3, 6, generator=random) < 0.6
    allowed[0, 0, 1] = False                                     # the second query sees nothing
    s = hide(scores(q, k, scale=0.7, softcap=softcap, bias=bias), Mask.explicit(allowed, first_slot=3))
    lse = log_sum_exp(s, sinks)
    w = weights(s, lse)
    found = output(w, v)
    for b in range(2):
        for h in range(4):
            for i in range(3):
                row, out = by_hand(q, k, v, b, h, i, allowed[0, 0].tolist(), 0.7, softcap,
                                   None if sinks is None else float(sinks[h]), bias)
                assert w[b, h, i].tolist() == pytest.approx(row, abs=1e-14)
                assert found[b, h, i].tolist() == pytest.approx(out, abs=1e-14)
    blind = lse[:, :, 1]
    assert torch.equal(blind, torch.full_like(blind, -torch.inf) if sinks is None else sinks.expand(2, 4))


def test_the_scale_is_one_over_the_root_of_the_width_by_default() -> None:
    q, k = torch.ones(1, 1, 1, 16), torch.ones(1, 1, 1, 16)
    assert scores(q, k).item() == 4.0
    assert scores(q, k, scale=1.0).item() == 16.0
