"""Traces on disk: what comes back, what is mapped and not loaded, and every way in which a file can lie."""

from __future__ import annotations

import json
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load
from test_certificate import SPEC
from test_pool import call

from klieg.attention import Mask
from klieg.blocks import Block, Stream
from klieg.certificate import joined, probe_of, recomputed, surveyed
from klieg.errors import KliegError
from klieg.kernels import survey
from klieg.survey import SurveySpec
from klieg.trace import Call, Source, Trace
from klieg.tracefile import read, write


def watched(layer: int, kind: str = "self", keep: bool = True) -> Call:
    """A call as a watcher gives it: certified, without v and output, with q and k or without."""
    kept, _ = call(SurveySpec(top=3, map=8))
    signs, probe = probe_of(kept.v)
    sealed = surveyed(survey(kept.q, kept.k, kept.lse, kept.mask, SPEC, probe=probe), kept.output, signs, probe, layer=layer)
    dropped = {"v": None, "output": None} if keep else {"v": None, "output": None, "q": None, "k": None, "groups": 2}
    return replace(kept, layer=layer, kind=kind, certificate=sealed, **dropped)


def trace(calls: list[Call]) -> Trace:
    labels = [f"w{n}" for n in range(100)]
    return Trace("tiny", "the text 小沈阳", list(range(100)), labels, calls, torch.randn(1, 5), ["a"] * 5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "t.klieg"


def same(a: object, b: object) -> bool:
    return torch.equal(a, b) and a.dtype == b.dtype if isinstance(a, torch.Tensor) else a == b


def test_every_field_comes_back(path: Path) -> None:
    plain, _ = call(SurveySpec(top=2, map=4), softcap=3.0, sinks=torch.linspace(-1, 1, 6))
    found = trace([plain, watched(2), watched(5, keep=False), watched(0, "cross")])
    write(found, path)
    back = read(path)
    for name in ("model", "text", "ids", "tokens", "certificate"):
        assert getattr(back, name) == getattr(found, name)
    assert torch.equal(back.logits, found.logits) and len(back.calls) == 4
    for a, b in zip(found.calls, back.calls, strict=True):
        for f in fields(Call):
            if f.name not in ("mask", "survey"):
                assert same(getattr(a, f.name), getattr(b, f.name)), f.name
        assert [(rule.kind, rule.size, rule.global_tokens) for rule in a.mask.rules] == [
            (rule.kind, rule.size, rule.global_tokens) for rule in b.mask.rules]
        assert a.survey.tensors().keys() == b.survey.tensors().keys() and a.survey.kernel == b.survey.kernel != ""
        assert all(same(x, b.survey.tensors()[name]) for name, x in a.survey.tensors().items())
    assert back[2].kv_heads == back[5].kv_heads == 2 and back[5].keys == 100
    assert {p.name for p in path.parent.iterdir()} == {"t.klieg"}


def test_a_sparse_mask_comes_back_and_a_stride_of_nothing_is_no_trace(path: Path) -> None:
    mask = Mask.causal() & Mask.strided(6, 2) & Mask.block(40)
    write(trace([call(SurveySpec(top=2, map=4), mask=mask)[0]]), path)
    (found,) = read(path).calls
    assert [(rule.kind, rule.size, rule.global_tokens) for rule in found.mask.rules] == [
        ("causal", 0, 0), ("strided", 6, 2), ("block", 40, 0)]
    for tokens in ("2", -1, None):
        changed(path, body=lambda body, tokens=tokens: body["calls"][0]["mask"][1].update(global_tokens=tokens))
        with pytest.raises(KliegError, match=r"not a whole trace .*layer 0 has .* global tokens"):
            read(path)
    changed(path, body=lambda body: body["calls"][0]["mask"][1].update(size=0, global_tokens=2))
    with pytest.raises(KliegError, match=r"not a whole trace .*a strided of layer 0 is of size 0"):
        read(path)


def of_two_texts() -> Trace:
    """A trace whose only call looks from 90 tokens of one text at 100 of another."""
    found = trace([watched(0, "cross")])
    labels = [f"t{n}" for n in range(90)]
    return replace(found, ids=list(range(90)), tokens=labels, source=Source("源文", found.ids, found.tokens))


def test_the_source_of_a_translation_comes_back(path: Path) -> None:
    found = of_two_texts()
    write(found, path)
    back = read(path)
    assert back.source == found.source and back.kind == "cross"
    assert back.axes(back.calls[0]) == (found.tokens, found.source.tokens)


def test_a_file_of_the_format_before_translations_opens_and_is_what_a_decoder_writes(path: Path) -> None:
    write(trace([watched(0)]), path)
    with zipfile.ZipFile(path) as file:
        said = json.loads(file.read("trace.json"))
    assert said["format"] == "klieg-trace/2" and "source" not in said
    assert read(path).source is None
    write(of_two_texts(), path)
    changed(path, body=lambda body: body.pop("source") and body.update(format="klieg-trace/2"))
    assert read(path).source is None


def with_streams(found: Trace, kind: str = "self") -> Trace:
    """The trace of 2 texts of 90 tokens, with a stream of two blocks."""
    def x(texts: int = 2) -> torch.Tensor:
        return torch.randn(texts, 90, 16)

    first = Block(0, kind, "post", entered := x(), entered, x(), x(), x(), x(), x(), x())
    second = Block(1, kind, "pre", first.output, x(), x(), x(), x(), x())
    return replace(found, streams={kind: Stream(x(), x(1), [first, second], x(), embedding_norm=True)},
                   without_stream={"encoder": "因为"})


def test_streams_come_back_and_what_is_shared_is_written_once(path: Path) -> None:
    for found in (with_streams(trace([watched(0)])), with_streams(of_two_texts(), "cross")):
        write(found, path)
        back = read(path)
        assert back.without_stream == {"encoder": "因为"} and back.source == found.source
        [(kind, stream)], (wanted,) = back.streams.items(), found.streams.values()
        assert stream.kind == kind and stream.embedding_norm and stream.types is None
        for a, b in zip([stream, *stream.blocks], [wanted, *wanted.blocks], strict=True):
            assert a.tensors().keys() == b.tensors().keys()
            assert all(same(x, b.tensors()[name]) for name, x in a.tensors().items())
        for a, b in zip(stream.blocks, wanted.blocks, strict=True):
            assert (a.layer, a.kind, a.order) == (b.layer, b.kind, b.order)
        with zipfile.ZipFile(path) as file:
            assert json.loads(file.read("trace.json"))["format"] == "klieg-trace/4"
            names = load(file.read("tensors.safetensors"))
        assert stream.blocks[0].normed is stream.blocks[0].input and stream.blocks[1].input is stream.blocks[0].output
        assert sum("stream" in name for name in names) == 16 - 2 + 1


def test_a_trace_that_asked_and_got_no_stream_keeps_the_reason(path: Path) -> None:
    write(replace(trace([watched(0)]), streams={}, without_stream={"self": "it is strange"}), path)
    with pytest.raises(KliegError, match="no stream of the stack 'self' of 'tiny': it is strange"):
        read(path).stream()


def _stream(**facts: object) -> Callable[[dict], None]:
    return lambda body: body["streams"]["self"].update(facts)


def _block(**facts: object) -> Callable[[dict], None]:
    return lambda body: body["streams"]["self"]["blocks"][0].update(facts)


@pytest.mark.parametrize("body", [
    _stream(final="0.q"), _stream(final=None), _stream(embedded="0.lse"), _stream(final="stream.self.positions"),
    _stream(positions="0.survey.top_keys"), _stream(blocks=[]), _stream(blocks=7), _stream(embedding_norm="yes"),
    _block(order="sideways"), _block(fed=None), _block(crossed=None), _block(attended="absent"), _block(normed=3),
    _block(output="stream.self.positions"), lambda body: body.update(streams={"other": body["streams"]["self"]}),
    lambda body: body.update(streams=None), lambda body: body.update(without_stream={"self": 7}),
    lambda body: body["calls"][0].update(layer=2),
], ids=range(18))
def test_a_stream_that_lies_is_one_line(body: Callable, path: Path) -> None:
    write(with_streams(trace([watched(0)])), path)
    changed(path, body=body)
    with pytest.raises(KliegError, match="is not a whole trace") as caught:
        read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", [None, 7, {}, {"text": "a", "ids": [1], "tokens": ["a"]},
                                    {"text": "a", "ids": [0] * 100, "tokens": [1] * 100},
                                    {"text": 3, "ids": [0] * 100, "tokens": ["a"] * 100}], ids=range(6))
