"""What sparse attention would cost, against maps that are held whole, log-sum-exps, and models changed another way."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from test_models import GPT2, LLAMA, lively
from torch import Tensor

from klieg.analysis import sparsity as module
from klieg.analysis.sparsity import GIVEN_UP, HIDDEN, KEPT, applied, fate, loss, losses, sparsity
from klieg.attention import Mask
from klieg.changes import Heads, Keep
from klieg.errors import KliegError
from klieg.kernels import attend
from klieg.patterns import Pattern
from klieg.tokenizers import Tokenizer, train
from klieg.trace import Call
from klieg.watch import trace
from klieg.whatif import whatif

TEXT = "I love you and the cat loves the moon."
PATTERNS = [Pattern("window", 3), Pattern("block", 4), Pattern("strided", 3), Pattern("window", 2, 1), Pattern("top", 3)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train(iter(["I love you and the cat loves the moon. 小沈阳"] * 2), 290)


def call(mask: Mask, queries: int = 11, keys: int = 11, batch: int = 1, kind: str = "self") -> Call:
    random = torch.Generator().manual_seed(2)
    q, k, v = (torch.randn(batch, h, n, 4, dtype=torch.float64, generator=random)
               for h, n in ((4, queries), (2, keys), (2, keys)))
    found = attend(q, k, v, mask)
    return Call(0, kind, q, k, v, found.lse, found.output, mask, 0.5, found.kernel)


def by_loops(weights: list[list[float]], seen: list[list[bool]], keeps) -> tuple[list[float], float]:
    """Lost mass of every row and the share of pairs that are kept, pair by pair."""
    lost, kept, there = [], 0, 0
    for i, row in enumerate(weights):
        order = sorted((j for j in range(len(row)) if seen[i][j]), key=lambda j: -row[j])
        lost.append(sum(w for j, w in enumerate(row) if seen[i][j] and not keeps(i, j, order)))
        kept += sum(keeps(i, j, order) for j in order)
        there += len(order)
    return lost, kept / there


SAYS = {
    "window:3": lambda i, j, order: abs(i - j) < 3, "block:4": lambda i, j, order: i // 4 == j // 4,
    "strided:3": lambda i, j, order: abs(i - j) < 3 or (i - j) % 3 == 0,
    "window:2+global:1": lambda i, j, order: abs(i - j) < 2 or i == 0 or j == 0,
    "top:3": lambda i, j, order: j in order[:3]}


@pytest.mark.parametrize("tile", [1, 2**22])
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("mask", [Mask(), Mask.causal()], ids=["all", "causal"])
def test_lost_weight_is_the_sum_over_the_pairs_given_up(monkeypatch, mask: Mask, pattern: Pattern, tile: int) -> None:
    monkeypatch.setattr(module, "TILE", tile)
    one = call(mask)
    found = loss(one, pattern)
    seen = mask.visible(torch.arange(11), torch.arange(11)).expand(1, 1, 11, 11)[0, 0].tolist()
    for head in range(4):
        lost, share = by_loops(one.weights(head).double().tolist(), seen, SAYS[str(pattern)])
        assert found.mean[head].item() == pytest.approx(sum(lost) / 11, abs=1e-12)
        assert found.worst[head].item() == pytest.approx(max(lost), abs=1e-12)
        assert lost[found.worst_row[head]] == pytest.approx(max(lost), abs=1e-12)
        assert found.share == pytest.approx(share, abs=1e-12)
    assert found.heads == 4 and [found.group(head) for head in range(4)] == [0, 0, 1, 1]


@pytest.mark.parametrize("tile", [1, 2**22])
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_what_becomes_of_every_pair_of_a_head(monkeypatch, pattern: Pattern, tile: int) -> None:
    monkeypatch.setattr(module, "TILE", tile)
    one = call(Mask.causal())
    pairs, lost = fate(one, 2, pattern)
    for i, row in enumerate(one.weights(2).double().tolist()):
        order = sorted(range(i + 1), key=lambda j, row=row: -row[j])
        wanted = [HIDDEN if j > i else KEPT if SAYS[str(pattern)](i, j, order) else GIVEN_UP for j in range(11)]
        assert pairs[i].tolist() == wanted
        gone = sum(w for w, what in zip(row, wanted, strict=True) if what == GIVEN_UP)
        assert lost[i].item() == pytest.approx(gone, abs=1e-12)
    with pytest.raises(KliegError, match="goes by position"):
        fate(replace(one, kind="cross"), 0, Pattern("window", 2))


@pytest.mark.parametrize("pattern", PATTERNS[:4], ids=str)
def test_what_is_left_is_the_quotient_of_the_sums_of_exponentials(pattern: Pattern) -> None:
    """An oracle without weights: exp(lse under the pattern - lse)."""
    one = call(Mask.causal(), 40, 40)
    under = attend(one.q, one.k, one.v, one.mask & pattern.mask, kernel="dense").lse
    left = torch.exp(under.double() - one.lse.double())[0]
    torch.testing.assert_close(1 - loss(one, pattern).mean, left.mean(-1), atol=1e-12, rtol=0)


def test_a_pattern_that_keeps_all_loses_nothing_and_no_pattern_of_k_keys_loses_less_than_the_largest() -> None:
    one = call(Mask.causal(), 30, 30)
    for pattern in (Pattern("window", 30), Pattern("block", 30), Pattern("window", 1, 30), Pattern("top", 30)):
        found = loss(one, pattern)
        assert found.share == 1 and not found.mean.any() and not found.worst.any()
    assert (loss(one, Pattern("top", 4)).mean < loss(one, Pattern("window", 4)).mean).all()


def test_rows_that_see_nothing_are_left_out_of_the_mean_and_only_the_first_text_counts() -> None:
    real = torch.ones(2, 11, dtype=torch.bool)
    real[0, :4] = False
    mask = Mask.causal() & Mask.padding(real)
    one = call(mask, batch=2)
    found = loss(one, Pattern("window", 2))
    w = one.every(slice(None))[0].double()
    at = torch.arange(11)
    lost = w.masked_fill((at[:, None] - at).abs() < 2, 0).sum(-1)
    torch.testing.assert_close(found.mean, lost[:, 4:].mean(-1), atol=1e-12, rtol=0)


def test_a_later_part_of_a_text_stands_at_its_own_slots() -> None:
    one = call(Mask.causal(), queries=3, keys=11)
    found = loss(one, Pattern("block", 4))
    w = one.every(slice(None))[0].double()
    assert found.mean[1].item() == pytest.approx(w[1][:, :8].sum().item() / 3, abs=1e-12)


def test_what_was_not_kept_is_one_line() -> None:
    with pytest.raises(KliegError, match="q was not kept"):
        loss(replace(call(Mask.causal()), q=None), Pattern("window", 2))


def test_cross_attention_has_no_positions_to_go_by(tokenizer: Tokenizer) -> None:
    found = trace((lively(GPT2), tokenizer), TEXT)
    found.calls.append(replace(found.calls[0], kind="cross"))
    assert [each.kind for each in losses(found, Pattern("window", 2))] == ["self"] * 3
    assert [each.kind for each in losses(found, Pattern("top", 2))] == ["self"] * 3 + ["cross"]


def kl(p: Tensor, q: Tensor) -> float:
    return sum(a * (math.log2(a) - math.log2(b)) for a, b in zip(p.tolist(), q.tolist(), strict=True))


@pytest.mark.parametrize("shape", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_applied_is_what_whatif_says_of_it(shape: object, tokenizer: Tokenizer) -> None:
    model = lively(shape)
    told = []
    read, found = sparsity((model, tokenizer), TEXT, PATTERNS, progress=lambda *step: told.append(step))
    assert told == [(n, 5) for n in range(1, 6)] and [each.pattern for each in found] == PATTERNS
    for each in found:
        other = whatif((model, tokenizer), TEXT, [Keep(Heads(), each.pattern)])
        assert each.applied.divergence == pytest.approx(other.divergence, rel=1e-4, abs=1e-9)
        assert each.applied.divergence > 1e-6
        assert [(c.id, c.rank) for c in each.applied.likeliest] == [(c.id, c.rank) for c in other.after.next_tokens(5)]
        again = applied((model, tokenizer), read, each.pattern, 10)
        assert [(s.id, s.rank_before, s.rank_after) for s in again.changes] == [
            (s.id, s.rank_before, s.rank_after) for s in other.changes]
        assert again.certificate == each.applied.certificate and again.certificate.row_sum_error < 1e-5
        assert each.applied.likeliest[0].p == pytest.approx(other.after.next_tokens(1)[0].p, rel=1e-4)
        bits = [kl(read.probabilities(n), other.after.probabilities(n)) for n in range(len(read.tokens))]
        assert each.applied.divergence_mean == pytest.approx(sum(bits) / len(bits), rel=1e-4, abs=1e-9)
        assert each.mean == pytest.approx(sum(x.mean.sum().item() for x in each.losses) / (model.layers * model.heads))
        worst, head = each.worst
        assert worst.mean[head] == max(x.mean.max() for x in each.losses)


def test_a_pattern_that_keeps_all_changes_nothing(tokenizer: Tokenizer) -> None:
    _, (found,) = sparsity((lively(LLAMA), tokenizer), TEXT, [Pattern("window", 1000)])
    assert found.applied.divergence < 1e-9 and found.applied.divergence_mean < 1e-9 and found.mean == 0 and found.share == 1


def test_as_json(tokenizer: Tokenizer) -> None:
    _, (found,) = sparsity((lively(GPT2), tokenizer), TEXT, [Pattern("strided", 2, 1)])
    said = found.as_json()
    assert said["pattern"] == "strided:2+global:1" and said["applied"]["divergence"] == found.applied.divergence
    assert [len(each["mean"]) for each in said["calls"]] == [4, 4, 4] and said["share"] == found.share


def test_a_translator_is_refused(tokenizer: Tokenizer) -> None:
    from test_seq2seq import lively as lively_translator

    with pytest.raises(KliegError, match="is no decoder"):
        sparsity((lively_translator(), tokenizer), TEXT, PATTERNS)
