from __future__ import annotations

import re

import pytest

from klieg.errors import KliegError
from klieg.rules import REASONS as OF_RULES
from klieg.views.palette import Paint
from klieg.views.picture import FAINT, Span
from klieg.views.words import REASONS, WORDS, phrase, reason, say


@pytest.mark.parametrize("key", WORDS)
def test_both_languages_name_the_same_things(key: str) -> None:
    en, zh = (sorted(re.findall(r"\{([a-z]+)\}", text)) for text in WORDS[key])
    assert en == zh and all(WORDS[key])


def test_no_phrase_gives_a_reason_for_a_look_or_shouts() -> None:
    for en, zh in WORDS.values():
        assert "because" not in en.lower() and "因为" not in zh and "!" not in en + zh and "！" not in zh


def test_every_reason_of_a_mask_has_a_chinese_word() -> None:
    assert set(OF_RULES.values()) <= set(REASONS)
    assert reason("future", "zh") == "未来的位置" and reason("future", "en") == "future"


def test_a_span_in_a_phrase_keeps_its_paint() -> None:
    love = Span("love", Paint("key"), bold=True)
    spans = phrase("certain", "en", share="81 %", token=love)
    assert "".join(s.text for s in spans) == "most certain head: 81 % on love"
    assert love in spans and all(s.paint == FAINT for s in spans if s is not love)


def test_braces_in_a_token_are_only_text() -> None:
    assert "{layer}" in "".join(s.text for s in phrase("certain", "en", share="{share}", token=Span("{layer}")))
    assert say("place", "en", layer=1, head=2, query=3, key=4) == "layer 1, head 2, query 3, key 4"


def test_an_unknown_language_is_refused() -> None:
    with pytest.raises(KliegError, match="Did you mean 'en'"):
        say("tokens", "eng")
