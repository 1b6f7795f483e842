"""`klieg explain` with a translator: encoder, decoder and cross-attention in the terminal, in files, and every mistake."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from test_cli import refused, run
from test_encoders import pretrained
from test_watch import translator

import klieg
from klieg import models

WORDS = ("I love you and the moon", "--to", "de", "--target", "ich liebe dich", "--lang", "en")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    models.save(folder, *translator())
    return folder


@pytest.mark.parametrize(("kind", "place"), [(None, "cross-attention"), ("encoder", "encoder"), ("self", "decoder")])
def test_every_stack_is_shown_with_its_own_weights(tiny: Path, kind: str | None, place: str) -> None:
    found = klieg.trace(str(tiny), "I love you and the moon", to="de", target="ich liebe dich")
    ran = run("explain", *WORDS, "--model", tiny, "--layer", "1", "--head", "2", *(("--kind", kind) if kind else ()),
              COLUMNS="200")
    assert ran.status == 0 and "I love you and the moon  →  ich liebe dich" in ran.text
    assert f"Layer 1 · head 2 · {place}" in ran.text
    call = found[1, kind or "cross"]
    weights = call.weights(2)[call.visible(2, slice(None), slice(None))]
    assert all(f" {weight:.4f} " in ran.text for weight in weights.tolist())


def test_a_cell_is_of_the_kind_that_was_asked_for(tiny: Path) -> None:
    found = klieg.trace(str(tiny), "I love you and the moon", to="de", target="ich liebe dich")
    for kind, asked in (("cross", ()), ("encoder", ("--kind", "encoder")), ("self", ("--kind", "self"))):
        ran = run("explain", *WORDS, "--model", tiny, "--cell", "1.2.3.2", *asked)
        weight = found[1, kind].weights(2)[3, 2].item()
        assert float(re.search(r"with weight ([\d.e-]+)", ran.text)[1]) == pytest.approx(weight, rel=1e-4)
    last = len(found.source.tokens) - 1
    refused(run("explain", *WORDS, "--model", tiny, "--cell", f"0.0.0.{last + 1}"), f"the source has tokens 0 to {last}")


def test_files_are_of_the_kind_that_was_asked_for(tiny: Path, tmp_path: Path) -> None:
    ran = run("explain", *WORDS, "--model", tiny, "--kind", "encoder", "--json", tmp_path / "a.json",
              "--svg", tmp_path / "a.svg", "--save", tmp_path / "a.klieg")
    assert ran.status == 0 and ran.out == b""
    assert json.loads((tmp_path / "a.json").read_text("utf-8"))["open"]["kind"] == "encoder"
    assert "ich liebe dich" in (tmp_path / "a.svg").read_text("utf-8")
    back = klieg.Trace.load(tmp_path / "a.klieg")
    assert back.source.text == "I love you and the moon" and back.kind == "cross"


@pytest.mark.parametrize(("argv", "said"), [
    (["hi"], "this translator writes de, zh; say which, for example --to de"), (["hi", "--to", "fr"], "no language 'fr'"),
    (["hi", "--to", "de", "--target", ""], "the text is empty"),
    (["hi", "--to", "de", "--kind", "own"], "encoder, self, cross"),
    (["hi", "--to", "de", "--target", "du", "--token", "99"], "the target has tokens 0 to "),
    (["hi", "--to", "de", "--target", "du", "--kind", "encoder", "--token", "99"], "the source has tokens 0 to "),
    (["hi " * 60, "--to", "de"], "positions for 46 tokens.*--cut"), (["", "--to", "de"], "the text is empty")])
def test_a_mistake_is_one_line(tiny: Path, argv: list[str], said: str) -> None:
    refused(run("explain", *argv, "--model", tiny), said)


def test_a_model_that_is_no_translator_has_no_target_and_one_kind() -> None:
    for argv, said in ((["--to", "zh"], "'chat' is no translator; leave --target and --to"),
                       (["--target", "x"], "no translator"), (["--kind", "cross"], "no attention of kind 'cross'")):
        refused(run("explain", "hi", *argv), said)
    assert run("explain", "hi", "--kind", "self").out == run("explain", "hi").out


def test_an_encoder_alone_has_maps_and_no_next_token(tmp_path: Path) -> None:
    folder = pretrained()
    ran = run("explain", "The cat sat on the mat", "--model", folder, "--lang", "en", COLUMNS="200")
    assert ran.status == 0 and "Next" not in ran.text and "all 72 heads checked" in ran.text
    ran = run("explain", "The cat sat on the mat", "--model", folder, "--json", tmp_path / "a.json", "--svg",
              tmp_path / "a.svg", "--html", tmp_path / "a.html", "--save", tmp_path / "a.klieg")
    assert ran.status == 0
    said = json.loads((tmp_path / "a.json").read_text("utf-8"))
    assert said["next"] == [] and said["tokens"][1:4] == ["the", "cat", "sat"] and len(said["open"]["weights"]) == 8
    assert "cat" in (tmp_path / "a.svg").read_text("utf-8")
    assert not klieg.Trace.load(tmp_path / "a.klieg").predicts


def test_only_a_decoder_continues_texts(tiny: Path) -> None:
    refused(run("generate", "hi", "--model", tiny), "does not continue texts; it is for klieg translate")
    refused(run("chat", "--model", pretrained()), "does not continue texts; it is for klieg fill")
