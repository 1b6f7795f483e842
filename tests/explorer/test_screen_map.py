"""The map: a long text opens on it, every zoom shows the trace's own numbers, and keys, links and words lead through it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import parse_qs

import pytest
import torch
from made import Maker, made
from screens import drawn, settled, until

from klieg import attention
from klieg.attention import Mask
from klieg.explorer.desk import Desk
from klieg.kernels import survey
from klieg.survey import SurveySpec
from klieg.trace import Call, Trace
from klieg.views.html import html

N, HEAD = 3000, 1
NEEDLE = (2750, 900)      # the strongest link far from the diagonal
READY = ".map.ready"


def long_trace(kept: bool = True) -> Trace:
    """A call of two heads on one key head over 3,000 words, with one link that stands out."""
    random = torch.Generator().manual_seed(5)
    q, k, v = (torch.randn(1, heads, N, 16, generator=random) for heads in (2, 1, 1))
    k[0, 0, NEEDLE[1]] = 3 * q[0, HEAD, NEEDLE[0]]
    s = attention.hide(attention.scores(q, k), Mask.causal())
    lse = attention.log_sum_exp(s)
    found = survey(q, k, lse, Mask.causal(), SurveySpec(top=8, map=64))
    out = attention.output(attention.weights(s, lse), v)
    call = Call(0, "self", q, k, v, lse, out, Mask.causal(), 0.25, "dense", survey=found)
    if not kept:
        call.certificate = call.certify()
        call.groups, call.q, call.k, call.v, call.output = 1, None, None, None, None
    words = [f"word{n}" if n % 20 else "↩" for n in range(N - 1)]
    return Trace("long", "text", list(range(N)), ["⟨s⟩", *words], [call], torch.zeros(1, 4), list("abcd"))


TRACE = long_trace()
MAP = TRACE.calls[0].weights(HEAD).double()


@pytest.fixture(scope="module")
def address(served) -> str:
    return served(Desk({}, {"long": TRACE})) + f"#lang=en&head={HEAD}"


def opened(page, address: str) -> None:
    drawn(page, address)
    page.wait_for_selector(READY)


def view(page) -> tuple[float, float, float]:
    """The middle of the view and how many tokens are across, as the address has them."""
    given = parse_qs(page.evaluate("location.hash.slice(1)"))
    return tuple(float(n) for n in given["map.at"][0].split(","))


def pointed(page, x: float, y: float) -> dict[str, float]:
    """What the card says at a share of the map's width and height."""
    box = page.locator(".pane").bounding_box()
    page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
    card = page.locator(".hover:not(.light)")
    first = card.locator("data.max")
    return {"max": float(first.get_attribute("value")), "query": int(first.get_attribute("data-query")),
            "key": int(first.get_attribute("data-key")),
            **{name: float(card.locator(f"data.{name}").get_attribute("value")) for name in ("mean", "score", "lse")
               if card.locator(f"data.{name}").count()}}


def test_a_long_text_opens_on_the_map_with_its_strongest_link(page, address: str) -> None:
    opened(page, address)
    assert page.locator("nav [data-screen=map][aria-current]").count() == 1 or "screen=map" in page.url
    links = page.locator("ol button")
    until(page, "document.querySelectorAll('ol button').length >= 6")
    found = [(int(b.get_attribute("data-query")), int(b.get_attribute("data-key")), float(b.get_attribute("data-weight")))
             for b in links.all()]
    aside = MAP.clone()
    aside[:, 0] = 0
    aside.fill_diagonal_(0)
    wanted = aside.flatten().topk(len(found)).values.tolist()
    assert [w for *_, w in found] == pytest.approx(wanted, rel=1e-4)
    assert all(w == pytest.approx(MAP[i, j].item(), rel=1e-4) for i, j, w in found)


def test_a_bucket_says_its_largest_and_its_mean(page, address: str) -> None:
    opened(page, address)
    bucket = int(page.locator(".map").get_attribute("data-bucket"))
    assert bucket == 8     # 3,000 tokens in about 600 pixels
    for x, y in ((0.1, 0.5), (NEEDLE[1] / N, NEEDLE[0] / N), (0.9, 0.95), (0.02, 0.99)):
        said = pointed(page, x, y)
        i, j = said["query"], said["key"]
        assert i % bucket == j % bucket == 0 and abs(i - y * N) < 2 * bucket and abs(j - x * N) < 2 * bucket
        part = MAP[i:i + bucket, j:j + bucket]
        assert said["max"] == pytest.approx(part.max().item(), rel=1e-4)
        assert said["mean"] == pytest.approx(part.mean().item(), rel=1e-4)
    assert pointed(page, (NEEDLE[1] + 0.5) / N, (NEEDLE[0] + 0.5) / N)["max"] == pytest.approx(MAP[NEEDLE].item(), rel=1e-4)


