"""Files of models and runs: whole or not at all, believed only after checks, and never a pickle."""

from __future__ import annotations

import json
import resource
import signal
import struct
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch
from apart import FORKED
from safetensors.torch import save_file

from klieg import checkpoint
from klieg.errors import KliegError

SHAPES = {"model.embed_tokens.weight": (7, 4), "model.norm.weight": (4,)}


def some(**more: torch.Tensor) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()} | more


def write(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    save_file(tensors, folder / "model.safetensors")
    return folder / "model.safetensors"


def refused(folder: Path, words: str) -> str:
    with pytest.raises(KliegError, match=words) as caught:
        checkpoint.read_tensors(folder, SHAPES)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- reading ----

@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_tensors_come_in_the_wanted_dtype(tmp_path, dtype: torch.dtype) -> None:
    stored = {name: value.to(dtype) for name, value in some().items()}
    write(tmp_path, stored)
    read = checkpoint.read_tensors(tmp_path, SHAPES)
    assert read.keys() == SHAPES.keys()
    for name, value in read.items():
        assert value.dtype == torch.float32 and torch.equal(value, stored[name].float())
    double = checkpoint.read_tensors(tmp_path, SHAPES, torch.float64)
    assert all(torch.equal(double[name], stored[name].double()) for name in SHAPES)


def test_shards_are_joined(tmp_path) -> None:
    tensors = some()
    places = {}
    for n, (name, value) in enumerate(tensors.items()):
        places[name] = f"model-0000{n}-of-00002.safetensors"
        save_file({name: value}, tmp_path / places[name])
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    read = checkpoint.read_tensors(tmp_path, SHAPES)
    assert all(torch.equal(read[name], tensors[name]) for name in SHAPES)
    (tmp_path / places["model.norm.weight"]).unlink()
    refused(tmp_path, "00002.safetensors is not there")
    for bad in ({}, {"weight_map": {}}, {"weight_map": {"a": "../elsewhere.safetensors"}}, {"weight_map": {"a": 3}},
                {"weight_map": {"a": "/etc/passwd"}}):
        index.write_text(json.dumps(bad))
        refused(tmp_path, "index.json is damaged")


def test_names_without_the_prefix_of_the_base_model(tmp_path) -> None:
    tensors = {name.removeprefix("model."): value for name, value in some().items()}
    write(tmp_path, tensors | {"h.0.attn.bias": torch.ones(1, 1, 3, 3), "rotary_emb.inv_freq": torch.ones(2)})
    refused(tmp_path, "rotary_emb.inv_freq is not expected")
    write(tmp_path, tensors | {"h.0.attn.bias": torch.ones(1, 1, 3, 3), "layers.0.rotary_emb.inv_freq": torch.ones(2)})
    read = checkpoint.read_tensors(tmp_path, SHAPES)
    assert torch.equal(read["model.norm.weight"], tensors["norm.weight"])


def test_a_tied_head_may_be_stored_if_it_is_the_embedding(tmp_path) -> None:
    tensors = some()
    write(tmp_path, tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()})
    assert checkpoint.read_tensors(tmp_path, SHAPES).keys() == SHAPES.keys()
    write(tmp_path, tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"] + 1e-3})
    refused(tmp_path, "lm_head.weight is not expected")


def test_contradictions_are_named_with_their_count(tmp_path) -> None:
    write(tmp_path, {"model.norm.weight": torch.ones(4)})
    refused(tmp_path, r"model.embed_tokens.weight is missing \(1 of 2 tensors")
    write(tmp_path, some(extra=torch.ones(1), other=torch.ones(1)))
    refused(tmp_path, r"extra is not expected \(2 of 4 stored tensors")
    write(tmp_path, some() | {"model.embed_tokens.weight": torch.ones(4, 7)})
    refused(tmp_path, r"model.embed_tokens.weight has shape \(4, 7\) and config.json asks for \(7, 4\)")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers_are_named(tmp_path, bad: float) -> None:
    tensors = some()
    tensors["model.norm.weight"][2] = bad
    write(tmp_path, tensors)
    refused(tmp_path, "model.norm.weight holds NaN or infinite")


def test_quantized_weights_are_refused(tmp_path) -> None:
    write(tmp_path, some() | {"model.norm.weight": torch.ones(4, dtype=torch.int8)})
    refused(tmp_path, "stored as int8")


def test_every_truncation_is_refused(tmp_path) -> None:
    path = write(tmp_path, some())
    whole = path.read_bytes()
    for length in (0, 1, 7, 8, 9, 50, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        refused(tmp_path, "damaged or cut short")
    path.write_bytes(whole + b"\0")
    refused(tmp_path, "damaged or cut short")


@pytest.mark.parametrize("length", [2**63, 2**40, 2**64 - 1, 100_000_001])
def test_a_header_that_claims_terabytes_is_refused_at_once(tmp_path, length: int) -> None:
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", length) + b"{}" + b" " * 100)
    started = time.perf_counter()
    refused(tmp_path, "damaged or cut short")
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize("entry", [
    {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]},
    {"dtype": "F32", "shape": [4], "data_offsets": [0, 2**42]},
    {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 16]},
    {"dtype": "F32", "shape": [3], "data_offsets": [0, 16]},
    {"dtype": "F99", "shape": [4], "data_offsets": [0, 16]},
    {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]},
    {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]},
    {"shape": [4]}, [], None, 3])
