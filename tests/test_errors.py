"""Messages: one line, with the nearest name where a name is wrong."""

from __future__ import annotations

import pytest

from klieg.errors import KliegError, first_line, nearest


@pytest.mark.parametrize("wrong, hint", [
    ("steps_", " Did you mean 'steps'?"), ("Steps", " Did you mean 'steps'?"), ("bach", " Did you mean 'batch'?"),
    ("quite another thing", " Known: batch, steps, warmup."), ("", " Known: batch, steps, warmup."),
])
def test_the_nearest_name_or_all_of_them(wrong: str, hint: str) -> None:
    assert nearest(wrong, ["steps", "batch", "warmup"]) == hint
    assert nearest(wrong, []) == ""


@pytest.mark.parametrize("said, line", [("a\nb", "a"), ("\n  a  \nb", "a"), ("", "ValueError"), (" \n", "ValueError")])
def test_first_line(said: str, line: str) -> None:
    assert first_line(ValueError(said)) == line


def test_it_is_no_bug_of_another_kind() -> None:
    assert not issubclass(KliegError, (OSError, ValueError, RuntimeError, SystemExit))
    assert str(KliegError("what, where, what to do")) == "what, where, what to do"
