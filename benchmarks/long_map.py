"""How soon is a map of 131,072 tokens seen, how soon is a tile of it there, and how smoothly does it pan?

A Llama of transformers with random weights, of one layer, 4 heads of width 64 over 2 of keys and values, reads 131,072 tokens
and is watched as `klieg map` does; the trace is made once and kept (minutes, and 330 MB). Then a server opens it as `klieg
serve FILE` does, and Chromium the page. Every tile that is timed is compared with the trace's own weights.

    python benchmarks/long_map.py --trace long.klieg [--text FILE] [--repetitions 5] [--places 12]
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import tempfile
import threading
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load

from klieg.trace import Trace

TOKENS = 131_072
FIRST, TILE, FRAMES = 4.0, 0.150, 60   # the bars: seconds to the first picture, seconds a tile, frames a second
SURVEYED = 0                           # in the place of a bucket's tokens: the survey's own buckets
TIMED = """async (path) => {
    const start = performance.now(), answer = await fetch(path), body = new Uint8Array(await answer.arrayBuffer())
    const took = performance.now() - start
    let text = ''
    for (let n = 0; n < body.length; n += 8192) text += String.fromCharCode(...body.subarray(n, n + 8192))
    return [took, answer.status, btoa(text)]
}"""
THERE = """(tokens) => {
    const across = Number(/map\\.at=\\d+%2C\\d+%2C(\\d+)/.exec(location.hash)?.[1])
    return Math.abs(across / tokens - 1) < 0.05 && document.querySelector('.map').classList.contains('ready')
}"""
WATCH = """() => {
    const step = (now) => { window.frames_.push(now); window.watching_ = requestAnimationFrame(step) }
    window.frames_ = []
    window.watching_ = requestAnimationFrame(step)
}"""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--trace", type=Path, default=Path("long.klieg"), help="made if it is not there")
    options.add_argument("--text", type=Path, help="what the model reads; by default words drawn by chance")
    options.add_argument("--repetitions", type=int, default=5)
    options.add_argument("--places", type=int, default=12, help="tiles of each zoom")
    given = options.parse_args()
    if not given.trace.is_file():
        make(given.trace, given.text)
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    print("| what | bar | measured | met |\n| --- | --- | --- | --- |")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        firsts = [first(browser, given.trace) for _ in range(given.repetitions)]
        opened, seen = (statistics.median(x) for x in zip(*firsts, strict=True))
        row(f"a saved trace of {TOKENS:,} tokens, opened, served and seen", f"<= {FIRST:.0f} s", opened + seen <= FIRST,
            f"{opened + seen:.1f} s: {opened:.1f} s until it is served, {seen:.1f} s until the page has drawn it")
        with served(given.trace) as (address, trace):
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.goto(f"{address}#lang=en&screen=map&head=1")
            page.wait_for_selector(".map.ready")
            for bucket in (SURVEYED, 64, 16, 4, 1):
                took = [tile(page, trace, bucket, n) for n in range(given.places)]
                row(named(bucket), f"<= {1000 * TILE:.0f} ms", max(took) <= TILE,
                    f"{1000 * statistics.median(took):.0f} ms, at worst {1000 * max(took):.0f} ms")
            for tokens, press in ((32_768, lambda: (page.keyboard.press("+"), page.keyboard.press("+"))),
                                  (8192, page.get_by_role("button", name="8k", exact=True).click)):
                row(f"closer, to {tokens // 1024}k: all tiles in view", "", True, f"{zoom(page, tokens, press):.1f} s")
            rate, worst = pan(page)
            row("panning over 8k", f"{FRAMES} frames a second", rate >= FRAMES - 1,
                f"{rate:.0f} frames a second, the longest after {worst:.0f} ms")
        browser.close()


def row(what: str, bar: str, met: bool, measured: str) -> None:
    print(f"| {what} | {bar} | {measured} | {('yes' if met else 'NO') if bar else ''} |", flush=True)


# ---- the trace ----

def make(path: Path, text: Path | None) -> None:
    """The model, its tokenizer and the trace, in the folder of the trace."""
    from rich.console import Console
    from transformers import AutoModelForCausalLM, LlamaConfig

    from klieg import reading, tokenizers

    body = text.read_text("utf-8") if text else drawn()
    torch.manual_seed(0)
    config = LlamaConfig(hidden_size=256, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2, head_dim=64,
                         intermediate_size=256, vocab_size=2048, max_position_embeddings=TOKENS,
                         rope_parameters={"rope_type": "default", "rope_theta": 1e7})
    model = AutoModelForCausalLM.from_config(config).eval()
    attention = model.model.layers[0].self_attn
    with torch.no_grad():
        # Larger weights, and keys as the queries of the first head of their group: then equal words look at each other.
        attention.q_proj.weight.mul_(4)
        attention.k_proj.weight.copy_(attention.q_proj.weight.view(2, 2, 64, 256)[:, 0].reshape(128, 256))
    with tempfile.TemporaryDirectory() as folder:
        tokenizers.train([body], config.vocab_size).save(Path(folder))
        model.save_pretrained(folder)
        reading.watched(folder, body, 16, None, TOKENS, None, None, path, Console(stderr=True))


def drawn() -> str:
    """Sentences of words drawn by chance, some words more often than others; a passage comes again."""
    chance = random.Random(0)
    words = ["".join(chance.choice("bcdfglmnprst") + chance.choice("aeiou") for _ in range(chance.randint(1, 4)))
             for _ in range(3000)]
    often = [1 / (n + 3) for n in range(len(words))]
    sentences = [" ".join(chance.choices(words, often, k=chance.randint(4, 18))) + "." for _ in range(16_000)]
    passage = sentences[200:230]
    for start in range(1000, len(sentences), 2500):
        sentences[start:start + len(passage)] = passage
    return "\n".join(sentences)


# ---- what is timed ----

@contextmanager
def served(path: Path) -> Iterator[tuple[str, Trace]]:
    """The address of a server with the trace, and the trace."""
    import uvicorn

    from klieg.explorer.desk import Desk
    from klieg.explorer.server import _listen, application

    trace = Trace.load(path)
    with _listen(0) as listener:
        port = listener.getsockname()[1]
        app = application(Desk({}, {"long": trace}), port)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{port}/", trace
        server.should_exit = True
        thread.join(10)


def first(browser: object, path: Path) -> tuple[float, float]:
    """Seconds until the saved trace is served, and from there until a browser that was never here has drawn it."""
    start = time.perf_counter()
    with served(path) as (address, _):
        up = time.perf_counter()
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        page = context.new_page()
        page.goto(f"{address}#lang=en&screen=map&head=1")
        page.wait_for_selector(".map.ready", timeout=120_000)
        page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        seen = time.perf_counter()
        context.close()
    return up - start, seen - up


def side(bucket: int) -> int:
    """Tokens along a tile, as the page asks for them."""
    return min(2048 if bucket < 64 else 4096, 256 * bucket)


def named(bucket: int) -> str:
    if bucket == SURVEYED:
        return "a tile of 256 x 256 buckets of the survey"
    what = "weights" if bucket == 1 else f"buckets of {bucket} x {bucket} tokens"
    return f"a tile of {side(bucket) // bucket} x {side(bucket) // bucket} {what}"


def tile(page: object, trace: Trace, bucket: int, n: int) -> float:
    """Seconds until the page has the bytes of a tile that nobody asked for before, compared with the trace."""
    call, chance = trace.calls[0], random.Random(1000 * bucket + n)
    one = TOKENS // call.survey.map_max.shape[2] if bucket == SURVEYED else bucket
    wide = 256 * one if bucket == SURVEYED else side(bucket)
    down = chance.randrange(TOKENS // 2 // wide, TOKENS // wide)
    rows, keys = ((at * wide, (at + 1) * wide) for at in (down, chance.randrange(0, down)))
    step = one if bucket == SURVEYED else 1
    kind = {SURVEYED: "surveyed", 1: "cells"}.get(bucket, "tiles")
    path = (f"api/traces/long/{kind}/0/1?rows={rows[0] // step}:{rows[1] // step}&keys={keys[0] // step}:{keys[1] // step}"
            + (f"&bucket={bucket}" if kind == "tiles" else ""))
    took, status, body = page.evaluate(TIMED, path)
    assert status == 200, path
    found = load(b64decode(body))["weight" if bucket == 1 else "max"]
    # The buckets of the first row, from the weights themselves.
    wanted = call.tile(1, slice(rows[0], rows[0] + one), slice(*keys)).unflatten(1, (-1, one)).amax((0, 2))
    torch.testing.assert_close(found[0], wanted, rtol=1e-4, atol=1e-9)
    return took / 1000


def zoom(page: object, tokens: int, press: Callable[[], None]) -> float:
    """Seconds from pressing what zooms until so many tokens are across and nothing is left to come."""
    start = time.perf_counter()
    press()
    while not page.evaluate(THERE, tokens):
        assert time.perf_counter() - start < 120, f"{tokens} tokens are never there"
        time.sleep(0.005)
    return time.perf_counter() - start


def pan(page: object) -> tuple[float, float]:
    """Frames a second, and milliseconds of the longest, while the map is dragged to and fro."""
    box = page.locator(".pane").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.evaluate(WATCH)
    for n in range(300):
        page.mouse.move(x + 100 - abs(n % 40 - 20) * 10, y + 100 - abs(n % 40 - 20) * 10)
    times = page.evaluate("() => { cancelAnimationFrame(window.watching_); return window.frames_ }")
    page.mouse.up()
    gaps = [b - a for a, b in zip(times, times[1:], strict=False)]
    return 1000 * len(gaps) / sum(gaps), max(gaps)


if __name__ == "__main__":
    main()
