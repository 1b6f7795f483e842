from __future__ import annotations

from collections.abc import Callable

import pytest

from klieg.trace import Trace
from klieg.views import figures
from klieg.views.focus import focus
from klieg.views.picture import PAPER, TERMINAL, Bar, Cell, Inset, Link, Mark, Medium, Picture, Rule, Text


def every(picture: Picture, kind: type) -> list:
    """The marks of a kind, those inside insets too."""
    inside: list[Mark] = [m for inset in picture.marks if isinstance(inset, Inset) for m in every(inset.picture, kind)]
    return [m for m in picture.marks if isinstance(m, kind)] + inside


def words(picture: Picture) -> str:
    return "\n".join(text.string for text in every(picture, Text))


@pytest.mark.parametrize("medium", [PAPER, TERMINAL], ids=lambda m: m.name)
def test_overview_has_a_bar_for_every_head_and_token(trace: Trace, medium: Medium) -> None:
    picture = figures.overview(trace, 3, opened=(1, 2), medium=medium)
    bars = every(picture, Bar)
    assert len(bars) == 3 * 4 * 5
    for layer in range(3):
        for head in range(4):
            own = [b for b in bars if b.title.startswith(f"layer {layer}, head {head}, ")]
            assert [b.value for b in own] == [*trace[layer].row(head, 3).tolist()[:4], None]
            assert [b.part for b in own[:4]] == [b.value for b in own[:4]]
    assert words(picture).count("K/V group") == 2
    assert len([r for r in every(picture, Rule) if not r.bracket]) == 1


def test_overview_pools_a_long_text_and_says_so(long: Trace) -> None:
    picture = figures.overview(long, medium=TERMINAL, room=100)
    bars = [b for b in every(picture, Bar) if b.title.startswith("layer 0, head 1, ")]
    pool = -(-len(long.tokens) // len(bars))
    assert f"one column for {pool} tokens: the largest (max-pooled)" in words(picture)
    row = long[0].row(1, len(long.tokens) - 1).tolist()
    assert [b.value for b in bars] == [max(row[n:n + pool]) for n in range(0, len(row), pool)]


@pytest.mark.parametrize(("heads", "groups"), [(12, 4), (12, 1), (8, 8), (6, 3)])
def test_overview_fits_its_room_with_any_groups(make: Callable[..., Trace], heads: int, groups: int) -> None:
    trace = make(heads=heads, groups=groups, layers=2)
    for room in (50, 80, 120):
        picture = figures.overview(trace, medium=TERMINAL, room=room)
        assert len(every(picture, Bar)) == 2 * heads * 5
        assert max(b.x + b.width for b in every(picture, Bar)) <= room
    assert ("K/V group" in words(picture)) == (groups < heads)


def test_next_tokens_are_the_traces_own(trace: Trace) -> None:
    picture = figures.next_tokens(trace, 6, 2, also=[trace.candidate(3, 2)])
    best = trace.next_tokens(6, 2)
    bars = every(picture, Bar)
    assert [b.value for b in bars] == [c.p for c in best] + [trace.candidate(3, 2).p]
    assert bars[0].part == 1 and [b.part for b in bars[:6]] == [c.p / best[0].p for c in best]
    assert f"rank {trace.candidate(3, 2).rank} of 30" in words(picture)
    assert "probability of the token after love" in words(picture)
    assert f"{100 * best[0].p:.2f} %" in words(picture)


def test_links_carry_the_row_and_say_when_some_are_left_out(trace: Trace, long: Trace) -> None:
    picture = figures.links(trace, 2, 1, 3)
    assert [link.value for link in every(picture, Link)] == pytest.approx(trace[2].row(1, 3)[:4].tolist())
    many = figures.links(long, 0, 0)
    kept = sorted(long[0].row(0, len(long.tokens) - 1).tolist(), reverse=True)[:figures.MOST_LINKS]
    assert sorted((link.value for link in every(many, Link)), reverse=True) == kept
    assert f"the 16 largest of {len(long.tokens)}" in words(many)


def test_the_page_has_everything_on_it(trace: Trace) -> None:
    picture = figures.page(trace)
    seen = focus(trace)
    text = words(picture)
    assert len(every(picture, Cell)) == 3 * 25 and len(every(picture, Link)) == 5
    assert f"most certain head: layer {seen.peak.layer}, head {seen.peak.head}" in text
    assert "3 layers × 4 heads · 2 K/V groups · d 8 · kernel dense · 5 tokens" in text
    assert "|row sum − 1| ≤ " in text and "all 12 heads checked" in text
    assert all(i.x >= 0 and i.x + i.picture.width <= picture.width and i.y + i.picture.height <= picture.height
               for i in picture.marks if isinstance(i, Inset))


@pytest.mark.parametrize("medium", [PAPER, TERMINAL], ids=lambda m: m.name)
@pytest.mark.parametrize("kind", ["encoder", "self", "cross"])
def test_overview_and_links_of_a_translator_are_of_one_kind(translation: Trace, kind: str, medium: Medium) -> None:
    calls = translation.of(kind)
    keys = translation.axes(calls[0])[1]
    picture = figures.overview(translation, 3, kind=kind, medium=medium)
    for call in calls:
        for head in range(4):
            own = [b for b in every(picture, Bar) if b.title.startswith(f"layer {call.layer}, head {head}, ")]
            seen = 4 if kind == "self" else len(keys)
            assert [b.value for b in own] == [*call.row(head, 3).tolist()[:seen], *[None] * (len(keys) - seen)]
            assert [b.title.split("key ")[1].split(",")[0] for b in own] == keys
    lines = figures.links(translation, 1, 2, 3, kind=kind, medium=medium)
    assert [x.value for x in every(lines, Link)] == pytest.approx(calls[1].row(2, 3).tolist()[:4 if kind == "self" else None])


@pytest.mark.parametrize(("kind", "place", "size"), [
    ("cross", "cross-attention", 35), ("encoder", "encoder", 49), ("self", "decoder", 25), (None, "cross-attention", 35)])
def test_the_page_of_a_translator(translation: Trace, kind: str | None, place: str, size: int) -> None:
    picture = figures.page(translation, 1, 2, 3, kind=kind)
    text = words(picture)
    assert len(every(picture, Cell)) == 3 * size and f"Layer 1 · head 2 · {place}" in text
    assert "The cat chased the mouse  →  猫追老鼠。" in text and "7 → 5 tokens" in text and "2 + 2 layers × 4 heads" in text
    after = "⟨pad⟩ 猫 追 老鼠 。" if kind == "encoder" else "⟨pad⟩ 猫 追 老鼠"
    assert f"what the decoder writes after {after}\n" in text
    assert "probability of each token, given the source" in text and "all 24 heads checked" in text
    assert all(i.x >= 0 and i.x + i.picture.width <= picture.width and i.y + i.picture.height <= picture.height
               for i in picture.marks if isinstance(i, Inset))
    assert "交叉注意力" in words(figures.page(translation, language="zh"))


def test_pages_of_long_and_chinese_texts(long: Trace, chinese: Trace) -> None:
    assert len(every(figures.page(long, scale="log"), Cell)) == 96 * 96
    assert "most certain" not in words(figures.page(chinese, language="zh"))
    assert "最确定的头" in words(figures.page(chinese, language="zh"))
    assert figures.page(chinese, scale="log") != figures.page(chinese)
