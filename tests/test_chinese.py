"""Whatever Klieg refuses is said in Chinese too: every line of the source has its template, and every template its Chinese."""
# Fixtures of another file are imported, and then named by the tests.
# ruff: noqa: F811

from __future__ import annotations

import ast
import os
import re
import string
import warnings
from functools import cache
from pathlib import Path
from random import Random
from unittest.mock import patch

import pytest
from templates import templates
from test_cli import here, refused, run, tiny  # noqa: F401

from klieg.chinese import LINES, catalogue, chinese
from klieg.errors import KliegError, KliegWarning, nearest

HOUSE = Path(__file__).parents[1] / "src" / "klieg"
TREES = {str(path.relative_to(HOUSE)): ast.parse(path.read_text("utf-8")) for path in sorted(HOUSE.rglob("*.py"))}
NOTES = "note"
HELP = "help"         # paragraphs and no templates: test_help.py
FIELD = re.compile(r"\{(\d+)(!r)?(?::(\w+))?\}")
HAN = "\u3400-\u9fff"

# Lines that are made at another place than where they are raised: by the definition of that name in the same file; None are
# lines that were raised before, as they are.
ELSEWHERE = {
    ("export/gguf.py", "_INSTEAD.get"): "_INSTEAD", ("train.py", "_UNMADE.format"): "_UNMADE",
    ("watching/measure.py", "_why"): "_why", ("labs/written.py", "said['error']"): None,
    ("shell.py", "str(e).replace"): None, ("explorer/server.py", "f'{error.detail}.'"): None,
}
# What others say, and Klieg hands on: Starlette of addresses that are not served, and Typer of a command that is misspelt.
STARLETTE = {"Not Found.", "Method Not Allowed."}
TYPER = {
    "missing command.": ["bench"],
    "no such command {0!r}.": ["nothing"],
    "no such command {0!r}. Did you mean {1}?": ["explian"],
    "no such option: {0}.": ["explain", "hi", "-x"],
    "no such option: {0} (Possible options: {1}).": ["explain", "hi", "--lnag"],
    "option {0!r} requires an argument.": ["explain", "hi", "--json"],
    "option {0!r} does not take a value.": ["translate", "--interactive=yes"],
    "missing argument {0!r}.": ["explain"],
    "missing option {0}.": ["fill", "a [MASK]"],
    "got unexpected extra argument(s) ({0}); a text of several words stands in quotes.": ["explain", "I", "love", "you"],
    "got unexpected extra argument(s) ({0}); this command takes nothing but options.": ["chat", "hello"],
    "invalid value for {0}: {1}.": ["chat", "--top-k", "x"],
    "Input should be a valid integer, unable to parse string as an integer": ["serve", "--port", "1.5"],
    "Input should be a valid number, unable to parse string as a number": ["chat", "--temperature", "warm"],
    "Input should be greater than or equal to {0}": ["translate", "hi", "--beam", "0"],
    "Input should be less than or equal to {0}": ["translate", "hi", "--beam", "1001"],
}


# ---- the source ----

@cache
def kinds() -> set[str]:
    """KliegError and the kinds of it."""
    classes = {node.name: {base.id for base in node.bases if isinstance(base, ast.Name)}
               for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    found: set[str] = {"KliegError"}
    while more := {name for name, bases in classes.items() if bases & found} - found:
        found |= more
    return found


def own(tree: ast.Module) -> set[str]:
    """Kinds of a KliegError that make their line themselves, of other things than a text."""
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name in kinds()
            and any(isinstance(part, ast.FunctionDef) and part.name == "__init__" for part in node.body)}


@cache
def raised() -> list[tuple[str, int, ast.expr]]:
    """The line of every KliegError and KliegWarning that is made: its file, its place and its expression."""
    found = []
    for name, tree in TREES.items():
        making = own(tree)
        plain = kinds() - making
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in plain:
                found.append((name, node.lineno, node.args[0]))
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "warnings.warn":
                assert ast.unparse(node.args[1]) == "KliegWarning", f"{name}:{node.lineno} warns past the command line"
                found.append((name, node.lineno, node.args[0]))
            if isinstance(node, ast.ClassDef) and node.name in making:
                found += [(name, call.lineno, call.args[0]) for call in ast.walk(node)
                          if isinstance(call, ast.Call) and ast.unparse(call.func) == "super().__init__"]
    return found


