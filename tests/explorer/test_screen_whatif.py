"""The screen of what-if: its numbers are whatif()'s own, every change is a chip, and it is worked by hand, key and address."""

from __future__ import annotations

import pytest
from made import made
from screens import CHAT, drawn, until

from klieg import models
from klieg.changes import Heads, Mute, read
from klieg.explorer.desk import Desk
from klieg.whatif import rank, whatif

pytestmark = pytest.mark.skipif("chat" not in models.bundled(), reason="the bundled model is not there")

TEXT = "I love you"
HERE = f"#lang=en&screen=whatif&model=chat&text={TEXT}&layer=3&head=2&cell=3.1"
ALL = "document.querySelectorAll('.ranking .cell[data-divergence]').length === 48"


@pytest.fixture(scope="module")
def address(served) -> str:
    return served(Desk({"chat": CHAT}, {"saved": made("saved", "one two")}))


def chips(page) -> list[str]:
    return page.locator(".chips li button").evaluate_all("found => found.map(e => e.title)")


def shown(page) -> dict[int, tuple[float, float]]:
    """Of every token in the table its probability before and after."""
    return {row[0]: (row[1], row[2]) for row in page.eval_on_selector_all(".prediction tbody tr", """rows => rows.map(row => [
        Number(row.dataset.id), Number(row.querySelector('.before').value), Number(row.querySelector('.later')?.value)])""")}


def test_before_and_after_are_the_numbers_of_whatif(address: str, page) -> None:
    changes = ["mute 3.2", "cut 3.2.3.1", "replace love=hate", "sharpen 0.all=2"]
    drawn(page, address + HERE + "&whatif.changes=" + ";".join(changes).replace("=", "%3D"))
    page.locator(".kl").wait_for()
    wanted = whatif(CHAT.own, TEXT, [read(change) for change in changes], count=8)
    found = shown(page)
    assert chips(page) == changes and list(found) == [shift.id for shift in wanted.changes]
    for shift in wanted.changes:
        assert found[shift.id] == pytest.approx((shift.before, shift.after), abs=1e-6)
    assert float(page.locator(".kl").get_attribute("value")) == pytest.approx(wanted.divergence, abs=1e-6)
    first = next(shift for shift in wanted.changes if shift.rank_after == 1)
    assert f"“{first.token}”" in page.locator(".sentence").inner_text()
    # The edge that the address names, before and after: in the changed pass it is cut.
    was = float(page.locator(".edge .was").get_attribute("value"))
    assert was == pytest.approx(wanted.before.cell(3, 2, 3, 1).weight, abs=1e-5)
    assert page.locator(".edge .is").inner_text() == "hidden" and page.locator(".pane").get_attribute("data-cuts") == "3.1"


def test_every_head_is_ranked(address: str, page) -> None:
    drawn(page, address + HERE)
    until(page, ALL)
    wanted = rank(CHAT.own, TEXT)
    for effect in wanted:
        cell = page.locator(f"#effect-{effect.layer}-{effect.head}")
        for name in ("divergence", "change"):
            assert float(cell.get_attribute(f"data-{name}")) == pytest.approx(getattr(effect, name), abs=1e-5)
    rows = page.locator(".ranking tbody tr")
    assert rows.count() == 10
    assert rows.locator("th").all_inner_texts() == [f"Layer {e.layer} · Head {e.head}" for e in wanted[:10]]
    rows.locator("button").first.click()
    assert page.locator(".views h2").inner_text().startswith(f"Layer {wanted[0].layer} · Head {wanted[0].head}")
    page.get_by_text("Likeliest token").click()
    lost = min(wanted, key=lambda effect: effect.change)
    assert rows.locator("th").first.inner_text() == f"Layer {lost.layer} · Head {lost.head}"


