"""Four readers: none sees what comes later, each reaches as far back as it should, and they are of one size."""

from __future__ import annotations

import pytest
import torch

from klieg.labs import repeatable
from klieg.labs.readers import REACH, READERS, reader

SIZE, LENGTH = 9, 40


@pytest.mark.parametrize("name", READERS)
def test_what_changes_when_a_token_does(name: str) -> None:
    """Before it nothing; behind it everything, but for the CNN no further than it reaches."""
    with repeatable(seed=0), torch.no_grad():
        model, ids = reader(name, SIZE), torch.randint(SIZE, (1, LENGTH))
        other, place = ids.clone(), 10
        other[0, place] = (other[0, place] + 1) % SIZE
        change = (model(other) - model(ids)).abs().amax(-1)[0]
    assert change.shape == (LENGTH,) and change[:place].max() == 0 and change[place] > 1e-4
    seen = change[place:] > 0
    assert seen[:REACH + 1].all() and bool(seen[REACH + 1:].any()) == (name != "CNN")


def test_they_are_about_equal_in_parameters() -> None:
    for size in (9, 24):
        with repeatable(seed=0):
            counts = [sum(p.numel() for p in reader(name, size).parameters()) for name in READERS]
        assert max(counts) < 1.1 * min(counts)


def test_they_begin_the_same_and_leave_torch_as_it_was() -> None:
    before, heads = torch.get_rng_state(), []
    torch.set_num_threads(2)
    try:
        for seed in (0, 0, 1):
            with repeatable(seed):
                assert torch.get_num_threads() == 1
                heads.append(reader("Transformer", SIZE).vocabulary)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    assert torch.equal(torch.get_rng_state(), before)
