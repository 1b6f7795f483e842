from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable

import pytest
import torch

from klieg.attention import Mask
from klieg.trace import Trace
from klieg.views.wire import wire


def tensor(array: dict) -> torch.Tensor:
    kind = {"float32": torch.float32, "uint8": torch.uint8}[array["dtype"]]
    return torch.frombuffer(bytearray(b64decode(array["data"])), dtype=kind).reshape(array["shape"])


@pytest.mark.parametrize("kind", [{}, {"softcap": 20.0}, {"bias": True}, {"sinks": True}],
                         ids=["plain", "softcap", "bias", "sinks"])
def test_a_reader_can_compute_every_weight(make: Callable[..., Trace], kind: dict) -> None:
    trace = make(**kind)
    message = json.loads(json.dumps(wire(trace), allow_nan=False))
    assert message["format"] == "klieg-trace/1"
    assert message["model"] == {"name": "tiny <model>", "layers": 3, "heads": 4, "kv_heads": 2}
    for call, own in zip(message["calls"], trace.calls, strict=True):
        q, k, lse, hidden = (tensor(call[name]) for name in ("q", "k", "lse", "hidden"))
        for head in range(4):
            s = call["scale"] * q[head] @ k[head // 2].T
            if call["softcap"]:
                s = call["softcap"] * torch.tanh(s / call["softcap"])
            if call["bias"]:
                s = s + tensor(call["bias"])[0]
            w = torch.where(hidden[0] == 0, torch.exp(s - lse[head][:, None]), 0)
            torch.testing.assert_close(w, own.weights(head), atol=1e-6, rtol=1e-5)
        assert torch.equal(tensor(call["v"]), own.v[0])


def test_reasons_are_those_of_the_trace(make: Callable[..., Trace]) -> None:
    mask = Mask.causal() & Mask.window(2) & Mask.padding(torch.tensor([[True, True, True, False, True]]))
    trace = make(mask=mask)
    call = wire(trace)["calls"][0]
    hidden, reasons = tensor(call["hidden"]), call["reasons"]
    assert reasons == ["", "future", "outside the window", "padding"]
    for i in range(5):
        for j in range(5):
            assert reasons[hidden[0, i, j]] == (trace[0].reason(0, i, j) or "")


def test_a_translation_travels_with_both_texts_and_every_kind(translation: Trace, trace: Trace) -> None:
    message = json.loads(json.dumps(wire(translation), allow_nan=False))
    assert message["translation"] == {"source": "The cat chased the mouse", "target": "猫追老鼠。",
                                      "tokens": translation.source.tokens}
    assert message["tokens"] == translation.tokens and [n["after"] for n in message["next"]] == [0, 1, 2, 3, 4]
    assert [(call["kind"], call["layer"]) for call in message["calls"]] == [(c.kind, c.layer) for c in translation.calls]
    for call, own in zip(message["calls"], translation.calls, strict=True):
        q, k, lse, hidden = (tensor(call[name]) for name in ("q", "k", "lse", "hidden"))
        assert (q.shape[1], k.shape[1]) == hidden.shape[1:] == (own.queries, own.keys)
        w = torch.where(hidden[0] == 0, torch.exp(call["scale"] * q[2] @ k[2].T - lse[2][:, None]), 0)
        torch.testing.assert_close(w, own.weights(2), atol=1e-6, rtol=1e-5)
        assert call["reasons"] == (["", "future"] if own.kind == "self" else [""])
    assert wire(trace)["translation"] is None and len(wire(trace)["calls"]) == trace.layers


def test_next_tokens_after_every_token_and_the_certificate(trace: Trace) -> None:
    message = wire(trace)
    assert [n["after"] for n in message["next"]] == [0, 1, 2, 3, 4]
    for after in message["next"]:
        assert after["candidates"] == [{"token": c.token, "p": c.p} for c in trace.next_tokens(10, after["after"])]
    assert message["tokens"] == trace.tokens and message["kernel"] == "dense"
    assert message["certificate"] == {"row_sum_error": trace.certificate.row_sum_error,
                                      "output_error": trace.certificate.output_error}
