from __future__ import annotations

import io
import math
import re
from collections.abc import Callable

import pytest
from rich.console import Console

from klieg.trace import Trace
from klieg.views.arithmetic import arithmetic, exact
from klieg.views.glyphs import width

NUMBER = r"-?(?:\d+\.?\d*(?:e[-+]\d+)?|∞)"


def shown(trace: Trace, place: tuple[int, ...], columns: int = 100, language: str = "en") -> str:
    console = Console(width=columns, file=io.StringIO(), color_system=None, legacy_windows=False, _environ={})
    console.print(arithmetic(trace.cell(*place), language=language))
    return console.file.getvalue()


def vector(text: str, name: str) -> list[float]:
    """All numbers of the lines that begin with a name, in order."""
    lines = [line for line in text.splitlines() if re.match(rf"{re.escape(name)} +-?\d", line)]
    return [float(n) for line in lines for n in re.findall(NUMBER, line[len(name):])]


def step(text: str, name: str) -> float:
    """The number that a step ends with."""
    (line,) = [line for line in text.splitlines() if line.startswith(name)]
    return float(re.findall(NUMBER, line)[-1])


@pytest.mark.parametrize("kind", [{}, {"softcap": 3.0}, {"bias": True}, {"sinks": True}, {"rotated": False}, {"d": 64}],
                         ids=["plain", "softcap", "bias", "sinks", "unrotated", "wide"])
@pytest.mark.parametrize("columns", [100, 140])
def test_every_number_follows_from_its_neighbours(make: Callable[..., Trace], kind: dict, columns: int) -> None:
    trace = make(**kind)
    place = (1, 2, 4, 1)
    cell, text = trace.cell(*place), shown(trace, place, columns)
    q, k = (vector(text, f"{n} after rotation" if kind.get("rotated", True) else n) for n in "qk")
    products = vector(text, "q·k")
    assert products == pytest.approx([a * b for a, b in zip(q, k, strict=True)], abs=1e-5)
    assert len(products) == len(cell.q)
    dot = step(text, "sum of the")
    assert dot == pytest.approx(math.fsum(products), abs=1e-5)
    score = step(text, "scale")
    assert score == pytest.approx(dot * cell.scale, abs=1e-5)
    if "softcap" in kind:
        score = step(text, "softcap 3")
        assert score == pytest.approx(3 * math.tanh(step(text, "scale") / 3), abs=1e-5)
    if "bias" in kind:
        assert step(text, "bias, added") == pytest.approx(score + cell.bias, abs=1e-5)
        score = step(text, "bias, added")
    assert step(text, "score s") == pytest.approx(score, abs=1e-5)
    block = text.split("the row")[1].split("\n", 1)[1].split("row maximum")[0].split("learned sink")[0]
    numbers = [float(n) for n in re.findall(NUMBER, block)]
    row = dict(zip(numbers[::3], zip(numbers[1::3], numbers[2::3], strict=True), strict=True))
    assert sorted(row) == [0, 1, 2, 3, 4]
    largest, total = step(text, "row maximum"), step(text, "row sum of exponentials")
    assert all(part == pytest.approx(math.exp(s - largest), abs=1e-5) for s, part in row.values())
    sink = step(text, "learned sink") if "sinks" in kind else 0.0
    assert total == pytest.approx(math.fsum(part for _, part in row.values()) + sink, abs=1e-5)
    weight = step(text, "weight  ")
    assert weight == pytest.approx(row[1][1] / total, abs=1e-5)
    assert step(text, "the model's own") == pytest.approx(weight, abs=1e-5)
    assert step(text, "difference") <= 1e-6
    v, mine, out = (vector(text, name) for name in ("v", "weight × v", "output"))
    assert mine == pytest.approx([weight * x for x in v], abs=1e-5)
    share = math.fsum(a * b for a, b in zip(mine, out, strict=True)) / math.fsum(o * o for o in out)
    assert step(text, "share of the output") == pytest.approx(share, abs=1e-5)


@pytest.mark.parametrize("columns", [30, 60, 100, 200])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_it_is_never_wider_than_the_terminal_and_never_cut(trace: Trace, columns: int, language: str) -> None:
    text = shown(trace, (0, 1, 3, 2), columns, language)
    assert max(map(width, text.splitlines())) <= columns
    assert "…" not in text
    cell = trace.cell(0, 1, 3, 2)
    for value in (cell.weight, cell.dot, cell.row_sum, cell.share):
        assert exact(value) in re.sub(r"\s+", "", text)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_in_a_terminal_of_eighty_columns_no_number_is_torn_from_its_step(trace: Trace, language: str) -> None:
    place = (0, 1, 3, 2)
    lines = shown(trace, place, 80, language).splitlines()
    assert not [line for line in lines if re.fullmatch(NUMBER, line.strip())]
    assert lines[-1].startswith(" " * 32) and lines[-1].endswith(f" = {exact(trace.cell(*place).share)}")
    assert "(w·v · o) / (o · o)" in lines[-2]


def test_a_hidden_pair_says_what_hides_it(trace: Trace) -> None:
    text = shown(trace, (0, 0, 1, 3))
    assert "I may not look at you: future" in text
    assert "−∞   the key is hidden: future" in text
    assert step(text, "weight  ") == 0
    assert "未来的位置" in shown(trace, (0, 0, 1, 3), language="zh")


def test_a_card_of_two_texts_says_of_which_kind_it_is(translation: Trace) -> None:
    console = Console(width=100, file=io.StringIO(), color_system=None, legacy_windows=False, _environ={})
    cell = translation.cell(1, 2, 2, 6, kind="cross")
    console.print(arithmetic(cell))
    text = console.file.getvalue()
    assert text.startswith(f"追 looks at ⟨/s⟩ with weight {exact(cell.weight)}")
    assert "cross-attention · layer 1, head 2, query 2, key 6" in text and "+ 0   the key is seen" in text
    assert step(text, "weight  ") == pytest.approx(translation[1, "cross"].weights(2)[2, 6].item(), abs=1e-6)


def test_a_long_row_names_the_largest_and_sums_the_others(long: Trace) -> None:
    text = shown(long, (0, 0, 120, 3))
    cell = long.cell(0, 0, 120, 3)
    assert "the other 89, summed" in text
    others = sorted((cell.row_scores[:121] - cell.row_max).exp().tolist())[:89]
    assert step(text, "the other 89, summed") == pytest.approx(math.fsum(others), abs=1e-5)


def test_digits() -> None:
    assert [exact(v) for v in (0.0, 12.41371234, -0.5, 1.25e-9, -math.inf)] == \
        ["0", "12.4137123", "-0.5000000", "1.250000e-09", "-∞"]
    for value in (0.123456789, 3.14159265358, 123.456789, 9.87654321e-5):
        assert float(exact(value)) == pytest.approx(value, rel=1e-6)


def test_a_token_cannot_reach_the_terminal(hostile: Trace) -> None:
    text = shown(hostile, (0, 0, 4, 3))
    assert "\x1b" not in text and "\u202e" not in text and "␛[31mred" in text
