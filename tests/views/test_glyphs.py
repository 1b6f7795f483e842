from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from klieg.views.glyphs import crop, safe, wide, width


def test_widths_are_display_columns() -> None:
    assert [width(t) for t in ("", "love", "小沈阳", "é", "e\u0301", "，")] == [0, 4, 6, 1, 1, 2]
    assert wide("a小") and not wide("ab")


def test_widths_agree_with_the_terminal_library() -> None:
    for text in ("love", "小沈阳江西", "日本語", "한국어", "é", "e\u0301", "⟨s⟩", "↩", "√", "Ω", "مرحبا", "😀", "½"):
        assert width(text) == cell_len(text), text


@given(st.text(max_size=20), st.integers(0, 12))
def test_a_crop_is_never_wider_and_whole_texts_stay(text: str, columns: int) -> None:
    text = safe(text)
    cut = crop(text, columns)
    assert width(cut) <= columns
    assert cut == text or width(text) > columns


@given(st.text(max_size=30))
def test_safe_text_has_nothing_that_acts(text: str) -> None:
    seen = safe(text)
    for c in seen:
        assert unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp"), repr(c)
        assert not 0x202A <= ord(c) <= 0x202E and not 0x2066 <= ord(c) <= 0x2069
    seen.encode("utf-8")
    assert safe(seen) == seen


def test_controls_are_written_out() -> None:
    assert safe("\x1b[31m") == "␛[31m"
    assert safe("a\u202eb\x7f\x9b\ud800") == "a⟨202E⟩b␡⟨009B⟩⟨D800⟩"
    assert safe("小 مرحبا é") == "小 مرحبا é"
