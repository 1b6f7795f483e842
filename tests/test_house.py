"""The house rules, read off the source: who imports whom, how long things are, and what is never done."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tidy

ROOT = Path(__file__).parents[1]
HOUSE = ROOT / "src" / "klieg"
FILES = {str(path.relative_to(HOUSE)): path for path in sorted(HOUSE.rglob("*.py"))}

# A room may import rooms before it, and never one behind it. The trace has files for its nouns: on disk it is a tracefile.
ORDER = ["chinese", "errors", "device", "config", "library", "half", "dropout", "likeliest", "atomic", "attention",
         "patterns", "tiles", "survey", "kernels", "ranks", "bench", "cache", "layers", "labels", "checkpoint",
         "tokenizers", "decoders", "encoders", "seq2seq", "models", "foreign", "generate", "beam", "loss", "translate",
         "evaluate", "data", "download", "recipe", "segments", "parallel", "encoded", "bitexts", "rows", "masked", "pairs",
         "ahead", "graphs", "utilization", "train", "estimate", "trace", "watch", "whatif", "analysis", "export", "views",
         "labs", "explorer", "reading", "tongue", "shell", "commands", "cli"]
SAME = {**dict.fromkeys(("blocks", "cell", "certificate", "pool", "tracefile"), "trace"), "watching": "watch",
        "changes": "whatif", "reruns": "whatif", "rules": "attention"}

# The narrow places: these see nothing of the house but what stands here.
ONLY = {
    "chinese": set(),
    "errors": {"chinese"},
    "attention": set(),
    "trace": {"errors", "device", "atomic", "attention", "tiles", "survey", "kernels", "labels", "checkpoint"},
    "views": {"errors", "atomic", "attention", "survey", "trace"},
}
# A notebook asks the trace itself for its picture: the one import that looks up, inside the method that needs it.
UPWARDS = {("trace", "views")}

TREES = {name: ast.parse(path.read_text("utf-8")) for name, path in FILES.items()}


def room(name: str) -> str:
    """The room of a file or module: kernels/dense.py and klieg.kernels.dense are both in kernels."""
    first = name.removeprefix("klieg.").replace("/", ".").removesuffix(".py").split(".")[0]
    return SAME.get(first, first)


def imports(name: str) -> list[tuple[str, bool]]:
    """(room, whether inside a function) for each import of the house in a file."""
    tree = TREES[name]
    inside = {id(node) for function in ast.walk(tree) if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
              for node in ast.walk(function)}
    found = []
    for node in ast.walk(tree):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names if alias.name.split(".")[0] == "klieg"]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno}: imports are absolute"
            if node.module == "klieg":
                modules = [f"klieg.{alias.name}" for alias in node.names]
            elif (node.module or "").startswith("klieg."):
                modules = [node.module]
        found += [(room(module), id(node) in inside) for module in modules]
    return found


@pytest.mark.parametrize("name", [name for name in FILES if name not in ("__init__.py", "__main__.py")])
def test_imports_go_one_way(name: str) -> None:
    here = room(name)
    assert here in ORDER, f"{name}: give the new room its place in ORDER"
    for other, inside in imports(name):
        if other == here or (inside and (here, other) in UPWARDS):
            continue
        assert other in ORDER, f"{name} imports {other}, which has no place in ORDER"
        assert ORDER.index(other) < ORDER.index(here), f"{name} imports {other}, which stands behind it"
        seen = ONLY.get(here)
        assert seen is None or other in seen, f"{name} imports {other}; {here} may only see {sorted(seen)}"


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_explained_and_short(name: str) -> None:
    text = FILES[name].read_text("utf-8")
    assert (ast.get_docstring(TREES[name]) or "").strip(), f"{name} has no docstring"
    limit = 150 if name == "attention.py" else 400
    assert len(text.splitlines()) <= limit, f"{name} has more than {limit} lines"
    assert Path(name).stem not in ("utils", "util", "helpers", "common", "misc")


@pytest.mark.parametrize("name", FILES)
def test_a_function_fits_a_screen_and_is_typed(name: str) -> None:
    for node in ast.walk(TREES[name]):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        where = f"{name}:{node.lineno} {node.name}"
        assert node.end_lineno - node.lineno < 60, f"{where} is longer than 60 lines"
        given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        bare = [a.arg for a in given if a.annotation is None and a.arg not in ("self", "cls", "ctx")]
        assert not bare and node.returns is not None, f"{where} lacks type hints: {bare or 'return'}"


PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
UNSAFE = {"torch.load", "torch.hub.load", "yaml.load", "yaml.unsafe_load"}


@pytest.mark.parametrize("name", FILES)
def test_loading_never_runs_code(name: str) -> None:
    for node in ast.walk(TREES[name]):
        where = f"{name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            assert not PICKLES & {module.split(".")[0] for module in modules}, f"{where} imports a pickle"
        if isinstance(node, ast.Attribute):
            assert ast.unparse(node) not in UNSAFE, f"{where} runs what it loads"
        if isinstance(node, ast.keyword):
            assert node.arg not in ("trust_remote_code", "allow_pickle", "weights_only"), f"{where} sets {node.arg}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("eval", "exec", "__import__"), f"{where} runs a text as code"


def test_the_rules_above_can_be_broken() -> None:
    """The tests of this file look at something: a house with every fault is refused by each of them."""
    bad = ("from klieg import cli\nimport pickle\ndef f(x):\n    import klieg.explorer\n" + "    x += 1\n" * 60
           + "    return torch.load(x, trust_remote_code=True)\n")
    TREES["views/bad.py"] = ast.parse(bad)
    FILES["views/bad.py"] = Path(__file__)
    try:
        assert imports("views/bad.py") == [("cli", False), ("explorer", True)]
        for rule in (test_imports_go_one_way, test_a_function_fits_a_screen_and_is_typed, test_loading_never_runs_code,
                     test_a_file_is_explained_and_short):
            with pytest.raises(AssertionError):
                rule("views/bad.py")
    finally:
        del TREES["views/bad.py"], FILES["views/bad.py"]


OTHERS = {str(path.relative_to(ROOT)): path for folder in ("native", "web/src", "benchmarks", "docs", "tests")
          for path in sorted((ROOT / folder).rglob("*")) if path.suffix in (".cpp", ".h", ".ts", ".svelte", ".css", ".py")}
COMMENT = {".py": '"""', ".css": "/*"}


