from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from klieg.errors import KliegError
from klieg.trace import Trace
from klieg.views.heatmap import MOST, bound, formula, heatmap, number, percent
from klieg.views.picture import PAPER, TERMINAL, Cell, Medium, Picture, Ramp, Rule, Text
from klieg.views.table import STAGES
from klieg.views.text import lower

MEDIA = pytest.mark.parametrize("medium", [PAPER, TERMINAL], ids=lambda m: m.name)


def cells(picture: Picture) -> list[Cell]:
    return [mark for mark in picture.marks if isinstance(mark, Cell)]


def words(picture: Picture) -> str:
    return "\n".join(mark.string for mark in picture.marks if isinstance(mark, Text))


@MEDIA
@pytest.mark.parametrize("stage", STAGES)
def test_cells_are_the_traces_numbers(trace: Trace, stage: str, medium: Medium) -> None:
    found = cells(heatmap(trace, 1, 2, stage, medium=medium))
    truth = getattr(trace[1].stages(2), stage).flatten().tolist()
    assert len(found) == 25
    for n, (cell, value) in enumerate(zip(found, truth, strict=True)):
        future = n % 5 > n // 5
        if stage in ("masked", "weights") and future:
            assert cell.state == "masked" and cell.value is None and cell.digits == ""
        else:
            assert cell.value == value
            assert abs(float(cell.digits.replace("−", "-")) - value) <= 0.0051
            assert f"{value:.6g}" in cell.title


