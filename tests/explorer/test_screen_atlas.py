"""The screen of atlases: its numbers are the atlas's own, its table is sorted, and a head is opened where its model is."""

from __future__ import annotations

import math

import pytest
from made import Maker, gathered, parsed
from screens import drawn, settled, until

from klieg.analysis.behaviour import UNITS
from klieg.explorer.desk import Desk


@pytest.fixture(scope="module")
def address(served) -> str:
    desk = Desk({"random": Maker("random")}, atlases={"one": gathered(model="random"), "other": gathered(3, "absent"),
                                                                 "trees": parsed("random")})
    return served(desk) + "#lang=en&theme=light&screen=atlas&text=one two"


def rows(page) -> list[tuple[str, float, float]]:
    return [tuple(row) for row in page.eval_on_selector_all("tbody tr", """all => all.map(row =>
        [row.querySelector('th').innerText, ...[...row.querySelectorAll('data')].map(e => Number(e.value))])""")]


def test_every_number_is_that_of_the_atlas(address: str, page) -> None:
    drawn(page, address + "&atlas.score=first")
    page.locator("tbody tr").first.wait_for()
    found = gathered(model="random")
    table = found.table("first")
    assert rows(page) == [(f"Layer {line.layer} · Head {line.head}", line.mean, line.chance) for line in table]
    for row, line in zip(page.locator("td.interval").all_inner_texts(), table, strict=True):
        assert row == f"{line.low:.3f} … {line.high:.3f}".replace("-", "−")
    bold = page.eval_on_selector_all("tbody tr", "all => all.map(e => e.classList.contains('beyond'))")
    assert bold == [line.low > line.chance or line.high < line.chance for line in table]
    means = found.means("first")
    cells = page.eval_on_selector_all(".grid .cell", "all => all.map(e => Number(e.dataset.mean))")
    assert cells == [x for layer in reversed(means) for x in layer]
    assert f"{table[0].mean:.3f}" in page.locator(".sentence").inner_text()
    assert "320 tokens in 5 texts · the corpus goes on" in page.locator(".counts").inner_text()


def test_the_table_is_sorted_and_the_scores_go_round(address: str, page) -> None:
    drawn(page, address + "&atlas.score=first")
    page.locator("tbody tr").first.wait_for()
    page.locator("thead button", has_text="Head").click()
    assert [name for name, *_ in rows(page)] == [f"Layer {n // 4} · Head {n % 4}" for n in range(12)]
    assert page.locator("th[aria-sort=ascending]").inner_text().startswith("Head")
    page.locator("thead button", has_text="Mean").click()
    page.locator("thead button", has_text="Mean").click()
    means = [mean for _, mean, _ in rows(page)]
    assert means == sorted(means) and "atlas.by=-mean" in page.url
    page.keyboard.press("s")
    wanted = gathered(model="random").table("entropy")
    until(page, "document.querySelector('.limits .ramp')?.innerText.includes(it)", {"nats": "nats"}[UNITS["entropy"]])
    until(page, "Math.abs(document.querySelector('tbody data')?.value - it) < 1e-12", min(line.mean for line in wanted))


def test_an_interval_of_one_text_is_not_drawn(address: str, page) -> None:
    drawn(page, address + "&atlas.score=own")
    page.locator("tbody tr").first.wait_for()
    assert math.isnan(gathered().table("own")[0].low)
    assert set(page.locator("td.interval").all_inner_texts()) == {"–"} and page.locator("tr.beyond").count() == 0


def test_a_head_is_opened_where_its_model_is(address: str, page) -> None:
    drawn(page, address + "&atlas.score=first")
    page.locator("tbody tr").first.wait_for()
    page.locator("#atlas-1-2").click()
    until(page, "new URLSearchParams(location.hash.slice(1)).get('screen') === 'heads'")
    settled(page)
    assert "layer=1&head=2" in page.url and "Layer 1 · Head 2" in page.locator("main").inner_text()
    page.keyboard.press("8")
    page.locator("tbody tr").first.wait_for()
    page.locator(".grid").focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowRight")
    assert page.locator(".cell.chosen").get_attribute("id") == "atlas-2-3" and "screen=atlas" in page.url
    page.keyboard.press("Enter")
    until(page, "location.hash.includes('screen=heads') && location.hash.includes('layer=2&head=3')")


def test_a_head_of_a_model_that_is_not_there_stays(address: str, page) -> None:
    drawn(page, address + "&atlas.name=other&atlas.score=first")
    page.locator("tbody tr").first.wait_for()
    page.locator("#atlas-1-2").click()
    assert "screen=atlas" in page.url and page.locator("tr.open th").inner_text() == "Layer 1 · Head 2"
    assert "--model absent" in page.locator(".limits").inner_text()


def test_without_an_atlas_it_is_said_how_to_make_one(page, served) -> None:
    drawn(page, served(Desk({"random": Maker("random")})) + "#lang=zh&screen=atlas&text=one")
    assert page.locator("code").all_inner_texts() == [
        "klieg atlas chat my-text.txt -o atlas", "klieg atlas chat my-treebank.conllu -o grammar", "klieg serve atlas grammar"]


def test_a_treebank_stands_beside_the_offset_that_it_is_held_to(address: str, page) -> None:
    drawn(page, address + "&atlas.name=trees&atlas.score=ns<b>ubj.head")
    page.locator("tbody tr").first.wait_for()
    one = parsed("random").relations[2]
    shares = {(n // 4, n % 4): rate.share for n, rate in enumerate(one.every)}
    assert {name: mean for name, mean, _ in rows(page)} == {
        f"Layer {layer} · Head {head}": share for (layer, head), share in shares.items()}
    assert {name: chance for name, _, chance in rows(page)} == {
        f"Layer {n // 4} · Head {n % 4}": chance for n, chance in enumerate(one.chance)}
    assert page.locator(".gold").inner_text() == (
        "Layer 1 · Head 2 did best on the other sentences, where heads were chosen, and is right in "
        f"{one.chosen.share:.3f} here; always looking 2 words ahead: 0.250 (sign test that the head is no better: p = 0.125).")
    assert "21 sentences of a treebank" in page.locator(".counts").inner_text()
    assert page.locator("thead button").last.inner_text() == "Words"
    page.keyboard.press("s")
    until(page, "location.hash.includes('dependent')")
    page.locator("#atlas-1-2").click()
    until(page, "location.hash.includes('screen=heads') && location.hash.includes('layer=1&head=2')")
    drawn(page, address.replace("lang=en", "lang=zh") + "&atlas.name=trees&atlas.score=all.head")
    page.locator("tbody tr").first.wait_for()
    assert "若总是看前面第 1 个词" in page.locator(".gold").inner_text()
