"""Generation from the cache against generation without one."""

from __future__ import annotations

import pytest
import torch
from test_models import GPT2, LLAMA, lively

from klieg.errors import KliegError
from klieg.generate import Sampling, choose, filtered, generate, stream
from klieg.tokenizers import train


@torch.no_grad()
def uncached(model, ids: list[int], count: int) -> list[int]:
    """The likeliest next token, again and again, the whole text run anew each time."""
    for _ in range(count):
        ids = [*ids, int(model(torch.tensor([ids]))[0, -1].argmax())]
    return ids[-count:]


@pytest.mark.parametrize("config", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_cached_equals_uncached_also_in_left_padded_batches(config) -> None:
    model = lively(config)
    texts = [[5, 9, 200, 31], [7], [1, 2, 3, 4, 5, 6, 7]]
    expected = [uncached(model, text, 12) for text in texts]
    assert [int(i) for i in generate(model, torch.tensor([texts[0]]), 12)] == expected[0]
    width = max(map(len, texts))
    ids = torch.tensor([[0] * (width - len(text)) + text for text in texts])
    real = torch.tensor([[False] * (width - len(text)) + [True] * len(text) for text in texts])
    found = torch.stack(list(generate(model, ids, 12, real=real)), 1)
    assert found.tolist() == expected


@pytest.mark.parametrize("config", [LLAMA, GPT2], ids=["llama", "gpt2"])
@torch.no_grad()
def test_a_prompt_read_in_chunks_gives_the_same_logits(config) -> None:
    model, ids = lively(config), torch.randint(0, 300, (2, 23))
    cache = model.new_cache(2)
    chunks = [model(part, cache=cache) for part in ids.split([5, 1, 9, 8], dim=1)]
    assert (torch.cat(chunks, 1) - model(ids)).abs().max() < 1e-4
    assert cache.length == 23
    assert cache.bytes == 2 * 23 * cache.bytes_per_token
    assert cache.bytes_per_token == 2 * 3 * model.kv_heads * model.head_width * 4


def test_generation_ends_where_the_positions_end() -> None:
    model = lively(LLAMA)
    assert len(list(generate(model, torch.zeros(1, 60, dtype=torch.long), 99))) == 5


def test_top_k_top_p_and_temperature_cut_what_they_say() -> None:
    logits = torch.tensor([[4.0, 3.0, 2.0, 1.0, 0.0]])
    p = logits.softmax(-1)
    assert torch.allclose(filtered(logits, Sampling()), p)
    assert torch.allclose(filtered(logits, Sampling(temperature=2)), (logits / 2).softmax(-1))
    assert filtered(logits, Sampling(top_k=2)).gt(0).sum() == 2
    nucleus = filtered(logits, Sampling(top_p=0.7))
    assert nucleus.gt(0).tolist() == [[True, True, False, False, False]]
    assert torch.allclose(nucleus[0, :2], p[0, :2] / p[0, :2].sum())
    for least in (1e-9, 1e-300):  # the second is 0 in float32
        assert filtered(logits, Sampling(top_p=least)).gt(0).sum() == 1
    assert choose(logits, Sampling(temperature=0), [torch.Generator()]).item() == 0


def test_sampling_follows_the_probabilities() -> None:
    logits = torch.tensor([0.5, 0.3, 0.2]).log().expand(20000, 3)
    found = choose(logits, Sampling(), [Sampling(seed=3).generator()] * 20000).bincount(minlength=3) / 20000
    assert (found - torch.tensor([0.5, 0.3, 0.2])).abs().max() < 0.02


def test_the_same_seed_gives_the_same_text_and_characters_stay_whole() -> None:
    tokenizer = train(iter(["小沈阳 the cat 🙂"] * 3), 290)
    model = lively(LLAMA, seed=4)
    runs = [list(stream(model, tokenizer, "the", Sampling(seed=seed), 50)) for seed in (7, 7, 8)]
    assert runs[0] == runs[1] != runs[2]
    for piece in runs[0]:
        piece.encode("utf-8")


@pytest.mark.parametrize("bad", [{"temperature": -1}, {"top_k": -1}, {"top_p": 0}, {"top_p": 1.5}])
def test_impossible_sampling_is_refused(bad: dict) -> None:
    with pytest.raises(KliegError):
        Sampling(**bad)
