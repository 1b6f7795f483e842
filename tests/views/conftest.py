"""Traces of random q, k and v for the tests of views: exact by construction, and certified as any other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch

from klieg.attention import Mask, hide, log_sum_exp, output, scores, weights
from klieg.survey import SurveySpec
from klieg.trace import Call, Source, Trace

WORDS = ("⟨s⟩", "I", "love", "you", "↩")
SENTENCE = "小沈阳江西演唱会邀请了，"


def build(tokens: Sequence[str] = WORDS, layers: int = 3, heads: int = 4, groups: int = 2, d: int = 8, seed: int = 0,
          softcap: float | None = None, sinks: bool = False, bias: bool = False, mask: Mask | None = None,
          rotated: bool = True) -> Trace:
    """One causal pass over the tokens with random numbers."""
    random = torch.Generator().manual_seed(seed)
    n, calls, mask = len(tokens), [], mask or Mask.causal()
    draw = lambda *shape: torch.randn(*shape, generator=random)  # noqa: E731
    for layer in range(layers):
        q, k, v = 1.7 * draw(1, heads, n, d), 1.7 * draw(1, groups, n, d), draw(1, groups, n, d)
        sink, added = (draw(heads) if sinks else None), (draw(1, 1, n, n) if bias else None)
        s = hide(scores(q, k, softcap=softcap, bias=added), mask)
        lse = log_sum_exp(s, sink)
        calls.append(Call(layer, "self", q, k, v, lse, output(weights(s, lse), v), mask, d ** -0.5, "dense", softcap,
                          sink, added, draw(*q.shape) if rotated else None, draw(*k.shape) if rotated else None))
    vocabulary = ["too", "more", "苹果", "<b>", *(f"word{i}" for i in range(26))]
    return Trace("tiny <model>", " ".join(tokens), list(range(n)), list(tokens), calls, 2 * draw(n, 30), vocabulary)


@pytest.fixture(scope="session")
def make() -> Callable[..., Trace]:
    return build


@pytest.fixture(scope="session")
def trace() -> Trace:
    return build()


@pytest.fixture(scope="session")
def chinese() -> Trace:
    return build(["⟨s⟩", *SENTENCE], seed=1)


@pytest.fixture(scope="session")
def long() -> Trace:
    return build(["⟨s⟩", *("the quick brown fox jumps over a sleeping dog and " * 13).split()], layers=2, seed=2)


SOURCE = ("⟨zh⟩", "The", "cat", "chased", "the", "mouse", "⟨/s⟩")
TARGET = ("⟨pad⟩", "猫", "追", "老鼠", "。")


def build_translation(source: Sequence[str] = SOURCE, target: Sequence[str] = TARGET, layers: int = 2, heads: int = 4,
                      groups: int = 4, d: int = 8, seed: int = 7) -> Trace:
    """One pass over a source and a target with random numbers: an encoder, and a decoder of as many layers."""
    random = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=random)  # noqa: E731

    def call(layer: int, kind: str, queries: int, keys: int) -> Call:
        q, k, v = 1.7 * draw(1, heads, queries, d), 1.7 * draw(1, groups, keys, d), draw(1, groups, keys, d)
        mask = Mask.causal() if kind == "self" else Mask()
        s = hide(scores(q, k), mask)
        lse = log_sum_exp(s)
        return Call(layer, kind, q, k, v, lse, output(weights(s, lse), v), mask, d ** -0.5, "dense")

    i, j = len(target), len(source)
    calls = [call(layer, "encoder", j, j) for layer in range(layers)]
    calls += [call(layer, kind, i, i if kind == "self" else j) for layer in range(layers) for kind in ("self", "cross")]
    vocabulary = [*target, "⟨/s⟩", *(f"word{n}" for n in range(30))]
    read = Source(" ".join(source[1:-1]), [*range(40, 39 + j), i], list(source))
    logits = 2 * draw(i, len(vocabulary))
    return Trace("tiny", "".join(target[1:]), list(range(i)), list(target), calls, logits, vocabulary, read)


@pytest.fixture(scope="session")
def make_translation() -> Callable[..., Trace]:
    return build_translation


@pytest.fixture(scope="session")
def translation() -> Trace:
    return build_translation()


HOSTILE = ("⟨s⟩", "<script>alert(1)</script>", "</script><!--", "\x1b[31mred", "\u202eevil", "a\nb", "&amp;\"'", "مرحبا")


@pytest.fixture(scope="session")
def hostile() -> Trace:
    return build(HOSTILE, layers=2, seed=3)


def surveyed(trace: Trace, layers: Sequence[int] | None = None, **spec: int) -> Trace:
    """The same trace with a survey of every call, and if given, other numbers for its layers."""
    calls = [replace(call.surveyed(SurveySpec(**spec)), layer=call.layer if layers is None else layers[n])
             for n, call in enumerate(trace.calls)]
    return Trace(trace.model, trace.text, trace.ids, trace.tokens, calls, trace.logits, trace.vocabulary)


@pytest.fixture(scope="session")
def seen() -> Trace:
    """300 tokens with surveys; a stack of which only layers 1, 4 and 7 attend."""
    return surveyed(build([f"w{n}" for n in range(300)], seed=5), [1, 4, 7], top=8, map=32)
