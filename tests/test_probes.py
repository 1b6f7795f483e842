"""Probes: what is drawn is drawn again, a needle is where it is said to be, and heads built for it score one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_behaviour import built, seeded
from test_models import LLAMA, lively

from klieg.analysis.atlas.probes import DIGITS, DRAWS, PLACES, PROBES, SAYINGS, Draws, Needles, Plain, Repeated
from klieg.analysis.behaviour import Text, measure
from klieg.analysis.reader import Reader
from klieg.attention import Mask
from klieg.errors import KliegError
from klieg.tokenizers import Tokenizer, train

ENGLISH = "The cat loves the moon and the little house. " * 60
CHINESE = "小沈阳江西演唱会邀请了很多人，大家都很高兴。" * 60


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    said = [part.format("Paris", "Paris") for sayings in SAYINGS.values() for part in sayings]
    return train(iter([ENGLISH, CHINESE, *said * 4]), 420)


@pytest.fixture(scope="module")
def reader(tokenizer: Tokenizer) -> Reader:
    long = replace(LLAMA, vocab_size=420, max_position_embeddings=400)
    return Reader(lively(long), tokenizer, "tiny")


def same(a: list[Text], b: list[Text]) -> bool:
    return len(a) == len(b) and all(torch.equal(x.ids, y.ids) for x, y in zip(a, b, strict=True))


def test_a_corpus_as_it_is(reader: Reader) -> None:
    assert same(list(Plain(reader).texts(ENGLISH, 5, 40)), list(reader.windows(ENGLISH, 40)))


def test_repeated_tokens_are_those_of_their_number(reader: Reader, tokenizer: Tokenizer) -> None:
    probe, pieces = Repeated(reader), list(Draws().pieces())
    assert len(pieces) == DRAWS and {piece.text for piece in pieces} == {""}
    [one], [again], [other] = (list(probe.texts("", number, 64)) for number in (3, 3, 4))
    assert torch.equal(one.ids, again.ids) and not torch.equal(one.ids, other.ids)
    assert len(one) == 64 and one.ids[0] == tokenizer.bos and not {0, 1, 2} & set(one.ids[1:].tolist())
    assert one.ids[1:].unique(return_counts=True)[1].max() == 2


@pytest.mark.parametrize("text, language", [(ENGLISH, "en"), (CHINESE, "zh")])
def test_a_needle_is_hidden_and_asked_for(text: str, language: str, reader: Reader, tokenizer: Tokenizer) -> None:
    probe = Needles(reader)
    found = list(probe.texts(text, 2, 300))
    assert same(found, list(probe.texts(text, 2, 300))) and len(found) > 2
    places = set()
    for window in found[:-1]:
        ids = window.ids.tolist()
        assert len(ids) == 300
        queries = [n for n, place in enumerate(window.needle.tolist()) if place >= 0]
        keys = window.needle[queries].tolist()
        assert queries == list(range(queries[0], len(ids) - 1)) and keys == list(range(keys[0], keys[0] + len(keys)))
        assert [ids[n + 1] for n in queries] == [ids[place] for place in keys]
        number = tokenizer.decode([ids[place] for place in keys]).strip()
        assert len(number) == DIGITS and number.isdigit()
        before = SAYINGS[language][0].format("").strip().split()[-1]
        assert tokenizer.decode(ids[:keys[0]]).rstrip().endswith(before)
        assert tokenizer.decode(ids[:queries[0] + 1]).rstrip().endswith(before)
        places.add(keys[0])
    assert len(places) > 1                       # at any depth


def test_nothing_of_a_text_is_lost_for_a_needle(reader: Reader, tokenizer: Tokenizer) -> None:
    assert not any("z" in part.casefold() for part in [*SAYINGS["en"], *PLACES["en"]])
    windows = [tokenizer.decode(window.ids) for window in Needles(reader).texts("z " * 900, 2, 300)]
    assert len(windows) > 3 and sum(window.count("z") for window in windows) == 900


def test_a_head_that_retrieves_scores_one_and_one_that_does_not_scores_zero(reader: Reader) -> None:
    window = next(Needles(reader).texts(ENGLISH, 0, 300))
    at = torch.arange(len(window))
    links = at == window.needle[:, None]
    found = measure(built(links, Mask.causal()), window, seeded(), ["retrieval"])["retrieval"]
    assert found.weight.item() == pytest.approx(1, abs=1e-3) and found.chance.item() < 0.3
    other = measure(built(at == at[:, None] - 1, Mask.causal()), window, seeded(), ["retrieval"])["retrieval"]
    assert other.weight.item() < 1e-3 and other.chance.item() < 1e-3


def test_rests_that_are_too_short_and_windows_without_room(reader: Reader) -> None:
    probe = Needles(reader)
    [rest] = probe.texts("The cat", 0, 300)
    assert rest.needle is None and len(rest) < probe.shortest
    with pytest.raises(KliegError, match="no room for a needle"):
        list(probe.texts(ENGLISH, 0, probe.shortest - 1))
    first = next(probe.texts(ENGLISH, 0, probe.shortest))
    assert first.needle is not None and len(first) == probe.shortest
    assert set(PROBES) == {"repeated", "needle"} and all(kind.name == name for name, kind in PROBES.items())