def test_keys_buttons_and_the_map_make_changes_and_take_them_back(address: str, page) -> None:
    drawn(page, address + HERE)
    page.keyboard.press("m")
    page.keyboard.press("x")
    assert chips(page) == ["mute 3.2", "cut 3.2.3.1"] and "whatif.changes=mute+3.2%3Bcut+3.2.3.1" in page.url
    page.keyboard.press("Backspace")
    assert chips(page) == ["mute 3.2"]
    page.get_by_role("button", name="Mute", exact=True).click()
    assert chips(page) == []
    size = int(page.locator(".pane").get_attribute("data-cell"))
    page.locator(".pane").click(position={"x": 1.5 * size, "y": 2.5 * size})
    assert chips(page) == ["cut 3.2.2.1"]
    page.locator(".pane").click(position={"x": 3.5 * size, "y": 1.5 * size})   # the future: there is nothing to cut
    assert chips(page) == ["cut 3.2.2.1"]
    page.get_by_text("Layer", exact=True).click()
    page.get_by_role("button", name="Hide first token").click()
    page.locator("#sharpness").focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    assert chips(page) == ["cut 3.2.2.1", "hide-first 3.all", "sharpen 3.all=2"]
    page.locator(".kl").wait_for()
    wanted = whatif(CHAT.own, TEXT, [read(change) for change in chips(page)])
    until(page, "Math.abs(document.querySelector('.kl').value - it) < 1e-6", wanted.divergence)
    page.get_by_role("button", name="take back: hide first token: layer 3").click()
    assert chips(page) == ["cut 3.2.2.1", "sharpen 3.all=2"]
    page.get_by_role("button", name="Clear").click()
    assert chips(page) == [] and "whatif.changes=&" in page.url + "&"


def test_a_word_is_replaced_and_the_map_after_is_that_of_the_new_text(address: str, page) -> None:
    drawn(page, address + HERE)
    page.locator(".replacing .text button", has_text="love").click()
    page.keyboard.type("really hate")
    page.keyboard.press("Enter")
    assert chips(page) == ["replace love=really hate"]
    page.locator(".views label", has_text="After").click()
    until(page, "document.querySelectorAll('.queries .label').length === 5")
    assert page.locator(".queries .label").all_inner_texts() == ["⟨s⟩", "I", "really", "hate", "you"]
    size = int(page.locator(".pane").get_attribute("data-cell"))
    page.locator(".pane").click(position={"x": 2.5 * size, "y": 4.5 * size})
    assert chips(page) == ["replace love=really hate", "cut 3.2.4.2"]
    page.locator(".chips li", has_text="cut you → really").wait_for()
    page.locator(".views label", has_text="Before").click()   # the edges of the old text are not those of the new one
    assert page.locator(".pane").get_attribute("data-cuts") == ""
    page.locator(".pane").click(position={"x": 10, "y": 3.5 * int(page.locator(".pane").get_attribute("data-cell"))})
    page.keyboard.press("x")
    assert chips(page) == ["replace love=really hate", "cut 3.2.4.2"]


def test_a_refusal_is_said_and_can_be_taken_back(address: str, page) -> None:
    drawn(page, address + HERE + "&whatif.changes=cut 3.2.0.0")
    page.locator(".prediction [role=alert]").wait_for()
    assert "would see nothing" in page.locator(".prediction [role=alert]").inner_text() and chips(page) == ["cut 3.2.0.0"]
    page.keyboard.press("Backspace")
    page.locator(".prediction [role=alert]").wait_for(state="detached")
    drawn(page, address + "#lang=en&screen=whatif&model=saved")
    # Said before anybody tries: nothing can be pressed, and nothing was refused.
    until(page, "document.querySelector('.chips p').textContent.includes('not started with the model')")
    assert page.locator("main .act:not(:disabled), #sharpness:not(:disabled)").count() == 0
    assert page.locator("main [role=alert]").count() == 0


def test_the_prediction_after_another_token(address: str, page) -> None:
    drawn(page, address + HERE + "&whatif.changes=mute 3.2")
    page.locator(".prediction select").select_option("2")
    wanted = whatif(CHAT.own, TEXT, [Mute(Heads(3, 2))], after=2)
    until(page, "Math.abs(document.querySelector('.kl')?.value - it) < 1e-6", wanted.divergence)
    assert "whatif.after=2" in page.url
    until(page, ALL)
    best = rank(CHAT.own, TEXT, after=2)[0]
    found = float(page.locator(f"#effect-{best.layer}-{best.head}").get_attribute("data-divergence"))
    assert found == pytest.approx(best.divergence, abs=1e-5)


def test_in_chinese_on_a_phone_every_string_is_chinese(address: str, page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    drawn(page, address + HERE.replace("lang=en", "lang=zh") + "&whatif.changes=mute 3.2;hide-first all")
    page.locator(".kl").wait_for()
    assert page.locator(".chips li bdi").all_inner_texts() == ["静音头 3.2", "隐藏首词：所有头"]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
