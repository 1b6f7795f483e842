"""Patterns: how they are written, and which pairs they keep."""

from __future__ import annotations

import pytest
import torch

from klieg.attention import Mask
from klieg.errors import KliegError
from klieg.patterns import Pattern


@pytest.mark.parametrize(("text", "pattern"), [
    ("window:128", Pattern("window", 128)), ("block:1", Pattern("block", 1)), ("top:16", Pattern("top", 16)),
    ("strided:64+global:4", Pattern("strided", 64, 4)), ("window:8+global:1", Pattern("window", 8, 1))])
def test_what_is_written_is_read(text: str, pattern: Pattern) -> None:
    assert Pattern.read(text) == pattern and str(pattern) == text


@pytest.mark.parametrize(("text", "said"), [
    ("window", "must be KIND:SIZE"), ("window:", "must be KIND:SIZE"), ("window:-1", "must be KIND:SIZE"),
    ("window:x", "must be KIND:SIZE"), ("", "given as ''"), ("window:9+window:9", "must be KIND:SIZE"),
    ("window:٣", "must be KIND:SIZE"), ("window:1234567890", "must be KIND:SIZE"), ("window:0", "a size is at least 1"),
    ("block:0", "a size is at least 1"), ("top:4+global:1", "top has no global tokens"),
    ("windw:4", "no pattern 'windw'.*Did you mean 'window'"), ("causal:4", "must be one of window, block, strided, top")])
def test_what_is_no_pattern_is_one_line(text: str, said: str) -> None:
    with pytest.raises(KliegError, match=said) as raised:
        Pattern.read(text)
    assert "\n" not in str(raised.value)


def drawn(pattern: Pattern, count: int, *more: Mask) -> list[str]:
    """The map of what is kept, a row for each query."""
    slots = torch.arange(count)
    seen = pattern.mask.visible(slots, slots)[0, 0]
    for mask in more:
        seen = seen & mask.visible(slots, slots)[0, 0]
    return ["".join("x" if key else "." for key in row) for row in seen.tolist()]


def test_the_patterns_as_their_papers_draw_them() -> None:
    """Qiu et al. 2020, figure 1; Child et al. 2019, figure 3b; Beltagy et al. 2020, figure 2d."""
    assert drawn(Pattern("window", 2), 4) == ["xx..", "xxx.", ".xxx", "..xx"]
    assert drawn(Pattern("block", 2), 5) == ["xx...", "xx...", "..xx.", "..xx.", "....x"]
    assert drawn(Pattern("strided", 3), 8, Mask.causal()) == [
        "x.......", "xx......", "xxx.....", "xxxx....", ".xxxx...", "..xxxx..", "x..xxxx.", ".x..xxxx"]
    assert drawn(Pattern("window", 1, 1), 4) == ["xxxx", "xx..", "x.x.", "x..x"]
    assert drawn(Pattern("window", 1, 2), 4, Mask.causal()) == ["x...", "xx..", "xxx.", "xx.x"]


def test_the_largest_scores_of_a_row() -> None:
    scores = torch.tensor([[[[1.0, 5.0, 3.0, 4.0], [-torch.inf, 2.0, -torch.inf, -torch.inf]]]])
    kept = Pattern("top", 2).kept(scores, torch.arange(2), torch.arange(4))[0, 0]
    assert kept[0].tolist() == [False, True, False, True]
    assert (kept[1] & (scores[0, 0, 1] > -torch.inf)).tolist() == [False, True, False, False]
    assert Pattern("top", 9).kept(scores, torch.arange(2), torch.arange(4)).all()
    assert Pattern("top", 2).mask is None
