"""The sheet of a comparison: the curve stands where its cosines are, and both sides have their own numbers."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from klieg.trace import Trace
from klieg.views import png, svg
from klieg.views.comparison import DASHES, HIGH, LEFT, WIDE, Comparison, Side, curve, numbers, page, texts
from klieg.views.palette import DARK
from klieg.views.picture import Cell, Link, Text


@dataclass
class Step:
    name: str
    layer: int | None
    cosine: float
    mean: float | None


STEPS = [Step("embedded", None, 1.0, -0.25), Step("start", None, 0.5, None), Step("layer", 0, 0.25, 0.5),
         Step("layer", 1, -0.5, 0.5)]


def of(a: Trace, b: Trace, steps: list[Step] | None = STEPS, why: str = "") -> Comparison:
    return Comparison(Side(a, 2, a[1], 3, "A"), Side(b, 1, b[1], 0, "B"), steps, why)


def test_points_stand_where_their_cosines_are(trace: Trace, long: Trace) -> None:
    picture = curve(of(trace, long))
    points = [mark for mark in picture.marks if isinstance(mark, Cell)]
    assert [point.value for point in points] == [1.0, 0.5, 0.25, -0.5]
    assert [point.x + 3 for point in points] == pytest.approx([LEFT + (n + 0.5) * WIDE for n in range(4)])
    top = points[0].y + 3
    assert [point.y + 3 - top for point in points] == pytest.approx([HIGH * (1 - x) / 1.5 for x in (1.0, 0.5, 0.25, -0.5)])
    own = [mark for mark in picture.marks if isinstance(mark, Link) and "cosine" in mark.title]
    assert len(own) == 3 and all(link.straight for link in own)
    assert (own[0].x, own[-1].to_y) == (points[0].x + 3, points[-1].y + 3)
    assert all(a.to_x == pytest.approx(b.x) for a, b in zip(own, own[1:], strict=False))       # no gap
    assert len([mark for mark in picture.marks if isinstance(mark, Link) and "mean" in mark.title]) % (DASHES // 2) == 0
    said = [mark.string for mark in picture.marks if isinstance(mark, Text)]
    assert all(text in said for text in ("1.0000", "0.2500", "−0.5000", "–", "embedding", "entry", "layer 1"))


def test_both_texts_are_there_with_their_chosen_tokens(trace: Trace, long: Trace) -> None:
    spans = [span for mark in texts(of(trace, long)).marks if isinstance(mark, Text) for span in mark.spans]
    assert [span.text.strip() for span in spans if span.paint.name == "query"] == [trace.tokens[2], long.tokens[1]]
    assert "…" in [span.text for span in spans]          # the long one is cut, and says so


def test_numbers_are_both_sides(trace: Trace, translation: Trace) -> None:
    said = numbers(of(trace, trace))
    assert [step["cosine"] for step in said["steps"]] == [1.0, 0.5, 0.25, -0.5] and said["why"] is None
    assert said["a"]["open"]["weights"] == trace[1].weights(3).tolist()
    assert said["b"]["next"]["after"] == 1
    p = trace.logits[1].double().softmax(-1)
    assert [c["id"] for c in said["b"]["next"]["candidates"]] == p.argsort(descending=True)[:8].tolist()
    side = Side(translation, 6, translation[0, "encoder"], 1, "A")
    assert side.after == 4 and side.tokens == translation.source.tokens      # of a source: after the last of the target


def test_a_sheet_in_both_languages_and_without_similarity(trace: Trace, long: Trace, hostile: Trace) -> None:
    assert svg.lower(page(of(trace, long), language="zh")).count("精确") == 2
    assert "没有共同的向量空间" in svg.lower(page(of(trace, long, None, "not alike"), DARK, language="zh"))
    assert png.lower(page(of(hostile, hostile))).startswith(b"\x89PNG")
    assert "<script>" not in svg.lower(page(of(hostile, trace)))
