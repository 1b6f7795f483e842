"""MHA, GQA and MQA: caches as large as they should be, models of one size, and what is said of what was found."""

from __future__ import annotations

import pytest
import torch

from klieg.labs import groups
from klieg.models import build


@pytest.mark.slow
def test_groups() -> None:
    finding = groups.run()
    loss = {name: [finding.numbers[f"loss, {name}, seed {seed}"] for seed in groups.SEEDS] for name in groups.WAYS}
    # Far below what knows only how often each token comes, and not below what can be known.
    assert all(0 < x < 0.5 for each in loss.values() for x in each)
    gap = sum(loss["MQA"]) / 3 - sum(loss["MHA"]) / 3
    assert f"MQA's loss is {gap:+.4f} nats" in finding.conclusion[0] and abs(gap) < 0.05
    speed = {name: finding.measured[f"tokens a second, {name}"] for name in groups.WAYS}
    assert speed["MQA"] > 1.1 * speed["MHA"]


def test_the_cache_is_as_large_as_the_groups_are_many() -> None:
    """2 layers of 384 / 8 = 48 numbers a group, for keys and for values, 4 bytes each."""
    held, speed = groups._decoded(prompt=20, rounds=2)
    assert held == {name: 2 * 2 * count * 48 * 4 for name, count in groups.WAYS.items()}
    assert all(x > 0 for x in speed.values())


def test_what_the_groups_save_the_feed_forward_gets() -> None:
    with torch.random.fork_rng():
        for width, inner in ((96, 256), (384, 1024)):
            counts = {build(groups.shape(count, width, inner, 2, 16)).parameter_count for count in groups.WAYS.values()}
            assert len(counts) == 1


def test_what_is_said_of_groups_is_what_was_found() -> None:
    beside = [1.00, 1.02]
    for losses, verdict in (([1.02, 1.02], "no loss is seen."), ([1.0, 1.0], "no loss is seen."),
                            ([1.04, 1.04], "it costs quality."), ([0.9, 0.9], "it is better, its feed-forward being wider.")):
        said = groups._quality("GQA", losses, beside)
        assert said[0].endswith(f"0.0200 apart: {verdict}") and f"{sum(losses) / 2 - 1.01:+.4f}" in said[0]
        assert f"{sum(losses) / 2 - 1.01:+.4f}" in said[1]
