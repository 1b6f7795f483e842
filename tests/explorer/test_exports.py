"""What is taken along: pictures, numbers and the page from the server, links, and the page from the disk, offline."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode

import pytest
from made import made, translated
from PIL import Image
from screens import CHAT, TEXT, asking, drawn, quiet, registered, settled, turned, until
from starlette.testclient import TestClient

from klieg.explorer import exports
from klieg.explorer.desk import Desk
from klieg.explorer.server import application
from klieg.trace import Trace
from klieg.views import figures, svg
from klieg.views.html import html
from klieg.views.palette import DARK
from klieg.views.region import pooled_region, region
from klieg.views.summary import summary


@pytest.fixture
def ask() -> Callable:
    """ask("one/pictures/svg?head=1") of a desk with a text and a translation."""
    desk = Desk({}, {"one": made("random", "one two three"), "two": translated("translator", "one two three")})
    client = TestClient(application(desk, 8137, "<title>page</title>"), base_url="http://127.0.0.1:8137")
    return lambda path: client.get(f"/api/traces/{path}")


def test_a_picture_is_that_of_the_place(ask) -> None:
    answer = ask("one/pictures/svg?call=2&head=3&token=1&scale=hide&lang=zh&dark=true")
    wanted = figures.page(made("random", "one two three"), 2, 3, 1, kind="self", scale="no-first", theme=DARK, language="zh")
    assert answer.text == svg.lower(wanted)
    assert answer.headers["content-type"].startswith("image/svg+xml")
    assert answer.headers["content-disposition"] == 'attachment; filename="klieg.svg"'


def test_a_call_of_a_translation_is_of_its_kind(ask) -> None:
    said = ask("two/pictures/json?call=5&head=1&token=2").json()   # two of the encoder, then self and cross in turn
    found = translated("translator", "one two three")
    call = exports.call_of(found, 5)
    assert (said["open"]["kind"], said["open"]["layer"]) == (call.kind, call.layer) == ("cross", 1)
    assert said == json.loads(json.dumps(summary(found, 1, 1, 2, "cross")))


def test_pixels_and_the_page(ask) -> None:
    with Image.open(io.BytesIO(ask("one/pictures/png").content)) as image:
        assert image.format == "PNG" and min(image.size) > 400
    assert ask("one/pictures/html").text == html(made("random", "one two three"))
    asked = "screen=film&film.at=2&cell=3.1&name=%22%3C"
    found = ask(f"one/pictures/html?{urlencode({'view': asked})}").text
    assert found == html(made("random", "one two three"), asked)
    assert f'<script type="application/x-klieg" id="klieg-view">{asked}</script>' in found
    assert "</script><b>" not in html(made("random", "one"), "</script><b>")


def test_a_part_of_a_map(ask, monkeypatch) -> None:
    trace = made("random", "one two three")
    found = pooled_region(trace, 1, 2, (1, 4), (0, 3))
    assert ask("one/pictures/svg?call=1&head=2&rows=1-4&keys=0-3").text == svg.lower(region(trace, found, scale="linear"))
    said = ask("one/pictures/json?call=1&head=2&rows=1-4&keys=0-3").json()
    assert said["row_edges"] == [1, 2, 3, 4] and said["max"] == found.pooled.max.tolist()
    monkeypatch.setattr(exports, "LONGEST", 3)      # of a long text the whole map, and no page
    assert ask("one/pictures/json").json()["key_edges"] == [0, 1, 2, 3, 4]
    assert "one page holds up to 3" in ask("one/pictures/html").json()["error"]


@pytest.mark.parametrize(("path", "status"), [
    ("one/pictures/pdf", 422), ("one/pictures/svg?call=3", 422), ("one/pictures/svg?head=4", 422),
    ("one/pictures/svg?token=4", 422), ("one/pictures/svg?rows=3-1", 422), ("one/pictures/svg?rows=a", 422),
    ("one/pictures/svg?scale=warm", 422),
    ("one/pictures/html?view=%3Cb%3E", 422), (f"one/pictures/html?view={'a' * 2001}", 422),
    ("one/pictures/svg?head=-1", 422), ("gone/pictures/svg", 404)])
def test_what_is_not_there_is_refused_in_one_line(ask, path: str, status: int) -> None:
    answer = ask(path)
    assert answer.status_code == status and list(answer.json()) == ["error"] and "\n" not in answer.json()["error"]


def saved(page, format: str) -> bytes:
    """What the menu of the bar saves."""
    page.locator(".tools .menu button").first.click()
    with page.expect_download() as found:
        page.locator(".tools .menu li button", has_text=format).click()
    assert found.value.suggested_filename == f"klieg.{format.lower()}"
    until(page, f"document.querySelector('[role=status].note').textContent === 'klieg.{format.lower()} is saved.'")
    return Path(found.value.path()).read_bytes()


def test_the_menu_saves_what_is_looked_at(page, served) -> None:
    trace = made("random", "one two three")
    drawn(page, served(Desk({}, {"random": trace})) + "#lang=en&screen=heads&theme=dark&layer=2&head=3&cell=3.1")
    assert saved(page, "SVG").decode() == svg.lower(figures.page(trace, 2, 3, 3, kind="self", theme=DARK))
    assert saved(page, "PNG").startswith(b"\x89PNG")
    asked = "lang=en&theme=dark&screen=heads&layer=2&head=3&stage=weight&scale=linear&colour=entropy&cell=3.1"
    assert saved(page, "HTML").decode() == html(trace, asked)
    assert json.loads(saved(page, "JSON")) == json.loads(json.dumps(summary(trace, 2, 3, 3, "self")))


def test_a_refusal_is_said(page, served, monkeypatch) -> None:
    drawn(page, served(Desk({}, {"random": made("random", "one two three")})) + "#lang=en&screen=heads")
    monkeypatch.setattr(exports, "LONGEST", 3)
    page.locator(".tools .menu button").first.click()
    page.locator(".tools .menu li button", has_text="HTML").click()
    until(page, "document.querySelector('[role=status].note').textContent.includes('one page holds up to 3')")


def test_a_link_is_copied_and_opens_the_same_view(page, served) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    address = served(Desk({"chat": CHAT}))
    drawn(page, f"{address}#lang=zh&screen=heads&text={TEXT}&layer=2&head=5&theme=dark")
    page.locator(".tools .tool").last.click()
    until(page, "document.querySelector('[role=status].note').textContent === '链接已复制。'")
    link = page.evaluate("navigator.clipboard.readText()")
    assert link == page.url and "layer=2" in link and "theme=dark" in link


def test_every_screen_is_the_same_after_a_reload(page, served) -> None:
    asked = asking(page)
    address = served(Desk({"chat": CHAT})) + f"#lang=en&text={TEXT}&layer=3&head=5&cell=4.2&theme=dark&scale=log"
    drawn(page, address)
    for screen in sorted(registered(page), key="film".__eq__):     # the film last: after it all show what it wrote
        turned(page, screen)
        said, link = quiet(page, asked), page.url
        page.reload()
        settled(page)
        assert quiet(page, asked) == said, screen
        assert page.url == link and f"screen={screen}" in link


@pytest.fixture
def offline(browser, tmp_path: Path) -> Callable:
    """offline(trace) -> its page, opened from the disk by a browser without a network."""
    contexts, said = [], []

    def opened(trace: Trace):
        path = tmp_path / "trace.html"
        path.write_text(html(trace), "utf-8")
        context = browser.new_context(locale="en", reduced_motion="reduce", offline=True)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
        drawn(page, f"{path.as_uri()}#lang=en")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert said == []


def test_every_screen_opens_from_the_disk_with_the_network_off(offline) -> None:
    page = offline(made("random", "one two three"))
    for screen in registered(page):
        drawn(page, f"{page.url.partition('#')[0]}#lang=en&screen={screen}")
        assert page.locator(f"[aria-current=page][data-screen={screen}]").count() == 1
        assert page.locator("main [role=alert]").count() == 0, screen
        assert page.locator("main").inner_text().strip(), screen


def test_the_page_on_the_disk_saves_the_numbers_of_the_summary(offline) -> None:
    for trace, kind in ((made("random", "one two three"), "self"), (translated("translator", "one two three"), "cross")):
        page = offline(trace)
        drawn(page, f"{page.url.partition('#')[0]}#lang=en&screen=heads&layer=1&head=2&cell=2.1")
        said, wanted = json.loads(saved(page, "JSON")), json.loads(json.dumps(summary(trace, 1, 2, 2, kind)))
        for table in (said["open"].pop("weights"), *said.pop("looks")), (said["open"].pop("scores"),):
            others = ((wanted["open"].pop("weights"), *wanted.pop("looks")) if "looks" in wanted else
                      (wanted["open"].pop("scores"),))
            flat, known = ([x for rows in tables for row in rows for x in row] for tables in (table, others))
            assert [x is None for x in flat] == [x is None for x in known]
            assert [x for x in flat if x is not None] == pytest.approx([x for x in known if x is not None], abs=1e-5)
        assert said == wanted   # names, texts, ids, kinds, certificates and probabilities to the last digit


def test_a_page_on_the_disk_opens_on_the_screen_that_it_was_saved_of(browser, tmp_path: Path) -> None:
    path = tmp_path / "trace.html"
    path.write_text(html(made("random", "one two three"), "screen=film&lang=zh&film.at=1"), "utf-8")
    context = browser.new_context(locale="en", offline=True)
    page = context.new_page()
    page.set_default_timeout(20_000)
    for address, screen in ((path.as_uri(), "film"), (f"{path.as_uri()}#lang=en&screen=heads", "heads")):
        drawn(page, address)
        assert page.locator(f"[aria-current=page][data-screen={screen}]").count() == 1
    context.close()