def test_the_zoom_ends_in_cells_with_numbers_and_their_arithmetic(page, address: str) -> None:
    query, key = NEEDLE
    opened(page, f"{address}&cell={query}.{key}&map.at={query},{key},14")
    assert page.locator(".map").get_attribute("data-bucket") == "1"
    for x, y in ((0.3, 0.3), (0.52, 0.5), (0.9, 0.1)):
        said = pointed(page, x, y)
        i, j = said["query"], said["key"]
        assert abs(i - query) <= 7 and abs(j - key) <= 7
        assert said["max"] == pytest.approx(MAP[i, j].item(), rel=1e-4)
        assert said["score"] - said["lse"] == pytest.approx(MAP[i, j].log().item(), abs=1e-4)
    page.keyboard.press("Enter")
    card = page.locator(".card")
    wanted = TRACE.cell(0, HEAD, query, key)
    for name in ("dot", "scaled", "weight"):
        assert float(card.locator(f"data.{name}").get_attribute("value")) == pytest.approx(getattr(wanted, name), rel=1e-6)
    assert card.locator("td.factor").count() == 32
    page.keyboard.press("Escape")
    assert card.count() == 0 and page.locator("#map-cell[aria-selected=true]").count() == 1


def test_keys_zoom_pan_and_choose(page, address: str) -> None:
    opened(page, f"{address}&map.at=1500,1000,400")
    until(page, "document.querySelectorAll('ol button').length > 1")
    page.keyboard.press("+")
    until(page, "Math.abs(location.hash.match(/map.at=\\d+%2C\\d+%2C(\\d+)/)[1] - 200) <= 1")
    page.keyboard.press("-")
    until(page, "Math.abs(location.hash.match(/map.at=\\d+%2C\\d+%2C(\\d+)/)[1] - 400) <= 1")
    before = view(page)
    page.keyboard.press("ArrowRight")
    until(page, "+location.hash.match(/map.at=\\d+%2C(\\d+)/)[1] > it", before[1])
    page.keyboard.press("ArrowUp")
    until(page, "+location.hash.match(/map.at=(\\d+)/)[1] < it", before[0])
    page.wait_for_selector("ol:not(.old)")
    chosen = "[...document.querySelectorAll('ol button')].findIndex(b => b.getAttribute('aria-pressed') === 'true')"
    at = page.evaluate(chosen)
    for n in (1, 2):
        page.keyboard.press("j")
        until(page, f"{chosen} === it", (at + n) % 8)
    for scale in ("hide", "row", "linear", "log"):
        page.keyboard.press("l")
        until(page, "location.hash.includes(`map.scale=${it}`)", scale)
        page.wait_for_selector(READY)
    page.keyboard.press("t")
    until(page, "location.hash.includes('map.unit=word')")


def test_the_wheel_zooms_about_the_pointer_and_dragging_pans(page, address: str) -> None:
    opened(page, f"{address}&map.at=1500,1000,1000")
    box = page.locator(".pane").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 4)
    page.mouse.wheel(0, -640)
    until(page, "+location.hash.match(/map.at=\\d+%2C\\d+%2C(\\d+)/)[1] < 300")
    query, key, across = view(page)
    assert across == pytest.approx(250, abs=2)
    # A quarter from the corner stood 1500 - 250 and 1000 - 250, and stands there still.
    assert (query - across / 4, key - across / 4) == pytest.approx((1250, 750), abs=3)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 4, steps=4)
    page.mouse.up()
    until(page, "+location.hash.match(/map.at=\\d+%2C(\\d+)/)[1] < it", key - across / 5)


