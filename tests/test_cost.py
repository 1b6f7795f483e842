"""What a longer text costs: the power is that of a closed form, and what is said follows from what was measured."""

from __future__ import annotations

import pytest

from klieg.labs import cost


@pytest.mark.slow
def test_cost() -> None:
    finding = cost.run()
    powers = {name: finding.measured[f"exponent of time, {name}"] for name in cost.KERNELS}
    assert all(1.5 < power < 2.8 for power in powers.values())
    held = {name: [finding.measured[f"megabytes, {name}, n {n}"] for n in cost.WEIGHED] for name in cost.KERNELS}
    whole = 4 * 8192**2 / 1e6
    assert held["dense"][-1] > whole > 5 * max(held["streamed"][-1], held["native"][-1])
    assert held["dense"][2] > 6 * held["dense"][0] and held["streamed"][2] < 3 * held["streamed"][0]
    assert "only dense stores it" in finding.conclusion[0] and max(finding.numbers.values()) < 1e-5


def test_what_is_said_of_cost_is_what_was_found() -> None:
    powers = {"dense": 2.1, "streamed": 1.9}
    measured = {f"exponent of time, {name}": power for name, power in powers.items()}
    measured |= {f"seconds, {name}, n 1024": 0.5 for name in powers}

    def said() -> str:
        return cost._conclusion((512, 1024), {"dense": 1e-7}, measured)[0]

    assert "All are near n²." in said() and "The memory was not measured." in said() and "compiled kernel is missing" in said()
    measured |= {"megabytes, dense, n 1024": 4.5, "megabytes, streamed, n 1024": 0.4}
    assert "peak is, in MB: dense 4.5, streamed 0.4; only dense stores it." in said()
    measured |= {"exponent of time, streamed": 1.2, "megabytes, dense, n 1024": 4.1}
    assert "streamed: less than n². dense: near n²." in said() and "; none stores it." in said()


def test_the_slope_is_the_power() -> None:
    assert cost._exponent((512, 1024, 4096), [3 * n**1.5 for n in (512, 1024, 4096)]) == pytest.approx(1.5)
