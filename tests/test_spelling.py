"""Words as a text, and the bytes that each piece gives to them."""

from __future__ import annotations

import numpy as np
import pytest

from klieg.analysis.alignment.spelling import Sentence
from klieg.errors import KliegError


@pytest.mark.parametrize(("words", "text"), [
    ("I love you .", "I love you."),
    ("it 's true , is n't it ?", "it's true, isn't it?"),
    ("我 爱 你 。", "我爱你。"),
    ("5月 22日 , NBA 开始", "5月22日, NBA开始"),
    ("the law ( of 1999 ) ;", "the law (of 1999);"),
    ("à l' heure", "à l'heure"),
    ("' quoted '", "' quoted'"),
    ("3 - 4 % --", "3 - 4% --"),
    ("", ""),
])
def test_words_are_written_as_people_do(words: str, text: str) -> None:
    sentence = Sentence.of(words.split())
    assert sentence.text == text
    assert [text.encode()[a:b].decode() for a, b in sentence.spans] == words.split()


def test_a_piece_belongs_to_the_words_whose_bytes_it_has() -> None:
    sentence = Sentence.of("我 爱 it 's".split())
    pieces = [">>de<<", "我爱".encode()[:4], "我爱".encode()[4:], b"it", b"'s", "</s>"]
    assert sentence.text == "我爱it's"
    expected = [[0, 0, 0, 0], [.75, .25, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
    assert np.array_equal(sentence.shares(pieces), expected)


def test_spaces_belong_to_nobody() -> None:
    sentence = Sentence.of(["a", "cat"])
    expected = [[1, 0], [0, 0], [0, 1], [0, 1]]
    assert np.array_equal(sentence.shares([b" a", b" ", b"c", b"at"]), expected)
    assert np.array_equal(sentence.shares([b"a", b" c", b"a", b"t"]), [[1, 0], [0, 1], [0, 1], [0, 1]])


def test_a_tokenizer_that_changes_the_text_is_refused() -> None:
    with pytest.raises(KliegError, match="changes 'A cat'"):
        Sentence.of(["A", "cat"]).shares([b"a", b" cat"])
