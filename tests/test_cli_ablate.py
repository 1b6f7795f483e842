"""klieg ablate: what it writes and shows, how it goes on, and one line for every mistake."""

from __future__ import annotations

import csv
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from test_cli import here, refused, run, tiny  # noqa: F401
from test_cli_atlas import corpus  # noqa: F401

from klieg.analysis.ablation import Ablation


def test_an_ablation_is_written_and_shown(corpus: Path, tiny: Path) -> None:  # noqa: F811
    ran = run("ablate", tiny, corpus, "-o", "out", "--tokens", "200")
    assert ran.status == 0, ran.err
    assert sorted(path.name for path in Path("out").iterdir()) == ["ablation.csv", "ablation.safetensors", "ablation.svg"]
    found = Ablation.load("out/ablation.safetensors")
    effects = found.effects()
    assert "; the corpus goes on" in ran.err and f"as it is: {found.loss:.4f} nats" in ran.text
    shown = re.findall(r"^(\d)\.(\d) +([+-]\d\.\d{4}) +([+-]\d\.\d{4}) … ", ran.text, re.MULTILINE)
    assert [(int(layer), int(head), change) for layer, head, change, _ in shown] == [
        (effect.layer, effect.head, f"{effect.change:+.4f}") for effect in effects]
    lines = list(csv.DictReader(Path("out/ablation.csv").read_text("utf-8").splitlines()))
    assert [float(line["change"]) for line in lines] == [effect.change for effect in effects]
    assert {line["whole"] for line in lines} == {"False"}
    svg = Path("out/ablation.svg").read_text("utf-8")
    assert ElementTree.fromstring(svg).tag.endswith("svg") and "thousandths of a nat" in svg and "partial" in svg


@pytest.mark.parametrize("of, count, name", [("groups", 6, "键值组"), ("layers", 3, "层")])
def test_groups_and_layers_in_chinese(of: str, count: int, name: str, corpus: Path, tiny: Path) -> None:  # noqa: F811
    ran = run("ablate", tiny, corpus, "-o", "out", "--of", of, "--lang", "zh", "--tokens", "100", "--parquet")
    assert ran.status == 0, ran.err
    assert name in ran.text and "奈特" in ran.text and "语料还没有读完" in ran.err
    assert name in Path("out/ablation.svg").read_text("utf-8")
    assert len(Ablation.load("out/ablation.safetensors").effects()) == count and Path("out/ablation.parquet").stat().st_size


def test_it_goes_on_and_mistakes_are_one_line(corpus: Path, tiny: Path) -> None:  # noqa: F811
    assert run("ablate", tiny, corpus, "-o", "out", "--of", "layers", "--tokens", "100").status == 0
    assert "going on after 1" in run("ablate", tiny, corpus, "-o", "out", "--of", "layers", "--tokens", "300").err
    assert "nothing is left to read" in run("ablate", tiny, corpus, "-o", "out", "--of", "layers", "--tokens", "300").err
    refused(run("ablate", tiny, corpus, "-o", "out"), "an ablation of another unit")
    refused(run("ablate", tiny, corpus, "-o", "out", "--of", "head"), "must be one of heads, groups, layers")
    refused(run("ablate", "translate", corpus, "-o", "new"), "is a translator")
    refused(run("ablate", tiny, "none.txt", "-o", "new"), "no corpus")
    refused(run("atlas", tiny, corpus, "-o", "out/ablation.safetensors"), "ablation.safetensors")
    assert not Path("new").exists()
