"""The screen of flow: its numbers are flow()'s own, its colours those of the ramps, and the token is chosen by hand and key."""

from __future__ import annotations

import oracle
import pytest
from made import made
from screens import CHAT, drawn, until

from klieg import models
from klieg.analysis.flow import Flow, flow
from klieg.explorer.desk import Desk

pytestmark = pytest.mark.skipif("chat" not in models.bundled(), reason="the bundled model is not there")

TEXT = "The cat chased the mouse"
ROWS = "document.querySelectorAll('tr[data-way]').length === 6"


@pytest.fixture(scope="module")
def address(served) -> str:
    desk = Desk({"chat": CHAT}, {"saved": made("saved", "one two three")})
    return served(desk) + f"#lang=en&theme=light&screen=flow&model=chat&text={TEXT}"


def shown(page) -> tuple[list[float], dict[str, tuple[list[float], float | None]]]:
    """What hiding does, and of every way its shares and its correlation."""
    effects = page.eval_on_selector_all("[data-effect]", "all => all.map(e => Number(e.dataset.effect))")
    rows = page.eval_on_selector_all("tr[data-way]", """all => all.map(row => [
        row.dataset.way, [...row.querySelectorAll('[data-share]')].map(e => Number(e.dataset.share)),
        row.querySelector('data') && Number(row.querySelector('data').value)])""")
    return effects, {way: (shares, r) for way, shares, r in rows}


def same(page, wanted: Flow) -> None:
    effects, ways = shown(page)
    assert effects == wanted.effects and len(ways) == len(wanted.ways)
    for way in wanted.ways:
        assert ways[way.way + ("-corrected" if way.corrected else "")] == (way.shares, way.correlation)


def test_every_number_is_that_of_flow(address: str, page) -> None:
    drawn(page, address)
    until(page, ROWS)
    wanted = flow(CHAT.own, TEXT, name="chat")
    same(page, wanted)
    most, tokens = max(range(wanted.token), key=wanted.effects.__getitem__), wanted.trace.tokens
    best = max(wanted.ways, key=lambda way: way.correlation)
    sentence = page.locator(".sentence").inner_text()
    assert f"“{tokens[most]}”" in sentence and f"({best.correlation:+.2f})".replace("-", "−") in sentence
    assert page.locator("th.token").all_inner_texts() == tokens[:-1]
    for way in wanted.ways:
        row = page.locator(f"tr[data-way='{way.way}{'-corrected' if way.corrected else ''}']")
        top = max(range(wanted.token), key=way.shares.__getitem__)
        assert tokens[top] in row.locator("small bdi").inner_text()
        assert (row.get_attribute("class") or "").count("gone") == (top != most)      # it leads astray
        painted = row.locator("[data-share]").evaluate_all(
            "all => all.map(e => getComputedStyle(e).backgroundColor.match(/\\d+/g).map(Number))")
        for x, colour in zip(way.shares, painted, strict=True):
            assert colour == pytest.approx(oracle.along(oracle.WEIGHT["light"], x / max(way.shares)), abs=1.6)


def test_another_token_and_without_the_first(address: str, page) -> None:
    drawn(page, address)
    until(page, ROWS)
    page.keyboard.press("ArrowLeft")
    until(page, ROWS + " && location.hash.includes('flow.token=5') && document.querySelectorAll('[data-effect]').length === 5")
    same(page, flow(CHAT.own, TEXT, 5, name="chat"))
    page.keyboard.press("f")
    until(page, "document.querySelector('[data-way=raw] [data-share]')?.dataset.share === '0'")
    assert "flow.first=out" in page.url
    same(page, flow(CHAT.own, TEXT, 5, without_first=True, name="chat"))
    page.locator(".to button").nth(3).click()
    until(page, "document.querySelectorAll('[data-effect]').length === 3")
    same(page, flow(CHAT.own, TEXT, 3, without_first=True, name="chat"))
    assert page.locator(".to button").first.is_disabled()


def test_another_text_is_followed_to_its_last_token(address: str, page) -> None:
    drawn(page, address + "&flow.token=3")
    until(page, "document.querySelectorAll('[data-effect]').length === 3")
    page.fill("#text", "I love the little cat")
    page.press("#text", "Enter")
    wanted = flow(CHAT.own, "I love the little cat", name="chat")
    until(page, "document.querySelectorAll('[data-effect]').length === it", wanted.token)
    same(page, wanted)


def test_a_long_text_waits_to_be_asked_and_can_be_stopped(address: str, page) -> None:
    long = "The cat sat by the house and the dog ran to the sea. " * 8
    drawn(page, address.replace(TEXT, long))
    assert page.locator("tr[data-way]").count() == 0
    page.get_by_role("button", name="Compute the flow").click()
    page.get_by_text("tokens hidden").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Compute the flow").wait_for()
    assert page.locator("[role=alert]").count() == 0


def test_a_refusal_is_said(address: str, page) -> None:
    drawn(page, address.replace("model=chat", "model=saved"))
    page.locator(".flow [role=alert]").wait_for()
    assert "not started with the model 'saved'" in page.locator(".flow [role=alert]").inner_text()


def test_on_a_phone_in_chinese_nothing_is_too_wide(address: str, page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    drawn(page, address.replace("lang=en", "lang=zh"))
    until(page, ROWS)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    names = page.locator("tr[data-way] .name b").all_inner_texts()
    assert names == ["原始", "rollout", "rollout · 已校正", "最大流", "按值", "按值 · 已校正"]
