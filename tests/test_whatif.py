"""whatif() and rank(): the same text before and after, against weights that were changed and the formula in float64."""

from __future__ import annotations

import copy
import json
import math
from unittest.mock import patch

import pytest
import torch
from test_models import GPT2, LLAMA, lively
from test_seq2seq import lively as lively_translator

import klieg
from klieg import models
from klieg.beam import Hypothesis
from klieg.changes import Cut, Heads, HideFirst, Mute, Replace, Sharpen, read
from klieg.config import BertConfig
from klieg.errors import KliegError
from klieg.tokenizers import Tokenizer, train
from klieg.whatif import effects, rank, whatif

TEXT = "I love you and the cat"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train(iter(["I love you and the cat loves the moon. 小沈阳"] * 2), 290)


@pytest.fixture(scope="module")
def both() -> Tokenizer:
    return train(["hello world", "good night"] * 20, 300, opened=False, closed=True)


def silenced(model, layer: int, head: int):
    """A copy of a Llama in which the head's columns of W_O are zero."""
    other, width = copy.deepcopy(model), model.head_width
    with torch.no_grad():
        other.model.layers[layer].self_attn.o_proj.weight[:, head * width:(head + 1) * width] = 0
    return other


@torch.no_grad()
def probabilities(model, ids: list[int], at: int = -1) -> list[float]:
    """Of the next token, summed up by hand in float64."""
    powers = [math.exp(x) for x in model(torch.tensor([ids]))[0, at].double().tolist()]
    return [power / sum(powers) for power in powers]


def bits(p: list[float], q: list[float]) -> float:
    return sum(a * math.log2(a / b) for a, b in zip(p, q, strict=True))


def test_probabilities_ranks_and_divergence(tokenizer: Tokenizer) -> None:
    model = lively(LLAMA)
    found = whatif((model, tokenizer), TEXT, [Mute(Heads(1, 2))], count=5)
    ids = tokenizer.encode(TEXT)
    p, q = probabilities(model, ids), probabilities(silenced(model, 1, 2), ids)
    assert found.divergence == pytest.approx(bits(p, q), rel=1e-3) and found.divergence > 1e-4
    best, then = (sorted(range(300), key=lambda id: -side[id])[:5] for side in (p, q))
    assert [shift.id for shift in found.changes] == [*best, *(id for id in then if id not in best)]
    for shift in found.changes:
        assert (shift.before, shift.after) == (pytest.approx(p[shift.id], rel=1e-4), pytest.approx(q[shift.id], rel=1e-4))
        assert shift.rank_before == sum(x > p[shift.id] for x in p) + 1
        assert shift.rank_after == sum(x > q[shift.id] for x in q) + 1
        assert shift.token == found.before.vocabulary[shift.id]
    assert found.token == len(ids) - 1 and found.made == (Mute(Heads(1, 2)),)


def test_both_passes_are_certified_and_show_what_was_computed(tokenizer: Tokenizer) -> None:
    changes = [Mute(Heads(1, 2)), Cut(Heads(2, 1), 4, 2), HideFirst(Heads(0)), Sharpen(Heads(2, 5), 3)]
    found = whatif((lively(LLAMA), tokenizer), TEXT, changes)
    assert found.before.certificate.passed and found.after.certificate.passed and found.after.certificate.heads == 18
    assert torch.equal(found.before.logits, klieg.trace((lively(LLAMA), tokenizer), TEXT).logits)
    for call in found.after.calls:
        for head in range(6):
            torch.testing.assert_close(call.weights(head).sum(-1), torch.ones(call.queries), rtol=0, atol=1e-5)
    assert found.after[2].weights(1)[4, 2] == 0 and found.before[2].weights(1)[4, 2] > 0
    assert not found.after[0].weights(3)[1:, 0].any() and found.after[0].weights(3)[0, 0] == pytest.approx(1)
    cell = found.after.cell(2, 5, 4, 1)
    assert cell.difference < 1e-6 and cell.dot == pytest.approx(cell.products.sum().item())
    muted = found.after.cell(1, 2, 4, 1)
    assert muted.weight > 0 and not muted.contribution.any() and not muted.output.any()
    assert found.after.cell(2, 1, 4, 2).reason == "not allowed"