def defined(name: str, wanted: str) -> ast.AST:
    """What a file assigns or defines under a name."""
    for node in TREES[name].body:
        names = [target.id for target in node.targets] if isinstance(node, ast.Assign) else [getattr(node, "name", "")]
        if wanted in names:
            return node
    raise AssertionError(f"{name} has no {wanted}")


def written(node: ast.AST) -> set[str]:
    """All texts in a part of the source, as templates, but for what says what the part is."""
    match node:
        case ast.Constant(value=str(text)):
            return {formatted(text)}
        case ast.Expr(value=ast.Constant()):
            return set()
        case ast.JoinedStr(values=values):
            found, inside = set(templates(node)), [part.value for part in values if isinstance(part, ast.FormattedValue)]
        case ast.BinOp(op=ast.Add()):
            found, inside = set(templates(node)), [node.left, node.right]
        case _:
            found, inside = set(), list(ast.iter_child_nodes(node))
    return found.union(*map(written, inside))


def formatted(text: str) -> str:
    """A text that is filled in by str.format(), as a template."""
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError:
        return text
    fields = [number for number, (_, field, *_) in enumerate(parts) if field is not None]
    return "".join(fixed + (f"{{{fields.index(number)}}}" if field is not None else "")
                   for number, (fixed, field, *_) in enumerate(parts))


@cache
def everything() -> set[str]:
    return set().union(*map(written, TREES.values()))


@cache
def lines() -> dict[str, str]:
    """The lines that the source raises, as templates, and where."""
    found = {}
    for name, number, made in raised():
        texts = templates(made)
        if not any(text in catalogue()[LINES] or re.search("[a-z]{2}", FIELD.sub("", text)) for text in texts):
            maker = ast.unparse(made.func if isinstance(made, ast.Call) else made)
            assert (name, maker) in ELSEWHERE, f"{name}:{number} raises a line that is made by {maker}; say where it stands"
            texts, source = [], ELSEWHERE[name, maker]
            if source:
                parts = [defined(name, source), *made.args]
                texts = [text for text in set().union(*map(written, parts)) if text.endswith(".") and " " in text]
                assert texts, f"{source} of {name} makes no line"
        found |= {text: f"{name}:{number}" for text in texts if text not in found}
    return found


def test_every_line_of_the_source_is_in_the_catalogue() -> None:
    found = lines()
    assert len(found) > 400 and {"shell.py", "explorer/desk.py", "watching/measure.py"} <= {
        where.partition(":")[0] for where in found.values()}
    missing = [f"{where} {text}" for text, where in found.items() if text not in catalogue()[LINES]]
    assert not missing, "\n".join(missing)


def test_the_makers_of_lines_are_still_there() -> None:
    made = {(name, ast.unparse(line.func if isinstance(line, ast.Call) else line)) for name, _, line in raised()}
    assert set(ELSEWHERE) <= made


def test_nothing_in_the_catalogue_is_left_over() -> None:
    system = {os.strerror(number).lower() for number in range(1, 140)} | {"no such file", "embedded null byte"}
    known = {LINES: set(lines()) | STARLETTE | everything(), "system": system, "usage": set(TYPER), "invalid": set(TYPER),
             "tally_name": {said.split()[-1] for said in catalogue()["tally"]}}
    for table, entries in catalogue().items():
        for english in entries:
            if FIELD.fullmatch(english) or english == "" or table == HELP:
                continue
            there = known.get(table, everything())
            joined = table not in known and FIELD.sub("", english) in everything()      # what stands between or behind parts
            handed = english == "{0} See {1} --help."       # Typer's, with Klieg's end
            assert english in there or joined or handed, f"[{table}] has {english!r}, which nobody says"
    used = {table for entries in catalogue().values() for said in entries.values() for _, _, table in FIELD.findall(said)}
    assert used - {""} | {NOTES, HELP} == set(catalogue()), "a table is not used, or not there"


