"""The screen of pronouns: a riddle is chosen by clicks, links open it again, sets and grammar are gone
through. Its numbers are held by test_numbers.py."""

from __future__ import annotations

import gzip
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from screens import CHAT, drawn, until
from test_cli_coref import record
from test_grammar import line

from klieg import models
from klieg.analysis.coreference import READINGS, coreference, look
from klieg.analysis.coreference.riddles import posed, riddles
from klieg.analysis.grammar import FILE, grammar, read_pairs
from klieg.analysis.likelihood import Scorer
from klieg.explorer.coreferences import analysed
from klieg.explorer.desk import Desk

pytestmark = pytest.mark.skipif("chat" not in models.bundled(), reason="the bundled model is not there")

TEXT = "The dog chased the big cat because it ran away"
ANIMAL = "The animal didn’t cross the street because it was too tired"


@pytest.fixture(scope="module")
def desk() -> Desk:
    return Desk({"chat": CHAT})


@pytest.fixture(scope="module")
def host(served, desk: Desk) -> str:
    return served(desk) + "#lang=en&theme=light&screen=coref&model=chat"


def asked(page) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).fragment).items() if name.startswith("coref.")}


def shares(page) -> dict[str, float]:
    found = page.eval_on_selector_all("[data-share]", "all => all.map(e => [e.id, Number(e.dataset.share)])")
    return {id.removeprefix("share-").replace("-", "."): x for id, x in found}


def wanted(desk: Desk, text: str, pronoun: str, names: list[str], reading: str = "pronoun") -> dict[str, float]:
    riddle = posed(text, pronoun, names)
    found = look(analysed(desk, "chat"), riddle)
    return {f"{head.layer}.{head.head}": share for head, share in
            zip(found.heads, found.shares(READINGS.index(reading), riddle.right), strict=True)}


def test_it_begins_with_the_animal_and_the_street(host: str, page, desk: Desk) -> None:
    drawn(page, f"{host}&text=I love you")
    until(page, "document.querySelectorAll('[data-share]').length === 48")
    assert page.input_value("#text") == ANIMAL and page.locator("h2").first.inner_text() == "What does “it” stand for?"
    assert shares(page) == pytest.approx(wanted(desk, ANIMAL, "it", ["animal", "street"]), abs=1e-9)
    chosen = page.evaluate("[...document.querySelectorAll('td data.weight')].map(e => Number(e.value))")
    assert chosen[0] > 0.3       # the head that gives the right one most is opened
    assert page.locator("path[data-word-arc]:not(.pale)").count() == 2


def test_a_riddle_is_chosen_by_clicks_and_the_link_opens_it_again(host: str, page, desk: Desk) -> None:
    drawn(page, f"{host}&text={TEXT}")
    word = lambda label: page.locator(".words button", has_text=label).first  # noqa: E731
    word("it").click()
    word("cat").click()
    word("dog").click()
    until(page, "document.querySelectorAll('[data-share]').length === 48")
    assert asked(page) == {"coref.it": "35-37 it", "coref.of": "23-26 cat;4-7 dog"}
    assert shares(page) == pytest.approx(wanted(desk, TEXT, "it", ["cat", "dog"]), abs=1e-9)
    page.locator(".chips button", has_text="dog").click()          # the dog is the right one
    until(page, "location.hash.includes('4-7+dog%3B23-26+cat')")
    until(page, "document.querySelector('.columns .open tr.first bdi')?.textContent === 'dog'")
    assert shares(page) == pytest.approx(wanted(desk, TEXT, "it", ["dog", "cat"]), abs=1e-9)
    page.keyboard.press("a")
    until(page, "location.hash.includes('coref.from=clause')")
    link = page.url
    drawn(page, link)
    until(page, "document.querySelectorAll('[data-share]').length === 48")
    assert shares(page) == pytest.approx(wanted(desk, TEXT, "it", ["dog", "cat"], "clause"), abs=1e-9)
    word("big").click(modifiers=["Shift"])                         # the last candidate grows
    until(page, "location.hash.includes('19-26+big+cat')")
    page.locator(".chips .drop").last.click()
    until(page, "document.querySelectorAll('[data-share]').length === 0")


def test_words_of_another_text_are_no_riddle(host: str, page) -> None:
    drawn(page, f"{host}&text={TEXT}&coref.it=35-37 it&coref.of=4-7 dog;23-26 cat")
    until(page, "document.querySelectorAll('[data-share]').length === 48")
    page.fill("#text", "She gave him her book")
    page.press("#text", "Enter")
    until(page, "document.querySelectorAll('[data-share]').length === 0")
    assert page.locator("h2").first.inner_text() == "What does the pronoun stand for?"
    page.locator(".ready-made button").nth(4).click()
    until(page, "document.querySelectorAll('[data-share]').length === 48")
    assert "“它”" in page.locator("h2").first.inner_text()


