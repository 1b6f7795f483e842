"""The screen of heads: what is drawn, said and typed, and that its numbers are the trace's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from made import SCRIPT, Maker, made, translated
from screens import settled, until

from klieg import models
from klieg.explorer.desk import Desk
from klieg.trace import Trace
from klieg.views import heatmap
from klieg.views.html import html
from klieg.watch import trace as watch

# The colour just inside the corner of each cell, off its digits: red, green, blue, opacity.
PIXELS = """cells => {
    const canvas = document.querySelector('.map canvas'), size = document.querySelector('.now').offsetWidth
    const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext('2d', { willReadFrequently: true })
    copy.drawImage(canvas, 0, 0)
    const { data } = copy.getImageData(0, 0, canvas.width, canvas.height)
    const at = n => Math.round((n * size + 6) * devicePixelRatio)
    return cells.map(([i, j]) => [...data.slice(4 * (at(i) * canvas.width + at(j))).slice(0, 4)])
}"""
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def address(served) -> str:
    return served(Desk({name: Maker(name) for name in ("random", "another", "translator")})) + "#screen=heads&"


@pytest.fixture
def file(tmp_path: Path):
    """file(trace) -> the address of its exported page."""
    def written(trace: Trace) -> str:
        path = tmp_path / "trace.html"
        path.write_text(html(trace), "utf-8")
        return path.as_uri() + "#screen=heads&"

    return written


def opened(page, url: str, tokens: int) -> None:
    page.goto("about:blank")
    page.goto(url)
    settled(page)
    until(page, f"document.querySelectorAll('.queries .label').length === {tokens}")


def texts(page, css: str) -> list[str]:
    return page.locator(css).all_inner_texts()


def number(page, name: str) -> float:
    return float(page.locator(f".card data.{name}").first.get_attribute("value"))


def close(trace: Trace, place: tuple[int, int, int, int], page, **kind: str) -> bool:
    """Whether the card shows the three numbers of a place (layer, head, query, key)."""
    wanted = trace.cell(*place, **kind)
    return all(number(page, name) == pytest.approx(getattr(wanted, name), abs=1e-5) for name in ("dot", "scaled", "weight"))


def kept(page) -> str:
    """The cell that the address keeps."""
    return page.evaluate("new URLSearchParams(location.hash.slice(1)).get('cell')")


def heading(page) -> str:
    return page.locator(".head h2").first.inner_text()


def test_a_sentence_is_typed_and_drawn(address: str, page) -> None:
    opened(page, address + "lang=en", 4)  # the first example
    page.fill("#text", "I love you so very much")
    page.press("#text", "Enter")
    until(page, "document.querySelectorAll('.keys .label').length === 7")
    settled(page)
    trace = made("random", "I love you so very much")
    weights = trace[0].weights(0)
    assert texts(page, ".queries .label") == trace.tokens == texts(page, ".keys .label")
    cells = [(i, j) for i in range(7) for j in range(i + 1)]
    lightness = {place: sum(colour[:3]) for place, colour in zip(cells, page.evaluate(PIXELS, cells), strict=True)}
    for a in cells:
        for b in cells:
            if weights[a] > weights[b] + 0.02:
                assert lightness[a] < lightness[b], f"{a} is the larger weight and not the darker cell than {b}"
    assert page.evaluate(PIXELS, [(0, 3)])[0][3] == 0  # hidden: nothing painted
    query = int(kept(page).split(".")[0])
    wanted = trace.next_tokens(10, query)
    assert texts(page, "ol .name") == [c.token for c in wanted]
    p = [float(e.get_attribute("value")) for e in page.locator("ol data").all()]
    assert p == pytest.approx([c.p for c in wanted], abs=1e-9)
    assert heatmap.bound(trace.certificate.row_sum_error).replace("e-", "e−") in texts(page, ".certificate")[0]


@pytest.mark.parametrize(("layer", "head", "query", "key"), [(2, 2, 3, 0), (1, 1, 2, 4)])
def test_every_number_of_the_card_is_the_traces_own(address: str, page, layer: int, head: int, query: int, key: int) -> None:
    opened(page, f"{address}lang=en&text=The cat chased the mouse&layer={layer}&head={head}&cell={query}.{key}", 6)
    trace = made("random", "The cat chased the mouse")
    wanted = trace.cell(layer, head, query, key)
    assert close(trace, (layer, head, query, key), page)
    assert ("cannot see" in page.locator(".card header").inner_text()) == (wanted.reason is not None)
    page.locator(".card .all").click()
    shown = [[float(t.replace("−", "-")) for t in texts(page, f".products tr.{row} td")] for row in ("q", "k", "sums")]
    for found, row in zip(shown, (wanted.q, wanted.k, wanted.products), strict=True):
        assert found == pytest.approx(row.tolist(), abs=6e-4)


def test_heads_are_chosen_with_mouse_and_keys(address: str, page) -> None:
    opened(page, address + "lang=en&text=one two three&layer=0&head=0", 4)
    page.locator("#head-1-2").click()
    until(page, "document.querySelector('.head h2').textContent.includes('Layer 1 · Head 2')")
    assert "K/V 1" in heading(page)
    page.locator("body").press("]")
    page.locator("body").press(",")
    page.locator("body").press(",")
    until(page, "document.querySelector('.head h2').textContent.includes('Layer 2 · Head 0')")
    grid, pane = page.locator(".grid"), page.locator(".pane")
    grid.press("ArrowRight")
    grid.press("ArrowDown")
    until(page, "document.querySelector('.head h2').textContent.includes('Layer 1 · Head 1')")
    assert grid.get_attribute("aria-activedescendant") == "head-1-1"
    query = int(kept(page).split(".")[0])
    for key in ("ArrowUp", *["ArrowLeft"] * 4):
        pane.press(key)
    tokens = ["⟨s⟩", "one", "two", "three"]
    weight = made("random", "one two three")[1].weights(1)[query - 1, 0].item()
    now = page.locator(f"#{pane.get_attribute('aria-activedescendant')}")
    assert now.get_attribute("aria-label") == f"query {tokens[query - 1]}, key ⟨s⟩, weight {weight:.4f}"
    until(page, f"location.hash.includes('layer=1&head=1') && location.hash.includes('cell={query - 1}.0')")
    pane.press("Escape")
    until(page, "document.querySelector('.card') === null")
    opened(page, page.url.replace("one+two+three", "four five six seven"), 5)  # an address opens the same head
    assert "Layer 1 · Head 1" in heading(page)


def test_pointing_at_a_cell_previews_it(address: str, page) -> None:
    opened(page, address + "lang=en&text=one two three&cell=3.1", 4)
    before = number(page, "weight")
    page.locator(".pane").hover(position={"x": 5, "y": 5})
    until(page, "document.querySelector('.card data.weight').value === '1'")
    assert kept(page) == "3.1"
    page.locator("h1").hover()
    until(page, f"+document.querySelector('.card data.weight').value === {before}")
    page.locator(".pane").click(position={"x": 5, "y": 5})
    until(page, "location.hash.includes('cell=0.0')")


def test_steps_and_scales(address: str, page) -> None:
    opened(page, address + "lang=en&text=one two three&cell=3.1", 4)
    trace = made("random", "one two three")
    ramp = ".map .ramp span"
    top = trace[0].stages(0).dot.abs().max().item()
    page.locator("label:has(input[value=dot])").click()
    until(page, "document.querySelector('.map .ramp span').textContent.startsWith('−')")
    assert [float(t.replace("−", "-")) for t in texts(page, ramp) if t] == pytest.approx([-top, top], abs=0.06)
    assert page.evaluate(PIXELS, [(0, 3)])[0][3] == 255  # before the mask every score is there
    assert page.locator("input[value=log]").is_disabled()
    page.locator("label:has(input[value=weight])").click()
    page.locator("label:has(input[value=hide])").click()
    rest = trace[0].weights(0)[:, 1:].max().item()
    until(page, f"Math.abs([...document.querySelectorAll('{ramp}')].at(-1).textContent - {rest}) < 0.006")
    page.locator("body").press("l")
    page.locator("body").press("l")
    until(page, f"document.querySelector('{ramp}').textContent === '≤ 0.0001'")
    assert [t for t in texts(page, ramp) if t] == ["≤ 0.0001", "1"]


def test_heads_stand_in_the_order_of_their_statistic(address: str, page) -> None:
    opened(page, address + "lang=en&text=one two three four", 5)
    page.locator("button.sort").click()
    until(page, "document.querySelector('.ranked') !== null")
    said = [cell.get_attribute("aria-label") for cell in page.locator(".ranked [role=gridcell]").all()]
    values = [float(label.split(", ")[2].split()[0]) for label in said]
    assert len(values) == 12 and values == sorted(values, reverse=True)


def test_chinese(address: str, page) -> None:
    opened(page, address + "lang=en&text=小 沈 阳", 4)
    page.locator("button[lang^=zh]").click()
    until(page, "document.querySelector('.heads h2').textContent === '12 个注意力头'")
    assert "第 0 层" in heading(page)
    assert page.locator("html").get_attribute("lang") == "zh-Hans"
    assert texts(page, ".certificate")[0].startswith("精确：")
    assert "lang=zh" in page.url


def test_a_mistake_is_said_and_can_be_mended(address: str, page) -> None:
    opened(page, address + "lang=en&text=one two", 3)
    page.fill("#text", "   ")
    page.press("#text", "Enter")
    page.wait_for_selector("[role=alert]")
    assert texts(page, "[role=alert]") == ["the text is empty; give at least one word."]
    page.fill("#text", "good")
    page.press("#text", "Enter")
    until(page, "document.querySelectorAll('.queries .label').length === 2")
    assert texts(page, ".queries .label") == ["⟨s⟩", "good"] and not texts(page, "[role=alert]")


def test_a_long_text_scrolls_in_a_canvas_of_the_windows_size(address: str, page) -> None:
    text = "+".join(f"w{i}" for i in range(299))
    page.goto(address + f"lang=en&text={text}&cell=299.299")
    page.wait_for_selector(".queries .label")
    page.locator(".pane").press("ArrowLeft")
    until(page, "[...document.querySelectorAll('.queries .label')].at(-1).textContent === 'w298'")
    assert page.locator(".map .label").count() < 100
    assert page.evaluate("(c => c.width * c.height)(document.querySelector('.map canvas'))") < 2_000_000
    assert page.locator("#cell-now").get_attribute("aria-label").startswith("query w298, key w297, weight ")


def test_a_phone(address: str, page) -> None:
    page.set_viewport_size(PHONE)
    opened(page, address + "lang=en&text=I love you", 4)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.evaluate("getComputedStyle(document.querySelector('.sheet')).position") == "fixed"
    page.locator(".handle").click()
    page.locator(".card data.dot").wait_for(state="visible")


def test_nothing_is_asked_of_another_host(address: str, browser) -> None:
    page, said, asked = browser.new_page(), [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("request", lambda request: asked.append((request.method, request.url)))
    host = address.partition("#")[0]
    opened(page, address + "lang=en&text=one two three", 4)
    assert {url for _, url in asked if not url.startswith((host, "data:", "blob:", "about:"))} == set()
    assert ("GET", f"{host}api/models") in asked and ("POST", f"{host}api/traces") in asked
    assert said == []
    refused = page.evaluate("fetch('http://127.0.0.2:9/').then(() => false, () => true)")
    assert refused is True and "Content Security Policy" in said[0]
    page.close()


def test_the_exported_page_needs_no_server(page, file) -> None:
    trace, asked = made("random", f"I {SCRIPT} you"), []
    page.context.set_offline(True)
    page.on("request", lambda request: asked.append(request.url))
    opened(page, file(trace) + "lang=en&layer=1&head=2&cell=3.2", 4)
    assert close(trace, (1, 2, 3, 2), page)
    assert texts(page, ".queries .label") == trace.tokens
    assert page.locator("form, .model select, .examples").count() == 0
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:", "about:"))] == []


def shares(page, css: str) -> list[float]:
    """The percentages under the tokens of a text; those below 1 count as 0."""
    return [0.0 if "<" in t else float(t.removesuffix(" %")) for t in texts(page, f"{css} small") if t.strip()]


def test_a_translation_opens_on_cross_attention_and_turns_to_the_others(page, file) -> None:
    trace = translated("translator", "the cat sat")
    opened(page, file(trace) + "lang=en&layer=1&head=2&cell=4.1", 5)
    assert texts(page, ".queries .label") == trace.tokens and texts(page, ".keys .label") == trace.source.tokens
    assert texts(page, ".translation p") == ["the cat sat → THE CAT SAT !"]
    assert close(trace, (1, 2, 4, 1), page, kind="cross")
    assert page.locator("[data-formula=weight]").count() == 1 and texts(page, "figcaption") == [""]
    assert texts(page, "ol .name") == [c.token for c in trace.next_tokens(10)]
    assert "What the decoder writes after “⟨pad⟩ THE CAT SAT !”" in texts(page, "h2")
    for kind, tokens in (("encoder", trace.source.tokens), ("self", trace.tokens)):
        page.locator(f"label:has(input[value={kind}])").click()
        until(page, f"location.hash.includes('kind={kind}')")
        until(page, f"document.querySelectorAll('.keys .label').length === {len(tokens)}")
        assert texts(page, ".queries .label") == texts(page, ".keys .label") == tokens
        for _ in tokens:
            page.locator(".pane").press("ArrowLeft")
        assert close(trace, (1, 2, len(tokens) - 1, 0), page, kind=kind)
        assert page.locator("[data-formula=weightMasked]").count() == (1 if kind == "self" else 0)
    opened(page, page.url.replace("kind=self", "kind=encoder"), 5)   # an address opens the same kind
    assert texts(page, ".queries .label") == trace.source.tokens


def test_a_word_of_the_target_shows_its_words_of_the_source_and_back(page, file) -> None:
    trace = translated("translator", "the old cat sat down")
    opened(page, file(trace) + "lang=en&layer=0&head=1", 7)
    weights = 100 * trace[0, "cross"].weights(1)
    title = ".words h2 span:last-child"
    for query in (2, 5):
        page.locator(".target button").nth(query).hover()
        until(page, f"document.querySelector('{title}').textContent === 'Where “{trace.tokens[query]}” looks'")
        assert shares(page, ".source") == pytest.approx(weights[query].tolist(), abs=1.0) and not shares(page, ".target")
    for key in (1, 6):
        page.locator(".source button").nth(key).hover()
        until(page, f"document.querySelector('{title}').textContent === 'Who looks at “{trace.source.tokens[key]}”'")
        assert shares(page, ".target") == pytest.approx(weights[:, key].tolist(), abs=1.0) and not shares(page, ".source")
        assert number(page, "weight") == pytest.approx(weights[:, key].max().item() / 100, abs=1e-5)
    page.locator(".source button").nth(2).click()
    until(page, f"location.hash.includes('cell={int(weights[:, 2].argmax())}.2')")


def test_a_translator_of_several_languages_is_asked_for_another(address: str, page) -> None:
    opened(page, address + "lang=en&text=one two&model=translator", 4)
    assert texts(page, ".into option") == ["zh", "de"] and texts(page, ".keys .label")[0] == "⟨zh⟩"
    page.locator(".into select").select_option("de")
    until(page, "document.querySelector('.keys .label')?.textContent === '⟨de⟩'")
    until(page, "location.hash.includes('to=de')")
    assert texts(page, ".keys .label") == ["⟨de⟩", "one", "two", "⟨/s⟩"]
    page.locator("header .model select").select_option("random")
    until(page, "document.querySelectorAll('.keys .label').length === 3")
    assert texts(page, ".keys .label") == ["⟨s⟩", "one", "two"]
    assert page.locator(".into, .translation").count() == 0 and "kind=" not in page.url


def test_a_translation_in_chinese_on_a_phone(page, file) -> None:
    page.set_viewport_size(PHONE)
    opened(page, file(translated("翻译", "一 二 三")) + "lang=zh", 5)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert texts(page, ".translation label") == ["编码器", "解码器", "交叉注意力"]


@pytest.mark.skipif("chat" not in models.bundled(), reason="the bundled model is not there")
def test_the_bundled_model(page, file) -> None:
    trace = watch("chat", "I love you")
    last = len(trace.tokens) - 1
    opened(page, file(trace) + f"lang=en&layer=3&head=2&cell={last}.1", last + 1)
    assert close(trace, (3, 2, last, 1), page)
    assert texts(page, "ol .name") == [c.token for c in trace.next_tokens(10)]
