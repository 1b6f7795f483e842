"""klieg lab: what it lists, shows and writes, and one line for every mistake."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from unittest.mock import patch

from test_cli import here, refused, run  # noqa: F401

from klieg.labs import NAMES, find


def test_labs_are_listed() -> None:
    for language, tongue in (("en", 0), ("zh", 1)):
        ran = run("lab", "--lang", language, COLUMNS="200")
        assert ran.status == 0 and ran.err == ""
        for line, name in zip(ran.text.splitlines(), NAMES, strict=True):
            assert line.split()[0] == name and find(name).claim[tongue] in line


def test_one_is_run_and_shown() -> None:
    for language, tongue, took in (("en", 0, r"ages: \d+\.\d s\n"), ("zh", 1, r"ages：\d+\.\d 秒\n")):
        ran = run("lab", "ages", "--lang", language, COLUMNS="600")
        assert ran.status == 0 and re.fullmatch(took, ran.err)
        found = find("ages").run()
        assert found.conclusion[tongue] in ran.text and find("ages").title[tongue] in ran.text
        assert all(chart.title[tongue] in ran.text for chart in found.charts) and "0.2808" in ran.text


def test_all_are_timed_together_and_what_the_clock_said_is_written(here: Path) -> None:  # noqa: F811
    """With one lab in place of all, which take minutes."""
    finding = replace(find("ages").run(), measured={"seconds": 0.25})
    with patch("klieg.labs.NAMES", ("ages",)), patch("klieg.labs.find", lambda name: replace(find(name), run=lambda: finding)):
        ran = run("lab", "all", "--json", "-")
        assert re.fullmatch(r"ages：\d+\.\d 秒\n总共：\d+\.\d 秒\n", run("lab", "all", "--json", "-", "--lang", "zh").err)
    assert ran.status == 0 and re.fullmatch(r"ages: \d+\.\d s\ntogether: \d+\.\d s\n", ran.err)
    assert json.loads(ran.text) == {"ages": {**finding.numbers, "seconds": 0.25}}


def test_files(here: Path) -> None:  # noqa: F811
    ran = run("lab", "ages", "-o", "labs.html", "--json", "labs.json", "--lang", "zh")
    assert ran.status == 0 and ran.text == "" and ran.err.endswith("已写入 labs.html\n已写入 labs.json\n")
    assert json.loads(Path("labs.json").read_text("utf-8")) == {"ages": dict(find("ages").run().numbers)}
    page, seen = Path("labs.html").read_text("utf-8"), []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list) -> None:
            seen.append(tag)
            assert not {"src", "href", "onload"} & {name for name, _ in attrs}

    Reader().feed(page)
    assert seen.count("svg") == 2 and "script" not in seen and find("ages").run().conclusion[1] in page
    assert 'lang="zh-Hans"' in page and "klieg lab ages" in page


def test_mistakes(here: Path) -> None:  # noqa: F811
    refused(run("lab", "softmax", "-o", "none/labs.html"), "^klieg: none/labs.html cannot be written")     # and was not run
    refused(run("lab", "age"), "there is no lab 'age'; klieg lab without a name lists them. Did you mean 'ages'?")
    refused(run("lab", "list"), "there is no lab 'list'; klieg lab without a name lists them")
    refused(run("lab", "-o", "labs.html"), "--out is of labs that are run; name one, or all.")
    refused(run("lab", "ages", "-o", "-", "--json", "-"), "--out - and --json - would run together")
    assert list(here.iterdir()) == []
