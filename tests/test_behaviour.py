"""What heads do: heads that are built by hand, and every number against a brute force over the whole map in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from klieg import attention
from klieg.analysis.behaviour import BAND, BEHAVIOURS, CELLS, UNITS, Text, by_distance, measure, repeated
from klieg.attention import Mask
from klieg.errors import KliegError
from klieg.trace import Call

CONTENT = [name for name, behaviour in BEHAVIOURS.items() if behaviour.content]


def made(q: Tensor, k: Tensor, mask: Mask, *, softcap: float | None = None, bias: Tensor | None = None, layer: int = 0) -> Call:
    """A call of q (b, h, i, d) and k (b, g, j, d)."""
    s = attention.hide(attention.scores(q, k, scale=1.0, softcap=softcap, bias=bias), mask)
    v = torch.zeros_like(k)
    return Call(layer, "self", q, k, v, attention.log_sum_exp(s), torch.zeros_like(q), mask, 1.0, "dense", softcap=softcap,
                bias=bias)


def built(wanted: Tensor, mask: Mask) -> Call:
    """A call of one head whose queries look at the keys of wanted (n, n), bool, and, where that is none, at themselves."""
    n = len(wanted)
    wanted = wanted | (torch.eye(n, dtype=torch.bool) & ~wanted.any(1, keepdim=True))
    return made(wanted.float()[None, None] * 40, torch.eye(n)[None, None], mask)


def truth(name: str, text: Text) -> Tensor:
    """The links of a behaviour (n, n), bool, token by token."""
    ids, n = text.ids.tolist(), len(text)
    says = {
        "previous": lambda i, j: j == i - 1, "next": lambda i, j: j == i + 1, "own": lambda i, j: i == j,
        "first": lambda i, j: j == 0 and i > 0, "duplicate": lambda i, j: j < i and ids[i] == ids[j],
        "induction": lambda i, j: 0 < j < i and ids[j - 1] == ids[i],
        "copy": lambda i, j: j < i < n - 1 and ids[j] == ids[i + 1],
        "marks": lambda i, j: 0 < j < i and bool(text.marks[j]),
        "retrieval": lambda i, j: text.needle is not None and j == text.needle[i],
    }[name]
    return torch.tensor([[says(i, j) for j in range(n)] for i in range(n)])


def weights(call: Call, batch: int = 0) -> Tensor:
    """The whole map (h, n, n) by the formula in float64."""
    s = attention.scores(call.q.double(), call.k.double(), scale=call.scale, softcap=call.softcap,
                         bias=None if call.bias is None else call.bias.double())
    return attention.hide(s, call.mask).softmax(-1)[batch].nan_to_num(0)


def random_text(n: int = 90, vocabulary: int = 12, seed: int = 0) -> Text:
    generator = torch.Generator().manual_seed(seed)
    ids, needle = torch.randint(vocabulary, (n,), generator=generator), torch.full((n,), -1)
    needle[n - 7:n - 2] = torch.arange(n // 3, n // 3 + 5)      # the last tokens but one look for five in the middle
    return Text(ids, ids < 3, needle)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_a_head_that_is_built_for_it_scores_one_and_one_that_never_does_scores_zero(name: str) -> None:
    text, mask = random_text(), Mask() if name == "next" else Mask.causal()
    links = truth(name, text)
    assert measure(built(links, mask), text, seeded())[name].weight.item() == pytest.approx(1, abs=1e-3)
    # It looks at everything that it may see but the links, and at the links only where it may see nothing else.
    others = mask.visible(torch.arange(len(text)), torch.arange(len(text)))[0, 0] & ~links
    never = made(others.float()[None, None] * 40, torch.eye(len(text))[None, None], mask)
    rows = links.any(1) & others.any(1)
    expected = ((weights(never)[0] * links).sum(1)[links.any(1)]).mean().item()
    found = measure(never, text, seeded())[name].weight.item()
    assert found == pytest.approx(expected, abs=1e-6)
    if rows[links.any(1)].all():
        assert found < 1e-3


@pytest.mark.parametrize("mask", [Mask.causal(), Mask(), Mask.causal() & Mask.window(20)], ids=["causal", "both", "window"])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_every_score_and_chance_is_that_of_a_brute_force(mask: Mask, softcap: float | None,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    text, n = random_text(), 90
    q, k = torch.randn(1, 4, n, 8, generator=seeded(1)), torch.randn(1, 2, n, 8, generator=seeded(2))
    call = made(q, k, mask, softcap=softcap)
    monkeypatch.setattr("klieg.analysis.behaviour.CELLS", 4 * n * 17)       # several blocks, the last of them short
    found = measure(call, text, seeded())
    w, seen = weights(call), mask.visible(torch.arange(n), torch.arange(n))[0, 0]
    away = torch.arange(n)[:, None] - torch.arange(n)
    for name, behaviour in BEHAVIOURS.items():
        links = truth(name, text) & seen
        if not links.any():
            assert name in ("next", "retrieval") and name not in found
            continue
        queries = links.any(1).sum()
        assert torch.allclose(found[name].weight, (w * links).sum((1, 2)) / queries, atol=1e-6), name
        if behaviour.content:
            # The mean over all pairs that are as far apart, added over the links.
            chance = sum(w[:, (away == d) & seen].mean(1) for d in away[links].tolist()) / queries
        else:
            chance = ((links / seen.sum(1, keepdim=True)).sum() / queries).expand(4)
        assert torch.allclose(found[name].chance, chance.double(), atol=1e-6), name
    entropy = -(w * w.clamp(min=1e-300).log()).sum(2).mean(1)
    assert torch.allclose(found["entropy"].weight, entropy, atol=1e-5)
    assert torch.allclose(found["distance"].weight, (w * away.abs()).sum(2).mean(1), atol=1e-4)
    assert torch.allclose(found["sharpest"].weight, w.amax(2).mean(1), atol=1e-5)
    even = seen / seen.sum(1, keepdim=True).double()
    assert found["distance"].chance[0].item() == pytest.approx((even * away.abs()).sum(1).mean().item())
    assert found["sharpest"].chance[0].item() == pytest.approx(even.amax(1).mean().item())
    assert found["entropy"].chance[0].item() == pytest.approx(seen.sum(1).log().mean().item())
    assert list(found) == [name for name in UNITS if name in found]


def test_chance_is_what_links_at_random_places_get_in_the_mean() -> None:
    """The chance of links by content: the same distances at queries that are drawn, many times."""
    text = random_text(60)
    call = made(torch.randn(1, 1, 60, 8, generator=seeded(1)), torch.randn(1, 1, 60, 8, generator=seeded(2)), Mask.causal())
    w, links = weights(call)[0], truth("induction", text)
    queries, keys = links.nonzero(as_tuple=True)
    far, drawn = queries - keys, []
    for seed in range(400):
        at = (torch.rand(len(far), generator=seeded(seed)) * (60 - far)).long() + far
        drawn.append((w[at, at - far].sum() / links.any(1).sum()).item())
    spread = torch.tensor(drawn).std().item() / 400 ** 0.5
    chance = measure(call, text, seeded(), ["induction"])["induction"].chance.item()
    assert abs(chance - sum(drawn) / 400) < 4 * spread


def test_positional_is_one_for_distance_and_zero_for_content() -> None:
    n = 256
    text = random_text(n, 40)
    previous = measure(built(truth("previous", text), Mask.causal()), text, seeded())["positional"]
    assert previous.weight.item() == pytest.approx(1, abs=1e-3) and previous.chance.item() < 0.05
    even = measure(made(torch.zeros(1, 1, n, 4), torch.zeros(1, 1, n, 4), Mask.causal()), text, seeded())["positional"]
    assert even.weight.item() == pytest.approx(0, abs=1e-9)
    window = Mask.causal() & Mask.window(9)     # rows of eight equal weights: no variance but that of rounding
    assert measure(made(torch.zeros(1, 1, n, 4), torch.zeros(1, 1, n, 4), window), text, seeded())["positional"].weight == 0
    content = measure(built(truth("duplicate", text), Mask.causal()), text, seeded())["positional"]
    assert content.weight.item() < 0.2


@pytest.mark.parametrize("mask", [Mask.causal(), Mask(), Mask.causal() & Mask.window(20)], ids=["causal", "both", "window"])
def test_positional_is_the_variance_between_distances(mask: Mask) -> None:
    n = 150
    call = made(torch.randn(1, 2, n, 8, generator=seeded(1)), torch.randn(1, 1, n, 8, generator=seeded(2)), mask)
    low = 0 if mask.rules else -((BAND - 1) // 2)
    band = range(low, low + BAND)
    seen = mask.visible(torch.arange(n), torch.arange(n))[0, 0]
    for head, w in enumerate(weights(call)):
        rows = [i for i in range(n) if i - band[-1] >= 0 and i - band[0] < n]
        groups = [torch.stack([w[i, i - d] for i in rows]) for d in band if seen[rows[0], rows[0] - d]]
        every = torch.cat(groups)
        between = sum(len(group) * (group.mean() - every.mean()) ** 2 for group in groups)
        expected = (between / (every - every.mean()).square().sum()).item()
        assert measure(call, random_text(n), seeded())["positional"].weight[head].item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("left", [False, True])
def test_padding_changes_nothing(left: bool) -> None:
    text, n = random_text(40), 40
    q, k = torch.randn(1, 4, n, 8, generator=seeded(1)), torch.randn(1, 2, n, 8, generator=seeded(2))

    def beside(x: torch.Tensor, more: torch.Tensor, dim: int = 0) -> torch.Tensor:
        return torch.cat([more, x] if left else [x, more], dim)

    for mask in (Mask.causal(), Mask()):
        alone = measure(made(q, k, mask), text, seeded())
        real = beside(torch.ones(n) > 0, torch.zeros(9) > 0)
        needle = text.needle + 9 * (left & (text.needle >= 0))
        padded = Text(beside(text.ids, torch.zeros(9, dtype=torch.int64)), beside(text.marks, torch.ones(9) > 0),
                      beside(needle, torch.full((9,), -1)))
        other = torch.randn(1, 4, n + 9, 8, generator=seeded(4))
        wide = made(torch.cat([other, beside(q, torch.randn(1, 4, 9, 8), 2)]),
                    torch.cat([other[:, :2], beside(k, torch.randn(1, 2, 9, 8), 2)]),
                    mask & Mask.padding(torch.stack([torch.ones_like(real), real])))
        found = measure(wide, padded, seeded(), batch=1)
        # The first token is the first of all, padding too, which nobody sees.
        assert list(found) == [name for name in alone if name != "first" or not left]
        for name in found:
            assert torch.allclose(found[name].weight, alone[name].weight, atol=1e-5), name
            assert torch.allclose(found[name].chance, alone[name].chance, atol=1e-5), name


def test_heads_with_masks_of_their_own() -> None:
    text = random_text(30)
    q, k = torch.randn(1, 2, 30, 8, generator=seeded(1)), torch.randn(1, 2, 30, 8, generator=seeded(2))
    table = torch.ones(1, 2, 30, 30).tril().bool()
    table[:, 1] &= torch.eye(30).bool()          # the second head sees itself only
    both = measure(made(q, k, Mask.explicit(table)), text, seeded())
    alone = measure(made(q, k, Mask.causal()), text, seeded())
    for name in both:
        assert both[name].weight[0].item() == pytest.approx(alone[name].weight[0].item(), abs=1e-6), name
        assert both[name].chance[0].item() == pytest.approx(alone[name].chance[0].item(), abs=1e-6) or name == "positional"
    assert both["previous"].weight[1].isnan() and both["induction"].chance[1].isnan()
    assert both["own"].weight[1].item() == pytest.approx(1) and both["entropy"].weight[1].item() == pytest.approx(0, abs=1e-6)


def test_an_order_of_tokens_destroys_induction_and_leaves_previous() -> None:
    ids = repeated(500, 120, seeded())
    text, other = Text(ids), Text(ids[torch.randperm(120, generator=seeded(1))])
    induction, previous = built(truth("induction", text), Mask.causal()), built(truth("previous", text), Mask.causal())
    assert measure(induction, text, seeded())["induction"].weight.item() == pytest.approx(1, abs=1e-3)
    assert measure(induction, other, seeded())["induction"].weight.item() < 0.1
    for each in (text, other):
        assert measure(previous, each, seeded())["previous"].weight.item() == pytest.approx(1, abs=1e-3)
    # A head of fixed distance has on links by content what it has anywhere.
    fixed = measure(previous, text, seeded())["induction"]
    assert fixed.weight.item() == pytest.approx(fixed.chance.item(), abs=0.05)


def test_repeated_tokens() -> None:
    ids = repeated(1000, 200, seeded(3))
    assert ids.shape == (200,) and torch.equal(ids, repeated(1000, 200, seeded(3))) and not torch.equal(
        ids, repeated(1000, 200, seeded(4)))
    values, counts = ids.unique(return_counts=True)
    assert counts.max() == 2 and (counts == 2).sum() > 60 and values.max() < 1000
    links = truth("induction", Text(ids)).nonzero()
    assert len((links[:, 0] - links[:, 1]).unique()) > 2          # no fixed distance leads from a token to its like
    assert repeated(2, 30, seeded()).shape == (30,)
    with pytest.raises(KliegError, match="at least 1 and 8"):
        repeated(0, 30, seeded())


def test_diagonals() -> None:
    block = torch.randn(3, 5, 8, generator=seeded(), dtype=torch.float64)
    expected = torch.stack([torch.stack([torch.diagonal(part, 7 - place).sum() for place in range(12)]) for part in block])
    assert torch.allclose(by_distance(block), expected)


def test_what_cannot_be_measured_is_refused() -> None:
    text = random_text(20)
    call = made(torch.randn(1, 1, 20, 4), torch.randn(1, 1, 20, 4), Mask.causal())
    with pytest.raises(KliegError, match="Did you mean 'induction'"):
        measure(call, text, seeded(), ["inductoin"])
    with pytest.raises(KliegError, match="19 tokens"):
        measure(call, random_text(19), seeded())
    with pytest.raises(KliegError, match="keep_qk"):
        measure(replace(call, q=None), text, seeded())
    assert not {"marks", "retrieval"} & set(measure(call, Text(text.ids), seeded()))
    assert set(measure(call, text, seeded(), ["own", "entropy"])) == {"own", "entropy"}
    one = measure(made(torch.ones(1, 1, 1, 4), torch.ones(1, 1, 1, 4), Mask.causal()), Text(torch.tensor([5])), seeded())
    assert one["own"].weight.item() == 1 and set(one) == {"own", "entropy", "distance", "sharpest"}
    assert CELLS > 0
