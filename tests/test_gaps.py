"""Pronouns put in where they were masked: every form is tried, the likeliest is taken, and kinds are told."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from klieg.analysis.coreference.gaps import FORMS, OCCUPATIONS, Gap, filled
from klieg.errors import KliegError

ANSWERS = ("the nurse", "the farmer"), (True, False)


def liking(*words: str):
    """A model that likes texts with these words, the first the most."""
    def likeliest(choices: Sequence[Sequence[str]]) -> list[int]:
        scores = [[next((len(words) - n for n, word in enumerate(words) if f" {word} " in f" {text} "), 0) for text in texts]
                  for texts in choices]
        return [row.index(max(row)) for row in scores]
    return likeliest


def test_every_form_is_tried_and_the_likeliest_taken() -> None:
    gap = Gap.of("The nurse thanked the farmer because [MASK] had helped.", *ANSWERS)
    assert {text.split()[6] for text, _ in gap.texts(list(FORMS))} == {form for forms in FORMS.values() for form in forms}
    [(text, place, found, facet)] = filled([gap], "", liking("they", "she"))
    assert text == "The nurse thanked the farmer because they had helped." and text[slice(*place)] == "they"
    assert (found, facet) == (gap, "")


def test_a_possessive_has_no_other_form_and_a_start_is_a_capital() -> None:
    owned = Gap.of("The nurse thanked the farmer for [MASK]'s help.", *ANSWERS)
    assert [text[slice(*place)] for text, place in owned.texts(["masculine", "plural"])] == ["his", "their"]
    assert owned.texts(["feminine"])[0][0] == "The nurse thanked the farmer for her help."
    for sentence in ("[MASK] was late.", "He left. [MASK] was late.", 'He said: "Go!" [MASK] went.'):
        assert Gap.of(sentence, *ANSWERS).texts(["neuter"])[0][0].count("It") == 1
    assert "It" not in Gap.of("He left, [MASK] fell.", *ANSWERS).texts(["neuter"])[0][0]
    # The same sentence with and without 's: "her" was masked bare, and both are one riddle.
    bare = Gap.of("The nurse thanked the farmer for [MASK] help.", *ANSWERS)
    assert [text for text, *_ in filled([bare, owned], "gender", liking("she", "he"))] == [
        "The nurse thanked the farmer for her help.", "The nurse thanked the farmer for his help."]


def test_kinds() -> None:
    gap = Gap.of("The nurse thanked the farmer because [MASK] had helped.", *ANSWERS)
    assert [facet for *_, facet in filled([gap], "gender", liking())] == ["feminine", "masculine"]
    assert [(text.split()[6], facet) for text, _, _, facet in filled([gap], "stereotype", liking("she", "he"))] == [
        ("she", "pro"), ("he", "anti")]
    assert len({*OCCUPATIONS["masculine"], *OCCUPATIONS["feminine"]}) == 40
    with pytest.raises(KliegError, match="'the wizard' is none of the 40"):
        list(filled([Gap.of("[MASK]", ("the wizard", "the nurse"), (True, False))], "stereotype", liking()))
    with pytest.raises(KliegError, match="give a model"):
        list(filled([gap], "", None))
    assert list(filled([], "", None)) == []