@pytest.mark.parametrize("name", OTHERS)
def test_the_page_the_kernels_and_the_tests_are_explained_and_short_too(name: str) -> None:
    """Components say what they are below their first tag; what a test is about stands in its name."""
    lines, comment = OTHERS[name].read_text("utf-8").splitlines(), COMMENT.get(OTHERS[name].suffix, "//")
    first = lines[:12] if name.endswith(".svelte") else lines[:1]
    test = name.endswith(".test.ts") or Path(name).name.startswith("test_")
    assert test or any(line.lstrip().startswith(comment) for line in first), f"{name} is not explained"
    assert len(lines) <= 400, f"{name} has more than 400 lines"


def test_what_a_test_leaves_in_the_working_tree_fails_it(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/tidy.py").write_text(Path(tidy.__file__).read_text("utf-8"), "utf-8")
    (tmp_path / "tests/test_some.py").write_text("""
from pathlib import Path
from tidy import nothing_is_left_behind
root = Path(__file__).parents[1]
def test_tidy(tmp_path): (tmp_path / "f.json").touch()
def test_hidden(): (root / ".cache").touch()
def test_untidy(): (root / "f.json").touch()
def test_untidy_among_the_tests(): (root / "tests/g").mkdir()
""", "utf-8")
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:hypothesispytest",
                           "-c", os.devnull, "--rootdir", tmp_path, tmp_path / "tests"], capture_output=True, text=True,
                          timeout=60, cwd=tmp_path)
    assert "4 passed, 2 errors" in done.stdout, done.stdout
    assert all(f"a test has left {name} in the working tree" in done.stdout for name in ("f.json", "tests/g"))


def test_exported_names_are_sorted_and_complete() -> None:
    import klieg

    assert klieg.__all__ == sorted(set(klieg.__all__))
    for name in klieg.__all__:
        assert getattr(klieg, name) is not None
    bound: set[str] = set()
    for node in TREES["__init__.py"].body:
        if isinstance(node, ast.Import | ast.ImportFrom) and getattr(node, "module", "") != "__future__":
            bound |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            bound.add(node.name)
    public = {name for name in bound if not name.startswith("_")}
    assert public - {"TYPE_CHECKING", "import_module"} <= set(klieg.__all__)


def test_importing_klieg_loads_nothing_heavy_or_optional() -> None:
    heavy = {"transformers", "fastapi", "uvicorn", "PIL", "matplotlib", "huggingface_hub", "yaml", "rich", "typer"}
    code = f"import sys, klieg; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60,
                          env={"PYTHONPATH": str(HOUSE.parent), "PATH": ""})
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