def test_what_a_command_says_of_its_work_has_its_chinese() -> None:
    """All that goes through shell.said(), or through a `say` that hands it on; bars count in words that do."""
    seen = set()
    hands_on = {"shell.py": {"said"}, "views/progress.py": {"say"}, "commands/train.py": {"say"}, "train.py": {"self._say"},
                "checkpoint.py": {"say"}, "reading.py": {"say"}, "explorer/server.py": {"say"}}
    for name, tree in TREES.items():
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args):
            made = ast.unparse(call.func)
            if made == "counted" and name.startswith("commands/"):
                assert not templates(call.args[0]), f"{name}:{call.lineno} counts in English"
            if made in hands_on.get(name, set()) | {"shell.said"}:
                for text in templates(call.args[0]):
                    assert text in catalogue()[NOTES], f"{name}:{call.lineno} says {text!r}"
                    seen.add(text)
    assert len(seen) > 20


def test_notes_that_are_made_of_notes() -> None:
    for line, said in (
            ("keeps the surveys, about 3 MB, and no q and k, in a.klieg", "保留统计（约 3 MB），不保留 q 和 k，存入 a.klieg"),
            ("q and k of layer 2 were not kept: the GPU's memory: 9 MB are more than the 8 MB that may be taken; memory: full",
             "第 2 层的 q 和 k 没有保留：显存：9 MB 超过可用的 8 MB；内存：full"),
            ("loss 3.210 · 1,234 tokens/s · MFU 41.2%", "损失 3.210 · 每秒 1,234 个词元 · MFU 41.2%"),
            ("step 7: validation loss 3.2100, training loss 3.210 · 1,234 tokens/s",
             "第 7 步：留出文本的损失 3.2100，训练损失 3.210 · 每秒 1,234 个词元"),
            ("step 7: validation loss 3.2100, BLEU 30.4, training loss 3.210 · 1,234 tokens/s",
             "第 7 步：留出文本的损失 3.2100，BLEU 30.4，训练损失 3.210 · 每秒 1,234 个词元"),
            ("1.5 M parameters; a step needs 1.2 GB of 8.0 GB that are free; 100 steps of 0.5 s, before it is compiled: "
             "about 2 h 5 min",
             "1.5 M 个参数；一步需要 1.2 GB（空闲 8.0 GB）；共 100 步，每步 0.5 秒（编译之前）：约 2 小时 5 分钟"),
            ("scores of heads at 3 steps in runs/a b: 2.5 % of the time", "runs/a b 里有 3 步的头的分数：占时间的 2.5%"),
            ("runs/a is damaged (its checksum is wrong). Trying the state before step 7.",
             "runs/a 已损坏（校验和不对）。改试第 7 步之前的状态。")):
        assert chinese(line, NOTES) == said


# ---- the catalogue ----

ENTRIES = [(table, english, said) for table, entries in catalogue().items() if table != HELP
           for english, said in entries.items()]


@pytest.mark.parametrize(("table", "english", "said"), ENTRIES, ids=[f"{table}-{n}" for n, (table, *_) in enumerate(ENTRIES)])
def test_the_chinese_is_whole(table: str, english: str, said: str) -> None:
    numbers = [number for number, *_ in FIELD.findall(english)]
    assert set(numbers) == {number for number, *_ in FIELD.findall(said)}, "a field is lost or made up"
    assert sorted(set(numbers), key=int) == list(dict.fromkeys(numbers)), "fields are numbered as they come"
    bare = FIELD.sub(lambda field: "" if field[3] else "x", said)     # words of a table bring their spaces with them
    if re.search("[A-Za-z]{2}", FIELD.sub("", english)) and table not in ("list", "figure", "valid"):
        assert re.search(f"[{HAN}（：]", bare), "there is no Chinese"
    assert not re.search(f"[{HAN}][,.;:!?()]|[,.;:!?(][{HAN}]|[,;] [{HAN}]|[{HAN}] [,;.](?![a-z])", bare), "half-width signs"
    assert not re.search(f"[{HAN}][A-Za-z0-9`'-]|[A-Za-z0-9`'][{HAN}]", bare), "a space is missing"
    if table == LINES and english.endswith("."):
        assert said.endswith(("。", ":near}", ":writes}")), "it does not end"