@pytest.mark.parametrize("config", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_the_factor_one_is_no_change(config: models.Config, tokenizer: Tokenizer) -> None:
    found = whatif((lively(config), tokenizer), TEXT, [Sharpen(Heads(), 1)])
    assert found.divergence == 0 and torch.equal(found.before.logits, found.after.logits)
    assert all(shift.before == shift.after and shift.rank_before == shift.rank_after for shift in found.changes)


def test_another_word_is_another_text(tokenizer: Tokenizer) -> None:
    model = lively(LLAMA)
    found = whatif((model, tokenizer), TEXT, [Replace("love", "see"), Replace("cat", "小沈阳")])
    assert (found.before.text, found.after.text) == (TEXT, "I see you and the 小沈阳")
    one, two = tokenizer.encode(TEXT), tokenizer.encode("I see you and the 小沈阳")
    assert found.after.ids == two and len(one) != len(two)
    assert found.divergence == pytest.approx(bits(probabilities(model, one), probabilities(model, two)), rel=1e-4)
    said = found.as_json()
    assert said["before"]["token"] == len(one) - 1 and said["after"]["token"] == len(two) - 1
    with pytest.raises(KliegError, match=f"token 2 of {len(one)} has no like in the new text, which has"):
        whatif((model, tokenizer), TEXT, [Replace("cat", "小沈阳")], after=2)


def test_any_token_can_be_asked(tokenizer: Tokenizer) -> None:
    model = lively(LLAMA)
    found = whatif((model, tokenizer), TEXT, [Mute(Heads(1, 2))], after=3)
    p, q = (probabilities(m, tokenizer.encode(TEXT), 3) for m in (model, silenced(model, 1, 2)))
    assert found.divergence == pytest.approx(bits(p, q), rel=1e-3) and found.token == 3


def test_what_is_sent_is_json_with_the_same_numbers(tokenizer: Tokenizer) -> None:
    changes = [read(text) for text in ("mute 1.2", "cut 2.1.4.2", "hide-first 0.all", "sharpen 2.5=0.5")]
    found = whatif((lively(LLAMA), tokenizer), TEXT, changes, name="lively")
    said = json.loads(json.dumps(found.as_json()))
    assert said["made"] == ["mute 1.2", "cut 2.1.4.2", "hide-first 0.all", "sharpen 2.5=0.5"] and said["model"] == "lively"
    assert said["divergence"] == found.divergence and said["changes"][0]["before"] == found.changes[0].before
    assert said["after"]["certificate"]["row_sum_error"] == found.after.certificate.row_sum_error
    assert said["before"]["tokens"] == found.before.tokens


@pytest.mark.parametrize("after", [None, 3])
def test_heads_are_ranked_by_what_muting_them_does(after: int | None, tokenizer: Tokenizer) -> None:
    model, told = lively(LLAMA), []
    found = rank((model, tokenizer), TEXT, after, lambda done, expected: told.append((done, expected)))
    ids, at = tokenizer.encode(TEXT), -1 if after is None else after
    p = probabilities(model, ids, at)
    best, expected = p.index(max(p)), {}
    for layer in range(3):
        for head in range(6):
            q = probabilities(silenced(model, layer, head), ids, at)
            expected[layer, head] = bits(p, q), math.log2(q[best] / p[best])
    assert [effect.divergence for effect in found] == sorted((effect.divergence for effect in found), reverse=True)
    assert {(effect.layer, effect.head) for effect in found} == set(expected) and {e.kind for e in found} == {"self"}
    for effect in found:
        divergence, change = expected[effect.layer, effect.head]
        assert effect.divergence == pytest.approx(divergence, rel=2e-3, abs=1e-6)
        assert effect.change == pytest.approx(change, rel=2e-3, abs=1e-5)
    assert told == [(n, 18) for n in range(1, 19)]


def test_a_ranking_comes_head_by_head(tokenizer: Tokenizer) -> None:
    model = lively(GPT2)
    stream = effects((model, tokenizer), TEXT)
    first = next(stream)
    stream.close()
    assert (first.layer, first.head) == (0, 0)
    assert first.divergence == pytest.approx(whatif((model, tokenizer), TEXT, [Mute(Heads(0, 0))]).divergence, rel=1e-3)


def test_a_translator_goes_through_one_target(both: Tokenizer) -> None:
    model = (lively_translator(), both)
    written = Hypothesis(both.encode("good night", bos=False), 0.0, 0.0)
    with patch("klieg.watch.search", return_value=[[written]]):   # what a model of chance would write is no text
        found = whatif(model, "hello world", [Mute(Heads(1, 0)), HideFirst(Heads(kind="encoder"))])
    assert found.before.ids == found.after.ids and found.before.source.ids == found.after.source.ids
    assert found.divergence > 0 and found.after.certificate.passed and "source" in found.as_json()["after"]
    given = whatif(model, "hello world", [read("cut cross:0.1.1.0")], target="good night", after=1)
    assert given.before.text == "good night" and given.after[0, "cross"].weights(1)[1, 0] == 0
    ranked = rank(model, "hello world", 1, target="good night")
    assert len(ranked) == 2 * 4 + 3 * 2 + 3 * 2 and {effect.kind for effect in ranked} == {"cross", "self", "encoder"}
    for effect in (ranked[0], *(next(e for e in ranked if e.kind == kind) for kind in ("cross", "self", "encoder"))):
        heads = Heads(effect.layer, effect.head, kind=effect.kind)
        alone = whatif(model, "hello world", [Mute(heads)], 1, target="good night")
        assert effect.divergence == pytest.approx(alone.divergence, rel=1e-3, abs=1e-7)


@pytest.mark.parametrize("text,changes,options,said", [
    (TEXT, [], {}, "nothing is changed; name a change"), ("", ["mute 0.0"], {}, "empty"),
    (TEXT, ["mute 3.0"], {}, "no layer 3"), (TEXT, ["cut 0.0.99.0"], {}, "cut 0.0.99.0: there is no token 99"),
    (TEXT, ["cut 0.0.0.0"], {}, "would see nothing"), (TEXT, ["replace hate=love"], {}, "no word 'hate'"),
    (TEXT, ["mute 0.0"], {"after": 99}, "no token 99"), (TEXT, ["mute 0.0"], {"target": "x"}, "no translator"),
    ("a b c " * 40, ["mute 0.0"], {}, r"positions for 64 tokens; shorten it\.$"), ("cat", ["replace cat="], {}, "empty"),
])
def test_a_mistake_is_one_line(text: str, changes: list[str], options: dict, said: str, tokenizer: Tokenizer) -> None:
    with pytest.raises(KliegError, match=said) as raised:
        whatif((lively(LLAMA), tokenizer), text, list(map(read, changes)), **options)
    assert "\n" not in str(raised.value)


def test_models_that_cannot_be_asked_are_named(tokenizer: Tokenizer) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    small = {"vocab_size": 300, "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 1, "num_attention_heads": 2}
    theirs = LlamaForCausalLM(LlamaConfig(**small))
    bert = models.build(BertConfig(**small, max_position_embeddings=30))
    for model, said in ((theirs, "LlamaForCausalLM is no model of Klieg's own"), (bert, "'Bert' is an encoder")):
        with pytest.raises(KliegError, match=said):
            whatif((model, tokenizer), TEXT, [Mute(Heads(0, 0))])
        with pytest.raises(KliegError, match=said):
            next(effects((model, tokenizer), TEXT))
    with pytest.raises(KliegError, match="no token 99; the text has tokens 0 to"):
        rank((lively(LLAMA), tokenizer), TEXT, 99)
