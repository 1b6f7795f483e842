"""Refusals speak the language of the page: each has its line in Chinese, and the page shows it."""

from __future__ import annotations

import re

import pytest
from made import Maker, made
from screens import CHAT, drawn, until
from starlette.requests import Request
from starlette.testclient import TestClient

from klieg.errors import KliegError
from klieg.explorer import spoken
from klieg.explorer.desk import Closed, Desk
from klieg.explorer.server import application

HAN = re.compile("[\u3400-\u9fff]")


@pytest.mark.parametrize(("header", "language"), [
    ("zh-Hans", "zh"), ("zh", "zh"), ("zh-CN,zh;q=0.9,en;q=0.8", "zh"), ("ZH-tw;q=0.9", "zh"), ("en-US,zh;q=0.5", "en"),
    ("", "en"), ("zha", "en"), ("*", "en"), (",zh", "en")])
def test_the_first_language_that_is_asked_for_is_spoken(header: str, language: str) -> None:
    assert spoken.language({"accept-language": header}) == language
    assert spoken.language({}) == "en"


def asking(path: str, language: str = "zh") -> Request:
    return Request({"type": "http", "path": path, "headers": [(b"accept-language", language.encode())]})


def test_a_line_without_chinese_has_a_chinese_sentence_before_it() -> None:
    deep, both = KliegError("the text is odd."), Closed("this text is not open any more; show it again.")
    assert spoken.line(both, asking("/api/traces")) == "这段文字已经关闭；请重新查看它。"
    assert spoken.line(both, asking("/api/traces", "en")) == str(both)
    assert spoken.line(deep, asking("/api/traces", "en")) == "the text is odd."
    paths = ("/api/traces", "/api/films", "/api/suppositions", "/api/suppositions/ranks", "/api/comparisons", "/nowhere",
             "/api/traces/a/heads/1/2", "/api/traces/a/pictures/svg", "/api/comparisons/pictures/png")
    said = {path: spoken.line(deep, asking(path)) for path in paths}
    assert all(line.endswith("。原因（英文）：the text is odd.") and HAN.match(line) for line in said.values())
    assert len(set(said.values())) == len(said) - 1     # both files


@pytest.fixture
def client() -> TestClient:
    return TestClient(application(Desk({"chat": CHAT}, {"one": made("random", "one two")}), 8137, "<p>"),
                      base_url="http://127.0.0.1:8137", headers={"accept-language": "zh-Hans"})


@pytest.mark.parametrize(("method", "path", "body", "says"), [
    ("GET", "traces/none", None, "这段文字已经关闭；请重新查看它。"),
    ("GET", "traces/one/heads/9/0", None, "没有第 9 次注意力计算；这段文字的是 0 到 2。"),
    ("GET", "traces/one/heads/0/9", None, "没有第 9 头；第 0 层的头是 0 到 3。"),
    ("GET", "traces/one/streams/self/9?row=0", None, "没有第 9 层；模型的层是 0 到 2。"),
    ("GET", "traces/one/tiles/0/0?rows=0:9&keys=0:1&bucket=1", None, "没有 0:9 这些行；第 0 层的行是 0:3。"),
    ("GET", "traces/one/next/-1", None, "请求不合要求：after：不能小于 0。"),
    ("GET", f"traces/{'a' * 201}", None, "请求不合要求：id：最多 200 个字符。"),
    ("GET", "nothing", None, "没有这个地址；请刷新本页。"), ("PUT", "models", None, "这个地址不这样询问；请刷新本页。"),
    ("POST", "traces", {"text": "a"}, "请求不合要求：model：缺少这一项。"),
    ("POST", "traces", {"text": "a", "model": "nobody"}, "启动服务器时没有给它模型 'nobody'。它有的是：chat。"),
    ("POST", "suppositions", {"changes": ["mute 0.1"]}, "请二者取一。"),
    ("POST", "suppositions", {"changes": []}, "至少 1 项"),
    ("GET", "traces/one/pictures/pdf", None, "必须是"),
])
def test_answers_are_chinese_where_chinese_is_asked_for(client: TestClient, method: str, path: str, body: dict | None,
                                                        says: str) -> None:
    answer = client.request(method, f"/api/{path}", json=body)
    assert 400 <= answer.status_code < 500 and list(answer.json()) == ["error"]
    assert says in answer.json()["error"] and "\n" not in answer.json()["error"]
    english = client.request(method, f"/api/{path}", json=body, headers={"accept-language": "en"}).json()["error"]
    assert not HAN.search(english)


def test_the_guard_speaks_chinese_too(client: TestClient) -> None:
    elsewhere = client.get("/api/models", headers={"host": "elsewhere"}).json()["error"]
    assert elsewhere == "这台服务器只应答它自己的地址；请打开 klieg serve 打印的地址。"
    long = client.post("/api/traces", json={"text": "a" * 1_000_001, "model": "chat"}).json()["error"]
    assert long == "这段文字超过 1,000,000 字节；请缩短它。"


def test_the_page_asks_in_its_language_and_shows_what_it_is_told(page, served) -> None:
    asked = []
    page.on("request", lambda request: asked.append(request) if "/api/" in request.url and request.method != "DELETE" else None)
    trace = made("random", "one two three")
    drawn(page, served(Desk({"maker": Maker("maker")}, {"saved": trace})) + "#lang=zh&model=saved&screen=whatif&"
          "whatif.changes=mute 0.1")
    page.wait_for_selector(".prediction [role=alert]")
    assert page.locator(".prediction [role=alert]").inner_text() == "启动服务器时没有给它模型 'random'。它有的是：maker。"
    assert asked and {request.header_value("accept-language") for request in asked} == {"zh-Hans"}
    page.locator("#text").fill(" ")
    page.locator("#text").press("Enter")
    until(page, "document.querySelector('main > [role=alert]')?.textContent === '文字是空的；请至少写一个词。'")
    page.locator(".languages button").first.click()
    page.locator("#text").press("Enter")
    until(page, "document.querySelector('main > [role=alert]')?.textContent === 'the text is empty; give at least one word.'")
