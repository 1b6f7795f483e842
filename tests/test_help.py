"""The help of every command in Chinese: whole, true to the English, within the screen, and spoken where it is asked for."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from rich.cells import cell_len
from test_cli import run

from klieg import cli
from klieg.chinese import catalogue

SAID = catalogue()["help"]
TEXTS = {english: chinese for english, chinese in SAID.items() if re.search(r"\w\.$", english)}
EITHER = {"0,5,...", "all|none|0,5,..."}        # names that are the same in both languages
HAN = "[\u4e00-\u9fff]"
SYSTEM = {"LC_ALL": "zh_CN.UTF-8", "COLUMNS": "80"}


def commands(command: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with the names that lead to it."""
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, *path, name)


PATHS = [path for path, _ in commands(typer.main.get_command(cli.app))]


def shown(command: Any) -> dict[tuple, str | None]:
    """Every word that a tree of commands shows, by its place."""
    found = {}
    for path, each in commands(command):
        for name in ("help", "short_help", "epilog", "options_metavar", "subcommand_metavar", "context_class"):
            found[(*path, name)] = getattr(each, name, None)
        for param in each.get_params(typer.Context(each)):
            found[(*path, param.name, "help")], found[(*path, param.name, "metavar")] = param.help, param.metavar
            if param.param_type_name == "argument" and param.metavar is None:
                found[(*path, param.name, "metavar")] = param.name
    return found


def test_every_text_of_every_command_has_its_chinese_and_none_is_left_over() -> None:
    texts = {value for place, value in shown(typer.main.get_command(cli.app)).items() if isinstance(value, str)}
    wanted = {" ".join(part.split()) for text in texts for part in re.split(r"\n\s*\n", text)}
    assert wanted - set(SAID) == EITHER
    assert set(SAID) - wanted == set()


EXACT = (r"--\w[\w-]*|\d+(?:\.\d+)*|\w*\.\w+(?:\.\w+)*|\b[a-z]+/(?=\W|[A-Z])|\[MASK\]|\bklieg \w+|[A-Z]+_[A-Z]+|"
         r"[a-z]+[-\d][-\w]+")


def test_the_chinese_is_chinese_and_names_what_the_english_names() -> None:
    for english, chinese in SAID.items():
        assert re.search(HAN, chinese), english
        exact = set(re.findall(EXACT, english)) if english in TEXTS else set()
        assert [name for name in exact - {"source-target"} if name not in chinese] == [], chinese
        named, known = ({name.rstrip(".") for name in re.findall(r"[A-Za-z][\w.-]*", text, re.ASCII)}
                        for text in (chinese, english))
        assert named - known <= {"Transformer", "needle"}, chinese     # plural in English


def test_the_chinese_is_set_as_chinese_is() -> None:
    for english, chinese in SAID.items():
        assert english not in TEXTS or re.search(r"。$|\ntorchrun [^\n]+$", chinese), chinese
        assert not re.search(f"{HAN}[A-Za-z0-9]|[A-Za-z0-9%]{HAN}", chinese), f"a space is missing: {chinese}"
        assert not re.search(f"{HAN} ?[,;!?()]|[,;!?()] ?{HAN}|[，。；：、（）] | [，。；：、（）]|  ", chinese), chinese


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_each_page_is_chinese_and_fits_the_screen(path: tuple[str, ...]) -> None:
    ran = run(*path, "--help", **SYSTEM)
    assert (ran.status, ran.err) == (0, "") and ran.text.startswith(f"用法：{' '.join(('klieg', *path))} [选项]")
    own = dict(commands(typer.main.get_command(cli.app)))[path]
    for line in ran.text.splitlines():
        assert cell_len(line) <= 80, line
        assert not re.match(r" *[，。；：、）》]", line) and not re.search(r"[（《]$", line), line
    together = re.sub(r"\s", "", ran.text)
    for text in [own.help, *(param.help for param in own.params)]:
        assert re.sub(r"\s", "", SAID[text.split("\n\n")[0]]) in together
    for english in ("Usage", "Options", "Arguments", "Commands", "default", "required", "COMMAND", "Show this", "<str", "<int",
                    "<float", "<path", "<list", " FILE", "MODEL"):
        assert english not in ran.text.replace("FILE.klieg", ""), english


def test_the_list_of_commands_has_the_first_sentence_of_each() -> None:
    listed = run(**SYSTEM).text
    assert "  train      按配方训练模型。\n" in listed and "  atlas      在整个语料上给每个头打分。\n" in listed
    assert run("--help", **SYSTEM).text == listed and all(f"\n  {name} " in listed for name in cli.COMMANDS)


def test_the_english_is_not_touched() -> None:
    english = shown(cli._program("en"))
    before = [run(*path, "--help").text for path in PATHS]
    chinese = shown(cli._program("zh"))
    assert english == shown(cli._program("en")) == shown(typer.main.get_command(cli.app))
    assert before == [run(*path, "--help").text for path in PATHS] and not re.search(HAN, "".join(before))
    assert {place for place in english if not isinstance(place, str)} == set(chinese)
    assert english["explain", "json_file", "help"] == "Numbers; - for standard output."


@pytest.mark.parametrize(("argv", "system", "chinese"), [
    ([], "C.UTF-8", False), ([], "zh_TW.UTF-8", True), (["--lang", "zh"], "C.UTF-8", True), (["--lang=zh"], "C.UTF-8", True),
    (["--lang", "en"], "zh_CN.UTF-8", False), (["--lang=en"], "zh_CN.UTF-8", False), (["--lang", "fr"], "zh_CN.UTF-8", True),
    (["--lang", "en", "--lang", "zh"], "C.UTF-8", True), (["--lang", "zh", "--lang=en"], "zh_CN.UTF-8", False)])
def test_help_is_in_the_language_that_is_asked_for(argv: list[str], system: str, chinese: bool) -> None:
    for given in ([*argv, "--help"], ["--help", *argv]):
        assert run("explain", *given, LC_ALL=system).text.startswith("用法：" if chinese else "Usage: ")


def python(*argv: str, language: str) -> str:
    """What a process of its own says on a system that speaks a language."""
    environment = {**os.environ, "LANG": language, "COLUMNS": "80", "PYTHONUTF8": "1"}
    for name in ("LC_ALL", "LC_MESSAGES"):
        environment.pop(name, None)
    done = subprocess.run([sys.executable, *argv], capture_output=True, encoding="utf-8", timeout=60, env=environment)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def test_a_chinese_system_is_helped_in_chinese() -> None:
    said = python("-m", "klieg", "translate", "--help", language="zh_CN.UTF-8")
    assert said == run("translate", "--help", **SYSTEM).text and "  --beam <整数>         束搜索同时跟踪几个假设；" in said


def test_english_help_loads_no_chinese() -> None:
    program = ("import sys\nsys.argv = ['klieg', 'explain', '--help']\nfrom klieg.cli import main\n"
               "try:\n    main()\nexcept SystemExit:\n    pass\n"
               "print({'klieg.commands.help', 'klieg.commands.page', 'torch', 'rich'} & set(sys.modules))")
    assert python("-c", program, language="en_US.UTF-8").endswith("\nset()\n")
