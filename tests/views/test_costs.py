from __future__ import annotations

import io
from dataclasses import dataclass

import pytest
from rich.console import Console

from klieg.survey import SurveySpec
from klieg.views.costs import costs


@dataclass
class Case:
    heads: int = 8
    groups: int = 2
    width: int = 128
    length: int = 8192
    spec: SurveySpec | None = None
    plain: bool = False
    type: str = "float32"


@dataclass
class Figure:
    case: Case
    ratio: float = 0.876
    seconds: float = 1.5
    beside: float = 1.712
    kernel: str = "native"


@pytest.mark.parametrize(("language", "words"), [("en", ["output and survey, top-16", "over torch", "without a compiler"]),
                                                  ("zh", ["输出与统计，前 16 大", "与 torch 之比", "没有编译器时"])])
def test_the_table_says_what_was_measured(language: str, words: list[str]) -> None:
    out = io.StringIO()
    figures = [Figure(Case()), Figure(Case(spec=SurveySpec(top=16))), Figure(Case(spec=SurveySpec(top=0), plain=True))]
    costs(iter(figures), 3, Console(file=out, width=140), language)
    said = out.getvalue()
    assert all(word in said for word in [*words, "8/2 × 128", "8,192", "0.88 ×", "1.50 / 1.71", "native"])
    assert "float32" in said
    assert said.count("top-16" if language == "en" else "前 16 大") == 1


def test_what_a_gpu_takes_is_not_written_as_nothing() -> None:
    out = io.StringIO()
    costs(iter([Figure(Case(type="bfloat16"), seconds=0.00123, beside=0.000456)]), 1, Console(file=out, width=140), "en")
    assert "0.00123 / 0.000456" in out.getvalue() and "bfloat16" in out.getvalue()