def test_text_and_tokens_are_found(page, address: str) -> None:
    opened(page, f"{address}&map.at=1500,1000,100")
    page.keyboard.press("/")
    page.keyboard.type("word2005")
    page.keyboard.press("Enter")
    row = MAP[2006].clone()
    row[0] = row[2006] = 0
    cell = f"2006.{int(row.argmax())}"
    until(page, "location.hash.includes(`cell=${it}`)", cell)
    assert page.locator(".query .own").inner_text() == "word2005"
    assert page.locator(".query h3").inner_text().endswith("token 2,006")
    assert "1 of 1" in page.locator(".find").inner_text()
    page.wait_for_selector(".key .lit")
    lit = page.eval_on_selector_all(".key .lit", "found => found.map(b => [+b.dataset.token, +b.dataset.weight])")
    assert lit and all(weight == pytest.approx(MAP[2006, token].item(), rel=1e-4) for token, weight in lit)
    page.locator("#find").fill("1,234")
    page.keyboard.press("Shift+Enter")
    column = MAP[:, 1234].clone()
    column[1234] = 0
    until(page, "location.hash.includes(`cell=${it}`)", f"{int(column.argmax())}.1234")
    page.locator("#find").fill("nowhere")
    page.keyboard.press("Enter")
    until(page, "document.querySelector('.find').innerText.includes('not found')")


def test_a_tile_still_loading_is_sunk_paper(page, address: str) -> None:
    opened(page, address + "&theme=light")
    page.route(re.compile("/(tiles|cells)/"), lambda route: None)     # never answered
    page.get_by_role("button", name="512", exact=True).click()
    until(page, "document.querySelector('.map').dataset.bucket === '1'")
    assert int(page.locator(".map").get_attribute("data-loading")) > 0
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    pixel = page.evaluate("""() => { const c = document.querySelector('.map canvas')
        return [...c.getContext('2d').getImageData(c.width - 30, c.height - 30, 1, 1).data] }""")
    assert pixel == [0xF4, 0xF2, 0xEC, 255]
    page.goto("about:blank")
    page.unroute_all(behavior="ignoreErrors")


def test_what_was_not_kept_is_said(page, served) -> None:
    drawn(page, served(Desk({}, {"long": long_trace(kept=False)})) + f"#lang=en&head={HEAD}")
    page.wait_for_selector(READY)
    assert "not kept" in page.locator("p.note").inner_text()
    page.keyboard.press("+")
    page.keyboard.press("+")
    page.wait_for_timeout(400)
    assert page.locator(".map").get_attribute("data-bucket") == "0" and page.locator("[role=alert]").count() == 0


def test_a_short_text_and_a_translation_have_maps_too(page, served) -> None:
    server = served(Desk({"random": Maker("random"), "translator": Maker("translator")}))
    opened(page, f"{server}#lang=en&screen=map&text=one two three&layer=2&head=3&cell=3.1")
    trace = made("random", "one two three")
    assert page.locator(".map").get_attribute("data-bucket") == "1"
    box = page.locator(".pane").bounding_box()
    said = pointed(page, 32 / box["width"], 224 / box["height"])     # cells of 64 pixels
    assert (said["query"], said["key"]) == (3, 0)
    assert said["max"] == pytest.approx(trace[2].tile(3, slice(3, 4), slice(0, 1)).item(), rel=1e-5)
    opened(page, f"{server}#lang=zh&screen=map&model=translator&text=a b c&kind=cross")
    settled(page)
    assert page.locator("[role=alert]").count() == 0


def test_the_exported_page_answers_by_itself(page, tmp_path: Path) -> None:
    trace = made("random", " ".join(f"w{n}" for n in range(400)))
    (tmp_path / "page.html").write_text(html(trace), "utf-8")
    page.context.set_offline(True)
    page.set_viewport_size({"width": 1440, "height": 1100})     # 401 tokens with a pixel each
    opened(page, f"{(tmp_path / 'page.html').as_uri()}#lang=en&screen=map&layer=1&head=2")
    w = trace[1].weights(2)
    said = pointed(page, 0.3, 0.8)
    assert said["max"] == pytest.approx(w[said["query"], said["key"]].item(), rel=1e-4)
    until(page, "document.querySelectorAll('ol button').length >= 6")
    aside = w.clone()
    aside[:, 0] = 0
    aside.fill_diagonal_(0)
    found = json.loads(page.evaluate("JSON.stringify([...document.querySelectorAll('ol button')].map(b => +b.dataset.weight))"))
    assert found == pytest.approx(aside.flatten().topk(len(found)).values.tolist(), rel=1e-4)
