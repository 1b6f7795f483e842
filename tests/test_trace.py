"""The Trace: its numbers against the model's own and against each other, on disk and back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_models import GPT2, LLAMA, SHAPES, lively
from test_watch import translator

import klieg
from klieg.errors import KliegError
from klieg.survey import SurveySpec
from klieg.tokenizers import train

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


@pytest.fixture(scope="module")
def translation():
    return klieg.trace(translator(), "I love you and the moon", target="ich liebe dich", to="de")


def test_all_three_kinds_of_a_translator_are_those_of_transformers_in_eager_mode(translation, tmp_path: Path) -> None:
    from transformers import AutoModelForSeq2SeqLM

    klieg.models.save(tmp_path, *translator())
    eager = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, attn_implementation="eager", dtype=torch.float64).eval()
    source, target = torch.tensor([translation.source.ids]), torch.tensor([translation.ids])
    seen = eager(source, decoder_input_ids=target, output_attentions=True)
    for kind, maps in (("encoder", seen.encoder_attentions), ("self", seen.decoder_attentions),
                       ("cross", seen.cross_attentions)):
        assert len(maps) == len(translation.of(kind)) == 2
        for call in translation.of(kind):
            for head in range(call.heads):
                assert (call.weights(head) - maps[call.layer][0, head]).abs().max() < 1e-5
    assert (translation.logits - seen.logits[0]).abs().max() < 1e-4


def test_every_axis_has_the_labels_of_its_text(translation) -> None:
    source, target = translation.source.tokens, translation.tokens
    assert translation.kind == "cross" and translation.stack == translation.of("cross")
    for kind, labels in (("encoder", (source, source)), ("self", (target, target)), ("cross", (target, source))):
        for call in translation.of(kind):
            assert translation.axes(call) == labels
            assert (call.queries, call.keys) == tuple(map(len, labels))
    cell = translation.cell(1, 2, 0, len(source) - 1, kind="cross")
    assert (cell.kind, cell.query_token, cell.key_token) == ("cross", target[0], source[-1])
    assert cell.weight == pytest.approx(translation[1, "cross"].weights(2)[0, -1].item(), abs=1e-6)
    last = len(source) - 1
    assert len(target) < len(source)
    for ask, said in [(lambda: translation.cell(0, 0, 0, last + 1, kind="cross"), f"the source has tokens 0 to {last}"),
                      (lambda: translation.cell(0, 0, last, 0, kind="cross"), f"the text has tokens 0 to {len(target) - 1}"),
                      (lambda: translation.of("diagonal"), "has 'encoder', 'self', 'cross'")]:
        with pytest.raises(KliegError, match=said):
            ask()


def test_only_the_decoder_of_a_translator_hides_the_future(translation) -> None:
    for call in translation.calls:
        every = slice(0, call.queries), slice(0, call.keys)
        hidden = ~call.visible(0, *every)
        assert torch.equal(hidden, torch.ones_like(hidden).triu(1) & (call.kind == "self"))
    assert translation[0, "cross"].reason(0, 0, len(translation.source.tokens) - 1) is None
    assert translation[0].reason(0, 0, 1) == "future"


@pytest.mark.parametrize("kind", ["encoder", "self", "cross"])
def test_a_wrong_call_of_any_kind_fails_the_certificate_of_a_translation(translation, kind: str) -> None:
    place = next(n for n, call in enumerate(translation.calls) if (call.layer, call.kind) == (1, kind))
    for wrong in ({"lse": translation.calls[place].lse + 0.01}, {"output": translation.calls[place].output * 1.01}):
        calls = [*translation.calls]
        calls[place] = replace(calls[place], **wrong)
        with pytest.raises(KliegError, match=rf"fails its certificate at layer 1 \({kind}\)"):
            replace(translation, calls=calls)


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


def test_saved_and_read_again(trace, tmp_path: Path) -> None:
    trace.save(tmp_path / "t.klieg")
    back = klieg.Trace.load(tmp_path / "t.klieg")
    assert back.vocabulary == list(trace.vocabulary) and back.certificate == trace.certificate
    for a, b in zip(trace.calls, back.calls, strict=True):
        assert torch.equal(a.weights(1), b.weights(1)) and torch.equal(a.survey.top_keys, b.survey.top_keys)
        assert b.reason(0, 0, 1) == "future"
    for a, b in zip(trace.stream().blocks, back.stream().blocks, strict=True):
        assert a.order == b.order and all(torch.equal(x, b.tensors()[name]) for name, x in a.tensors().items())


def test_the_stream_that_is_meant_is_the_decoders(trace, translation) -> None:
    assert trace.stream() is trace.stream("self") is trace.streams["self"]
    assert translation.stream() is translation.streams["self"] and translation.stream("encoder").kind == "encoder"
    for asked, said in [(replace(trace, streams=None), "'self' was not kept; watch it again with streams=True"),
                        (replace(trace, streams={}, without_stream={"self": "so it is"}), "of '(Llama|GPT2)': so it is")]:
        with pytest.raises(KliegError, match=said):
            asked.stream()


@pytest.mark.parametrize("ask", [lambda t: t[99], lambda t: t[-1], lambda t: t[0].weights(99), lambda t: t.cell(0, 0, 0, 999),
                                 lambda t: t.next_tokens(after=999), lambda t: t[0].weights(0, batch=1)])
def test_what_is_not_there_is_named(trace, ask) -> None:
    with pytest.raises(KliegError, match="there is no"):
        ask(trace)


def test_calls_are_found_by_their_layer_and_kind(trace) -> None:
    calls = [replace(trace.calls[0], layer=2), replace(trace.calls[0], layer=5), replace(trace.calls[1], layer=5, kind="cross"),
             replace(trace.calls[1], layer=0, kind="encoder")]
    found = klieg.Trace("m", "t", trace.ids, trace.tokens, calls, trace.logits, trace.vocabulary)
    assert found[5] is calls[1] and found[5, "cross"] is calls[2] and found[0, "encoder"] is calls[3]
    assert found.kind == "self" and found.axes(calls[0]) == (trace.tokens, trace.tokens)
    assert found.axes(calls[2]) == (trace.tokens, []) and found.axes(calls[3]) == ([], [])   # of a source that was not kept
    assert found.stack == calls[:2] and found.layers == 2 and len(found) == 4
    for at, said in [(0, "no layer 0; the model has layers 2, 5"), ((1, "encoder"), "no layer 1; .* 0 to 0"),
                     ((0, "own"), "no attention of kind 'own'; the trace has 'self', 'cross', 'encoder'")]:
        with pytest.raises(KliegError, match=said):
            found[at]


def test_what_was_not_kept_is_named_with_how_to_keep_it(trace) -> None:
    full = trace.calls[1]
    bare = replace(full, q=None, k=None, v=None, output=None, groups=full.kv_heads, certificate=full.certify())
    assert (bare.heads, bare.kv_heads, bare.queries, bare.keys) == (full.heads, full.kv_heads, full.queries, full.keys)
    assert [bare.group(h) for h in range(bare.heads)] == [full.group(h) for h in range(full.heads)]
    assert bare.certify() is bare.certificate
    some = klieg.Trace("m", "t", trace.ids, trace.tokens, [bare], trace.logits[-1:], trace.vocabulary)
    rows = r"of layer 1 \(self\) q and k were not kept; watch it again with keep_qk=\[1\], on the command line --keep 1\."
    for ask in (lambda: bare.weights(0), lambda: bare.row(0, 1), lambda: bare.stages(0), lambda: bare.scaled(0),
                lambda: bare.every(slice(0, 1))):
        with pytest.raises(KliegError, match=rows):
            ask()
    with pytest.raises(KliegError, match="v and output were not kept; a watched model gives them away"):
        half = replace(full, v=None, output=None, certificate=bare.certificate)
        klieg.Trace("m", "t", trace.ids, trace.tokens, [half], trace.logits, trace.vocabulary).cell(1, 0, 1, 1)
    with pytest.raises(KliegError, match="not kept"):
        replace(bare, certificate=None).certify()
    assert some.next_tokens(2)[0] == trace.next_tokens(2)[0]
    with pytest.raises(KliegError, match=r"after token 0 were not kept; the trace has those of its last 1 tokens"):
        some.next_tokens(after=0)


def test_a_survey_is_made_where_there_is_none(trace) -> None:
    full = trace.calls[0]
    assert full.surveyed(SurveySpec()) is full
    made = replace(full, survey=None).surveyed(SurveySpec(top=3, map=4))
    assert torch.allclose(made.survey.entropy, full.survey.entropy, atol=1e-5)
    with pytest.raises(KliegError, match="not kept"):
        replace(full, survey=None, q=None, k=None).surveyed(SurveySpec())


def test_a_trace_without_attention_is_refused(trace) -> None:
    with pytest.raises(KliegError, match="no call of attention"):
        klieg.Trace("m", "t", trace.ids, trace.tokens, [], trace.logits, trace.vocabulary)
