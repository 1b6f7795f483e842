"""The README's pictures of the Explorer are what the page looks like now, but for the fonts of another machine."""

from __future__ import annotations

import importlib.util
import io
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from screens import CHAT

from klieg import models
from klieg.explorer.desk import Desk

pytestmark = pytest.mark.skipif("chat" not in models.bundled(), reason="the bundled model is not there")

# How far apart the means of 8 x 8 pixels are on average, and those of 40 x 40 at most, of 255. The same page is 0.5 and 5
# from its picture, for want of colours; with letters drawn otherwise (--font-render-hinting=full) 1.4 and 7; without two of the
# names in its bar at least 10, with canvases lighter by a quarter at least 28, and without one of its panels at least 26.
MEAN, WORST = 2.0, 9.0


@pytest.fixture(scope="module")
def docs() -> ModuleType:
    """docs/screens.py."""
    spec = importlib.util.spec_from_file_location("taking", Path(__file__).parents[2] / "docs/screens.py")
    found = sys.modules["taking"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.fixture
def address(served) -> str:
    return served(Desk({"chat": CHAT}))


def apart(a: bytes, b: bytes) -> tuple[float, float]:
    """The mean over small tiles and the worst over large ones."""
    both = [Image.open(io.BytesIO(picture)).convert("RGB") for picture in (a, b)]
    assert both[0].size == both[1].size
    small, large = (np.abs(np.subtract(*(np.asarray(image.reduce(n), float) for image in both))).max(2) for n in (8, 40))
    return small.mean(), large.max()


def test_the_pictures_are_of_the_page_as_it_is(browser, address: str, docs: ModuleType) -> None:
    """Else: python docs/screens.py, and look at what it made."""
    found = {shot.screen: apart(shot.file.read_bytes(), picture) for shot, picture in docs.taken(browser, address)}
    assert len(found) == 9
    assert {screen: far for screen, far in found.items() if far[0] > MEAN or far[1] > WORST} == {}


def test_they_are_small() -> None:
    for path in sorted((Path(__file__).parents[2] / "docs").glob("*.png")):
        assert path.stat().st_size < 150_000, path


@pytest.mark.slow
@pytest.mark.parametrize(("screen", "style"), [("heads", "canvas { filter: brightness(1.25) }"),
                                               ("walk", ".card { opacity: 0 }")])
def test_another_ramp_or_a_missing_panel_is_seen(browser, address: str, docs: ModuleType, screen: str, style: str) -> None:
    before = f"""addEventListener('DOMContentLoaded', () => {{
        const sheet = new CSSStyleSheet()
        sheet.replaceSync('{style}')
        document.adoptedStyleSheets = [sheet]
    }})"""
    shots = [shot for shot in docs.SHOTS if shot.screen == screen]
    [(shot, picture)] = docs.taken(browser, address, shots, before)
    assert apart(shot.file.read_bytes(), picture)[1] > WORST
