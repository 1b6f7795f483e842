"""Exports say elsewhere what the model says, token for token; what is there is left alone, and nothing is half written."""

from __future__ import annotations

import json
import re
import resource
import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_models import GPT2, LLAMA, lively

from klieg import models
from klieg.beam import Search, padded, search
from klieg.config import BertConfig, MarianConfig
from klieg.errors import KliegError
from klieg.export import TARGETS, export
from klieg.tokenizers import Tokenizer, train

TEXTS = ["the cat sat on the mat and looked at the moon", "我爱你，小猫。", "a dog in the snow, it's 3 o'clock"]
EOS, PAD, GERMAN = 1, 2, 3
LONGEST = 16
MARIAN = MarianConfig(vocab_size=300, d_model=32, encoder_layers=2, decoder_layers=3, encoder_attention_heads=4,
                      decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=40, max_position_embeddings=64,
                      pad_token_id=PAD, eos_token_id=EOS, decoder_start_token_id=PAD, scale_embedding=True)
DECODERS = {"llama": LLAMA, "llama, untied, biases, wide heads": replace(LLAMA, head_dim=10, tie_word_embeddings=False,
                                                                       attention_bias=True, mlp_bias=True),
            "llama, linear rope": replace(LLAMA, num_key_value_heads=6, rope_scaling={"rope_type": "linear", "factor": 2.0}),
            "gpt2": GPT2}
VARIANTS = [{}, {"pre_norm": True, "learned_positions": True}, {"kv_heads": 2, "head_dim": 12}, {"kv_heads": 1},
            {"scale_embedding": False, "encoder_attention_heads": 2}]
