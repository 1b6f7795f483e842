"""Minimal pairs: how they are read, and that the likelier sentence wins."""

from __future__ import annotations

import gzip
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from klieg.analysis.grammar import FILE, Pair, contrast, grammar, read_pairs
from klieg.errors import KliegError

DATA = Path(os.environ.get("KLIEG_DATA", "no such folder"))


def line(good: str = "The cats sleep.", bad: str = "The cats sleeps.", term: object = "agreement", uid: str = "one") -> str:
    return json.dumps({"sentence_good": good, "sentence_bad": bad, "linguistics_term": term, "UID": uid, "pairID": "0"}) + "\n"


class Scores:
    """A model whose sentences cost what is said of them."""

    name = "scores"

    def __init__(self, scores: dict[str, float]) -> None:
        self.scores = scores

    def each(self, text: str) -> tuple[list[int], torch.Tensor]:
        """A token a word, known by its letters; each costs a nat for every letter."""
        words = text.split()
        return [sum(map(ord, word)) for word in words], -torch.tensor([float(len(word)) for word in words])

    def labels(self, ids: Sequence[int]) -> list[str]:
        return [f"<{id}>" for id in ids]

    def total(self, texts: Sequence[str], told: Callable[[int, int], None]) -> torch.Tensor:
        told(len(texts), len(texts))
        return torch.tensor([self.scores[text] for text in texts], dtype=torch.float64)


def test_the_likelier_sentence_wins_and_equal_ones_count_half() -> None:
    pairs = [Pair("a", "b", "x", "x1"), Pair("b", "a", "x", "x2"), Pair("c", "b", "y", "y1"), Pair("a", "a", "x", "x1")]
    told = []
    found = grammar(Scores({"a": -1.0, "b": -2.0, "c": -0.5}), pairs, lambda *step: told.append(step))
    assert (found.total.right, found.total.count) == (2.5, 4) and told == [(8, 8)]
    assert {name: rate.share for name, rate in found.phenomena.items()} == {"x": 0.5, "y": 1.0}
    assert {name: rate.share for name, rate in found.paradigms.items()} == {"x1": 0.75, "x2": 0.0, "y1": 1.0}
    said = found.as_json()
    assert said["total"]["share"] == 0.625 and said["phenomena"]["y"]["count"] == 1
    with pytest.raises(KliegError, match="pair 2 has more tokens"):
        grammar(Scores({"a": -1.0, "b": -torch.inf}), [Pair("a", "a", "x", "x"), Pair("a", "b", "x", "x")])


def test_pairs_are_read_also_compressed_and_some_of_each_paradigm(tmp_path: Path) -> None:
    body = line() + "\n" + line(uid="two") + line(good="Cats sleep.")
    (tmp_path / "p.jsonl").write_text(body, "utf-8")
    (tmp_path / "p.jsonl.gz").write_bytes(gzip.compress(body.encode()))
    found = read_pairs(tmp_path / "p.jsonl")
    assert found == read_pairs(tmp_path / "p.jsonl.gz") and [pair.paradigm for pair in found] == ["one", "two", "one"]
    assert found[0] == Pair("The cats sleep.", "The cats sleeps.", "agreement", "one")
    assert read_pairs(tmp_path / "p.jsonl", most=1) == found[:2]


@pytest.mark.parametrize("bad", ["{", "[]", "7", line(term=3), line(good=" "), line().replace("UID", "uid")])
def test_a_line_that_is_no_pair_is_named(tmp_path: Path, bad: str) -> None:
    (tmp_path / "p.jsonl").write_text(line() + bad, "utf-8")
    with pytest.raises(KliegError, match=r"p.jsonl, line 2: expected a JSON object with the texts sentence_good"):
        read_pairs(tmp_path / "p.jsonl")


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n", "utf-8")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"x" * 999)[:20])
    for name, said in (("empty", "has no pairs"), ("cut.gz", "cannot be read"), ("missing", "is not there")):
        with pytest.raises(KliegError, match=said):
            read_pairs(tmp_path / name)


@pytest.mark.skipif(not (DATA / FILE).is_file(), reason="KLIEG_DATA has no eval/blimp")
def test_blimp_is_67_paradigms_of_1000_pairs() -> None:
    pairs = read_pairs(DATA / FILE)
    assert len(pairs) == 67_000 and len({pair.paradigm for pair in pairs}) == 67 and len(read_pairs(DATA / FILE, 2)) == 134
    from klieg.views.grammar import PHENOMENA
    assert {pair.phenomenon for pair in pairs} == set(PHENOMENA)


@pytest.mark.parametrize(("one", "other", "columns"), [
    ("a bb ccc", "a dddd ccc", [(0, 0), (1, 1), (2, 2)]), ("a ccc", "a bb ccc", [(0, 0), (None, 1), (1, 2)]),
    ("a bb", "a", [(0, 0), (1, None)]), ("a", "a", [(0, 0)])])
def test_two_sentences_and_where_their_difference_comes_from(one: str, other: str, columns: list) -> None:
    found = contrast(Scores({}), one, other)
    bits = [[len(word) / math.log(2) for word in text.split()] for text in (one, other)]
    assert found.columns == columns and found.one.bits == pytest.approx(bits[0]) and found.other.bits == pytest.approx(bits[1])
    gains = [(0 if b is None else bits[1][b]) - (0 if a is None else bits[0][a]) for a, b in columns]
    assert found.gains == pytest.approx(gains) and found.difference == pytest.approx(sum(bits[1]) - sum(bits[0]))
    assert sum(found.gains) == pytest.approx(found.difference)
    said = json.loads(json.dumps(found.as_json()))
    assert said["columns"] == [list(pair) for pair in columns] and said["other"]["total"] == pytest.approx(sum(bits[1]))
