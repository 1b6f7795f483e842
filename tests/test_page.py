"""A page of help in Chinese: lines by columns, ends of lines where Chinese may have them, names and texts side by side."""

from __future__ import annotations

import re

import pytest
from rich.cells import cell_len

from klieg.commands.page import Page, explained, wrapped

TEXT = ("每行给出几个译文，最好的在前：名次（从 0 数起）、得分、译文，以制表符隔开；见 klieg explain 的 --n-best，"
        "写作 'a ||| 译文'。")


@pytest.mark.parametrize("columns", range(20, 90))
def test_lines_are_full_and_break_where_they_may(columns: int) -> None:
    lines = wrapped(TEXT, columns)
    assert re.sub(" ", "", "".join(lines)) == re.sub(" ", "", TEXT)
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        assert line == line.strip() and cell_len(line) <= columns
        assert following[:1] not in tuple("，。；：、）") and line[-1] not in "（"
        whole = re.search(rf"{re.escape(line)}( ?){re.escape(following)}", TEXT)
        assert whole and (whole[1] or not re.match(r"[\w-]+$", line[-1] + following[:1], re.ASCII))
        if following:   # nothing that fits is left for the next line
            first = re.match(r"'[^']+'。|[!-~]+[，。；：、）]*|（?\S[，。；：、）]*", following)[0]
            assert cell_len(line + whole[1] + first) > columns


def test_what_stands_in_quotes_stays_together() -> None:
    assert wrapped("每行是 '原文 ||| 译文'。", 20) == ["每行是", "'原文 ||| 译文'。"]


def test_a_piece_wider_than_its_column_has_a_line_of_its_own() -> None:
    assert wrapped("写作 grow-diag-final-and 即可", 8) == ["写作", "grow-diag-final-and", "即可"]


@pytest.mark.parametrize(("said", "columns", "lines"), [
    ("层数。", 40, ["层数。"]),
    ("层数。  [default: 5; 1<=x<=9]", 40, ["层数。  [默认：5；1<=x<=9]"]),
    ("层数。  [default: 5; 1<=x<=9]", 20, ["层数。", "[默认：5；1<=x<=9]"]),
    ("层数。  [required]", 40, ["层数。  [必填]"]),
    ("层数。  [x>=0; required]", 40, ["层数。  [x>=0；必填]"]),
    ("写作 [MASK]。  [default: required]", 40, ["写作 [MASK]。  [默认：required]"])])
def test_what_typer_adds_is_said_in_chinese(said: str, columns: int, lines: list[str]) -> None:
    assert explained(said, columns) == lines


@pytest.mark.parametrize("columns", [54, 80])
def test_names_and_texts_stand_side_by_side(columns: int) -> None:
    page = Page(width=columns - 2)
    rows = [("-o, --out 文件夹", TEXT), ("--to <str>", "译成哪种语言。"), ("--top <int range>", "几个。  [x>=1]"),
            ("--hide-first 一个比三十列还要宽的名字", "短的。"), ("traces <list[Path]>", "各份记录。")]
    with page.section("Options"):
        page.write_dl(rows)
    lines = page.getvalue().splitlines()
    assert lines[0] == "选项：" and all(cell_len(line) <= columns for line in lines)
    for text in ("每行给出", "译成哪种", "几个。", "短的。", "各份记录。"):
        line = next(line for line in lines if text in line)
        assert cell_len(line[:line.index(text)]) == 2 + 30 + 2
    for name in ("  -o, --out 文件夹 ", "  --to <字符串> ", "  --top <整数> ", "  traces <路径列表> "):
        assert sum(line.startswith(name) for line in lines) == 1
    assert "  --hide-first 一个比三十列还要宽的名字" in lines


def test_the_line_of_usage_and_paragraphs_are_laid_out() -> None:
    page = Page(width=50)
    page.write_usage("klieg atlas", "[选项] {模型} [语料] [再一个很长的参数] [又一个]")
    page.write_text(f"{TEXT}\n\n第二段。")
    usage, text = page.getvalue().split("[又一个]\n")
    assert usage == "用法：klieg atlas [选项] {模型} [语料]\n" + " " * 18 + "[再一个很长的参数] "
    assert text.endswith("\n\n第二段。\n") and "".join(text.split("\n\n")[0].split()) == "".join(TEXT.split())
