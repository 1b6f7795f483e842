"""The documents: what they tell a reader to do works, and what they say is still so."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from klieg.data import CORPORA

ROOT = Path(__file__).parents[1]


def _refresh() -> ModuleType:
    """docs/refresh.py, which runs documents."""
    spec = importlib.util.spec_from_file_location("refresh", ROOT / "docs/refresh.py")
    module = sys.modules["refresh"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


refresh = _refresh()
TEXTS = {str(path.relative_to(ROOT)): path.read_text("utf-8")
         for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]}
PAIRS = [(str(en.relative_to(ROOT)), str(zh.relative_to(ROOT)))
         for en, zh in zip(refresh.ENGLISH, refresh.CHINESE, strict=True)]
RUN = [name for pair in PAIRS for name in pair]
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")


def shell(name: str) -> list[str]:
    """Every command of a document, its comment aside."""
    return [command.split("  #")[0].rstrip() for block in refresh.blocks(TEXTS[name]) for command in block.commands()]


@pytest.mark.parametrize("name", RUN)
def test_every_command_and_snippet_runs_and_prints_what_stands_there(name: str, tmp_path: Path) -> None:
    """In Chinese, whose documents have the same commands, as is tested below, those alone whose output stands there."""
    chinese = name.endswith(".zh.md")
    reader = refresh.Reader(tmp_path, chinese)
    reader.prepare()
    shown = 0
    for block, now in reader.outputs(TEXTS[name], everything=not chinese):
        assert refresh.same(block.body, now), f"{name} is out of date: run docs/refresh.py\n{now}"
        shown += 1
    assert shown >= 5
    assert chinese or (len(list(tmp_path.glob("*.svg"))) >= 2 and (tmp_path / "runs/own-text/model").is_dir())


@pytest.mark.parametrize("name", [name for name in RUN if "README" in name])
def test_the_picture_is_what_its_command_draws(name: str, tmp_path: Path) -> None:
    [(arguments, file)] = refresh.pictures(TEXTS[name])
    now = tmp_path / "now.svg"
    refresh.klieg([str(now) if argument.endswith(".svg") else argument for argument in arguments],
                  chinese=name.endswith(".zh.md"))
    assert refresh.same(file.read_text("utf-8"), now.read_text("utf-8")), f"{file} is out of date: run docs/refresh.py"
    assert f"({file.relative_to(ROOT)})" in TEXTS[name]


@pytest.mark.parametrize("then, now, equal", [
    ("a 0.1234567  b", "a 0.1234568 b", True), ("≤ 3.6e-7", "≤ 2.4e-7", True), ("0", "0", True),
    ("▃▁ 12.5 %", "▂▁▁ 12.6 %", True), ("difference 2.2e-09", "difference 0", True),
    ("a 0.1234", "a 0.1254", False), ("≤ 3.6e-7", "≤ 3.6e-3", False), ("4 tokens", "5 tokens", False),
    ("too 31.2 %", "two 31.2 %", False), ("head 3", "head 3 4", False), ("1.0", "", False), ("1.0 2.0", "1.0 -2.0", False),
])
def test_rounding_is_forgiven_and_nothing_else(then: str, now: str, equal: bool) -> None:
    assert refresh.same(then, now) is equal


def test_a_command_that_fails_fails_the_test() -> None:
    with pytest.raises(RuntimeError, match="ended with 1: klieg: no model 'chatt'"):
        refresh.klieg(["explain", "I love you", "--model", "chatt"])


@pytest.mark.parametrize("english, chinese", PAIRS)
def test_both_languages_say_the_same(english: str, chinese: str) -> None:
    def bones(name: str) -> dict:
        blocks, prose = refresh.blocks(TEXTS[name]), re.sub(r"^```.*?^```$", "", TEXTS[name], flags=re.M | re.S)
        return {"commands": shell(name), "outputs": [block.source for block in blocks if block.source],
                "snippets": [ast.dump(ast.parse(block.body)) for block in blocks if block.kind == "python"],
                "structure": re.findall(r"^(?:#+ |\||- |\d+\. )", prose, re.MULTILINE)}

    assert bones(english) == bones(chinese)


@pytest.mark.parametrize("name", RUN)
def test_every_output_names_a_command_above_it(name: str) -> None:
    text = TEXTS[name]
    assert text.count("<!-- output") == sum(block.source is not None for block in refresh.blocks(text))
    assert {command.split()[0] for command in shell(name)} <= {"make", "klieg", "echo", "."}


def test_commands_and_options_are_there() -> None:
    commands = re.findall(r"^  (\w+) ", refresh.klieg(["--help"]).partition("Commands:")[2], re.MULTILINE)
    options = {option for command in commands for option in re.findall(r"--[a-z-]+", refresh.klieg([command, "--help"]))}
    assert len(commands) >= 6
    for name in PAIRS[0]:
        rows = re.findall(r"^\| `klieg (\w+)` \|", TEXTS[name], re.MULTILINE)
        assert sorted(rows) == sorted(commands), f"{name} lists other commands than `klieg --help`"
    for name in [*RUN, "docs/data.md"]:
        unknown = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", re.sub(r"<!--.*?-->", "", TEXTS[name]))) - options
        assert not unknown, f"{name} names options that are not there: {sorted(unknown)}"


@pytest.mark.parametrize("name", PAIRS[0])
def test_the_tree_of_files_is_true(name: str) -> None:
    lines = next(block.body for block in refresh.blocks(TEXTS[name]) if block.body.startswith("src/klieg/\n")).splitlines()
    files, folders = [], ["src/klieg"]
    for line in lines[1:]:
        depth, (entry, *said) = (len(line) - len(line.lstrip())) // 2, line.split(maxsplit=1)
        folders = folders[:depth]
        if entry.endswith(".py"):
            assert said, f"{name}: nothing is said of {entry}"
            files.append("/".join([*folders, entry]))
        else:
            folders.append(entry.rstrip("/"))
            assert (ROOT / "/".join(folders)).is_dir(), f"{name}: {entry} is not there"
    there = {str(path.relative_to(ROOT)) for path in (ROOT / "src/klieg").rglob("*.py")}
    assert set(files) ^ there == set(), f"{name}: listed and not there, or there and not listed"
    assert len(files) == len(there)


def anchors(text: str) -> set[str]:
    """The names under which a page's headings can be linked to."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXTS[name]):
        if "://" in target:
            assert target.startswith("https://"), f"{name}: {target}"
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.exists(), f"{name}: {target} is not there"
        assert not anchor or anchor in anchors(file.read_text("utf-8")), f"{name}: {target} has no such heading"


