"""What is read and trained on a card is as on the processor, and mixes no devices.

The card is the one of card.py, on which Klieg's kernels are interpreted; so the texts are short.
"""
# Fixtures of another file are imported, and then named by the tests.
# ruff: noqa: F811

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from card import built
from card import card as card
from test_cli import here, refused, run  # noqa: F401
from test_foreign import saved

import klieg
from klieg import foreign
from klieg.analysis import reader
from klieg.analysis.likelihood import Scorer
from klieg.device import CPU, moved
from klieg.explorer import writing
from klieg.explorer.reader import Reader
from klieg.generate import Sampling
from klieg.survey import SurveySpec
from klieg.trace import Trace
from klieg.views import heads, svg, wire
from klieg.views.picture import PAPER
from klieg.views.region import numbers, pooled_region
from klieg.views.statistics import heads as statistics

TEXT = "I love you and the cat"


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(saved(tmp_path_factory.mktemp("models") / "llama", "llama"))


def watched(model: foreign.Foreign) -> Trace:
    with klieg.watch(model.model, 1, 2, tokenizer=model.tokenizer) as seen:
        model.run(model.ids(TEXT), 2)
    return seen.trace()


@pytest.fixture
def both(llama: str, card: torch.device) -> tuple[Trace, Trace]:
    """A text as a model on the processor and one on the card read it."""
    here, there = watched(foreign.load(llama)), watched(foreign.load(llama, card))
    assert {call.q.device for call in there.calls} == {call.lse.device for call in there.calls} == {card}
    assert there.logits.device == card and {call.survey.kernel for call in there.calls} == {"gpu"}
    return here, there


def same(a: Trace, b: Trace, near: float = 2e-5) -> None:
    """Numbers of two traces, wherever they lie."""
    b = moved(b, CPU)
    torch.testing.assert_close(a.logits, b.logits, atol=near, rtol=near)
    for one, other in zip(a.calls, b.calls, strict=True):
        for name in ("q", "k", "lse"):
            torch.testing.assert_close(getattr(one, name), getattr(other, name), atol=near, rtol=near)
        for name in (f.name for f in dataclasses.fields(one.survey)):
            x, y = getattr(one.survey, name), getattr(other.survey, name)
            if isinstance(x, torch.Tensor) and name != "top_keys":
                torch.testing.assert_close(x, y, atol=near, rtol=1e-4)


