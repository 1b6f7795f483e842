"""Where phrases stand: whole words in English, characters in Chinese, articles aside."""

from __future__ import annotations

import pytest

from klieg.analysis.coreference.mentions import apart, bare, mention, standing, words


@pytest.mark.parametrize(("text", "phrase", "found"), [
    ("The cat saw a cattle cat.", "cat", ["cat", "cat"]), ("A CEO, the ceo", "ceo", ["CEO", "ceo"]),
    ("It is it; with its wit", "it", ["It", "it"]), ("小明把书给了小红", "小红", ["小红"]), ("他看他们", "他", ["他", "他"]),
    ("Tim's (old) hat", "(old)", ["(old)"]), ("naïve naïveté", "naïve", ["naïve"]), ("x1 x", "x", ["x"]), ("a", "", []),
    ("用iPhone拍", "iPhone", ["iPhone"])])
def test_a_phrase_stands_as_whole_words(text: str, phrase: str, found: list[str]) -> None:
    assert [text[start:end] for start, end in standing(text, phrase)] == found


def test_the_last_mention_before_the_pronoun_counts_else_the_first_after() -> None:
    text = "The dog met a dog. It barked at the dog and the dog."
    it = standing(text, "it")[0]
    assert mention(text, "the dog", it) == (14, 17)
    assert mention(text, "The Dog", (0, 3)) == (4, 7)
    assert mention(text, "cat", it) is None and mention(text, "it", it) is None


def test_articles_and_overlaps() -> None:
    assert [bare(phrase) for phrase in ("The dog", "a  dog", "theory", "the", "his son", "An")] == [
        "dog", "dog", "theory", "the", "son", "An"]
    assert apart([(4, 6), (0, 4)]) and not apart([(0, 5), (4, 6)]) and not apart([(0, 9), (3, 4)])


def test_words_are_put_together_from_the_places_of_tokens() -> None:
    text = "The cha sed dog didn’t 小猫x, ok"
    places = [(0, 0), (0, 3), (3, 7), (7, 11), (11, 13), (13, 15), (15, 19), (19, 20), (20, 22), (22, 24), (24, 25), (25, 26),
              (26, 27), (27, 28), (28, 30)]
    found = words(text, places)
    assert [text[slice(*place)] for place, _ in found] == [
        "", "The", "cha", "sed", "dog", "didn’t", "小", "猫", "x", ",", "", "ok"]
    assert [token for _, tokens in found for token in tokens] == list(range(len(places)))
    assert words("ab", [(0, 1), (1, 2)]) == [((0, 2), [0, 1])] and words("小猫", [(0, 1), (1, 2)])[1] == ((1, 2), [1])
    assert words("🐈", [(0, 1), (0, 1)]) == [((0, 1), [0, 1])]        # tokens that share one character
