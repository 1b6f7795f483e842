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


def test_by_default_the_most_certain_head_is_open(trace: Trace) -> None:
    opened = summary(trace)["open"]
    elsewhere = max(float(call.row(h, opened["token"])[1:-1].max()) for call in trace.calls for h in range(call.heads))
    assert max(opened["weights"][opened["token"]][1:-1]) == pytest.approx(elsewhere)
