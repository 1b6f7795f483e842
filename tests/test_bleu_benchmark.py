"""The benchmark of translations: what it tells a translator, and that the length penalty is chosen by what it brings."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_beam import MARIAN

from klieg import models
from klieg.tokenizers import train
from klieg.translate import Translator

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import bleu


@pytest.mark.parametrize("marks", [(">>de<<", ">>fr<<"), ()], ids=["several languages", "one language"])
def test_a_length_penalty_is_chosen_for_either_kind_of_translator(marks: tuple[str, ...], tmp_path: Path,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is told a language it does not have, or is not told one of several, refuses to translate."""
    tokenizer = train(["a dog runs", "ein hund rennt"], 300, marks=marks, opened=False, closed=True)
    models.save(tmp_path / "model", models.build(replace(MARIAN, vocab_size=300)), tokenizer)
    (tmp_path / "multi30k").mkdir()
    for language, text in (("en", "a dog\na cat\n"), ("de", "ein hund\neine katze\n")):
        (tmp_path / f"multi30k/val.lc.norm.tok.{language}").write_text(text, "utf-8")
    assert bleu.mark(Translator.load(str(tmp_path / "model")), "de") == ("de" if marks else None)
    brought = iter((20.0, 21.0, 30.0, 29.0, 0.0))

    def measured(texts: list[str], references: list[str], language: str, tokenized: bool) -> SimpleNamespace:
        assert (len(texts), references, language, tokenized) == (2, ["ein hund", "eine katze"], "de", True)
        return SimpleNamespace(bleu=next(brought))

    monkeypatch.setattr(bleu, "score", measured)
    found = bleu.chosen("en-de", [str(tmp_path / "model")], 2, str(tmp_path))
    assert (found.alpha, found.beam) == (bleu.ALPHAS[2], 2) and next(brought, None) is None
