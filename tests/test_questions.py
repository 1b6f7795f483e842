"""Sequences with something to remember: every answer and distance is what a reader with a notebook would find."""

from __future__ import annotations

import pytest
import torch

from klieg.labs.questions import VALUES, ask, vocabulary


@pytest.mark.parametrize("keys", [1, 4, 7])
def test_answers_are_what_was_told(keys: int) -> None:
    asked = ask(keys, 50, 33, torch.Generator().manual_seed(keys))
    assert asked.ids.shape == (50, 33) and asked.ids.max() < vocabulary(keys) and asked.count > 100
    for row, answers, distances in zip(asked.ids.tolist(), asked.answers.tolist(), asked.distance.tolist(), strict=True):
        notes: dict[int, tuple[int, int]] = {}
        for place, (id, answer, distance) in enumerate(zip(row, answers, distances, strict=True)):
            if VALUES <= id < VALUES + keys:
                value, told = notes[id - VALUES]
                assert answer == value and distance == place - told
            else:
                assert answer == -100 and distance == 0
            if id >= VALUES + keys:
                key, value = divmod(id - VALUES - keys, VALUES)
                assert key not in notes
                notes[key] = value, place
        assert len(notes) == keys
    keys_asked = asked.ids[asked.answers >= 0] - VALUES
    assert keys_asked.unique().tolist() == list(range(keys)) and asked.distance.max() > 25


def test_the_same_seed_asks_the_same() -> None:
    one, same, other = (ask(4, 8, 16, torch.Generator().manual_seed(seed)).ids for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)
