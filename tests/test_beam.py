"""Beam search against brute force, greedy search by whole passes, and transformers' generate."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from test_models import lively

from klieg import beam, likeliest, models
from klieg.beam import Search, groups, padded, sample, search
from klieg.config import LARGEST, MarianConfig
from klieg.errors import KliegError
from klieg.generate import Sampling
from klieg.seq2seq import Marian
from klieg.tokenizers import train

EOS, PAD = 1, 2
MARIAN = MarianConfig(vocab_size=300, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
                      decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=40,
                      pad_token_id=PAD, eos_token_id=EOS, decoder_start_token_id=PAD, scale_embedding=True)
SMALL = replace(MARIAN, vocab_size=6, max_position_embeddings=8)
EVERY = Search(beam=121, best=121, ratio=0, extra=4)  # a beam with room for all targets of four tokens, of SMALL


def writer(config: MarianConfig, seed: int = 0, end: float = 0.0) -> Marian:
    """A translator with random weights, whose bias makes the end mark likelier by `end`. It repeats itself a lot."""
    model = lively(config, seed)
    model.final_logits_bias.copy_(torch.randn_like(model.final_logits_bias))
    model.final_logits_bias[0, EOS] += end
    return model


@pytest.fixture(scope="module")
def taught() -> Marian:
    """A translator that has half learnt to turn a source of ids below 30 round: targets of many kinds and lengths."""
    torch.manual_seed(0)
    model = models.build(replace(MARIAN, dropout=0.0))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(160):
        source = torch.tensor(sources_of([1 + step * 7 % 10] * 32, 30, seed=step))
        turned, end = source[:, :-1].flip(1), source[:, -1:]
        logits = model(source, torch.cat([torch.full_like(end, PAD), turned], 1))
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.cat([turned, end], 1).flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval().requires_grad_(False)


def sources_of(lengths: list[int], vocabulary: int = 300, seed: int = 0) -> list[list[int]]:
    draw = torch.Generator().manual_seed(seed)
    return [[*torch.randint(3, vocabulary, (n,), generator=draw).tolist(), EOS] for n in lengths]


@torch.no_grad()
def next_log_p(model: Marian, source: list[int], written: list[int]) -> torch.Tensor:
    """ln p of each next token: (vocabulary,), float64, by one pass over the whole target."""
    logits = model(torch.tensor([source]), torch.tensor([[PAD, *written]]))[0, -1]
    return logits.double().log_softmax(-1)


def forced(model: Marian, source: list[int], ids: list[int]) -> float:
    """ln p of a whole target with its end mark."""
    whole = [*ids, EOS]
    return sum(next_log_p(model, source, whole[:n])[id].item() for n, id in enumerate(whole))


def greedy(model: Marian, source: list[int], most: int) -> list[int]:
    """The likeliest next token again and again, until the end mark or for `most` tokens with it."""
    written: list[int] = []
    while len(written) < most - 1:
        log_p = next_log_p(model, source, written)
        log_p[PAD] = -torch.inf
        if int(log_p.argmax()) == EOS:
            break
        written.append(int(log_p.argmax()))
    return written


def test_a_beam_of_one_is_greedy_search(taught: Marian) -> None:
    sources = sources_of([5, 1, 9, 3, 12, 7, 2, 0, 8, 6], 30)
    found = search(taught, sources, Search(beam=1, alpha=0, ratio=0, extra=9))
    expected = [greedy(taught, source, 9) for source in sources]
    assert [best[0].ids for best in found] == expected
    lengths = set(map(len, expected))
    assert len(lengths) > 3 and max(lengths) == 8  # some end by themselves, some at their limit


@pytest.mark.parametrize("alpha", [0.0, 0.6])
def test_a_beam_with_room_for_all_is_brute_force(alpha: float) -> None:
    model, source = writer(SMALL, seed=3), [4, 5, 3, EOS]
    every = [list(ids) for length in range(4) for ids in product((0, 3, 4, 5), repeat=length)]
    log_p = [forced(model, source, ids) for ids in every]
    score = [p / ((5 + len(ids) + 1) / 6) ** alpha for p, ids in zip(log_p, every, strict=True)]
    order = sorted(range(len(every)), key=lambda n: -score[n])
    [found] = search(model, [source], replace(EVERY, alpha=alpha))
    assert len(found) == len(every) == 85
    assert [h.ids for h in found] == [every[n] for n in order]
    assert [h.log_p for h in found] == pytest.approx([log_p[n] for n in order], abs=1e-4)
    assert [h.score for h in found] == pytest.approx([score[n] for n in order], abs=1e-4)
    assert order != sorted(order, key=lambda n: -log_p[n]) or alpha == 0


@pytest.mark.parametrize("options", [Search(beam=4, best=4), Search(beam=3, best=3, alpha=0.6, beta=0.4), Search(beam=1)],
                         ids=["beam", "coverage", "greedy"])
def test_many_sources_together_are_each_by_itself(options: Search, taught: Marian) -> None:
    sources = sources_of([4, 11, 1, 7, 7, 2, 15, 0], 30)
    heard: list[int] = []
    together = search(taught, sources, options, heard.append)
    with patch.object(beam, "ROOM", 60), patch.object(likeliest, "LINES", 2):
        in_parts = search(taught, sources, options)
    for source, best, part in zip(sources, together, in_parts, strict=True):
        [alone] = search(taught, [source], options)
        for other in (best, part):
            assert [h.ids for h in other] == [h.ids for h in alone]
            assert [h.score for h in other] == pytest.approx([h.score for h in alone], abs=1e-4)
    assert heard[-1] == len(sources) and heard == sorted(heard)


def test_the_best_are_sorted_distinct_and_have_the_probability_that_the_model_gives_them(taught: Marian) -> None:
    model, sources, options = taught, sources_of([6, 3, 9], 30), Search(beam=6, best=6, alpha=0.8)
    for source, best in zip(sources, search(model, sources, options), strict=True):
        assert len(best) == 6 and len({tuple(h.ids) for h in best}) == 6
        assert [h.score for h in best] == sorted((h.score for h in best), reverse=True)
        for h in best:
            assert h.log_p == pytest.approx(forced(model, source, h.ids), abs=1e-4)
            assert h.score == pytest.approx(h.log_p / ((5 + len(h.ids) + 1) / 6) ** 0.8, abs=1e-6)
    fewer = search(model, sources, replace(options, best=2))
    assert [[h.ids for h in best] for best in fewer] == [[h.ids for h in best[:2]] for best in search(model, sources, options)]


def test_a_target_ends_at_its_limit_and_where_the_positions_end() -> None:
    model = writer(MARIAN, end=-50.0)  # would never end by itself
    [short, long] = search(model, sources_of([3, 30]), Search(beam=2, ratio=1.5, extra=2))
    assert len(short[0].ids) == int(1.5 * 4) + 2 - 1
    assert len(long[0].ids) == 40 - 1
    with pytest.raises(KliegError, match="needs 42 tokens and the model has 40 positions"):
        search(model, sources_of([3, 41]))


def test_padding_and_the_start_mark_are_never_written() -> None:
    model = writer(replace(MARIAN, decoder_start_token_id=7), end=2.0)
    model.final_logits_bias[0, [PAD, 7]] = 50.0
    sources = sources_of([4, 6])
    written = [id for best in search(model, sources, Search(beam=3, best=3)) for h in best for id in h.ids]
    written += [id for ids in sample(model, sources, Sampling(seed=1), seeded(1, 2)) for id in ids]
    assert len(written) > 20 and not {PAD, 7, EOS} & set(written)


@torch.no_grad()
def test_coverage_is_what_the_last_layers_heads_looked_at(taught: Marian) -> None:
    """Wu et al. 2016, equation 14, from the softmax of one pass over the whole target."""
    model, sources, options = taught, sources_of([6, 2], 30), Search(beam=4, best=4, alpha=0.7, beta=0.3)
    layer = model.model.decoder.layers[-1].encoder_attn
    found = []
    for source, best in zip(sources, search(model, sources, options), strict=True):
        assert len(best) == 4
        for h in best:
            target = torch.tensor([[PAD, *h.ids]])
            entered: list[torch.Tensor] = []
            hook = layer.q_proj.register_forward_hook(lambda module, given, q: entered.append(q))  # noqa: B023
            memory = model.encode(torch.tensor([source]))
            model.decode(target, memory)
            hook.remove()
            q, k = (x[0].double().unflatten(-1, (4, 8)).transpose(0, 1) for x in (entered[0], layer.k_proj(memory.hidden)))
            looked = (q @ k.transpose(1, 2) / math.sqrt(8)).softmax(-1).mean(0).sum(0)     # (source,)
            coverage = 0.3 * looked.clamp(max=1).log().sum().item()
            found.append(coverage)
            expected = forced(model, source, h.ids) / ((5 + len(h.ids) + 1) / 6) ** 0.7 + coverage
            assert h.score == pytest.approx(expected, abs=1e-4)
    assert min(found) < -1e-3


@pytest.mark.parametrize("width", [1, 5])
@torch.no_grad()
def test_transformers_generate_finds_the_same(width: int, taught: Marian, tmp_path: Path) -> None:
    """Without a length penalty both rank by ln p; both stop when as many have ended as the beam is wide."""
    from transformers import MarianMTModel

    models.save(tmp_path, taught, train(iter(["a cat"]), 280, opened=False, closed=True))
    theirs = MarianMTModel.from_pretrained(tmp_path, dtype=torch.float32).eval()
    drawn = sources_of([n % 10 + 1 for n in range(60)], 30, seed=9)
    for source in [drawn[n] for n in (8, 32, 40, 45, 50)]:  # of some, more end in the last step than there was room for
        [ours] = search(taught, [source], Search(beam=width, best=width, alpha=0, ratio=0, extra=39))
        found = theirs.generate(torch.tensor([source]), num_beams=width, num_return_sequences=width, do_sample=False,
                                length_penalty=0.0, early_stopping=width > 1, max_length=40, forced_eos_token_id=EOS,
                                bad_words_ids=[[PAD]], return_dict_in_generate=True, output_scores=True)
        assert [h.ids for h in ours] == [[id for id in ids if id not in (PAD, EOS)] for ids in found.sequences.tolist()]
        if width > 1:
            assert max(len(h.ids) for h in ours) < 38  # nobody had to end: transformers counts that as certain
            assert [h.log_p for h in ours] == pytest.approx(found.sequences_scores.tolist(), abs=1e-4)


def seeded(first: int, count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(first + n) for n in range(count)]


def test_samples_follow_the_probabilities_and_their_seeds(taught: Marian) -> None:
    model, source = writer(SMALL, seed=3), [4, 5, 3, EOS]
    first = [[*ids, EOS][0] for ids in sample(model, [source] * 4000, Sampling(), seeded(0, 4000))]
    p = next_log_p(model, source, []).exp()
    p[PAD] = 0
    found = torch.tensor(first).bincount(minlength=6) / len(first)
    assert (found - p / p.sum()).abs().max() < 0.03
    runs = [sample(model, [source] * 5, Sampling(), seeded(seed, 5)) for seed in (1, 1, 9)]
    assert runs[0] == runs[1] != runs[2]
    sources = sources_of([5, 2, 8, 3], 30)
    assert sample(taught, sources, Sampling(temperature=0), seeded(0, 4)) == [greedy(taught, source, 50) for source in sources]


def test_samples_do_not_depend_on_what_is_drawn_beside_them(taught: Marian) -> None:
    """In groups of several lengths, from which whoever is done leaves, as each by itself; and all are told of."""
    sources, heard = sources_of([5, 2, 8, 3, 3, 7], 30), []
    with patch.object(beam, "ROOM", 24):
        found = sample(taught, sources, Sampling(temperature=2), seeded(7, 6), heard.append)
    assert heard[-1] == 6 and len(heard) > 1 and heard == sorted(heard)
    assert found == [sample(taught, [source], Sampling(temperature=2), [generator])[0]
                     for source, generator in zip(sources, seeded(7, 6), strict=True)]
    limits = [Search().longest(len(source), taught.positions) for source in sources]
    assert all(len(ids) <= limit for ids, limit in zip(found, limits, strict=True)) and len(set(map(len, found))) > 2


def test_groups_hold_every_source_once_and_like_lengths() -> None:
    lengths = [3, 90, 4, 90, 1, 2000, 5]
    with patch.object(beam, "ROOM", 400):
        found = list(groups(lengths, 2))
    assert sorted(place for group in found for place in group) == list(range(7))
    assert [[lengths[place] for place in group] for group in found] == [[2000], [90, 90], [5, 4, 3, 1]]
    assert search(writer(MARIAN), []) == []


def test_whoever_has_children_has_one_of_them_in_its_own_row() -> None:
    parents = torch.randint(0, 5, (200, 5), generator=torch.Generator().manual_seed(1))
    order = beam._at_home(parents)
    assert all(sorted(row) == [0, 1, 2, 3, 4] for row in order.tolist())
    rows = parents.gather(1, order).tolist()
    assert all(row[parent] == parent for row in rows for parent in row)
    assert beam._at_home(torch.arange(5)[None]).tolist() == [[0, 1, 2, 3, 4]]


def test_padding_stands_on_the_right() -> None:
    ids, real = padded([[5, 1], [3, 4, 6, 1]], PAD)
    assert ids.tolist() == [[5, 1, PAD, PAD], [3, 4, 6, 1]]
    assert real.tolist() == [[True, True, False, False], [True] * 4]
    assert padded([[5, 1], [6, 1]], PAD)[1] is None


@pytest.mark.parametrize(("bad", "said"), [({"beam": 0}, "beam is 0"), ({"best": 6}, "6 hypotheses .* of a beam of 5"),
                                           ({"best": 0}, "0 hypotheses"), ({"alpha": -0.1}, "penalties are -0.1"),
                                           ({"beta": -1.0}, "-1.0"), ({"alpha": 5000.0}, "5000.0 and 0.0; .* from 0 to 10"),
                                           ({"beta": float("inf")}, "inf"), ({"alpha": float("nan")}, "nan")])
def test_impossible_searches_are_refused(bad: dict, said: str) -> None:
    with pytest.raises(KliegError, match=said):
        Search(**bad)


def test_the_largest_penalty_has_room_in_a_float() -> None:
    assert Search(alpha=beam.MOST).penalty(LARGEST) < float("inf")
