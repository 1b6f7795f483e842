"""ONNX graphs say token for token what the model says, in every shape, from a cache of their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from exported import EOS, LLAMA3, LONGEST, MARIAN, PAD, TEXTS, VARIANTS, chances, continued, saved, sources

from klieg.config import BertConfig
from klieg.export import export


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