AWKWARD = ["runs/my model", "it's here.txt", "1,234", "(2, 3)", "数据/文本 1", "v1.2-old", "C:\\texts", "x; y", "x" * 200]
QUOTED = [repr(text) for text in ("a: b. Known: c; it must be d", 'say "x"', "it's", "它's \"两\"个", "", "line 3: \\n\n")]


def filled(table: str, english: str, draw: Random, deep: int = 2) -> tuple[str, str]:
    """A line of a template and the Chinese that it should have, with the same values in both."""
    said, values, chosen = catalogue()[table][english], {}, {}
    tables = {number: name for number, _, name in FIELD.findall(said)}
    between = [piece for piece in FIELD.split(english)[::4] if 0 < len(piece) <= 3]     # what such a value would not have
    for number, quoted, _ in FIELD.findall(english):
        if number in values:
            continue
        if quoted:
            values[number] = chosen[number] = draw.choice([*QUOTED, "None", "3.5"])
        elif tables[number]:
            inner = {entry: {name for *_, name in FIELD.findall(its)} - {""}
                     for entry, its in catalogue()[tables[number]].items()}
            plain = [entry for entry, names in inner.items() if not names]
            plain = plain or [entry for entry, names in inner.items() if tables[number] not in names]
            known = list(inner) if deep > 0 else plain
            values[number], chosen[number] = filled(tables[number], draw.choice(known), draw, deep - 1)
        else:
            fair = [one for one in AWKWARD if not any(piece in one for piece in between)] if table == LINES else []
            values[number] = chosen[number] = draw.choice([*fair, "1,234", "x_1", "q-7"])
    return (FIELD.sub(lambda field: values[field[1]], english), FIELD.sub(lambda field: chosen[field[1]], said))


@pytest.mark.parametrize("english", catalogue()[LINES])
def test_a_line_is_said_with_what_it_was_filled_with(english: str) -> None:
    draw = Random(english)
    for _ in range(10):
        line, said = filled(LINES, english, draw)
        assert chinese(line) == said, line


@pytest.mark.parametrize("line", ["", "hello.", "the text is odd.", "no model 'x'. Try again.", "a: b", "line 3: it is odd."])
def test_what_is_not_known_has_no_chinese(line: str) -> None:
    assert chinese(line) is None and KliegError(line).zh is None


def test_lines_in_lines_and_names_that_are_near() -> None:
    assert KliegError("line 1,234: the text is empty; give at least one word.").zh == (
        "第 1,234 行：文字是空的；请至少写一个词。")
    for name, said in (("logg", "是不是想写 'log'？"), ("Ω", "可用的有：linear、log。")):
        assert KliegError(f"there is no scale {name!r}.{nearest(name, ['log', 'linear'])}").zh == f"没有标度 {name!r}。{said}"
    assert KliegError("there are no rows 3:1; layer 2 has rows 0:9.").zh == "没有 3:1 这些行；第 2 层的行是 0:9。"
    assert KliegError("there are no rows 3:1; layer 2 has keys 0:9.").zh is None     # the same field twice is the same words
    assert KliegError("keys cannot be written: is a directory.").zh == "不能写入 keys：它是文件夹。"     # a file's name stays


# ---- the terminal ----

ZH = {"LC_ALL": "zh_CN.UTF-8"}


