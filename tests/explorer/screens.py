"""What tests of every screen share: which there are, and when one is drawn."""

from __future__ import annotations

import time

from klieg.explorer.reader import Reader

CHAT = Reader("chat")       # the bundled model does whatever a screen may ask for; it is loaded once
TEXT = "I love the little cat"
DRAWN = "main :is(canvas, .ready, [role=alert])"


def registered(page) -> list[str]:
    """The screens that the bar of an open page offers; the only one has no bar."""
    return page.eval_on_selector_all("nav [data-screen]", "found => found.map(e => e.dataset.screen)") or ["heads"]


def drawn(page, address: str) -> None:
    """Open an address, and wait until its screen is drawn and nothing is computed any more."""
    if page.url != "about:blank":
        page.goto("about:blank")
    page.goto(address)
    settled(page)


def turned(page, screen: str) -> None:
    """Turn to another screen of the page that is open, and wait until that is drawn."""
    page.locator(f"[data-screen={screen}]").dispatch_event("click")     # in a narrow window it is in a list
    until(page, "new URLSearchParams(location.hash.slice(1)).get('screen') === it", screen)
    settled(page)


def settled(page) -> None:
    page.wait_for_selector(DRAWN, state="attached")
    page.wait_for_selector(".progress:not(.busy)", state="attached")
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def until(page, holds: str, argument: object = None) -> None:
    """Wait until an expression of `it` holds; Playwright's own wait needs eval, which the page's policy forbids."""
    deadline = time.monotonic() + 20
    while not page.evaluate(f"it => {holds}", argument):
        assert time.monotonic() < deadline, f"never: {holds}"
        page.wait_for_timeout(30)


def asking(page) -> set:
    """The page's requests that are not answered to their end; kept up to date from now on. What a page says when it is left
    has no end that the browser would tell."""
    found: set = set()
    page.on("request", lambda request: found.add(request) if request.method != "DELETE" else None)
    for end in ("requestfinished", "requestfailed"):
        page.on(end, lambda request: found.discard(request))
    return found


def quiet(page, asked: set) -> str:
    """What the screen says, once nothing is asked and nothing has been added for longer than it waits for anything."""
    said, since, deadline = "", time.monotonic(), time.monotonic() + 120
    while asked or time.monotonic() - since < 0.5:
        assert time.monotonic() < deadline, f"it never ends: {said[-300:]}"
        page.wait_for_timeout(50)
        now = page.locator("main").inner_text()
        if now != said:
            said, since = now, time.monotonic()
    return said
