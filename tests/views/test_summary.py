from __future__ import annotations

import json

import pytest

from klieg.trace import Trace
from klieg.views.summary import summary


def test_it_is_json_with_the_traces_own_numbers(trace: Trace) -> None:
    said = json.loads(json.dumps(summary(trace, 1, 2, 3), allow_nan=False))
    assert (said["layers"], said["heads"], said["kv_heads"], said["tokens"]) == (3, 4, 2, trace.tokens)
    assert said["certificate"] == {"row_sum_error": trace.certificate.row_sum_error,
                                   "output_error": trace.certificate.output_error}
    assert said["next"] == [{"token": c.token, "p": c.p} for c in trace.next_tokens(10, after=3)]
    assert [p["p"] for p in said["next"]] == sorted((p["p"] for p in said["next"]), reverse=True)
    opened = said["open"]
    assert (opened["layer"], opened["head"], opened["token"]) == (1, 2, 3)
    assert opened["weights"] == trace[1].weights(2).tolist()
    for i, row in enumerate(opened["scores"]):
        assert [score is None for score in row] == [j > i for j in range(len(row))]
        assert row[0] == pytest.approx(trace.cell(1, 2, i, 0).scaled, rel=1e-5)
    assert said["looks"][2][1] == trace[2].row(1, 3).tolist()


def test_of_a_translation_it_names_both_texts_and_every_kind(translation: Trace, trace: Trace) -> None:
    for kind, rows, columns in (("cross", 5, 7), ("encoder", 7, 7), ("self", 5, 5)):
        said = json.loads(json.dumps(summary(translation, 1, 2, 3, kind), allow_nan=False))
        assert said["tokens"] == translation.tokens and said["source"]["tokens"] == translation.source.tokens
        assert (said["source"]["text"], said["text"]) == ("The cat chased the mouse", "猫追老鼠。")
        assert said["kinds"] == {kind: {"layers": 2, "heads": 4, "kv_heads": 4} for kind in ("encoder", "self", "cross")}
        opened = said["open"]
        assert opened["kind"] == kind and opened["weights"] == translation[1, kind].weights(2).tolist()
        assert (len(opened["scores"]), len(opened["scores"][0])) == (rows, columns)
        assert [[s is None for s in row] for row in opened["scores"]] == [
            [kind == "self" and j > i for j in range(columns)] for i in range(rows)]
        assert said["looks"][1][2] == translation[1, kind].row(2, 3).tolist()
        assert said["next"][0]["p"] == translation.next_tokens(1, None if kind == "encoder" else 3)[0].p
        assert [step["token"] for step in said["written"]] == ["猫", "追", "老鼠", "。", "⟨/s⟩"]
    assert summary(translation)["open"]["kind"] == "cross"
    assert not {"source", "kinds", "written"} & set(summary(trace)) and "kind" not in summary(trace)["open"]


def test_by_default_the_most_certain_head_is_open(trace: Trace) -> None:
    opened = summary(trace)["open"]
    elsewhere = max(float(call.row(h, opened["token"])[1:-1].max()) for call in trace.calls for h in range(call.heads))
    assert max(opened["weights"][opened["token"]][1:-1]) == pytest.approx(elsewhere)
