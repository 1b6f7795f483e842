"""flow(): shares against sums over all paths and vectors added one by one, pipes against all cuts, hiding against cut edges."""

from __future__ import annotations

import itertools
import json
import math
import random

import pytest
import torch
from test_models import GPT2, LLAMA, lively
from test_seq2seq import lively as lively_translator
from torch import Tensor

from klieg import models
from klieg.analysis.flow import ENDS, STEPS, added, correlation, flow, hidden_effects
from klieg.changes import Cut, Heads
from klieg.errors import KliegError
from klieg.tokenizers import Tokenizer, train
from klieg.watch import trace
from klieg.whatif import whatif

TEXT = "I love you and the cat loves the moon."


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train(iter(["I love you and the cat loves the moon. 小沈阳"] * 2), 290)


def steps_of(seed: int, count: int, layers: int) -> list[Tensor]:
    """Shares of a causal stack by chance: rows that sum to one."""
    generator = torch.Generator().manual_seed(seed)
    made = [torch.rand(count, count, generator=generator, dtype=torch.float64).tril() for _ in range(layers)]
    return [step / step.sum(1, keepdim=True) for step in made]


def test_a_product_is_the_sum_over_all_paths() -> None:
    steps = steps_of(0, 4, 3)
    found = ENDS["rollout"](steps)
    for source in range(4):
        total = 0.0
        for middle in itertools.product(range(4), repeat=2):
            path = (source, *middle, 3)
            total += math.prod(float(step[after, before]) for step, before, after in zip(steps, path, path[1:], strict=False))
        assert float(found[source]) == pytest.approx(total, rel=1e-12)
    assert float(found.sum()) == pytest.approx(1)


def test_the_most_that_flows_is_the_least_that_cuts() -> None:
    """Ford and Fulkerson: over every set of nodes that holds the source and not the end, what its pipes out can carry."""
    count, layers = 3, 2
    for seed in range(4):
        steps = steps_of(seed, count, layers)
        nodes = [(layer, token) for layer in range(layers + 1) for token in range(count)]
        found = ENDS["max-flow"](steps)
        for source in range(count):
            free = [node for node in nodes if node not in ((0, source), (layers, count - 1))]
            least = math.inf
            for chosen in itertools.product((False, True), repeat=len(free)):
                inside = {(0, source), *(node for node, is_in in zip(free, chosen, strict=True) if is_in)}
                least = min(least, sum(float(steps[layer][after, before]) for layer, before in inside if layer < layers
                                       for after in range(count) if (layer + 1, after) not in inside))
            assert float(found[source]) == pytest.approx(least, abs=1e-8)


