"""Texts: corpora by name, a user's files, and what is said where they are missing or damaged."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from klieg.data import CORPORA, Source, data_folder
from klieg.errors import KliegError


def test_line_ends_and_a_byte_order_mark_of_another_system_change_nothing(tmp_path: Path) -> None:
    text = "one line\nand another\n\na second document"
    for name, body in {"unix": text.encode(), "windows": b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(),
                       "old": text.replace("\n", "\r").encode()}.items():
        (tmp_path / name).write_bytes(body)
        assert list(Source(str(tmp_path / name)).documents(None)) == ["one line\nand another", "a second document"]


def test_a_line_of_spaces_is_blank_too(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("\n \none\n  two\n \t\nthree\n\n\n\u3000\n\nfour\n", "utf-8")
    assert list(Source(str(tmp_path / "text")).documents(None)) == ["one\n  two", "three", "four"]


def test_missing_and_damaged_texts_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KLIEG_DATA", raising=False)
    with pytest.raises(KliegError, match="KLIEG_DATA"):
        data_folder()
    with pytest.raises(KliegError, match="nowhere"):
        data_folder(str(tmp_path / "nowhere"))
    with pytest.raises(KliegError, match="'stories'"):
        list(Source("storys").documents(str(tmp_path)))
    with pytest.raises(KliegError, match="tinystories"):
        list(Source("stories").documents(str(tmp_path)))
    (tmp_path / "text").mkdir()
    (tmp_path / "text/tinystories_sample.txt.gz").write_bytes(b"\x1f\x8b broken")
    with pytest.raises(KliegError, match="cannot be read"):
        list(Source("stories").documents(str(tmp_path)))


@pytest.mark.parametrize("name", CORPORA)
@pytest.mark.skipif(not os.environ.get("KLIEG_DATA"), reason="KLIEG_DATA names no folder of texts")
def test_every_corpus_gives_clean_documents(name: str) -> None:
    documents = []
    for document in Source(name).documents(None):
        documents.append(document)
        if len(documents) == 300:
            break
    assert len(documents) == 300 and all(d == d.strip() and d for d in documents)
    assert not any("<|endoftext|>" in d or "Attribution" in d for d in documents)
