"""Everybody reaches everything: axe-core finds nothing on any screen, the keyboard gets everywhere, large is not cut off."""

from __future__ import annotations

from pathlib import Path

import pytest
from made import gathered
from screens import CHAT, TEXT, drawn, registered, settled, turned, until

from klieg.explorer.desk import Desk

AXE = Path(__file__).parents[2] / "web/node_modules/axe-core/axe.min.js"
WIDE, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
ZOOMED = {"width": 720, "height": 450}     # what is left of 1440 x 900 at 200 %
FOUND = """async () => (await axe.run()).violations.flatMap(v => v.nodes.map(n =>
    `${v.id}: ${n.target} ${n.failureSummary.split('\\n').slice(1).join(' ')}`))"""


ALL = ("walk", "heads", "map", "film", "whatif", "compare", "flow", "sparse", "coref", "atlas", "labs")
OPENS = dict(zip("1234567pc89", ALL, strict=True))
needs_axe = pytest.mark.skipif(not AXE.is_file(), reason="needs axe-core: npm ci in web/")

# How many controls Tab should reach.
CONTROLS = """() => [...document.querySelectorAll('button, a[href], select, textarea, input, [tabindex="0"]')].filter(e =>
    e.checkVisibility({ visibilityProperty: true }) && !e.disabled && e.tabIndex >= 0
    && !(e.type === 'radio' && !e.checked && document.querySelector(`[name="${e.name}"]:checked`))).length"""

# Remembers every stop: whether there is a frame around it, what it is, and whether it is the first.
STOPS = """() => {
    window.stops = []
    addEventListener('focusin', ({ target: now }) => {
        let ring = false
        for (let e = now; e && e !== document.body && !ring; e = e.parentElement) {
            const style = getComputedStyle(e)
            ring = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0
        }
        window.stops.push([ring, now.outerHTML.slice(0, 160), now.matches('.skip')])
    })
}"""


@pytest.fixture(scope="module")
def address(served) -> str:
    return served(Desk({"chat": CHAT}, atlases={"one": gathered()})) + f"#text={TEXT}&labs.name=ages&"


@pytest.fixture
def opened(page, address: str):
    """The page, with its first screen drawn."""
    drawn(page, f"{address}lang=en&theme=light")
    assert registered(page) == list(ALL)
    return page


def chosen(page, language: str, theme: str) -> None:
    page.locator(f".languages button[lang^={language}]").click()
    if page.locator(f"html[data-theme={theme}]").count() == 0:
        page.keyboard.press("d")
    page.wait_for_selector(f"html[lang^={language}][data-theme={theme}]", state="attached")
    settled(page)


@needs_axe
def test_axe_finds_nothing(opened) -> None:
    """Every screen in a wide window in the light and in English, and on a phone in the dark and in Chinese."""
    found = {}
    opened.evaluate(AXE.read_text("utf-8"))
    for size, language, theme in ((WIDE, "en", "light"), (PHONE, "zh", "dark")):
        opened.set_viewport_size(size)
        chosen(opened, language, theme)
        for screen in ALL:
            turned(opened, screen)
            said = opened.evaluate(FOUND)
            if said:
                found[screen, size["width"]] = said
    assert found == {}


@needs_axe
@pytest.mark.slow
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_axe_finds_nothing_where_a_screen_is_opened_by_its_address(page, address: str, size: dict, language: str) -> None:
    page.set_viewport_size(size)
    found = {}
    for screen in ALL:
        drawn(page, f"{address}lang={language}&screen={screen}&theme=light")
        page.evaluate(AXE.read_text("utf-8"))
        for theme in ("light", "dark"):
            chosen(page, language, theme)
            said = page.evaluate(FOUND)
            if said:
                found[screen, theme] = said
    assert found == {}


@needs_axe
def test_axe_finds_nothing_in_what_opens(opened) -> None:
    opened.evaluate(AXE.read_text("utf-8"))
    for size in (WIDE, PHONE):
        opened.set_viewport_size(size)
        opened.locator(".menu button >> visible=true").first.click()
        assert opened.locator(".menu li").count() >= 4 and opened.evaluate(FOUND) == []
        opened.keyboard.press("Escape")
        opened.keyboard.press("?")
        assert opened.locator("dialog[open]").count() == 1 and opened.evaluate(FOUND) == []
        opened.keyboard.press("Escape")
        opened.wait_for_selector("dialog", state="detached")


@needs_axe
def test_axe_would_find_something(page) -> None:
    """The measure measures: a picture without a name is found."""
    page.set_content("<html lang=en><title>t</title><main><h1>t</h1><img src=data:,></main>")
    page.evaluate(AXE.read_text("utf-8"))
    assert "image-alt" in "".join(page.evaluate(FOUND))


def test_nothing_scrolls_sideways(opened) -> None:
    wide = {}
    for language in ("en", "zh"):
        chosen(opened, language, "light")
        for screen in ALL:
            turned(opened, screen)
            for size in (PHONE, ZOOMED):
                opened.set_viewport_size(size)
                settled(opened)
                width = opened.evaluate("document.documentElement.scrollWidth")
                if width > size["width"]:
                    wide[screen, language] = width
    assert wide == {}


def test_tab_goes_through_everything_and_is_seen(page, address: str) -> None:
    """From the first Tab, which skips to the picture, to the last control: each stop has a frame around it."""
    for screen in ALL:
        drawn(page, f"{address}lang=en&screen={screen}")
        page.evaluate("document.activeElement.blur()")
        wanted = page.evaluate(CONTROLS)
        page.evaluate(STOPS)
        stops: list = []
        while len(stops) < 300 and not any(again for *_, again in stops[1:]):
            for _ in range(10):
                page.keyboard.press("Tab")
            stops = page.evaluate("stops")
        assert stops[0][2], f"{screen}: the first stop is {stops[0][1]}"
        first = next((n for n, stop in enumerate(stops) if n and stop[2]), len(stops))
        assert [markup for ring, markup, _ in stops[1:first] if not ring] == [], screen
        wanted = min(wanted, page.evaluate(CONTROLS))            # one may be there only while something is computed
        assert first >= wanted, f"{screen}: {first} of {wanted} were reached"


def test_the_skip_link_skips(opened) -> None:
    opened.keyboard.press("Tab")
    opened.keyboard.press("Enter")
    assert opened.evaluate("document.activeElement.id") == "main"
    opened.keyboard.press("Tab")
    assert opened.evaluate("document.activeElement.closest('main') !== null")


def test_keys_are_listed_and_open_screens_on_which_nothing_moves(opened) -> None:
    opened.keyboard.press("?")
    assert "screens" in opened.locator("dialog[open]").inner_text()
    opened.keyboard.press("2")      # under the list nothing happens
    opened.keyboard.press("Escape")
    opened.wait_for_selector("dialog", state="detached")
    for key, screen in OPENS.items():
        opened.keyboard.press(key)
        until(opened, "new URLSearchParams(location.hash.slice(1)).get('screen') === it", screen)
        settled(opened)
        moving = opened.evaluate("document.getAnimations().filter(a => a.playState === 'running').length")
        assert moving == 0, screen     # less motion is asked for
