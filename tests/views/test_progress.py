from __future__ import annotations

import io
from dataclasses import dataclass

from rich.console import Console

from klieg.views.progress import LINE_EVERY, counted, watched


@dataclass
class Done:
    step: int
    steps: int = 2 * LINE_EVERY
    loss: float = 3.25
    validation_loss: float | None = None
    bleu: float | None = None
    tokens_per_second: float = 1234.5
    utilization: float | None = None


def run() -> list[Done]:
    return [Done(n, validation_loss=4.5 if n == 70 else None) for n in range(1, 2 * LINE_EVERY + 1)]


def test_a_log_has_a_line_now_and_then_and_one_for_every_validation() -> None:
    out = io.StringIO()
    steps = run()
    assert list(watched(steps, 0, Console(file=out, width=100))) == steps
    lines = out.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(f"step {LINE_EVERY}/{2 * LINE_EVERY}: loss 3.250 · 1,234 tokens/s")
    assert "step 70: validation loss 4.5000" in lines[1]


def test_a_translators_look_tells_the_bleu_that_patience_goes_by() -> None:
    out = io.StringIO()
    list(watched([Done(3, validation_loss=4.5, bleu=12.345)], 0, Console(file=out, width=60)))
    assert out.getvalue().startswith("step 3: validation loss 4.5000, BLEU 12.3, training loss 3.250 · 1,234 tokens/s")


def test_on_a_known_card_a_line_says_how_much_of_it_works() -> None:
    out = io.StringIO()
    list(watched([Done(LINE_EVERY, utilization=0.4125)], 0, Console(file=out, width=100)))
    assert "1,234 tokens/s · MFU 41.2%" in out.getvalue()


def test_a_terminal_has_a_bar_with_the_time_left() -> None:
    out = io.StringIO()
    list(watched(run()[60:], 60, Console(file=out, width=100, force_terminal=True)))
    assert f"{2 * LINE_EVERY}/{2 * LINE_EVERY}" in out.getvalue() and "tokens/s" in out.getvalue()


def test_counted_layers_have_a_bar_on_a_terminal_and_nothing_in_a_log() -> None:
    for terminal in (True, False):
        out = io.StringIO()
        with counted("layers", Console(file=out, width=100, force_terminal=terminal)) as step:
            step(1, 3)
            step(3, 3)
        assert ("layers" in out.getvalue() and "3/3" in out.getvalue()) == terminal
        assert terminal or out.getvalue().strip() == ""