def test_a_source_that_lies_is_one_line(source: object, path: Path) -> None:
    write(of_two_texts(), path)
    changed(path, body=lambda body: body.update(source=source))
    with pytest.raises(KliegError, match="is not a whole trace"):
        read(path)


def test_the_tensors_are_a_safetensors_file_that_lies_aligned_and_is_mapped(path: Path) -> None:
    found = trace([watched(0)])
    write(found, path)
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        shelf = load(file.read("tensors.safetensors"))
    assert torch.equal(shelf["0.q"], found[0].q) and shelf["0.survey.top_keys"].dtype == torch.int64
    back = read(path)
    assert all(tensor.data_ptr() % tensor.element_size() == 0 for tensor in (back[0].q, back[0].lse, back.logits))
    back[0].q.zero_()  # a private page, and never the file's
    assert torch.equal(read(path)[0].q, found[0].q)


def test_writing_holds_no_second_copy(path: Path) -> None:
    found = trace([watched(0)])
    big = replace(found.calls[0], layer=1, unrotated_q=torch.randn(2, 6, 90, 8000))
    size = big.unrotated_q.numel() * 4
    whole = trace([found.calls[0], big])
    tracemalloc.start()
    write(whole, path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < size / 4 and path.stat().st_size > size


def test_a_file_that_another_zip_tool_packed_opens_too(path: Path) -> None:
    found = trace([watched(0)])
    write(found, path)
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    for lead in ("", "x", "xyz"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
            file.writestr(f"note{lead}", lead)
            for name, body in parts.items():
                file.writestr(name, body)
        assert torch.equal(read(path)[0].q, found[0].q)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, body in parts.items():
            file.writestr(name, body)
    with pytest.raises(KliegError, match="compressed"):
        read(path)


def changed(path: Path, header: Callable[[dict], object] | None = None, body: Callable[[dict], object] | None = None,
            raw: bytes | None = None) -> None:
    """Writes the trace anew with a header or a body that lies."""
    with zipfile.ZipFile(path) as file:
        shelf, said = file.read("tensors.safetensors"), json.loads(file.read("trace.json"))
    (length,) = struct.unpack("<Q", shelf[:8])
    head, data = json.loads(shelf[8:8 + length]), shelf[8 + length:]
    if header is not None:
        head = header(head) or head
    if body is not None:
        said = body(said) or said
    encoded = json.dumps(head).encode()
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("trace.json", json.dumps(said))
        file.writestr("tensors.safetensors", struct.pack("<Q", len(encoded)) + encoded + data if raw is None else raw)


def _set(name: str, **facts: object) -> Callable[[dict], None]:
    return lambda head: head[name].update(facts)


def _call(**facts: object) -> Callable[[dict], None]:
    return lambda body: body["calls"][0].update(facts)


@pytest.mark.parametrize("header", [
    _set("0.q", data_offsets=[0, 8]), _set("0.q", data_offsets=[10**15, 10**15 + 34560]), _set("0.q", shape=[2, 6, 90, 9]),
    _set("0.q", shape=[-1, 6, 90, 8]), _set("0.q", shape=[2.0, 6, 90, 8]), _set("0.q", dtype="F9"), _set("0.q", dtype="F64"),
    _set("0.q", data_offsets=[4, 4 + 34560]), _set("0.q", shape="no"), _set("0.q", shape=None), lambda head: [head],
    lambda head: head.pop("0.q") and None, lambda head: {"0.q": 7}, _set("0.lse", shape=[2 * 6 * 90]),
    lambda head: head.update({"more": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}),
], ids=range(15))
def test_a_header_that_lies_is_one_line(header: Callable, path: Path) -> None:
    write(trace([watched(0)]), path)
    changed(path, header)
    with pytest.raises(KliegError) as caught:
        read(path)
    assert "\n" not in str(caught.value) and "is not a whole trace" in str(caught.value)


@pytest.mark.parametrize("body", [
    _call(mask=[{"kind": "sideways", "size": 0, "table": None}]), _call(mask=7), _call(q="0.k"), _call(lse=None),
    _call(q="0.survey.histogram"), _call(survey={"kernel": "x", "lse": "0.q"}), _call(survey=[1]), _call(certificate={"a": 1}),
    lambda body: body.update(calls=[]), lambda body: body.update(calls=7), lambda body: [1],
    lambda body: body.pop("tokens") and None,
    _call(sinks="0.q"), _call(k=None, groups=4), _call(layer="one"), lambda body: body.update(tokens=[1, 2]),
    lambda body: body.update(ids=None), lambda body: body.update(ids=body["ids"][:-1]), lambda body: body.update(model=-1),
    lambda body: body.update(ids=["a"] * len(body["ids"])), lambda body: body.update(text=None), _call(kind="sideways"),
], ids=range(22))
def test_a_body_that_lies_is_one_line(body: Callable, path: Path) -> None:
    write(trace([watched(0)]), path)
    changed(path, body=body)
    with pytest.raises(KliegError) as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_a_damaged_file_is_one_line(path: Path) -> None:
    write(trace([watched(0)]), path)
    whole = path.read_bytes()
    for bad in (whole[:len(whole) // 2], b"", b"PK", whole[:200]):
        path.write_bytes(bad)
        with pytest.raises(KliegError, match="is not a whole trace"):
            read(path)
    path.write_bytes(whole)
    for raw in (b"\xff" * 20, b"", b"\x02\0\0\0\0\0\0\0{}", struct.pack("<Q", 2**62) + b"{}"):
        changed(path, raw=raw)
        with pytest.raises(KliegError, match="is not a whole trace"):
            read(path)
        path.write_bytes(whole)
    with pytest.raises(KliegError, match=r"there is no trace .*; make one with klieg map"):
        read(path.with_name("absent"))


def test_an_older_format_is_refused_with_what_to_do(path: Path) -> None:
    write(trace([watched(0)]), path)
    changed(path, body=lambda body: body.update(format="klieg-trace/1"))
    with pytest.raises(KliegError, match=r"'klieg-trace/1' and this version reads 'klieg-trace/2', .*3' and .*4'; trace"):
        read(path)


@pytest.mark.parametrize("fault", ["lse", "q", "certificate"])
def test_a_watched_call_is_checked_again_when_it_is_read(fault: str, path: Path) -> None:
    good = watched(0)
    found = trace([good])
    if fault == "certificate":
        write(found, path)
        changed(path, body=lambda body: body["calls"][0]["certificate"].update(row_sum_error=0.5))
        with pytest.raises(KliegError, match="fails its certificate"):
            read(path)
        return
    spoiled = getattr(good, fault).clone()
    spoiled[1, 4] += 0.1
    found.calls[0] = replace(good, **{fault: spoiled})
    write(found, path)
    with pytest.raises(KliegError, match=r"fails its certificate at layer 0 \(self\), text 1, head 4, row "):
        read(path)


def test_what_kept_everything_is_certified_whole(path: Path) -> None:
    plain, _ = call()
    found = trace([plain])
    assert found.certificate == joined([recomputed(plain)])
    found.calls[0] = replace(plain, output=plain.output * 1.01)
    write(found, path)
    with pytest.raises(KliegError, match="A V - model output"):
        read(path)
