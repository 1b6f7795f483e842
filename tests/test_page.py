"""The page in a real browser: what is drawn, said and typed, and that its numbers are the trace's own."""

from __future__ import annotations

import shutil
import threading
import zlib
from collections.abc import Callable, Iterator

import pytest
import torch
import uvicorn
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.ui import Select, WebDriverWait

from klieg import attention, models
from klieg.attention import Mask
from klieg.errors import KliegError
from klieg.explorer.server import _listen, application
from klieg.trace import Call, Source, Trace
from klieg.views.html import html, page
from klieg.views.wire import wire
from klieg.watch import trace as watch

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver (Debian: chromium-driver)")

FLAGS = ("--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
         "--disable-component-update --disable-sync --window-size=1440,900 --lang=en").split()
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
SCRIPT = "<script>alert(1)</script>"


def made(model: str, text: str) -> Trace:
    """A trace of random q, k and v: 3 layers, 4 heads on 2 K/V heads, width 24, a softcap in the last layer."""
    tokens = ["⟨s⟩", *text.split()]
    if tokens == ["⟨s⟩"]:
        raise KliegError("the text is empty; give at least one word.")
    random = torch.Generator().manual_seed(zlib.crc32(text.encode()))
    n, calls = len(tokens), []
    for layer in range(3):
        q, k, v = (torch.randn(1, heads, n, 24, generator=random) * 1.5 for heads in (4, 2, 2))
        softcap = 3.0 if layer == 2 else None
        s = attention.hide(attention.scores(q, k, softcap=softcap), Mask.causal())
        lse = attention.log_sum_exp(s)
        calls.append(Call(layer, "self", q, k, v, lse, attention.output(attention.weights(s, lse), v), Mask.causal(),
                          24 ** -0.5, "dense", softcap=softcap))
    vocabulary = [SCRIPT, "too", *(f"word{i}" for i in range(14))]
    return Trace(model, text, list(range(n)), tokens, calls, torch.randn(n, 16, generator=random), vocabulary)


def translated(model: str, text: str, to: str = "zh") -> Trace:
    """A translation of random q, k and v: 2 layers of 4 heads; the target is the source in capitals, and one word more."""
    source, target = [f"⟨{to}⟩", *text.split(), "⟨/s⟩"], ["⟨pad⟩", *text.upper().split(), "!"]
    random = torch.Generator().manual_seed(zlib.crc32(f"{to} {text}".encode()))
    calls, i, j = [], len(target), len(source)
    for kind, rows, columns in [("encoder", j, j)] * 2 + [("self", i, i), ("cross", i, j)] * 2:
        q, k, v = (torch.randn(1, 4, n, 24, generator=random) * 1.5 for n in (rows, columns, columns))
        mask = Mask.causal() if kind == "self" else Mask()
        s = attention.hide(attention.scores(q, k), mask)
        lse = attention.log_sum_exp(s)
        layer = sum(call.kind == kind for call in calls)
        calls.append(Call(layer, kind, q, k, v, lse, attention.output(attention.weights(s, lse), v), mask, 24 ** -0.5, "dense"))
    return Trace(model, " ".join(target[1:]), list(range(i)), target, calls, torch.randn(i, 20, generator=random),
                 [f"word{n}" for n in range(20)], Source(text, [*range(j - 1), 19], source))


def answered(model: str, text: str, to: str | None) -> dict:
    if model != "translator":
        return wire(made(model, text))
    to = to or "zh"
    return {**wire(translated(model, text, to)), "languages": ["zh", "de"], "to": to}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    try:
        page()
    except KliegError as e:
        pytest.skip(str(e))
    listener = _listen(0)
    port = listener.getsockname()[1]
    app = application(["random", "another", "translator"], answered, port)
    running = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"http://127.0.0.1:{port}/"
    running.should_exit = True
    thread.join()
    listener.close()


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebDriver]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield opened
    opened.quit()


@pytest.fixture
def browser(window: WebDriver) -> Iterator[WebDriver]:
    """The window; afterwards nothing may stand on its console."""
    window.get("about:blank")
    window.get_log("browser")
    yield window
    assert [entry["message"] for entry in window.get_log("browser")] == []
    window.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def until(browser: WebDriver, true: Callable[[WebDriver], object]) -> object:
    return WebDriverWait(browser, 10, poll_frequency=0.05).until(true)


def texts(browser: WebDriver, css: str) -> list[str]:
    return [e.text for e in browser.find_elements(By.CSS_SELECTOR, css)]


def opened(browser: WebDriver, url: str, tokens: int) -> None:
    browser.get(url)
    until(browser, lambda b: len(b.find_elements(By.CSS_SELECTOR, ".queries .label")) == tokens)