@pytest.mark.parametrize("config", [LLAMA, GPT2], ids=["llama gqa", "gpt2"])
@torch.no_grad()
def test_norms_are_those_of_the_vectors_that_are_added(config: models.Config, tokenizer: Tokenizer) -> None:
    model = lively(config)
    seen = trace((model, tokenizer), TEXT)
    count = len(seen.tokens) - 2
    for layer, norms in enumerate(added(model, seen, count)):
        call, held, block = seen[layer], seen.stream("self").blocks[layer], model.blocks[layer]
        if config is LLAMA:
            wide, bias = block.self_attn.o_proj.weight.T.double(), torch.zeros(48)
        else:
            wide, bias = block.attn.c_proj.weight.double(), block.attn.c_proj.bias
        e = call.v.shape[3]
        for query in range(count):
            total = torch.zeros(48, dtype=torch.float64)
            for key in range(count):
                moved = torch.zeros(48, dtype=torch.float64)
                for head in range(call.heads):
                    weight = float(call.tile(head, slice(query, query + 1), slice(key, key + 1)))
                    moved += weight * call.v[0, call.group(head), key].double() @ wide[head * e:(head + 1) * e]
                total += moved
                whole = moved + held.input[0, query].double() if key == query else moved
                assert float(norms[query, key]) == pytest.approx(float(whole.norm()), rel=1e-5, abs=1e-9)
            # What is added up here is what the model itself added.
            torch.testing.assert_close(total + bias.double(), held.attended[0, query].double(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", [LLAMA, GPT2], ids=["llama gqa", "gpt2"])
def test_hiding_a_token_is_cutting_all_its_edges(config: models.Config, tokenizer: Tokenizer) -> None:
    model = lively(config)
    ids, told = tokenizer.encode(TEXT), []
    found = hidden_effects(model, torch.tensor(ids), lambda *step: told.append(step))
    assert told[-1] == (len(ids) - 1, len(ids) - 1) and len(found) == len(ids) - 1
    for token in range(len(ids) - 1):
        cuts = [Cut(Heads(), query, token) for query in range(token + 1, len(ids))]
        assert float(found[token]) == pytest.approx(whatif((model, tokenizer), TEXT, cuts).divergence, rel=1e-3, abs=1e-6)


def test_hidden_in_parts_as_at_once(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = lively(LLAMA), torch.tensor(tokenizer.encode(TEXT))
    whole = hidden_effects(model, ids)
    monkeypatch.setattr("klieg.analysis.flow.CELLS", 1)
    torch.testing.assert_close(hidden_effects(model, ids), whole, rtol=1e-3, atol=1e-6)
    seen = trace((model, tokenizer), TEXT)
    by_row = added(model, seen, len(ids))
    monkeypatch.undo()
    for one, other in zip(by_row, added(model, seen, len(ids)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_model_that_looks_at_all_alike_says_nothing_of_any_token_once_corrected(tokenizer: Tokenizer) -> None:
    model = lively(LLAMA)
    with torch.no_grad():
        for block in model.blocks:
            block.self_attn.q_proj.weight.zero_()
    found = {(way.way, way.corrected): way for way in flow((model, tokenizer), TEXT).ways}
    plain, corrected = found["rollout", False].shares, found["rollout", True].shares
    assert plain[0] > 3 * plain[-1]
    assert max(corrected) - min(corrected) < 1e-7 and corrected[0] == pytest.approx(1 / len(corrected))


def test_what_is_found(tokenizer: Tokenizer) -> None:
    model = lively(GPT2)
    ids = tokenizer.encode(TEXT)
    found = flow((model, tokenizer), TEXT, token=9, name="small")
    assert found.token == 9 and found.trace.model == "small" and found.trace.ids == ids
    torch.testing.assert_close(torch.tensor(found.effects).double(), hidden_effects(model, torch.tensor(ids[:10])))
    assert [(way.way, way.corrected) for way in found.ways] == [("raw", False), ("rollout", False), ("rollout", True),
                                                               ("max-flow", False), ("value", False), ("value", True)]
    maps = torch.stack([found.trace[layer].weights(head)[9, :9] for layer in range(3) for head in range(4)]).mean(0)
    torch.testing.assert_close(torch.tensor(found.ways[0].shares), maps / maps.sum(), rtol=1e-5, atol=1e-7)
    for way in found.ways:
        assert sum(way.shares) == pytest.approx(1) and min(way.shares) >= 0 and len(way.shares) == 9
        assert way.correlation == pytest.approx(ranked(way.shares, found.effects))
    assert json.loads(json.dumps(found.as_json()))["ways"][2]["corrected"] is True


def test_without_the_first_token(tokenizer: Tokenizer) -> None:
    model = lively(LLAMA)
    found = flow((model, tokenizer), TEXT, without_first=True)
    assert found.without_first
    for way in found.ways:
        assert way.shares[0] == 0 and sum(way.shares) == pytest.approx(1)
        assert way.correlation == pytest.approx(ranked(way.shares[1:], found.effects[1:]))
    seen = trace((model, tokenizer), TEXT)
    for step in STEPS["value"](model, seen, 5):
        torch.testing.assert_close(step.sum(1), torch.ones(5).double())


def ranked(x: list[float], y: list[float]) -> float:
    """Spearman's: Pearson's of the ranks, each the mean number of those below it and those not above it."""
    a, b = ([sum((other < one) + (other <= one) for other in each) / 2 for one in each] for each in (x, y))
    a, b = ([one - sum(each) / len(each) for one in each] for each in (a, b))
    return sum(i * j for i, j in zip(a, b, strict=True)) / math.sqrt(sum(i * i for i in a) * sum(j * j for j in b))


def test_correlation() -> None:
    chance = random.Random(0)
    for count in (3, 4, 30):
        x, y = ([chance.randrange(9) / 8 for _ in range(count)] for _ in range(2))
        x[0], y[0] = 2.0, 3.0
        assert correlation(torch.tensor(x), torch.tensor(y)) == pytest.approx(ranked(x, y))
    rising = torch.tensor([0.1, 0.2, 0.7])
    assert correlation(rising, rising ** 3) == pytest.approx(1) and correlation(rising, -rising) == pytest.approx(-1)
    assert correlation(rising, torch.ones(3)) is None and correlation(torch.ones(3), rising) is None
    assert correlation(rising[:2], rising[:2]) is None


def test_refusals(tokenizer: Tokenizer) -> None:
    model = lively(LLAMA)
    with pytest.raises(KliegError, match="nothing flows to token 0 but itself; name a later token"):
        flow((model, tokenizer), TEXT, token=0)
    with pytest.raises(KliegError, match="token 1 but itself and the first token"):
        flow((model, tokenizer), TEXT, token=1, without_first=True)
    with pytest.raises(KliegError, match="there is no token 99"):
        flow((model, tokenizer), TEXT, token=99)
    with pytest.raises(KliegError, match="64 tokens"):
        flow((model, tokenizer), TEXT * 20)
    with pytest.raises(KliegError, match="is no decoder"):
        flow((lively_translator(), tokenizer), TEXT)
    with pytest.raises(KliegError, match="no model of Klieg's own"):
        flow((torch.nn.Linear(2, 2), tokenizer), TEXT)
