"""The screen of sparse attention: patterns by slider, key and table; a refusal; and the keep of what if. Its numbers
are held by test_numbers.py."""

from __future__ import annotations

import json

import pytest
from made import made
from screens import CHAT, drawn, until

from klieg import models
from klieg.analysis.sparsity import USUAL, sparsity
from klieg.changes import read
from klieg.explorer.desk import Desk
from klieg.patterns import Pattern
from klieg.watch import trace
from klieg.whatif import whatif

pytestmark = pytest.mark.skipif("chat" not in models.bundled(), reason="the bundled model is not there")

TEXT = "The cat chased the mouse and ran into its"
LOST = "Math.max(...[...document.querySelectorAll('.lost .cell')].map(e => Number(e.dataset.lost)))"


@pytest.fixture(scope="module")
def host(served) -> str:
    return served(Desk({"chat": CHAT}, {"saved": made("saved", "one two three")}))


@pytest.fixture(scope="module")
def address(host: str) -> str:
    return f"{host}#lang=en&theme=light&screen=sparse&model=chat&text={TEXT}"


def lost(page) -> float:
    return page.evaluate(LOST)


def shows(page, pattern: str) -> None:
    """Wait until a pattern is in the address and what is shown is of it."""
    until(page, "new URLSearchParams(location.hash.slice(1)).get('sparse.pattern') === it", pattern)
    _, [wanted] = sparsity(CHAT.own, TEXT, [Pattern.read(pattern)], name="chat")
    loss, head = wanted.worst
    until(page, f"Math.abs({LOST} - it) < 1e-9", loss.mean[head].item())
    until(page, "Math.abs(Number(document.querySelector('.kl').value) - it) < 1e-6 * (1 + it)", wanted.applied.divergence)


def test_it_begins_with_a_window_and_the_usual_patterns_stand_below(address: str, page) -> None:
    drawn(page, address)
    page.locator(".kl").wait_for()
    until(page, "document.querySelectorAll('.beside tbody tr').length === it", len(USUAL) + 1)
    _, [first] = sparsity(CHAT.own, TEXT, [Pattern("window", 4)], name="chat")
    assert lost(page) == pytest.approx(max(loss.mean.max().item() for loss in first.losses), abs=1e-12)
    assert page.locator(".beside th button").all_inner_texts() == list(USUAL)
    page.get_by_role("button", name="block:8").click()
    shows(page, "block:8")
    assert page.locator(".beside tr.open th").inner_text() == "block:8"


def test_sliders_and_keys_change_the_pattern(address: str, page) -> None:
    drawn(page, f"{address}&sparse.pattern=window:3")
    page.locator(".kl").wait_for()
    page.locator("#size").fill("5")
    shows(page, "window:5")
    page.keyboard.press("ArrowRight")      # the slider has the focus
    shows(page, "window:6")
    page.locator(".choice label", has_text="Stride").click()
    shows(page, "strided:6")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("ArrowLeft")
    shows(page, "strided:5")
    page.keyboard.press("g")
    shows(page, "strided:5+global:1")
    page.locator(".choice label", has_text="Largest").click()
    shows(page, "top:5")
    assert page.locator("#global").is_disabled()


def test_a_head_is_opened_from_the_grid(address: str, page) -> None:
    drawn(page, f"{address}&sparse.pattern=window:2&layer=0&head=0")
    page.locator(".lost .cell").first.wait_for()
    page.locator("#lost-4-3").click()
    until(page, "document.querySelector('.pairs h2').textContent.startsWith('Layer 4 · Head 3')")
    until(page, "document.querySelector('.pairs .pane').dataset.fates === 'window:2'")
    assert "layer=4" in page.url and "head=3" in page.url
    text = page.locator(".lost > .worst").inner_text()
    assert text.startswith("Head 4.3: ")


def test_what_is_saved_is_what_is_shown(address: str, page) -> None:
    drawn(page, f"{address}&sparse.pattern=strided:3")
    page.locator(".kl").wait_for()
    page.get_by_role("button", name="Save").click()
    with page.expect_download() as download:
        page.locator(".menu li button", has_text="Numbers").click()
    said = json.loads(download.value.path().read_text("utf-8"))
    assert [each["pattern"] for each in said["patterns"]] == ["strided:3"] and said["text"] == TEXT


def test_of_a_saved_trace_the_losses_are_known_and_why_no_more(address: str, page) -> None:
    drawn(page, address.replace("model=chat", "model=saved") + "&sparse.pattern=window:2")
    page.locator(".said .why").wait_for()
    assert "not started with the model 'saved'" in page.locator(".said .why").inner_text() and lost(page) > 0
    assert page.locator(".beside thead th").all_inner_texts() == ["pattern", "kept", "lost", "worst head"]


def test_a_long_text_waits_to_be_asked(address: str, page) -> None:
    drawn(page, address.replace(TEXT, "The cat sat by the house and the dog ran to the sea. " * 20))
    page.get_by_role("button", name="Try the pattern").click()
    page.locator(".kl").wait_for()
    assert page.locator(".pairs").count() == 0 and "too long for a map" in page.locator(".columns").inner_text()


def test_on_a_phone_in_chinese_nothing_is_too_wide(address: str, page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    drawn(page, address.replace("lang=en", "lang=zh"))
    page.locator(".kl").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator(".choice label").all_inner_texts()[:4] == ["窗口", "分块", "跨步", "最大"]


def test_what_if_keeps_only_a_pattern(host: str, page) -> None:
    drawn(page, f"{host}#lang=en&screen=whatif&model=chat&text={TEXT}&layer=2&head=1")
    page.locator(".act", has_text="Apply").wait_for()
    page.locator("#keep-size").fill("2")
    page.locator("#keep-size").press("Tab")
    page.locator(".act", has_text="Apply").click()
    page.locator(".kl").wait_for()
    wanted = whatif(CHAT.own, TEXT, [read("keep 2.1=window:2")], name="chat")
    assert float(page.locator(".kl").get_attribute("value")) == pytest.approx(wanted.divergence, rel=1e-4)
    assert page.locator(".chips li").all_inner_texts()[0].startswith("only window:2: head 2.1")
    page.locator("label", has_text="All heads").click()
    page.locator(".act", has_text="Apply").click()
    until(page, "document.querySelectorAll('.chips li').length === 2")
    page.locator(".act", has_text="Take back").click()
    until(page, "document.querySelectorAll('.chips li').length === 1")


def test_a_trace_in_a_file_says_what_it_needs(page, host: str) -> None:
    """A page in a file has no model: the screen says so in one line."""
    from klieg.views.html import html

    page.set_content(html(trace(CHAT.own, "I love you", name="chat")))
    page.locator("nav [data-screen=sparse]").click()
    assert "klieg serve" in page.locator("main .note").inner_text()
    page.locator("nav [data-screen=coref]").click()
    assert "klieg serve" in page.locator("main .note").inner_text()
