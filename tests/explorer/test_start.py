"""How the page begins: at once from a trace that ships with it, then from the server; and what can be typed or dropped."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

import pytest
import torch
from made import Maker, made
from safetensors import safe_open
from safetensors.torch import load
from screens import CHAT, registered, settled, turned, until

from klieg.explorer import first
from klieg.explorer.desk import Desk
from klieg.explorer.turns import Turn
from klieg.trace import Trace
from klieg.views import heatmap
from klieg.views.html import page as built

sys.path.append(str(Path(__file__).parents[2] / "docs"))
import refresh


class Held(Maker):
    """A model that takes its time until it is let go."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.go, self.asked, self.ended = threading.Event(), threading.Event(), threading.Event()

    def read(self, text: str, to: str | None, turn: Turn, written: list[int] | None = None) -> Trace:
        self.asked.set()
        try:
            while not self.go.wait(0.02):
                turn.offer()
            return super().read(text, to, turn)
        finally:
            self.ended.set()


@pytest.fixture
def held() -> Held:
    return Held("held")


def said(message: bytes, folder: Path) -> dict:
    (folder / "message").write_bytes(message)
    with safe_open(folder / "message", "pt") as file:
        return json.loads(file.metadata()["klieg"])


def close(a: object, b: object) -> bool:
    """Equal, numbers to 1e-5."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(close(a[name], b[name]) for name in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(close, a, b))
    return abs(a - b) <= 1e-5 if isinstance(a, float) else a == b


def test_the_shipped_trace_is_what_the_model_computes_now(tmp_path: Path) -> None:
    """After new weights: python docs/refresh.py."""
    shipped, now = first.FILE.read_bytes(), refresh.first_trace()
    assert close(said(shipped, tmp_path), said(now, tmp_path))
    old, new = load(shipped), load(now)
    assert old.keys() == new.keys()
    for name in old:
        torch.testing.assert_close(old[name], new[name], rtol=0, atol=1e-5)


def test_it_is_small() -> None:
    assert first.FILE.stat().st_size <= 300_000


def test_the_served_page_carries_it_and_an_exported_one_does_not() -> None:
    text = built().read_text("utf-8")
    assert 'id="klieg-first"' not in text and 'id="klieg-first"' in first.within(text)
    assert first.within("no place") == "no place"


def test_the_page_is_alive_before_the_model_answers(page, served, held: Held, tmp_path: Path) -> None:
    page.goto(served(Desk({"held": held})) + "#lang=en&screen=heads")
    page.wait_for_selector("main canvas")
    assert not held.go.is_set()
    until(page, "document.querySelector('.progress').textContent.includes('held reads the text')")
    assert "shown meanwhile: chat on “I love you”, as it ships with Klieg" in page.locator(".progress").inner_text()
    shipped = said(first.FILE.read_bytes(), tmp_path)
    assert page.locator(".queries .label").all_inner_texts() == shipped["tokens"]
    bound = heatmap.bound(shipped["certificate"]["row_sum_error"]).replace("e-", "e−")
    assert bound in page.locator(".certificate").inner_text()
    page.keyboard.press("]")      # what is shown can be looked at, and the model goes on reading
    page.wait_for_selector("text=Layer 1 · Head 0")
    assert page.locator(".progress.busy").count() == 1 and not held.ended.is_set()
    held.go.set()
    settled(page)
    assert page.locator(".progress").inner_text() == ""
    weights = made("held", "I love you").calls[1].weights(0)
    query = page.evaluate("new URLSearchParams(location.hash.slice(1)).get('cell')").split(".")
    page.wait_for_selector(".card data.weight")
    shown = float(page.locator(".card data.weight").first.get_attribute("value"))
    assert shown == pytest.approx(weights[int(query[0]), int(query[1])].item(), abs=1e-6)


def test_another_text_is_waited_for_with_an_empty_page(page, served, held: Held) -> None:
    """Numbers of one text are never shown under another."""
    page.goto(served(Desk({"held": held})) + "#lang=en&screen=heads&text=one two&cell=2.1&layer=2")
    until(page, "document.querySelector('.progress').textContent.includes('held reads the text')")
    assert page.locator("main canvas").count() == 0 and "ships" not in page.locator(".progress").inner_text()
    held.go.set()
    settled(page)
    assert "layer=2" in page.url and "cell=2.1" in page.url


def test_waiting_can_be_ended_and_the_model_stops(page, served, held: Held) -> None:
    page.goto(served(Desk({"held": held})) + "#lang=en&screen=heads")
    assert held.asked.wait(10)
    page.get_by_label("Stop waiting").click()
    page.wait_for_selector(".progress:not(.busy)", state="attached")
    assert held.ended.wait(10)
    assert "shown meanwhile" in page.locator(".progress").inner_text()   # and still whose numbers these are
    held.go.set()
    page.fill("#text", "one two")
    page.press("#text", "Enter")
    until(page, "document.querySelectorAll('.queries .label').length === 3")
    assert page.locator(".progress").inner_text() == ""


def test_a_text_of_several_lines(page, served) -> None:
    page.goto(served(Desk({"made": Maker("made")})) + "#lang=en&screen=heads")
    settled(page)
    page.fill("#text", "one")
    page.press("#text", "Shift+Enter")
    page.type("#text", "two")
    assert page.locator("#text").input_value() == "one\ntwo"
    page.press("#text", "Enter")
    until(page, "location.hash.includes('text=one%0Atwo')")
    settled(page)
    assert page.locator(".queries .label").all_inner_texts() == ["⟨s⟩", "one", "two"]


DROP = """([name, bytes]) => {
    const carried = new DataTransfer()
    carried.items.add(new File([typeof bytes === 'number' ? 'A'.repeat(bytes) : new Uint8Array(bytes)], name))
    for (const kind of ['dragover', 'drop']) {
        window.dispatchEvent(new DragEvent(kind, { dataTransfer: carried, bubbles: true, cancelable: true }))
    }
}"""


def test_a_file_is_read_in_the_browser(page, served, tmp_path: Path) -> None:
    page.goto(served(Desk({"made": Maker("made")})) + "#lang=en&screen=heads")
    settled(page)
    page.evaluate(DROP, ["poem.txt", list("春 天\n来\n".encode())])
    until(page, "document.querySelectorAll('.queries .label').length === 4")
    assert page.locator("#text").input_value() == "春 天\n来"
    (tmp_path / "other.txt").write_text("six seven")
    page.set_input_files("input[type=file]", tmp_path / "other.txt")
    until(page, "document.querySelector('#text').value === 'six seven'")
    page.evaluate(DROP, ["photo.png", [0x89, 0x50, 0xFF]])
    assert page.locator(".refused").inner_text() == "photo.png is no text in UTF-8; convert it first."
    page.evaluate(DROP, ["book.txt", 1_000_001])
    assert "longer than 1,000,000 bytes" in page.locator(".refused").inner_text()


def test_examples_are_texts_that_are_shown(page, served) -> None:
    page.goto(served(Desk({"made": Maker("made")})) + "#lang=en&screen=heads")
    settled(page)
    names = page.locator(".examples button").all_inner_texts()
    assert names[0] == "I love you" and names[-1] == "A long story" and len(names) == 6
    page.locator(".examples button").nth(4).click()
    until(page, "location.hash.includes('text=The+cat+chased+the+mouse')")
    label, row = (page.locator(css).bounding_box() for css in (".label >> nth=0", ".examples"))
    assert label["height"] < row["height"]


def test_every_model_is_offered_with_its_shape(page, served) -> None:
    desk = Desk({"one": Maker("one"), "two": Maker("two")}, {"saved": made("one", "a b c")})
    page.goto(served(desk) + "#lang=en&screen=heads")
    settled(page)
    chooser = page.locator("header .model select")
    assert chooser.locator("option").all_inner_texts() == ["saved", "one", "two"]
    assert page.locator("header .model .chooser").inner_text().split("\n")[:2] == ["saved", "3 layers · 4 heads · 2 K/V groups"]
    chooser.select_option("two")
    until(page, "location.hash.includes('model=two')")
    settled(page)


def test_on_a_phone_everything_is_in_a_menu(page, served) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(served(Desk({"one": Maker("one"), "two": Maker("two")})) + "#lang=en&screen=heads&theme=light")
    settled(page)
    page.locator(".box select").select_option("two")
    until(page, "location.hash.includes('model=two')")
    settled(page)
    page.locator(".more button").first.click()
    page.get_by_text("Light or dark").click()
    until(page, "location.hash.includes('theme=dark')")


def test_an_error_is_one_line_and_the_next_text_is_shown(page, served) -> None:
    page.goto(served(Desk({"made": Maker("made")})) + "#lang=en&screen=heads")
    settled(page)
    page.fill("#text", " ")
    page.press("#text", "Enter")
    page.wait_for_selector("[role=alert]")
    assert page.locator("[role=alert]").inner_text() == "the text is empty; give at least one word."
    page.fill("#text", "one")
    page.press("#text", "Enter")
    page.wait_for_selector("main canvas")


def test_a_text_is_read_by_a_model_where_a_saved_trace_was_open(page, served) -> None:
    page.goto(served(Desk({"random": Maker("random")}, {"kept.klieg": made("kept", "a saved text")})) + "#lang=en&screen=heads")
    page.wait_for_selector(".queries .label >> text=saved")
    assert page.input_value("#text") == ""
    page.fill("#text", "one two")
    page.press("#text", "Enter")
    page.wait_for_selector(".queries .label >> text=two")
    assert page.locator(".queries .label").all_inner_texts() == ["⟨s⟩", "one", "two"] and "model=random" in page.url


@pytest.mark.parametrize(("language", "words"), [("en", "The link is about “absent”"), ("zh", "这个链接看的是“absent”")])
def test_a_link_about_a_model_that_is_not_there_shows_no_other(page, served, language: str, words: str) -> None:
    page.goto(served(Desk({"here": Maker("here")})) + f"#lang={language}&screen=heads&model=absent&text=one two")
    alert = page.locator("[role=alert]")
    alert.wait_for()
    assert alert.inner_text().startswith(words) and "klieg serve --model" in alert.inner_text()
    assert page.locator("main canvas").count() == 0 and "model=absent" in page.url
    page.press("#text", "Enter")
    settled(page)
    assert alert.count() == 0 and page.locator(".queries .label").count() == 3 and "model=here" in page.url


def test_back_and_forward_lead_through_the_screens(page, served) -> None:
    page.goto(served(Desk({"chat": Maker("chat")})) + "#lang=en&screen=heads&text=one two")
    settled(page)
    there = "location.hash.includes(`screen=${it}&`) && document.querySelector(`[data-screen=${it}][aria-current]`)"
    page.evaluate("window.same = true")      # until the page is loaded again
    for key, screen in (("3", "map"), ("7", "flow")):
        page.keyboard.press(key)
        until(page, there, screen)
    page.keyboard.press("]")
    until(page, "location.hash.includes('layer=1')")     # no place of its own to come back to
    for go, screen in ((page.go_back, "map"), (page.go_back, "heads"), (page.go_forward, "map")):
        go()
        until(page, there, screen)
        settled(page)
        assert "layer=1" in page.url and page.evaluate("window.same")
    with page.expect_response("**/api/models"):     # an address that somebody wrote is loaded
        page.evaluate("location.hash = location.hash.replace('layer=1', 'layer=0')")
    settled(page)
    assert "layer=0" in page.url


def test_the_name_of_the_model_is_never_cut_for_its_shape(page, served) -> None:
    page.goto(served(Desk({"chat": CHAT})) + "#lang=en&text=one two")
    settled(page)
    cut = {}
    for screen in registered(page):
        for width in (1340, 1440):
            page.set_viewport_size({"width": width, "height": 900})
            turned(page, screen)
            name = page.locator("header .model b")
            if name.evaluate("e => e.scrollWidth > e.clientWidth"):
                cut[screen, width] = name.inner_text()
    assert cut == {}


@pytest.mark.parametrize("screen", ["atlas", "labs"])
def test_where_no_text_is_open_the_foot_names_each_key_once(page, served, screen: str) -> None:
    page.goto(served(Desk({"chat": Maker("chat")})) + f"#lang=en&screen={screen}")
    page.wait_for_selector("main > footer")
    keys = page.locator("main > footer kbd").all_inner_texts()
    assert len(keys) == len(set(keys)) and "?" in keys, keys
