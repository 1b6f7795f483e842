"""An export to any target: the how-to runs as it stands, what is there is left alone, and nothing is half written."""

from __future__ import annotations

import json
import re
import resource
import runpy
from pathlib import Path

import pytest
from exported import LONGEST, TEXTS

from klieg.errors import KliegError
from klieg.export import TARGETS, export
from klieg.tokenizers import Tokenizer


def test_the_how_to_runs_as_it_stands(translator, translations, decoders, tmp_path, monkeypatch, capsys) -> None:
    docs = Path(__file__).parents[2] / "docs"
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
