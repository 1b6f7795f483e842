from __future__ import annotations

import re
from xml.etree import ElementTree

from klieg.trace import Trace
from klieg.views import figures, svg
from klieg.views.palette import DARK, LIGHT, Paint, interpolate
from klieg.views.picture import PAPER, TERMINAL, Cell, Link, Picture

NAMESPACE = "{http://www.w3.org/2000/svg}"


def parsed(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)


def test_it_is_one_whole_document_with_names_for_screen_readers(trace: Trace) -> None:
    root = parsed(svg.lower(figures.page(trace)))
    assert root.tag == NAMESPACE + "svg" and root.get("role") == "img"
    assert root.get("aria-label") == root[0].text == "tiny <model>: ⟨s⟩ I love you ↩"
    cells = [e for e in root.iter(NAMESPACE + "g") if "key love" in (e.get("aria-label") or "")]
    assert cells and all(e[0].tag == NAMESPACE + "title" and e[0].text == e.get("aria-label") for e in cells)


def test_a_line_between_numbers_is_straight() -> None:
    marks = (Link(1, 2, 5, 8, 0.1, Paint("amber"), "", straight=True), Link(1, 2, 5, 8, 0.1, Paint("amber"), ""))
    drawn = svg.lower(Picture(9, 9, marks, "", LIGHT, PAPER))
    assert 'd="M1 2L5 8"' in drawn and 'd="M1 2C3 2 3 8 5 8"' in drawn


def test_nothing_is_fetched_or_run(hostile: Trace) -> None:
    text = svg.lower(figures.page(hostile))
    assert "<script" not in text.lower() and "\x1b" not in text and "\u202e" not in text
    assert re.findall(r"https?://[^\"]*", text) == ["http://www.w3.org/2000/svg"]
    assert not re.search(r"(?:href|src|url\(|@import|on[a-z]+=)", text)
    labels = "".join(parsed(text).itertext())
    assert "<script>alert" in labels and "␛[31mred" in labels


def test_cells_have_the_colours_of_the_ramp(trace: Trace) -> None:
    for theme in (LIGHT, DARK):
        picture = figures.heatmap(trace, 0, 1, theme=theme)
        text = svg.lower(picture)
        for cell in (m for m in picture.marks if isinstance(m, Cell) and m.value is not None):
            group = re.search(f'aria-label="{re.escape(cell.title)}">.*?</g>', text)
            assert group and f'fill="{interpolate(theme.weight, cell.value)}"' in group[0]


def test_a_hidden_column_is_hatched_and_keeps_its_numbers(trace: Trace) -> None:
    plain, hidden = (svg.lower(figures.heatmap(trace, 0, 1, scale=s)) for s in ("linear", "no-first"))
    assert hidden.count("<path d=\"M") == plain.count("<path d=\"M") + 5
    first = f"{trace[0].row(1, 4)[0].item():.2f}"
    assert f">{first}</text>" in hidden


def test_chinese_is_said_to_be_chinese_and_scaled_characters_draw_too(chinese: Trace) -> None:
    text = svg.lower(figures.heatmap(chinese, 0, 0, medium=PAPER))
    assert 'lang="zh-Hans"' in text and "江" in text
    root = parsed(svg.lower(figures.heatmap(chinese, 0, 0, medium=TERMINAL, room=120)))
    assert float(root.get("width")) > 700