@MEDIA
@pytest.mark.parametrize("kind", ["encoder", "self", "cross"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_map_of_two_texts_has_a_cell_for_every_pair(translation: Trace, stage: str, kind: str, medium: Medium) -> None:
    call = translation[1, kind]
    picture = heatmap(translation, 1, 2, stage, kind=kind, medium=medium, room=None if medium is PAPER else 110)
    truth, found = getattr(call.stages(2), stage), cells(picture)
    assert len({c.x for c in found}) == call.keys and len({c.y for c in found}) == call.queries
    assert len(found) == call.queries * call.keys == truth.numel()
    for n, (cell, value) in enumerate(zip(found, truth.flatten().tolist(), strict=True)):
        i, j = divmod(n, call.keys)
        hidden = kind == "self" and j > i and stage in ("masked", "weights")   # only where the mask says so
        assert cell.state == ("masked" if hidden else "shown") and cell.value == (None if hidden else value)
    queries, keys = translation.axes(call)
    assert all(label in words(picture).splitlines() for label in (*queries, *keys))
    assert ("nothing is masked" in words(picture)) == (stage == "masked" and kind != "self")
    assert ("the sink" in words(picture)) == (stage == "weights" and kind == "self")


@pytest.mark.parametrize(("source", "target"), [(150, 7), (7, 150), (150, 120)])
@MEDIA
def test_long_texts_are_cut_on_each_axis_for_itself(make_translation: Callable[..., Trace], medium: Medium, source: int,
                                                    target: int) -> None:
    trace = make_translation([f"s{n}" for n in range(source)], [f"t{n}" for n in range(target)], layers=1)
    picture = heatmap(trace, 0, 0, token=target // 2, medium=medium, room=None if medium is PAPER else 100)
    columns, rows = len({c.x for c in cells(picture)}), len({c.y for c in cells(picture)})
    best = int(trace[0, "cross"].row(0, target // 2).argmax())
    assert f"t{target // 2}" in words(picture).splitlines()
    assert any(c.title.startswith(f"query t{target // 2}, key s{best}, ") for c in cells(picture))
    said = [line for line in words(picture).splitlines() if line.startswith("left out")]
    assert len(said) == (columns < source) + (rows < target) and (columns == source) == (source == 7)
    assert picture.width <= 100 or medium is PAPER


@MEDIA
def test_cells_stand_in_rows_and_columns_without_overlap(chinese: Trace, medium: Medium) -> None:
    picture = heatmap(chinese, 0, 0, medium=medium, room=120)
    boxes = [(c.x, c.y, c.x + c.width, c.y + c.height) for c in cells(picture)]
    for n, a in enumerate(boxes):
        for b in boxes[n + 1:]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
    assert len({b[0] for b in boxes}) == len({b[1] for b in boxes}) == 13
    assert all(label in words(picture) for label in chinese.tokens)


def test_the_colour_bar_has_both_limits_and_the_rows_their_sums(trace: Trace) -> None:
    picture = heatmap(trace, 0, 1)
    (ramp,) = [m for m in picture.marks if isinstance(m, Ramp)]
    assert (ramp.name, ramp.low, ramp.high) == ("weight", "0", "1")
    assert words(picture).count("1.0000") == 5
    scores = heatmap(trace, 0, 1, "dot")
    (ramp,) = [m for m in scores.marks if isinstance(m, Ramp)]
    assert ramp.name == "signed" and float(ramp.high) == pytest.approx(max(abs(c.value) for c in cells(scores)), rel=1e-3)
    assert ramp.low == f"−{ramp.high}" and "1.0000" not in words(scores)


def test_hiding_the_first_token_marks_its_column_and_rescales_no_number(trace: Trace) -> None:
    plain, hidden = heatmap(trace, 0, 1), heatmap(trace, 0, 1, scale="no-first")
    assert [c.value for c in cells(plain)] == [c.value for c in cells(hidden)]
    assert [c.digits for c in cells(plain)] == [c.digits for c in cells(hidden)]
    assert [c.state for c in cells(hidden)].count("hidden") == 5
    share = percent(sum(trace[0].row(1, n)[0].item() for n in range(1, 5)) / 4)
    assert f"first token hidden, its share: {share} of rows 1–4" in words(hidden)
    assert f"first token, the sink: {share} of rows 1–4" in words(plain)


def test_the_log_scale_keeps_numbers_and_names_its_floor(trace: Trace) -> None:
    picture = heatmap(trace, 0, 1, scale="log")
    (ramp,) = [m for m in picture.marks if isinstance(m, Ramp)]
    assert ramp.low.startswith("≤ 1e−") or ramp.low.startswith("≤ 0.0")
    assert [c.value for c in cells(picture)] == [c.value for c in cells(heatmap(trace, 0, 1))]


@MEDIA
def test_a_long_text_is_cut_around_the_token_and_says_so(long: Trace, medium: Medium) -> None:
    picture = heatmap(long, 1, 3, token=60, medium=medium, room=100)
    shown = math.isqrt(len(cells(picture)))
    assert shown <= (MOST if medium is PAPER else 10)
    (said,) = [line for line in words(picture).splitlines() if line.startswith("left out: tokens ")]
    outside = [n for part in said.split(";")[0].removeprefix("left out: tokens ").split(" and ")
               for n in range(int(part.split("–")[0]), int(part.split("–")[-1]) + 1)]
    assert len(outside) + shown == len(long.tokens) and 60 not in outside
    share = sum(long[1].row(3, 60)[n].item() for n in outside)
    assert percent(share) in said


def test_the_chosen_row_and_the_first_column_are_framed_on_paper(trace: Trace) -> None:
    frames = [m for m in heatmap(trace, 0, 0, token=2).marks if isinstance(m, Rule)]
    assert [(f.paint.name, f.dashed) for f in frames] == [("query", False), ("ink3", True)]


@pytest.mark.parametrize(("kind", "stage", "text"), [
    ({}, "weights", "softmax(QKᵀ / √8 + mask)"), ({"softcap": 50.0}, "masked", "50 · tanh(QKᵀ / √8 / 50) + mask"),
    ({"bias": True}, "scaled", "QKᵀ / √8 + bias"), ({}, "dot", "QKᵀ")])
def test_formulas_name_what_the_model_has(make: Callable[..., Trace], kind: dict, stage: str, text: str) -> None:
    assert formula(make(**kind)[0], stage) == text


def test_row_sums_of_a_model_with_a_sink_are_its_own(make: Callable[..., Trace]) -> None:
    trace = make(sinks=True)
    sums = [f"{row.sum().item():.4f}" for row in trace[0].weights(0)]
    assert all(s in words(heatmap(trace, 0, 0)) for s in sums) and "1.0000" not in sums


def test_small_cells_show_a_whole_chinese_sentence_with_its_characters(chinese: Trace) -> None:
    picture = heatmap(chinese, 1, 2, medium=TERMINAL, room=60, bare=True)
    n = len(chinese.tokens)
    assert picture.width <= 60 and len(cells(picture)) == n * n and not any(cell.digits for cell in cells(picture))
    assert [c.value for c in cells(picture) if c.state == "shown"] == pytest.approx(
        [w for i, row in enumerate(chinese[1].weights(2).tolist()) for w in row[:i + 1]])
    keys = [mark.string for mark in picture.marks if isinstance(mark, Text) and mark.y == 1]
    assert [key for key in keys if key] == list(chinese.tokens[1:])
    assert lower(picture)[3].plain.count("·") == n - 2


def test_small_cells_of_long_words_are_numbered(trace: Trace) -> None:
    picture = heatmap(trace, 0, 0, medium=TERMINAL, room=25, bare=True)
    keys = [mark.string for mark in picture.marks if isinstance(mark, Text) and mark.y == 1]
    assert keys == ["0", "", "", "", ""] and {cell.width for cell in cells(picture)} == {3}


def test_numbers_shares_and_bounds() -> None:
    assert number(-1.236, 2, PAPER) == "−1.24" and number(-0.0001, 2, TERMINAL) == "0.00"
    assert [percent(s) for s in (0.8073, 0.0, 0.0047, 0.9978, 0.99999, 1.0)] == \
        ["81 %", "0 %", "0.47 %", "99.78 %", "> 99.99 %", "100 %"]
    assert [bound(e) for e in (0.0, 1.301e-7, 9.99e-6, 3e-6)] == ["0", "1.4e-7", "1.0e-5", "3.0e-6"]


def test_what_there_is_not_is_refused(trace: Trace) -> None:
    with pytest.raises(KliegError, match="Did you mean 'weights'"):
        heatmap(trace, 0, 0, "weight")
    with pytest.raises(KliegError, match="heads 0 to 3"):
        heatmap(trace, 0, 4)
