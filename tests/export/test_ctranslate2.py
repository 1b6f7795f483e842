"""CTranslate2 says token for token what the model says, in every shape, and smaller in int8."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from exported import EOS, LLAMA3, LONGEST, MARIAN, PAD, VARIANTS, chances, continued, greedy, saved, sources

from klieg import models
from klieg.config import BertConfig
from klieg.errors import KliegError
from klieg.export import export


def by_ctranslate2(folder: Path, rows: list[list[int]], **options: object) -> list[list[int]]:
    import ctranslate2
    from tokenizers import Tokenizer as Backend

    words = Backend.from_file(str(folder / "tokenizer.json"))
    engine = ctranslate2.Translator(str(folder), intra_threads=1)
    found = engine.translate_batch([[words.id_to_token(id) for id in row] for row in rows],
                                   **{"beam_size": 1, "max_decoding_length": LONGEST, "min_decoding_length": 0, **options})
    return [[words.token_to_id(piece) for piece in one.hypotheses[0]] for one in found]


def test_ctranslate2_translates_token_for_token(translator, translations, tmp_path) -> None:
    assert export(str(translator), "ctranslate2", tmp_path / "out") == []
    assert by_ctranslate2(tmp_path / "out", sources(translator)) == translations
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["decoder_start_token"], config["eos_token"]) == ("<pad>", "</s>")
    model, _ = models.load(str(translator))
    longer = models.outline(replace(MARIAN, max_position_embeddings=200)).eval()  # sines go on where the model's end
    longer.load_state_dict({name: value.float() for name, value in model.state_dict().items()})
    source = [*sources(translator)[0][:-1] * 3, EOS]
    assert len(source) > 64
    expected = greedy(lambda ids: longer(torch.tensor([source]), torch.tensor([ids])).detach()[0, -1], [PAD])
    assert by_ctranslate2(tmp_path / "out", [source]) == [expected]
    with_beams = by_ctranslate2(tmp_path / "out", sources(translator), beam_size=5)
    assert all(PAD not in row for row in with_beams)


@pytest.mark.parametrize("change", VARIANTS)
def test_ctranslate2_has_the_shape_and_variants_of_it(change: dict, tmp_path) -> None:
    import ctranslate2

    folder = saved(tmp_path / "model", replace(MARIAN, **change))
    export(str(folder), "ctranslate2", tmp_path / "out")
    pieces = json.loads((tmp_path / "out" / "shared_vocabulary.json").read_text("utf-8"))
    given, targets, expected = chances(folder)
    engine = ctranslate2.Translator(str(tmp_path / "out"), intra_threads=1)
    found = engine.score_batch(*([[pieces[id] for id in row] for row in rows] for rows in (given, targets)))
    for target, one, log_p in zip(targets, found, expected, strict=True):
        assert np.allclose(one.log_probs, log_p[range(len(target) + 1), [*target, EOS]], atol=1e-5)
    model, _ = models.load(str(folder))
    found = engine.translate_batch([[pieces[id] for id in row] for row in given], beam_size=1, length_penalty=0,
                                   max_decoding_length=6, min_decoding_length=0, return_scores=True)
    for source, one in zip(given, found, strict=True):
        written = [pieces.index(piece) for piece in one.hypotheses[0]]  # from its cache, a token at a time
        logits = model(torch.tensor([source]), torch.tensor([[PAD, *written]]))[0].double()
        logits[:, PAD] = -torch.inf
        log_p = logits.log_softmax(-1)
        assert written == log_p.argmax(-1)[:len(written)].tolist()
        whole = [*written, EOS][:6]
        assert abs(one.scores[0] - sum(log_p[n, id].item() for n, id in enumerate(whole))) < 1e-4


def test_int8_is_smaller_and_translates(translator, translations, tmp_path) -> None:
    for quantization in ("none", "int8"):
        export(str(translator), "ctranslate2", tmp_path / quantization, quantization)
    table = 4 * 1024 * MARIAN.d_model  # the positions, which stay as they are and are much of so small a model
    whole, small = ((tmp_path / name / "model.bin").stat().st_size - table for name in ("none", "int8"))
    assert whole / 4 < small < whole / 2.5
    assert [ids[:1] for ids in by_ctranslate2(tmp_path / "int8", sources(translator))] == [ids[:1] for ids in translations]


def test_ctranslate2_generates_token_for_token(decoders, tmp_path) -> None:
    import ctranslate2
    from tokenizers import Tokenizer as Backend

    for name, folder in decoders.items():
        export(str(folder), "ctranslate2", tmp_path / name)
        ids, expected = continued(folder)
        words = Backend.from_file(str(tmp_path / name / "tokenizer.json"))
        engine = ctranslate2.Generator(str(tmp_path / name), intra_threads=1)
        found = engine.generate_batch([[words.id_to_token(id) for id in ids]], max_length=LONGEST,
                                      suppress_sequences=[["<pad>"]], include_prompt_in_result=False)
        assert found[0].sequences_ids[0] == expected, name


def test_what_ctranslate2_does_otherwise_is_refused_by_name(tmp_path) -> None:
    bert = BertConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
                      max_position_embeddings=64)
    for config, words in ((LLAMA3, "'llama3' comes out differently"), (bert, "no bert model")):
        folder = saved(tmp_path / words, config)
        with pytest.raises(KliegError, match=words):
            export(str(folder), "ctranslate2", tmp_path / "out")
        assert not (tmp_path / "out").exists()