LLAMA3 = replace(LLAMA, rope_scaling={"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                      "original_max_position_embeddings": 32})


def words_for(config: models.Config) -> Tokenizer:
    special = {"marks": [">>de<<"], "opened": False, "closed": True} if isinstance(config, MarianConfig) else {}
    return train(iter(TEXTS), 290, **special)


def saved(folder: Path, config: models.Config) -> Path:
    """A model of this shape with random weights."""
    models.save(folder, lively(config), words_for(config))
    return folder


@pytest.fixture(scope="module")
def translator(tmp_path_factory) -> Path:
    """One that has begun to learn, so that its targets end. Its bias is for padding, which must not be written all the same."""
    torch.manual_seed(0)
    model, words = models.build(MARIAN).train(), words_for(MARIAN)
    ids, real = padded([[*([GERMAN] if n else []), *words.encode(text, bos=False), EOS] for n, text in enumerate(TEXTS)], PAD)
    targets, _ = padded([[*words.encode(text, bos=False)[:9], EOS] for text in (*TEXTS[1:], TEXTS[0])], PAD)
    adam = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(40):
        logits = model(ids, torch.cat([torch.full_like(targets[:, :1], PAD), targets[:, :-1]], 1), real)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=PAD)
        adam.zero_grad()
        loss.backward()
        adam.step()
    model.final_logits_bias[:] = -30.0
    model.final_logits_bias[0, PAD] = 0.0
    folder = tmp_path_factory.mktemp("translator") / "model"
    models.save(folder, model, words)
    return folder


@pytest.fixture(scope="module")
def decoders(tmp_path_factory) -> dict[str, Path]:
    return {name: saved(tmp_path_factory.mktemp("decoder") / "model", config) for name, config in DECODERS.items()}


def sources(folder: Path) -> list[list[int]]:
    words = Tokenizer.load(folder)
    return [[*([GERMAN] if n else []), *words.encode(text, bos=False), EOS] for n, text in enumerate(TEXTS)]


@torch.no_grad()
def greedy(logits: Callable[[list[int]], torch.Tensor], start: list[int]) -> list[int]:
    """The likeliest next token again and again, by whole passes, up to the end mark, which is left out."""
    written: list[int] = []
    while len(written) < LONGEST:
        last = logits([*start, *written])
        last[PAD] = -torch.inf
        written.append(int(last.argmax()))
        if written[-1] == EOS:
            return written[:-1]
    return written


@pytest.fixture(scope="module")
def translations(translator) -> list[list[int]]:
    """What transformers' Marian writes for each source, from the model's own folder; and so does our greedy search."""
    from transformers import MarianMTModel

    model = MarianMTModel.from_pretrained(translator, dtype=torch.float32).eval()
    found = [greedy(lambda ids, source=source: model(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([ids])
                                                     ).logits[0, -1], [PAD]) for source in sources(translator)]
    ours, _ = models.load(str(translator))
    best = search(ours, sources(translator), Search(beam=1, ratio=0, extra=LONGEST + 1))
    assert [one.ids[:LONGEST] for one, in best] == found
    assert min(map(len, found)) < LONGEST and len({tuple(ids) for ids in found}) == len(found), "it must have begun to learn"
    return found


def continued(folder: Path) -> tuple[list[int], list[int]]:
    """A text's ids, and what transformers' decoder writes after them."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = Tokenizer.load(folder).encode(TEXTS[0])
    return ids, greedy(lambda all_ids: model(torch.tensor([all_ids])).logits[0, -1], ids)


def chances(folder: Path) -> tuple[list[list[int]], list[list[int]], list[torch.Tensor]]:
    """Sources, random targets, and by our own passes the ln p of each of their next tokens, (t + 1, vocabulary) each."""
    model, _ = models.load(str(folder))
    draw = torch.Generator().manual_seed(1)
    targets = [torch.randint(4, 290, (n,), generator=draw).tolist() for n in (9, 4, 12)]
    found = []
    for source, target in zip(sources(folder), targets, strict=True):
        logits = model(torch.tensor([source]), torch.tensor([[PAD, *target]]))[0].double()
        logits[:, PAD] = -torch.inf
        found.append(logits.log_softmax(-1))
    return sources(folder), targets, found


# ---- transformers ----

def test_transformers_translates_from_text_to_text(translator, translations, tmp_path) -> None:
    from transformers import AutoTokenizer, MarianMTModel

    said = export(str(translator), "huggingface", tmp_path / "out")
    assert said[0].startswith("transformers' MarianMTModel opens it")
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


# ---- CTranslate2 ----

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


# ---- ONNX ----

def session(path: Path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def steps(decoder, ids: np.ndarray, more: dict[str, np.ndarray], rows: int) -> list[list[int]]:
    """Greedy from a decoder.onnx that keeps its past; rows go on until all have their end mark."""
    given, names = nothing(decoder, rows), [x.name for x in decoder.get_outputs()]
    written: list[list[int]] = [[] for _ in range(rows)]
    for _ in range(LONGEST):
        found = dict(zip(names, decoder.run(None, {"ids": ids, **more, **given}), strict=True))
        given = {name.replace("present", "past"): value for name, value in found.items() if name != "logits"}
        last = found["logits"][:, -1]
        last[:, PAD] = -np.inf if not more else last[:, PAD]  # a translator's logits rule padding out by themselves
        ids = last.argmax(-1)[:, None]
        for row, id in zip(written, ids[:, 0].tolist(), strict=True):
            row.append(id)
    return [row[:row.index(EOS)] if EOS in row else row for row in written]


def remembered(folder: Path, rows: list[list[int]]) -> tuple:
    """The decoder, and what it is given of the sources: their mask and memories."""
    longest = max(map(len, rows))
    ids = np.array([[*row, *[PAD] * (longest - len(row))] for row in rows])
    mask = np.array([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    encoder = session(folder / "encoder.onnx")
    names, memory = [x.name for x in encoder.get_outputs()], encoder.run(None, {"ids": ids, "mask": mask})
    return session(folder / "decoder.onnx"), {"mask": mask, **dict(zip(names, memory, strict=True))}


def nothing(decoder, rows: int) -> dict[str, np.ndarray]:
    """The empty past."""
    return {x.name: np.zeros((rows, x.shape[1], 0, x.shape[3]), np.float32) for x in decoder.get_inputs() if "past." in x.name}


def test_onnx_translates_token_for_token(translator, translations, tmp_path) -> None:
    assert export(str(translator), "onnx", tmp_path / "out") == []
    decoder, more = remembered(tmp_path / "out", sources(translator))
    assert steps(decoder, np.full((len(TEXTS), 1), PAD), more, len(TEXTS)) == translations


@pytest.mark.parametrize("change", VARIANTS)
def test_onnx_has_the_shape_and_variants_of_it(change: dict, tmp_path) -> None:
    folder = saved(tmp_path / "model", replace(MARIAN, **change))
    export(str(folder), "onnx", tmp_path / "out")
    for source, target, expected in zip(*chances(folder), strict=True):
        decoder, more = remembered(tmp_path / "out", [source])
        logits = decoder.run(["logits"], {"ids": np.array([[PAD, *target]]), **more, **nothing(decoder, 1)})[0]
        found = torch.from_numpy(logits[0]).double().log_softmax(-1)
        assert (found.exp() - expected.exp()).abs().max() < 1e-4 and found[:, PAD].max() < -1000


def test_onnx_generates_token_for_token(decoders, tmp_path) -> None:
    for name, folder in (decoders | {"llama3": saved(tmp_path / "llama3" / "model", LLAMA3)}).items():
        export(str(folder), "onnx", tmp_path / name / "out")
        ids, expected = continued(folder)
        assert steps(session(tmp_path / name / "out" / "decoder.onnx"), np.array([ids]), {}, 1) == [expected], name


@pytest.mark.parametrize("architecture", ["BertForMaskedLM", "BertModel"])
@torch.no_grad()
def test_bert_in_transformers_and_onnx(architecture: str, tmp_path) -> None:
    import transformers

    config = BertConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
                        max_position_embeddings=64, architecture=architecture)
    folder = saved(tmp_path / "model", config)
    for target in ("huggingface", "onnx"):
        export(str(folder), target, tmp_path / target)
    ids = torch.randint(3, 290, (2, 11), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    types = (torch.arange(11) > 5).long().expand(2, -1)
    other = getattr(transformers, architecture).from_pretrained(tmp_path / "huggingface", dtype=torch.float32)
    expected = other(input_ids=ids, attention_mask=mask, token_type_ids=types)[0]
    found, = session(tmp_path / "onnx" / "encoder.onnx").run(
        None, {"ids": ids.numpy(), "mask": mask.numpy(), "types": types.contiguous().numpy()})
    real = mask.bool()
    assert (torch.from_numpy(found) - expected)[real].abs().max() < 1e-4


# ---- GGUF ----

def by_gguf(path: Path, ids: list[int]) -> np.ndarray:
    """Logits of the last token, in float64, from what the file says alone: rotation of neighbours, as llama.cpp has it."""
    from gguf import GGUFReader

    file = GGUFReader(path)
    said = {name: field.contents() for name, field in file.fields.items()}
    w = {tensor.name: tensor.data.astype(np.float64) for tensor in file.tensors}
    heads, groups = said["llama.attention.head_count"], said["llama.attention.head_count_kv"]
    d = said["llama.rope.dimension_count"]
    factors = w.get("rope_freqs.weight", np.ones(d // 2))
    angles = np.arange(len(ids))[:, None] * said["llama.rope.freq_base"] ** (-np.arange(0, d, 2) / d) / factors
    turn = np.exp(1j * angles)[:, None]
    eps = said["llama.attention.layer_norm_rms_epsilon"]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * w[f"{name}.weight"]

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)

    def rotated(x: np.ndarray) -> np.ndarray:
        pairs = (x[..., 0::2] + 1j * x[..., 1::2]) * turn
        return np.stack([pairs.real, pairs.imag], -1).reshape(x.shape)

    x = w["token_embd.weight"][ids]
    future = np.triu(np.full((len(ids), len(ids)), -np.inf), 1)
    for n in range(said["llama.block_count"]):
        y = norm(x, f"blk.{n}.attn_norm")
        q, k, v = (linear(y, f"blk.{n}.attn_{part}").reshape(len(ids), -1, d) for part in "qkv")
        q, k = rotated(q), rotated(k)
        k, v = (np.repeat(part, heads // groups, axis=1) for part in (k, v))
        scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(d) + future
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        x = x + linear(np.einsum("hij,jhd->ihd", weights, v).reshape(len(ids), -1), f"blk.{n}.attn_output")
        y = norm(x, f"blk.{n}.ffn_norm")
        gate = linear(y, f"blk.{n}.ffn_gate")
        x = x + linear(gate / (1 + np.exp(-gate)) * linear(y, f"blk.{n}.ffn_up"), f"blk.{n}.ffn_down")
    return norm(x, "output_norm")[-1] @ w["output.weight" if "output.weight" in w else "token_embd.weight"].T


@torch.no_grad()
def test_gguf_holds_the_model_in_the_order_of_llama_cpp(decoders, tmp_path) -> None:
    from transformers import AutoModelForCausalLM

    for name, folder in (decoders | {"llama3": saved(tmp_path / "llama3" / "model", LLAMA3)}).items():
        if name == "gpt2":
            continue
        said, = export(str(folder), "gguf", tmp_path / name / "out")
        assert "no rule" in said and "'gpt-2'" in said
        ids = Tokenizer.load(folder).encode(TEXTS[0])
        expected = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()(torch.tensor([ids])).logits[0, -1]
        assert np.abs(by_gguf(tmp_path / name / "out" / "model.gguf", ids) - expected.numpy()).max() < 1e-5, name


def test_gguf_has_the_vocabulary(decoders, tmp_path) -> None:
    from gguf import GGUFReader, TokenType

    export(str(decoders["llama"]), "gguf", tmp_path / "out")
    said = {name: field.contents() for name, field in GGUFReader(tmp_path / "out" / "model.gguf").fields.items()}
    body = json.loads((decoders["llama"] / "tokenizer.json").read_text("utf-8"))
    pieces = said["tokenizer.ggml.tokens"]
    assert {piece: id for id, piece in enumerate(pieces) if id < len(body["model"]["vocab"])} == body["model"]["vocab"]
    assert len(pieces) == 300 and len(set(pieces)) == 300
    assert [merge.split(" ") for merge in said["tokenizer.ggml.merges"]] == [list(m) for m in body["model"]["merges"]]
    kinds = said["tokenizer.ggml.token_type"]
    assert kinds[:4] == [TokenType.CONTROL] * 3 + [TokenType.NORMAL] and kinds[-1] == TokenType.UNUSED
    assert [said[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos", "padding")] == [0, 1, 2]
    assert said["tokenizer.ggml.add_bos_token"] and not said["tokenizer.ggml.add_eos_token"]
    assert said["tokenizer.ggml.pre"] == "gpt-2" and "no rule" in said["general.description"]


def test_what_llama_cpp_cannot_do_is_refused_with_what_can(translator, decoders, tmp_path) -> None:
    for folder, words in ((translator, "no encoder and decoder of the 2017 shape; export to ctranslate2"),
                          (decoders["gpt2"], "convert_hf_to_gguf")):
        with pytest.raises(KliegError, match=words):
            export(str(folder), "gguf", tmp_path / "out")
        assert not (tmp_path / "out").exists()


# ---- the how-to ----

def test_the_how_to_runs_as_it_stands(translator, translations, decoders, tmp_path, monkeypatch, capsys) -> None:
    docs = Path(__file__).parents[1] / "docs"
    texts = [(docs / name).read_text("utf-8") for name in ("export.md", "export.zh.md")]
    commands, blocks = (re.findall(pattern, texts[0], re.DOTALL)
                        for pattern in (r"klieg export (--to [^\n]+)", r"```python\n(.+?)```"))
    assert {line.split()[1] for line in commands} == set(TARGETS) and len(blocks) == 3
    assert all(part in texts[1] for part in (*commands, *blocks))
    monkeypatch.chdir(tmp_path)
    for line in commands:
        given = dict(zip(line.split()[0::2], line.split()[1::2], strict=True))
        model = {"translate": translator, "chat": decoders["llama"]}[given["--model"]]
        export(str(model), given["--to"], Path(given["--out"]), given.get("--quantization", "none"))
    said = []
    for n, block in enumerate(blocks):
        greedy = block.replace("beam_size=5", f"beam_size=1, max_decoding_length={LONGEST}, min_decoding_length=0")
        (tmp_path / f"{n}.py").write_text(greedy.replace("I love you.", TEXTS[1]), "utf-8")
        runpy.run_path(str(tmp_path / f"{n}.py"))
        said.append(capsys.readouterr().out.strip())
    expected = Tokenizer.load(translator).decode(translations[1])
    assert said[0] == said[2] == expected and said[1]


# ---- places and mistakes ----

@pytest.mark.parametrize("target", TARGETS)
def test_only_an_export_of_the_same_target_is_replaced(target: str, decoders, tmp_path) -> None:
    model, out = str(decoders["llama"]), tmp_path / "new" / "out"
    export(model, target, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert sorted(before) == sorted([*json.loads(before["export.json"])["files"], "export.json"])
    export(model, target, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    other = next(name for name in TARGETS if name != target)
    with pytest.raises(KliegError, match=f"is an export to {target}; choose another"):
        export(model, other, out)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(KliegError, match="also holds notes"):
        export(model, target, out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a").touch()
    for place in (tmp_path / "mine", decoders["llama"]):
        with pytest.raises(KliegError, match="is no export of Klieg"):
            export(model, target, place)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before | {"notes.txt": b"mine"}


@pytest.mark.parametrize("target", TARGETS)
def test_a_full_disk_leaves_nothing(target: str, decoders, tmp_path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(KliegError, match=r"cannot be written: (file too large|no space left)") as caught:
            export(str(decoders["llama"]), target, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_mistakes_are_one_line(translator, tmp_path, monkeypatch) -> None:
    def refused(words: str, **given: str) -> None:
        with pytest.raises(KliegError, match=words) as caught:
            export(**{"name": str(translator), "to": "ctranslate2", "out": tmp_path / "out", **given})
        assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())

    refused("no export to 'onyx'. Did you mean 'onnx'?", to="onyx")
    refused("no quantization 'int9'. Did you mean", quantization="int9")
    refused("only an export to ctranslate2 has one", to="onnx", quantization="int8")
    refused("no model 'chta'", name="chta")
    monkeypatch.setattr("klieg.export.find_spec", lambda name: None)
    for target in TARGETS:
        package = "transformers" if target == "huggingface" else target
        refused(f"needs {package}; `pip install {package}`", to=target)
