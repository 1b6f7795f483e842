"""How long until the Explorer shows something, and how much is sent for it?

    python benchmarks/explorer_start.py [--runs 5]

The page of the bundled model in a browser that was never started before, from its address to the first picture, which is
the trace that ships with the page. Then a trace of 512 tokens of a model of GPT-2's shape, 12 layers of 12 heads with random
weights, which lies open at the server: from its address to the grid of its heads, and all that is sent until one is open.
Needs Playwright and Chromium.
"""

from __future__ import annotations

import argparse
import gzip
import shutil
import statistics
import tempfile
import threading
import time
from pathlib import Path

import torch
import uvicorn
from playwright.sync_api import Playwright, sync_playwright

from klieg import models
from klieg.config import GPT2Config
from klieg.explorer.desk import Desk
from klieg.explorer.reader import Reader
from klieg.explorer.server import _listen, application
from klieg.survey import SurveySpec
from klieg.trace import Trace
from klieg.views.html import page as built
from klieg.watch import trace

TOKENS = 512


def long_trace() -> Trace:
    """512 tokens of a model of GPT-2's shape with random weights and the bundled model's tokenizer."""
    torch.manual_seed(0)
    _, tokenizer = models.load("chat")
    shape = GPT2Config(vocab_size=8192, n_embd=768, n_layer=12, n_head=12, n_positions=TOKENS, n_inner=3072)
    model = models.build(shape).eval()
    found = trace((model, tokenizer), "The cat chased the mouse around the house. " * TOKENS, cut=True, name="gpt2-shaped",
                  spec=SurveySpec(top=0, map=0))
    assert len(found.tokens) == TOKENS and (found.layers, found.heads) == (12, 12)
    return found


def served(desk: Desk) -> str:
    """The address of a server in a thread of this process."""
    listener = _listen(0)
    port = listener.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(application(desk, port), log_level="warning", lifespan="off"))
    threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True).start()
    return f"http://127.0.0.1:{port}/"


def opened(playwright: Playwright, address: str, drawn: str, after: str) -> tuple[float, int]:
    """Seconds from the address to `drawn` in a new browser, and bytes of all answers until `after` is there too."""
    with tempfile.TemporaryDirectory() as profile:
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path=shutil.which("chromium"), args=["--no-sandbox"], viewport={"width": 1440, "height": 900})
        page, sizes = context.new_page(), []
        page.on("requestfinished", lambda request: sizes.append(request))
        started = time.perf_counter()
        page.goto(address, wait_until="commit")
        page.wait_for_selector(drawn, state="attached")
        took = time.perf_counter() - started
        page.wait_for_selector(after, state="attached")
        page.wait_for_selector(".progress:not(.busy)", state="attached")
        sent = sum(request.sizes()["responseBodySize"] for request in sizes if request.url.startswith("http"))
        assert page.locator("[role=alert]").count() == 0 and page.locator(".certificate").count() == 1
        context.close()
    return took, sent


def spread(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):6.2f} s   (median of {len(seconds)}, {min(seconds):.2f} to {max(seconds):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    reader = Reader("chat")
    assert reader.own is not None
    small, large = served(Desk({"chat": reader})), served(Desk({}, {"gpt2-shaped": long_trace()}))
    page = Path(built()).read_bytes()
    with sync_playwright() as playwright:
        first = [opened(playwright, f"{small}#lang=en", "main canvas", "main canvas")[0] for _ in range(runs)]
        grid = [opened(playwright, f"{large}#lang=en&screen=heads&model=gpt2-shaped", "#head-11-11", "main canvas")
                for _ in range(runs)]
    took = [seconds for seconds, _ in grid]
    sent = statistics.median(size for _, size in grid)
    print(f"first picture       {spread(first)}; bar: 1.0)")
    print(f"script and style    {len(gzip.compress(page, mtime=0)) / 1e3:6.0f} kB  (gzip; bar: 300)")
    print(f"grid of 144 heads   {spread(took)}; bar: 2.0)")
    print(f"sent for it         {sent / 1e6:6.2f} MB  (page, outline and one head; bar: 3)")


if __name__ == "__main__":
    main()
