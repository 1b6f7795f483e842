"""What happens around attention: its numbers against transformers' own hidden states and against the formulas in float64."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from families import FAMILIES
from test_encoders import BERT
from test_encoders import lively as lively_bert
from test_models import GPT2, LLAMA, lively
from test_watch import MARIAN, translator
from torch import Tensor, nn

import klieg
from klieg import models
from klieg.blocks import Stream, adds_up
from klieg.errors import KliegError
from klieg.tokenizers import Tokenizer, train
from klieg.trace import Trace
from klieg.watching.streams import Recorder

TEXT = "I love you and the moon"
EPS = 1e-5


@pytest.fixture(autouse=True, scope="module")
def _without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train(iter(["I love you and the cat loves the moon"] * 2), 290, marks=["[MASK]"])


def translating(**changed: Any) -> tuple[models.Model, Tokenizer]:
    _, tokenizer = translator()
    return lively(replace(MARIAN, **changed)), tokenizer


def traced(name: str, tokenizer: Tokenizer) -> tuple[models.Model, Trace]:
    makers = {"llama": lambda: (lively(LLAMA), tokenizer), "gpt2": lambda: (lively(GPT2), tokenizer),
              "bert": lambda: (lively_bert(BERT), tokenizer), "marian": translator,
              "marian scaled": lambda: translating(scale_embedding=True)}
    pair = makers[name]()
    options = {"target": "ich liebe dich", "to": "de"} if "marian" in name else {}
    return pair[0], klieg.trace(pair, TEXT, **options)


def near(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() < EPS * max(1.0, b.abs().max().item()))


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "marian", "marian scaled"])
def test_what_enters_and_leaves_every_block_is_what_transformers_gives(name: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    import transformers

    model, trace = traced(name, tokenizer)
    models.save(tmp_path, model, tokenizer)
    auto = getattr(transformers, model.config.architecture)
    theirs = auto.from_pretrained(tmp_path, dtype=torch.float64, attn_implementation="eager").eval()
    ids, asked = torch.tensor([trace.ids]), {"output_hidden_states": True}
    if trace.source is None:
        states = {"self": theirs(ids, **asked).hidden_states}
    else:
        seen = theirs(torch.tensor([trace.source.ids]), decoder_input_ids=ids, **asked)
        states = {"encoder": seen.encoder_hidden_states, "self": seen.decoder_hidden_states}
    assert trace.streams.keys() == states.keys() and trace.without_stream == {}
    for kind, hidden in states.items():
        stream = trace.streams[kind]
        assert [(block.layer, block.kind) for block in stream.blocks] == [(n, kind) for n in range(len(hidden) - 1)]
        for block, entered, left in zip(stream.blocks, hidden[:-1], hidden[1:], strict=True):
            assert near(block.input, entered)
            # Theirs of the last block is normed where there is a final norm.
            assert near(stream.final if block is stream.blocks[-1] else block.output, left)
        assert near(stream.final, hidden[-1]) and stream.kind == kind
        assert all(a.output is b.input for a, b in zip(stream.blocks[:-1], stream.blocks[1:], strict=True))


@pytest.mark.parametrize("name", ["llama", "gpt2", "marian"])
def test_the_end_of_the_stream_times_the_vocabulary_is_the_logits(name: str, tokenizer: Tokenizer) -> None:
    model, trace = traced(name, tokenizer)
    assert near(trace.stream().final[0] @ model.vocabulary.T + getattr(model, "final_logits_bias", 0), trace.logits)
    assert trace.stream().final_norm == (name != "marian")


def test_berts_end_goes_through_its_head(tokenizer: Tokenizer) -> None:
    model, trace = traced("bert", tokenizer)
    assert torch.equal(model.head(trace.stream().final), model(torch.tensor([trace.ids])))
    assert not trace.stream().final_norm


def added(block: Any) -> list[Tensor]:
    return [x for x in (block.attended, block.crossed, block.fed) if x is not None]


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_before_a_norm_the_parts_add_up(name: str, tokenizer: Tokenizer) -> None:
    model, trace = traced(name, tokenizer)
    stream, double = trace.stream(), model.double()
    rows = stream.embedded if stream.positions is None else stream.embedded + stream.positions
    assert torch.equal(rows, stream.blocks[0].input) and (stream.positions is None) == (name == "llama")
    assert not stream.embedding_norm and stream.types is None
    for block, module in zip(stream.blocks, double.blocks, strict=True):
        assert block.order == "pre" and block.crossed is None and block.cross_input is None
        assert near(block.output, block.input.double() + sum(x.double() for x in added(block)))
        assert near(block.middle, block.input.double() + block.attended.double())
        first, second = ((module.input_layernorm, module.post_attention_layernorm) if name == "llama"
                         else (module.ln_1, module.ln_2))
        for norm, x, found in ((first, block.input, block.normed), (second, block.middle, block.fed_input)):
            x = x.double()
            if name == "llama":
                wanted = x / (x.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight
            else:
                wanted = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + norm.eps).sqrt()
                wanted = wanted * norm.weight + norm.bias
            assert near(found, wanted)
        heads = trace[block.layer].output[0].double().transpose(0, 1).flatten(1)
        wanted = (heads @ module.self_attn.o_proj.weight.T if name == "llama"
                  else heads @ module.attn.c_proj.weight + module.attn.c_proj.bias)
        assert near(block.attended[0], wanted)


def layer_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    return F.layer_norm(x.double(), norm.weight.shape, norm.weight.double(), norm.bias.double(), norm.eps)


def test_after_a_norm_the_sums_are_normed(tokenizer: Tokenizer) -> None:
    model, trace = traced("bert", tokenizer)
    stream = trace.stream()
    assert stream.embedding_norm and stream.positions.shape[1:] == stream.types.shape[1:] == stream.embedded.shape[1:]
    rows = stream.embedded + stream.positions + stream.types
    assert near(stream.blocks[0].input, layer_norm(rows, model.bert["embeddings"].LayerNorm))
    for block, module in zip(stream.blocks, model.bert["encoder"].layer, strict=True):
        assert block.order == "post" and block.normed is block.input and block.middle is block.fed_input
        heads, end = trace[block.layer].output[0].double().transpose(0, 1).flatten(1), module.attention.output
        assert near(block.attended[0], heads @ end.dense.weight.double().T + end.dense.bias)
        assert near(block.fed_input, layer_norm(block.input + block.attended, end.LayerNorm))
        assert near(block.output, layer_norm(block.fed_input + block.fed, module.output.LayerNorm))


@pytest.mark.parametrize("pre_norm", [False, True])
def test_a_translator_has_two_stacks_and_its_decoder_looks_at_the_encoder(pre_norm: bool) -> None:
    pair = translating(pre_norm=pre_norm, scale_embedding=True, learned_positions=pre_norm)
    model, trace = pair[0], klieg.trace(pair, TEXT, target="ich liebe dich", to="de")
    for kind, stack in (("encoder", model.model.encoder), ("self", model.model.decoder)):
        stream, ids = trace.streams[kind], trace.source.ids if kind == "encoder" else trace.ids
        assert near(stream.embedded[0], model.vocabulary[ids] * model.config.d_model ** 0.5)
        assert torch.equal(stream.blocks[0].input, stream.embedded + stream.positions) and not stream.embedding_norm
        assert stream.final_norm == pre_norm
        for block, module in zip(stream.blocks, stack.layers, strict=True):
            parts = [("self_attn", block.normed, block.attended), ("encoder_attn", block.cross_input, block.crossed)]
            flow, kinds = block.input, {"self_attn": kind, "encoder_attn": "cross"}
            for name, read, gave in parts[:1 + (kind == "self")]:
                norm, attention = getattr(module, f"{name}_layer_norm"), getattr(module, name)
                heads = trace[block.layer, kinds[name]].output[0].double().transpose(0, 1).flatten(1)
                assert near(read, layer_norm(flow, norm) if pre_norm else flow)
                assert near(gave[0], heads @ attention.out_proj.weight.double().T + attention.out_proj.bias)
                flow = flow + gave if pre_norm else layer_norm(flow + gave, norm).float()
            assert block.order == ("pre" if pre_norm else "post") and near(block.middle, flow)
            assert near(block.fed_input, layer_norm(flow, module.final_layer_norm) if pre_norm else flow)
            leaves = flow + block.fed
            assert near(block.output, leaves if pre_norm else layer_norm(leaves, module.final_layer_norm))
            assert (block.crossed is None) == (kind == "encoder")


def hooks(model: nn.Module) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules())


def test_hooks_go_whatever_happens(tokenizer: Tokenizer) -> None:
    model = lively(LLAMA)
    with pytest.raises(KliegError, match="dens"):
        klieg.trace((model, tokenizer), TEXT, kernel="dens")
    assert hooks(model) == 0
    with pytest.raises(ZeroDivisionError), Recorder(model) as recorder:
        assert hooks(model) > 0
        raise ZeroDivisionError
    assert hooks(model) == 0 and recorder.take() == ({}, {})
    other = FAMILIES["llama"].model()
    with pytest.raises(ZeroDivisionError), klieg.watch(other, streams=True):
        raise ZeroDivisionError
    assert hooks(other) == 0


def test_a_recorder_hears_its_own_thread_only(tokenizer: Tokenizer) -> None:
    model, ids = lively(LLAMA), torch.arange(20)[None]
    with Recorder(model) as recorder:
        other = threading.Thread(target=lambda: model(ids + 7))
        model(ids)
        other.start()
        other.join()
    streams, why = recorder.take()
    assert why == {} and torch.equal(streams["self"].embedded, model.model.embed_tokens(ids))
    assert torch.equal(model.head(streams["self"].final), model(ids))


def test_two_threads_may_trace_one_model(tokenizer: Tokenizer) -> None:
    model, texts = lively(LLAMA), [TEXT, "the cat loves"]
    alone = [klieg.trace((model, tokenizer), text).stream() for text in texts]
    found: dict[int, list[Trace]] = {0: [], 1: []}

    def work(n: int) -> None:
        found[n] += [klieg.trace((model, tokenizer), texts[n]) for _ in range(15)]

    threads = [threading.Thread(target=work, args=(n,)) for n in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert hooks(model) == 0
    for n, traces in found.items():
        assert len(traces) == 15 and all(torch.equal(trace.stream().final, alone[n].final) for trace in traces)


# ---- models of transformers ----

def same(a: Stream, b: Stream) -> bool:
    """Whether two streams agree, everywhere."""
    pairs = [(a.tensors(), b.tensors())] + [(x.tensors(), y.tensors()) for x, y in zip(a.blocks, b.blocks, strict=True)]
    return all(x.keys() == y.keys() and all(near(x[name], y[name]) for name in x) for x, y in pairs)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "marian"])
def test_a_watched_model_gives_the_stream_of_the_same_weights_here(name: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    import transformers

    model, trace = traced(name, tokenizer)
    models.save(tmp_path, model, tokenizer)
    theirs = getattr(transformers, model.config.architecture).from_pretrained(tmp_path, dtype=torch.float32).eval()
    ids = torch.tensor([trace.ids])
    given = {"input_ids": ids} if trace.source is None else {"input_ids": torch.tensor([trace.source.ids]),
                                                             "decoder_input_ids": ids}
    before = theirs(**given).logits
    with klieg.watch(theirs, streams=True) as seen:
        assert torch.equal(theirs(**given).logits, before)
    found = seen.trace()
    assert found.streams.keys() == trace.streams.keys() and found.without_stream == {}
    assert all(same(stream, trace.streams[kind]) for kind, stream in found.streams.items())


@pytest.mark.parametrize("name,order", [("opt", "pre"), ("mixtral", "pre"), ("gpt_neox", "parallel"), ("cohere", "parallel"),
                                        ("distilbert", "post"), ("bart", "post"), ("mbart", "pre")])
def test_families_of_every_order(name: str, order: str) -> None:
    family = FAMILIES[name]
    model, given = family.model(), family.inputs()
    with klieg.watch(model, streams=True) as seen:
        hidden = model(**given, output_hidden_states=True)
    states = hidden.decoder_hidden_states if family.translates else hidden.hidden_states
    stream = seen.trace(1).stream()
    assert [block.order for block in stream.blocks] == [order, order]
    for block, entered in zip(stream.blocks, states, strict=False):
        assert torch.equal(block.input[0], entered[1])
        if order != "post":
            assert near(block.output, block.input + sum(added(block)))
    assert torch.equal(stream.final[0], states[-1][1])


@pytest.mark.parametrize("name,order", [("llama", "pre"), ("gpt_neox", "parallel"), ("bert", "post"), ("gemma", "pre")])
def test_a_model_in_bfloat16_adds_up_to_its_own_rounding(name: str, order: str) -> None:
    model, given = FAMILIES[name].model().bfloat16(), FAMILIES[name].inputs()
    with klieg.watch(model, streams=True) as seen:
        hidden = model(**given, output_hidden_states=True).hidden_states
    stream = seen.trace(1).stream()
    assert {block.order for block in stream.blocks} == {order} and stream.final.dtype == torch.float32
    assert torch.equal(stream.blocks[1].input[0], hidden[1][1].float())


def test_the_rows_that_a_generation_adds_are_joined() -> None:
    model, given = FAMILIES["llama"].model(), FAMILIES["llama"].inputs()
    with klieg.watch(model, streams=True) as seen:
        texts = model.generate(**given, max_new_tokens=4, do_sample=False, pad_token_id=0, eos_token_id=98)
    with klieg.watch(model, streams=True) as whole:
        model(texts[:, :-1])
    for batch in range(2):
        assert seen.trace(batch).stream().final.shape == (1, 16, 64)
        assert same(seen.trace(batch).stream(), whole.trace(batch).stream())


def test_the_rows_of_beams_follow_their_text() -> None:
    model = FAMILIES["marian"].model()
    given = {"input_ids": FAMILIES["marian"].inputs()["input_ids"]}
    with klieg.watch(model, streams=True) as seen:
        written = model.generate(**given, num_beams=3, max_new_tokens=5, min_new_tokens=5, do_sample=False,
                                 return_dict_in_generate=True).sequences[:, :-1]
    with klieg.watch(model, streams=True) as whole:
        model(given["input_ids"], decoder_input_ids=written)
    for batch in range(2):
        found, wanted = seen.trace(batch), whole.trace(batch)
        assert found.ids == wanted.ids == written[batch].tolist()
        assert all(same(found.streams[kind], wanted.streams[kind]) for kind in ("encoder", "self"))


def test_where_the_numbers_do_not_add_up_there_is_no_stream_and_a_reason() -> None:
    for name, said in [("gemma2", r"layer 0: .* do not add up to what leaves \(off by up to \d"), ("t5", "told apart by their"),
                       ("electra", "does not read rows of an embedding of tokens")]:
        family = FAMILIES[name]
        model = family.model()
        with klieg.watch(model, streams=True) as seen:
            model(**family.inputs())
        found = seen.trace()
        assert found.streams == {} and list(found.without_stream) == (["encoder", "self"] if name == "t5" else ["self"])
        with pytest.raises(KliegError, match=f"there is no stream of the stack 'self' of .*{said}"):
            found.stream()


def test_dropout_is_no_sum(tokenizer: Tokenizer) -> None:
    pair = translating(dropout=0.5)
    pair[0].train()
    found = klieg.trace(pair, TEXT, target="ich", to="de")
    assert found.streams == {} and "not the sum of its embeddings" in found.without_stream["self"]


def test_a_stream_that_nobody_asked_for_is_named() -> None:
    model = FAMILIES["llama"].model()
    with klieg.watch(model) as seen:
        model(**FAMILIES["llama"].inputs())
    assert seen.trace().streams is None
    with pytest.raises(KliegError, match="'self' was not kept; watch it again with streams=True"):
        seen.trace().stream()


def test_a_sum_is_one_to_rounding_and_no_further() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2, 500) * 100
    assert adds_up(a + b, a, b) and adds_up((a.double() + b.double()).float(), a, b)
    wrong = a + b
    wrong[7] += 1e-3
    assert not adds_up(wrong, a, b) and not adds_up(a * float("nan"), a, b)
    narrow = (a.bfloat16() + b.bfloat16()).float()
    assert adds_up(narrow, a.bfloat16().float(), b.bfloat16().float(), eps=torch.finfo(torch.bfloat16).eps)
    assert not adds_up(narrow, a.bfloat16().float(), b.bfloat16().float())
