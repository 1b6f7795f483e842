"""Numbers that follow each other as a line: the loss of a training run against its steps."""

from __future__ import annotations

from klieg.views.palette import LIGHT, Paint, Theme
from klieg.views.picture import FAINT, PAPER, Link, Mark, Picture, Rule, Span, Text
from klieg.views.words import say

WIDTH, HEIGHT, LEFT, TOP = 720.0, 320.0, 64.0, 56.0
POINTS = 360  # a longer run is thinned to this many means, one for every two pixels


def curve(training: list[tuple[int, float]], validation: list[tuple[int, float]], theme: Theme = LIGHT,
          language: str = "en") -> Picture:
    """Points are (step, loss in nats a token). The training line is a mean over neighbouring steps where it is thinned."""
    every = -(-len(training) // POINTS)
    thinned = [_mean(training[n:n + every]) for n in range(0, len(training), every)]
    values = [loss for _, loss in (*thinned, *validation)]
    low, high, last = min(values), max(values), max(step for step, _ in training)
    span = (high - low) or 1.0

    def at(point: tuple[float, float]) -> tuple[float, float]:
        return LEFT + WIDTH * point[0] / last, TOP + HEIGHT * (high - point[1]) / span

    marks: list[Mark] = [Rule(LEFT, TOP + HEIGHT, WIDTH, 0), Rule(LEFT, TOP, 0, HEIGHT)]
    for loss in (low, (low + high) / 2, high):
        marks.append(Text(LEFT - 8, at((0, loss))[1] - 10, (Span(f"{loss:.2f}", FAINT),), "end", 11))
    for step in (0, last // 2, last):
        marks.append(Text(at((step, low))[0], TOP + HEIGHT + 6, (Span(f"{step:,}", FAINT),), "middle", 11))
    title: tuple[Span, ...] = (Span(f"{say('curve loss', language)}   ", bold=True),)
    for points, paint, ink, name in ((thinned, Paint("ink3"), FAINT, "training"),
                                     (validation, Paint("output"), Paint("output"), "validation")):
        said = say(f"curve {name}", language)
        marks += line([at(point) for point in points], paint,
                      [say("curve point", language, name=said, step=f"{step:g}", loss=f"{loss:.4f}") for step, loss in points])
        if points:
            title += (Span(f"{'   ' if points is validation else ''}{said} {points[-1][1]:.3f}", ink),)
    marks.append(Text(LEFT, 16, title))
    return Picture(LEFT + WIDTH + 40, TOP + HEIGHT + 40, tuple(marks), say("curve", language), theme, PAPER)


def line(points: list[tuple[float, float]], paint: Paint, titles: list[str], dashes: int = 0) -> list[Mark]:
    """A line through points (x, y); every stretch says what it leads to. With `dashes` a stretch is so many dashes and gaps."""
    marks: list[Mark] = []
    for (x, y), (to_x, to_y), title in zip(points, points[1:], titles[1:], strict=False):
        across, down = (to_x - x) / (dashes or 1), (to_y - y) / (dashes or 1)
        starts = [(x + n * across, y + n * down) for n in range(0, dashes or 1, 2)]
        marks += [Link(x, y, x + across, y + down, 0.15, paint, title, straight=True) for x, y in starts]
    return marks


def _mean(points: list[tuple[int, float]]) -> tuple[float, float]:
    return sum(p[0] for p in points) / len(points), sum(p[1] for p in points) / len(points)