def test_a_set_is_gone_through(host: str, page, desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "eval/winograd").mkdir(parents=True)
    (tmp_path / "eval/winograd/wsc273.txt").write_text("".join(map(record, range(9))), "utf-8")
    monkeypatch.setenv("KLIEG_DATA", str(tmp_path))
    drawn(page, f"{host}&text={TEXT}&coref.view=sets")
    page.get_by_role("button", name="Go through it").click()
    page.locator("data.rate").first.wait_for()
    found = coreference(analysed(desk, "chat"), riddles("wsc273", tmp_path))
    rates = [found.development, found.test, *found.baselines.values(), *found.answers.values()]
    assert [float(e.get_attribute("value")) for e in page.locator("data.rate").all()] == [rate.share for rate in rates]
    low, high = found.test.interval
    assert page.locator(".interval").nth(1).inner_text() == f"{100 * low:.1f} … {100 * high:.1f}"
    means = page.eval_on_selector_all("#solves-1-2", "all => all.map(e => Number(e.dataset.mean))")
    assert means == [next(x.mean for x in found.lines() if (x.layer, x.head) == (1, 2))]
    assert f"{100 * found.test.share:.2f} %" in page.locator(".sentence").inner_text()


def test_riddles_of_one_facet_stand_by_themselves(host: str, page, desk: Desk, tmp_path: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "eval/winograd").mkdir(parents=True)
    (tmp_path / "eval/winograd/WinoGender.txt").write_text("".join(record(n, "[MASK]", "[MASK]") for n in range(12)), "utf-8")
    monkeypatch.setenv("KLIEG_DATA", str(tmp_path))
    drawn(page, f"{host}&text={TEXT}&coref.view=sets")
    page.get_by_role("button", name="Go through it").click()
    page.locator("data.rate").first.wait_for()
    found = coreference(analysed(desk, "chat"), riddles("winogender", tmp_path, Scorer.load("chat").likeliest))
    assert set(found.facets) == {"feminine", "masculine"}
    for name, facet in (("he", "masculine"), ("she", "feminine")):
        page.locator("fieldset", has_text="Which riddles").get_by_text(name, exact=True).click()
        until(page, "location.hash.includes('coref.part=' + it)", facet)
        shown = [float(e.get_attribute("value")) for e in page.locator("data.rate").all()]
        assert shown == [rate.share for rate in found.facets[facet].values()]
    assert page.locator("td.count").first.inner_text() == str(found.facets["feminine"]["head"].count)


def test_without_texts_it_says_what_is_missing(host: str, page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KLIEG_DATA", raising=False)
    drawn(page, f"{host}&text={TEXT}&coref.view=sets")
    page.locator(".coref .note").wait_for()
    assert "KLIEG_DATA" in page.locator(".coref .note").inner_text()
    page.locator("label", has_text="Grammar").click()
    page.get_by_text("BLiMP is not here").wait_for()


def test_two_sentences_and_minimal_pairs(host: str, page, desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / FILE).parent.mkdir(parents=True)
    with gzip.open(tmp_path / FILE, "wt", encoding="utf-8") as file:
        file.write("".join(line(f"The dogs{n} sleep.", f"The dogs{n} sleeps.", "binding", f"one{n % 2}") for n in range(40)))
    monkeypatch.setenv("KLIEG_DATA", str(tmp_path))
    drawn(page, f"{host}&text={TEXT}&coref.view=grammar")
    page.locator("data.difference").wait_for()
    boxes = page.locator(".coref form input")
    boxes.nth(0).fill("They was here.")
    boxes.nth(1).fill("They were here.")
    boxes.nth(1).press("Enter")
    until(page, "document.querySelector('header .sentence').textContent.includes('They were here.')")
    assert asked(page)["coref.right"] == "They was here." and float(page.locator("data.difference").get_attribute("value")) < 0
    page.get_by_role("button", name="Go through it").click()
    page.locator("data.rate").first.wait_for()
    found = grammar(Scorer.of(analysed(desk, "chat")), read_pairs(tmp_path / FILE, 10))
    assert [float(e.get_attribute("value")) for e in page.locator("data.rate").all()] == [
        found.phenomena["binding"].share, found.total.share]
    boxes.nth(0).fill(" ")
    boxes.nth(0).press("Enter")
    page.locator(".coref [role=alert]").wait_for()


def test_on_a_phone_in_chinese_nothing_is_too_wide(host: str, page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    drawn(page, host.replace("lang=en", "lang=zh") + f"&text={TEXT}&coref.it=35-37 it&coref.of=4-7 dog;23-26 cat")
    until(page, "document.querySelectorAll('[data-share]').length === 48")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for view in ("整套题", "语法"):
        page.locator("label", has_text=view).click()
        page.wait_for_timeout(100)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_on_the_smallest_phone_nothing_is_too_wide(host: str, page) -> None:
    page.set_viewport_size({"width": 320, "height": 640})
    drawn(page, f"{host}&text={ANIMAL}&coref.it=43-45 it&coref.of=4-10 animal;28-34 street")
    page.wait_for_selector("data.itself")
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
