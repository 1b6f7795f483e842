"""Heads as parsers: heads that are built to find a word's head, never to, or to look at a fixed distance; baselines by hand."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from made import parsed
from test_models import LLAMA, lively
from torch import Tensor

from klieg.analysis.reader import Heads, Reader
from klieg.analysis.syntax import ALL, FORM, Syntax, look, predicted, syntax
from klieg.analysis.treebank import Link, Sentence
from klieg.attention import Mask, hide, log_sum_exp
from klieg.errors import KliegError
from klieg.tokenizers import Tokenizer, train
from klieg.trace import Call

NOUNS, VERBS, ADJECTIVES = "cat dog mouse bird horse".split(), "sees loves finds".split(), "small old quick".split()


def made(count: int, seed: int = 0) -> list[Sentence]:
    """"the (small) cat sees the (old) dog", with links."""
    drawn, found = random.Random(seed), []
    for _ in range(count):
        words, links = [], []
        for part in ("nsubj", "verb", "obj"):
            if part == "verb":
                verb = len(words)
                words.append(drawn.choice(VERBS))
                continue
            start, adjectives = len(words), drawn.randrange(3)
            words += ["the", *drawn.sample(ADJECTIVES, adjectives), drawn.choice(NOUNS)]
            noun = len(words) - 1
            links += [(start, noun, "det"), *((place, noun, "amod") for place in range(start + 1, noun)), (noun, part, part)]
        found.append(sentence(words, [(word, verb if head in ("nsubj", "obj") else head, name) for word, head, name in links]))
    return found


def sentence(words: Sequence[str], links: Sequence[tuple]) -> Sentence:
    ends = np.cumsum([len(word) + 1 for word in words]) - 1
    return Sentence(" ".join(words), tuple((int(end) - len(word), int(end)) for word, end in zip(words, ends, strict=True)),
                    tuple(Link(*link) for link in links))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train(iter([one.text for one in made(300)]), 400)


class Built(Reader):
    """A model of one layer, of whose heads each is told where word i of a sentence looks."""

    def __init__(self, tokenizer: Tokenizer, known: Sequence[Sentence], heads: Sequence[Callable[[Sentence, int], int | None]],
                 mask: Mask) -> None:
        super().__init__(_Nothing(), tokenizer, "built")
        self.known, self.built, self.mask = {one.text: one for one in known}, heads, mask

    def placed(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        ids, places = super().placed(text)
        self.sentence, self.places = self.known[text], places
        return ids, places

    def heard(self, ids: Tensor, hear: Callable[[Call], Tensor]) -> list[tuple[Heads, Tensor]]:
        n, h, one = len(ids), len(self.built), self.sentence
        owner = [next((w for w, (start, end) in enumerate(one.words) if max(a, start) < min(b, end)), None)
                 for a, b in self.places]
        scores = torch.zeros(h, n, n)
        for head, where in enumerate(self.built):
            for i, word in enumerate(owner):
                goal = None if word is None else where(one, word)
                for j, other in enumerate(owner):
                    # The word itself gets the most, and does not count.
                    scores[head, i, j] = 9 if other is not None and other == word else 5 if other == goal is not None else 0
        s = hide(scores[None], self.mask)
        keys = torch.eye(n).expand(1, h, n, n)
        call = Call(0, "self", scores[None], keys, None, log_sum_exp(s), None, self.mask, 1.0, "dense")
        return [(Heads(0, "self", h, h), hear(call))]


class _Nothing:
    """No network."""

    positions = None


def to_head(one: Sentence, word: int) -> int | None:
    return next((link.head for link in one.links if link.word == word), None)


def to_dependent(one: Sentence, word: int) -> int | None:
    return next((link.word for link in one.links if link.head == word), None)


def apart(one: Sentence, word: int) -> int:
    """Some other word that has no link with this one."""
    near = {word} | {x for link in one.links if word in (link.word, link.head) for x in (link.word, link.head)}
    return next((other for other in range(len(one.words)) if other not in near), word)


def back(one: Sentence, word: int) -> int:
    return max(word - 2, 0)


HEADS = [apart, to_head, to_dependent, back]


def test_built_heads_score_one_and_none(tokenizer: Tokenizer) -> None:
    known = made(40)
    found = syntax(Built(tokenizer, known, HEADS, Mask()), known)
    assert {(relation.name, relation.to) for relation in found.relations} == {
        (name, to) for name in (ALL, "det", "amod", "nsubj", "obj") for to in ("head", "dependent")}
    assert found.relations[0].name == ALL and found.left_out == {"long": 0, "torn": 0, "unseen": 0, "rare": 0}
    for relation in found.relations:
        right = [rate.share for rate in relation.every]
        assert right[0] == 0
        if relation.to == "head":
            assert right[1] == 1 and relation.chosen.share == 1 and relation.development.share == 1
            assert relation.best.head == 1 or right[relation.best.head] == 1
        elif relation.name != ALL:
            # Of several dependents one by another relation may be looked at; a det comes first.
            assert right[2] == (1 if relation.name == "det" else pytest.approx(right[2])) and right[1] < 1
    nouns = next(relation for relation in found.relations if (relation.name, relation.to) == ("det", "head"))
    assert nouns.every[1].count == 40 and nouns.chance[1] < 0.6 and nouns.p < 1e-3
    lines = found.lines()
    assert len(lines) == 4 * len(found.relations) and lines[0].relation == ALL and lines[0].share >= lines[3].share
    assert {relation.name for relation in found.ways()} == {ALL, "det", "amod", "nsubj", "obj"} and len(found.ways()) == 5
    least = {relation.name: min(one.development.share for one in found.relations if one.name == relation.name)
             for relation in found.ways()}
    assert all(relation.development.share == 1 for relation in found.ways()) and min(least.values()) < 1


def test_a_fixed_distance_is_no_better_than_its_baselines(tokenizer: Tokenizer) -> None:
    known = made(40, 3)
    found = syntax(Built(tokenizer, known, HEADS, Mask()), known)
    for name, offset in (("obj", -2), ("nsubj", 1)):
        relation = next(one for one in found.relations if (one.name, one.to) == (name, "head"))
        development, test = ([link.head - link.word for one in known[half::2] for link in one.links if link.relation == name]
                             for half in (0, 1))
        counts = {at: development.count(at) for at in development}
        assert relation.offset == max(counts, key=counts.get)
        assert relation.baseline.share == test.count(relation.offset) / len(test)
        if name == "obj":       # there is always a word two before it
            assert relation.every[3].share == test.count(offset) / len(test) == pytest.approx(relation.chance[3])
            assert 0 < relation.chance[3] < 1 and len(counts) == 3
        else:
            assert relation.offset == offset and relation.baseline.share == 1


def test_chance_is_the_mean_over_all_shuffles(tokenizer: Tokenizer) -> None:
    known = made(8, 1)
    found = syntax(Built(tokenizer, known, HEADS, Mask()), known)
    relation = next(one for one in found.relations if (one.name, one.to) == ("obj", "head"))
    test = [next(link for link in one.links if link.relation == "obj") for one in known[1::2]]
    offsets = [link.head - link.word for link in test]
    for head, where in enumerate(HEADS):
        looks = [where(one, link.word) - link.word for one, link in zip(known[1::2], test, strict=True)]
        shuffles = [np.mean([look == gold for look, gold in zip(looks, order, strict=True)]) for order in permutations(offsets)]
        assert relation.chance[head] == pytest.approx(np.mean(shuffles))


def test_a_head_is_chosen_on_one_half_and_reported_on_the_other(tokenizer: Tokenizer) -> None:
    known = list({one.text: one for one in made(60, 2)}.values())
    half = {one.text for one in known[::2]}

    def tuned(one: Sentence, word: int) -> int | None:
        return to_head(one, word) if one.text in half else apart(one, word)

    found = syntax(Built(tokenizer, known, [tuned, back], Mask()), known)
    relation = next(one for one in found.relations if (one.name, one.to) == ("det", "head"))
    assert relation.best.head == 0 and relation.development.share == 1 and relation.chosen.share == 0 and relation.p > 0.9
    with pytest.raises(KliegError, match="stands in both"):
        syntax(Built(tokenizer, known, HEADS, Mask()), known[:1])


def test_of_a_decoder_links_to_earlier_words_count(tokenizer: Tokenizer) -> None:
    known = made(20)
    found = syntax(Built(tokenizer, known, HEADS, Mask.causal()), known)
    links = [link for one in known for link in one.links]
    assert found.left_out["unseen"] == len(links)      # each is seen from one of its ends
    ways = {(relation.name, relation.to): relation for relation in found.relations}
    assert ("det", "head") not in ways and ways["obj", "head"].every[1].share == 1 and ("nsubj", "head") not in ways
    assert ways["det", "dependent"].every[2].share == 1 and ways["nsubj", "dependent"].every[1].share < 1


def test_weights_of_words_are_sums_to_and_means_from_their_tokens() -> None:
    tokenizer = train(iter(["a b c d e"] * 9), 262)         # hardly a piece longer than a letter
    reader = Reader(lively(LLAMA), tokenizer, "tiny")
    one = sentence(["the", "horse", "sees", "mice"], [(0, 1, "det"), (1, 2, "nsubj"), (3, 2, "obj")])
    rows, weights, seen, whole = look(reader, one)
    assert whole == [True] * 4 and seen.tolist() == np.tri(4, dtype=bool).tolist()
    _, places = reader.placed(one.text)
    tokens = [[n for n, (a, b) in enumerate(places) if one.text[max(a, start):min(b, end)].strip()] for start, end in one.words]
    assert max(map(len, tokens)) > 1
    maps: list[Tensor] = []
    reader.heard(torch.tensor(reader.placed(one.text)[0]), lambda call: maps.append(call.every(slice(None))[0].double()))
    expected = [[[sum(float(w[i, j]) for i in tokens[x] for j in tokens[y]) / len(tokens[x]) for y in range(4)]
                 for x in range(4)] for layer in maps for w in layer]
    assert np.allclose(weights, expected, atol=1e-12) and len(rows) == len(maps)


def test_equal_weights_count_as_the_chance_to_pick_one() -> None:
    weights = np.array([[[0.9, 0.05, 0.05], [0.2, 0.5, 0.3], [0.0, 0.0, 1.0]]])
    assert predicted(weights).tolist() == [[[0, 0.5, 0.5], [0, 0, 1], [0, 0, 0]]]


def test_words_without_a_token_and_long_sentences_are_said(tokenizer: Tokenizer) -> None:
    known = made(12)
    torn = Sentence("the cat", ((0, 1), (1, 3), (4, 7)), (Link(0, 2, "det"), Link(1, 2, "amod")))      # "the" is one token
    reader = Built(tokenizer, [*known, torn], HEADS, Mask())
    assert len(tokenizer.encode("the", bos=False)) == 1
    found = syntax(reader, [*known, torn])
    assert found.left_out["torn"] == 1 and look(reader, torn)[3] == [True, False, True]     # it is of the word it begins in
    reader.positions = 8
    short = [one for one in known if len(reader.placed(one.text)[0]) <= 8]
    assert syntax(reader, known).left_out["long"] == len(known) - len(short) > 0


def test_what_was_found_is_saved_and_read_again(tmp_path: Path) -> None:
    found = parsed()
    (tmp_path / "s.json").write_text(json.dumps(found.as_json()), "utf-8")
    again = Syntax.load(tmp_path / "s.json")
    assert again.as_json() == found.as_json() and again.lines() == found.lines() and len(again.lines()) == 48
    assert again.relations[1].chosen == found.relations[1].every[6]


@pytest.mark.parametrize("broken", [
    lambda said: said | {"form": "klieg-syntax/9"}, lambda said: {}, lambda said: [],
    lambda said: said | {"rows": said["rows"][1:]},
    lambda said: said | {"relations": [said["relations"][0] | {"place": 12}]},
    lambda said: said | {"relations": [said["relations"][0] | {"to": "x"}]},
    lambda said: said | {"relations": [said["relations"][0] | {"every": [{"right": 0, "count": 0}] * 12}]},
    lambda said: said | {"relations": [said["relations"][0] | {"chance": ["x"] * 12}]}])
def test_another_file_is_refused(tmp_path: Path, broken: Callable) -> None:
    (tmp_path / "s.json").write_text(json.dumps(broken(parsed().as_json())), "utf-8")
    with pytest.raises(KliegError, match=f"is not what this Klieg writes of a treebank .{FORM}"):
        Syntax.load(tmp_path / "s.json")
    with pytest.raises(KliegError, match="cannot be read"):
        Syntax.load(tmp_path / "none.json")
