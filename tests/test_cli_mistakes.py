"""Mistakes at the command line, in what is asked for, in models, texts and files: one clear line, and nothing half written."""
# Fixtures of another file are imported, and then named by the tests.
# ruff: noqa: F811

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import shutil
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_cli import CHINESE, COMMANDS, Ran, Terminal, here, refused, run, tiny  # noqa: F401
from test_train import write_recipe

from klieg import cli, shell
from klieg.errors import KliegError

# ---- mistakes in what is asked for ----

@pytest.mark.parametrize("argv,said", [
    (["explain", ""], "empty; give at least one word"),
    (["explain", "  \t "], "only white space"),
    (["explain", "caf\udce9"], r"not valid Unicode.*character 3"),
    (["generate", ""], "empty"), (["generate", " "], "white space"), (["generate", "caf\udce9"], "Unicode"),
    (["explain", "hi", "--model", "chta"], "Did you mean 'chat'"),
    (["explain", "hi", "--model", "zzzzz"], "Known: .*chat"),
    (["explain", "hi", "--model", ""], "no model ''"),
    (["explain", "hi", "--model", "x" * 5000], "no model 'xx"),
    (["generate", "hi", "--model", "chta"], "chat"), (["chat", "--model", "chta"], "chat"),
    (["serve", "--model", "chta", "--no-browser"], "chat"),
    (["explain", "hi", "--layer", "3"], "no layer 3.*0 to 2"), (["explain", "hi", "--layer", "-1"], "no layer -1"),
    (["explain", "hi", "--layer", "9" * 30], "no layer 999"),
    (["explain", "hi", "--head", "6"], "no head 6.*0 to 5"), (["explain", "hi", "--token", "99"], "no token 99.*0 to"),
    (["explain", "hi", "--token", "-1"], "no token -1"),
    (["explain", "hi", "--html", "x.html", "--layer", "9"], "no layer 9"),
    (["explain", "hi", "--cell", "0.0.0.0", "--head", "9"], "no head 9"),
    (["explain", "hi", "--cell", "1.2.3"], "LAYER.HEAD.QUERY.KEY"), (["explain", "hi", "--cell", "1.2.3.x"], "whole numbers"),
    (["explain", "hi", "--cell", ""], "whole numbers"), (["explain", "hi", "--cell", "0.0.0.²"], "whole numbers"),
    (["explain", "hi", "--cell", "0.0.0.-1"], "whole numbers"), (["explain", "hi", "--cell", "0.0.0." + "9" * 5000], "whole"),
    (["explain", "hi", "--cell", "9.0.0.0"], "no layer 9"), (["explain", "hi", "--cell", "0.9.0.0"], "no head 9"),
    (["explain", "hi", "--cell", "0.0.99.0"], "no token 99"), (["explain", "hi", "--cell", "0.0.0.99"], "no token 99"),
    (["explain", "hi", "--json", "x.json", "--cell", "9.0.0.0"], "no layer 9"),
    (["explain", "hi", "--scale", "logg"], "linear, log, no-first"), (["explain", "hi", "--lang", "de"], "en, zh"),
    (["chat", "--lang", "de"], "en, zh"), (["serve", "--lang", "de", "--no-browser"], "en, zh"),
    (["explain", "hi", "--json", "-", "--svg", "-"], "--json - and --svg -.*name files"),
    (["explain", "hi", "--json", "-", "--cell", "0.0.0.0"], "--json - and --cell"),
    (["explain", "hi", "--save", "-"], "--save writes a file"),
    (["generate", "hi", "--temperature", "-1"], "temperature is -1"), (["generate", "hi", "--temperature", "nan"], "nan"),
    (["generate", "hi", "--temperature", "1e-40"], "at least"), (["generate", "hi", "--top-p", "0"], "top-p"),
    (["generate", "hi", "--top-p", "nan"], "top-p"), (["generate", "hi", "--top-k", "-1"], "top-k"),
    (["generate", "hi", "--seed", "-1"], "seed"), (["generate", "hi", "--seed", "9" * 30], "seed"),
    (["chat", "--temperature", "-1"], "temperature"),
    (["generate", "a b c " * 40], r"tokens and the model has positions for 64 tokens; shorten it"),
    (["explain", "a b c " * 40], r"[\d,]+ tokens and the model has positions for 64 tokens.*--cut"),
    (["serve", "--port", "99999", "--no-browser"], r"port 99999 is not between 0 and 65535; name another one\.$"),
    (["serve", "--host", "192.0.2.1", "--port", "0", "--no-browser"], "no address of this machine"),
    (["train", "missing.toml"], "no recipe 'missing.toml'"), (["train", "."], "no recipe"),
], ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else "")
def test_a_mistake_is_one_line(argv: list[str], said: str, tiny: Path, here: Path) -> None:
    if argv[0] in ("explain", "generate", "chat", "serve") and "--model" not in argv:
        argv = [*argv, "--model", str(tiny)]
    refused(run(*argv), said)
    assert not list(here.iterdir())


