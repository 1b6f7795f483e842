"""klieg sparse: what it shows and writes, and one line for every mistake."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from test_cli import here, refused, run, tiny  # noqa: F401

import klieg
from klieg.analysis.sparsity import USUAL, sparsity
from klieg.patterns import Pattern

TEXT = "I love you and the cat"
PATTERNS = ["window:3", "strided:2+global:1", "top:2"]
ASKED = [word for pattern in PATTERNS for word in ("--pattern", pattern)]


def text(ran) -> str:
    """What was printed, its no-break spaces plain ones."""
    return ran.text.replace("\N{NO-BREAK SPACE}", " ")


def test_a_line_for_every_pattern(tiny: Path) -> None:  # noqa: F811
    ran = run("sparse", TEXT, *ASKED, "--model", tiny, COLUMNS="200")
    assert ran.status == 0, ran.err
    trace, found = sparsity(str(tiny), TEXT, [Pattern.read(each) for each in PATTERNS])
    lines = text(ran).splitlines()
    assert re.split(r"\s{2,}", lines[0].strip()) == ["pattern", "kept", "lost", "worst head", "bits", "mean", "next"]
    assert lines[1].startswith("dense ") and "100.00 %" in lines[1]
    assert f"{100 * trace.next_tokens(1)[0].p:.1f} %" in lines[1]
    for line, each in zip(lines[2:], found, strict=False):
        loss, head = each.worst
        shown = [str(each.pattern), f"{100 * each.share:.2f} %", f"{100 * each.mean:.2f} %", f"{loss.layer}.{head}",
                 f"{100 * loss.mean[head].item():.2f} %", f"{each.applied.divergence:.3f}",
                 f"{each.applied.divergence_mean:.3f}", f"{100 * each.applied.likeliest[0].p:.1f} %"]
        places = [line.find(part) for part in shown]
        assert places == sorted(places) and places[0] == 0, line
    assert "KL(dense ‖ sparse)" in ran.text


def test_one_pattern_shows_every_head_in_both_languages(tiny: Path) -> None:  # noqa: F811
    ran = run("sparse", TEXT, "--pattern", "window:2", "--model", tiny)
    assert ran.status == 0, ran.err
    _, (found,) = sparsity(str(tiny), TEXT, [Pattern("window", 2)])
    assert "weight that each head loses under window:2" in ran.text
    for loss in found.losses:
        line = next(line for line in ran.text.splitlines() if re.match(rf"layer {loss.layer}\b", line))
        assert re.findall(r"\d\.\d\d", line) == [f"{x:.2f}" for x in loss.mean.tolist()]
    zh = run("sparse", TEXT, "-p", "window:2", "--model", tiny, "--lang", "zh", COLUMNS="160")
    assert all(word in zh.text for word in ("模式", "保留", "失去", "最差的头", "稠密", "每个头", "第 0 层", "比特"))


def test_files(tiny: Path, here: Path) -> None:  # noqa: F811
    ran = run("sparse", "-", *ASKED, "--model", tiny, "--json", "s.json", "--svg", "s.svg", "--png", "s.png", said=TEXT)
    assert ran.status == 0 and ran.text == "" and ran.err.count("wrote") == 3
    _, found = sparsity(str(tiny), TEXT, [Pattern.read(each) for each in PATTERNS])
    said = json.loads((here / "s.json").read_text("utf-8"))
    assert said["patterns"] == [each.as_json() for each in found] and said["text"] == TEXT and said["model"] == str(tiny)
    words = "".join(ElementTree.fromstring((here / "s.svg").read_text("utf-8")).itertext())
    assert all(f"under {pattern}" in words for pattern in PATTERNS)
    assert (here / "s.png").read_bytes()[:4] == b"\x89PNG"


def test_a_saved_trace_says_what_would_be_lost(tiny: Path, here: Path) -> None:  # noqa: F811
    klieg.trace(str(tiny), TEXT).save("t.klieg")
    ran = run("sparse", "t.klieg", *ASKED)
    assert ran.status == 0, ran.err
    _, found = sparsity(str(tiny), TEXT, [Pattern.read(each) for each in PATTERNS])
    assert "dense" not in ran.text and "no bits" in ran.text
    assert all(f"{100 * each.mean:.2f} %" in text(ran) for each in found)
    said = json.loads(run("sparse", "t.klieg", "-p", "block:4", "--json", "-").out)
    assert said["patterns"][0]["applied"] is None and said["patterns"][0]["pattern"] == "block:4"


@pytest.mark.parametrize("argv,said", [
    ([TEXT, "--pattern", "window"], "must be KIND:SIZE"), ([TEXT, "--pattern", "window:0"], "at least 1"),
    ([TEXT, "--pattern", "windw:3"], "Did you mean 'window'"), ([TEXT, "--pattern", "top:3+global:1"], "no global tokens"),
    ([""], "text"), (["no.klieg"], "no trace 'no.klieg'"), ([TEXT, "--lang", "de"], "en, zh"),
    ([TEXT, "--json", "-", "--svg", "-"], "name files"), ([TEXT, "--model", "chta"], "chat"),
    ([TEXT, "--json", "no/x.json"], "make its folder first"), (["a b c " * 40], r"positions for 64 tokens; shorten it\.$"),
], ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "")
def test_a_mistake_is_one_line(argv: list[str], said: str, tiny: Path, here: Path) -> None:  # noqa: F811
    refused(run("sparse", *argv, *([] if "--model" in argv or "klieg" in argv[0] else ["--model", tiny])), said)
    assert not list(here.iterdir())


def test_the_usual_patterns_and_the_bundled_model() -> None:
    ran = run("sparse", "The cat chased the mouse, and the mouse ran into its")
    assert ran.status == 0, ran.err
    assert all(pattern in ran.text for pattern in USUAL)
