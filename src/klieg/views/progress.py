"""Work on the screen: a bar with time left, for a training run with loss and speed, or plain lines in a log."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Step(Protocol):
    """What a step of training tells."""

    step: int
    steps: int
    loss: float
    validation_loss: float | None
    bleu: float | None
    tokens_per_second: float
    utilization: float | None


S = TypeVar("S", bound=Step)
LINE_EVERY = 50  # steps between lines where there is no terminal


def watched(run: Iterable[S], start: int, console: Console, say: Callable[[str], str] = str) -> Iterator[S]:
    """Yields the steps and shows them as they come, as `say` has it; `start` is the step the run goes on from."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = None
        for step in run:
            if task is None:
                task = bar.add_task(say("training"), total=step.steps, completed=start)
            said = (f"loss {step.loss:.3f} · {step.tokens_per_second:,.0f} tokens/s"
                    f"{'' if step.utilization is None else f' · MFU {step.utilization:.1%}'}")
            bar.update(task, completed=step.step, description=say(said))
            if step.validation_loss is not None:
                console.print(say(f"step {step.step}: validation loss {step.validation_loss:.4f}"
                                  f"{'' if step.bleu is None else f', BLEU {step.bleu:.1f}'}, training {said}"),
                              soft_wrap=True)
            elif not console.is_terminal and step.step % LINE_EVERY == 0:
                console.print(say(f"step {step.step}/{step.steps}: {said}"))
            yield step


@contextmanager
def counted(name: str, console: Console) -> Iterator[Callable[[int, int | None], None]]:
    """Gives step(done, expected), which moves a bar with the time that has gone and the time that is left.

    What is written to standard output meanwhile goes there, and not above the bar.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, redirect_stdout=False) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, expected: bar.update(task, completed=done, total=expected)
