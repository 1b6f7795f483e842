"""Winograd riddles whose pronoun was masked, and how it is put in again.

The files that language models are usually tried on (Kocijan et al. 2019) have [MASK] where the pronoun stood, and
"[MASK] 's" where it was "his", "its" or "their". Heads cannot be read at a word that is not there. So every form of every
pronoun that fits is tried, and the text that is likeliest to one fixed model is taken: the same for all models that are
looked into. Which form is taken does not give the answer away: both candidates of a riddle agree with it.

WinoBias and WinoGender are filled twice, with "she" and with "he". A riddle of WinoBias is "pro" where the gender is the
one that most people of the right candidate's occupation have, else "anti" (Zhao et al. 2018, "Gender Bias in Coreference
Resolution", table 1, after figures of the US Department of Labor); of WinoGender (Rudinger et al. 2018) the gender is told.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from klieg.analysis.coreference.mentions import Place, bare
from klieg.errors import KliegError

GAP = "[MASK]"
FORMS = {"masculine": ("he", "him", "his"), "feminine": ("she", "her", "her"), "neuter": ("it", "it", "its"),
         "plural": ("they", "them", "their")}
"""Nominative, accusative, possessive."""
OCCUPATIONS = {
    "masculine": ("driver", "supervisor", "janitor", "cook", "mover", "laborer", "construction worker", "chief", "developer",
                  "carpenter", "manager", "lawyer", "farmer", "salesperson", "physician", "guard", "analyst", "mechanic",
                  "sheriff", "ceo"),
    "feminine": ("attendant", "cashier", "teacher", "nurse", "assistant", "secretary", "auditor", "cleaner", "receptionist",
                 "clerk", "counselor", "designer", "hairdresser", "writer", "housekeeper", "baker", "accountant", "editor",
                 "librarian", "tailor")}

Likeliest = Callable[[Sequence[Sequence[str]]], list[int]]
"""From lists of texts to the place of the likeliest in each."""


@dataclass(frozen=True)
class Gap:
    """A sentence with one gap; `possessive` where the mask was followed by 's."""

    sentence: str
    candidates: tuple[str, ...]
    right: tuple[bool, ...]
    possessive: bool

    @classmethod
    def of(cls, sentence: str, candidates: tuple[str, ...], right: tuple[bool, ...]) -> Gap:
        """A sentence as its file has it, the 's taken into the gap."""
        return cls(sentence.replace(f"{GAP}'s", GAP), candidates, right, f"{GAP}'s" in sentence)

    def texts(self, genders: Sequence[str]) -> list[tuple[str, Place]]:
        """The sentence with each form of some genders, and where the pronoun stands in it."""
        words = dict.fromkeys(form for gender in genders for form in (FORMS[gender][2:] if self.possessive else FORMS[gender]))
        start = self.sentence.index(GAP)
        opens = start == 0 or re.search(r"[.!?:]\S*\s+$", self.sentence[:start]) is not None
        spelt = [word.capitalize() if opens else word for word in words]
        return [(self.sentence.replace(GAP, word), (start, start + len(word))) for word in spelt]


def filled(gaps: list[Gap], kind: str, likeliest: Likeliest | None) -> Iterator[tuple[str, Place, Gap, str]]:
    """Each gap with its likeliest pronoun: (text, place of the pronoun, gap, facet).

    kind: "gender" or "stereotype" fill every gap twice, with either gender, and name the facet so; "" fills it once, with
    whatever pronoun is likeliest.
    """
    # Where the same sentence is there with and without 's, the gap is a possessive: "her" was masked without one.
    told = {(gap.sentence, gap.candidates, gap.right) for gap in gaps if gap.possessive}
    gaps = [gap for gap in gaps if gap.possessive or (gap.sentence, gap.candidates, gap.right) not in told]
    wanted = [("feminine",), ("masculine",)] if kind else [tuple(FORMS)]
    asked = [(gap, genders[0], gap.texts(genders)) for gap in gaps for genders in wanted]
    if not asked:
        return
    if likeliest is None:
        raise KliegError(f"the riddles have {GAP} where their pronoun was; give a model that says which pronoun is likeliest.")
    chosen = likeliest([[text for text, _ in texts] for _, _, texts in asked])
    for (gap, gender, texts), best in zip(asked, chosen, strict=True):
        text, place = texts[best]
        yield text, place, gap, gender if kind == "gender" else _stereotype(gap, gender) if kind else ""


def _stereotype(gap: Gap, gender: str) -> str:
    answer = next(name for name, right in zip(gap.candidates, gap.right, strict=True) if right)
    name = bare(answer.casefold())
    usual = next((known for known, names in OCCUPATIONS.items() if name in names), None)
    if usual is None:
        raise KliegError(f"{answer!r} is none of the 40 occupations of WinoBias; name the file by its path to read it without "
                         "stereotypes.")
    return "pro" if usual == gender else "anti"
