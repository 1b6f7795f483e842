"""The screen of labs: what is shown is what the lab found, a lab is run and stopped by hand and key, and the table is asked."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from screens import drawn, settled, until
from test_accessibility import AXE, FOUND, PHONE, needs_axe

from klieg.explorer import experiments
from klieg.explorer.desk import Desk
from klieg.kernels import attend
from klieg.labs import NAMES, find


@pytest.fixture(scope="module")
def address(served) -> str:
    return served(Desk({})) + "#lang=en&theme=light&screen=labs"      # a lab needs no text and no model that is open


def ran(page, address: str) -> None:
    drawn(page, address)
    page.keyboard.press("r")
    page.locator(".conclusion").wait_for()


def asked(query: list[float], temperature: float) -> tuple[list[float], float]:
    """The weights and the answer of klieg's own attention; a temperature divides the query."""
    table = find("ages").table
    keys, values = (torch.tensor(x, dtype=torch.float64) for x in (table.keys, table.values))
    q = (torch.tensor(query, dtype=torch.float64) / temperature).view(1, 1, 1, 3)
    weights = attend(q, keys.view(1, 1, 4, 3), torch.eye(4, dtype=torch.float64).view(1, 1, 4, 4)).output.flatten()
    return weights.tolist(), attend(q, keys.view(1, 1, 4, 3), values.view(1, 1, 4, 1)).output.item()


def values(page, css: str) -> list[float]:
    return page.eval_on_selector_all(css, "all => all.map(e => Number(e.value))")


def test_every_lab_is_listed_with_its_claim(address: str, page) -> None:
    drawn(page, address)
    said = page.locator("nav li button").all_inner_texts()
    assert len(said) == len(NAMES)
    for text, name in zip(said, NAMES, strict=True):
        assert find(name).title[0] in text and find(name).claim[0] in text


def test_what_is_shown_is_what_was_found(address: str, page) -> None:
    ran(page, address + "&labs.name=ages")
    found = find("ages").run()
    assert found.conclusion[0] in page.locator(".conclusion").inner_text()
    charts = page.locator(".charts figure")
    assert charts.count() == len(found.charts)
    for n, chart in enumerate(found.charts):
        assert chart.title[0] in charts.nth(n).inner_text()
        columns = [list(series) for series in chart.series.values()]
        shown = values(page, f".charts figure:nth-of-type({n + 1}) tbody data")
        assert shown == [x for row in zip(*columns, strict=True) for x in row]
        heights = page.eval_on_selector_all(f".charts figure:nth-of-type({n + 1}) circle.s0",
                                            "all => all.map(e => Number(e.getAttribute('cy')))")
        drawn_first = sorted(range(len(heights)), key=lambda at: heights[at])
        assert drawn_first == sorted(range(len(heights)), key=lambda at, own=columns[0]: -own[at])   # the highest is on top
    page.locator("details:has(code) summary").first.click()
    assert dict(zip(page.locator("th code").all_inner_texts(), values(page, "tr:has(code) td data"), strict=True)) == dict(
        found.numbers)
    page.locator(".charts .room svg").first.hover(position={"x": 60, "y": 60})
    answer = next(iter(found.charts[0].series.values()))[0]
    until(page, "document.querySelector('.charts .said').textContent.includes(it)", f"{answer!r}".removesuffix(".0"))


def test_the_table_of_ages_is_asked(address: str, page) -> None:
    drawn(page, address + "&labs.name=ages")
    weights, answer = asked([1, 0, 0], 1)
    assert values(page, "data.weight") == pytest.approx(weights, abs=1e-12)
    assert values(page, "data.answer") == pytest.approx([answer], abs=1e-12) and round(answer, 3) == 19.473
    assert page.locator("tbody data.weight").all_inner_texts() == ["0.28079", "0.28079", "0.15763", "0.28079"]
    page.locator("[data-dimension='0']").focus()
    for _ in range(6):
        page.keyboard.press("ArrowRight")
    page.locator("[data-dimension='1']").focus()
    page.keyboard.press("ArrowLeft")
    page.locator("#temperature").focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    until(page, "it.every(part => location.hash.includes(part))", ["labs.q=4%2C-0.5%2C0", "labs.t=0.5"])
    weights, answer = asked([4, -0.5, 0], 0.5)
    assert values(page, "data.weight") == pytest.approx(weights, abs=1e-12)
    assert values(page, "data.answer") == pytest.approx([answer], abs=1e-12)
    curve = values(page, ".heat tbody data")[::2]
    assert curve == pytest.approx([asked([4, -0.5, 0], 2 ** ((n - 8) / 2))[1] for n in range(17)], abs=1e-12)
    page.get_by_role("button", name="As at first").click()
    assert values(page, "data.answer") == pytest.approx([asked([1, 0, 0], 1)[1]], abs=1e-12)


def test_a_lab_is_stopped_and_its_refusal_is_said(address: str, page, monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "lab.py").write_text("import pathlib, time\nplace = pathlib.Path(__file__).with_name('beats')\n"
                                     "while True:\n    place.write_text(str(time.time()))\n    time.sleep(0.02)\n")
    monkeypatch.setattr(experiments, "command", lambda name: [sys.executable, str(tmp_path / "lab.py")])
    drawn(page, address + "&labs.name=softmax")
    page.get_by_role("button", name="Run the lab").click()
    page.get_by_text("runs for 1 s").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Run the lab").wait_for()
    page.wait_for_timeout(1000)
    last = (tmp_path / "beats").read_text()
    page.wait_for_timeout(300)
    assert (tmp_path / "beats").read_text() == last
    (tmp_path / "lab.py").write_text("import sys\nprint('{\"error\": \"no texts.\", \"zh\": null}')\nsys.exit(1)\n")
    page.keyboard.press("r")
    assert page.locator("article [role=alert]").inner_text() == "no texts."


def test_what_was_run_is_there_when_its_link_is_opened_and_can_be_saved(address: str, page) -> None:
    ran(page, address + "&labs.name=ages")
    drawn(page, address + "&labs.name=ages")
    page.locator(".conclusion").wait_for()      # the server has it still
    for name in ("SVG", "PNG", "HTML", "JSON"):
        page.locator(".tools .menu button").first.click()
        with page.expect_download() as found:
            page.locator(".tools .menu li button", has_text=name).click()
        body = Path(found.value.path()).read_bytes()
        if name == "JSON":
            assert json.loads(body)["numbers"] == dict(find("ages").run().numbers)
        assert body[:4] == {"SVG": b"<svg", "PNG": b"\x89PNG", "HTML": b"<!do", "JSON": b'{"na'}[name]
    page.keyboard.press("]")
    until(page, "location.hash.includes('labs.name=' + it)", NAMES[NAMES.index("ages") + 1])
    assert page.locator(".tools .menu").count() == 0        # nothing was found yet


@needs_axe
@pytest.mark.parametrize("size", [None, PHONE], ids=["wide", "phone"])
def test_axe_finds_nothing_in_a_lab_that_was_run(address: str, page, size: dict | None) -> None:
    if size:
        page.set_viewport_size(size)
    ran(page, address.replace("lang=en", "lang=zh") + "&labs.name=ages")
    page.evaluate(AXE.read_text("utf-8"))
    for theme in ("light", "dark"):
        page.wait_for_selector(f"html[data-theme={theme}]", state="attached")
        settled(page)
        assert page.evaluate(FOUND) == []
        page.keyboard.press("d")
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
