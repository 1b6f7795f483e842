"""What the film, what if and compare are saved as: the numbers of the screen, from the server and through the page's menu."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from made import made, translated
from PIL import Image
from screens import CHAT, drawn, settled, until
from starlette.testclient import TestClient
from test_similarity import streamed

from klieg import models
from klieg.analysis.similarity import similarity
from klieg.explorer import comparisons, films, suppositions
from klieg.explorer.desk import Desk
from klieg.explorer.server import application
from klieg.views import comparison, film, svg, wire
from klieg.views.html import html
from klieg.views.palette import DARK
from klieg.whatif import effects

CHATS = pytest.mark.skipif("chat" not in models.bundled(), reason="the bundled model is not there")


@pytest.fixture
def client() -> TestClient:
    desk = Desk({"chat": CHAT}, {"one": made("random", "one two three"), "long": made("random", "one two three four five"),
                                 "two": translated("translator", "one two three"), "a": streamed("one two three"),
                                 "b": streamed("two and one"), "other": streamed("two", model="other")})
    found = TestClient(application(desk, 8137, "<title>page</title>"), base_url="http://127.0.0.1:8137")
    found.desk = desk
    return found


def asked(client: TestClient, path: str) -> dict:
    answer = client.get(f"/api/{path}")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-disposition"] == 'attachment; filename="klieg.json"'
    return answer.json()


def test_a_film_is_saved_up_to_the_open_step(client: TestClient) -> None:
    trace = client.desk.trace("long")
    said = asked(client, "traces/long/steps/2/pictures/json?stop=5&call=1&head=3&other=one")
    assert [step["token"] for step in said["strips"][0]["steps"]] == ["two", "three", "four"]
    for n, step in enumerate(said["strips"][0]["steps"], start=2):
        p = trace.logits[n - 1].double().softmax(-1)
        assert step["p"] == pytest.approx(float(p[trace.ids[n]]), abs=1e-12)
        assert [c["id"] for c in step["candidates"]] == p.argsort(descending=True)[:12].tolist()
        assert step["looks"] == trace[1].row(3, n - 1).tolist()
    assert [step["token"] for step in said["strips"][1]["steps"]] == ["two", "three"]     # it has no more
    picture = client.get("/api/traces/long/steps/2/pictures/svg?stop=5&call=1&head=3&other=one&dark=true&lang=zh").text
    traces = trace, client.desk.trace("one")
    strips = [film.Strip(each, 2, 5, each[1], 3, name) for each, name in zip(traces, "AB", strict=True)]
    assert picture == svg.lower(film.page(strips, DARK, language="zh"))
    with Image.open(io.BytesIO(client.get("/api/traces/two/steps/1/pictures/png?call=3").content)) as image:
        assert image.format == "PNG" and min(image.size) > 300


def test_a_comparison_is_saved_with_its_curve(client: TestClient) -> None:
    a, b = client.desk.trace("a"), client.desk.trace("b")
    said = asked(client, "comparisons/pictures/json?a=a&b=b&token_a=2&token_b=1&call=1&head=3")
    assert [(s["layer"], s["cosine"], s["mean"]) for s in said["steps"]] == [
        (s.layer, s.cosine, s.mean) for s in similarity(a, 2, b, 1)]
    assert said["a"]["open"]["weights"] == a[1].weights(3).tolist() and said["b"]["token"] == 1
    p = b.logits[1].double().softmax(-1)
    assert [c["id"] for c in said["b"]["next"]["candidates"]] == p.argsort(descending=True)[:8].tolist()
    sides = comparison.Side(a, 2, a[1], 3, "A"), comparison.Side(b, 1, b[1], 3, "B")
    wanted = comparison.page(comparison.Comparison(*sides, list(similarity(a, 2, b, 1))), scale="log")
    asking = "/api/comparisons/pictures/svg?a=a&b=b&token_a=2&token_b=1&call=1&head=3&scale=log"
    assert client.get(asking).text == svg.lower(wanted)
    assert asked(client, "comparisons/pictures/json?a=a&b=other&token_a=2&token_b=1")["steps"] is None
    assert "没有共同的向量空间" in client.get("/api/comparisons/pictures/svg?a=a&b=other&token_a=2&token_b=1&lang=zh").text
    assert "were not kept" in client.get("/api/comparisons/pictures/svg?a=one&b=one&token_a=2&token_b=1").text
    assert client.get("/api/comparisons/pictures/png?a=two&b=one&token_a=1&token_b=1&call=5&head=2").status_code == 200


@CHATS
def test_a_change_is_saved_as_it_was_found_and_with_the_ranking_that_was_made(client: TestClient, monkeypatch) -> None:
    with client.desk.turns.turn() as turn:
        id = client.desk.put(CHAT.read("I love you", None, turn))
    assert "ranking" not in asked(client, f"suppositions/{id}/pictures/json")
    found = client.post("/api/suppositions", json={"id": id, "changes": ["mute 3.2", "cut 1.0.2.1"]}).json()
    changed = found["after"]["id"]
    monkeypatch.setattr(suppositions, "whatif", None)      # nothing is computed again
    said = asked(client, f"suppositions/{changed}/pictures/json?call=1")
    assert said["changes"] == found["changes"] and said["divergence"] == found["divergence"] and "ranking" not in said
    before, after = client.desk.trace(id), client.desk.trace(changed)
    assert said["open"]["before"] == before[1].weights(0).tolist() and said["open"]["after"] == after[1].weights(0).tolist()
    assert said["open"]["after"][2][1] == 0 != said["open"]["before"][2][1]
    client.post("/api/suppositions/ranks", json={"id": id})
    wanted = list(effects(CHAT.own, "I love you"))
    for path in (changed, id):
        ranking = asked(client, f"suppositions/{path}/pictures/json")["ranking"]
        assert [(e["layer"], e["head"], e["divergence"]) for e in ranking] == [(e.layer, e.head, e.divergence) for e in wanted]
    assert asked(client, f"suppositions/{id}/pictures/json?after=1").get("ranking") is None
    picture = client.get(f"/api/suppositions/{changed}/pictures/svg?lang=zh").text
    assert all(text in picture for text in ("mute 3.2", "cut 1.0.2.1", "逐个静音每个头的影响", "之前", "精确"))
    client.delete(f"/api/traces/{id}")
    assert client.get(f"/api/suppositions/{changed}/pictures/png").status_code == 200     # what it was compared with is kept


@pytest.mark.parametrize(("path", "status"), [
    ("traces/one/steps/1/pictures/html", 422), ("traces/none/steps/1/pictures/svg", 404),
    ("traces/one/steps/1/pictures/svg?head=4", 422), ("traces/one/steps/1/pictures/svg?other=none", 404),
    ("suppositions/one/pictures/svg?call=9", 422),
    ("suppositions/one/pictures/svg?after=4", 422), ("suppositions/none/pictures/json", 404),
    ("comparisons/pictures/svg?a=a&b=b&token_a=4&token_b=0", 422), ("comparisons/pictures/svg?a=a&b=b&token_a=0", 422)])
def test_what_is_not_there_is_refused_in_one_line(client: TestClient, path: str, status: int) -> None:
    answer = client.get(f"/api/{path}")
    assert answer.status_code == status and list(answer.json()) == ["error"] and "\n" not in answer.json()["error"]


def test_what_is_too_long_for_paper_is_refused(client: TestClient, monkeypatch) -> None:
    for module, path in ((films, "traces/one/steps/1"), (suppositions, "suppositions/one"), (comparisons, "comparisons")):
        monkeypatch.setattr(module, "LONGEST", 3)
        query = "?a=one&b=one&token_a=1&token_b=1" if module is comparisons else ""
        assert "up to 3 tokens" in client.get(f"/api/{path}/pictures/svg{query}").json()["error"]


@pytest.fixture
def saved(page) -> Callable[[str], bytes]:
    """saved("JSON"): what the menu of the bar saves."""
    def take(format: str) -> bytes:
        page.locator(".tools .menu button").first.click()
        with page.expect_download() as found:
            page.locator(".tools .menu li button", has_text=format).click()
        return Path(found.value.path()).read_bytes()

    return take


@CHATS
def test_the_menu_saves_the_screen_that_is_open(page, served, saved: Callable[[str], bytes]) -> None:
    address = served(Desk({"chat": CHAT})) + "#lang=en&text=I love you&layer=3&head=5&screen="
    drawn(page, address + "whatif&whatif.changes=mute 3.2")
    page.wait_for_selector("data.kl")
    until(page, "document.querySelectorAll('[data-divergence]').length === 48")
    said = json.loads(saved("JSON"))
    assert said["made"] == ["mute 3.2"] and len(said["ranking"]) == 48
    assert said["divergence"] == float(page.locator("data.kl").get_attribute("value"))
    assert "What muting each head does" in saved("SVG").decode() and saved("PNG").startswith(b"\x89PNG")
    assert 'id="klieg-view">lang=en&theme=light&screen=heads&' in saved("HTML").decode()
    drawn(page, address + "compare&compare.text=You love me")
    page.wait_for_selector("data.cosine")
    said = json.loads(saved("JSON"))
    shown = [float(x) for x in page.locator("data.cosine").evaluate_all("all => all.map(e => e.value)")]
    assert [step["cosine"] for step in said["steps"]] == shown and said["b"]["text"] == "You love me"
    assert "cosine of the vectors" in saved("SVG").decode()
    drawn(page, address + "film")
    until(page, "document.querySelectorAll('.frame').length > 1 && !document.querySelector('.do [role=status]')")
    page.locator(".frame").first.click()
    settled(page)
    said = json.loads(saved("JSON"))
    [strip] = said["strips"]
    shown = [float(x) for x in page.locator(".frame").evaluate_all("all => all.map(e => e.dataset.p)")]
    assert [step["p"] for step in strip["steps"]] == shown[:1] and strip["open"]["layer"] == 3
    assert "film.at=" in saved("HTML").decode().partition("</script>")[0]


def close(said: object, wanted: object) -> None:
    """The same numbers under the same names, as far as float32 goes."""
    if isinstance(wanted, dict):
        assert isinstance(said, dict) and said.keys() == wanted.keys()
        for name, each in wanted.items():
            close(said[name], each)
    elif isinstance(wanted, list):
        assert isinstance(said, list) and len(said) == len(wanted)
        for one, other in zip(said, wanted, strict=True):
            close(one, other)
    else:
        assert said == (pytest.approx(wanted, abs=2e-6) if isinstance(wanted, float) else wanted)


def test_a_page_in_a_file_saves_what_its_screen_shows(page, tmp_path: Path, saved: Callable[[str], bytes]) -> None:
    trace = streamed("one two three four")
    for name, view in (("film", "film.at=2"), ("compare", "compare.a=3&compare.b=1")):
        (tmp_path / f"{name}.html").write_text(html(trace, f"lang=en&screen={name}&layer=1&head=3&{view}"), "utf-8")
    drawn(page, (tmp_path / "film.html").as_uri())
    until(page, "document.querySelectorAll('.frame').length > 1")
    wanted = film.numbers([film.Strip(trace, 1, 4, trace[1], 3)])
    for step in wanted["strips"][0]["steps"]:
        step["candidates"] = step["candidates"][:wire.CANDIDATES]      # as many as a file carries
        if step["rank"] > wire.CANDIDATES:
            step["rank"] = step["p"] = None
    close(json.loads(saved("JSON")), wanted)
    drawn(page, (tmp_path / "compare.html").as_uri())
    page.wait_for_selector("data.cosine")
    until(page, "document.querySelectorAll('.next li, .predictions li, table td').length > 0")
    sides = comparison.Side(trace, 3, trace[1], 3, "A"), comparison.Side(trace, 1, trace[1], 3, "B")
    close(json.loads(saved("JSON")), comparison.numbers(comparison.Comparison(*sides, list(similarity(trace, 3, trace, 1)))))
