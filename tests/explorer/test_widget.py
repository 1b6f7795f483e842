"""The page as a widget, in a real JupyterLab."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from made import made

from klieg.errors import KliegError
from klieg.views.widget import widget

CODE = f"""import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from made import made
from klieg.views.widget import widget
widget(made("random", "one two three"), height=700)"""


def test_without_anywidget_it_says_how_to_get_it(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(KliegError, match=re.escape("pip install 'klieg[notebook]'")):
        widget(made("random", "one"))


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    """The address of a JupyterLab with one notebook, on settings of its own."""
    for name in ("jupyterlab", "anywidget"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"needs {name}: pip install jupyterlab 'klieg[notebook]'")
    cell = {"cell_type": "code", "execution_count": None, "id": "a", "metadata": {}, "outputs": [], "source": CODE}
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    (tmp_path / "one.ipynb").write_text(json.dumps(
        {"cells": [cell], "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}), "utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {f"JUPYTER_{name}_DIR": str(tmp_path / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    running = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}", "--ServerApp.port_retries=0",
         "--IdentityProvider.token=", f"--ServerApp.root_dir={tmp_path}", "--LabApp.news_url=None",
         "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"],
        env={**os.environ, **own, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield _answering(f"http://127.0.0.1:{port}", running)
    finally:
        running.terminate()
        running.wait(20)


def _answering(address: str, running: subprocess.Popen) -> str:
    for _ in range(240):
        assert running.poll() is None, "JupyterLab ended"
        try:
            with urllib.request.urlopen(f"{address}/api", timeout=5):
                return address
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise AssertionError("JupyterLab does not answer")


@pytest.mark.slow
def test_the_widget_shows_the_page_in_a_real_jupyterlab(browser, lab: str) -> None:
    wanted = made("random", "one two three")
    context = browser.new_context(viewport={"width": 1500, "height": 1000}, locale="en")
    page = context.new_page()
    page.set_default_timeout(120_000)
    page.goto(f"{lab}/lab/tree/one.ipynb")
    page.locator(".jp-CodeCell .cm-content").click()
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    page.keyboard.press("Shift+Enter")
    frame = page.frame_locator("iframe[title=Klieg]")
    frame.locator("main canvas").first.wait_for()
    assert frame.locator("header .model b").inner_text() == "random"
    frame.locator("#main").focus()
    page.keyboard.press("?")
    frame.locator("dialog[open]").wait_for()
    page.keyboard.press("Escape")
    with page.expect_download() as saved:
        frame.locator(".tools .menu button").click()
        frame.locator(".tools .menu li button").click()
    said = json.loads(Path(saved.value.path()).read_text("utf-8"))
    assert said["tokens"] == wanted.tokens
    call = wanted.calls[said["open"]["layer"]]
    assert said["open"]["weights"] == pytest.approx(call.stages(said["open"]["head"]).weights, abs=1e-6)
    context.close()
