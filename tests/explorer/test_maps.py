"""The questions of the map, against the whole map of the formula in float64."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import pytest
import torch
from starlette.testclient import TestClient

from klieg.attention import Mask, hide, log_sum_exp, output, scores, weights
from klieg.explorer import chunks, links
from klieg.explorer.chunks import Chunks
from klieg.explorer.desk import Desk
from klieg.explorer.links import strongest
from klieg.explorer.server import application
from klieg.explorer.turns import Gone, Turns
from klieg.kernels import survey
from klieg.pool import pool
from klieg.survey import SurveySpec
from klieg.trace import Call, Trace

N, HEAD = 210, 1


@pytest.fixture(autouse=True)
def small(monkeypatch) -> None:
    """Tiles so small that a map of 210 tokens has several, of four squares each."""
    monkeypatch.setattr(chunks, "SIDE", 64)
    monkeypatch.setattr(chunks, "SQUARE", 32)
    monkeypatch.setattr(chunks, "WHOLE", 32)
    monkeypatch.setattr(links, "SIDE", 64)
    monkeypatch.setattr(links, "OPENED", 200)


def made(spec: SurveySpec | None = None, sharp: float = 2.0, queries: int = N) -> Trace:
    """One call of two heads on one key head, causal, over 210 keys."""
    random = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(1, heads, n, 16, generator=random) * sharp for heads, n in ((2, queries), (1, N), (1, N)))
    s = hide(scores(q, k), Mask.causal())
    lse = log_sum_exp(s)
    found = survey(q, k, lse, Mask.causal(), spec) if spec else None
    call = Call(0, "self", q, k, v, lse, output(weights(s, lse), v), Mask.causal(), 0.25, "dense", survey=found)
    return Trace("random", "a", list(range(N)), [f"t{n}" for n in range(N)], [call], torch.zeros(1, 4), list("abcd"))


def oracle(trace: Trace) -> torch.Tensor:
    """The map of HEAD, by the formula in float64: (i, j)."""
    call = trace.calls[0]
    s = hide(scores(call.q.double(), call.k.double()), Mask.causal())
    return s.softmax(-1)[0, HEAD]


def asked(trace: Trace, path: str) -> tuple[dict, dict[str, torch.Tensor]]:
    """The body and the tensors of an answer."""
    from safetensors.torch import load

    client = TestClient(application(Desk({}, {"file": trace}), 8137, "<p>"), base_url="http://127.0.0.1:8137")
    answer = client.get(f"/api/traces/file/{path}")
    assert answer.status_code == 200, answer.text
    if answer.headers["content-type"] == "application/json":
        return answer.json(), {}
    length = int.from_bytes(answer.content[:8], "little")
    return json.loads(json.loads(answer.content[8:8 + length])["__metadata__"]["klieg"]), load(answer.content)


def same(trace: Trace, found: dict[str, torch.Tensor]) -> None:
    """Every bucket of a tile against the map itself."""
    w, rows, keys = oracle(trace), found["rows"].tolist(), found["keys"].tolist()
    for name, united in (("max", torch.amax), ("mean", torch.mean)):
        wanted = torch.stack([torch.stack([united(w[a:b, x:y], (0, 1)) for x, y in pairwise(keys)]) for a, b in pairwise(rows)])
        torch.testing.assert_close(found[name].double(), wanted, rtol=1e-4, atol=1e-12)
    torch.testing.assert_close(found["top"].double(), torch.stack([w[a:b].max() for a, b in pairwise(rows)]), rtol=1e-4, atol=0)


@pytest.mark.parametrize(("rows", "keys", "bucket"), [
    ("64:128", "0:64", 16), ("64:128", "0:64", 32), ("192:210", "128:192", 16), ("192:210", "192:210", 16), ("0:64", "0:64", 4),
    ("128:192", "1:64", 16), ("3:50", "7:16", 8), ("209:210", "0:64", 16), ("192:210", "0:64", 64)])
def test_tiles_are_exact_at_every_zoom(rows: str, keys: str, bucket: int) -> None:
    trace = made()
    _, found = asked(trace, f"tiles/0/{HEAD}?rows={rows}&keys={keys}&bucket={bucket}")
    same(trace, found)
    for name, given in (("rows", rows), ("keys", keys)):
        start, stop = map(int, given.split(":"))
        assert (found[name][0], found[name][-1]) == (start, stop)
        assert len(found[name]) - 1 == math.ceil((stop - start) / bucket)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("spec", [None, SurveySpec(top=4, map=20), SurveySpec(top=0, map=70)])
def test_the_whole_map(spec: SurveySpec | None, first: bool) -> None:
    trace = made(spec)
    _, found = asked(trace, f"whole/0/{HEAD}?first={str(first).lower()}")
    same(trace, found)
    assert found["keys"][0] == (0 if first else 1) and found["rows"][-1] == found["keys"][-1] == N
    assert found["max"].shape[0] == (min(spec.map, 32) if spec else 27)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(("rows", "keys"), [("0:70", "0:70"), ("0:40", "0:33"), ("69:70", "1:70"), ("30:70", "0:1")])
def test_the_survey_s_own_map_part_by_part(rows: str, keys: str, first: bool) -> None:
    trace = made(SurveySpec(top=4, map=70))
    body, _ = asked(trace, f"whole/0/{HEAD}")
    assert body["stored"] == [70, 70]
    _, found = asked(trace, f"surveyed/0/{HEAD}?rows={rows}&keys={keys}&first={str(first).lower()}")
    same(trace, found)
    (top, bottom), (left, right) = (map(int, span.split(":")) for span in (rows, keys))
    assert found["rows"].tolist() == [3 * n for n in range(top, bottom + 1)]
    assert found["keys"].tolist() == [3 * n or 1 - first for n in range(left, right + 1)]


def test_a_map_that_is_no_finer_than_the_whole_has_no_parts() -> None:
    for spec in (None, SurveySpec(top=4, map=20), SurveySpec(top=4, map=0)):
        assert asked(made(spec), f"whole/0/{HEAD}")[0]["stored"] is None


def test_a_square_is_computed_once_and_goes_with_its_call(monkeypatch) -> None:
    trace, kept, computed = made(), Chunks(), []
    monkeypatch.setattr(chunks, "pool", lambda *given: computed.append(given) or pool(*given))
    for bucket in (16, 32, 64, 16):
        kept.tile(trace.calls[0], HEAD, (64, 128), (0, 64), bucket, next_turn())
    assert len(computed) == 4 and len(kept._squares) == 1
    kept.tile(trace.calls[0], HEAD, (64, 96), (0, 64), 16, next_turn())
    assert len(computed) == 4
    for _ in range(3):
        kept.whole(trace.calls[0], HEAD, False, next_turn())
    assert len(computed) == 4 + 16   # its buckets are of 8 tokens, finer than a square's
    del trace
    computed.clear()
    assert len(kept._squares) == len(kept._wholes) == 0


def test_cells() -> None:
    trace = made()
    _, found = asked(trace, f"cells/0/{HEAD}?rows=20:40&keys=10:35")
    w, s = oracle(trace)[20:40, 10:35], trace.calls[0].scaled(HEAD, slice(20, 40), slice(10, 35))
    torch.testing.assert_close(found["weight"].double(), w, rtol=1e-4, atol=1e-9)
    hidden = torch.arange(20, 40)[:, None] < torch.arange(10, 35)
    assert (found["score"][hidden] == -torch.inf).all()
    torch.testing.assert_close(found["score"][~hidden].double(), s[~hidden], rtol=1e-5, atol=1e-5)
    again = torch.exp(found["score"].double() - found["lse"].double()[:, None])
    torch.testing.assert_close(again, w, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("sharp", [2.0, 0.1])
@pytest.mark.parametrize("spec", [None, SurveySpec(top=4, map=20)])
@pytest.mark.parametrize(("rows", "keys", "count"), [
    ((0, N), (0, N), 12), ((100, 200), (20, 90), 12), ((150, 180), (150, 180), 100), ((10, 11), (0, N), 5),
    ((5, 9), (50, 90), 5)])
def test_the_strongest_links_are_the_strongest(rows: tuple, keys: tuple, count: int, spec: SurveySpec | None,
                                               sharp: float) -> None:
    trace = made(spec, sharp)
    body, _ = asked(trace, f"links/0/{HEAD}?rows={rows[0]}:{rows[1]}&keys={keys[0]}:{keys[1]}&count={count}")
    w = oracle(trace)
    w = w.tolist()
    every = sorted(((w[i][j], i, j) for i in range(*rows) for j in range(max(keys[0], 1), min(keys[1], i))), reverse=True)
    assert body["exact"] is True and len(body["links"]) == min(count, len(every))
    for (i, j, weight), (wanted, *_) in zip(body["links"], every, strict=False):
        assert weight == pytest.approx(wanted, rel=1e-4) == pytest.approx(w[i][j], rel=1e-4)
        assert j not in (0, i)


def test_the_largest_weights_may_stand_anywhere_in_their_rows() -> None:
    random = torch.Generator().manual_seed(1)
    weights, keys = torch.rand(50, 8, generator=random), torch.arange(400).view(50, 8)
    weights[weights < 0.3] = 0
    for count in (1, 5, 60, 400):
        every = sorted(((w, n // 8 + 7, n) for n, w in enumerate(weights.flatten().tolist()) if w), reverse=True)
        found = links._largest(weights, keys, 7, count)
        assert [(link.weight, link.query, link.key) for link in found] == every[:count]


def test_without_q_and_k_only_what_the_survey_proves_is_given() -> None:
    trace = made(SurveySpec(top=4, map=20), 0.1)
    call = trace.calls[0]
    call.certificate = trace.certificate
    call.groups, call.q, call.k = 1, None, None
    found = strongest(Chunks(), call, HEAD, (0, N), (0, N), 60, next_turn())
    bound = call.survey.top_weights[0, HEAD, :, -1].max().item()
    assert found.exact is False and all(link.weight >= bound for link in found.links) and len(found.links) < 60
    client = TestClient(application(Desk({}, {"file": trace}), 8137, "<p>"), base_url="http://127.0.0.1:8137")
    assert client.get(f"/api/traces/file/whole/0/{HEAD}").status_code == 200
    refused = client.get(f"/api/traces/file/tiles/0/{HEAD}?rows=0:64&keys=0:64&bucket=1")
    assert refused.status_code == 422 and "not kept" in refused.json()["error"]


def next_turn(gone: bool = False):
    import threading

    event = threading.Event()
    if gone:
        event.set()
    turn = Turns().turn(event)
    return turn.__enter__()


def test_a_long_search_ends_when_nobody_waits() -> None:
    for job in (lambda turn: strongest(Chunks(), made().calls[0], HEAD, (0, N), (0, N), 5, turn),
                lambda turn: Chunks().whole(made().calls[0], HEAD, True, turn),
                lambda turn: Chunks().tile(made().calls[0], HEAD, (0, 64), (0, 64), 16, turn)):
        with pytest.raises(Gone):
            job(next_turn(gone=True))


@pytest.mark.parametrize(("query", "key"), [(200, 3), (200, 200), (150, 180), (0, 0)])
def test_one_weight_can_be_recomputed_from_what_is_sent(query: int, key: int) -> None:
    trace = made()
    body, found = asked(trace, f"cells/0/{HEAD}/{query}/{key}")
    w = oracle(trace)[query, key].item()
    q, k = found["q"].double(), found["k"].double()
    assert body["dot"] == pytest.approx((q @ k).item(), rel=1e-9)
    assert body["scaled"] == pytest.approx(0.25 * body["dot"], rel=1e-9)
    total = math.fsum(term[2] for term in body["terms"]) + body["rest"] + body["sink"]
    assert total == pytest.approx(body["row_sum"], rel=1e-12)
    assert len(body["terms"]) + body["others"] == query + 1
    if key > query:
        assert body["reason"] == "future" and body["score"] is None and body["weight"] == 0 == w
        return
    assert body["weight"] == pytest.approx(w, rel=1e-6) == pytest.approx(body["model_weight"], rel=1e-4)
    assert math.exp(body["score"] - body["row_max"]) / body["row_sum"] == pytest.approx(w, rel=1e-6)
    assert key in [term[0] for term in body["terms"]]


def test_a_learned_sink_is_in_the_sum() -> None:
    trace = made()
    call = trace.calls[0]
    call.sinks = torch.tensor([1.0, 2.0])
    body, _ = asked(trace, f"cells/0/{HEAD}/100/7")
    s = call.scaled(HEAD, slice(100, 101))[0, :101]
    assert body["sink"] == pytest.approx(math.exp(2 - body["row_max"]))
    assert body["weight"] == pytest.approx(math.exp(s[7].item()) / (s.exp().sum().item() + math.exp(2)), rel=1e-9)


@pytest.mark.parametrize(("rows", "keys"), [("0:71", "0:2"), ("0:2", "70:71"), ("2:2", "0:2"), ("0:2", "2:1")])
def test_a_survey_s_map_has_no_more_than_it_has(rows: str, keys: str) -> None:
    desk = Desk({}, {"file": made(SurveySpec(top=0, map=70))})
    client = TestClient(application(desk, 8137, "<p>"), base_url="http://127.0.0.1:8137")
    answer = client.get(f"/api/traces/file/surveyed/0/{HEAD}?rows={rows}&keys={keys}")
    assert answer.status_code == 422 and "0:70" in answer.json()["error"]


@pytest.mark.parametrize("path", [
    "tiles/0/1?rows=0:300&keys=0:64&bucket=16", "tiles/0/1?rows=64:0&keys=0:64&bucket=16",
    "tiles/0/1?rows=0:65&keys=0:64&bucket=16", "tiles/0/9?rows=0:64&keys=0:64&bucket=16",
    "tiles/7/0?rows=0:64&keys=0:64&bucket=16", "tiles/0/1?rows=a&keys=0:64&bucket=16", "tiles/0/1?rows=0:64&keys=0:64&bucket=0",
    "tiles/0/1?rows=0:64&keys=0:64", "cells/0/1?rows=0:999999999&keys=0:2",
    "cells/0/1?rows=0:2&keys=5:5", "cells/0/1/500/0", "cells/0/1/0/500", "cells/0/5/0/0", "links/0/1?rows=0:2&keys=0:500",
    "links/0/1?rows=0:2&keys=0:2&count=0", "whole/0/4", "whole/0/1?first=perhaps", "whole/-1/0",
    "surveyed/0/1?rows=0:2&keys=0:2", "surveyed/0/4?rows=0:2&keys=0:2"])
def test_what_there_is_not_is_refused_in_one_line(path: str) -> None:
    client = TestClient(application(Desk({}, {"file": made()}), 8137, "<p>"), base_url="http://127.0.0.1:8137")
    answer = client.get(f"/api/traces/file/{path}")
    assert answer.status_code == 422 and "\n" not in answer.json()["error"]
    assert client.get(f"/api/traces/none/{path}").status_code in (404, 422)
