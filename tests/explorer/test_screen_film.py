"""The film: its numbers are those of the trace and of generate.py, and it plays, scrubs, branches and compares."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from made import Maker, made, translated
from screens import CHAT, until

from klieg import attention
from klieg.attention import Mask
from klieg.explorer.desk import Desk
from klieg.generate import Sampling, filtered, generate
from klieg.trace import Trace
from klieg.views.html import html
from klieg.watch import trace

TEXT, LAYER, HEAD = "Once upon a time", 2, 1
AT = f"#lang=en&screen=film&text={TEXT}&layer={LAYER}&head={HEAD}"


@cache
def film(more: tuple[int, ...] = ()) -> tuple[Trace, int]:
    """What the page should show, made without its server: greedy text after the prompt and `more`, and where it begins."""
    model, tokenizer = CHAT.own
    prompt = tokenizer.encode(TEXT)
    ids = [*prompt, *more]
    for id in generate(model, torch.tensor([ids]), 16):
        ids.append(int(id))
        if ids[-1] == tokenizer.eos:
            break
    return trace((model, tokenizer), ids), len(prompt)


@pytest.fixture(scope="module")
def address(served) -> str:
    return served(Desk({"chat": CHAT}))


def values(page, selector: str) -> list[float]:
    return [float(value) for value in page.eval_on_selector_all(selector, "found => found.map(e => e.getAttribute('value'))")]


def opened(page, address: str, rest: str = "") -> None:
    page.goto(address + AT + rest)
    page.wait_for_selector(".film .peak")
    page.wait_for_selector("li.chosen")


def test_every_number_is_the_models_own(page, address: str) -> None:
    found, start = film()
    opened(page, address, "&film.at=9")
    call, query, place = found[LAYER], start + 8, start + 9
    row = call.row(HEAD, query)
    assert page.locator(".line bdi").all_inner_texts() == found.tokens[:place + 1]
    assert values(page, ".word data") == pytest.approx(row[:place].tolist(), abs=1e-6)
    assert values(page, ".peak") == pytest.approx([float(row.max())], abs=1e-6)
    assert page.locator(".peak").inner_text() == f"{row.max():.4f}"
    said = page.locator(".sentence h2").inner_text()
    assert f"looks back at {found.tokens[int(row.argmax())]} and says {found.tokens[place]}" in said
    key, word = found.tokens[3], found.tokens[place]
    assert page.locator(".text").nth(3).get_attribute("title") == (
        f"The row of “{found.tokens[query]}”, the token before “{word}”, gives “{key}” {row[3]:.4f}.")
    shown = [float(p) for p in page.eval_on_selector_all(".frame", "found => found.map(e => e.dataset.p)")]
    wanted = [float(found.probabilities(start + n - 1)[id]) for n, id in enumerate(found.ids[start:])]
    assert shown == pytest.approx(wanted, abs=1e-9)
    bytes = CHAT.own[0].new_cache(1, 1).bytes_per_token
    assert values(page, "tr.own td data") == [bytes * place, bytes, bytes * 131072]
    assert values(page, "[data-kind=mqa] td data")[1] == bytes / call.kv_heads


def test_the_sliders_redraw_the_stored_logits_and_ask_no_model(page, address: str) -> None:
    found, start = film()
    opened(page, address, "&film.at=4&film.sampling=1 0 1")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.method))
    kept = [1, 2, 3, 4, 5, 8, 10, 15, 20, 30, 40, 50, 100, 200, 500, 0]
    logits = found.logits[start + 3]
    best = logits.argsort(descending=True)[:5]
    for sampling in (Sampling(0.5), Sampling(1.5, top_k=3), Sampling(0.8, 4, 0.6), Sampling(0), Sampling()):
        page.locator("[data-name=temperature]").fill(str(sampling.temperature))
        page.locator("[data-name=top_p]").fill(str(sampling.top_p))
        page.locator("[data-name=top_k]").fill(str(kept.index(sampling.top_k)))
        wanted = filtered(logits[None].double(), sampling)[0][best] if sampling.temperature else torch.eye(5)[0]
        assert values(page, "li data") == pytest.approx(wanted.tolist(), abs=1e-6), sampling
    assert asked == []


def test_keys_step_branch_and_compare(page, address: str) -> None:
    found, start = film()
    opened(page, address, "&film.at=6")
    page.keyboard.press("ArrowLeft")
    assert page.locator(".sentence p").inner_text() == "Step 6 of 16"
    page.keyboard.press("Space")        # motion is reduced: it steps
    assert page.locator(".sentence p").inner_text() == "Step 7 of 16"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("b")            # the second of those that were not chosen
    until(page, "document.querySelectorAll('.strip').length === 2 && document.querySelectorAll('.do button').length === 2")
    other = int(found.logits[start + 5].argsort(descending=True)[2])
    branch, _ = film((*found.ids[start:start + 6], other))
    frames = page.locator(".strip").nth(1).locator(".frame bdi").all_inner_texts()
    assert frames == branch.tokens[start + 6:]
    until(page, f"document.querySelector('.sentence h2').textContent.includes({branch.tokens[start + 6]!r})")
    page.keyboard.press("k")
    assert page.locator(".sentence").count() == 2
    until(page, "document.querySelectorAll('.peak').length === 2")
    rows = [float(each[LAYER].row(HEAD, start + 5).max()) for each in (found, branch)]
    assert values(page, ".peak") == pytest.approx(rows, abs=1e-6)
    page.keyboard.press("Escape")
    assert page.locator(".sentence").count() == 1
    link = page.url                     # the address has the branch and the step
    page.goto("about:blank")
    page.goto(link)
    until(page, f"document.querySelector('.sentence p')?.textContent === 'Step 7 of {len(frames) + 6}'")
    assert page.locator(".strip").nth(1).locator(".frame bdi").all_inner_texts() == frames


def test_other_screens_look_at_the_whole_and_it_stays(page, address: str) -> None:
    found, _ = film()
    opened(page, address)
    page.keyboard.press("2")
    until(page, f"document.body.textContent.includes('Where “{found.tokens[-1]}” looks')")
    posts: list[str] = []
    page.on("request", lambda request: posts.append(request.url) if request.method == "POST" else None)
    page.keyboard.press("4")
    page.wait_for_selector(".film .peak")
    assert page.locator(".frame").count() == 16 and posts == []


def test_a_link_made_after_a_film_that_ended_has_its_end_mark(page, address: str) -> None:
    tokenizer = CHAT.own[1]
    found, start = film()
    tokens = tokenizer.labels([*found.ids[:start + 3], tokenizer.eos])
    opened(page, address, f"&film.branch=3 {tokenizer.eos}")
    until(page, "document.querySelectorAll('.strip').length === 2 && document.querySelectorAll('.do button').length === 2")
    page.keyboard.press("2")
    looks = "document.body.textContent.includes(`Where “${it}” looks`)"
    until(page, looks, tokens[-1])
    until(page, "location.hash.includes('screen=heads')")
    link = page.url
    page.goto("about:blank")
    page.goto(link)
    until(page, looks, tokens[-1])
    assert page.evaluate("document.getElementById('text').value") == tokenizer.decode(found.ids[:start + 3])
    assert page.url == link
    page.locator("#text").fill("I love you")            # another text was written by nobody
    page.keyboard.press("Enter")
    until(page, "!location.hash.includes('written=') && location.hash.includes('text=I+love+you')")


def test_numbers_of_the_prompt_are_never_shown_under_the_film(page, address: str) -> None:
    """While the heads of what was written are still to come, no screen draws those of the prompt beside its words."""
    found, _ = film()
    held: list = [None]

    def answer(route) -> None:
        if held == [None]:      # of the prompt
            held.clear()
            route.continue_()
        else:
            held.append(route)

    page.route("**/heads/**", answer)
    page.goto(address + AT)
    until(page, "document.querySelectorAll('.do button').length === 2")
    for screen in ("2", "5"):
        page.keyboard.press(screen)
        until(page, "new URLSearchParams(location.hash.slice(1)).get('screen') === it", {"2": "heads", "5": "whatif"}[screen])
        assert page.locator("main canvas").count() == 0
    while held:
        held.pop(0).continue_()
        page.wait_for_timeout(50)      # and what is asked meanwhile
    until(page, "document.querySelector('.views .pane')?.ariaRowCount === String(it)", len(found.tokens))


def test_a_file_shows_the_steps_of_its_text(page, tmp_path: Path) -> None:
    found = trace(CHAT.own, TEXT)
    (tmp_path / "page.html").write_text(html(found), "utf-8")
    page.goto((tmp_path / "page.html").as_uri() + "#lang=en&screen=film")
    page.wait_for_selector(".film .peak")
    assert page.locator(".frame bdi").all_inner_texts() == found.tokens[1:]
    for n, p in enumerate(page.eval_on_selector_all(".frame", "found => found.map(e => e.dataset.p)")):
        chosen, ids = found.candidate(found.ids[n + 1], n), [each.id for each in found.next_tokens(10, n)]
        assert (p is None) == (chosen.id not in ids)      # a file has ten candidates
        assert p is None or float(p) == pytest.approx(chosen.p, abs=1e-9)
    assert page.locator(".film input[type=range], .do, li button").count() == 0


def test_a_translator_looks_at_its_source(page, served) -> None:
    desk = Desk({}, {"saved": translated("translator", "one two three")})
    page.goto(served(desk) + "#lang=en&screen=film&model=saved&layer=1&head=2&film.at=1")
    page.wait_for_selector(".film .peak")
    row = desk.trace("saved")[1, "cross"].row(2, 1)
    assert values(page, ".word.source data") == pytest.approx(row.tolist(), abs=1e-6)


def test_an_encoder_has_none_and_says_so(page, served) -> None:
    class Encoder(Maker):
        def read(self, text: str, *rest: object) -> Trace:
            found = made(self.name, text)
            calls = []
            for call in found.calls:
                s = attention.scores(call.q, call.k, softcap=call.softcap)
                lse = attention.log_sum_exp(s)
                output = attention.output(attention.weights(s, lse), call.v)
                calls.append(replace(call, kind="encoder", mask=Mask(), lse=lse, output=output, certificate=None))
            return Trace(found.model, text, found.ids, found.tokens, calls, found.logits[:0], found.vocabulary)

    page.goto(served(Desk({"bert": Encoder("bert")})) + "#lang=en&screen=film&text=one two")
    assert "it has no film" in page.locator(".none").inner_text()
    assert page.locator(".film").count() == 0


def test_on_the_smallest_phone_the_weight_is_one_line_and_nothing_is_too_wide(page, address: str) -> None:
    page.set_viewport_size({"width": 320, "height": 640})
    opened(page, address, "&film.at=9")
    peak = page.locator(".peak")
    assert peak.bounding_box()["height"] < 30 and peak.inner_text() == f"{float(peak.get_attribute('value')):.4f}"
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
