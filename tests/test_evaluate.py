"""Scores against their formulas, written out here over words that were cut by hand."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from test_beam import forced
from test_translate import taught

from klieg.errors import KliegError
from klieg.evaluate import bleu, cutting, perplexity, score

FOUND = ["The cat, it sat on the mat.", "A dog (big one) runs to the old man", "no."]
WANTED = ["The cat, it sat upon the mat.", "A big dog (one) runs to the old man.", "No!"]
FOUND_WORDS = ["The cat , it sat on the mat .", "A dog ( big one ) runs to the old man", "no ."]
WANTED_WORDS = ["The cat , it sat upon the mat .", "A big dog ( one ) runs to the old man .", "No !"]


def grams(items: list[str], n: int) -> Counter:
    return Counter(tuple(items[i:i + n]) for i in range(len(items) - n + 1))


def bleu_by_hand(found: list[list[str]], wanted: list[list[str]]) -> float:
    """Papineni et al. 2002: the geometric mean of clipped precisions, times exp(1 - r/c) for a short text."""
    logs = []
    for n in range(1, 5):
        pairs = [(grams(a, n), grams(b, n)) for a, b in zip(found, wanted, strict=True)]
        logs.append(math.log(sum((a & b).total() for a, b in pairs) / sum(a.total() for a, _ in pairs)))
    c, r = sum(map(len, found)), sum(map(len, wanted))
    return 100 * math.exp(sum(logs) / 4) * min(1, math.exp(1 - r / c))


def chrf_by_hand(found: list[str], wanted: list[str]) -> float:
    """Popović 2015: mean precision P and recall R of 1 to 6 letters, spaces left out; 5 P R / (4 P + R)."""
    shares = []
    for n in range(1, 7):
        pairs = [[grams(list(line.replace(" ", "")), n) for line in pair] for pair in zip(found, wanted, strict=True)]
        both = sum((a & b).total() for a, b in pairs)
        shares.append((both / sum(a.total() for a, _ in pairs), both / sum(b.total() for _, b in pairs)))
    p, r = (sum(side) / 6 for side in zip(*shares, strict=True))
    return 100 * 5 * p * r / (4 * p + r)


def split(lines: list[str]) -> list[list[str]]:
    return [line.split() for line in lines]


def test_bleu_is_its_formula_over_words_and_marks() -> None:
    exact = bleu_by_hand(split(FOUND_WORDS), split(WANTED_WORDS))
    assert 30 < exact < 70
    found = score(FOUND, WANTED)
    assert found.bleu == bleu(FOUND, WANTED) == pytest.approx(exact) and found.sentences == 3
    assert "tok:13a" in found.bleu_signature and "version:" in found.bleu_signature
    assert found.precisions[0] == pytest.approx(100 * 19 / 22)
    assert found.brevity_penalty == pytest.approx(math.exp(1 - 23 / 22))
    assert bleu(WANTED, WANTED) == pytest.approx(100)


def test_tokenized_texts_are_compared_as_they_are() -> None:
    raw = bleu_by_hand(split(FOUND), split(WANTED))
    found = score(FOUND, WANTED, tokenized=True)
    assert found.bleu == bleu(FOUND, WANTED, "none") == pytest.approx(raw) != pytest.approx(bleu(FOUND, WANTED))
    assert "tok:none" in found.bleu_signature and "case:mixed" in found.bleu_signature
    assert score(FOUND_WORDS, WANTED_WORDS, tokenized=True).bleu == pytest.approx(bleu(FOUND, WANTED))


def test_chrf_is_its_formula() -> None:
    found = score(FOUND, WANTED)
    assert found.chrf == pytest.approx(chrf_by_hand(FOUND, WANTED)) and 50 < found.chrf < 95
    assert "nc:6" in found.chrf_signature and "nw:0" in found.chrf_signature


def test_chinese_is_cut_into_characters() -> None:
    found, wanted = ["我爱你和那只猫。", "他在NBA打球"], ["我爱你和这只猫。", "她在NBA打过球"]
    exact = bleu_by_hand([list("我爱你和那只猫。"), ["他", "在", "NBA", "打", "球"]],
                         [list("我爱你和这只猫。"), ["她", "在", "NBA", "打", "过", "球"]])
    for language in ("zh", None):
        scores = score(found, wanted, language)
        assert scores.bleu == pytest.approx(exact) and "tok:zh" in scores.bleu_signature


@pytest.mark.parametrize(("text", "language", "cut"), [
    ("我爱你", None, "zh"), ("我爱 iPhone", None, "13a"), ("我们今天爱用 iPad", None, "zh"), ("猫が好きです", None, "char"),
    ("A dog.", None, "13a"), ("A dog.", "zh", "zh"), ("我爱你", "de", "13a"), ("", None, "13a"), ("1, 2!", None, "13a")])
def test_how_texts_are_cut_is_told_by_the_language_or_seen(text: str, language: str | None, cut: str) -> None:
    assert cutting([text], language) == cut


def test_an_empty_translation_costs_and_breaks_nothing() -> None:
    found = score(["", *FOUND[1:]], WANTED)
    assert 0 < found.bleu < bleu(FOUND, WANTED)
    assert score(["", ""], ["a b", "c"]).bleu == 0


def test_texts_without_their_own_reference_are_refused() -> None:
    for ask in (bleu, score):
        with pytest.raises(KliegError, match="3 texts and 2 references"):
            ask(FOUND, WANTED[:2])
        with pytest.raises(KliegError, match="nothing to compare"):
            ask([], [])


def test_perplexity_is_that_of_the_references_by_token_and_by_word() -> None:
    translator = taught()
    sources = ["cat sees dog.", "big moon."]
    for to, mark, references, words, kind in (("de", 3, ["katze sieht hund.", "grosser mond."], 5, "word"),
                                              ("zh", 4, ["猫看狗。", "大 月。"], 7, "character")):
        ids = [[translator.tokenizer.encode(text, bos=False) for text in side] for side in (sources, references)]
        nats = -sum(forced(translator.model, [mark, *s, 1], t) for s, t in zip(*ids, strict=True))
        tokens = sum(map(len, ids[1])) + 2
        heard: list[tuple[int, int]] = []
        found = perplexity(translator, sources, references, to, told=lambda *done, heard=heard: heard.append(done))
        assert (found.tokens, found.words, found.word_is) == (tokens, words + 2, kind)
        assert found.token == pytest.approx(math.exp(nats / tokens), rel=1e-4)
        assert found.word == pytest.approx(math.exp(nats / (words + 2)), rel=1e-4)
        assert heard[-1] == (2, 2)
    assert perplexity(translator, sources, ["猫 看 。", "月 。"], "zh", tokenized=True).words == 5 + 2
