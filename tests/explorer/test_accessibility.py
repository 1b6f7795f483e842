"""Everybody reaches everything: axe-core finds nothing on any screen, the keyboard gets everywhere, large is not cut off."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from screens import CHAT, TEXT, drawn, registered, settled, until

from klieg.explorer.desk import Desk

AXE = Path(__file__).parents[2] / "web/node_modules/axe-core/axe.min.js"
WIDE, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
ZOOMED = {"width": 720, "height": 450}     # what is left of 1440 x 900 at 200 %
FOUND = """async () => (await axe.run()).violations.flatMap(v => v.nodes.map(n =>
    `${v.id}: ${n.target} ${n.failureSummary.split('\\n').slice(1).join(' ')}`))"""


@pytest.fixture
def address(page, served) -> Iterator[str]:
    yield served(Desk({"chat": CHAT})) + f"#text={TEXT}&"
    page.goto("about:blank")     # before its server ends


@pytest.fixture
def offered(page, address: str) -> list[str]:
    drawn(page, f"{address}lang=en")
    return registered(page)


@pytest.mark.skipif(not AXE.is_file(), reason="needs axe-core: npm ci in web/")
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_axe_finds_nothing(page, address: str, offered: list[str], size: dict, language: str) -> None:
    page.set_viewport_size(size)
    found = {}
    for screen in offered:
        drawn(page, f"{address}lang={language}&screen={screen}&theme=light")
        page.evaluate(AXE.read_text("utf-8"))
        for theme in ("light", "dark"):
            if theme == "dark":
                page.keyboard.press("d")
                settled(page)
            assert page.locator(f"html[data-theme={theme}]").count() == 1
            said = page.evaluate(FOUND)
            if said:
                found[screen, theme] = said
    assert found == {}


@pytest.mark.skipif(not AXE.is_file(), reason="needs axe-core: npm ci in web/")
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_axe_finds_nothing_in_what_opens(page, address: str, size: dict) -> None:
    page.set_viewport_size(size)
    drawn(page, f"{address}lang=en&screen=heads")
    page.evaluate(AXE.read_text("utf-8"))
    page.locator(".menu button >> visible=true").first.click()
    assert page.locator(".menu li").count() >= 4 and page.evaluate(FOUND) == []
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    assert page.locator("dialog[open]").count() == 1 and page.evaluate(FOUND) == []


def test_axe_would_find_something(page) -> None:
    """The measure measures: a picture without a name is found."""
    page.set_content("<html lang=en><title>t</title><main><h1>t</h1><img src=data:,></main>")
    page.evaluate(AXE.read_text("utf-8"))
    assert "image-alt" in "".join(page.evaluate(FOUND))


@pytest.mark.parametrize("size", [PHONE, ZOOMED], ids=["phone", "200 %"])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_nothing_scrolls_sideways(page, address: str, offered: list[str], size: dict, language: str) -> None:
    page.set_viewport_size(size)
    wide = {}
    for screen in offered:
        drawn(page, f"{address}lang={language}&screen={screen}")
        width = page.evaluate("document.documentElement.scrollWidth")
        if width > size["width"]:
            wide[screen] = width
    assert wide == {}


def test_tab_goes_through_everything_and_is_seen(page, address: str, offered: list[str]) -> None:
    """From the first Tab, which skips to the picture, to the last control: each stop has a name and a frame around it."""
    for screen in offered:
        drawn(page, f"{address}lang=en&screen={screen}")
        page.evaluate("document.activeElement.blur()")
        wanted = page.evaluate("""() => [...document.querySelectorAll(
            'button, a[href], select, textarea, input, [tabindex="0"]')].filter(e =>
                e.checkVisibility({ visibilityProperty: true }) && !e.disabled && e.tabIndex >= 0
                && !(e.type === 'radio' && !e.checked && document.querySelector(`[name="${e.name}"]:checked`))).length""")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className").startswith("skip"), screen
        stops = 1
        while stops < 300:
            page.keyboard.press("Tab")
            stop = page.evaluate("""() => {
                const now = document.activeElement
                if (now === document.body || now.matches('.skip')) return null
                let ring = false
                for (let e = now; e && e !== document.body && !ring; e = e.parentElement) {
                    const style = getComputedStyle(e)
                    ring = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0
                }
                return [ring, now.outerHTML.slice(0, 160)]
            }""")
            if stop is None:
                break
            assert stop[0], f"{screen}: no frame around {stop[1]}"
            stops += 1
        assert stops >= wanted, f"{screen}: {stops} of {wanted} were reached"


def test_the_skip_link_skips(page, address: str) -> None:
    drawn(page, f"{address}lang=en")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('main') !== null")


def test_keys_are_listed_and_work(page, address: str, offered: list[str]) -> None:
    drawn(page, f"{address}lang=en&screen={offered[0]}")
    page.keyboard.press("?")
    assert "screens" in page.locator("dialog[open]").inner_text()
    page.keyboard.press("2")      # under the list nothing happens
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="detached")
    for n, screen in enumerate(offered, start=1):
        page.keyboard.press(str(n))
        until(page, "new URLSearchParams(location.hash.slice(1)).get('screen') === it", screen)


def test_nothing_moves_where_less_motion_is_asked_for(page, address: str, offered: list[str]) -> None:
    for screen in offered:
        drawn(page, f"{address}lang=en&screen={screen}")
        moving = page.evaluate("document.getAnimations().filter(a => a.playState === 'running').length")
        assert moving == 0, screen