def test_a_watched_model_on_a_card(both: tuple[Trace, Trace], tmp_path: Path) -> None:
    here, there = both
    same(here, there)
    assert there.certificate.passed
    there.save(tmp_path / "there.klieg")
    same(here, Trace.load(tmp_path / "there.klieg"))
    call = there.calls[1]
    torch.testing.assert_close(call.weights(1).cpu(), here.calls[1].weights(1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(call.every(slice(1, 4)).cpu(), here.calls[1].every(slice(1, 4)), atol=1e-5, rtol=1e-5)


def test_what_is_shown_of_it(both: tuple[Trace, Trace]) -> None:
    here, there = both
    pictures = [re.sub(r"[0-9.]+", "", svg.lower(heads.table(trace, medium=PAPER))) for trace in both]
    assert pictures[0] == pictures[1]
    for one, other in zip(*(statistics(trace)["calls"] for trace in both), strict=True):
        for name, known in one.items():
            assert known == (pytest.approx(other[name], abs=1e-4) if isinstance(known, list) else other[name])
    shown, beside = (numbers(trace, pooled_region(trace, 1, 2, (2, 6), (0, 5), medium=PAPER)) for trace in both)
    assert shown.keys() == beside.keys() and shown["row_edges"] == beside["row_edges"]
    assert [c.id for c in here.next_tokens(3)] == [c.id for c in there.next_tokens(3)]
    assert abs(len(wire.whole(here)) - len(wire.whole(there))) < 64


def test_heads_are_scored_and_texts_weighed_on_a_card(llama: str, card: torch.device) -> None:
    """By Klieg's own model and by a watched one."""
    for load in (reader.load, lambda name, *where: reader.Reader(m := foreign.load(name, *where), m.tokenizer, name)):
        here, there = load(llama), load(llama, card)
        assert there.device == card
        text = next(here.windows(TEXT, 10))
        for (_, a), (_, b) in zip(here.scores(text), there.scores(text), strict=True):
            assert a.keys() == b.keys()
            for name in a:
                torch.testing.assert_close(a[name].weight, b[name].weight, atol=1e-5, rtol=1e-4, equal_nan=True)
        torch.testing.assert_close(Scorer.of(here).total([TEXT, "the moon"]), Scorer.of(there).total([TEXT, "the moon"]),
                                   atol=1e-4, rtol=1e-5)


def test_in_a_narrower_type_a_model_is_watched(llama: str) -> None:
    wide, narrow = reader.load(llama), reader.load(llama, CPU, torch.bfloat16)
    assert isinstance(narrow.model, foreign.Foreign) and narrow.model.model.dtype == torch.bfloat16
    assert wide.fingerprint != narrow.fingerprint and wide.fingerprint in narrow.fingerprint


def test_the_explorer_reads_and_writes_on_a_card(llama: str, card: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model is watched there, whatever its shape; its trace is in the processor's memory."""
    monkeypatch.setattr("klieg.explorer.reader.SPEC", SurveySpec(top=0, map=0))
    there = Reader(llama, card)
    assert there.own is None and there.foreign is not None and there.foreign.model.device == card

    class Turn:
        offer = staticmethod(lambda: None)

    found = there.read(TEXT, None, Turn())
    assert found.logits.device == found.calls[0].lse.device == found.calls[0].q.device == CPU
    assert found.streams and moved(found, CPU) is found
    written = [[token.id for token in writing.foreign(model, TEXT, [], 3).write(Sampling(temperature=0))]
               for model in (there.foreign, foreign.load(llama))]
    assert written[0] == written[1] and len(written[0]) == 3
    pen = writing.foreign(there.foreign, TEXT, [], 3)
    assert pen.step(pen.ids).device == CPU         # where the generators are by which tokens are drawn


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_klieg_map_on_a_card(precision: str, llama: str, card: torch.device, here: Path) -> None:
    (here / "text.txt").write_text(TEXT, "utf-8")
    ran = run("map", "text.txt", "-m", llama, "-o", "map.klieg", "--device", "cuda", "--precision", precision,
              "--top", 1, "--map", 2)
    assert ran.status == 0, ran.err
    found = Trace.load(here / "map.klieg")
    assert found.calls[0].q.dtype == {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    assert found.calls[0].survey.kernel == "gpu"


def test_what_is_read_on_the_processor(card: torch.device, here: Path, llama: str) -> None:
    (here / "text.txt").write_text(TEXT, "utf-8")
    refused(run("map", "text.txt", "-o", "map.klieg", "--device", "cuda"), "'chat' is read on the processor")
    refused(run("heads", "chat", TEXT, "--precision", "bf16"), "'chat' is read on the processor")
    refused(run("serve", "--no-browser", "--device", "cuda"), "'chat' is read on the processor")
    refused(run("serve", "-m", llama, "-m", "chat", "--no-browser", "--precision", "bf16"), "'chat' is read on the processor")
    refused(run("map", "text.txt", "-m", llama, "-o", "map.klieg", "--device", "gpu"), "there is no device 'gpu'")
    refused(run("map", "text.txt", "-m", llama, "-o", "map.klieg", "--precision", "int8"),
            "--precision is 'int8'; it must be one of")
    assert not (here / "map.klieg").exists()


@pytest.mark.parametrize("kind", ["decoder", *(pytest.param(kind, marks=pytest.mark.slow)
                                               for kind in ("encoder", "translator", "twins"))])
def test_training_on_a_card_is_the_training_on_the_processor(kind: str, tmp_path: Path) -> None:
    """In a process of its own; a decoder's losses are the same, the others' batches are of another grid there."""
    if torch.cuda.is_available():
        pytest.skip("there is a real GPU")
    script = Path(__file__).with_name("carded.py")
    ran = subprocess.run([sys.executable, "-W", "ignore", script, built(tmp_path), kind, tmp_path], capture_output=True,
                         text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    here, there = (list(map(float, line.split())) for line in ran.stdout.splitlines())
    assert len(here) == len(there) == 3
    assert there == pytest.approx(here, abs=1e-5 if kind == "decoder" else 0.3)