@pytest.mark.parametrize("argv,said", [
    (["explian", "hi"], "Did you mean 'explain'.*See klieg --help"), (["explain"], "missing argument.*explain --help"),
    (["explain", "I", "love", "you"], "stands in quotes"),
    (["chat", "hello"], "nothing but options"), (["explain", "hi", "--layr", "3"], "--layr.*--layer"),
    (["explain", "hi", "--layer", "two"], "'--layer'"), (["explain", "hi", "--layer"], "--layer"), (["--nope"], "--nope"),
    (["generate", "hi", "--tokens", "0"], "'--tokens'"), (["generate", "hi", "--temperature", "warm"], "'--temperature'"),
    (["serve", "--port", "http"], "'--port'"), (["train"], "missing argument"), (["train", "a", "--threads", "0"], "--threads"),
    (["explain", "hi", "--\x1b[2J"], r"\[2J"),
], ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "")
def test_a_misspelt_command_is_one_line_with_status_2(argv: list[str], said: str, here: Path) -> None:
    refused(run(*argv), said, status=2)
    assert not list(here.iterdir())


def test_a_message_holds_nothing_that_a_terminal_obeys(tiny: Path) -> None:
    refused(run("explain", "hi", "--model", "\x1b[2J\na\x07\u202e"), "no model")
    refused(run("explain", "hi", "--model", str(tiny), "--svg", "no\x1b[2J\nfolder/x.svg"), r"no\ufffd\[2J\ufffdfolder")
    shown = run("generate", "a\x1b[2Jb", "--model", str(tiny), "--tokens", "60", terminal=True)
    assert shown.status == 0 and "\x1b" not in shown.text and "a\ufffd[2Jb" in shown.text


# ---- mistakes in the model ----

def config(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}), "utf-8")
    return change


