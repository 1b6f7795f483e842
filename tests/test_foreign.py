"""Models of transformers from a folder: opened whole or refused by name, and none of their code is run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from klieg import foreign
from klieg.errors import KliegError
from klieg.tokenizers import train

SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
TEXT = "I love you and the cat"


def saved(folder: Path, name: str) -> Path:
    """A random model of a kind with a tokenizer, saved by transformers."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    tokenizer = train(iter(["I love you and the cat loves the moon"] * 2), 290)
    size = {"vocab_size": tokenizer.size, "max_position_embeddings": 40, **SHAPE}
    kinds = {"llama": (transformers.LlamaForCausalLM, transformers.LlamaConfig(**size, num_key_value_heads=2)),
             "bert": (transformers.BertModel, transformers.BertConfig(**size)),
             "roberta": (transformers.RobertaModel, transformers.RobertaConfig(**size, pad_token_id=1)),
             "t5": (transformers.T5Model, transformers.T5Config(d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2,
                                                                vocab_size=tokenizer.size)),
             "falcon_h1": (transformers.FalconH1ForCausalLM,
                           transformers.FalconH1Config(**size, num_key_value_heads=2, mamba_d_ssm=32, mamba_n_heads=4,
                                                       mamba_d_head=8, mamba_n_groups=1, mamba_d_state=8, mamba_chunk_size=8)),
             "recurrent_gemma": (transformers.RecurrentGemmaForCausalLM,
                                 transformers.RecurrentGemmaConfig(**SHAPE | {"num_hidden_layers": 3}, lru_width=32,
                                                                   vocab_size=tokenizer.size)),
             "mamba": (transformers.MambaForCausalLM,
                       transformers.MambaConfig(hidden_size=16, num_hidden_layers=1, state_size=4, vocab_size=tokenizer.size))}
    made, config = kinds[name]
    made(config).save_pretrained(folder)
    tokenizer.save(folder)
    if name in ("bert", "roberta"):
        _close(folder)
    return folder


def _close(folder: Path) -> None:
    """A tokenizer that ends a text with a mark, as BERT's do."""
    said = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    said["post_processor"] = {"type": "TemplateProcessing", "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
                              "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                                         {"SpecialToken": {"id": "</s>", "type_id": 0}}],
                              "special_tokens": {mark: {"id": mark, "ids": [n], "tokens": [mark]}
                                                 for n, mark in enumerate(("<s>", "</s>"))}}
    (folder / "tokenizer.json").write_text(json.dumps(said), "utf-8")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("models") / "llama", "llama")


@pytest.mark.parametrize(("name", "positions", "groups"), [("llama", 40, 2), ("bert", 40, 4), ("roberta", 38, 4)])
def test_a_folder_becomes_a_model_with_its_tokenizer(name: str, positions: int, groups: int, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = saved(tmp_path / name, name)
    found = foreign.load(str(folder))
    assert found.shape == (2, 4, groups, 8) and found.positions == positions and not found.model.training
    assert {p.dtype for p in found.model.parameters()} == {torch.float32}
    assert found.ids(TEXT) == AutoTokenizer.from_pretrained(folder)(TEXT).input_ids
    whole = found.ids(TEXT)
    for most in (3, len(whole) - 1, len(whole), positions):
        assert found.ids(TEXT, most) == whole[:most]
    assert len(found.ids("the cat loves " * 40, positions)) == positions
    found.run(found.ids("the cat loves " * 8)[:positions])


def test_as_long_as_the_positions_and_not_longer(llama: Path) -> None:
    found = foreign.load(str(llama))
    word = "the " * 60
    with pytest.raises(KliegError, match=r"tokens and the model has positions for 40 tokens; shorten it\.$"):
        found.ids(word)
    with pytest.raises(KliegError, match="positions for 40"):
        found.ids(word, 41)
    assert len(found.ids(word, 40)) == 40
    found.run(found.ids(word, 40))
    with pytest.raises(KliegError, match="empty"):
        found.ids("")


def test_a_config_may_have_numbers_that_json_has_not(tmp_path: Path) -> None:
    folder = saved(tmp_path / "falcon", "falcon_h1")
    assert "Infinity" in (folder / "config.json").read_text("utf-8")
    found = foreign.load(str(folder))
    assert found.model.config.time_step_limit[1] == float("inf")
    found.run(found.ids(TEXT))


def test_a_model_without_a_limit_reads_a_text_of_any_length(tmp_path: Path) -> None:
    found = foreign.load(str(saved(tmp_path / "griffin", "recurrent_gemma")))
    text = "小沈阳"          # three tokens, one for each byte, of every character
    assert found.positions is None and len(found.ids(text)) > len(text) + 2
    assert found.ids(text, 4) == found.ids(text)[:4]


def broken(llama: Path, tmp_path: Path, **config: object) -> Path:
    folder = tmp_path / "broken"
    shutil.copytree(llama, folder)
    said = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**said, **config}), "utf-8")
    return folder


