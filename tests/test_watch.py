"""From a model and a text to a Trace: it is the model's own pass that is kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_models import GPT2, LLAMA, lively

import klieg
from klieg import models
from klieg.beam import Search, search
from klieg.errors import KliegError
from klieg.survey import SurveySpec
from klieg.tokenizers import LONGEST_PIECE, Tokenizer, train
from klieg.watching.runs import Labels
from klieg.whatif import rank

TEXT = "I love you, 小沈阳"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train(iter(["I love you and the cat loves the moon"] * 2), 290)


@pytest.mark.parametrize("config", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_what_is_kept_is_what_the_model_did(config: models.Config, tokenizer: Tokenizer) -> None:
    model = lively(config)
    found = klieg.trace((model, tokenizer), TEXT)
    assert found.ids == tokenizer.encode(TEXT) and found.tokens == tokenizer.labels(found.ids) and found.text == TEXT
    assert torch.equal(found.logits, model(torch.tensor([found.ids]))[0].detach())
    assert not found.logits.requires_grad
    assert [call.layer for call in found.calls] == list(range(model.layers)) and {c.kind for c in found.calls} == {"self"}
    for call in found.calls:
        assert (call.heads, call.kv_heads) == (model.heads, model.kv_heads)
        assert call.queries == call.keys == len(found.ids)
        assert (call.unrotated_q is None) == (call.unrotated_k is None) == isinstance(config, models.GPT2Config)
        assert call.survey is None


def test_a_name_a_folder_and_a_pair_are_the_same_model(tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = lively(LLAMA)
    models.save(tmp_path / "mine", model, tokenizer)
    named, pair = klieg.trace(str(tmp_path / "mine"), TEXT), klieg.trace((model, tokenizer), TEXT)
    again = klieg.trace(klieg.load(str(tmp_path / "mine")), TEXT, name="mine")
    assert torch.equal(named.logits, pair.logits) and torch.equal(named[2].weights(1), again[2].weights(1))
    assert (named.model, pair.model, again.model) == (str(tmp_path / "mine"), "Llama", "mine")


def test_the_kernel_can_be_chosen_and_changes_no_number(tokenizer: Tokenizer) -> None:
    model = lively(LLAMA)
    traces = [klieg.trace((model, tokenizer), TEXT, kernel=kernel) for kernel in ("dense", "streamed")]
    assert [t.kernel for t in traces] == ["dense", "streamed"]
    assert (traces[0].logits - traces[1].logits).abs().max() < 1e-4
    assert (traces[0][1].weights(3) - traces[1][1].weights(3)).abs().max() < 1e-5
    with pytest.raises(KliegError, match="dense"):
        klieg.trace((model, tokenizer), TEXT, kernel="dens")


def test_a_survey_is_carried_where_one_is_asked_for(tokenizer: Tokenizer) -> None:
    found = klieg.trace((lively(LLAMA), tokenizer), TEXT, spec=SurveySpec(top=2))
    for call in found.calls:
        assert torch.allclose(call.survey.received[0, 3], call.weights(3).sum(0), atol=1e-5)


def test_a_text_that_does_not_fit_is_refused_or_cut(tokenizer: Tokenizer) -> None:
    model = lively(LLAMA)
    whole = klieg.trace((model, tokenizer), "a " * (model.positions // 2 - 1))
    assert len(whole.ids) < model.positions
    for text in ("ab " * 60, "a" * (LONGEST_PIECE * model.positions + 1), "x" * 10_000_000):
        with pytest.raises(KliegError, match=rf"{model.positions} tokens.*--cut"):
            klieg.trace((model, tokenizer), text)
        cut = klieg.trace((model, tokenizer), text, cut=True)
        assert len(cut.ids) == model.positions and cut.ids == tokenizer.encode(text[:2000])[:model.positions]


@pytest.mark.parametrize("text,said", [("", "empty"), ("  \n\t\u3000", "white space"), ("a\ud800b", r"U\+D800.*character 1")])
def test_what_is_no_text_is_refused_before_a_model_is_loaded(text: str, said: str) -> None:
    with pytest.raises(KliegError, match=said):
        klieg.trace("a model that is not there", text)


def test_what_is_no_model_of_klieg_is_said(tokenizer: Tokenizer) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    own, small = lively(LLAMA), {"vocab_size": 300, "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 1}
    theirs = LlamaForCausalLM(LlamaConfig(**small, num_attention_heads=2))
    for given in (theirs, own, (theirs, tokenizer), (own, object()), (own,), None):
        with pytest.raises(KliegError, match=r"neither a name nor \(model, tokenizer\).*klieg\.watch"):
            klieg.trace(given, TEXT)
    with pytest.raises(KliegError, match=r"neither a name nor \(model, tokenizer\)"):
        rank(own, TEXT)
    with pytest.raises(KliegError, match=r"str was given.*AutoModelForCausalLM"):
        klieg.watch("chat")


def test_every_id_has_a_label_also_those_that_the_tokenizer_lacks(tokenizer: Tokenizer) -> None:
    labels = Labels(tokenizer, 300)
    assert len(labels) == 300 and len(list(labels)) == 300
    assert labels[tokenizer.encode(" love", bos=False)[0]] == tokenizer.piece(tokenizer.encode(" love", bos=False)[0])
    assert labels[299] == "⟨unused 299⟩" and all(labels)
    for wrong in (-1, 300):
        with pytest.raises(IndexError):
            labels[wrong]


MARIAN = models.MarianConfig(
    vocab_size=300, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
    encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=48, pad_token_id=2, eos_token_id=1,
    decoder_start_token_id=2, scale_embedding=False)


def translator(marks: tuple[str, ...] = (">>de<<", ">>zh<<")) -> tuple[models.Model, Tokenizer]:
    """A tiny translator with random weights."""
    texts = ["I love you and the cat loves the moon", "ich liebe dich", "我爱你"] * 2
    return lively(MARIAN), train(iter(texts), 300, marks=marks, opened=False, closed=True)


def test_a_translator_reads_source_and_target_in_one_pass() -> None:
    model, tokenizer = translator()
    found = klieg.trace((model, tokenizer), " I love you ", target="ich liebe dich", to="zh")
    assert (found.model, found.text, found.source.text) == ("Marian", "ich liebe dich", "I love you")
    assert found.source.ids == [tokenizer.marks[">>zh<<"], *tokenizer.encode("I love you", bos=False), 1]
    assert found.ids == [2, *tokenizer.encode("ich liebe dich", bos=False)]
    assert found.source.tokens[0] == "⟨zh⟩" and found.source.tokens[-1] == "⟨/s⟩" and found.tokens[0] == "⟨pad⟩"
    source, target = len(found.source.ids), len(found.ids)
    assert source != target
    assert [(call.kind, call.layer, call.queries, call.keys) for call in found.calls] == [
        ("encoder", 0, source, source), ("encoder", 1, source, source), ("self", 0, target, target),
        ("cross", 0, target, source), ("self", 1, target, target), ("cross", 1, target, source)]
    assert torch.equal(found.logits, model(torch.tensor([found.source.ids]), torch.tensor([found.ids]))[0].detach())
    surveyed = klieg.trace((model, tokenizer), "I love you", target="ich", to="de", spec=SurveySpec(top=2))
    for call in surveyed.calls:
        assert torch.allclose(call.survey.received[0, 3], call.weights(3).sum(0), atol=1e-5)


def test_a_translator_finds_the_target_that_its_search_finds() -> None:
    from klieg.translate import Translator

    model, tokenizer = translator((">>de<<",))
    found = klieg.trace((model, tokenizer), "I love you")
    ids = search(model, [found.source.ids], Search(beam=5))[0][0].ids
    assert found.ids == [2, *ids] and found.text == tokenizer.decode(ids)
    assert Translator(model, tokenizer).translate(["I love you"]) == [" ".join(found.text.split("\n"))]
    assert found.source.tokens[0] == "⟨de⟩"   # one language needs no --to


def test_languages_and_targets_that_cannot_be() -> None:
    pair = translator()
    for asked, said in [({}, "writes de, zh; say which, for example --to de"), ({"to": "fr"}, "no language 'fr'.*de, zh"),
                        ({"to": "de", "target": " "}, "white space"), ({"to": "de", "target": "ab " * 60}, "47 tokens.*--cut")]:
        with pytest.raises(KliegError, match=said):
            klieg.trace(pair, "I love you", **asked)
    with pytest.raises(KliegError, match=r"46 tokens.*--cut"):
        klieg.trace(pair, "ab " * 60, to="de")
    cut = klieg.trace(pair, "ab " * 60, target="ab " * 60, to="de", cut=True)
    assert len(cut.source.ids) == len(cut.ids) == 48 and cut.source.ids[-1] == 1
    for asked in ({"to": "de"}, {"target": "too"}):
        with pytest.raises(KliegError, match="'Llama' is no translator; leave --target and --to"):
            klieg.trace((lively(LLAMA), pair[1]), "I love you", **asked)


def test_a_model_of_transformers_is_watched() -> None:
    """What there is to watch stands in tests/test_watcher.py; here, that the function is found and says what it takes."""
    from families import FAMILIES

    family = FAMILIES["llama"]
    with torch.no_grad(), klieg.watch(family.model(), top=2, map=3, bins=4) as seen:
        found = seen.model(**family.inputs())
    assert found.logits.shape == (2, 13, 99)
    assert seen[0].survey.histogram.shape == (2, 4, 4) and seen[0].survey.map_max.shape == (2, 4, 3, 3)
    with pytest.raises(KliegError, match="top=-1"):
        klieg.watch(family.model(), top=-1)
