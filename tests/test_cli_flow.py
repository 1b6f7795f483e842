"""klieg flow: what it shows and writes, and one line for every mistake."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from test_cli import here, refused, run, tiny  # noqa: F401

from klieg.analysis.flow import flow
from klieg.views.flow import flow as drawn
from klieg.views.glyphs import width
from klieg.views.palette import DARK
from klieg.views.picture import TERMINAL
from klieg.views.text import lower

TEXT = "I love you and the cat"


def test_a_line_for_every_token_and_a_column_for_every_way(tiny: Path) -> None:  # noqa: F811
    ran = run("flow", TEXT, "--model", tiny, COLUMNS="100")
    assert ran.status == 0, ran.err
    found = flow(str(tiny), TEXT)
    lines = ran.text.splitlines()
    assert f"what reaches {found.trace.tokens[-1]} through all layers" in lines[0]
    names, more = lines[2].split(), lines[3].split()
    assert names == ["hiding", "raw", "rollout", "rollout", "max-flow", "value", "value"]
    assert more == ["bits", "corrected", "corrected"]
    rows = lines[4:4 + found.token]
    for n, line in enumerate(rows):
        numbers = [float(x) for x in line.split()[-7:]]
        for shown, exact in zip(numbers, [found.effects[n], *(way.shares[n] for way in found.ways)], strict=True):
            assert abs(shown - exact) <= 5.1e-4 or abs(shown / exact - 1) < 0.6
    agreement = [float(x) for x in re.findall(r"[+-]\d\.\d\d", lines[4 + found.token])]
    assert agreement == [round(way.correlation, 2) for way in found.ways]


@pytest.mark.parametrize(("language", "names"), [
    ("en", "hiding raw rollout rollout max-flow value value"), ("zh", "遮去 原始 rollout rollout 最大流 按值 按值")])
def test_eighty_columns_hold_all_ways_side_by_side(tiny: Path, language: str, names: str) -> None:  # noqa: F811
    found = flow(str(tiny), TEXT)
    found.trace.tokens[1] = "Donaudampfschifffahrt"
    lines = [line.plain for line in lower(drawn(found, DARK, medium=TERMINAL, room=80, language=language))]
    assert max(map(width, lines)) <= 80
    assert [line.split() for line in lines[2:] if names.split()[0] in line] == [names.split()]
    assert lines[5].split()[1:] == [f"{x:.3f}" for x in (found.effects[1], *(way.shares[1] for way in found.ways))]


def test_a_narrow_terminal_in_chinese_and_without_the_first_token(tiny: Path) -> None:  # noqa: F811
    ran = run("flow", TEXT, "--without-first", "--token", "4", "--model", tiny, "--lang", "zh", COLUMNS="60")
    assert ran.status == 0, ran.err
    assert all(word in ran.text for word in ("经过所有层之后", "首词", "遮去", "比特", "最大流", "已校正", "秩相关"))
    assert max(map(width, ran.text.splitlines())) <= 60
    assert ran.text.count("遮去 ") >= 2       # it stands beside the ways of every band


def test_a_long_text_shows_the_tokens_whose_hiding_does_most(tiny: Path) -> None:  # noqa: F811
    text = "I love you and the cat loves the moon. " * 5
    ran = run("flow", text, "--model", tiny)
    assert ran.status == 0, ran.err
    found = flow(str(tiny), text)
    assert found.token > 40 and f"the 40 of {found.token} tokens whose hiding does most" in ran.text


def test_files(tiny: Path, here: Path) -> None:  # noqa: F811
    ran = run("flow", TEXT, "--model", tiny, "--json", "f.json", "--svg", "f.svg", "--png", "f.png")
    assert ran.status == 0 and ran.text == "" and ran.err.splitlines()[-3:] == ["wrote f.json", "wrote f.svg", "wrote f.png"]
    found = flow(str(tiny), TEXT)
    assert json.loads(Path("f.json").read_text("utf-8")) == found.as_json() | {"model": str(tiny)}
    svg = Path("f.svg").read_text("utf-8")
    assert ElementTree.fromstring(svg).tag.endswith("svg") and "corrected" in svg
    for way in found.ways:
        assert f": {way.shares[1]:.6g}" in svg
    assert Path("f.png").read_bytes().startswith(b"\x89PNG")


def test_mistakes(tiny: Path) -> None:  # noqa: F811
    refused(run("flow", TEXT, "--model", tiny, "--json", "-", "--svg", "-"), "--json - and --svg - would run together")
    refused(run("flow", TEXT, "--model", tiny, "--token", "0"), "nothing flows to token 0 but itself")
    refused(run("flow", TEXT, "--model", tiny, "--token", "99"), "there is no token 99")
    refused(run("flow", "", "--model", tiny), "the text is empty")
    refused(run("flow", TEXT, "--model", "nowhere"), "nowhere")
