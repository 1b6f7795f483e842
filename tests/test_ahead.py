"""What is made ahead: in order, by one thread, with its errors where they belong, and anew after a jump."""

from __future__ import annotations

import threading

import pytest

from klieg.ahead import Ahead


def test_steps_come_in_order_and_are_begun_before_they_are_asked_for() -> None:
    begun: list[tuple[int, int]] = []
    ready = threading.Event()

    def make(step: int) -> int:
        begun.append((step, threading.get_ident()))
        if step == 3:
            ready.set()
        return step * step

    ahead = Ahead(make, depth=4)
    assert ahead(0) == 0 and ready.wait(10)
    assert [ahead(step) for step in range(1, 20)] == [step * step for step in range(1, 20)]
    assert [step for step, _ in begun[:20]] == list(range(20)) and len(begun) <= 23
    assert {thread for _, thread in begun} != {threading.get_ident()} and len({thread for _, thread in begun}) == 1


def test_an_error_is_raised_at_its_step() -> None:
    def make(step: int) -> int:
        if step == 2:
            raise ValueError("two")
        return step

    ahead = Ahead(make)
    assert [ahead(0), ahead(1)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        ahead(2)
    assert ahead(3) == 3


def test_after_a_jump_the_steps_from_there_are_made() -> None:
    ahead = Ahead(lambda step: step, depth=3)
    assert [ahead(step) for step in (0, 1, 7, 8, 0, 1, 1)] == [0, 1, 7, 8, 0, 1, 1]
