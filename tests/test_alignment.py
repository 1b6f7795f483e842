"""Alignment from cross-attention, against transformers' eager weights of the same Marian, sentence by sentence."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from klieg.analysis.alignment import FILE, Part, Reading, align, choose, joined, read, read_all
from klieg.analysis.alignment.chains import ROUNDS, posteriors
from klieg.analysis.alignment.gold import Gold
from klieg.analysis.alignment.links import links
from klieg.config import MarianConfig
from klieg.errors import KliegError
from klieg.seq2seq import Marian
from klieg.tokenizers import Tokenizer, train

SOURCES = ["the cats sleep", "a dog", "", "cats and dogs never sleep here at night", "dog"]
TARGETS = ["die katzen schlafen", "ein hund schläft hier", "nichts", "hunde und katzen schlafen nachts nie", "hund"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train([*SOURCES, *TARGETS] * 3, 330, marks=(">>de<<", ">>fr<<"), opened=False, closed=True)


@pytest.fixture(scope="module")
def theirs(tokenizer: Tokenizer) -> torch.nn.Module:
    """A Marian of transformers with weights large enough that heads look somewhere."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import MarianConfig as TheirConfig
        from transformers import MarianMTModel

        torch.manual_seed(4)
        config = TheirConfig(
            vocab_size=tokenizer.size, d_model=32, encoder_layers=2, decoder_layers=3, encoder_attention_heads=4,
            decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=64, init_std=0.4,
            pad_token_id=2, eos_token_id=1, decoder_start_token_id=2, forced_eos_token_id=None, scale_embedding=False,
            activation_function="relu", attn_implementation="eager", bos_token_id=0)
        model = MarianMTModel(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "encoder_attn.q_proj.weight" in name:
                weight *= 4
    return model


@pytest.fixture(scope="module")
def model(theirs: torch.nn.Module, tokenizer: Tokenizer) -> Marian:
    """The same in ours."""
    ours = Marian(MarianConfig(tokenizer.size, 32, 2, 3, 4, 4, 48, 48, 64, 2, 1, 2, False))
    weights = theirs.state_dict()
    ours.load_state_dict({name: weights[name] for name in ours.state_dict()})
    return ours.eval().requires_grad_(False)


@torch.no_grad()
def expected(theirs: torch.nn.Module, tokenizer: Tokenizer, source: str, target: str) -> np.ndarray:
    """(layers, heads, t, s): the eager weights of one pair alone; the pieces of a word by spelling the words one by one."""
    spelt = [[tokenizer.encode((" " if n else "") + word, bos=False) for n, word in enumerate(text.split())]
             for text in (source, target)]
    s, t = ([id for word in words for id in word] for words in spelt)
    out = theirs(input_ids=torch.tensor([[tokenizer.marks[">>de<<"], *s, 1]]), decoder_input_ids=torch.tensor([[2, *t]]),
                 output_attentions=True)
    cross = torch.stack(out.cross_attentions)[:, 0].double().numpy()
    found = np.zeros((*cross.shape[:2], len(spelt[1]), len(spelt[0])))
    row = 1                                                     # row 0 is the start mark's
    for i, target_word in enumerate(spelt[1]):
        column = 1                                              # column 0 is the language's
        for j, source_word in enumerate(spelt[0]):
            tile = cross[:, :, row:row + len(target_word), column:column + len(source_word)]
            found[:, :, i, j] = tile.sum(3).sum(2) / len(target_word)
            column += len(source_word)
        row += len(target_word)
    return found


def test_weights_are_those_of_eager_attention_where_the_word_is_the_input(
        model: Marian, theirs: torch.nn.Module, tokenizer: Tokenizer) -> None:
    found = read_all(model, tokenizer, SOURCES, TARGETS, "de")
    assert any(len(tokenizer.encode(" " + word, bos=False)) > 1 for text in SOURCES for word in text.split())
    for n, (source, target) in enumerate(zip(SOURCES, TARGETS, strict=True)):
        right = expected(theirs, tokenizer, source, target)
        assert found[n].shape == right.shape
        assert np.abs(found[n] - right).max(initial=0) < 1e-5
        if len(source.split()) > 1:
            assert np.abs(np.diff(right, axis=2)).max() > 0.1, "a head that looks alike at every step tells none from another"


def test_read_is_the_mean_of_its_heads(model: Marian, tokenizer: Tokenizer) -> None:
    told: list[int] = []
    every = read_all(model, tokenizer, SOURCES, TARGETS, "de")
    found_means = read(model, tokenizer, SOURCES, TARGETS, Reading(2, (1, 3)), "de", told.append)
    for found, whole in zip(found_means, every, strict=True):
        assert np.allclose(found, (whole[2, 1] + whole[2, 3]) / 2, atol=1e-12)
    assert told[-1] == len(SOURCES)


def test_align_gives_sorted_links_of_every_pair(model: Marian, tokenizer: Tokenizer) -> None:
    found = align(model, tokenizer, SOURCES, TARGETS, layer=0, heads=[2], to="de", way="union")
    every = read_all(model, tokenizer, SOURCES, TARGETS, "de")
    assert found == [sorted(links(w[0, 2], way="union")) for w in every]
    assert found[2] == [] and found[3]
    middle = align(model, tokenizer, SOURCES, TARGETS, to="de")
    assert middle == [sorted(links(w[1].mean(0))) for w in every]


def test_choose_finds_the_head_that_the_gold_was_made_with(model: Marian, tokenizer: Tokenizer) -> None:
    parts = []
    for rows in (slice(0, 2), slice(2, 5)):
        made = [links(w[2, 1]) for w in read_all(model, tokenizer, SOURCES[rows], TARGETS[rows], "de")]
        parts.append(Part(SOURCES[rows], TARGETS[rows], Gold(made, made, 0), "de"))
    assert choose(model, tokenizer, parts, ["forward", "intersection"]) == Reading(2, (1,), "forward")
    backwards = [Part(p.sources, p.targets, Gold(*[[links(w[0, 3], way="backward") for w in read_all(
        model, tokenizer, p.sources, p.targets, "de")]] * 2, 0), "de") for p in parts]
    assert choose(model, tokenizer, backwards, ["forward", "backward"]) == Reading(0, (3,), "backward")


def test_rounds_learn_from_the_pairs_together_and_the_way_back_is_averaged_in(model: Marian, tokenizer: Tokenizer) -> None:
    forward = read(model, tokenizer, SOURCES, TARGETS, Reading(1, (2,)), "de")
    backward = read(model, tokenizer, TARGETS, SOURCES, Reading(1, (2,)), "fr")
    mean = [(f + b.T) / 2 for f, b in zip(forward, backward, strict=True)]
    for given, back in ((forward, None), (mean, backward)):
        learned = [links(f, b, "union") for f, b in posteriors(given, SOURCES, TARGETS, 2)]
        assert joined(forward, back, SOURCES, TARGETS, "union", 2) == learned
        assert learned != joined(forward, back, SOURCES, TARGETS, "union", 0)
    assert joined(forward, backward, SOURCES, TARGETS, "union", 0) == [
        links(f, b, "union") for f, b in zip(forward, backward, strict=True)]
    assert align(model, tokenizer, SOURCES, TARGETS, layer=1, heads=[2], to="de", way="union", rounds=2) == [
        sorted(one) for one in joined(forward, None, SOURCES, TARGETS, "union", 2)]


def test_choose_learns_where_that_is_nearer_to_the_gold(model: Marian, tokenizer: Tokenizer) -> None:
    looks = read(model, tokenizer, SOURCES, TARGETS, Reading(1, (2,)), "de")
    made = [links(f, b, "intersection") for f, b in posteriors(looks, SOURCES, TARGETS)]
    gold = Gold(made, made, 0)
    found = choose(model, tokenizer, [Part(SOURCES, TARGETS, gold, "de")], ["intersection"])
    learned, alone = (gold.against(joined(read(model, tokenizer, SOURCES, TARGETS, found, "de"), None, SOURCES, TARGETS,
                                          found.way, rounds)).aer for rounds in (ROUNDS, 0))
    assert found.rounds == ROUNDS and learned < alone


def test_a_reading_is_kept_beside_the_model(tmp_path: Path) -> None:
    assert Reading.load(tmp_path) is None
    for reading in (Reading(2, (1, 3), "grow-diag-final"), Reading(0, (0,), "intersection", 5)):
        reading.save(tmp_path)
        assert Reading.load(tmp_path) == reading
    (tmp_path / FILE).write_text('{"layer": 1, "heads": [0], "way": "forward"}', "utf-8")
    assert Reading.load(tmp_path) == Reading(1, (0,)), "a file from before there were rounds"
    for damage in ('{"layer": -1, "heads": [0], "way": "forward"}', '{"layer": 1, "heads": [], "way": "forward"}',
                   '{"layer": 1, "heads": [true], "way": "forward"}', '{"layer": 1, "heads": [0], "way": "sideways"}', "[]",
                   '{"layer": 1, "heads": [0], "way": ["forward"]}', '{"heads": [0], "way": "forward"}',
                   '{"layer": 1, "heads": [0], "way": "forward", "rounds": "5"}'):
        (tmp_path / FILE).write_text(damage, "utf-8")
        with pytest.raises(KliegError, match=r"alignment\.json is damaged"):
            Reading.load(tmp_path)


@pytest.mark.parametrize(("given", "said"), [
    ({"layer": 3}, "layer 3 was asked for; the model has layers 0 to 2"),
    ({"heads": [0, 4]}, "head 0, 4 was asked for; the model has heads 0 to 3"),
    ({"heads": []}, "head none was asked for"),
    ({"to": "es"}, "no language 'es'"),
    ({"to": None}, "writes de, fr; say which"),
    ({"sources": ["a"]}, "1 sources and 5 targets"),
    ({"targets": [*TARGETS[:4], "hund " * 70]}, "line 5 needs .* tokens and the model has 64 positions"),
    ({"way": "down"}, "no way 'down'"),
])
def test_what_cannot_be_done_is_said(model: Marian, tokenizer: Tokenizer, given: dict, said: str) -> None:
    with pytest.raises(KliegError, match=said):
        align(**{"model": model, "tokenizer": tokenizer, "sources": SOURCES, "targets": TARGETS, "to": "de", **given})
