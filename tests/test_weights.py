"""The bundled models keep what their cards promise."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

from klieg import models
from klieg.translate import Translator

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
import bundled  # noqa: E402


@pytest.fixture(scope="module")
def chat():
    return models.load("chat")


@pytest.mark.parametrize("kind", ["story", "story, as an answer", "dialogue"])
def test_after_i_love_you_too_is_among_the_three_likeliest_words(chat, kind: str) -> None:
    prompt = bundled.PROMPTS[kind]
    assert prompt.endswith("I love you")
    words = bundled.next_words(*chat, prompt)
    assert "too" in [word for word, _ in words[:3]]
    for rare in ("chair", "database"):
        assert bundled.word_probability(*chat, prompt, rare) < 1e-4


def test_the_measure_of_next_words_adds_up(chat) -> None:
    words = dict(bundled.next_words(*chat, "I love you"))
    assert words["too"] == pytest.approx(bundled.word_probability(*chat, "I love you", "too"), rel=1e-4)
    assert 0 < sum(words.values()) < 1


def test_it_ships_with_a_card_and_small_enough() -> None:
    folder = models.find("chat")
    card = (folder / "README.md").read_text("utf-8")
    assert "{" not in card and all(text in card for text in ("CC BY 2.0 FR", "CDLA-Sharing-1.0", "BSD-3-Clause", "nats"))
    assert sum(path.stat().st_size for path in folder.iterdir()) < 25e6


@torch.no_grad()
def test_transformers_opens_it_and_gives_our_logits(chat) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = chat
    text = "I love you, 小沈阳"
    other = AutoModelForCausalLM.from_pretrained(models.find("chat"), dtype=torch.float32)
    ids = AutoTokenizer.from_pretrained(models.find("chat"))(text)["input_ids"]
    assert ids == tokenizer.encode(text)
    assert (model(torch.tensor([ids])) - other(torch.tensor([ids])).logits).abs().max() < 1e-4


def test_every_chinese_character_of_the_example_is_readable(chat) -> None:
    _, tokenizer = chat
    text = "小沈阳江西演唱会邀请了，"
    labels = tokenizer.labels(tokenizer.encode(text))
    assert len({label[0] for label in labels[1:]} & set(text)) == len(set(text))


@pytest.fixture(scope="module")
def translator() -> Translator:
    return Translator.load("translate")


def test_the_translator_is_small_and_knows_its_languages(translator: Translator) -> None:
    folder = models.find("translate")
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 40e6
    assert set(translator.languages) == {"de", "fr", "zh", "en"}
    assert translator.model.parameter_count < 10e6


def test_the_translator_translates_as_its_card_says(translator: Translator) -> None:
    card = (models.find("translate") / "README.md").read_text("utf-8")
    said = re.findall(r"^- (de|fr|zh|en): (.+) — (.+)$", card, re.MULTILINE)
    assert {language for language, *_ in said} == {"de", "fr", "zh", "en"}
    for language, source, found in said:
        assert translator.translate([source], to=language) == [found]
