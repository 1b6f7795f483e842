"""klieg whatif: what it shows and writes, and one line for every mistake."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from test_cli import here, refused, run, tiny  # noqa: F401

import klieg
from klieg.changes import read
from klieg.views.glyphs import width
from klieg.whatif import rank, whatif

TEXT = "I love you"
EVERY = ["--mute", "1.2", "--mute", "0.g1", "--cut", "2.1.3.1", "--hide-first", "all", "--sharpen", "1.4=2.5",
         "--keep", "2.3=window:2", "--replace", "love=hate"]


def test_before_and_after_stand_side_by_side(tiny: Path) -> None:  # noqa: F811
    ran = run("whatif", TEXT, "--mute", "1.2", "--cut", "2.1.3.1", "--count", "3", "--model", tiny)
    assert ran.status == 0 and ran.err == ""
    found = whatif(str(tiny), TEXT, [read("mute 1.2"), read("cut 2.1.3.1")], count=3)
    assert "mute 1.2 · cut 2.1.3.1" in ran.text and f"divergence {found.divergence:.3f} bits" in ran.text
    assert "✓ exact" in ran.text and "all 18 heads checked" in ran.text
    lines = [line for line in ran.text.splitlines() if re.search(r"\d % .*\d %", line)]
    assert len(lines) == len(found.changes)
    for line, shift in zip(lines, found.changes, strict=True):
        assert f"{100 * shift.before:.2f} %" in line and f"{100 * shift.after:.2f} %" in line
        ranks = f"{shift.rank_before} → {shift.rank_after}" if shift.rank_before != shift.rank_after else str(shift.rank_after)
        assert line.endswith(f"  {ranks}")


def test_every_change_in_both_languages_and_any_width(tiny: Path) -> None:  # noqa: F811
    for columns in ("50", "120"):
        ran = run("whatif", TEXT, *EVERY, "--rank", "--lang", "zh", "--model", tiny, COLUMNS=columns)
        assert ran.status == 0, ran.err
        assert all(word in ran.text for word in ("假如", "之前", "之后", "散度", "精确", "第 2 层", "静音"))
        assert max(map(width, ran.text.splitlines())) <= int(columns) and "已核对全部 18 个头" in ran.text
        assert all(change in ran.text for change in ("mute 0.g1", "hide-first all", "sharpen 1.4=2.5", "keep 2.3=window:2",
                                                  "replace love=hate"))


def test_heads_are_ranked(tiny: Path) -> None:  # noqa: F811
    ran = run("whatif", TEXT, "--rank", "--model", tiny)
    assert ran.status == 0, ran.err
    heads = rank(str(tiny), TEXT)
    listed = re.findall(r"^layer (\d+) +head (\d+) +([\d.e-]+) +([+-][\d.]+)$", ran.text, re.MULTILINE)
    assert [(int(layer), int(head)) for layer, head, *_ in listed] == [(h.layer, h.head) for h in heads[:10]]
    assert [float(change) for *_, change in listed] == [pytest.approx(h.change, abs=6e-4) for h in heads[:10]]
    for layer in range(3):   # and all of them stand in the picture, the last layer on top
        row = next(line for line in ran.text.splitlines() if re.match(rf"layer {layer}  +[\d.]", line))
        told = [h.divergence for h in sorted(heads, key=lambda h: h.head) if h.layer == layer]
        assert [float(figure) for figure in row.split()[2:]] == [pytest.approx(bits, rel=0.06) for bits in told]


def test_json_has_the_numbers(tiny: Path) -> None:  # noqa: F811
    ran = run("whatif", TEXT, *EVERY, "--rank", "--json", "-", "--model", tiny)
    assert ran.status == 0 and ran.err == ""
    said = json.loads(ran.out)
    assert said["made"] == ["mute 1.2", "mute 0.g1", "cut 2.1.3.1", "hide-first all", "sharpen 1.4=2.5", "keep 2.3=window:2",
                            "replace love=hate"]
    found = whatif(str(tiny), TEXT, list(map(read, said["made"])), count=8)
    assert said["divergence"] == found.divergence and len(said["changes"]) == len(found.changes)
    assert said["after"]["text"] == "I hate you" and len(said["ranking"]) == 18 and said["model"] == str(tiny)
    alone = json.loads(run("whatif", TEXT, "--rank", "--json", "-", "--after", "2", "--model", tiny).out)
    assert set(alone) == {"model", "ranking"} and alone["ranking"][0]["divergence"] == rank(str(tiny), TEXT, 2)[0].divergence


def test_pictures_are_written(tiny: Path, here: Path) -> None:  # noqa: F811
    ran = run("whatif", "-", *EVERY, "--svg", "w.svg", "--png", "w.png", "--json", "w.json", "--model", tiny, said=TEXT)
    assert ran.status == 0 and ran.out == b"" and ran.err.count("wrote") == 3
    words = "".join(ElementTree.fromstring((here / "w.svg").read_text("utf-8")).itertext())
    assert "mute 1.2" in words and "divergence" in words and (here / "w.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("argv,said", [
    ([], "nothing is changed; name a change, for example --mute 3.2, or rank"),
    (["--mute", "3"], "mute is given '3'.*LAYER.HEAD"),
    (["--mute", "3.0"], "no layer 3"), (["--mute", "0.9"], "no head 9"), (["--cut", "0.0.4"], "QUERY.KEY"),
    (["--cut", "0.0.0.0"], "would see nothing"), (["--cut", "0.0.1.2"], "does not see"), (["--hide-first", "x"], "hide-first"),
    (["--keep", "all=wide:2"], "no pattern 'wide'"), (["--keep", "0.0"], "LAYER.HEAD=PATTERN"),
    (["--sharpen", "0.0=200"], "not between 0 and 100"), (["--replace", "cat"], "OLD=NEW"),
    (["--replace", "cat=dog"], "no word 'cat'"), (["--mute", "0.0", "--after", "99"], "no token 99"),
    (["--rank", "--after", "-1"], "no token -1"), (["--mute", "0.0", "--to", "zh"], "no translator"),
    (["--mute", "0.0", "--lang", "de"], "en, zh"), (["--rank", "--svg", "x.svg"], "picture of changes"),
    (["--mute", "0.0", "--json", "-", "--svg", "-"], "name files"), (["--mute", "0.0", "--model", "chta"], "chat"),
    (["--mute", "0.0", "--json", "no/x.json"], "make its folder first"),
], ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_a_mistake_is_one_line(argv: list[str], said: str, tiny: Path, here: Path) -> None:  # noqa: F811
    refused(run("whatif", TEXT, *argv, *([] if "--model" in argv else ["--model", tiny])), said)
    assert not list(here.iterdir())


def test_a_long_text_is_refused_without_an_offer_to_cut_it(tiny: Path) -> None:  # noqa: F811
    refused(run("whatif", "a b c " * 40, "--rank", "--model", tiny), r"positions for 64 tokens; shorten it\.$")


def test_the_bundled_model_can_be_asked() -> None:
    assert klieg.whatif("chat", TEXT, [read("mute 5.5")]).divergence > 0
