"""Labels: readable, honest about what a token holds, and harmless to what stands beside them."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klieg.labels import labels, mark


def cut(text: str, *sizes: int) -> list[bytes]:
    """The text's bytes in tokens of these sizes, the rest in the last."""
    data, tokens = text.encode(), []
    for size in sizes:
        tokens, data = [*tokens, data[:size]], data[size:]
    return [*tokens, data] if data else tokens


@pytest.mark.parametrize("tokens, shown", [
    (["⟨s⟩", b"I", b" love", b" you"], ["⟨s⟩", "I", "love", "you"]),
    ([b"un", b"believ", b"able", b",", b" he", b" (", b"said", b")"],
     ["un", "·believ", "·able", ",", "he", "␣(", "·said", ")"]),
    ([b" I", b" ", b" am", b"\n", b"You", b"\n", b" too"], ["␣I", "␣", "␣am", "↩", "You", "↩", "␣too"]),
    ([b"12", b"3", b"\t", b"x", b"\r\n", b"'s"], ["12", "·3", "⇥", "x", "␍↩", "'s"]),
    (cut("我爱 你", 3, 3, 1), ["我", "爱", "␣", "你"]),
    (cut("我 你", 3), ["我", "␣你"]),
    (cut("にほん ไทย", 6, 3), ["にほ", "ん", "␣ไทย"]),
    (cut("x 한국 어", 1, 7), ["x", "한국", "어"]),
])
def test_spaces_are_shown_where_they_are_not_expected(tokens: list, shown: list[str]) -> None:
    assert labels(tokens) == shown


@pytest.mark.parametrize("tokens, shown", [
    (cut("沈", 1, 1), ["沈 1/3", "沈 2/3", "沈 3/3"]),
    (cut("沈", 2), ["沈 1/2", "沈 2/2"]),
    (cut("小沈阳", 4, 2, 1), ["小 沈 1/2", "沈 2/2", "阳 1/2", "阳 2/2"]),
    (cut("x é", 1, 2), ["x", "é 1/2", "é 2/2"]),
    (cut("xé", 1, 1), ["x", "·é 1/2", "é 2/2"]),
    ([b"\xe6\xb2", b" ab", b"\x88"], ["⟨E6 B2⟩", "ab", "⟨88⟩"]),
    (["⟨s⟩", b"\xe6", "⟨/s⟩", b"\xb2\x88"], ["⟨s⟩", "⟨E6⟩", "⟨/s⟩", "⟨B2 88⟩"]),
    ([b"a\xff\xfe\nb"], ["a⟨FF FE⟩↩b"]),
])
def test_seams_say_how_many_tokens_share_a_character(tokens: list, shown: list[str]) -> None:
    assert labels(tokens) == shown


@pytest.mark.parametrize("emoji", ["👩‍👩‍👧", "👍🏽", "🇩🇪", "❤️", "1️⃣", "🏴\U000e0067\U000e0062\U000e007f", "🫱🏻‍🫲🏿"])
def test_an_emoji_stays_whole(emoji: str) -> None:
    assert labels([emoji.encode()]) == [emoji]
    assert labels(cut(f"a{emoji}b", 3, 2)) == [f"a {emoji} 1/3", f"{emoji} 2/3", f"{emoji} 3/3 b"]


def test_combining_marks_stand_on_something() -> None:
    assert labels(cut("e\u0301x", 1)) == ["e", "◌\u0301x"]
    assert labels(["e\u0301".encode()]) == ["e\u0301"]
    assert labels(cut("नमस्ते", 9, 3)) == ["नमस", "◌्", "·ते"]
    assert labels([" \u0301".encode(), b"\n\xcc\x81"]) == ["␣◌\u0301", "↩◌\u0301"]


@pytest.mark.parametrize("text", ["مرحبا", "שלום", "٣٤"])
def test_right_to_left_text_is_isolated(text: str) -> None:
    assert labels([f"x {text}".encode()]) == [f"\u2068x␣{text}\u2069"]
    first = text[0]
    assert labels(cut(text[0], 1)) == [f"\u2068{first}\u2069 1/2", f"\u2068{first}\u2069 2/2"]


@pytest.mark.parametrize("text, shown", [
    ("\x1b[31mred\x1b[0m", "␛[31mred␛[0m"), ("a\x00\x07\x7f", "a␀␇␡"), ("\u202eabc", "⟨U+202E⟩abc"),
    ("\u2066a\u2069", "⟨U+2066⟩a⟨U+2069⟩"), ("a\u00a0b", "a⟨U+00A0⟩b"), ("\ufeff", "⟨U+FEFF⟩"), ("\u200b", "⟨U+200B⟩"),
    ("\u2028", "⟨U+2028⟩"), ("\x9b31m", "⟨U+009B⟩31m"), ("\ue000", "⟨U+E000⟩"), ("\u3164", "⟨U+3164⟩"),
    ("\ufe0f", "⟨U+FE0F⟩"), ("<script>", "<script>"), ("a  b", "a␣␣b"),
])
def test_nothing_invisible_and_nothing_that_steers_a_terminal(text: str, shown: str) -> None:
    assert labels([text.encode()]) == [shown]


def test_names_of_marks() -> None:
    marks = [mark(name) for name in ("<s>", "</s>", "<|endoftext|>", "[CLS]", "<>")]
    assert marks == ["⟨s⟩", "⟨/s⟩", "⟨endoftext⟩", "⟨CLS⟩", "⟨<>⟩"]


def test_nothing_has_no_labels_and_an_empty_token_one() -> None:
    assert labels([]) == []
    assert labels([b"a", b"", b"b"]) == ["a", "⟨⟩", "·b"]


BYTES = st.binary(min_size=1, max_size=5)
CHARACTERS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=3).map(str.encode)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(BYTES | CHARACTERS | st.just("⟨s⟩"), max_size=8))
def test_every_token_has_a_label_that_can_be_printed(tokens: list) -> None:
    shown = labels(tokens)
    assert len(shown) == len(tokens)
    for label in shown:
        assert label and label == label.strip()
        whole = label.replace("\u2068", "").replace("\u2069", "").replace("\u200d", "")
        assert all(unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") or c >= "\U000e0020" for c in whole)
        assert label.count("\u2068") == label.count("\u2069")
