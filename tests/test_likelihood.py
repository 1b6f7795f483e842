"""log P of texts against one token after another in float64, in any company, by our decoders and by transformers'."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_encoders import BERT
from test_encoders import lively as lively_encoder
from test_models import GPT2, LLAMA, lively

from klieg import foreign, models
from klieg.analysis import likelihood
from klieg.analysis.likelihood import Scorer, continues
from klieg.errors import KliegError
from klieg.tokenizers import Tokenizer, train

TEXTS = ["I love you", "the moon loves the cat and the cat loves you. I love the moon", "小沈阳", "I love you, 小沈阳.", "cat"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train(iter(["I love you and the cat loves the moon. 小沈阳"] * 2), 290)


def one_by_one(model: models.Decoder, ids: list[int]) -> list[float]:
    """log P of every token but the first, from passes over the tokens before it alone."""
    found = []
    for n in range(1, len(ids)):
        logits = model(torch.tensor([ids[:n]]))[0, -1].double()
        found.append((logits[ids[n]] - logits.exp().sum().log()).item())
    return found


@pytest.mark.parametrize("config", [LLAMA, GPT2], ids=["llama", "gpt2"])
@torch.no_grad()
def test_a_text_costs_what_its_tokens_cost(config: models.Config, tokenizer: Tokenizer,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    model = lively(config)
    scorer = Scorer(model, tokenizer, "tiny")
    expected = [sum(one_by_one(model, tokenizer.encode(text))) for text in TEXTS]
    found = scorer.total(TEXTS)
    assert found.dtype == torch.float64 and found.tolist() == pytest.approx(expected, abs=2e-4)
    monkeypatch.setattr(likelihood, "CELLS", 1)         # each by itself
    told = []
    assert scorer.total(TEXTS, told=lambda *step: told.append(step)).tolist() == pytest.approx(expected, abs=2e-4)
    assert told == [(n, 5) for n in range(1, 6)]
    assert scorer.total([]).shape == (0,)


@pytest.mark.parametrize("config", [LLAMA, GPT2], ids=["llama", "gpt2"])
@torch.no_grad()
def test_token_by_token(config: models.Config, tokenizer: Tokenizer) -> None:
    model = lively(config)
    scorer = Scorer(model, tokenizer, "tiny")
    for text in TEXTS:
        ids, found = scorer.each(text)
        every = tokenizer.encode(text)
        assert ids == every[1:] and found.dtype == torch.float64
        assert found.tolist() == pytest.approx(one_by_one(model, every), abs=2e-4)
    with pytest.raises(KliegError, match="positions"):
        scorer.each("cat " * 400)


@torch.no_grad()
def test_the_rest_of_a_text(tokenizer: Tokenizer) -> None:
    model = lively(LLAMA)
    scorer, text = Scorer(model, tokenizer, "tiny"), TEXTS[1]
    costs = one_by_one(model, tokenizer.encode(text))
    for start in (0, 3, 10, len(text)):
        # Tokens that end by `start` do not count; the bytes of the tokens say where they end.
        ends, at = [], 0
        for id in tokenizer.encode(text, bos=False):
            at += len(tokenizer.token_bytes(id))
            ends.append(at)
        expected = sum(cost for cost, end in zip(costs, ends, strict=True) if end > start)
        assert scorer.total([text], [start]).item() == pytest.approx(expected, abs=2e-4)


def test_what_is_too_long_has_no_probability(tokenizer: Tokenizer) -> None:
    found = Scorer(lively(LLAMA), tokenizer, "tiny").total(["cat", "moon cat " * 40])
    assert found.isfinite().tolist() == [True, False]


def test_likeliest(tokenizer: Tokenizer) -> None:
    scorer = Scorer(lively(LLAMA), tokenizer, "tiny")
    scores = scorer.total(TEXTS).tolist()
    assert scorer.likeliest([TEXTS, TEXTS[:1], ["cat", "cat"]]) == [scores.index(max(scores)), 0, 0]


def test_transformers_gives_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    models.save(tmp_path, lively(GPT2), tokenizer)
    theirs = Scorer(foreign.load(str(tmp_path)), tokenizer, "theirs")
    ours = Scorer(lively(GPT2), tokenizer, "ours")
    assert theirs.total(TEXTS).tolist() == pytest.approx(ours.total(TEXTS).tolist(), abs=1e-3)


def test_a_tokenizer_without_an_opening_mark(tokenizer: Tokenizer) -> None:
    """The first token is given its probability after a mark that there is, or the model is refused."""
    model, bare = lively(LLAMA), train(iter(["I love you and the cat loves the moon. 小沈阳"] * 2), 290, opened=False)
    assert bare.encode("cat") == tokenizer.encode("cat")[1:]
    assert Scorer(model, bare, "tiny").total(TEXTS).tolist() == Scorer(model, tokenizer, "tiny").total(TEXTS).tolist()
    bare.bos = bare.eos = None
    with pytest.raises(KliegError, match="no mark that begins or ends a text"):
        Scorer(model, bare, "tiny")


def test_encoders_are_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = lively_encoder(BERT)
    with pytest.raises(KliegError, match="'bert' is an encoder"):
        Scorer(model, tokenizer, "bert")
    models.save(tmp_path, model, tokenizer)
    assert not continues(foreign.load(str(tmp_path)))
