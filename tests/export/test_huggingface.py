"""transformers opens what is exported to it, and says the same from text to text."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from exported import EOS, LONGEST, MARIAN, PAD, TEXTS, continued, saved, sources

from klieg.chinese import chinese
from klieg.errors import KliegError
from klieg.export import export
from klieg.tokenizers import Tokenizer, train


def test_transformers_translates_from_text_to_text(translator, translations, tmp_path) -> None:
    from transformers import AutoTokenizer, MarianMTModel

    said = export(str(translator), "huggingface", tmp_path / "out")
    assert said[0].startswith("transformers' MarianMTModel opens it")
    assert str(chinese(said[0], "note")).startswith("transformers 的 MarianMTModel 可以打开它；")
    model, found = MarianMTModel.from_pretrained(tmp_path / "out", dtype=torch.float32, output_loading_info=True)
    assert not found["missing_keys"] and not found["unexpected_keys"]
    words = AutoTokenizer.from_pretrained(tmp_path / "out")
    texts = [TEXTS[0], *(f">>de<< {text}" for text in TEXTS[1:])]
    batch = words(texts, return_tensors="pt", padding=True)
    assert [row[row != PAD].tolist() for row in batch["input_ids"]] == sources(translator)
    assert words.batch_decode(batch["input_ids"], skip_special_tokens=True) == TEXTS
    written = model.generate(**batch, num_beams=1, max_new_tokens=LONGEST + 1)
    expected = [Tokenizer.load(translator).decode(ids) for ids in translations]
    assert words.batch_decode(written, skip_special_tokens=True) == expected
    config = model.generation_config
    assert (config.num_beams, config.max_length, config.decoder_start_token_id) == (5, 64, PAD)
    beams = model.generate(**batch)[:, 1:]
    assert all(PAD not in row[:row.index(EOS)] for row in beams.tolist())


def test_transformers_generates(decoders, tmp_path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for name, folder in decoders.items():
        export(str(folder), "huggingface", tmp_path / name)
        ids, expected = continued(folder)
        batch = AutoTokenizer.from_pretrained(tmp_path / name)(TEXTS[0], return_tensors="pt")
        model = AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype=torch.float32)
        written = model.generate(**batch, do_sample=False, max_new_tokens=LONGEST, bad_words_ids=[[PAD]])[0].tolist()
        assert [id for id in written if id != EOS] == [*ids, *expected], name


def test_an_export_that_is_another_model_there_is_given_up(translator, tmp_path, monkeypatch) -> None:
    def refused(words: str) -> None:
        with pytest.raises(KliegError, match=words):
            export(str(translator), "huggingface", tmp_path / "out")
        assert not (tmp_path / "out").exists()

    monkeypatch.setattr("klieg.export.huggingface.CLOSE", -1.0)
    refused("other numbers")
    monkeypatch.setattr("klieg.export.huggingface.CLOSE", 1.0)
    other = train(iter(TEXTS), 290, opened=False, closed=True).files()
    monkeypatch.setattr("klieg.export.huggingface.standing_alone", lambda *_: other)
    refused("other ids")
    monkeypatch.undo()
    config = json.loads((translator / "config.json").read_text())
    for wrong, words in (("Mystery", "no 'Mystery'"), ("MarianModel", "do not agree on")):
        monkeypatch.setattr("klieg.checkpoint.read_config", lambda folder, wrong=wrong: {**config, "architectures": [wrong]})
        refused(words)


def test_transformers_does_not_get_what_it_does_not_have(tmp_path) -> None:
    folder = saved(tmp_path / "model", replace(MARIAN, pre_norm=True, kv_heads=2))
    with pytest.raises(KliegError, match="no model with pre_norm = true and kv_heads = 2; export to ctranslate2 or onnx"):
        export(str(folder), "huggingface", tmp_path / "out")
    assert not (tmp_path / "out").exists()
