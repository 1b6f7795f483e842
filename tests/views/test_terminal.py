from __future__ import annotations

import io
import re
from collections.abc import Callable

import pytest
from rich.console import Console
from rich.style import Style

from klieg.trace import Trace
from klieg.views.focus import focus
from klieg.views.glyphs import width
from klieg.views.heatmap import percent
from klieg.views.terminal import screen


def shown(trace: Trace, columns: int = 100, colours: str | None = None, **given: object) -> str:
    Style._add.cache_clear()   # rich keeps the codes of the first colour system that a style met
    console = Console(width=columns, file=io.StringIO(), force_terminal=colours is not None, color_system=colours,
                      legacy_windows=False, _environ={})
    console.print(screen(trace, **given))
    return console.file.getvalue()


@pytest.mark.parametrize("columns", [40, 80, 130, 240])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_it_is_never_wider_than_the_terminal(trace: Trace, chinese: Trace, long: Trace, columns: int, language: str) -> None:
    for found in (trace, chinese, long):
        lines = shown(found, columns, language=language).splitlines()
        assert max(map(width, lines)) <= columns


def test_everything_of_the_issue_is_on_it(trace: Trace) -> None:
    seen, text = focus(trace), shown(trace)
    assert "tiny <model>   3 layers × 4 heads · 2 K/V groups · d 8 · kernel dense · 5 tokens" in text
    assert "0 ⟨s⟩   1 I   2 love   3 you   4 ↩" in text
    assert f"most certain head: {percent(seen.peak.weight)} on {trace.tokens[seen.peak.key]}" in text
    assert f"Layer {seen.layer} · head {seen.head}" in text
    for formula in ("scores = QKᵀ", "scaled = QKᵀ / √8", "scaled and masked = QKᵀ / √8 + mask", "weights = softmax("):
        assert formula in text
    for weight in trace[seen.layer].row(seen.head, 4).tolist():
        assert f"{weight:.4f}" in text
    assert text.count("1.0000") >= 5 and "first token, the sink:" in text
    for c in trace.next_tokens(8):
        assert f"{100 * c.p:.2f} %" in text
    assert "✓ exact  |row sum - 1| ≤ " in text and "all 12 heads checked" in text
    assert f"--cell {seen.layer}.{seen.head}.4.{seen.here.key}" in text and "klieg serve" in text


def test_choices_are_kept(trace: Trace) -> None:
    text = shown(trace, layer=1, head=0, token=2)
    assert "Layer 1 · head 0" in text and "where love looks" in text and "probability of the token after love" in text
    peak = focus(trace, token=2).peak
    assert f"most certain head: layer {peak.layer}, head {peak.head}, " in text


def test_without_colours_nothing_is_lost_and_nothing_is_coloured(trace: Trace) -> None:
    bare = shown(trace)
    assert "\x1b" not in bare
    for colours in ("standard", "256", "truecolor"):
        coloured = shown(trace, colours=colours)
        assert "\x1b[" in coloured
        assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == bare
    assert "38;2;" in shown(trace, colours="truecolor") and "38;2;" not in shown(trace, colours="256")


def test_a_long_text_says_what_is_left_out_and_shows_the_same_tokens_in_all_tables(long: Trace) -> None:
    text = shown(long, token=70)
    assert "max-pooled" in text
    out = re.findall(r"left out: tokens ([0-9–and ]+)", text)
    assert len(out) == 6 and len({line.strip() for line in out[2:]}) == 1  # of the tokens, the small map, four tables
    assert "70 " in text


def test_a_token_cannot_reach_the_terminal(hostile: Trace) -> None:
    for text in (shown(hostile), shown(hostile, token=3), shown(hostile, columns=60, token=4)):
        assert "\x1b" not in text and "\u202e" not in text
    assert "␛[31mred" in shown(hostile)
    assert "[bold]" in shown_markup(hostile)


def shown_markup(trace: Trace) -> str:
    """A token that looks like the console's own markup is text too."""
    from dataclasses import replace

    calls = trace.calls
    return shown(replace(trace, tokens=["⟨s⟩", "[bold]", *trace.tokens[2:]], calls=calls))


def test_one_token_and_many_heads(make: Callable[..., Trace]) -> None:
    assert "1.0000" in shown(make(["⟨s⟩"]))
    assert "head 11" in shown(make(heads=12, groups=12, layers=2), 60)


@pytest.mark.parametrize("columns", [40, 80, 130, 240])
@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("kind", [None, "encoder", "self"])
def test_a_translation_is_never_wider_than_the_terminal(translation: Trace, make_translation: Callable[..., Trace],
                                                        columns: int, language: str, kind: str | None) -> None:
    long = make_translation([f"s{n}" for n in range(50)], [f"target{n}" for n in range(61)], layers=1)
    for found in (translation, long, make_translation(target=["⟨pad⟩"])):
        lines = shown(found, columns, language=language, kind=kind).splitlines()
        assert max(map(width, lines)) <= columns


def test_everything_of_a_translation_is_on_the_screen(translation: Trace) -> None:
    seen, text = focus(translation), shown(translation, columns=130)
    assert "The cat chased the mouse  →  猫追老鼠。" in text
    assert "Source   0 ⟨zh⟩   1 The   2 cat   3 chased   4 the   5 mouse   6 ⟨/s⟩\n" in text
    assert "Target   0 ⟨pad⟩   1 猫   2 追   3 老鼠   4 。\n" in text
    assert f"Layer {seen.layer} · head {seen.head} · cross-attention" in text
    assert "weights = softmax(QKᵀ / √8)\n" in text.replace(" \n", "\n") and "+ mask" not in text and "future" not in text
    for weight in translation[seen.layer, "cross"].weights(seen.head).flatten().tolist():
        assert f"{weight:.4f}" in text
    assert "what the decoder writes after ⟨pad⟩ 猫 追 老鼠 。" in text and text.count("likelier: ") >= 1
    assert f"arithmetic: --cell {seen.layer}.{seen.head}.4.{seen.here.key}\n" in text
    assert "the others: --kind encoder · --kind self\n" in text


def test_the_stack_that_is_opened_is_the_one_that_was_asked_for(translation: Trace) -> None:
    own, encoder = shown(translation, kind="self", token=2), shown(translation, kind="encoder")
    assert "· decoder\n" in own and "future positions are masked" in own and "+ mask" in own
    assert "what the decoder writes after ⟨pad⟩ 猫 追\n" in own and "where 追 looks" in own
    assert "· encoder\n" in encoder and "where ⟨/s⟩ looks, one column a token: ⟨zh⟩ The cat chased" in encoder
    assert "--kind encoder --cell " in encoder and "what the decoder writes after ⟨pad⟩ 猫 追 老鼠 。" in encoder


def test_tokens_of_both_texts_are_marked_by_what_they_are(translation: Trace) -> None:
    coloured = shown(translation, columns=130, colours="truecolor").splitlines()
    source, target = (next(line for line in coloured if name in line) for name in ("Source", "Target"))
    query, key = "38;2;90;154;255", "38;2;255;107;118"
    assert key in source and query not in source and query in target and key not in target


def test_rank_of_other_words(trace: Trace) -> None:
    other = trace.candidate(2)
    assert f"rank {other.rank} of 30" in shown(trace, also=[other])
