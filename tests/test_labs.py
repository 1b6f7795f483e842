"""The labs: their conclusions follow from their numbers, and these are right where a closed form says what they must be."""

from __future__ import annotations

import math
import re

import pytest

from klieg.errors import KliegError
from klieg.labs import NAMES, Finding, find

FOUND: dict[str, Finding] = {}


def found(name: str) -> Finding:
    """Each lab runs once."""
    if name not in FOUND:
        FOUND[name] = find(name).run()
    return FOUND[name]


@pytest.mark.parametrize("name", NAMES)
def test_a_lab_is_whole_and_always_the_same(name: str) -> None:
    lab, finding = find(name), found(name)
    assert all(words and words != other for words, other in [lab.title, lab.claim, finding.conclusion]) and lab.source
    assert finding.charts and all(math.isfinite(x) for x in finding.numbers.values())
    for chart in finding.charts:
        assert all(len(values) == len(chart.points) for values in chart.series.values())
    # Both languages say the same numbers.
    english, chinese = (sorted(re.findall(r"\d+(?:\.\d+)?", text.replace(",", ""))) for text in finding.conclusion)
    assert len(english) >= 3 and {x for x in chinese if "." in x} == {x for x in english if "." in x}
    assert find(name).run().numbers == finding.numbers


def test_softmax() -> None:
    numbers = found("softmax").numbers
    for scores in ((10, 5, 1), (2.1, 8.7, 4.3), (3.5, -2.1, 8.7, 0.3)):
        for n, score in enumerate(scores):
            exact = math.exp(score) / sum(math.exp(other) for other in scores)
            assert numbers[f"{', '.join(f'{s:g}' for s in scores)}: weight {n}"] == pytest.approx(exact)
    assert numbers["10, 5, 1: weight 0"] == pytest.approx(0.9932, abs=5e-5)
    assert numbers["largest error of what is drawn"] > 0.18
    assert "99.32 %" in found("softmax").conclusion[0] and round(math.exp(5)) == 148


def test_ages() -> None:
    numbers = found("ages").numbers
    assert numbers["weight of 张"] == pytest.approx(0.28079, abs=5e-6) and numbers["weight of the other"] == pytest.approx(
        0.15763, abs=5e-6)
    assert numbers["answer"] == pytest.approx(19.473, abs=5e-4)
    assert numbers["mean of the three"] == 19 and numbers["answer to nothing"] == pytest.approx((18 + 20 + 22 + 19) / 4)
    assert abs(numbers["hard answer"] - 19) < 0.001
    answers = found("ages").charts[0].series["soft answer", "软答案"]
    assert all(one > other for one, other in zip(answers, answers[1:], strict=False))     # stronger is always nearer


def test_scale() -> None:
    numbers, widths = found("scale").numbers, (4, 16, 64, 256, 1024)
    kept = [numbers[f"entropy at d {d}, with 1/√d"] for d in widths]
    lost = [numbers[f"entropy at d {d}, without"] for d in widths]
    assert max(kept) - min(kept) < 0.1 and all(one > other + 0.1 for one, other in zip(lost, lost[1:], strict=False))
    # Scores of spread 1 over many keys have entropy ln n - 1/2, less what few keys and their scatter take.
    assert kept[-1] == pytest.approx(math.log(64) - 0.5, abs=0.05)
    back = [numbers[f"gradient at d {d}, without"] for d in widths]
    assert back[-1] < back[0] / 3 and back[-1] < numbers["gradient at d 1024, with 1/√d"] / 2


def test_length() -> None:
    numbers = found("length").numbers
    assert numbers["growth, spread 3, plain"] > 3 > 0.5 > abs(numbers["growth, spread 3, ln n"])
    assert numbers["growth, spread 1, ln n"] > 4                   # the claim does not hold there
    # Log-normal weights: entropy is ln n - spread^2 / 2 while there are many keys.
    assert numbers["entropy at spread 1, n 16384, 1/√d"] == pytest.approx(math.log(16384) - 0.5, abs=0.01)


def test_context() -> None:
    numbers = found("context").numbers
    assert numbers["cosine of the embeddings"] == pytest.approx(1)
    assert numbers["lowest mean cosine between senses"] < 0.9 and numbers["after layer"] > 0
    # Of 252 ways to part ten sentences, the senses themselves are two.
    assert numbers["chance"] == pytest.approx(2 / 252) and "tells the fruit from the company" in found("context").conclusion[0]
    within, between = found("context").charts[0].series.values()
    assert numbers["widest gap"] == pytest.approx(max(a - b for a, b in zip(within, between, strict=True)))


def test_an_unknown_lab() -> None:
    with pytest.raises(KliegError, match=r"there is no lab 'scal'; .*scale"):
        find("scal")
