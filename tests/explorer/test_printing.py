"""The page on paper: as wide as on the screen, with the colours of its numbers and without its controls."""

from __future__ import annotations

import re

import pytest
from screens import CHAT, drawn

from klieg.explorer.desk import Desk

ACROSS, DOWN = 1680 * 0.75, 1188 * 0.75     # points
CONTROLS = "nav button, .tools button, .languages button, .examples button, form .buttons button, main > footer button"


@pytest.mark.parametrize("screen", ["walk", "heads"])
def test_a_page_is_as_wide_as_the_screen_and_has_its_colours(page, served, screen: str) -> None:
    drawn(page, served(Desk({"chat": CHAT})) + f"#lang=en&theme=light&screen={screen}&text=I love you")
    found = page.pdf(prefer_css_page_size=True, print_background=False)
    boxes = {tuple(float(n) for n in box.split()) for box in re.findall(rb"/MediaBox \[0 0 ([\d. ]+)\]", found)}
    assert boxes and all(box == pytest.approx((ACROSS, DOWN), abs=1) for box in boxes)
    page.emulate_media(media="print")
    assert page.locator(CONTROLS).count() and page.locator(f":is({CONTROLS}) >> visible=true").count() == 0
    exact = "all => all.every(e => getComputedStyle(e).printColorAdjust === 'exact')"
    assert page.eval_on_selector_all("main *", exact)
    if screen == "walk":
        assert page.locator(".player").evaluate("e => getComputedStyle(e).position") == "static"
    page.emulate_media(media="screen")
