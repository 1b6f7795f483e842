from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from messages import unpacked
from torch import Tensor

from klieg.attention import Mask
from klieg.errors import KliegError
from klieg.survey import SurveySpec
from klieg.trace import Trace
from klieg.views import wire
from klieg.views.statistics import STATISTICS, measured
from klieg.views.summary import summary

KINDS = pytest.mark.parametrize("kind", [{}, {"softcap": 20.0}, {"bias": True}, {"sinks": True}],
                                ids=["plain", "softcap", "bias", "sinks"])


def formula(facts: dict, one: dict[str, Tensor], hidden: Tensor) -> Tensor:
    """The weights of one head, as a reader computes them from what came over the wire."""
    s = facts["scale"] * one["q"] @ one["k"].T
    if facts["softcap"]:
        s = facts["softcap"] * torch.tanh(s / facts["softcap"])
    if "bias" in one:
        s = s + one["bias"]
    return torch.where(hidden, 0, torch.exp(s - one["lse"][:, None]))


def of_head(tensors: dict[str, Tensor], call: int, head: int, group: int) -> dict[str, Tensor]:
    """One head out of a whole message: q, k, lse, and the bias, which all heads may share."""
    found = {name: tensors.get(f"calls.{call}.{name}") for name in ("q", "k", "lse", "bias")}
    return {name: x[(group if name == "k" else head) % len(x)] for name, x in found.items() if x is not None}