def asked(browser: WebDriver) -> list[str]:
    """The addresses of everything that the page has fetched."""
    found = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    return [address for address in found if not address.startswith("data:")]


def number(browser: WebDriver, name: str) -> float:
    return float(browser.find_element(By.CSS_SELECTOR, f".card data.{name}").get_attribute("value"))


def pixels(browser: WebDriver, cells: list[tuple[int, int]]) -> list[list[int]]:
    """The colour just inside the corner of each cell, off its digits: red, green, blue, opacity."""
    return browser.execute_script("""
        const canvas = document.querySelector('canvas'), size = document.querySelector('.now').offsetWidth
        const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext('2d', { willReadFrequently: true })
        copy.drawImage(canvas, 0, 0)
        const { data } = copy.getImageData(0, 0, canvas.width, canvas.height)
        const at = (n) => Math.round((n * size + 6) * devicePixelRatio)
        return arguments[0].map(([i, j]) => [...data.slice(4 * (at(i) * canvas.width + at(j))).slice(0, 4)])""", cells)


def test_a_sentence_is_typed_and_drawn(address: str, browser: WebDriver) -> None:
    opened(browser, address + "#lang=en", 4)  # the first example
    box = browser.find_element(By.ID, "text")
    box.clear()
    box.send_keys("I love you so very much", Keys.ENTER)
    until(browser, lambda b: texts(b, ".keys .label") == ["⟨s⟩", "I", "love", "you", "so", "very", "much"])
    trace = made("random", "I love you so very much")
    weights = trace[0].weights(0)
    assert texts(browser, ".queries .label") == trace.tokens
    cells = [(i, j) for i in range(7) for j in range(i + 1)]
    lightness = {place: sum(colour[:3]) for place, colour in zip(cells, pixels(browser, cells), strict=True)}
    for a in cells:
        for b in cells:
            if weights[a] > weights[b] + 0.02:
                assert lightness[a] < lightness[b], f"{a} is the larger weight and not the darker cell than {b}"
    assert pixels(browser, [(0, 3)])[0][3] == 0  # hidden: nothing painted
    wanted = trace.next_tokens(10)
    assert texts(browser, "ol .name") == [c.token for c in wanted]
    p = [float(e.get_attribute("value")) for e in browser.find_elements(By.CSS_SELECTOR, "ol data")]
    assert p == pytest.approx([c.p for c in wanted], abs=1e-9)
    assert f"{trace.certificate.row_sum_error:.1e}".replace("e-0", "e−") in texts(browser, ".certificate")[0]


@pytest.mark.parametrize(("layer", "head", "query", "key"), [(0, 0, 4, 2), (1, 3, 5, 5), (2, 2, 3, 0), (1, 1, 2, 4)])
def test_every_number_of_the_card_is_the_traces_own(address: str, browser: WebDriver, layer: int, head: int, query: int,
                                                    key: int) -> None:
    opened(browser, f"{address}#lang=en&text=The cat chased the mouse&layer={layer}&head={head}&cell={query}.{key}", 6)
    wanted = made("random", "The cat chased the mouse").cell(layer, head, query, key)
    for name in ("dot", "scaled", "weight"):
        assert number(browser, name) == pytest.approx(getattr(wanted, name), abs=1e-5), name
    assert ("cannot see" in browser.find_element(By.CSS_SELECTOR, ".card header").text) == (wanted.reason is not None)
    browser.find_element(By.CSS_SELECTOR, ".card .all").click()
    shown = [[float(t.replace("−", "-")) for t in texts(browser, f".products tr.{row} td")] for row in ("q", "k", "sums")]
    for found, row in zip(shown, (wanted.q, wanted.k, wanted.products), strict=True):
        assert found == pytest.approx(row.tolist(), abs=6e-4)


