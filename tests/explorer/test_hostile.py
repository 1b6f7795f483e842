"""Tokens that are written to be more than text, on every screen: markup, marks that turn the direction, and very long ones."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from made import gathered
from screens import CHAT, drawn, registered, settled

from klieg import models
from klieg.explorer.desk import Desk
from klieg.explorer.reader import Reader
from klieg.explorer.turns import Turn
from klieg.trace import Trace

pytestmark = pytest.mark.skipif("chat" not in models.bundled(), reason="the bundled model is not there")

MARKUP = '<img src="x" onerror="window.done=1">'
TOKENS = [MARKUP, "<script>window.done=1</script>", "'\"><svg/onload=window.done=1>", "\u202eevil", "\u2066left",
          "long" * 500, "{@html`x`}${1}{{7*7}}", "\x1b[31m\x00\x07", "&lt;b&gt;&amp;", "مرحبا", "javascript:window.done=1"]
NAME = "<b onclick=window.done=1>chat</b>"
TEXT = "I love the little cat and the old dog so much"


class Words(Sequence):
    """A vocabulary of nothing else."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, id: int) -> str:
        return TOKENS[id % len(TOKENS)]


class Hostile(Reader):
    """The bundled model; its numbers are its own, and its words are not."""

    def read(self, text: str, to: str | None, turn: Turn, written: list[int] | None = None) -> Trace:
        found = super().read(text, to, turn, written)
        found.tokens = [TOKENS[n % len(TOKENS)] for n in range(len(found.tokens))]
        found.vocabulary = Words(len(found.vocabulary))
        found.model = self.name
        return found


@pytest.fixture(scope="module")
def model() -> Hostile:
    found = Hostile("chat")
    found._own = CHAT.own
    found.name = NAME
    return found


# What was made of the tokens: elements that no screen has, and a token that turns the direction of other text beside it.
FOUND = r"""tokens => {
    const strange = ':is(script, iframe, object, embed, img[src="x"], [onerror], [onload], [onclick])'
    const turned = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
        let at = node.parentElement
        if (!/[\u202a-\u202e\u2066-\u2068]/.test(node.data) || at.closest('script, title, textarea, option')) continue
        while (at.tagName !== 'text' && !/isolate|plaintext/.test(getComputedStyle(at).unicodeBidi)) at = at.parentElement
        const others = tokens.reduce((text, token) => text.replaceAll(token, ''), at.textContent)
        if (others.trim()) turned.push(at.outerHTML.slice(0, 160))
    }
    const elements = [...document.querySelectorAll(`#app ${strange}`)].map(e => e.outerHTML)
    return { done: window.done ?? null, elements, turned }
}"""
# Everything that a reader or a screen reader may be told.
SAID = """() => document.body.textContent + [...document.querySelectorAll('[aria-label], [title]')]
    .map(e => (e.getAttribute('aria-label') ?? '') + (e.getAttribute('title') ?? '')).join(' ')"""


def test_every_screen_shows_them_as_text(page, served, model: Hostile) -> None:
    address = served(Desk({NAME: model}, atlases={MARKUP: gathered(model=NAME)})) + f"#lang=en&text={TEXT}"
    drawn(page, address)
    faults: dict[str, object] = {}
    for screen in registered(page):
        page.set_viewport_size({"width": 1440, "height": 900})
        drawn(page, f"{address}&screen={screen}")
        for width in (1440, 390):
            page.set_viewport_size({"width": width, "height": 900})
            page.keyboard.press("Tab")
            page.mouse.move(300, 400)
            settled(page)
            found = page.evaluate(FOUND, sorted(TOKENS, key=len, reverse=True))
            if found != {"done": None, "elements": [], "turned": []}:
                faults[screen, width, "made"] = found
            if screen != "labs" and MARKUP not in page.evaluate(SAID):     # labs say nothing that is given from outside
                faults[screen, width, "said"] = page.evaluate(SAID)[:200]
            wide = page.evaluate("document.documentElement.scrollWidth")
            if wide > width:
                faults[screen, width, "width"] = wide
    assert faults == {}


def test_the_measure_measures(page) -> None:
    page.set_content(f"<div id=app><p>is \u202eevil</p><p>is <bdi>\u202eevil</bdi></p>{MARKUP}<b onclick=x>y</b></div>")
    page.wait_for_function("window.done === 1")
    found = page.evaluate(FOUND, TOKENS)
    assert len(found["turned"]) == 1 and "is" in found["turned"][0] and len(found["elements"]) == 2