def weights(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(change(path.read_bytes()))
    return write


def header(body: dict) -> bytes:
    text = json.dumps(body).encode()
    return struct.pack("<Q", len(text)) + text


def nan(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, folder / "model.safetensors")


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


TERABYTES = {"model.norm.weight": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "weights cut in half": (weights(lambda b: b[:len(b) // 2]), "model.safetensors is damaged or cut short"),
    "weights of three bytes": (weights(lambda b: b[:3]), "damaged or cut short"),
    "no bytes": (weights(lambda b: b""), "damaged or cut short"),
    "noise in the header": (weights(lambda b: b[:20] + b"\xff" * 50 + b[70:]), "damaged"),
    "a header of terabytes": (weights(lambda b: struct.pack("<Q", 2**42) + b[8:]), "damaged"),
    "tensors of terabytes": (weights(lambda b: header(TERABYTES)), "damaged or cut short"),
    "NaN weights": (nan, "model.norm.weight holds NaN"),
    "pickled weights": (pickled, "pickle"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing; put it there"),
    "weights of another width": (config(hidden_size=96), "config.json asks for.*take the config.json that came with them"),
    "one layer too many": (config(num_hidden_layers=4), "layers.3.*is missing"),
    "one layer too few": (config(num_hidden_layers=2), "layers.2.*is not expected"),
    "a config of petabytes": (config(vocab_size=2**24, hidden_size=2**24), "memory|another config"),
    "a million layers": (config(num_hidden_layers=10**6), "layers"),
    "groups that do not divide": (config(num_key_value_heads=4), "cannot share 4"),
    "a name for a number": (config(rms_norm_eps="small"), "rms_norm_eps is 'small'.*positive number"),
    "a negative theta": (config(rope_parameters={"rope_theta": -5}), "rope_theta is -5"),
    "a word for a truth": (config(tie_word_embeddings="yes"), "tie_word_embeddings.*true or false"),
    "scaling without factor": (config(rope_parameters={"rope_type": "linear"}), "factor of the rotary scaling is None"),
    "scaling of another kind": (config(rope_parameters={"rope_type": ["yarn"]}), r"config.json: rotary scaling \['yarn'\]"),
    "scaling that is no object": (config(rope_parameters="long"), "must be an object"),
    "another architecture": (config(model_type="mamba"), "model_type is 'mamba'; Klieg opens bert, gpt2"),
    "an architecture that is no name": (config(model_type=["llama"]), r"\['llama'\]"),
    "config.json cut short": (lambda f: (f / "config.json").write_text('{"a": '), "config.json is damaged"),
    "config.json of lists": (lambda f: (f / "config.json").write_text("[" * 100_000), "config.json is damaged"),
    "no config": (lambda f: (f / "config.json").unlink(), "is no model: config.json is missing"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json is not there"),
    "a damaged tokenizer": (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer.json is damaged"),
    "a tokenizer of noise": (lambda f: (f / "tokenizer.json").write_bytes(b"\xff\xfe"), "tokenizer.json is damaged"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_model_is_one_line(name: str, tiny: Path, here: Path, tmp_path: Path) -> None:
    damage, said = DAMAGES[name]
    shutil.copytree(tiny, tmp_path / "model")
    damage(tmp_path / "model")
    refused(run("explain", "hi", "--json", "out.json", "--model", tmp_path / "model"), said)
    assert not list(here.iterdir())


def test_the_network_is_used_for_a_hub_model_and_for_nothing_else(tiny: Path, here: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, steps=1, validate_every=1)
    with (patch("socket.getaddrinfo", side_effect=socket.gaierror(-2, "no network here")) as asked,
          patch("socket.socket.connect", side_effect=OSError("no network here")) as connected):
        for argv in (["explain", "I love you"], ["generate", "I", "--tokens", "2"], ["models"],
                     ["explain", "hi", "--model", str(tiny), "--html", "x.html"], ["train", str(recipe), "--out", "run"]):
            assert run(*argv).status == 0
        assert run("chat", said="hi\n").status == 0
        assert not asked.called and not connected.called
        refused(run("explain", "hi", "--model", "klieg-tests/not-there"), "could not fetch 'klieg-tests/not-there'.*Hugging")
        assert asked.called or connected.called


# ---- mistakes in the text and in files ----

def test_ten_megabytes_of_text(tiny: Path) -> None:
    text = "word " * 2_000_000
    refused(run("explain", "-", "--model", tiny, said=text), "10,000,000 characters and the model has positions for 64.*--cut")
    refused(run("generate", "-", "--model", tiny, said=text), "positions for 64")
    refused(run("chat", "--model", tiny, said=text), "positions for")
    cut = run("explain", "-", "--cut", "--json", "-", "--model", tiny, said=text)
    assert cut.status == 0 and len(json.loads(cut.out)["tokens"]) == 64


def test_standard_input_must_be_text(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(run("explain", "-", "--model", tiny, said=b"caf\xe9"), "not UTF-8 at byte 3")
    refused(run("explain", "-", "--model", tiny, said=b"\n"), "empty")
    refused(run("chat", "--model", tiny, said=b"caf\xe9\n"), "what was written is not UTF-8; convert it first")
    assert "not UTF-8; set the terminal to UTF-8" in run("chat", "--model", tiny, said=b"caf\xe9\n", terminal=True).err
    monkeypatch.setattr(shell, "MOST_TEXT", 10)
    refused(run("generate", "-", "--model", tiny, said=b"12345678901"), "more than 10 bytes")
    assert run("explain", "-", "--json", "-", "--model", tiny, said="Grüße\n").text.count('"text": "Grüße"') == 1


@pytest.mark.parametrize("path,said", [
    ("missing/x", "make its folder first"), (".", "it is a folder; name a file"), ("x" * 300, "name too long"),
    ("/dev/null/x", "not a directory"), ("/dev/null", "it is a device"),
    pytest.param("/sys/x", "permission denied|read-only", marks=pytest.mark.skipif(sys.platform != "linux", reason="no /sys")),
])
@pytest.mark.parametrize("option", ["--json", "--svg", "--png", "--html", "--save"])
def test_a_path_that_cannot_be_written_is_one_line(option: str, path: str, said: str, tiny: Path, here: Path) -> None:
    refused(run("explain", "hi", "--model", tiny, option, path), f"cannot be written: .*{said}")
    assert not list(here.iterdir())


def test_a_picture_that_cannot_be_made_leaves_no_file_behind(tiny: Path, here: Path) -> None:
    with patch("klieg.views.png.lower", side_effect=KliegError("this machine has no font.")):
        refused(run("explain", "hi", "--model", tiny, "--json", "x.json", "--png", "x.png"), "no font")
    assert not list(here.iterdir())


class Full(io.RawIOBase):
    """A disk without room, until room is made."""

    room = False

    def writable(self) -> bool:
        return True

    def write(self, body: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return len(body)


@pytest.mark.parametrize("argv", [["explain", "hi"], ["explain", "hi", "--json", "-"], ["generate", "hi", "--tokens", "3"],
                                  ["models"], ["--help"]], ids=" ".join)
def test_a_full_standard_output_is_one_line(argv: list[str], tiny: Path) -> None:
    disk, err = Full(), io.StringIO()
    full = io.TextIOWrapper(io.BufferedWriter(disk), "utf-8")
    model = ["--model", str(tiny)] if "hi" in argv else []
    with (patch.object(sys, "argv", ["klieg", *argv, *model]), patch.object(sys, "stdout", full),
          contextlib.redirect_stderr(err), pytest.raises(SystemExit) as end):
        cli.main()
    disk.room = True
    full.close()
    assert end.value.code == 1
    assert err.getvalue() == "klieg: standard output failed: no space left on device.\n"


def test_closed_streams(tiny: Path) -> None:
    err = io.StringIO()
    with (patch.object(sys, "argv", ["klieg", "models"]), patch.object(sys, "stdout", None),
          contextlib.redirect_stderr(err), pytest.raises(SystemExit) as end):
        cli.main()
    assert end.value.code == 1 and re.fullmatch("klieg: standard output is closed.*\n", err.getvalue())
    with (patch.object(sys, "argv", ["klieg", "chat", "--model", str(tiny)]), patch.object(sys, "stdin", None),
          contextlib.redirect_stdout(io.StringIO()) as out):
        cli.main()
        sys.stdin.close()
    assert out.getvalue() == ""


@pytest.mark.parametrize("change,said", [
    (("steps = 12", "steps = 12\nlearning_rate = nan"), "learning_rate is nan"),
    (("steps = 12", "steps = 12\nseed = " + "9" * 30), "seed is 999"),
    (("steps = 12", "steps = " + "9" * 5000), "not valid TOML"),
    (("steps = 12", "steps = 12\nbeta1 = 2.0"), "beta1 is 2.0"),
    (("pieces = 280", "pieces = " + "9" * 30), "260"), (("pieces = 280", "pieces = 280.5"), "280.5"),
    (("context = 32", "context = 64"), "context is 64 and the model has 32 positions"),
    (("[train]", "[other]\n[train]"), "'other' is not known"), (("[model]", "model = 3\n[tokenizer.model]"), "[model]"),
    (("text.txt", "texts.txt"), "no corpus or file"), (("hidden_size = 16", "hidden_sizes = 16"), "hidden_size"),
    (("steps = 12", "step = 12"), "Did you mean 'steps'"),
], ids=lambda value: value[1][:24] if isinstance(value, tuple) else "")
def test_a_mistake_in_a_recipe_is_one_line_before_anything_is_made(change: tuple[str, str], said: str, here: Path,
                                                                   tmp_path: Path) -> None:
    path = write_recipe(tmp_path)
    assert change[0] in path.read_text("utf-8")
    path.write_text(path.read_text("utf-8").replace(*change), "utf-8")
    refused(run("train", path, "--out", "run"), said)
    assert not list(here.iterdir())


def test_training_where_it_cannot_be_is_one_line(here: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, steps=1)
    refused(run("train", recipe, "--out", recipe), "cannot be made.*--out")
    refused(run("train", recipe, "--out", "/dev/null/run"), "cannot be made.*--out")
    corpora = Path(__file__).parents[1] / "recipes/chat.toml"
    refused(run("train", corpora, "--out", "run"), "no folder of texts.*--data")
    refused(run("train", corpora, "--out", "run", "--data", "missing"), "'missing' is not there")
    assert not list(here.iterdir())


def test_a_port_in_use_is_one_line(tiny: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        refused(run("serve", "--model", tiny, "--no-browser", "--port", str(port)), f"port {port} is in use; .*--port")