@KINDS
def test_a_reader_can_compute_every_weight(make: Callable[..., Trace], kind: dict) -> None:
    trace = make(**kind)
    body, tensors = unpacked(wire.whole(trace))
    assert body["format"] == "klieg-wire/1"
    assert body["model"] == {"name": "tiny <model>", "layers": 3, "heads": 4, "kv_heads": 2}
    future = torch.ones(5, 5, dtype=torch.bool).triu(1)
    for n, (facts, own) in enumerate(zip(body["calls"], trace.calls, strict=True)):
        assert facts["rules"] == [{"kind": "causal", "size": 0, "reason": "future"}] and facts["kept"] is True
        for head in range(4):
            w = formula(facts, of_head(tensors, n, head, head // 2), future)
            torch.testing.assert_close(w, own.weights(head), atol=1e-6, rtol=1e-5)
        assert torch.equal(tensors[f"calls.{n}.v"], own.v[0]) and torch.equal(tensors[f"calls.{n}.output"], own.output[0])


@KINDS
def test_a_head_alone_is_that_head_of_the_whole(make: Callable[..., Trace], kind: dict) -> None:
    trace = make(**kind)
    _, tensors = unpacked(wire.whole(trace))
    for head in range(4):
        _, one = unpacked(wire.pack({}, wire.head(trace[1], head)))
        assert set(one) == {name.removeprefix("calls.1.") for name in tensors if name.startswith("calls.1.")}
        for name, x in one.items():
            every = tensors[f"calls.1.{name}"]
            assert torch.equal(x, every[(head // 2 if name in ("k", "v", "unrotated_k") else head) % len(every)]), name
    for wrong in (4, -1):
        with pytest.raises(KliegError, match="layer 1 has heads 0 to 3"):
            wire.head(trace[1], wrong)


def test_the_outline_has_every_statistic_and_no_queries(trace: Trace) -> None:
    body, tensors = wire.outline(trace)
    message = wire.pack(body, tensors)
    body, tensors = unpacked(message)
    assert set(tensors) == {"statistics.0", "statistics.1", "statistics.2"} and len(message) < 4000
    assert [s["name"] for s in body["statistics"]] == list(STATISTICS)
    for n, call in enumerate(trace.calls):
        surveyed = call.surveyed(SurveySpec(top=0, map=0))
        for row, name in zip(tensors[f"statistics.{n}"], STATISTICS, strict=True):
            torch.testing.assert_close(row, torch.tensor(measured(surveyed, name)))
    assert body["tokens"] == trace.tokens and body["kernel"] == "dense" and body["predicted"] == 5
    assert body["certificate"] == {"row_sum_error": trace.certificate.row_sum_error,
                                   "output_error": trace.certificate.output_error}


def test_a_call_of_which_q_and_k_were_given_away_says_so(seen: Trace) -> None:
    bare = replace(seen[1], q=None, k=None, certificate=seen[1].certify())
    gone = Trace(seen.model, seen.text, seen.ids, seen.tokens, [bare], seen.logits, seen.vocabulary)
    body, tensors = wire.outline(gone)
    assert body["calls"][0]["kept"] is False and body["calls"][0]["keys"] == 300
    torch.testing.assert_close(tensors["statistics.0"], wire.outline(seen)[1]["statistics.0"])
    with pytest.raises(KliegError, match="q and k were not kept"):
        wire.head(bare, 0)
    with pytest.raises(KliegError, match="q and k were not kept"):
        wire.whole(gone)


def test_rules_and_their_tables_hide_what_the_mask_hides(make: Callable[..., Trace]) -> None:
    allowed = torch.rand(1, 1, 5, 5, generator=torch.Generator().manual_seed(0)) > 0.3
    allowed[..., 0] = True
    mask = (Mask.causal() & Mask.window(3) & Mask.padding(torch.tensor([[True, True, True, False, True]]))
            & Mask.explicit(allowed))
    trace = make(mask=mask)
    body, tensors = unpacked(wire.whole(trace))
    rules = body["calls"][0]["rules"]
    assert [rule["reason"] for rule in rules] == ["future", "outside the window", "padding", "not allowed"]
    tables = [tensors.get(f"calls.0.table.{n}") for n in range(4)]
    assert [t is None for t in tables] == [True, True, False, False]
    for i in range(5):
        for j in range(5):
            hides = [j > i, abs(i - j) >= rules[1]["size"], not tables[2][0, j], not tables[3][0, i - rules[3]["size"], j]]
            first = next((rule["reason"] for rule, hidden in zip(rules, hides, strict=True) if hidden), None)
            assert first == trace[0].reason(0, i, j)
    assert torch.equal(wire.head(trace[0], 2)["table.2"].bool(), torch.tensor([True, True, True, False, True]))


def test_a_translation_travels_with_both_texts_and_every_kind(translation: Trace, trace: Trace) -> None:
    body, tensors = unpacked(wire.whole(translation))
    assert body["translation"] == {"source": "The cat chased the mouse", "target": "猫追老鼠。",
                                   "tokens": translation.source.tokens, "ids": translation.source.ids}
    assert body["ids"] == translation.ids and body["written"] == summary(translation)["written"]
    assert body["tokens"] == translation.tokens and [n["after"] for n in body["next"]] == [0, 1, 2, 3, 4]
    assert [(call["kind"], call["layer"]) for call in body["calls"]] == [(c.kind, c.layer) for c in translation.calls]
    for n, (facts, own) in enumerate(zip(body["calls"], translation.calls, strict=True)):
        assert (facts["queries"], facts["keys"]) == (own.queries, own.keys)
        assert facts["rules"] == ([{"kind": "causal", "size": 0, "reason": "future"}] if own.kind == "self" else [])
        hidden = torch.ones(own.queries, own.keys, dtype=torch.bool).triu(1) & (own.kind == "self")
        torch.testing.assert_close(formula(facts, of_head(tensors, n, 2, 2), hidden), own.weights(2), atol=1e-6, rtol=1e-5)
    assert wire.outline(trace)[0]["translation"] is None and len(wire.outline(trace)[0]["calls"]) == trace.layers


def test_next_tokens_after_every_token(trace: Trace) -> None:
    body, _ = unpacked(wire.whole(trace))
    assert [n["after"] for n in body["next"]] == [0, 1, 2, 3, 4]
    for after in body["next"]:
        wanted = [{"token": c.token, "id": c.id, "p": c.p} for c in trace.next_tokens(10, after["after"])]
        assert after["candidates"] == wanted == wire.candidates(trace, after["after"])


def test_numbers_travel_in_types_that_a_browser_has() -> None:
    given = {"a": torch.tensor([1.5], dtype=torch.float64), "b": torch.tensor([1.5], dtype=torch.bfloat16),
             "c": torch.tensor([True]), "d": torch.tensor([7]), "e": torch.arange(6).reshape(2, 3).T}
    _, tensors = unpacked(wire.pack({}, given))
    assert {name: x.dtype for name, x in tensors.items()} == {
        "a": torch.float32, "b": torch.float32, "c": torch.uint8, "d": torch.int32, "e": torch.int32}
    assert torch.equal(tensors["e"], given["e"])
    for nothing in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON compliant"):
            wire.pack({"p": nothing})


def test_a_body_can_hold_any_text() -> None:
    said = {"text": "</script><!-- \u2028 \u202e 小 \x00 \x1b[31m" + "长" * 10_000}
    assert unpacked(wire.pack(said))[0] == said
