from __future__ import annotations

from collections.abc import Callable

import pytest

from klieg.errors import KliegError
from klieg.trace import Trace
from klieg.views.focus import chosen, focus, labels, rows


def test_the_most_certain_head_has_the_largest_weight_elsewhere(trace: Trace) -> None:
    seen = focus(trace)
    everywhere = [(float(call.row(h, 4)[j]), call.layer, h, j) for call in trace.calls for h in range(4) for j in (1, 2, 3)]
    weight, layer, head, key = max(everywhere)
    assert (seen.token, seen.layer, seen.head, seen.here.key) == (4, layer, head, key)
    assert seen.peak == seen.here and seen.peak.weight == pytest.approx(weight)


def test_what_the_user_chose_is_kept(trace: Trace) -> None:
    seen = focus(trace, layer=1, head=2, token=3)
    assert (seen.token, seen.layer, seen.head) == (3, 1, 2)
    assert focus(trace, layer=1).layer == 1 and focus(trace, head=3).head == 3


def test_a_text_of_one_token_has_a_focus(make: Callable[..., Trace]) -> None:
    seen = focus(make(["⟨s⟩"]))
    assert seen.here.key == 0 and seen.here.weight == pytest.approx(1)


def test_rows_are_the_traces_own_and_none_where_masked(trace: Trace) -> None:
    table = rows(trace, 2)
    assert len(table) == 3 and len(table[0]) == 4
    assert table[1][2][3:] == [None, None]
    assert table[1][2][:3] == pytest.approx(trace[1].row(2, 2)[:3].tolist())


@pytest.mark.parametrize(("asked", "words"), [({"token": 5}, "tokens 0 to 4"), ({"layer": 9}, "layers 0 to 2"),
                                              ({"head": 4}, "heads are 0 to 3"), ({"token": -1}, "no token -1")])
def test_what_there_is_not_is_refused(trace: Trace, asked: dict, words: str) -> None:
    with pytest.raises(KliegError, match=words):
        focus(trace, **asked)
    assert chosen(trace, None) == 4


def test_the_focus_of_a_translator_is_of_one_kind(translation: Trace) -> None:
    seen = focus(translation)
    everywhere = [(float(call.row(h, 4)[j]), call.layer, h, j) for call in translation.of("cross") for h in range(4)
                  for j in range(6)]   # every key but the end mark, where idle heads rest
    weight, layer, head, key = max(everywhere)
    assert (seen.kind, seen.token, seen.layer, seen.head, seen.here.key) == ("cross", 4, layer, head, key)
    assert seen.peak.weight == pytest.approx(weight)
    own = focus(translation, kind="encoder", token=2)
    assert own.kind == "encoder" and own.here.key not in (2, 6) and chosen(translation, None, "encoder") == 6
    for asked, words in (({"kind": "encoder", "token": 7}, "the source has tokens 0 to 6"),
                         ({"token": 5}, "the target has tokens 0 to 4"), ({"kind": "cross", "layer": 2}, "layers 0 to 1"),
                         ({"kind": "own"}, "no attention of kind 'own'"), ({"head": 4, "kind": "self"}, "heads are 0 to 3")):
        with pytest.raises(KliegError, match=words):
            focus(translation, **asked)


def test_a_text_that_a_trace_does_not_have_is_numbered(translation: Trace) -> None:
    bare = Trace("m", "t", translation.ids, translation.tokens, translation.calls, translation.logits, translation.vocabulary)
    assert labels(bare, bare[0, "cross"]) == (translation.tokens, [str(n) for n in range(7)])
    assert labels(translation, translation[0, "cross"]) == (translation.tokens, translation.source.tokens)


def test_a_stack_with_gaps_keeps_its_numbers(seen: Trace) -> None:
    found = focus(seen)
    assert found.layer in (1, 4, 7) and found.peak.layer == found.layer
    assert [[len(row) for row in heads] for heads in rows(seen, 5)] == [[300] * 4] * 3
    with pytest.raises(KliegError, match="layers 1, 4, 7"):
        focus(seen, layer=0)
