"""Treebanks in CoNLL-U: texts and links of sentences that are written out here, and one line for every wrong one."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from klieg.analysis.treebank import Link, read_treebank
from klieg.errors import KliegError

ONE = """\
# sent_id = 1
# text = The cat can't sleep.
1\tThe\tthe\tDET\t_\t_\t2\tdet\t_\t_
2\tcat\tcat\tNOUN\t_\t_\t5\tnsubj:outer\t_\t_
3-4\tcan't\t_\t_\t_\t_\t_\t_\t_\t_
3\tca\tcan\tAUX\t_\t_\t5\taux\t_\t_
4\tn't\tnot\tPART\t_\t_\t5\tadvmod\t_\t_
4.1\tever\t_\t_\t_\t_\t_\t_\t5:advmod\t_
5\tsleep\tsleep\tVERB\t_\t_\t0\troot\t_\tSpaceAfter=No
6\t.\t.\tPUNCT\t_\t_\t5\tpunct\t_\t_
"""
TWO = """\
1\t猫\t猫\tNOUN\t_\t_\t2\tnsubj\t_\tSpaceAfter=No
2\t睡\t睡\tVERB\t_\t_\t0\troot\t_\tGloss=x|SpaceAfter=No
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "some.conllu"
    path.write_bytes(text.encode("utf-8"))
    return path


def test_words_are_what_is_written_and_links_lead_between_them(tmp_path: Path) -> None:
    first, second = read_treebank(written(tmp_path, "\ufeff" + ONE.replace("\n", "\r\n") + "\r\n" + TWO))
    assert first.text == "The cat can't sleep." and second.text == "猫睡"
    assert [first.text[start:end] for start, end in first.words] == ["The", "cat", "can't", "sleep", "."]
    assert first.links == (Link(0, 1, "det"), Link(1, 3, "nsubj"), Link(2, 3, "aux"), Link(2, 3, "advmod"))
    assert [second.text[start:end] for start, end in second.words] == ["猫", "睡"] and second.links == (Link(0, 1, "nsubj"),)


def test_links_within_a_written_word_are_none(tmp_path: Path) -> None:
    text = ("1-2\tvámonos\t_\t_\t_\t_\t_\t_\t_\t_\n1\tvamos\tir\tVERB\t_\t_\t0\troot\t_\t_\n"
            "2\tnos\tyo\tPRON\t_\t_\t1\tobj\t_\t_\n3\tal\tal\tADP\t_\t_\t1\tobl\t_\t_\n")
    [found] = read_treebank(written(tmp_path, text))
    assert found.text == "vámonos al" and found.links == (Link(1, 0, "obl"),)


CAT = "2\tcat\tcat\tNOUN\t_\t_\t5\tnsubj:outer\t_\t_"


@pytest.mark.parametrize(("line", "new", "number", "said"), [
    (CAT, "2 cat cat NOUN _ _ 5 nsubj _ _", 4, "1 columns"),
    (CAT, "3\tcat\t_\t_\t_\t_\t5\tnsubj\t_\t_", 4, "expected 2"),
    (CAT, "b\tcat\t_\t_\t_\t_\t5\tnsubj\t_\t_", 4, "'b' is no number"),
    (CAT, "2\t \t_\t_\t_\t_\t5\tnsubj\t_\t_", 4, "no form"),
    (CAT, "2\tcat\t_\t_\t_\t_\t_\t_\t_\t_", 4, "column 7"),
    (CAT, "2\tcat\t_\t_\t_\t_\t5\t_\t_\t_", 4, "column 8"),
    (CAT, "2\tcat\t_\t_\t_\t_\t7\tnsubj\t_\t_", 4, "word 7; expected 0 or another of"),
    (CAT, "2\tcat\t_\t_\t_\t_\t2\tnsubj\t_\t_", 4, "word 2; expected 0 or another of"),
    ("3-4\tcan't", "3-3\tcan't", 5, "number 3-3"), ("3-4\tcan't", "3-9\tcan't", 10, "goes on to word 9"),
    ("4\tn't\tnot", "4-5\tn't\tnot", 7, "number 4-5"),
])
def test_a_wrong_line_is_named(tmp_path: Path, line: str, new: str, number: int, said: str) -> None:
    assert line in ONE
    path = written(tmp_path, ONE.replace(line, new))
    with pytest.raises(KliegError, match=rf"line {number}: .*{said}") as refused:
        read_treebank(path)
    assert str(refused.value).startswith(str(path)) and "\n" not in str(refused.value)


def test_what_is_no_treebank_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, ONE)
    path.write_bytes(ONE.encode() + b"\n\xff\xfe junk\n")
    with pytest.raises(KliegError, match="line 12: it is no UTF-8 text"):
        read_treebank(path)
    for text in ("", "# nothing\n\n", "1\tSleep\t_\t_\t_\t_\t0\troot\t_\t_\n"):
        with pytest.raises(KliegError, match="no sentence with a link"):
            read_treebank(written(tmp_path, text))
    with pytest.raises(KliegError, match="cannot be read as a treebank"):
        read_treebank(tmp_path / "none.conllu")
    # The root may be the last word, and its head is no word.
    assert len(read_treebank(written(tmp_path, TWO))[0].links) == 1


def test_a_compressed_treebank_is_read(tmp_path: Path) -> None:
    plain = written(tmp_path, ONE + "\n" + TWO)
    packed = tmp_path / "some.conllu.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert read_treebank(packed) == read_treebank(plain)
    for data in (gzip.compress(plain.read_bytes())[:60], b"1\tThe", gzip.compress(ONE.encode())[:20] + b"x" * 40):
        packed.write_bytes(data)
        with pytest.raises(KliegError, match="cannot be read as a treebank"):
            read_treebank(packed)
