"""The screen that compares: its numbers are the traces' own, keys and address work, and what cannot be compared says why."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs, quote

import pytest
from made import Maker
from test_similarity import streamed

from klieg.analysis.similarity import neighbours, similarity
from klieg.errors import KliegError
from klieg.explorer.desk import Desk
from klieg.explorer.turns import Turn
from klieg.trace import Trace
from klieg.views.html import html

A, B = "one two three four", "five two three"   # "two three" is in both: tokens 3 and 3


class Streaming(Maker):
    """A model whose made traces have streams."""

    def read(self, text: str, to: str | None, turn: Turn, written: list[int] | None = None) -> Trace:
        if not text.strip():
            raise KliegError("the text is empty; give at least one word.")
        return super().read(text, to, turn) if self.languages else streamed(text, self.name)


def opened(page, served, hash: str = "", models: tuple = ("random",), make: type[Maker] = Streaming) -> None:
    page.goto(served(Desk({name: make(name) for name in models})) + f"#lang=en&screen=compare&text={quote(A)}&{hash}")
    page.wait_for_selector("main :is(.ready, [role=alert])")


def values(page, selector: str) -> list[float]:
    return [float(x) for x in page.eval_on_selector_all(selector, "found => found.map(e => e.value)")]


def both_maps(page) -> bool:
    """Whether two maps are drawn, and no third; they come by questions of their own, after the words are there."""
    page.locator(".map canvas").nth(1).wait_for()
    return page.locator(".map canvas").count() == 2


def address(page) -> dict[str, str]:
    return {name: found[0] for name, found in parse_qs(page.evaluate("location.hash.slice(1)")).items()}


def chosen(page) -> list[str]:
    return page.locator("[role=option][aria-selected=true] bdi").all_inner_texts()


def test_every_number_is_that_of_the_traces(page, served) -> None:
    opened(page, served, f"compare.text={quote(B)}&layer=1&head=2")
    page.wait_for_selector("data.cosine")
    a, b = streamed(A), streamed(B)
    steps = list(similarity(a, 3, b, 3))
    assert chosen(page) == ["three", "three"]
    assert values(page, "data.cosine") == [step.cosine for step in steps]
    assert values(page, "data.mean") == [step.mean for step in steps]
    for side, wanted in (("a", neighbours(b, 3, a, 1)), ("b", neighbours(a, 3, b, 1))):
        assert values(page, f"#compare-{side} [role=option] data") == wanted.tolist()
    first, last = f"{steps[0].cosine:.2f}", f"{steps[-1].cosine:.2f}".replace("-", "−")
    assert page.inner_text(".sentence") == f"“three” and “three” are {first} alike as embeddings and {last} after layer 2."
    for n, trace in enumerate((a, b)):
        row = sorted(trace[1].weights(2)[3].tolist(), reverse=True)
        found = values(page, f".one:nth-child({n + 1}) ol data")
        assert found == pytest.approx([w for w in row if w > 0][:6], abs=1e-6)
        p = {c.token: c.p for c in trace.next_tokens(16, 3)}
        side = f"data.{'ab'[n]}"
        lines = page.eval_on_selector_all(f"tbody tr:has({side})", f"""found => found.map(
            e => [e.querySelector('bdi').innerText, e.querySelector('{side}').value])""")
        assert len(lines) >= 5 and all(float(value) == pytest.approx(p[token], rel=1e-12) for token, value in lines)


def test_keys_choose_and_the_address_keeps_what_is_chosen(page, served) -> None:
    opened(page, served, f"compare.text={quote(B)}")
    page.wait_for_selector("data.cosine")
    page.keyboard.press("ArrowRight")
    assert chosen(page) == ["four", "three"]
    page.locator("#compare-b [role=listbox]").focus()
    page.keyboard.press("ArrowLeft")
    assert chosen(page) == ["four", "two"]
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowLeft")
    assert chosen(page) == ["three", "two"]
    page.keyboard.press("]")
    page.keyboard.press(".")
    page.wait_for_function("() => document.querySelector('.one p').innerText.includes('Layer 1 · Head 1')")
    kept = address(page)
    assert (kept["compare.a"], kept["compare.b"], kept["compare.text"]) == ("3", "2", B)
    wanted = [step.cosine for step in similarity(streamed(A), 3, streamed(B), 2)]
    page.wait_for_function("wanted => document.querySelectorAll('data.cosine')[1]?.value === String(wanted)", arg=wanted[1])
    page.reload()
    page.wait_for_selector("data.cosine")
    assert chosen(page) == ["three", "two"] and values(page, "data.cosine") == wanted
    page.locator("th button", has_text="2").click()
    page.wait_for_function("() => document.querySelector('.one p').innerText.includes('Layer 2 · Head 1')")
    assert address(page)["layer"] == "2"


def test_another_text_begins_at_its_own_words(page, served) -> None:
    opened(page, served, f"compare.text={quote(B)}&compare.a=1&compare.b=0")
    page.wait_for_selector("data.cosine")
    assert chosen(page) == ["one", "⟨s⟩"]
    page.locator("#compare-b input").fill("six one seven")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelectorAll('#compare-b [role=option]')[1]?.innerText.startsWith('six')")
    assert chosen(page) == ["one", "one"] and "compare.a" not in address(page)


def test_without_a_second_text_two_tokens_of_the_first_are_compared(page, served) -> None:
    opened(page, served)
    page.wait_for_selector("data.cosine")
    assert chosen(page) == ["three", "four"]
    trace = streamed(A)
    assert values(page, "data.mean") == [step.mean for step in similarity(trace, 3, trace, 4)]


def test_two_models_have_no_similarity_and_all_else(page, served) -> None:
    opened(page, served, "compare.model=another", ("random", "another"))
    page.wait_for_selector(".why")
    assert "two models have no vector space in common" in page.inner_text(".why")
    assert both_maps(page) and page.locator("data.cosine").count() == 0
    page.locator("tbody data.b").first.wait_for()
    assert "looks most at" in page.inner_text(".sentence") and page.locator("tbody data.b").count() >= 5
    assert page.locator("#compare-b [role=option]").count() == 5   # the same text


def test_what_cannot_be_compared_says_why(page, served) -> None:
    opened(page, served, f"compare.text={quote(B)}", make=Maker)
    page.wait_for_selector(".why")
    assert "was not kept" in page.inner_text(".why") and both_maps(page)


def test_a_second_text_that_cannot_be_read_says_why(page, served) -> None:
    opened(page, served, "compare.text=%20")
    assert page.inner_text("#compare-b [role=alert]") == "the text is empty; give at least one word."
    assert page.locator("#compare-a [role=option]").count() == 5
    page.locator("#compare-b input").fill(B)
    page.keyboard.press("Enter")
    page.wait_for_selector("data.cosine")
    assert page.locator("#compare-b [role=alert]").count() == 0


def test_two_translations(page, served) -> None:
    opened(page, served, f"compare.text={quote(B)}&kind=cross&layer=1", ("translator",))
    page.wait_for_selector(".map canvas")
    assert page.locator("#compare-b [role=option] bdi").all_inner_texts() == ["⟨pad⟩", *B.upper().split(), "!"]
    assert page.locator(".one:nth-child(2) .key").all_inner_texts() == ["⟨zh⟩", *B.split(), "⟨/s⟩"]


def test_a_file_compares_two_tokens_of_its_text(page, tmp_path: Path) -> None:
    trace = streamed("one two one three")
    (tmp_path / "trace.html").write_text(html(trace), "utf-8")
    page.goto(f"file://{tmp_path}/trace.html#screen=compare&lang=en&layer=1")
    page.wait_for_selector("data.cosine")
    assert chosen(page) == ["one", "one"] and page.locator("main input").count() == 0
    steps = list(similarity(trace, 1, trace, 3))
    assert values(page, "data.cosine") == pytest.approx([step.cosine for step in steps], abs=1e-12)
    assert values(page, "data.mean") == pytest.approx([step.mean for step in steps], abs=1e-12)
    assert values(page, "#compare-a [role=option] data") == pytest.approx(neighbours(trace, 3, trace, 1).tolist(), abs=1e-12)


def test_a_file_without_streams_says_so(page, tmp_path: Path) -> None:
    trace = streamed(A)
    trace.streams = None
    (tmp_path / "trace.html").write_text(html(trace), "utf-8")
    page.goto(f"file://{tmp_path}/trace.html#screen=compare&lang=en")
    page.wait_for_selector(".why")
    assert "was not kept" in page.inner_text(".why") and both_maps(page)
