"""Ablations: sums and intervals against the losses of whole passes, model by model and head by head."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from test_atlas import corpus, reader, tokenizer  # noqa: F401
from test_models import GPT2, LLAMA, lively

from klieg import models
from klieg.analysis.ablation import Ablation, ablate, empty, muted
from klieg.analysis.atlas import student
from klieg.analysis.atlas.census import read
from klieg.analysis.atlas.corpus import Corpus
from klieg.analysis.atlas.probes import Plain
from klieg.analysis.reader import Reader
from klieg.changes import Heads, Mute, changed
from klieg.config import BertConfig
from klieg.errors import KliegError
from klieg.tokenizers import Tokenizer

WHICH = {"heads": lambda layer, n: Heads(layer, n), "groups": lambda layer, n: Heads(layer, group=n),
         "layers": lambda layer, n: Heads(layer)}


def losses(model: models.Decoder, texts: list[torch.Tensor]) -> torch.Tensor:
    """The sum of the losses of each text, by a whole pass in one piece."""
    return torch.stack([F.cross_entropy(model(ids[None])[0, :-1], ids[1:], reduction="sum").double() for ids in texts])


@pytest.mark.parametrize("shape", [LLAMA, GPT2], ids=["llama", "gpt2"])
@pytest.mark.parametrize("of", WHICH)
def test_changes_and_intervals_are_those_of_whole_passes(of: str, shape: object, corpus: Corpus,  # noqa: F811
                                                         tokenizer: Tokenizer) -> None:  # noqa: F811
    model = lively(shape)
    own = Reader(model, tokenizer, "tiny", "print")
    found = empty(own, corpus, of, 32)
    read(found, corpus, Plain(own), muted(found, own), tokens=300)
    texts = [text.ids for piece in corpus.pieces() for text in own.windows(piece.text, 32) if len(text) >= 8]
    texts = texts[:found.counts["windows"]]
    counts, usual = torch.tensor([len(ids) - 1 for ids in texts]).double(), losses(model, texts)
    assert found.loss == pytest.approx((usual.sum() / counts.sum()).item(), rel=1e-5)
    effects = {(effect.layer, effect.head): effect for effect in found.effects()}
    expected = {"heads": model.heads, "groups": model.kv_heads, "layers": 1}[of]
    assert len(effects) == model.layers * expected and len(texts) > 5
    for (layer, n), effect in list(effects.items())[::2]:
        by = losses(changed(model, [Mute(WHICH[of](layer, n))]), texts) - usual
        mean = (by.sum() / counts.sum()).item()
        assert effect.change == pytest.approx(mean, abs=2e-6)
        # The ratio's error by linearisation, text by text.
        apart = by - mean * counts
        error = (apart.square().sum() * len(texts) / (len(texts) - 1)).sqrt().item() / counts.sum().item()
        assert effect.high - effect.change == pytest.approx(student(len(texts) - 1) * error, rel=1e-3, abs=1e-7)
        assert effect.texts == len(texts) and effect.tokens == counts.sum() and not effect.whole
    changes = [effect.change for effect in found.effects()]
    assert changes == sorted(changes, reverse=True)
    assert found.changes()[1][0] == effects[1, 0].change


def test_a_head_that_gives_nothing_is_not_missed(corpus: Corpus, tokenizer: Tokenizer) -> None:  # noqa: F811
    model = lively(GPT2)
    width = model.config.n_embd
    model.blocks[1].attn.c_attn.weight.data[:, 2 * width:] = 0       # values of layer 1 are its bias, which is
    model.blocks[1].attn.c_attn.bias.data[2 * width:] = 0            # zero too
    own = Reader(model, tokenizer, "tiny")
    found = empty(own, corpus, "layers", 32)
    read(found, corpus, Plain(own), muted(found, own), tokens=100)
    effects = {effect.layer: effect for effect in found.effects()}
    assert effects[1].change == effects[1].low == effects[1].high == 0 and abs(effects[0].change) > 1e-3


def test_sums_go_on_add_up_and_are_kept(reader: Reader, corpus: Corpus, tmp_path: Path) -> None:  # noqa: F811
    path = tmp_path / "ablation.safetensors"
    for tokens in (60, 200):
        found = Ablation.load(path) if path.exists() else empty(reader, corpus, window=32)
        read(found, corpus, Plain(reader), muted(found, reader), tokens, path)
    one = empty(reader, corpus, window=32)
    read(one, corpus, Plain(reader), muted(one, reader), 200)
    again = Ablation.load(path)
    assert again.counts == one.counts and all(torch.equal(again.sums[name], x) for name, x in one.sums.items())
    other = empty(reader, corpus, window=32)
    other.identity["corpus"] = "another"
    read(other, corpus, Plain(reader), muted(other, reader), 60)
    assert torch.allclose((one + other).sums["change"], one.sums["change"] + other.sums["change"])
    with pytest.raises(KliegError, match="damaged or no ablation"):
        path.write_bytes(path.read_bytes()[:-4])
        Ablation.load(path)


def test_one_text_has_no_interval_and_the_bundled_model_misses_its_heads(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("Once upon a time there was a little cat who loved the moon.", "utf-8")
    found = ablate("chat", tmp_path / "one.txt", of="layers", path=tmp_path / "out.safetensors")
    effects = found.effects()
    assert len(effects) == 6 and all(math.isnan(effect.low) for effect in effects) and found.whole
    assert effects[0].change > 0.05 and 1 < found.loss < 8
    told = []
    ablate("chat", tmp_path / "one.txt", of="layers", path=tmp_path / "new.safetensors", step=lambda *told_: told.append(told_))
    assert told and told[-1][0] == found.counts["tokens"]


def test_what_cannot_be_muted_is_named(corpus: Corpus, tokenizer: Tokenizer, reader: Reader) -> None:  # noqa: F811
    small = {"vocab_size": 300, "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 1, "num_attention_heads": 2}
    bert = models.build(BertConfig(**small, max_position_embeddings=30))
    with pytest.raises(KliegError, match="is an encoder"):
        empty(Reader(bert, tokenizer, "bert"), corpus)
    with pytest.raises(KliegError, match="Did you mean 'heads'"):
        empty(reader, corpus, "head")