@pytest.mark.parametrize(("config", "said"), [
    ({"model_type": "newest"}, "of the kind 'newest', which transformers .* code that comes with a model is not run"),
    ({"model_type": 7}, "of the kind 7"), ({"architectures": ["MyOwn"]}, "architecture is 'MyOwn'.* not run"),
    ({"architectures": None}, "architecture is None"), ({"architectures": ["Trainer"]}, "'Trainer'"),
    ({"is_encoder_decoder": True}, "an encoder and a decoder"),
    ({"intermediate_size": 64}, "cannot be opened by transformers|take the config.json that came with them"),
    ({"num_hidden_layers": 3}, r"the weights lack model.layers.2.*\(9 in all\)"), ({"hidden_size": "wide"}, "cannot be opened"),
])
def test_what_cannot_be_opened_whole_is_one_line(llama: Path, tmp_path: Path, config: dict, said: str) -> None:
    with pytest.raises(KliegError, match=said) as caught:
        foreign.load(str(broken(llama, tmp_path, **config)))
    assert "\n" not in str(caught.value)


def test_code_beside_the_weights_is_never_run(llama: Path, tmp_path: Path) -> None:
    ours = {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}
    for config in ({"auto_map": ours}, {"auto_map": ours, "model_type": "mine", "architectures": ["Model"]}):
        folder = broken(llama, tmp_path / str(len(config)), **config)
        (folder / "mine.py").write_text("raise SystemExit('this ran')", "utf-8")
        if len(config) == 1:
            assert foreign.load(str(folder)).shape[0] == 2
        else:
            with pytest.raises(KliegError, match="is not run"):
                foreign.load(str(folder))


def test_pickled_missing_and_damaged_weights_are_refused(llama: Path, tmp_path: Path) -> None:
    folder = broken(llama, tmp_path)
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    save_file({name: x for name, x in tensors.items() if "layers.1.mlp" not in name}, weights, {"format": "pt"})
    with pytest.raises(KliegError, match=r"the weights lack model\.layers\.1\.mlp\.down_proj\.weight"):
        foreign.load(str(folder))
    weights.write_bytes(b"\xff" * 100)
    with pytest.raises(KliegError, match="cannot be opened"):
        foreign.load(str(folder))
    weights.rename(folder / "pytorch_model.bin")
    with pytest.raises(KliegError, match="cannot be opened"):
        foreign.load(str(folder))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(KliegError, match=r"tokenizer\.json is not there"):
        foreign.load(str(folder))


def test_an_encoder_and_a_decoder_are_for_python(tmp_path: Path) -> None:
    with pytest.raises(KliegError, match=r"klieg\.watch"):
        foreign.load(str(saved(tmp_path / "t5", "t5")))


def test_a_model_without_attention_has_nothing_to_watch(tmp_path: Path) -> None:
    found = foreign.load(str(saved(tmp_path / "mamba", "mamba")))
    with pytest.raises(KliegError, match="no layers with attention heads"):
        found.shape  # noqa: B018


def test_memory_that_runs_out_while_it_reads_is_one_line(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = foreign.load(str(llama))

    def full(*given: object, **more: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB.\nMore lines")

    monkeypatch.setattr(found.model, "forward", full)
    with pytest.raises(KliegError, match=r"memory ran out while .* read 5 tokens \(CUDA out of memory") as refused:
        found.run(found.ids(TEXT)[:5])
    assert "\n" not in str(refused.value)
