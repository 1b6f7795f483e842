"""The gallery of labs is what the labs find, in both languages; of what the clock gave only that it is there."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from klieg.labs import NAMES, find

ROOT = Path(__file__).parents[1]
QUICK = ("softmax", "ages")      # these take no time
JUDGED = (Path(os.environ.get("KLIEG_DATA", "no such folder")) / "eval/wordsim").is_dir()


def _module(name: str) -> ModuleType:
    """A script of docs/."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"docs/{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


gallery, refresh = _module("gallery"), _module("refresh")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_lab_is_there_with_its_charts(language: str) -> None:
    text = gallery.FILES[language].read_text("utf-8")
    known = gallery.sections(text)
    assert list(known) == list(NAMES) and text == gallery.document(known, language), "run docs/gallery.py"
    shown = re.findall(r"\]\((labs/.+?\.svg)\)", text)
    suffix = ".zh.svg" if language == "zh" else ".svg"
    there = {f"labs/{path.name}" for path in (ROOT / "docs/labs").iterdir() if (".zh." in path.name) == (".zh." in suffix)}
    assert len(shown) == len(set(shown)) and set(shown) == there
    for name, section in known.items():
        lab, tongue = find(name), language == "zh"
        assert all(said in section for said in (lab.title[tongue], lab.claim[tongue], lab.source, f"klieg lab {name}\n"))
        assert f"](labs/{name}-1{suffix})" in section


def test_charts_are_small() -> None:
    assert all(path.stat().st_size < 40_000 for path in (ROOT / "docs/labs").iterdir())


@pytest.mark.parametrize("name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NAMES])
def test_what_is_written_is_what_is_found(name: str) -> None:
    if name == "embeddings" and not JUDGED:
        pytest.skip("KLIEG_DATA has no eval/wordsim, and the gallery was made with it")
    found = find(name).run()
    measured = bool(found.measured)
    for language, path in gallery.FILES.items():
        then, now = gallery.sections(path.read_text("utf-8"))[name], gallery.section(name, find(name), found, language)
        if measured:
            assert set(re.findall(r"^\| (.+?) \|", then, re.MULTILINE)) == set(re.findall(r"^\| (.+?) \|", now, re.MULTILINE))
            then, now = gallery.steady(then), gallery.steady(now)
        assert refresh.same(then, now), f"{path.name} is out of date: run docs/gallery.py {name}\n{now}"
        for n, (file, drawn) in enumerate(gallery.charts(name, found, language).items()):
            assert gallery.timed(found, n) or refresh.same(file.read_text("utf-8"), drawn), f"{file} is out of date"


def test_what_the_clock_changes_is_left_out_and_nothing_else() -> None:
    text = ("## A\n\n**It took\n3 s.**\n\n<details><summary>Numbers</summary>\n\n| a | 1 |\n\n</details>\n\n"
            "<details><summary>Measured on X, threads: 2; differs</summary>\n\n| b | 2 |\n\n</details>\n\nSource: c\n")
    left = gallery.steady(text)
    assert all(kept in left for kept in ("## A", "| a | 1 |", "Source: c")) and "| b |" not in left and "3 s" not in left
