"""The command line: what each command gives, and for every mistake one clear line and nothing half written."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import socket
import struct
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import typer
from safetensors.torch import load_file, save_file
from test_models import LLAMA, lively
from test_train import write_recipe

import klieg
from klieg import cli, models
from klieg.errors import KliegError
from klieg.tokenizers import train

CHINESE = "小沈阳江西演唱会邀请了，"
COMMANDS = ("explain", "generate", "chat", "train", "models", "serve")


class Terminal(io.TextIOWrapper):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@dataclass(frozen=True)
class Ran:
    """What a command left: its status, standard output, standard error."""

    status: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode("utf-8")


def run(*argv: str, said: str | bytes = b"", terminal: bool = False, **environment: str) -> Ran:
    """The command line in this process; whatever is not shown to a user as one line is raised."""
    kind = Terminal if terminal else io.TextIOWrapper
    said = said.encode() if isinstance(said, str) else said
    stdin, out, err = (kind(io.BytesIO(said if n == 0 else b""), "utf-8", write_through=n > 0) for n in range(3))
    plain = {"COLUMNS": "120", "LC_ALL": "C.UTF-8", "TERM": "xterm-256color", "KLIEG_DATA": ""}
    with (patch.dict(os.environ, {**plain, **environment}), patch.object(sys, "argv", ["klieg", *map(str, argv)]),
          patch.object(sys, "stdin", stdin), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)):
        for name in {"NO_COLOR", "FORCE_COLOR", "COLORTERM"} - set(environment):
            os.environ.pop(name, None)
        try:
            cli.main()
            status = 0
        except SystemExit as end:
            status = end.code
    return Ran(status, out.buffer.getvalue(), err.buffer.getvalue().decode())


def refused(ran: Ran, said: str, status: int = 1) -> None:
    """One line on standard error that says what it should, and nothing on standard output."""
    assert (ran.status, ran.out) == (status, b""), ran
    assert re.fullmatch(r"klieg: [^\n]*\n", ran.err), ran.err
    assert re.search(said, ran.err), ran.err
    assert "Traceback" not in ran.err and ran.err.isprintable() is False and ran.err[:-1].isprintable()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 64 positions with random weights."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    models.save(folder, lively(LLAMA), train(iter(["I love you and the cat loves the moon. 小沈阳"] * 2), 290))
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in which the command runs."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


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
    (["explain", "hi", "--scale", "logg"], "Did you mean 'log'"), (["explain", "hi", "--lang", "de"], "en, zh"),
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
    (["serve", "--port", "99999", "--no-browser"], "port 99999 is not between"),
    (["train", "missing.toml"], "no recipe 'missing.toml'"), (["train", "."], "no recipe"),
], ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else "")
def test_a_mistake_is_one_line(argv: list[str], said: str, tiny: Path, here: Path) -> None:
    if argv[0] in ("explain", "generate", "chat", "serve") and "--model" not in argv:
        argv = [*argv, "--model", str(tiny)]
    refused(run(*argv), said)
    assert not list(here.iterdir())


@pytest.mark.parametrize("argv,said", [
    (["explian", "hi"], "Did you mean 'explain'.*See klieg --help"), (["explain"], "missing argument.*See klieg explain --help"),
    (["explain", "I", "love", "you"], "stands in quotes"), (["explain", "hi", "--layr", "3"], "--layr.*--layer"),
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
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
    "weights of another width": (config(hidden_size=96), "config.json asks for.*another config"),
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
    "another architecture": (config(model_type="bert"), "model_type is 'bert'; Klieg opens gpt2 and llama"),
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
        refused(run("explain", "hi", "--model", "klieg-tests/not-there"), "could not fetch 'klieg-tests/not-there'.*Hugging Face")
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
    monkeypatch.setattr(cli, "MOST_TEXT", 10)
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


@pytest.mark.parametrize("argv", [["explain", "hi"], ["explain", "hi", "--json", "-"], ["generate", "hi"], ["models"], ["--help"]],
                         ids=" ".join)
def test_a_full_standard_output_is_one_line(argv: list[str], tiny: Path) -> None:
    with Path("/dev/full").open("w") as full, patch.object(cli.contextlib if hasattr(cli, "contextlib") else contextlib,
                                                           "redirect_stdout", lambda _: contextlib.nullcontext()):
        pass
