"""The pictures of the Explorer in the README, taken from the running page with the bundled model.

    python docs/screens.py        # after new weights, or after a change of how a screen looks

Each is 1440 x 900 pixels of headless Chromium, with nothing moving, in 256 colours.
tests/explorer/test_screenshots.py takes them again and compares.
"""

from __future__ import annotations

import io
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from PIL import Image

FOLDER = Path(__file__).parent
SIZE = {"width": 1440, "height": 900}
STORY = """There was once a small lamp in the window of a house by the sea. Every night an old man lit the lamp, and every \
night the boats saw it and came home.

One day the old man was ill. He could not get up, and the lamp stayed dark. "Who will light the lamp?" he asked. His cat \
sat by the bed and looked at him. She was a good cat, but she could not light a lamp.

The cat went out into the rain. She ran down the road to the little red house where Anna lived. Anna was seven years old. \
She opened the door and said, "Why are you so wet, little cat?" The cat turned around, ran a few steps, and looked back. \
Anna took her coat and followed her."""


@dataclass(frozen=True)
class Shot:
    """A screen to be taken: its picture's name, its address, and what stands on it when it is complete."""

    screen: str
    view: dict[str, str]
    there: str

    @property
    def file(self) -> Path:
        return FOLDER / f"{self.screen}.png"

    @property
    def hash(self) -> str:
        return "#" + urlencode({"lang": "en", "theme": "light", "screen": self.screen, "model": "chat", **self.view})


SHOTS = [
    Shot("walk", {"text": "I love you", "layer": "3", "head": "2", "cell": "3.2"}, ".strip[data-name=fed], li data"),
    Shot("heads", {"text": "小沈阳江西演唱会邀请了，", "layer": "2", "head": "1", "cell": "8.6", "lang": "zh", "theme": "dark"},
         ".card, li data"),
    Shot("map", {"text": STORY, "layer": "2", "head": "1", "cell": "63.24"}, ".map.ready, .hover.light, ol button, .lit"),
    Shot("film", {"text": "Once upon a time", "layer": "2", "head": "1", "film.at": "9"},
         ".peak, li.chosen, .do button + button"),
    Shot("whatif", {"text": "The cat chased the mouse", "layer": "3", "head": "2",
                    "whatif.changes": "mute 2.4;replace mouse=dog"},
         ".kl, .ranking tbody tr:nth-child(10)"),
    Shot("compare", {"text": "我吃了一个苹果", "compare.text": "苹果发布了新手机", "layer": "3", "head": "1", "lang": "zh"},
         "data.cosine, td.p.b data, .one + .one canvas"),
    Shot("coref", {"text": "The animal didn’t cross the street because it was too tired", "layer": "3", "head": "4",
                   "coref.it": "43-45 it", "coref.of": "4-10 animal;28-34 street"},
         "data.given, data.itself, .cell[data-share]"),
    Shot("sparse", {"text": "The animal didn’t cross the street because it was too tired", "layer": "4", "head": "3",
                    "sparse.pattern": "window:4"}, ".kl, .beside tr:nth-child(6), .pane[data-fates='window:4']"),
    Shot("flow", {"text": "The cat chased the mouse, and the mouse ran into its", "model": "chat"}, "tr[data-way=value]"),
]


def taken(browser, address: str, shots: list[Shot] = SHOTS, before: str = "") -> Iterator[tuple[Shot, bytes]]:
    """The screens of the server at an address as PNG, in all their colours. `browser` is one of Playwright; `before` is a
    script that each page runs first."""
    context = browser.new_context(viewport=SIZE, locale="en", reduced_motion="reduce", device_scale_factor=1)
    context.add_init_script(before)
    page = context.new_page()
    page.set_default_timeout(60_000)
    for shot in shots:
        page.goto("about:blank")
        page.goto(address + shot.hash)
        for part in shot.there.split(", "):
            page.wait_for_selector(part, state="attached")
        _still(page)
        yield shot, page.screenshot()
    context.close()


def _still(page) -> None:
    """Waits until nothing is asked, drawn or ranked any more: until the page says the same for half a second."""
    said, since, deadline = "", time.monotonic(), time.monotonic() + 60
    while time.monotonic() - since < 0.5 and time.monotonic() < deadline:
        page.wait_for_timeout(100)
        now = page.locator("main").inner_text() + str(page.locator("main [data-divergence]").count())
        if now != said or page.locator(".progress.busy").count():
            said, since = now, time.monotonic()
    page.evaluate("() => document.fonts.ready.then(() => new Promise(done => requestAnimationFrame(done)))")


def reduced(picture: bytes) -> bytes:
    """A PNG in the 256 colours that serve it best."""
    file = io.BytesIO()
    with Image.open(io.BytesIO(picture)) as image:
        few = image.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)
        few.save(file, "PNG", optimize=True)
    return file.getvalue()


@contextmanager
def served() -> Iterator[str]:
    """The address of a server with the bundled model."""
    import uvicorn

    from klieg.explorer.desk import Desk
    from klieg.explorer.reader import Reader
    from klieg.explorer.server import _listen, application

    listener = _listen(0)
    port = listener.getsockname()[1]
    app = application(Desk({"chat": Reader("chat")}), port)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{port}/"
    server.should_exit = True
    thread.join(10)


def main() -> None:
    from playwright.sync_api import sync_playwright

    with served() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"])
        for shot, picture in taken(browser, address):
            shot.file.write_bytes(reduced(picture))
            print(f"docs/{shot.file.name}: {shot.file.stat().st_size / 1000:.0f} kB")
        browser.close()


if __name__ == "__main__":
    main()
