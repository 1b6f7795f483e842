"""The page in a real browser: headless Chromium, driven by Playwright, on a server of its own."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator

import pytest
import uvicorn

from klieg.explorer.desk import Desk
from klieg.explorer.server import _listen, application

# The shell has no window of its own to draw around the page: opening one takes less than half the time.
CHROMIUM = shutil.which("chromium-headless-shell") or shutil.which("chromium")
WIDE = {"width": 1440, "height": 900}


@pytest.fixture(scope="session")
def browser() -> Iterator:
    """Chromium of this machine, once for all tests."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium (Debian: chromium-headless-shell, or chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # The shell would draw letters otherwise than the browser that took the pictures of the README.
        flags = ["--no-sandbox", "--disable-gpu", "--process-per-site", "--font-render-hinting=none"]
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield found
        found.close()


@pytest.fixture(scope="module")
def window(browser, served) -> Iterator:
    """A browser of their own for the tests of a file. Its first page is not theirs: it keeps the process of the others."""
    context = browser.new_context(viewport=WIDE, locale="en", reduced_motion="reduce")
    context.new_page().goto(served(Desk({})) + "api/models")
    yield context
    context.close()


@pytest.fixture
def page(window) -> Iterator:
    """A page of 1440 x 900, blank before each test and after it; an error in its console fails the test."""
    found, said = window.pages[1] if window.pages[1:] else window.new_page(), []
    errors = {"pageerror": lambda error: said.append(str(error)),
              "console": lambda message: said.append(message.text) if message.type == "error" else None}
    for event, heard in errors.items():
        found.on(event, heard)
    found.set_default_timeout(20_000)
    found.set_viewport_size(WIDE)
    window.set_offline(False)
    yield found
    if not found.is_closed():
        found.unroute_all(behavior="ignoreErrors")
        found.goto("about:blank")
        for event, heard in errors.items():
            found.remove_listener(event, heard)
    assert [line for line in said if "status of 4" not in line] == []   # a refusal of the server is said on the page


@pytest.fixture(scope="module")
def served() -> Iterator[Callable[[Desk], str]]:
    """served(desk) -> the address of a server with that desk, until the tests of the file end."""
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(desk: Desk) -> str:
        listener = _listen(0)
        port = listener.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(application(desk, port), log_level="warning", lifespan="off",
                                               timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{port}/"

    yield start
    for server, _ in running:
        server.should_exit = True
    for _, thread in running:
        thread.join(10)