def test_the_changelog_begins_with_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert re.findall(r"^## (.+)$", TEXTS["CHANGELOG.md"], re.MULTILINE)[0] == version


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    page = json.loads((ROOT / "web/package.json").read_text("utf-8"))
    listed = [project["project"]["dependencies"], *project["project"]["optional-dependencies"].values(),
              project["build-system"]["requires"], page.get("dependencies", {}), page["devDependencies"]]
    needed = {re.split(r"[<>=\[; ]", entry)[0] for group in listed for entry in group}
    reasons = TEXTS["CONTRIBUTING.md"].partition("## Why each dependency")[2].partition("\n## ")[0]
    assert sorted(re.findall(r"^\| `(.+?)` \| \w", reasons, re.MULTILINE)) == sorted(needed)


def test_the_verbs_are_those_of_the_makefile() -> None:
    verbs = set(re.findall(r"^([a-z-]+):(?!=)", MAKEFILE, re.MULTILINE))
    said = set(re.findall(r"^make ([a-z-]+)", TEXTS["CONTRIBUTING.md"], re.MULTILINE))
    assert said == verbs
    for name, text in TEXTS.items():
        assert set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE)) <= verbs, name


def test_every_corpus_is_described() -> None:
    texts = TEXTS["docs/data.md"].partition("## Gold sets")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", texts, re.MULTILINE)) == sorted(CORPORA)
    read = re.findall(r'root / f?"([^"]+)"', (ROOT / "src/klieg/data.py").read_text("utf-8"))
    assert len(read) >= len(CORPORA)
    for path in read:
        for language in ("en", "zh"):
            assert path.format(language=language) in TEXTS["docs/data.md"]


def test_the_number_of_families_is_that_of_their_table() -> None:
    exact, refused = re.search(r"(\d+) are watched, (\d+) are refused", TEXTS["docs/models.md"]).groups()
    for name in PAIRS[0]:
        assert re.search(rf"\b{exact} (families|个模型族)", TEXTS[name])
        assert re.search(rf"\b{refused} (refused|个被拒绝)", TEXTS[name])


def test_every_benchmark_has_its_row() -> None:
    scripts = {f"benchmarks/{path.name}" for path in (ROOT / "benchmarks").glob("*.py")}
    assert scripts == set(re.findall(r"`python (benchmarks/\w+\.py)", TEXTS["docs/benchmarks.md"]))


def test_make_bench_runs_what_needs_no_arguments() -> None:
    apart = set(re.search(r"^APART := \$\(addprefix benchmarks/,(.+)\)$", MAKEFILE, re.MULTILINE).group(1).split())
    there = {path.name: path.read_text("utf-8") for path in (ROOT / "benchmarks").glob("*.py")}
    needy = {name for name, source in there.items()
             if re.search(r"""add_argument\(["'](?!-)(?!.*nargs=["'][?*])|required=True""", source)}
    assert needy <= apart <= set(there) and "exports.py" in needy
