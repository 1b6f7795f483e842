"""The small language: clauses agree, and what it says of its own surprise is what its rules give."""

from __future__ import annotations

import math

import pytest
import torch

from klieg.labs.language import CLOSES, DEPTH, KINDS, OPENS, VOCABULARY, WORDS, habits, write


def test_the_surprise_is_that_of_the_rules() -> None:
    """Every row is read by its rules, with a stack of its own."""
    text, words = write(40, 60, torch.Generator().manual_seed(1)), habits().tolist()
    deepest = 0
    for row, said in zip(text.ids.tolist(), text.surprisal.tolist(), strict=True):
        stack: list[int] = []
        for id, nats in zip(row, said, strict=True):
            opens, closes = OPENS if len(stack) < DEPTH else 0.0, CLOSES if stack else 0.0
            if id < KINDS:
                p = opens / KINDS
                stack.append(id)
            elif id < 2 * KINDS:
                p = closes
                assert stack.pop() == id - KINDS
            else:
                p = (1 - opens - closes) * words[stack[-1] if stack else KINDS][id - 2 * KINDS]
            assert nats == pytest.approx(-math.log(p))
            deepest = max(deepest, len(stack))
    assert deepest == DEPTH


def test_the_words_of_a_clause_come_as_often_as_they_should() -> None:
    """Outside all clauses, which is where every row begins: the first token of many rows."""
    first = write(50_000, 1, torch.Generator().manual_seed(2)).ids[:, 0]
    expected = torch.cat([torch.full((KINDS,), OPENS / KINDS), torch.zeros(KINDS), (1 - OPENS) * habits()[KINDS].float()])
    found = torch.bincount(first, minlength=VOCABULARY) / len(first)
    assert VOCABULARY == 2 * KINDS + WORDS and (found - expected).abs().max() < 0.01
    assert torch.allclose(habits().sum(1), torch.ones(KINDS + 1, dtype=torch.float64))
