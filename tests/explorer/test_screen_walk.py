"""The walk: its steps and keys, and that every number on it is the trace's own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from made import Maker, made
from screens import CHAT, drawn, settled, until
from streaming import WIDTH, streamed

from klieg.explorer.desk import Desk
from klieg.explorer.turns import Turn
from klieg.trace import Trace
from klieg.views.html import html

TEXT = "one two three four"
LAYER, HEAD = 1, 3
STEPS = ["embedding", "norm", "qkv", "scores", "scale", "mask", "softmax", "mixed", "join", "projected", "residual", "feed",
         "next", "probabilities"]


class Streaming(Maker):
    """A model whose traces have streams too."""

    def read(self, text: str, to: str | None, turn: Turn, written: list[int] | None = None) -> Trace:
        return streamed(super().read(text, to, turn))


TRACE = streamed(made("random", TEXT))


@pytest.fixture(scope="module")
def address(served) -> str:
    server = served(Desk({"random": Streaming("random")}))
    return f"{server}#lang=en&screen=walk&text={TEXT}&layer={LAYER}&head={HEAD}&cell=4.2"


def number(text: str) -> float:
    return float(text.replace("−", "-"))


def step(page) -> str:
    return page.evaluate("new URLSearchParams(location.hash.slice(1)).get('walk.step')")


def pointed(page, name: str, row: int, index: int, width: int) -> float:
    """The number that a strip shows where it is pointed at."""
    box = page.locator(f".strip[data-name={name}]").bounding_box()
    rows = len(TRACE.tokens)
    page.mouse.move(1, 1)
    page.locator("[role=tooltip]").wait_for(state="detached")       # what was pointed at before is read no more
    page.mouse.move(box["x"] + (index + 0.5) * box["width"] / width, box["y"] + (row + 0.5) * box["height"] / rows)
    return float(page.locator("[role=tooltip] data").get_attribute("value"))


def test_the_matrices_hold_the_numbers_of_the_trace(page, address: str) -> None:
    drawn(page, address)
    stages = TRACE[LAYER].stages(HEAD)
    for name, wanted in (("scores", stages.dot), ("scaled", stages.masked), ("softmax", stages.weights)):
        digits = page.locator(f"canvas[data-matrix={name}]").get_attribute("data-digits").split("\n")
        for i, line in enumerate(digits):
            for j, text in enumerate(line.split(" ")):
                if name != "scores" and j > i:
                    assert text == "·"
                else:
                    places = len(text.partition(".")[2])
                    assert abs(number(text) - wanted[i, j].item()) <= 0.5 * 10**-places + 1e-5, (name, i, j)
    cell = TRACE.cell(LAYER, HEAD, 4, 2)
    for name in ("dot", "scaled", "weight"):
        assert float(page.locator(f".card data.{name}").get_attribute("value")) == pytest.approx(getattr(cell, name), abs=1e-5)


def test_every_strip_shows_the_models_own_numbers(page, address: str) -> None:
    drawn(page, address)
    page.wait_for_selector(".strip[data-name=embed]")
    call, block = TRACE[LAYER], TRACE.stream().blocks[LAYER]
    wanted = {
        "embed": TRACE.stream().blocks[0].input[0], "norm": block.normed[0], "q": call.q[0, HEAD], "k": call.k[0, HEAD // 2],
        "v": call.v[0, HEAD // 2], "mixed": call.output[0, HEAD], "fed": block.fed[0],
    }
    for name, rows in wanted.items():
        width = rows.shape[1]
        strip = page.locator(f".strip[data-name={name}]")
        assert int(strip.get_attribute("data-width")) == width
        if width > strip.bounding_box()["width"]:
            continue                     # a line holds several; the next test is of those
        for row, index in ((0, 0), (4, width - 1), (2, 7)):
            assert pointed(page, name, row, index, width) == rows[row, index].item(), name


def test_a_line_of_several_numbers_shows_the_largest(page, address: str) -> None:
    drawn(page, address)
    page.wait_for_selector(".strip[data-name=joined]")
    joined = torch.cat([TRACE[LAYER].output[0, head] for head in range(4)], dim=1)
    parts = int(page.locator(".strip[data-name=joined]").bounding_box()["width"])
    first = joined[3, :joined.shape[1] // parts]
    assert pointed(page, "joined", 3, 0, parts) == first[first.abs().argmax()].item()
    assert "of head 0" in page.locator("[role=tooltip]").inner_text()


def test_a_number_is_the_sum_that_stands_below_it(page, address: str) -> None:
    drawn(page, address)
    page.wait_for_selector(".strip[data-name=fed]")
    pointed(page, "fed", 4, 3, min(WIDTH, int(page.locator(".strip[data-name=fed]").bounding_box()["width"])))
    said = page.locator("[role=tooltip]").inner_text()
    before, added, after = (number(x) for x in re.search(r"stream (\S+) \+ (\S+) = (\S+)", said).groups())
    assert before + added == pytest.approx(after, abs=2e-4)
    box = page.locator(".strip[data-name=mixed]").bounding_box()
    page.mouse.move(box["x"] + 2, box["y"] + box["height"] - 4)
    lines = page.locator("[role=tooltip]").inner_text().replace("−", "-")
    total = sum(float(x) for x in re.findall(r" = (-?[\d.]+) ·|: (-?[\d.]+)$", lines, re.M) for x in x if x)
    value = float(page.locator("[role=tooltip] data").get_attribute("value"))
    assert total == pytest.approx(value, abs=3e-4)


def test_space_and_arrows_step_and_the_sentence_has_its_numbers(page, address: str) -> None:
    drawn(page, address + "&walk.step=embedding")
    page.wait_for_selector(".strip[data-name=embed]")
    seen = []
    for n, name in enumerate(STEPS):
        until(page, "document.querySelector('[aria-current=step]').innerText.length > 0")
        assert step(page) == name
        seen.append(page.locator(".sentence").inner_text())
        page.keyboard.press("ArrowRight" if n % 2 else "Space")   # without motion Space steps too
    assert len(set(seen)) == len(STEPS) and not any("does not have" in said for said in seen)
    assert seen[0].endswith(f"5 tokens becomes a row of {WIDTH} numbers, and its position is added.")
    cell = TRACE.cell(LAYER, HEAD, 4, 2)
    assert f"{cell.dot:.2f}".replace("-", "−") in seen[3] and f"{100 * cell.weight:.0f} %" in seen[6]
    block = TRACE.stream().blocks[LAYER]
    for said, row in ((seen[1], block.normed), (seen[10], block.input), (seen[10], block.attended), (seen[10], block.middle),
                      (seen[11], block.fed)):
        assert f"{row[0, 4].norm():.2f}" in said
    best = TRACE.next_tokens(1, 4)[0]
    assert f"“{best.token}” with {100 * best.p:.2f} %" in seen[13]


def test_the_panel_unfolds_step_by_step(page, address: str) -> None:
    drawn(page, address + "&walk.step=scale")
    digits = [page.locator("canvas[data-matrix]").nth(n).get_attribute("data-digits") for n in range(3)]
    assert "·" not in digits[0] and "·" not in digits[1] and set(digits[2].split()) == {"·"}
    page.keyboard.press("ArrowRight")
    until(page, "document.querySelector('canvas[data-matrix=scaled]').dataset.digits.split('·').length === 11")


def test_in_a_matrix_the_arrows_move_and_do_not_step(page, address: str) -> None:
    drawn(page, address)
    page.locator("[role=grid]").nth(2).focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowUp")
    until(page, "location.hash.includes('cell=3.1')")
    assert step(page) is None
    assert "query three, key one, weight" in page.locator("#walk-cell-2").get_attribute("aria-label")
    page.locator(".strip[data-name=q]").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert "q 2 of three" in page.locator(".strip[data-name=q]").get_attribute("aria-valuetext")
    assert step(page) is None


def test_brackets_and_commas_change_layer_and_head(page, address: str) -> None:
    drawn(page, address)
    page.wait_for_selector(".strip[data-name=fed]")
    page.keyboard.press("]")
    until(page, "location.hash.includes('layer=2')")
    settled(page)
    until(page, "document.querySelector('.panel h2').innerText.includes('Layer 2')")
    page.wait_for_selector(".strip[data-name=fed]")
    width = int(page.locator(".strip[data-name=q]").get_attribute("data-width"))
    assert pointed(page, "q", 1, 0, width) == TRACE[2].q[0, HEAD, 1, 0].item()
    page.keyboard.press(",")
    until(page, "document.querySelector('.panel h2').innerText.includes('Head 2')")
    settled(page)
    assert pointed(page, "q", 1, 0, width) == TRACE[2].q[0, 2, 1, 0].item()


def test_a_trace_without_streams_walks_from_q_on_and_says_so(page, served) -> None:
    drawn(page, served(Desk({"random": Maker("random")})) + f"#lang=en&screen=walk&text={TEXT}")
    page.wait_for_selector(".strip[data-name=joined]")
    assert page.locator(".strip").evaluate_all("all => all.map(e => e.dataset.name)") == ["q", "k", "v", "mixed", "joined"]
    assert "not the stream around them" in page.locator(".walk").inner_text()
    page.get_by_role("button", name="Residual").click()
    assert "does not have it" in page.locator(".sentence").inner_text()


def test_of_a_long_text_a_few_rows_are_shown(page, served) -> None:
    words = " ".join(f"w{n}" for n in range(200))
    trace = streamed(made("random", words))
    drawn(page, served(Desk({}, {"long": trace})) + "#lang=en&screen=walk&model=long&layer=1&cell=120.40")
    page.wait_for_selector(".strip[data-name=norm]")
    tokens = page.locator(".chip").all_inner_texts()
    assert 6 <= len(tokens) <= 12 and tokens[0] == "⟨s⟩" and {"w39", "w119"} <= set(tokens)
    assert f"{len(tokens)} of 201 tokens are shown" in page.locator(".walk").inner_text()
    box = page.locator(".strip[data-name=norm]").bounding_box()
    row = tokens.index("w119")
    page.mouse.move(box["x"] + 0.5, box["y"] + (row + 0.5) * box["height"] / len(tokens))
    shown = float(page.locator("[role=tooltip] data").get_attribute("value"))
    wanted = trace.stream().blocks[1].normed[0, 120]
    assert shown == max(wanted[:WIDTH // int(box["width"])].tolist(), key=abs)


@pytest.mark.parametrize("kind", ["encoder", "self", "cross"])
def test_a_translator_walks_too(page, served, kind: str) -> None:
    address = served(Desk({"translator": Streaming("translator")}))
    drawn(page, f"{address}#lang=en&screen=walk&text=one two three&kind={kind}&to=zh")
    page.wait_for_selector(".strip[data-name=projected]")
    assert page.locator(".strip[data-name=k]").count() == 1


def test_the_exported_page_walks_without_a_server(page, tmp_path: Path) -> None:
    path = tmp_path / "trace.html"
    path.write_text(html(TRACE), "utf-8")
    page.context.set_offline(True)
    drawn(page, f"{path.as_uri()}#lang=zh&screen=walk&layer={LAYER}&head={HEAD}&cell=4.2")
    page.wait_for_selector(".strip[data-name=norm]")
    parts = int(page.locator(".strip[data-name=norm]").bounding_box()["width"])
    assert pointed(page, "norm", 2, 0, parts) in TRACE.stream().blocks[LAYER].normed[0, 2, :2].tolist()
    assert "注意力放在" in page.locator(".sentence").inner_text()


def test_on_a_phone_one_matrix_at_a_time_and_the_arithmetic_as_a_sheet(page, address: str) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    drawn(page, address)
    assert page.locator("canvas[data-matrix]").evaluate_all("all => all.map(e => e.dataset.matrix)") == ["softmax"]
    cell = TRACE.cell(LAYER, HEAD, 4, 2)
    assert float(page.locator(".sheet .headline").get_attribute("value")) == pytest.approx(cell.weight, abs=1e-6)
    page.get_by_role("button", name="Arithmetic").click()
    assert float(page.locator(".sheet data.dot").get_attribute("value")) == pytest.approx(cell.dot, abs=1e-4)
    page.locator("fieldset label", has_text="Scores").click()
    until(page, "document.querySelector('canvas[data-matrix]').dataset.matrix === 'scores'")
    page.get_by_role("button", name="next: Scale").click()
    assert step(page) == "scale"
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_no_number_of_the_arithmetic_runs_into_the_next(page, served) -> None:
    for text in ("The cat chased the mouse", "I"):
        drawn(page, served(Desk({"chat": CHAT})) + f"#lang=en&screen=walk&text={text}")
        page.wait_for_selector(".card .sums td")
        cut = "all => all.filter(e => e.scrollWidth > e.clientWidth).map(e => e.innerText)"
        assert page.eval_on_selector_all(".card td, .panel h3", cut) == []
