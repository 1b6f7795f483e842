"""Parallel texts: read line by line, held out in part, and every mistake in them named."""

from __future__ import annotations

import gzip
import os
from dataclasses import replace
from pathlib import Path

import pytest
from test_pairs import sentences, written

from klieg.bitexts import CORPORA, read_pairs, together
from klieg.errors import KliegError
from klieg.recipe import PairSource


def test_held_out_pairs_never_train(tmp_path: Path) -> None:
    source = written(tmp_path, sentences(600))
    training, held = (read_pairs(source, None, split) for split in ("train", "validation"))
    assert sorted(training + held) == sorted(sentences(600)) and 0 < len(held) < 30 and not set(training) & set(held)
    given = replace(source, validation=written(tmp_path, sentences(4), "val").name)
    assert read_pairs(given, None, "validation") == sentences(4) and read_pairs(given, None, "train") == sentences(600)
    machine = replace(source, validation="-")
    assert read_pairs(machine, None, "validation") == [] and read_pairs(machine, None, "train") == sentences(600)


def test_pairs_without_a_source_are_not_what_is_held_out(tmp_path: Path) -> None:
    """The checksum of nothing is 0, which would hold out each of them."""
    source = written(tmp_path, [("", "x")] * 50 + sentences(600))
    training, held = (read_pairs(source, None, split) for split in ("train", "validation"))
    assert held and ("", "x") not in held and training.count(("", "x")) == 50


def test_every_mistake_in_a_text_is_one_line(tmp_path: Path) -> None:
    source = written(tmp_path, sentences(5))
    with (tmp_path / "mine.xx").open("a", encoding="utf-8") as f:
        f.write("one more\n")
    with pytest.raises(KliegError, match=r"mine\.en ends after line 5 and .*mine\.xx has 6 lines"):
        read_pairs(source, None, "train")
    (tmp_path / "mine.xx").write_bytes(b"good\nbad \xff here\n" + b"good\n" * 3)
    with pytest.raises(KliegError, match=r"mine\.xx is not UTF-8 in line 2 at byte 5"):
        read_pairs(source, None, "train")
    with pytest.raises(KliegError, match="multi30k"):
        read_pairs(PairSource("multi30", "en", "de"), None, "train")
    with pytest.raises(KliegError, match="is not there"):
        together(tmp_path / "no.en", tmp_path / "no.de")


def test_packed_files_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.en.gz").write_bytes(gzip.compress(b"one\r\ntwo\r\n"))
    (tmp_path / "a.xx").write_bytes(b"\xef\xbb\xbfeins\nzwei")
    assert together(tmp_path / "a.en", tmp_path / "a.xx") == [("one", "eins"), ("two", "zwei")]


@pytest.mark.skipif(not os.environ.get("KLIEG_DATA"), reason="KLIEG_DATA names no folder of texts")
@pytest.mark.parametrize("name,target,least", [("multi30k", "de", 29000), ("multi30k-tokenized", "fr", 29000),
                                               ("captions", "zh", 23000), ("tatoeba", "de", 100_000),
                                               ("tatoeba", "zh", 15_000)])
def test_every_corpus_gives_pairs_and_no_test_sentence(name: str, target: str, least: int) -> None:
    assert name in CORPORA
    pairs = read_pairs(PairSource(name, "en", target), None, "train")
    held = read_pairs(PairSource(name, "en", target), None, "validation")
    assert len(pairs) >= least and len(held) >= 150
    if name == "tatoeba":
        root = Path(os.environ["KLIEG_DATA"]) / "testsets/tatoeba"
        tested = {line for path in root.glob("*/*.gz") for line in gzip.decompress(path.read_bytes()).decode().split("\n")
                  if line}
        assert not set(pairs) & set(held) and len(tested) > 10_000 and not any(tested & set(pair) for pair in pairs + held)
        assert read_pairs(PairSource(name, target, "en"), None, "train")[0] == pairs[0][::-1]
