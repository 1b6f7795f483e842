"""What a page that is left gives back, in a real browser: its traces, and the job that it waited for."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable

import pytest
from made import Maker
from screens import drawn, settled

from klieg.explorer.desk import Desk
from klieg.explorer.turns import Turn
from klieg.trace import Trace


def elsewhere(page) -> None:
    page.goto("about:blank")


def closed(page) -> None:
    with page.expect_event("close"):
        page.close(run_before_unload=True)


LEFT = {"another page": elsewhere, "closed": closed}


class Remembered(Maker):
    """Remembers its traces without holding them; a text that begins with "long" takes until nobody waits for it."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.traces: list[weakref.ref] = []
        self.begun, self.ended, self.steps = threading.Event(), threading.Event(), 0

    def read(self, text: str, to: str | None, turn: Turn, written: list[int] | None = None) -> Trace:
        found = super().read(text, to, turn)
        self.traces.append(weakref.ref(found))
        try:
            while text.startswith("long"):
                self.begun.set()
                self.steps += 1
                time.sleep(0.01)
                turn.offer()
        finally:
            self.ended.set()
        return found


def soon(true: Callable[[], object]) -> None:
    ends = time.monotonic() + 60     # a browser that is left says so when it comes to it
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.05)
        gc.collect()


@pytest.fixture
def model() -> Remembered:
    return Remembered("random")


@pytest.fixture
def desk(model: Remembered) -> Desk:
    return Desk({"random": model})


@pytest.mark.parametrize("leave", LEFT.values(), ids=LEFT)
def test_a_page_that_is_left_gives_its_trace_back(page, served, desk: Desk, model: Remembered, leave: Callable) -> None:
    drawn(page, served(desk) + "#lang=en&screen=heads&text=one two")
    soon(lambda: len(desk._traces) == 1)
    page.fill("#text", "another text")
    page.press("#text", "Enter")
    page.wait_for_selector("text=another")
    settled(page)
    soon(lambda: len(desk._traces) == 1 and [ref() is None for ref in model.traces] == [True, False])
    leave(page)
    soon(lambda: not desk._traces and model.traces[1]() is None)


@pytest.mark.parametrize("leave", LEFT.values(), ids=LEFT)
def test_a_page_that_is_left_ends_what_it_waited_for(page, served, desk: Desk, model: Remembered, leave: Callable) -> None:
    page.goto(served(desk) + "#lang=en&screen=heads&text=long job")
    assert model.begun.wait(20)
    leave(page)
    assert model.ended.wait(20)
    soon(lambda: not desk._traces and model.traces[0]() is None)


def test_a_long_job_of_one_page_does_not_keep_another_waiting(page, browser, served, desk: Desk, model: Remembered) -> None:
    address = served(desk) + "#lang=en&screen=heads&text="
    page.goto(address + "long job")
    assert model.begun.wait(20)
    other = browser.new_page()
    drawn(other, address + "one two")
    assert other.locator(".queries .label").all_inner_texts() == ["⟨s⟩", "one", "two"] and model.traces[0]() is not None
    steps = model.steps
    soon(lambda: model.steps > steps)  # and it goes on
    other.close()
    page.goto("about:blank")
    assert model.ended.wait(20)