@pytest.mark.parametrize(("english", "argv"), TYPER.items(), ids=[" ".join(argv) for argv in TYPER.values()])
def test_a_misspelt_command_is_told_in_chinese(english: str, argv: list[str]) -> None:
    ran = run(*argv, **ZH)
    refused(ran, f"[{HAN}]", status=2)
    assert re.search(r"请看 klieg( \w+)* --help。\n$", ran.err)
    table = "usage" if english in catalogue()["usage"] else "invalid"
    fixed = FIELD.sub("", catalogue()[table][english]).split("（")[0]
    assert all(part in ran.err for part in re.split(r"\W+", fixed) if part), f"{english!r} said {ran.err}"
    plain = run(*argv).err
    assert not re.search(f"[{HAN}]", plain) and re.search(
        re.sub(r"\\\{\d+(!r)?\\\}", ".+", re.escape(english)), plain), plain
    assert run(*argv, "--lang", "zh").err != plain or argv[-1] == "--json"      # which takes --lang for its file


@pytest.mark.parametrize(("argv", "said"), [
    (["explain", ""], "文字是空的；请至少写一个词。"),
    (["explain", "hi", "--model", "chta"], "没有模型 'chta'。是不是想写 'chat'？也可以写文件夹或 Hugging Face 上的名字。"),
    (["explain", "hi", "--scale", "logg"], "--scale 写的是 'logg'；只能是 linear、log、no-first 之一。"),
    (["generate", "hi", "--temperature", "-1"], "温度是 -1.0；它必须是 0（取最可能的词元）或至少 1e-6。"),
    (["train", "no.toml"], "没有配方 'no.toml'；请看文件夹 recipes/。"),
    (["zoom", "no.klieg", "0.1"], "没有记录 'no.klieg'；请用 klieg map 或 klieg explain --save 做一份。"),
    (["explain", "hi", "--json", "no/where.json"], "不能写入 no/where.json：没有这个文件或文件夹；请先建好文件夹。"),
])
def test_a_mistake_is_told_in_chinese(argv: list[str], said: str, here: Path) -> None:
    ran = run(*argv, **ZH)
    assert (ran.status, ran.out, ran.err) == (1, b"", f"klieg: {said}\n")
    assert not re.search(f"[{HAN}]", run(*argv).err)


@pytest.mark.parametrize(("argv", "environment", "expected"), [
    (["--lang", "zh"], {}, "zh"), (["--lang=zh"], {}, "zh"), (["--lang", "en"], ZH, "en"), (["--lang=en"], ZH, "en"),
    ([], ZH, "zh"), ([], {}, "en"), (["--lang", "en", "--lang", "zh"], {}, "zh"), (["--lang", "de"], ZH, "zh"),
    (["--lang", "de"], {}, "en"),
    (["--lang"], ZH, "zh")])
def test_the_language_of_a_line_is_that_of_the_command(argv: list[str], environment: dict[str, str], expected: str) -> None:
    ran = run("explain", "hi", "--model", "chta", "--lnag", *argv, **environment)
    assert ran.status == 2 and bool(re.search(f"[{HAN}]", ran.err)) == (expected == "zh")


def test_a_warning_of_klieg_is_one_line_and_others_stay() -> None:
    def warned(language: str) -> list[str]:
        def warns(name: str) -> None:
            warnings.warn("the gpu kernel cannot do this call: Triton is not installed (pip install 'klieg[gpu]'); plain "
                          "PyTorch does it, exactly and more slowly.", KliegWarning, stacklevel=1)
            warnings.warn("of another library", UserWarning, stacklevel=1)
            raise KliegError(f"no model {name!r}. A folder or a Hugging Face id works too.")

        with warnings.catch_warnings(), patch("klieg.models.load", warns):
            warnings.simplefilter("always")
            return run("generate", "hi", "--lang", language).err.splitlines()

    for language, said in (("zh", "klieg: GPU 内核做不了这次计算："), ("en", "klieg: the gpu kernel cannot do this call: ")):
        first, second, *_, last = warned(language)
        assert first.startswith(said) and "UserWarning: of another library" in second and last.startswith("klieg: ")


def test_a_conversation_says_its_mistakes_in_its_language(here: Path) -> None:
    long = "hill " * 400
    for language, said in (("zh", "第 1 行：文字有 "), ("en", "line 1: the text has ")):
        ran = run("translate", "--interactive", "--to", "de", "--lang", language, said=f"{long}\n", terminal=True)
        assert ran.status == 0 and f"klieg: {said}" in ran.err
