"""A run knows its texts: what they read, what came next, and in which place of the batch they are."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch

from klieg.errors import KliegError
from klieg.tokenizers import train
from klieg.watching.runs import Labels, Run
from klieg.watching.strands import Pass


@dataclass
class Part:
    """What a run asks of an increment."""

    moment: Pass
    queries: int


def ran(sizes: tuple[int, ...] = (3, 1, 1), texts: int = 2) -> Run:
    """Passes over tokens 10, 11, 12 ... of text 0 and 20, 21, 22 ... of text 1."""
    run, at = Run("Model", None), 0
    run.strands[0, "self"] = SimpleNamespace(increments=[])
    for size in sizes:
        run.enter(moment := Pass(texts, size))
        ids = torch.arange(at, at + size) + 10 * torch.arange(1, texts + 1)[:, None]
        run.ids.setdefault("self", []).append((moment, ids))
        run.predicted(moment, ids[..., None].float().expand(-1, -1, 5))
        run.strands[0, "self"].increments.append(Part(moment, size))
        at += size
    return run


def main_of(queries: int, kind: str = "self") -> SimpleNamespace:
    return SimpleNamespace(layer=0, kind=kind, queries=queries)


def test_what_was_read_is_put_together() -> None:
    run = ran()
    assert run._ids(1, main_of(5)) == [20, 21, 22, 23, 24]
    assert run._ids(1, main_of(4)) == [0, 1, 2, 3], "of other ids places count"
    assert run._logits(0, main_of(5))[:, 0].tolist() == [10, 11, 12, 13, 14]


def test_tokens_that_were_taken_back_are_left_out() -> None:
    run = ran((3, 4, 1))
    parts = run.strands[0, "self"].increments
    parts[1].queries = 1
    assert run._ids(0, main_of(5)) == [10, 11, 12, 13, 17]
    assert run._logits(0, main_of(5))[:, 0].tolist() == [10, 11, 12, 13, 17]
    del parts[2]
    assert run._ids(0, main_of(4)) == [10, 11, 12, 13] and run._logits(0, main_of(4)).shape == (4, 5)


def test_texts_are_followed_through_every_order() -> None:
    run = ran(())
    for order in ([1, 0], [0, 0], None):
        run.enter(moment := Pass(2, 1))
        run.strands[0, "self"].increments.append(Part(moment, 1))
        run.ids.setdefault("self", []).append((moment, torch.tensor([[0], [1]]) + 2 * (len(run.passes) - 1)))
        if order:
            run.reorder(torch.tensor(order))
    assert [run._ids(text, main_of(3)) for text in (0, 1)] == [[1, 2, 4], [1, 2, 5]]
    run.follow(torch.tensor([[0, 1, -1], [1, 0, 1]]))
    assert [run._ids(text, main_of(3)) for text in (0, 1)] == [[0, 3, 4], [1, 2, 5]]
    assert [moment.dead.tolist() for moment in run.passes] == [[False, False], [False, False], [True, False]]
    with pytest.raises(KliegError, match="took 3 steps"):
        run.follow(torch.zeros(2, 4, dtype=torch.int64))


def test_logits_of_the_last_tokens_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    run = ran((3, 4))
    run.logits.clear()
    run.predicted(run.passes[0], torch.zeros(2, 3, 5))
    run.predicted(run.passes[1], torch.zeros(2, 1, 5))
    assert run._logits(0, main_of(7)).shape == (1, 5), "a pass that gave only its last token's ends what was before"
    run.strands[0, "self"].increments[1].queries = 2
    assert run._logits(0, main_of(5)).shape == (0, 0), "and the token may be taken back"
    monkeypatch.setattr("klieg.watching.runs.LOGITS", 40)
    for sizes, left in (((3, 1), 4), ((3, 1, 1), 1), ((5,), 1)):
        assert ran(sizes)._logits(0, main_of(sum(sizes))).shape == (left, 5)


def test_a_run_is_found_by_its_cache() -> None:
    class Cache:
        pass

    run, cache = Run("Model", None), Cache()
    assert run.waiting and not run.goes_on_with(cache)
    run.remember(cache)
    assert run.goes_on_with(cache) and not run.goes_on_with(Cache())
    with pytest.raises(KliegError, match="no map of layer 0"):
        run[0]


def test_labels_of_every_tokenizer() -> None:
    own = train(iter(["I love you and the cat"] * 2), 290)
    ids = own.encode("I love you")
    labels = Labels(own, own.size + 3)
    assert labels.of(ids) == own.labels(ids) and labels[ids[1]] == own.piece(ids[1]) and len(labels) == own.size + 3
    assert labels.text(ids) == own.decode(ids)

    class Other:
        def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
            return [f"<{n}>" for n in ids]

        def decode(self, ids: list[int]) -> str:
            return "text"

    other = Labels(Other(), 9)
    assert (other.of([3, 4]), other[8], other.text([1])) == (["<3>", "<4>"], "<8>", "text")
    none = Labels(None, 9)
    assert (none.of([3, 4]), list(none)[8], none.text([1, 2])) == (["3", "4"], "8", "1 2")
    with pytest.raises(IndexError):
        none[9]
