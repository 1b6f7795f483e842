"""The Trace: its numbers against the model's own and against each other, on disk and back."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_models import GPT2, LLAMA, SHAPES, lively

import klieg
from klieg.errors import KliegError
from klieg.survey import SurveySpec
from klieg.tokenizers import train
from klieg.trace import Certificate

TEXT = "I love you, 小沈阳"


@pytest.fixture(scope="module")
def tokenizer():
    return train(iter(["I love you and the cat loves the moon"] * 2), 290)


@pytest.fixture(scope="module", params=["llama gqa", "llama mqa, rope llama3", "gpt2"])
def trace(request: pytest.FixtureRequest, tokenizer):
    return klieg.trace((lively(SHAPES[request.param]), tokenizer), TEXT, spec=SurveySpec(top=3, map=4))


def test_weights_are_those_of_transformers_in_eager_mode(tokenizer, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    for config in (LLAMA, GPT2):
        model = lively(config)
        klieg.models.save(tmp_path / config.model_type, model, tokenizer)
        found = klieg.trace(str(tmp_path / config.model_type), TEXT)
        eager = AutoModelForCausalLM.from_pretrained(tmp_path / config.model_type, attn_implementation="eager",
                                                     dtype=torch.float64)
        maps = eager(torch.tensor([found.ids]), output_attentions=True).attentions
        for layer in range(found.layers):
            for head in range(found.heads):
                assert (found[layer].weights(head) - maps[layer][0, head]).abs().max() < 1e-5


def test_every_number_of_a_cell_follows_from_its_neighbours(trace) -> None:
    model_logits = trace.logits.double().softmax(-1)
    assert torch.allclose(torch.tensor([c.p for c in trace.next_tokens(5)]).double(), model_logits[-1].topk(5).values)
    n = len(trace.tokens)
    for layer in range(trace.layers):
        for head in range(trace.heads):
            for query, key in [(0, 0), (n - 1, 0), (n - 1, n - 1), (n // 2, n // 3), (1, n - 1)]:
                check_cell(trace, trace.cell(layer, head, query, key))


def check_cell(trace, cell) -> None:
    close = lambda a, b: abs(a - b) <= 1e-5 * max(1.0, abs(b))  # noqa: E731
    if cell.unrotated_q is not None:
        for turned, plain, at in ((cell.q, cell.unrotated_q, cell.query), (cell.k, cell.unrotated_k, cell.key)):
            assert close(float(turned.norm()), float(plain.norm()))
            half = len(plain) // 2
            angle = torch.atan2(turned[half], turned[0]) - torch.atan2(plain[half], plain[0])
            assert close(float((angle - at).sin()), 0)  # the first pair turns one radian a position
    assert close(cell.dot, float((cell.q * cell.k).sum()))
    assert close(cell.dot, float(cell.products.sum()))
    assert close(cell.scaled, cell.dot * cell.scale + cell.bias)
    assert (cell.reason == "future") == (cell.key > cell.query)
    assert cell.score == (cell.scaled if cell.reason is None else -float("inf"))
    assert cell.row_max == float(cell.row_scores.max())
    assert close(cell.row_sum, float((cell.row_scores - cell.row_max).exp().sum()))
    assert close(cell.weight, float(torch.tensor(cell.score - cell.row_max).exp()) / cell.row_sum)
    assert close(cell.weight, float(trace[cell.layer].weights(cell.head)[cell.query, cell.key]))
    assert cell.difference < 1e-5
    assert torch.allclose(cell.contribution, cell.weight * cell.v)
    row = [trace.cell(cell.layer, cell.head, cell.query, j) for j in range(len(trace.tokens))]
    assert torch.allclose(sum(c.contribution for c in row), cell.output, atol=1e-5)
    assert close(sum(c.share for c in row), 1.0)


def test_stages_lead_from_the_products_to_the_weights(trace) -> None:
    call = trace[1]
    stages = call.stages(2)
    assert torch.allclose(stages.dot, call.q[0, 2] @ call.k[0, call.group(2)].T)
    assert torch.allclose(stages.scaled, stages.dot * call.scale)
    hidden = torch.ones_like(stages.dot).triu(1).bool()
    assert (stages.masked[hidden] == -torch.inf).all() and torch.equal(stages.masked[~hidden], stages.scaled[~hidden])
    assert torch.allclose(stages.weights, stages.masked.softmax(-1), atol=1e-6)
    assert torch.allclose(call.tile(2, slice(2, 5), slice(1, 3)), call.weights(2)[2:5, 1:3], atol=1e-6)
    assert torch.allclose(call.row(2, 4), call.weights(2)[4], atol=1e-6)


def test_the_certificate_measures_and_refuses(trace) -> None:
    assert trace.certificate.passed and trace.certificate.heads == trace.layers * trace.heads
    assert 0 <= trace.certificate.row_sum_error < 1e-5
    for wrong in ({"lse": trace.calls[0].lse + 0.01}, {"output": trace.calls[0].output * 1.01},
                  {"lse": trace.calls[0].lse * float("nan")}):
        broken = replace(trace.calls[0], **wrong)
        with pytest.raises(KliegError, match="certificate"):
            klieg.Trace("m", "t", trace.ids, trace.tokens, [broken], trace.logits, trace.vocabulary)
    assert not Certificate(float("inf"), 0.0, 1, 1.0).passed


def test_saved_and_read_again(trace, tmp_path: Path) -> None:
    trace.save(tmp_path / "t.klieg")
    back = klieg.Trace.load(tmp_path / "t.klieg")
    assert (back.tokens, back.ids, back.model) == (trace.tokens, trace.ids, trace.model)
    assert back.vocabulary == list(trace.vocabulary)
    assert back.certificate == trace.certificate and torch.equal(back.logits, trace.logits)
    for a, b in zip(trace.calls, back.calls, strict=True):
        assert torch.equal(a.weights(1), b.weights(1)) and torch.equal(a.survey.top_keys, b.survey.top_keys)
        assert b.reason(0, 0, 1) == "future"
    assert {p.name for p in tmp_path.iterdir()} == {"t.klieg"}


def test_a_damaged_trace_is_one_line(trace, tmp_path: Path) -> None:
    path = tmp_path / "t.klieg"
    trace.save(path)
    whole = path.read_bytes()
    damaged = [whole[:len(whole) // 2], b"", b"PK", whole.replace(b'"klieg-trace/1"', b'"klieg-trace/9"')]
    with zipfile.ZipFile(tmp_path / "z", "w") as z:
        z.writestr("trace.json", '{"format": "klieg-trace/1"}')
        z.writestr("tensors.safetensors", b"\xff" * 20)
    for bad in (*damaged, (tmp_path / "z").read_bytes()):
        path.write_bytes(bad)
        with pytest.raises(KliegError) as caught:
            klieg.Trace.load(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(KliegError, match="no trace"):
        klieg.Trace.load(tmp_path / "absent.klieg")


@pytest.mark.parametrize("ask", [lambda t: t[99], lambda t: t[-1], lambda t: t[0].weights(99), lambda t: t.cell(0, 0, 0, 999),
                                 lambda t: t.next_tokens(after=999), lambda t: t[0].weights(0, batch=1)])
def test_what_is_not_there_is_named(trace, ask) -> None:
    with pytest.raises(KliegError, match="there is no"):
        ask(trace)
