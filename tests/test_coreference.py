"""Heads as predictors of the antecedent: heads that are built to be right, wrong or blind, whole maps, and shuffled gold."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest
import torch
from test_encoders import BERT, pretrained
from test_encoders import lively as lively_encoder
from test_models import GPT2, LLAMA, lively
from torch import Tensor

import klieg
from klieg import foreign, models
from klieg.analysis.chance import Rate, sign_test
from klieg.analysis.coreference import (
    READINGS,
    WAYS,
    baselines,
    coreference,
    credit,
    likelihoods,
    look,
    own_answers,
    own_shares,
    substituted,
)
from klieg.analysis.coreference.riddles import Riddle, Riddles, posed, riddles
from klieg.analysis.likelihood import Scorer
from klieg.analysis.reader import Heads, Reader, load
from klieg.attention import Mask, hide, log_sum_exp
from klieg.errors import KliegError
from klieg.tokenizers import Tokenizer, train
from klieg.trace import Call

ANIMAL = "The animal didn't cross the street because it was too tired."
NOUNS = "cat dog mouse bird horse cow sheep goat fox wolf bear deer".split()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train(iter([f"The {noun} saw the {noun} because it was too tired. " for noun in NOUNS] * 2 + [ANIMAL] * 3), 400)


def set_of(count: int, seed: int = 0) -> Riddles:
    """Riddles of two nouns, either of which is right as often; both parts alike."""
    drawn = random.Random(seed)
    made = []
    for n, names in enumerate(drawn.choice(list(permutations(NOUNS, 2))) for _ in range(count)):
        text = f"The {names[0]} saw the {names[1]} because it was too tired, so {n}{' more' * (n % 3)} left."
        right = drawn.random() < 0.5
        made.append(replace(posed(text, "it", list(names)), right=(right, not right), facet="even" if n % 2 == 0 else "odd"))
    return Riddles("made", made[:count // 2], made[count // 2:])


class Built(Reader):
    """A causal model of one layer whose heads put the scores that they are told: (h, i, j) from a riddle's tokens."""

    def __init__(self, tokenizer: Tokenizer, scores: Callable[[list[tuple[int, int]]], Tensor]) -> None:
        super().__init__(_Nothing(), tokenizer, "built")
        self.scores_of = scores

    def placed(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        found = super().placed(text)
        self.text, self.places = text, found[1]
        return found

    def heard(self, ids: Sequence[int], hear: Callable[[Call], Tensor]) -> list[tuple[Heads, Tensor]]:
        scores = self.scores_of(self.places)
        h, n = scores.shape[0], len(ids)
        s = hide(scores[None], Mask.causal())
        keys = torch.eye(n).expand(1, h, n, n)
        call = Call(0, "self", scores[None], keys, None, log_sum_exp(s), None, Mask.causal(), 1.0, "dense")
        return [(Heads(0, "self", h, h), hear(call))]


class _Nothing:
    """No network."""

    positions = None


def built(tokenizer: Tokenizer, known: Riddles) -> Built:
    """Head 0 looks at nothing in particular, 1 at the right candidate, 2 at the wrong one, 3 at the first token."""
    answers = {riddle.text: riddle for riddle in (*known.development, *known.test)}

    def scores(places: list[tuple[int, int]]) -> Tensor:
        riddle = answers[reader.text]
        found = torch.zeros(4, len(places), len(places))
        for place, right in zip(riddle.candidates, riddle.right, strict=True):
            for n, (start, end) in enumerate(places):
                if max(start, place[0]) < min(end, place[1]):
                    found[1 if right else 2, :, n] = 9.0
        found[3, :, 0] = 50.0
        return found

    reader = Built(tokenizer, scores)
    return reader


def test_a_head_that_is_built_to_be_right_is_found_and_the_others_are_not(tokenizer: Tokenizer) -> None:
    known, told = set_of(80), []
    found = coreference(built(tokenizer, known), known, lambda *step: told.append(step))
    assert (found.chosen.head, found.tries, told[-1]) == (1, len(READINGS) * len(WAYS) * 4, (80, 80))
    assert (found.development, found.test) == (Rate(40.0, 40), Rate(40.0, 40))
    shares = [rate.share for rate in found.every]
    assert shares[1:3] == [1.0, 0.0] and found.answers == {}
    assert found.baselines["chance"] == Rate(20.0, 40)
    assert found.p == sign_test([1.0] * 40, baselines(known.test)[found.best_baseline]) < 1e-3
    assert {name: rates["head"].count for name, rates in found.facets.items()} == {"even": 20, "odd": 20}
    assert found.lines()[0].head == 1 and found.lines()[0].chance == 0.5
    assert found.as_json()["heads"][0]["mean"] == 1.0


def test_a_head_that_does_not_see_either_counts_as_chance(tokenizer: Tokenizer) -> None:
    """Candidates after the pronoun: a causal head gives both no weight at all from there."""
    riddle = posed("It was tired, so the cat saw the dog.", "it", ["cat", "dog"])
    known = Riddles("made", [riddle], [riddle])
    reader = built(tokenizer, known)
    found = look(reader, riddle)
    assert (found.weights[0] == 0).all() and (credit(found.weights, riddle.right)[0] == 0.5).all()
    assert found.most(0, riddle.right) == (0, 4) and found.shares(0, riddle.right) == [0.0] * 4
    assert found.most(2, riddle.right) == (1, 0) and found.shares(2, riddle.right)[1] > 0.99


def test_shuffled_gold_gives_chance_on_the_other_part_and_more_where_it_was_chosen(tokenizer: Tokenizer) -> None:
    """No head can know it, so the best of many tries is too good on the part where it was chosen, and only there."""
    known = set_of(240, seed=3)
    numbers = torch.Generator().manual_seed(5)
    reader = Built(tokenizer, lambda places: 3 * torch.randn(24, len(places), len(places), generator=numbers))
    found = coreference(reader, known)
    assert found.development.share > 0.58 and abs(found.test.share - 0.5) < 0.12
    assert found.development.share > found.test.share and found.p > 0.05
    assert abs(torch.tensor([rate.share for rate in found.every]).mean() - 0.5) < 0.03


def test_credit() -> None:
    weights = torch.tensor([[0.1, 0.7, 0.2], [0.3, 0.3, 0.1], [0.0, 0.0, 0.0]], dtype=torch.float64)
    assert credit(weights, (False, True, False)).tolist() == [1.0, 0.5, pytest.approx(1 / 3)]
    assert credit(weights, (True, True, False)).tolist() == [1.0, 1.0, pytest.approx(2 / 3)]


def by_hand(weights: Tensor, tokens: list[str], riddle: Riddle) -> dict[tuple[str, str, int], float]:
    """From a whole map (i, j) and the tokens of ANIMAL, found by their labels: (reading, way, candidate) to weight."""
    text, spans, at = "", [], 0
    for token in tokens:
        piece = token.strip("·") if not token.startswith("⟨") else ""
        at = riddle.text.index(piece, at)
        spans.append((at, at + len(piece)) if piece else (-1, -1))
        at += len(piece)
        text += piece

    def at_place(start: int, end: int) -> list[int]:
        return [n for n, span in enumerate(spans) if span[0] >= start and span[1] <= end and span[0] >= 0]

    rows = {"pronoun": at_place(*riddle.pronoun), "clause": at_place(0, len(riddle.text) - 1)[-1:], "end": at_place(0, 99)[-1:]}
    found = {}
    for reading, queries in rows.items():
        row = weights[queries].double().mean(0)
        for n, place in enumerate(riddle.candidates):
            parts = row[at_place(*place)]
            found |= {(reading, "sum", n): parts.sum().item(), (reading, "mean", n): parts.mean().item(),
                      (reading, "max", n): parts.max().item()}
    return found


def test_weights_are_those_of_the_whole_map(tokenizer: Tokenizer) -> None:
    riddle = posed(ANIMAL, "it", ["animal", "street"])
    for config in (LLAMA, GPT2):
        model = lively(replace(config, vocab_size=tokenizer.size))
        found, trace = look(Reader(model, tokenizer, "tiny"), riddle), klieg.trace((model, tokenizer), ANIMAL)
        for place, head in enumerate(found.heads):
            expected = by_hand(trace[head.layer].weights(head.head), trace.tokens, riddle)
            for (reading, way, n), weight in expected.items():
                at = READINGS.index(reading), WAYS.index(way), place, n
                assert found.weights[at].item() == pytest.approx(weight, abs=1e-6)
        assert place == sum(row.heads for row in found.rows) - 1


def test_chinese_characters_of_several_tokens(tokenizer: Tokenizer) -> None:
    """No Chinese in its vocabulary: a character is three tokens of bytes, and each belongs to the character."""
    model, text = lively(replace(LLAMA, vocab_size=tokenizer.size)), "小明看小红，她走了。"
    riddle = posed(text, "她", ["小红", "小明"])
    found, trace = look(Reader(model, tokenizer, "tiny"), riddle), klieg.trace((model, tokenizer), text)
    assert len(trace.tokens) == 1 + 3 * len(text)
    at = {character: slice(1 + 3 * text.index(character), 4 + 3 * text.index(character)) for character in "红明她"}
    row = trace[1].weights(4)[at["她"]].double().mean(0)
    assert found.weights[0, 1, 6 + 4, 0].item() == pytest.approx(row[1:7].mean().item(), abs=1e-6)
    assert found.weights[0, 0, 6 + 4, 1].item() == pytest.approx(row[10:16].sum().item(), abs=1e-6)
    clause = trace[1].weights(4)[3 * text.index("了") + 3].double()
    assert found.weights[1, 0, 6 + 4, 1].item() == pytest.approx(clause[10:16].sum().item(), abs=1e-6)


def test_klieg_and_transformers_look_alike(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """A decoder and an encoder that both can open: Klieg's own pass, and the watched one."""
    riddle = posed(ANIMAL, "it", ["animal", "street"])
    for name, model in (("gpt2", lively(replace(GPT2, vocab_size=400))),
                        ("bert", lively_encoder(replace(BERT, vocab_size=400)))):
        models.save(tmp_path / name, model, tokenizer)
        own, watched = load(str(tmp_path / name)), foreign.load(str(tmp_path / name))
        ours, theirs = look(own, riddle), look(Reader(watched, watched.tokenizer, name), riddle)
        assert ours.rows == theirs.rows and torch.allclose(ours.weights, theirs.weights, atol=1e-5)
        assert (ours.weights > 0).all()


def test_the_model_itself(tokenizer: Tokenizer) -> None:
    scorer = Scorer(lively(replace(LLAMA, vocab_size=tokenizer.size)), tokenizer, "tiny")
    riddle = posed(ANIMAL, "it", ["animal", "street"])
    texts = [ANIMAL.replace("it", f"the {name}") for name in ("animal", "street")]
    found = likelihoods(scorer, [riddle])
    assert found["whole"][0] == pytest.approx(scorer.total(texts).tolist(), abs=1e-9)
    rest = scorer.total(texts, [text.index(" was") for text in texts])
    assert found["rest"][0] == pytest.approx(rest.tolist(), abs=1e-9)
    assert own_shares(scorer, riddle) == pytest.approx(rest.softmax(0).tolist())
    assert own_answers(scorer, [riddle])["rest"] == [float(rest[0] > rest[1])]


@pytest.mark.parametrize(("text", "pronoun", "names", "written"), [
    ("A cat saw the dog. It ran.", "it", ["cat", "dog"], ["A cat saw the dog. The cat ran."]),
    ("Ann told Eve that she ran.", "she", ["Ann", "Eve"], ["Ann told Eve that Ann ran."]),
    ("Tom met his son and took his hat.", "his", ["Tom", "son"], ["Tom met his son and took Tom's hat."]),
    ("Ann met Eve in her hat.", "her", ["Ann", "Eve"], ["Ann met Eve in Ann hat.", "Ann met Eve in Ann's hat."]),
    ("小明看小红，他走了。", "他", ["小明", "小红"], ["小明看小红，小明走了。"])])
def test_a_candidate_in_the_place_of_the_pronoun(text: str, pronoun: str, names: list[str], written: list[str]) -> None:
    riddle = posed(text, pronoun, names)
    found = substituted(riddle, riddle.candidates[0])
    assert [text for text, _ in found] == written
    rest = text[riddle.pronoun[1]:]
    assert all(text[start:] == rest for text, start in found)


def test_baselines() -> None:
    text = "The cat saw the dog and it met the fox."
    riddle = posed(text, "it", ["dog", "cat", "fox"])
    after = posed("It ran when the cat saw the dog.", "it", ["dog", "cat"])
    assert baselines([riddle, after]) == {"chance": [1 / 3, 0.5], "nearest": [1.0, 0.0], "first": [0.0, 0.0]}


def test_what_does_not_fit(tokenizer: Tokenizer) -> None:
    reader = Reader(lively(replace(LLAMA, vocab_size=tokenizer.size)), tokenizer, "tiny")
    long = posed("The cat saw the dog, " + "so " * 80 + "it left.", "it", ["cat", "dog"])
    short = posed("The cat saw the dog, so it left.", "it", ["cat", "dog"])
    with pytest.raises(KliegError, match="has positions for 64"):
        look(reader, long)
    found = coreference(reader, Riddles("made", [short, long], [long, short]))
    assert found.too_long == 2 and found.test.count == 1 and set(found.answers) == {"whole", "rest"}
    with pytest.raises(KliegError, match="no riddle of a part"):
        coreference(reader, Riddles("made", [short], [long]))


def test_a_real_encoder(tokenizer: Tokenizer) -> None:
    riddle = posed(ANIMAL, "it", ["animal", "street"])
    reader = load(str(pretrained()))
    found = look(reader, riddle)
    assert found.weights.shape == (3, 3, 6 * 12, 2) and (found.weights > 0).all()
    _, places = reader.placed(ANIMAL)
    assert places[0] == places[-1] == (0, 0) and ANIMAL[slice(*places[2])] == "animal"


@pytest.mark.slow
@pytest.mark.skipif("KLIEG_DATA" not in os.environ, reason="KLIEG_DATA is not set")
def test_a_public_set_and_the_bundled_model() -> None:
    reader = load("chat")
    known = riddles("cluewsc", Path(os.environ["KLIEG_DATA"]))
    found = coreference(reader, known)
    assert found.tries == 48 * 9 and found.development.count + found.test.count + found.too_long == 294
    assert found.development.share >= max(rate.share for rate in found.baselines.values()) - 0.1
