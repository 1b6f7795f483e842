"""Turns: one job at a time, in the order of asking; a long one lets short ones through, and ends when nobody waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from klieg.explorer.turns import Busy, Gone, Turn, Turns

WAIT = 20  # seconds, after which a test has failed


def started(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def until(true: Callable[[], object]) -> None:
    ends = time.monotonic() + WAIT
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.001)


def queued(turns: Turns) -> int:
    return len(turns._queue)


def test_one_at_a_time_in_the_order_of_asking() -> None:
    turns, order, inside = Turns(), [], []

    def job(n: int) -> None:
        with turns.turn():
            inside.append(n)
            assert inside == [n]
            time.sleep(0.005)
            order.append(n)
            inside.remove(n)

    with turns.turn():
        threads = []
        for n in range(8):
            threads.append(started(lambda n=n: job(n)))
            until(lambda n=n: queued(turns) == n + 1)
    for thread in threads:
        thread.join(WAIT)
    assert order == list(range(8)) and not turns.wanted


def test_a_long_job_that_offers_its_turn_starves_nobody() -> None:
    """Every short job waits for at most one step of each long one, however many steps are left."""
    turns, steps, over = Turns(), [0, 0], threading.Event()

    def long(n: int) -> None:
        with turns.turn() as turn:
            while not over.is_set():
                steps[n] += 1
                time.sleep(0.001)
                turn.offer()

    threads = [started(lambda n=n: long(n)) for n in range(2)]
    until(lambda: min(steps) > 2)
    waited = []
    for _ in range(20):
        before = sum(steps)
        with turns.turn():
            waited.append(sum(steps) - before)
    over.set()
    for thread in threads:
        thread.join(WAIT)
    assert max(waited) <= 3, "a short job waited for more than the step that ran and one of each long job"
    assert abs(steps[0] - steps[1]) <= 2 + 20, "the long jobs share what is left"


def test_a_job_whose_asker_has_gone_ends_and_gives_its_turn_on() -> None:
    turns, gone, said = Turns(), threading.Event(), []

    def job() -> None:
        try:
            with turns.turn(gone) as turn:
                while True:
                    time.sleep(0.001)
                    turn.offer()
        except Gone:
            said.append("gone")

    thread = started(job)
    until(lambda: turns._busy)
    gone.set()
    thread.join(WAIT)
    assert said == ["gone"]
    with turns.turn():
        pass


def test_who_goes_while_waiting_is_passed_over() -> None:
    turns, gone, ended = Turns(), threading.Event(), []

    def wait() -> None:
        with pytest.raises(Gone), turns.turn(gone):
            ended.append("it ran")
        ended.append("gone")

    with turns.turn():
        thread = started(wait)
        until(lambda: queued(turns) == 1)
        gone.set()
        thread.join(WAIT)
        assert ended == ["gone"] and not turns.wanted
    with turns.turn():
        pass


def test_who_goes_just_as_the_turn_comes_does_not_keep_it() -> None:
    turns, gone = Turns(), threading.Event()
    gone.set()
    with pytest.raises(Gone):
        Turn(turns, gone).open()
    with turns.turn() as turn:  # it is free again
        assert turn.held
    with pytest.raises(Gone):
        turn = Turn(turns, gone)
        turn.check()


def test_a_mistake_in_a_job_gives_the_turn_on() -> None:
    turns = Turns()
    with pytest.raises(ZeroDivisionError), turns.turn():
        raise ZeroDivisionError
    with turns.turn():
        pass


def test_too_many_are_refused_but_never_one_that_only_offered() -> None:
    turns, offered, go = Turns(most=1), threading.Event(), threading.Event()

    def long() -> None:
        with turns.turn() as turn:
            go.wait(WAIT)
            turn.offer()
            offered.set()

    def short() -> None:
        with turns.turn():
            pass

    thread = started(long)
    until(lambda: turns._busy)
    waiting = started(short)
    until(lambda: queued(turns) == 1)
    with pytest.raises(Busy, match="try again in a moment"), turns.turn():
        pass
    go.set()
    assert offered.wait(WAIT)
    thread.join(WAIT)
    waiting.join(WAIT)
