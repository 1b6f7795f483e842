from __future__ import annotations

from collections.abc import Callable

import pytest

from klieg.trace import Trace
from klieg.views.picture import PAPER, TERMINAL, Bar, Medium, Picture, Text
from klieg.views.text import lower
from klieg.views.translation import prefix, steps, translated, written

MEDIA = pytest.mark.parametrize("medium", [PAPER, TERMINAL], ids=lambda m: m.name)


def words(picture: Picture) -> list[str]:
    return [mark.string for mark in picture.marks if isinstance(mark, Text)]


def test_source_and_target_stand_on_one_line(translation: Trace, make_translation: Callable[..., Trace]) -> None:
    assert "".join(span.text for span in translated(translation)) == "The cat chased the mouse  →  猫追老鼠。"
    assert translated(make_translation(target=["⟨pad⟩"]))[-1].text == "∅"


def test_every_step_has_what_was_written_and_what_was_likeliest(translation: Trace) -> None:
    found = steps(translation)
    assert [own.token for own, _ in found] == ["猫", "追", "老鼠", "。", "⟨/s⟩"]
    for after, (own, best) in enumerate(found):
        p = translation.logits[after].double().softmax(-1)
        assert own.p == p[[1, 2, 3, 4, 5][after]] and best.p == p.max() and best.rank == 1


@MEDIA
def test_a_bar_for_every_word_and_what_was_likelier_beside_it(translation: Trace, medium: Medium) -> None:
    picture = written(translation, 1, medium=medium)
    bars = [mark for mark in picture.marks if isinstance(mark, Bar)]
    assert [bar.value for bar in bars] == [own.p for own, _ in steps(translation)] and [bar.part for bar in bars] == \
        [bar.value for bar in bars]
    said = [(own.token, best.token) for own, best in steps(translation) if own.id != best.id]
    assert [line.split()[1] for line in words(picture) if line.startswith("likelier: ")] == [best for _, best in said] and said
    assert any(line.startswith("更可能：") for line in words(written(translation, medium=medium, language="zh")))


def test_a_long_target_says_how_much_of_it_is_shown(make_translation: Callable[..., Trace]) -> None:
    trace = make_translation(target=["⟨pad⟩", *(f"w{n}" for n in range(59))])
    picture = written(trace, 30, medium=TERMINAL, room=80)
    assert len([mark for mark in picture.marks if isinstance(mark, Bar)]) == 24 and "24 of 60 tokens" in words(picture)
    assert "w30" in words(picture) and "w0" not in words(picture)
    assert all(len(line.plain) <= 80 for line in lower(picture))


def test_a_prefix_is_cut_at_its_beginning(translation: Trace) -> None:
    assert prefix(translation, 2, 40) == "⟨pad⟩ 猫 追"
    assert prefix(translation, 4, 9) == "… 老鼠 。" and prefix(translation, 3, 0) == "… 老鼠"