def test_heads_are_chosen_with_mouse_and_keys(address: str, browser: WebDriver) -> None:
    opened(browser, address + "#lang=en&text=one two three&layer=0&head=0", 4)
    browser.find_element(By.ID, "head-1-2").click()
    assert "Layer 1 · Head 2 · K/V 1" in texts(browser, ".panel h2")[0]
    body = browser.find_element(By.TAG_NAME, "body")
    body.send_keys("]", ",", ",")
    assert "Layer 2 · Head 0" in texts(browser, ".panel h2")[0]
    grid, pane = browser.find_elements(By.CSS_SELECTOR, "[role=grid]")
    grid.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_DOWN)
    assert grid.get_attribute("aria-activedescendant") == "head-1-1"
    pane.send_keys(Keys.ARROW_UP, Keys.ARROW_LEFT, Keys.ARROW_LEFT, Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    now = browser.find_element(By.ID, pane.get_attribute("aria-activedescendant"))
    weight = made("random", "one two three")[1].weights(1)[2, 0].item()
    assert now.get_attribute("aria-label") == f"query two, key ⟨s⟩, weight {weight:.4f}"
    assert "layer=1&head=1" in browser.current_url and "cell=2.0" in browser.current_url
    pane.send_keys(Keys.ESCAPE)
    assert browser.find_elements(By.CSS_SELECTOR, ".card") == []
    opened(browser, browser.current_url.replace("one+two+three", "four five six seven"), 5)  # an address opens the same head
    assert "Layer 1 · Head 1" in texts(browser, ".panel h2")[0]


def test_pointing_at_a_cell_previews_it(address: str, browser: WebDriver) -> None:
    opened(browser, address + "#lang=en&text=one two three&cell=3.1", 4)
    pane = browser.find_elements(By.CSS_SELECTOR, "[role=grid]")[1]
    kept = number(browser, "weight")
    x, y = 5 - pane.size["width"] // 2, 5 - pane.size["height"] // 2  # from the middle to the first cell
    webdriver.ActionChains(browser).move_to_element_with_offset(pane, x, y).perform()
    assert number(browser, "weight") == pytest.approx(1.0) and "cell=3.1" in browser.current_url
    webdriver.ActionChains(browser).move_to_element(browser.find_element(By.TAG_NAME, "h1")).perform()
    assert number(browser, "weight") == kept


def test_steps_and_scales(address: str, browser: WebDriver) -> None:
    opened(browser, address + "#lang=en&text=one two three&cell=3.1", 4)
    trace = made("random", "one two three")
    top = trace[0].stages(0).dot.abs().max().item()
    browser.find_element(By.CSS_SELECTOR, "input[value=dot]").find_element(By.XPATH, "..").click()
    ramp = texts(browser, ".panel .ramp span")
    assert [float(t.replace("−", "-")) for t in ramp] == pytest.approx([-top, top], abs=0.06)
    assert pixels(browser, [(0, 3)])[0][3] == 255  # before the mask every score is there
    assert not browser.find_element(By.CSS_SELECTOR, "input[value=log]").is_enabled()
    browser.find_element(By.CSS_SELECTOR, "input[value=weight]").find_element(By.XPATH, "..").click()
    browser.find_element(By.CSS_SELECTOR, "input[value=hide]").find_element(By.XPATH, "..").click()
    rest = trace[0].weights(0)[:, 1:].max().item()
    assert float(texts(browser, ".panel .ramp span")[-1]) == pytest.approx(rest, abs=0.006)
    browser.find_element(By.TAG_NAME, "body").send_keys("l", "l")
    assert texts(browser, ".panel .ramp span") == ["≤ 0.0001", "1"]


def test_a_token_is_text_and_never_markup(address: str, browser: WebDriver) -> None:
    opened(browser, address + f"#lang=en&text=x {SCRIPT.replace('<', '%3C')} <img/src=x/onerror=alert(2)> y", 5)
    assert texts(browser, ".queries .label")[2] == SCRIPT
    assert SCRIPT in texts(browser, "ol .name")
    assert browser.find_elements(By.CSS_SELECTOR, "#app script, #app img") == []


def test_chinese(address: str, browser: WebDriver) -> None:
    opened(browser, address + "#lang=en&text=小 沈 阳", 4)
    browser.find_element(By.CSS_SELECTOR, "button[lang=zh]").click()
    assert texts(browser, ".heads h2") == ["12 个注意力头"] and "第 0 层" in texts(browser, ".panel h2")[0]
    assert browser.find_element(By.TAG_NAME, "html").get_attribute("lang") == "zh-Hans"
    assert texts(browser, ".certificate")[0].startswith("精确：")
    assert "lang=zh" in browser.current_url
    left = {word for word in browser.find_element(By.TAG_NAME, "body").text.split() if word.isalpha() and word.isascii()}
    names = "Klieg Transformer EN random another translator Softmax softmax Esc A D L V q k too"
    examples = "I love you The cat chased the mouse Once upon a time"
    assert left <= {*names.split(), *examples.split()}, "words that were left in English"


def test_a_mistake_is_said_and_can_be_mended(address: str, browser: WebDriver) -> None:
    opened(browser, address + "#lang=en&text=one two", 3)
    box = browser.find_element(By.ID, "text")
    box.clear()
    box.send_keys("   ", Keys.ENTER)
    until(browser, lambda b: texts(b, "[role=alert]") == ["the text is empty; give at least one word."])
    assert "422" in browser.get_log("browser")[0]["message"]  # the browser's own note of the answer, and nothing else
    box.clear()
    box.send_keys("good", Keys.ENTER)
    until(browser, lambda b: texts(b, ".queries .label") == ["⟨s⟩", "good"] and not texts(b, "[role=alert]"))


def test_a_long_text_scrolls_in_a_canvas_of_the_windows_size(address: str, browser: WebDriver) -> None:
    text = " ".join(f"w{i}" for i in range(299))
    browser.get(address + f"#lang=en&text={text.replace(' ', '+')}&cell=299.299")
    until(browser, lambda b: b.find_elements(By.CSS_SELECTOR, ".queries .label"))
    pane = browser.find_elements(By.CSS_SELECTOR, "[role=grid]")[1]
    pane.send_keys(Keys.ARROW_LEFT)
    until(browser, lambda b: texts(b, ".queries .label")[-1] == "w298")
    assert len(browser.find_elements(By.CSS_SELECTOR, ".label")) < 100
    assert browser.execute_script("const c = document.querySelector('canvas'); return c.width * c.height") < 2_000_000
    assert browser.find_element(By.ID, "cell-now").get_attribute("aria-label").startswith("query w298, key w297, weight ")


def test_a_phone(address: str, browser: WebDriver) -> None:
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    opened(browser, address + "#lang=en&text=I love you", 4)
    assert browser.execute_script("return document.documentElement.scrollWidth") == 390
    assert browser.execute_script("return getComputedStyle(document.querySelector('.sheet')).position") == "fixed"
    browser.find_element(By.CSS_SELECTOR, ".handle").click()
    until(browser, lambda b: b.find_element(By.CSS_SELECTOR, "data.dot").is_displayed())


def test_nothing_is_asked_of_another_host(address: str, browser: WebDriver) -> None:
    opened(browser, address + "#lang=en&text=one two three", 4)
    assert sorted(asked(browser)) == [address + "api/models", address + "api/trace"]
    refused = browser.execute_async_script(
        "const done = arguments[0]; fetch('http://127.0.0.2:9/').then(() => done(false), () => done(true))")
    assert refused is True
    assert "Content Security Policy" in browser.get_log("browser")[0]["message"]


def test_the_exported_page_needs_no_server(tmp_path, browser: WebDriver) -> None:
    trace = made("random", f"I {SCRIPT} you")
    file = tmp_path / "trace.html"
    file.write_text(html(trace), "utf-8")
    browser.set_network_conditions(offline=True, latency=0, throughput=0)
    opened(browser, file.as_uri() + "#lang=en&layer=1&head=2&cell=3.2", 4)
    assert number(browser, "weight") == pytest.approx(trace.cell(1, 2, 3, 2).weight, abs=1e-5)
    assert texts(browser, ".queries .label") == trace.tokens
    assert browser.find_elements(By.CSS_SELECTOR, "form, select, .examples") == []
    assert asked(browser) == []
    browser.delete_network_conditions()


def pointed(browser: WebDriver, css: str, place: int) -> None:
    webdriver.ActionChains(browser).move_to_element(browser.find_elements(By.CSS_SELECTOR, css)[place]).perform()


def shares(browser: WebDriver, css: str) -> list[float]:
    """The percentages under the tokens of a text; those below 1 count as 0."""
    return [0.0 if "<" in t else float(t.removesuffix(" %")) for t in texts(browser, f"{css} small") if t.strip()]


def test_a_translation_opens_on_cross_attention_and_turns_to_the_others(tmp_path, browser: WebDriver) -> None:
    trace = translated("translator", "the cat sat")
    file = tmp_path / "trace.html"
    file.write_text(html(trace), "utf-8")
    opened(browser, file.as_uri() + "#lang=en&layer=1&head=2&cell=4.1", 5)
    assert texts(browser, ".queries .label") == trace.tokens and texts(browser, ".keys .label") == trace.source.tokens
    assert texts(browser, ".translation p") == ["the cat sat → THE CAT SAT !"] and "2 + 2 layers" in texts(browser, ".model")[0]
    assert number(browser, "weight") == pytest.approx(trace.cell(1, 2, 4, 1, kind="cross").weight, abs=1e-5)
    assert "+ M" not in texts(browser, ".formula")[0] and texts(browser, "figcaption") == [""]
    assert texts(browser, "ol .name") == [c.token for c in trace.next_tokens(10)]
    assert "What the decoder writes after “⟨pad⟩ THE CAT SAT !”" in texts(browser, "h2")
    for kind, tokens in (("encoder", trace.source.tokens), ("self", trace.tokens)):
        browser.find_element(By.CSS_SELECTOR, f"input[value={kind}]").find_element(By.XPATH, "..").click()
        assert texts(browser, ".queries .label") == texts(browser, ".keys .label") == tokens
        last = len(tokens) - 1
        browser.find_elements(By.CSS_SELECTOR, "[role=grid]")[1].send_keys(*[Keys.ARROW_LEFT] * len(tokens))
        assert number(browser, "weight") == pytest.approx(trace.cell(1, 2, last, 0, kind=kind).weight, abs=1e-5)
        assert f"kind={kind}" in browser.current_url and ("+ M" in texts(browser, ".formula")[0]) == (kind == "self")
    opened(browser, browser.current_url.replace("kind=self", "kind=encoder"), 5)   # an address opens the same kind
    assert texts(browser, ".queries .label") == trace.source.tokens


def test_a_word_of_the_target_shows_its_words_of_the_source_and_back(tmp_path, browser: WebDriver) -> None:
    trace = translated("translator", "the old cat sat down")
    file = tmp_path / "trace.html"
    file.write_text(html(trace), "utf-8")
    opened(browser, file.as_uri() + "#lang=en&layer=0&head=1", 7)
    weights = 100 * trace[0, "cross"].weights(1)
    for query in (2, 5):
        pointed(browser, ".target button", query)
        assert texts(browser, ".words h2 span")[-1] == f"Where “{trace.tokens[query]}” looks"
        assert shares(browser, ".source") == pytest.approx(weights[query].tolist(), abs=1.0) and not shares(browser, ".target")
    for key in (1, 6):
        pointed(browser, ".source button", key)
        assert texts(browser, ".words h2 span")[-1] == f"Who looks at “{trace.source.tokens[key]}”"
        assert shares(browser, ".target") == pytest.approx(weights[:, key].tolist(), abs=1.0) and not shares(browser, ".source")
        assert number(browser, "weight") == pytest.approx(weights[:, key].max().item() / 100, abs=1e-5)
    browser.find_elements(By.CSS_SELECTOR, ".source button")[2].click()
    assert f"cell={int(weights[:, 2].argmax())}.2" in browser.current_url


def test_a_translator_of_several_languages_is_asked_for_another(address: str, browser: WebDriver) -> None:
    opened(browser, address + "#lang=en&text=one two&model=translator", 4)
    assert texts(browser, ".into option") == ["zh", "de"] and texts(browser, ".keys .label")[0] == "⟨zh⟩"
    Select(browser.find_element(By.CSS_SELECTOR, ".into select")).select_by_visible_text("de")
    until(browser, lambda b: texts(b, ".keys .label") == ["⟨de⟩", "one", "two", "⟨/s⟩"])
    assert "to=de" in browser.current_url
    Select(browser.find_element(By.CSS_SELECTOR, ".model select")).select_by_visible_text("random")
    until(browser, lambda b: texts(b, ".keys .label") == ["⟨s⟩", "one", "two"])
    assert texts(browser, ".into, .translation") == [] and "kind=" not in browser.current_url


def test_a_translation_in_chinese_on_a_phone(tmp_path, browser: WebDriver) -> None:
    file = tmp_path / "trace.html"
    file.write_text(html(translated("翻译", "一 二 三")), "utf-8")
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    opened(browser, file.as_uri() + "#lang=zh", 5)
    assert browser.execute_script("return document.documentElement.scrollWidth") == 390
    assert texts(browser, ".translation label") == ["编码器", "解码器", "交叉注意力"]
    left = {word for word in browser.find_element(By.TAG_NAME, "body").text.split() if word.isalpha() and word.isascii()}
    assert left <= {"Klieg", "EN", "Softmax", "softmax", "q", "k"}, "words that were left in English"


@pytest.mark.skipif("chat" not in models.bundled(), reason="the bundled model is not there")
def test_the_bundled_model(tmp_path, browser: WebDriver) -> None:
    trace = watch("chat", "I love you")
    file = tmp_path / "trace.html"
    file.write_text(html(trace), "utf-8")
    last = len(trace.tokens) - 1
    opened(browser, file.as_uri() + f"#lang=en&layer=3&head=2&cell={last}.1", last + 1)
    wanted = trace.cell(3, 2, last, 1)
    for name in ("dot", "scaled", "weight"):
        assert number(browser, name) == pytest.approx(getattr(wanted, name), abs=1e-5), name
    assert texts(browser, "ol .name") == [c.token for c in trace.next_tokens(10)]
