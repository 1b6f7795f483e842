"""RNN, LSTM, CNN and Transformer: what is counted, what fades, what is said of both, and what the whole lab finds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from klieg.labs import recall, repeatable
from klieg.labs.questions import VALUES, vocabulary
from klieg.labs.readers import REACH, READERS, WIDTH, Reader, reader


def test_readers_learn_and_what_they_learn_is_counted() -> None:
    """By a reader that answers right up to 12 tokens back, and of everything else says 0."""

    def notebook(ids: Tensor) -> Tensor:
        logits = torch.zeros(*ids.shape, VALUES)
        for row, out in zip(ids.tolist(), logits, strict=True):
            for place, id in enumerate(row):
                told = next((n for n in range(place - 1, max(place - 13, -1), -1) if row[n] > VALUES), None)
                out[place, 0 if told is None or id != VALUES else row[told] - VALUES - 1] = 1
        return logits

    shares = recall.accuracy(notebook, keys=1, texts=1000)
    assert shares[:3] == [1, 1, 1] and shares[3:] == pytest.approx([1 / VALUES] * 3, abs=0.06)


def test_a_reader_learns() -> None:
    with repeatable(seed=0):
        model = reader("Transformer", vocabulary(keys=1))
        before = recall.accuracy(model, keys=1, texts=64)
        recall.learn(model, keys=1, steps=80)
        assert max(before) < 0.6 and min(recall.accuracy(model, keys=1, texts=64)) > 0.9


class Fading(nn.Module):
    """h_n = x_n + half of h_(n - 1): what comes n places later has 2^-n of a token's weight."""

    def forward(self, x: Tensor) -> Tensor:
        place = torch.arange(x.shape[1])
        return torch.where(place[:, None] >= place, 0.5 ** (place[:, None] - place), 0) @ x


def test_gradients_fade_as_the_closed_form_says() -> None:
    torch.manual_seed(0)
    shares = recall.gradients(Reader(Fading(), WIDTH, VALUES + 1 + VALUES))
    assert shares == pytest.approx([0.5 ** n for n in recall.DISTANCES], rel=1e-4)


@pytest.mark.slow
def test_recall() -> None:
    finding, back = recall.run(), recall.EDGES[-2]
    numbers = finding.numbers
    far = {(name, keys): numbers[f"right, {name}, keys {keys}, from {back} back"] for name in READERS for keys in (1, 4)}
    near = {(name, keys): numbers[f"right, {name}, keys {keys}, from 1 back"] for name in READERS for keys in (1, 4)}
    assert far["Transformer", 1] > 0.98 and far["Transformer", 4] > 0.98
    # Where it has learnt next to nothing for lack of reach, the CNN answers by chance; within its reach it knows.
    assert near["CNN", 1] > 0.98 and near["CNN", 4] > 0.95
    assert far["CNN", 1] == pytest.approx(1 / VALUES, abs=0.05) and far["CNN", 4] == pytest.approx(1 / VALUES, abs=0.06)
    assert all(numbers[f"gradient, CNN, {when}, {n} back"] == 0 for when in ("fresh", "trained")
               for n in recall.DISTANCES if n > REACH)
    # The claim does not hold of gates: an LSTM copies from as far as attention, if it has but one thing to keep.
    assert far["LSTM", 1] > 0.95 > 0.8 > far["LSTM", 4] > far["RNN", 4] - 0.05 and far["RNN", 1] < 0.9
    ends = {name: numbers[f"gradient, {name}, fresh, {recall.DISTANCES[-1]} back"] for name in READERS}
    assert ends["RNN"] < 1e-12 and ends["LSTM"] < 1e-8 and ends["Transformer"] > 1e-5
    assert numbers["gradient, LSTM, trained, 63 back"] > 0.1
    said = finding.conclusion[0]
    assert "Only the Transformer remembers from there in every task. Yet LSTM learnt one of them" in said
    assert finding.measured["seconds, RNN, n 512"] > 3 * finding.measured["seconds, RNN, n 64"]


def test_what_is_said_of_memory_is_what_was_found() -> None:
    def said(sure: set[str], arrives: float) -> str:
        return recall._memory({keys: {name: 0.95 if name in sure else 0.3 for name in READERS} for keys in (1, 4)},
                              dict.fromkeys(READERS, arrives) | {"Transformer": 1.0})[0]

    assert said({"Transformer"}, 1e-9) == "Only the Transformer remembers from there in every task."
    assert said(set(), 1e-9).startswith("None remembers")
    assert said({"RNN", "LSTM", "CNN"}, 1e-9).startswith("In every task RNN and LSTM and CNN remember from there. Yet RNN and")
    assert "Yet" not in said({"RNN", "LSTM", "Transformer"}, 0.5)


def test_what_is_said_of_time_is_what_the_clock_said() -> None:
    seconds = {"RNN": [1.0, 8.0], "LSTM": [1.0, 9.0], "CNN": [2.0, 3.0], "Transformer": [0.5, 4.0]}
    for said in recall._time((64, 256), seconds):
        assert "RNN 8.0" in said and "LSTM 9.0" in said and "CNN 1.5" in said and "256" in said and "16" in said
    said = recall._time((64, 256), seconds)[0]
    assert said.endswith("the CNN is the quickest, and the Transformer 2.0 times as fast as the RNN.")
