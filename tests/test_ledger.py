"""The page of an atlas: what stands in it, that nothing leaves it, and in a browser that it sorts."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from test_atlas import atlas, corpus, reader, tokenizer  # noqa: F401

from klieg.analysis.atlas import Atlas
from klieg.analysis.behaviour import UNITS
from klieg.views.atlas import grid, word
from klieg.views.document import document, sources
from klieg.views.ledger import COLUMNS, ledger

HOSTILE = '</title><script>alert(1)</script>"><img src=x onerror=alert(2)>\x1b[2J\u202e'


class Page(HTMLParser):
    """Every tag with its attributes, and the cells of every row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.rows: list[list[str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows and self.tags[-1][0] != "script":
            self.rows[-1][-1] += data.strip()


def drawn(atlas: Atlas, model: str = "tiny", language: str = "en") -> str:  # noqa: F811
    pictures = {f"{score} of {model}": grid(model, score, UNITS[score], atlas.rows, atlas.means(score), whole=atlas.whole,
                                            language=language) for score in ("induction", "entropy")}
    partial = "" if atlas.whole else word("partial", language)
    return ledger(model, atlas.lines(), pictures, ["read < this", word("columns", language)], partial, language=language)


def test_every_line_of_the_atlas_stands_there(atlas: Atlas) -> None:  # noqa: F811
    head, *rows = Page(drawn(atlas)).rows
    assert len(head) == len(COLUMNS) and len(rows) == len(atlas.lines())
    for row, line in zip(rows, atlas.lines(), strict=True):
        assert row == [line.score, str(line.layer), line.kind, str(line.head), f"{line.mean:.3f}", f"{line.low:.3f}",
                       f"{line.high:.3f}", f"{line.chance:.3f}", str(line.texts)]
    assert drawn(atlas).count("<svg") == 2 and drawn(atlas).count("<details open>") == 1


def test_a_name_is_text_and_nothing_comes_from_outside(atlas: Atlas) -> None:  # noqa: F811
    text = drawn(atlas, HOSTILE)
    page = Page(text)
    assert [tag for tag, _ in page.tags].count("script") == 1 and not [tag for tag, _ in page.tags if tag in ("img", "link")]
    assert "\x1b" not in text and "\u202e" not in text
    attributes = [name for _, given in page.tags for name in given]
    assert not [name for name in attributes if name.startswith("on") or name in ("src", "href")]
    policy = next(given["content"] for tag, given in page.tags if tag == "meta" and "http-equiv" in given)
    script, style = (re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)[1] for tag in ("script", "style"))
    for kind, body in (("script-src", script), ("style-src-elem", style)):
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")


def test_a_name_in_a_table_is_text_too(atlas: Atlas) -> None:  # noqa: F811
    lines = [replace(line, score=HOSTILE) for line in atlas.lines()[:3]]
    text = ledger("tiny", lines, {}, ["read"])
    page = Page(text)
    assert [tag for tag, _ in page.tags].count("script") == 1 and not [tag for tag, _ in page.tags if tag == "img"]
    assert "\x1b" not in text and "\u202e" not in text and len(page.rows) == 4 and page.rows[1][0].startswith("</title>")


def test_a_part_of_a_corpus_says_so_in_both_languages(atlas: Atlas) -> None:  # noqa: F811
    part = replace(atlas, whole=False)
    assert "partial" not in drawn(atlas) and drawn(part).count("partial: the corpus was not read to its end") == 3
    chinese = drawn(part, language="zh")
    assert 'lang="zh-Hans"' in chinese and chinese.count("语料还没有读完") == 3 and "95% 置信区间" in chinese


def test_a_page_without_a_script_allows_none() -> None:
    assert sources([]) == sources([""]) == "'none'"
    text = document("a < b", "<p>c</p>", "p{margin:0}")
    assert "script-src 'none'" in text and "<h1>a &lt; b</h1>" in text and "<script" not in text


@pytest.mark.slow
def test_it_sorts_in_a_browser(atlas: Atlas, tmp_path: Path) -> None:  # noqa: F811
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs chromium (Debian: chromium)")
    path = tmp_path / "atlas.html"
    path.write_text(drawn(atlas, HOSTILE), "utf-8")
    said: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(path.as_uri())
        means = lambda: [float(v) for v in page.eval_on_selector_all(  # noqa: E731
            "tbody tr:not([hidden])", "rows => rows.map(row => row.cells[4].dataset.v)")]
        page.select_option("select", "induction")
        expected = [line.mean for line in atlas.table("induction")]
        assert means() == pytest.approx(expected, rel=1e-6)
        button = page.locator("th button").nth(4)
        button.click()
        assert means() == pytest.approx(expected, rel=1e-6)
        assert page.locator("th").nth(4).get_attribute("aria-sort") == "descending"
        button.click()
        assert means() == pytest.approx(expected[::-1], rel=1e-6)
        page.select_option("select", "")
        page.locator("th button").nth(0).click()
        names = page.eval_on_selector_all("tbody tr", "rows => rows.map(row => row.cells[0].textContent)")
        assert names == sorted(names) and len(names) == len(atlas.lines())
        browser.close()
    assert said == []
