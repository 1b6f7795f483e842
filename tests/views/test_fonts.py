from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from klieg.errors import KliegError
from klieg.views import fonts


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """Every test looks at the machine anew, and leaves nothing behind."""
    fonts.found.cache_clear()
    fonts.choose.cache_clear()
    yield
    fonts.found.cache_clear()
    fonts.choose.cache_clear()


def only(monkeypatch: pytest.MonkeyPatch, *paths: Path) -> None:
    monkeypatch.setattr(fonts, "found", lambda: paths)


@pytest.fixture
def latin() -> Path:
    """A font with Latin letters and no Chinese."""
    path = next((p for p in fonts.found() if fonts.has(p, "A") and not fonts.has(p, "沈")), None)
    if path is None:
        pytest.skip("no font of this machine is without Chinese")
    return path


def test_runs_cover_the_text_in_order() -> None:
    for text in ("love", "√16 → ↩", "e\u0301 é"):
        found = fonts.runs(text, 20)
        assert "".join(run for run, _ in found) == text
        assert all(face.size == 20 for _, face in found)


def test_no_chinese_font_is_a_message_that_names_one(monkeypatch: pytest.MonkeyPatch, latin: Path) -> None:
    only(monkeypatch, latin)
    with pytest.raises(KliegError, match=r"has '沈'.*fonts-noto-cjk.*KLIEG_FONT"):
        fonts.runs("小沈阳"[1:], 20)


def test_a_character_without_a_font_is_spelled_out(monkeypatch: pytest.MonkeyPatch, latin: Path) -> None:
    only(monkeypatch, latin)
    rare = next(c for c in "\U00012000\U00013000\U0001d800" if not fonts.has(latin, c))
    assert "".join(run for run, _ in fonts.runs(f"a{rare}b", 20)) == f"a⟨{ord(rare):X}⟩b"


def test_an_empty_box_is_not_a_character(latin: Path) -> None:
    assert fonts.has(latin, "g") and not fonts.has(latin, fonts.NOTHING) and not fonts.has(latin, "沈")


def test_a_font_of_the_users_own_comes_first(monkeypatch: pytest.MonkeyPatch, latin: Path) -> None:
    fonts.found.cache_clear()
    monkeypatch.setenv("KLIEG_FONT", str(latin))
    assert fonts.found()[0] == latin
    fonts.found.cache_clear()
    monkeypatch.setenv("KLIEG_FONT", "/nowhere/none.ttf")
    with pytest.raises(KliegError, match=r"/nowhere/none\.ttf, which is not a file"):
        fonts.found()


def test_a_machine_without_fonts_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch)
    with pytest.raises(KliegError, match="no font to draw a PNG with; install one"):
        fonts.runs("a", 20)
