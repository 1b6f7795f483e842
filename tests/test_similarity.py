"""Similarity of tokens, against the cosine written out in Python's own float64."""

from __future__ import annotations

import math

import pytest
import torch
from made import made

from klieg.analysis.similarity import neighbours, similarity
from klieg.blocks import Block, Stream
from klieg.errors import KliegError
from klieg.trace import Trace


def streamed(text: str, model: str = "random", positions: bool = False, width: int = 20, layers: int = 3) -> Trace:
    """A made trace with a stream of random numbers."""
    trace = made(model, text)
    random = torch.Generator().manual_seed(len(text))
    draw = lambda: torch.randn(1, len(trace.tokens), width, generator=random)  # noqa: E731
    embedded, added, blocks = draw(), draw() if positions else None, []
    x = embedded if added is None else embedded + added
    for layer in range(layers):
        attended, fed = draw(), draw()
        blocks.append(Block(layer, "self", "pre", x, x, attended, x, fed, x + attended + fed))
        x = blocks[-1].output
    trace.streams = {"self": Stream(embedded, added, blocks, x)}
    return trace


def cosine(x: list[float], y: list[float]) -> float:
    dot, lengths = math.fsum(p * q for p, q in zip(x, y, strict=True)), [math.sqrt(math.fsum(p * p for p in z)) for z in (x, y)]
    return dot / (lengths[0] * lengths[1]) if all(lengths) else 0.0


def places(trace: Trace, start: bool) -> list[list[list[float]]]:
    """The vectors (i, width) at every step."""
    stream = trace.stream()
    found = [stream.embedded, *([stream.blocks[0].input] if start else []), *(block.output for block in stream.blocks)]
    return [x[0].tolist() for x in found]


@pytest.mark.parametrize("positions", [False, True])
def test_steps_are_the_cosines_from_the_embedding_to_the_last_layer(positions: bool) -> None:
    a, b = streamed("one two three", positions=positions), streamed("two and one", positions=positions)
    steps = list(similarity(a, 2, b, 1))
    assert [(s.name, s.layer) for s in steps] == [("embedded", None), *([("start", None)] if positions else []),
                                                  ("layer", 0), ("layer", 1), ("layer", 2)]
    for step, x, y in zip(steps, places(a, positions), places(b, positions), strict=True):
        assert step.cosine == pytest.approx(cosine(x[2], y[1]), abs=1e-14)
        every = [cosine(p, q) for p in x for q in y]
        assert step.mean == pytest.approx(math.fsum(every) / len(every), abs=1e-14)
        assert step.lengths == pytest.approx([math.hypot(*x[2]), math.hypot(*y[1])], rel=1e-14)


def test_one_text_pairs_no_token_with_itself() -> None:
    trace = streamed("one two three four")
    for step, x in zip(similarity(trace, 1, trace, 3), places(trace, False), strict=True):
        every = [cosine(p, q) for i, p in enumerate(x) for j, q in enumerate(x) if i != j]
        assert step.mean == pytest.approx(math.fsum(every) / len(every), abs=1e-14)
    assert all(step.cosine == pytest.approx(1, abs=1e-14) for step in similarity(trace, 2, trace, 2))


def test_neighbours_are_the_cosines_with_every_token_after_a_layer() -> None:
    a, b = streamed("one two three"), streamed("two and one or three")
    for layer in range(3):
        x, y = places(a, False)[layer + 1], places(b, False)[layer + 1]
        assert neighbours(a, 1, b, layer).tolist() == pytest.approx([cosine(x[1], q) for q in y], abs=1e-14)


def test_a_vector_of_zeros_is_like_no_other() -> None:
    a, b = streamed("one two"), streamed("two one")
    a.streams["self"].embedded[0, 1] = 0
    first = next(iter(similarity(a, 1, b, 1)))
    assert (first.cosine, first.lengths[0]) == (0.0, 0.0) and math.isfinite(first.mean)


def test_what_cannot_be_compared_says_why() -> None:
    a, b = streamed("one two"), streamed("two one")
    with pytest.raises(KliegError, match="no vector space in common"):
        list(similarity(a, 1, streamed("two one", model="other"), 1))
    for other in (streamed("two one", width=8), streamed("two one", layers=2)):
        with pytest.raises(KliegError, match="not of the same model"):
            list(similarity(a, 1, other, 1))
    for token in (-1, 3):
        with pytest.raises(KliegError, match="the text has tokens 0 to 2"):
            list(similarity(a, 1, b, token))
    with pytest.raises(KliegError, match="no layer 3"):
        neighbours(a, 1, b, 3)
    b.streams = None
    with pytest.raises(KliegError, match="was not kept; watch it again with streams=True"):
        list(similarity(a, 1, b, 1))
    b.without_stream["self"] = "its blocks do not add up"
    with pytest.raises(KliegError, match="its blocks do not add up"):
        list(similarity(a, 1, b, 1))
    a.streams["self"].blocks[1].output[0, 0, 0] = torch.inf
    with pytest.raises(KliegError, match="not finite"):
        list(similarity(a, 1, a, 1))


def test_a_decoder_that_has_read_the_same_is_the_same() -> None:
    """The bundled model: a word has one embedding, and differs as soon as what was read before it does."""
    import klieg

    model = klieg.load("chat")
    river, coin, other = (klieg.trace(model, text, name="chat") for text in
                          ("the river bank", "the bank lends", "the bank waits"))
    at = [trace.tokens.index("bank") for trace in (river, coin, other)]
    steps = list(similarity(river, at[0], coin, at[1]))
    assert steps[0].cosine == pytest.approx(1, abs=1e-12) and all(step.cosine < 0.999 for step in steps[1:])
    assert all(step.cosine == pytest.approx(1, abs=1e-9) for step in similarity(coin, at[1], other, at[2]))