def test_a_header_that_lies_about_a_tensor_is_refused(tmp_path, entry: object) -> None:
    header = json.dumps({"model.norm.weight": entry}).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 16)
    refused(tmp_path, "damaged or cut short")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "model.pt"])
def test_pickles_are_refused_unopened(tmp_path, name: str) -> None:
    bomb = b"cos\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR."
    (tmp_path / name).write_bytes(bomb)
    refused(tmp_path, "loading a pickle runs whatever code is in it; convert")
    assert not (tmp_path / "ran").exists()
    (tmp_path / name).unlink()
    (tmp_path / "model.safetensors").write_bytes(bomb)
    refused(tmp_path, "damaged")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content, words", [("{", "damaged"), ("[1]", "no JSON object"), ("\udcff", "damaged"),
                                            ("[" * 100_000, "damaged")], ids=["open", "list", "bytes", "deep"])
def test_a_damaged_config_is_one_line(tmp_path, content: str, words: str) -> None:
    (tmp_path / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(KliegError, match=words) as caught:
        checkpoint.read_config(tmp_path)
    assert "config.json" in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_that_is_no_model(tmp_path) -> None:
    with pytest.raises(KliegError, match=r"config\.json is missing"):
        checkpoint.read_config(tmp_path)
    refused(tmp_path, "model.safetensors is missing")


# ---- writing ----

def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


WRITERS = {"a model": lambda folder, w: checkpoint.save(folder / "a", w, {}, {}),
           "a state": lambda folder, w: checkpoint.save_state(folder, 1, w, {})}


def write_on_a_full_disk(writer: str, folder: Path) -> str:
    """What is said where no file may have more than a megabyte."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
    with pytest.raises(KliegError) as caught:
        WRITERS[writer](folder, {"w": torch.zeros(2_000_000)})
    return str(caught.value)


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_leaves_nothing(tmp_path, writer: str) -> None:
    with ProcessPoolExecutor(1, FORKED) as pool:
        said = pool.submit(write_on_a_full_disk, writer, tmp_path).result(60)
    assert "cannot be written: file too large" in said and "\n" not in said
    assert names(tmp_path) == []


def wait_for(path: Path) -> None:
    """Until it is there, for half a minute at most."""
    for _ in range(3000):
        if path.exists():
            return
        time.sleep(0.01)
    raise AssertionError(f"{path} was never written")


def write_for_ever(folder: Path) -> None:
    for n in range(10**9):
        tensors = {"w": torch.full((200_000,), float(n))}
        checkpoint.save(folder / "model", tensors, {"n": n}, {"n.txt": str(n)})
        checkpoint.save_state(folder, n, tensors, {"n": n})


def test_kill_at_any_moment_leaves_a_whole_model_and_a_whole_state(tmp_path) -> None:
    for delay in (0.0, 0.051, 0.11, 0.173):
        folder = tmp_path / str(delay)  # of its own: what an earlier process left would pass for this one's
        folder.mkdir()
        process = FORKED.Process(target=write_for_ever, args=(folder,), daemon=True)
        process.start()
        wait_for(folder / "model")
        time.sleep(delay)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        n = checkpoint.read_config(folder / "model")["n"]
        weights = checkpoint.read_tensors(folder / "model", {"w": (200_000,)})["w"]
        assert names(folder / "model") == ["config.json", "model.safetensors", "n.txt"]
        assert bool((weights == n).all()) and (folder / "model" / "n.txt").read_text() == str(n)
        found = checkpoint.load_state(folder)
        if found is not None:
            assert bool((found[0]["w"] == found[1]["n"]).all())
            assert found[1]["n"] in (n, n - 1)


def test_save_writes_what_transformers_expects(tmp_path) -> None:
    folder = tmp_path / "new" / "model"
    checkpoint.save(folder, some(), {"model_type": "llama", "name": "灯"}, {"card.md": "# 灯\n", "b": b"\xff"})
    assert names(folder) == ["b", "card.md", "config.json", "model.safetensors"]
    assert checkpoint.read_config(folder) == {"model_type": "llama", "name": "灯"}
    assert all(torch.equal(v, some()[k]) for k, v in checkpoint.read_tensors(folder, SHAPES).items())
    checkpoint.save(folder, some(), {}, {"card.md": "", "b": b""})
    with pytest.raises(KliegError, match="which would be lost"):
        checkpoint.save(folder, some(), {}, {})
    assert (folder / "card.md").exists()


# ---- training states ----

def state(step: int) -> dict[str, torch.Tensor]:
    return {"model.w": torch.full((3, 2), float(step)), "optimizer.0.step": torch.tensor(float(step)),
            "rng": torch.get_rng_state(), "half": torch.ones(3, dtype=torch.bfloat16).t(), "none": torch.empty(0),
            "turned": torch.arange(6.).view(2, 3).t()}


def test_a_state_comes_back_bit_for_bit(tmp_path) -> None:
    assert checkpoint.load_state(tmp_path) is None
    facts = {"curve": [{"loss": 0.1 + 0.2, "validation": None}], "name": "灯"}
    saved = state(7)
    checkpoint.save_state(tmp_path, 7, saved, facts)
    tensors, read = checkpoint.load_state(tmp_path)
    assert read == facts and tensors.keys() == saved.keys()
    for name, value in saved.items():
        assert tensors[name].dtype == value.dtype and torch.equal(tensors[name], value)
    torch.set_rng_state(tensors["rng"])


def test_the_last_two_are_kept_and_abandoned_branches_go(tmp_path) -> None:
    for step in (5, 10, 100, 20):
        checkpoint.save_state(tmp_path, step, state(step), {"step": step})
    assert names(tmp_path) == ["state-00000010.safetensors", "state-00000020.safetensors"]
    assert checkpoint.load_state(tmp_path)[1] == {"step": 20}


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "cut":
        data = data[:-5]
    elif how == "one bit":
        data[-3] ^= 1
    elif how == "other facts":
        data = data.replace(b'\\"step\\": 2', b'\\"step\\": 3')
    elif how == "empty":
        data = b""
    assert data != path.read_bytes()
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["cut", "one bit", "other facts", "empty"])
def test_a_damaged_state_is_passed_over_aloud(tmp_path, how: str) -> None:
    for step in (1, 2):
        checkpoint.save_state(tmp_path, step, state(step), {"step": step})
    damage(tmp_path / "state-00000002.safetensors", how)
    said: list[str] = []
    tensors, facts = checkpoint.load_state(tmp_path, said.append)
    assert facts == {"step": 1} and bool((tensors["model.w"] == 1).all())
    assert len(said) == 1 and "state-00000002.safetensors is damaged" in said[0]
    with pytest.warns(UserWarning, match="damaged"):
        checkpoint.load_state(tmp_path)
    damage(tmp_path / "state-00000001.safetensors", "cut")
    with pytest.raises(KliegError, match="all 2 saved states are damaged"):
        checkpoint.load_state(tmp_path, said.append)


def test_a_stray_file_is_no_state(tmp_path) -> None:
    (tmp_path / "state-last.safetensors").write_text("x")
    save_file({"w": torch.ones(1)}, tmp_path / "state-00000001.safetensors")
    with pytest.raises(KliegError, match="all 1 saved states are damaged"):
        checkpoint.load_state(tmp_path, lambda line: None)


def test_weights_may_be_read_by_whoever_may_read_the_config(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "m", {"w": torch.ones(2, 2)}, {}, {})
    assert (tmp_path / "m/model.safetensors").stat().st_mode == (tmp_path / "m/config.json").stat().st_mode
