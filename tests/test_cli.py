"""The command line: what each command gives. What mistakes give is in test_cli_mistakes.py."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
import xml.etree.ElementTree as ElementTree
from base64 import b64decode
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import typer
from messages import unpacked
from test_encoders import BERT
from test_models import LLAMA, lively
from test_train import write_recipe

import klieg
from klieg import cli, download, models
from klieg.errors import KliegError
from klieg.tokenizers import train

CHINESE = "小沈阳江西演唱会邀请了，"
COMMANDS = ("explain", "map", "heads", "zoom", "atlas", "ablate", "whatif", "flow", "sparse", "coref", "grammar", "lab",
            "translate", "evaluate", "align", "generate", "chat", "fill", "export", "train", "data", "models", "serve")


class Terminal(io.TextIOWrapper):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@dataclass(frozen=True)
class Ran:
    """What a command left: its status, standard output, standard error."""

    status: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode("utf-8")


def run(*argv: str, said: str | bytes = b"", terminal: bool = False, **environment: str) -> Ran:
    """The command line in this process; whatever is not shown to a user as one line is raised."""
    kind = Terminal if terminal else io.TextIOWrapper
    said = said.encode() if isinstance(said, str) else said
    stdin, out, err = (kind(io.BytesIO(said if n == 0 else b""), "utf-8", write_through=n > 0) for n in range(3))
    plain = {"COLUMNS": "120", "LC_ALL": "C.UTF-8", "TERM": "xterm-256color", "KLIEG_DATA": ""}
    with (patch.dict(os.environ, {**plain, **environment}), patch.object(sys, "argv", ["klieg", *map(str, argv)]),
          patch.object(sys, "stdin", stdin), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)):
        for name in {"NO_COLOR", "FORCE_COLOR", "COLORTERM"} - set(environment):
            os.environ.pop(name, None)
        try:
            cli.main()
            status = 0
        except SystemExit as end:
            status = end.code
    return Ran(status, out.buffer.getvalue(), err.buffer.getvalue().decode())


def refused(ran: Ran, said: str, status: int = 1) -> None:
    """One line on standard error that says what it should, and nothing on standard output."""
    assert (ran.status, ran.out) == (status, b""), ran
    assert re.fullmatch(r"klieg: [^\n]*\n", ran.err), ran.err
    assert re.search(said, ran.err), ran.err
    assert ran.err[:-1].isprintable(), ran.err


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 64 positions with random weights."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    models.save(folder, lively(LLAMA), train(iter(["I love you and the cat loves the moon. 小沈阳"] * 2), 290))
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in which the command runs."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_explained(command: str) -> None:
    help = run(command, "--help")
    assert help.status == 0 and help.err == "" and help.text.startswith(f"Usage: klieg {command}")
    known = typer.main.get_command(cli.app).commands[command]
    assert known.help
    for option in known.params:
        assert option.help, f"{command}: {option.name} has no help"
        assert (option.metavar if option.param_type_name == "argument" and option.metavar else
                max(option.opts, key=len)) in help.text
    assert known.get_short_help_str(100).rstrip(".") in " ".join(run("--help").text.split())


def test_without_a_command_there_is_help() -> None:
    assert run() == run("--help") and all(f"  {command}" in run().text for command in COMMANDS)


def test_json_has_what_it_promises_and_the_numbers_of_the_trace() -> None:
    ran = run("explain", "I love you", "--json", "-")
    said, trace = json.loads(ran.out), klieg.trace("chat", "I love you")
    assert (ran.status, ran.err) == (0, "")
    for name in ("model", "tokens", "layers", "heads", "kv_heads", "kernel"):
        assert said[name] == getattr(trace, name)
    best = trace.next_tokens(10)
    assert said["next"] == [{"token": c.token, "p": pytest.approx(c.p)} for c in best]
    assert all(0 < c["p"] < 1 for c in said["next"]) and sum(c["p"] for c in said["next"]) <= 1
    assert [c["p"] for c in said["next"]] == sorted((c["p"] for c in said["next"]), reverse=True)
    assert set(said["certificate"]) == {"row_sum_error", "output_error"} and said["certificate"]["row_sum_error"] < 1e-4
    opened = said["open"]
    assert torch.allclose(torch.tensor(opened["weights"]), trace[opened["layer"]].weights(opened["head"]), atol=1e-6)
    assert all(sum(row) == pytest.approx(1, abs=1e-5) for row in opened["weights"])
    assert all(sum(row) == pytest.approx(1, abs=1e-5) for layer in said["looks"] for row in layer)


def test_options_choose_what_is_opened(tiny: Path) -> None:
    chosen = ("--layer", "2", "--head", "4", "--token", "1")
    said = json.loads(run("explain", "I love you", "--model", tiny, "--json", "-", *chosen).out)
    assert [said["open"][name] for name in ("layer", "head", "token")] == [2, 4, 1]
    trace = klieg.trace(str(tiny), "I love you")
    assert said["next"][0]["token"] == trace.next_tokens(1, after=1)[0].token
    shown = run("explain", "I love you", "--model", tiny, "--layer", "2", "--head", "4").text
    assert "Layer 2 · head 4" in shown
    views = [run("explain", "I love you", "--model", tiny, "--scale", scale).text for scale in ("linear", "log", "no-first")]
    assert len(set(views)) == 3


def test_a_cell_has_the_numbers_of_the_trace() -> None:
    cell = klieg.trace("chat", "I love you").cell(2, 3, 3, 1)
    shown = run("explain", "I love you", "--cell", "2.3.3.1")
    assert (shown.status, shown.err) == (0, "")
    numbers = {float(number) for number in re.findall(r"-?\d+\.\d+(?:e-?\d+)?", shown.text)}
    vectors = torch.cat([cell.q, cell.k, cell.products, cell.v, cell.contribution, cell.output]).tolist()
    for value in (cell.weight, cell.dot, cell.scaled, cell.row_max, cell.row_sum, cell.share, *vectors):
        assert any(abs(value - number) <= 1e-6 * max(abs(value), 1e-3) for number in numbers), value


def test_every_export_is_written_whole_and_said(here: Path) -> None:
    ran = run("explain", CHINESE, "--json", "a.json", "--svg", "a.svg", "--html", "a.html", "--save", "a.klieg", "--dark")
    assert (ran.status, ran.out) == (0, b"")
    assert ran.err == "wrote a.json\nwrote a.svg\nwrote a.html\nwrote a.klieg\n"
    assert sorted(p.name for p in here.iterdir()) == ["a.html", "a.json", "a.klieg", "a.svg"]
    labels = klieg.trace("chat", CHINESE).tokens
    assert json.loads(Path("a.json").read_text("utf-8"))["tokens"] == labels
    assert klieg.Trace.load("a.klieg").tokens == labels
    svg = Path("a.svg").read_text("utf-8")
    assert ElementTree.fromstring(svg).tag.endswith("svg") and all(c in svg for c in CHINESE)
    page = Path("a.html").read_text("utf-8")
    inside = re.search(r'<script type="application/x-klieg" id="klieg-trace">(.*?)</script>', page)
    assert unpacked(b64decode(inside[1]))[0]["tokens"] == labels and page.rstrip().endswith("</html>")
    assert not re.search(r"""(src|href)=["']?https?:""", page)
    screen = run("explain", CHINESE)
    assert screen.status == 0 and all(c in screen.text for c in CHINESE)
    again = run("explain", CHINESE, "--svg", "-")
    assert again.out.startswith(b"<svg") and again.err == ""


def test_a_png_of_chinese_is_drawn_or_the_font_is_named(here: Path) -> None:
    from PIL import Image

    from klieg.views import fonts

    ran = run("explain", CHINESE, "--png", "a.png")
    try:
        fonts.choose("沈", False)
    except KliegError:
        refused(ran, "CJK font")
        assert not list(here.iterdir())
    else:
        assert (ran.status, ran.err) == (0, "wrote a.png\n")
        with Image.open("a.png") as picture:
            picture.load()
            assert picture.format == "PNG" and min(picture.size) > 200 and len(set(picture.convert("L").tobytes())) > 20


@pytest.mark.parametrize("text", ["Grüße, Straße, Öl", "a 👩‍👩‍👧 b 🇩🇪", "مرحبا بالعالم", "שלום", "e\u0301\u0323 d\u0307",
                                  "<script>alert(1)</script>", "tab\tline\nnull\0", "\u202eabc", CHINESE])
def test_every_writing_can_be_shown(text: str, here: Path) -> None:
    ran = run("explain", "-", "--json", "a.json", "--svg", "a.svg", "--html", "a.html", said=text)
    assert ran.status == 0, ran.err
    said = json.loads(Path("a.json").read_text("utf-8"))
    assert said["text"] == text and said["tokens"] == klieg.trace("chat", text).tokens
    ElementTree.parse("a.svg")
    assert "<script>alert" not in Path("a.html").read_text("utf-8") + Path("a.svg").read_text("utf-8")
    screen = run("explain", "-", said=text, terminal=True)
    assert screen.status == 0 and not re.search("[\0\x07\t\u202e]", screen.text)


def test_languages(tiny: Path) -> None:
    english = run("explain", "hi", "--model", tiny)
    for chinese in (run("explain", "hi", "--model", tiny, "--lang", "zh"),
                    run("explain", "hi", "--model", tiny, LC_ALL="zh_CN.UTF-8")):
        assert "词元" in chinese.text and "Tokens" not in chinese.text
    assert "Tokens" in english.text and "词元" not in english.text
    assert run("explain", "hi", "--model", tiny, "--lang", "en", LC_ALL="zh_CN.UTF-8") == english
    assert "键" in run("explain", "hi", "--model", tiny, "--cell", "0.0.1.0", "--lang", "zh").text
    assert run("chat", "--model", tiny, "--lang", "zh", terminal=True).err.startswith("开始聊天")


def test_colours_are_for_terminals_that_have_them(tiny: Path) -> None:
    argv = ("explain", "I love you", "--model", str(tiny))
    colour = re.compile("\x1b\\[[0-9;]*[34]8;")
    plain = run(*argv, COLUMNS="80").text
    assert "\x1b" not in plain
    assert colour.search(run(*argv, terminal=True, COLORTERM="truecolor").text)
    assert not colour.search(run(*argv, terminal=True, NO_COLOR="1").text)
    dumb = run(*argv, terminal=True, TERM="dumb", COLUMNS="80").text
    assert "\x1b" not in dumb and dumb.split() == plain.split()


def test_a_terminal_that_lacks_letters_gets_question_marks(tiny: Path) -> None:
    out = io.TextIOWrapper(io.BytesIO(), "ascii")
    with patch.object(sys, "argv", ["klieg", "explain", "小", "--model", str(tiny)]), contextlib.redirect_stdout(out):
        cli.main()
    assert b"?" in out.buffer.getvalue()


def test_generate_repeats_with_a_seed(tiny: Path) -> None:
    texts = [run("generate", "the cat", "--model", tiny, "--tokens", "30", "--seed", seed) for seed in ("7", "7", "8")]
    assert texts[0] == texts[1] != texts[2]
    for ran in texts:
        assert (ran.status, ran.err) == (0, "") and ran.text.startswith("the cat") and ran.text.endswith("\n")
    likeliest = [run("generate", "the cat", "--model", tiny, "--temperature", "0", "--tokens", count) for count in ("5", "9")]
    assert likeliest[1].text.startswith(likeliest[0].text.removesuffix("\n"))
    assert run("generate", "-", "--model", tiny, "--seed", "7", "--tokens", "30", said="the cat\n") == texts[0]
    assert run("generate", "the cat", "--model", tiny, "--top-k", "1", "--tokens", "5").text == likeliest[0].text


def test_chat_answers_every_line_and_ends_with_the_input(tiny: Path) -> None:
    ran = run("chat", "--seed", "1", said="hello\nhow are you?\n")
    assert (ran.status, ran.err) == (0, "") and ran.text.count("\n") == 2
    assert run("chat", "--seed", "1", said="hello\nhow are you?\n") == ran
    assert run("chat", "--seed", "1", said="hello\n\nnever read\n").text == ran.text.split("\n")[0] + "\n"
    assert run("chat", "--model", tiny) == Ran(0, b"", "")
    assert run("chat", "--model", tiny, "--seed", str(2**63 - 1), said="hello\n").status == 0      # every seed that there is
    assert run("chat", "--model", tiny, said="a\n" * 20).text.count("\n") >= 20  # more turns than the model has room for


def test_models_lists_what_is_there() -> None:
    ran = run("models", COLUMNS="60")
    assert (ran.status, ran.err) == (0, "")
    for name in models.bundled():
        model, _ = klieg.load(name)
        row = next(line for line in ran.text.splitlines() if line.startswith(f"{name} "))
        shape = [model.layers, model.heads, model.kv_heads, model.positions]
        assert row.split()[1:6] == [model.config.model_type, *map(str, shape)]
        assert row.rstrip().endswith(f" {models.find(name)}")


def test_tables_and_lines_speak_chinese(tiny: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed, english = ([line.split() for line in run("models", "--lang", tongue).text.splitlines()] for tongue in ("zh", "en"))
    assert listed[0] == ["名字", "结构", "层", "头", "键值头", "位置数", "参数量", "文件夹"] and listed[1:] == english[1:] != []
    models.save(here / "bert", models.build(BERT), train(iter(["the cat sat on the mat"]), 270, marks=["[MASK]"]))
    filled = run("fill", "the [MASK] sat", "--model", "bert", LC_ALL="zh_CN.UTF-8")
    assert filled.status == 0 and filled.text.split()[:4] == ["空", "候选", "概率", "0"]
    assert run("explain", "hi", "--model", tiny, "--json", "a.json", "--save", "a.klieg", "--lang", "zh").err == (
        "已写入 a.json\n已写入 a.klieg\n")
    exported = run("export", "--to", "gguf", "--model", tiny, "--out", "gguf", "--lang", "zh")
    assert exported.status == 0 and re.fullmatch("llama.cpp 没有.*'gpt-2'.*\n已写入 gguf\n", exported.err)
    monkeypatch.setattr(download, "download", lambda name, out, step: out / name)
    fetched = run("data", "multi30k", "--lang", "zh")
    assert fetched.err == "文本在 texts/multi30k；训练时这样指明：klieg train 配方 --data texts\n"
    assert run("data", "multi30k").err == "the texts are in texts/multi30k; name them by: klieg train RECIPE --data texts\n"


def test_train_then_explain_what_was_trained(here: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, steps=4)
    ran = run("train", recipe, "--out", "run [1]", "--threads", "1")
    assert (ran.status, ran.out) == (0, b"")
    assert "step 4: validation loss" in ran.err and "--model run [1]/model" in ran.err
    assert {p.name for p in Path("run [1]").iterdir()} == {"loss.csv", "loss.png", "model", "state-00000004.safetensors",
                                                           "tokenizer.json", "tokenizer_config.json", "tokenizer-made-of.json"}
    said = json.loads(run("explain", "the cat", "--model", "run [1]/model", "--json", "-").out)
    assert (said["layers"], said["heads"], said["kv_heads"]) == (2, 4, 2)
    again = run("train", recipe, "--out", "run [1]")
    assert again.status == 0 and "going on from step 4" in again.err
    other = run("train", write_recipe(tmp_path, steps=5, batch=2), "--out", "run [1]")
    assert other.status == 1 and other.err.splitlines()[-1].startswith("klieg: run [1] holds a run of another recipe")


def test_training_stops_after_some_minutes_and_says_how_to_go_on(here: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, steps=2)
    assert "共 2 步，停在第 0 步" in run("train", recipe, "--out", "zh", "--minutes", "0", "--lang", "zh").err
    prepared = run("train", recipe, "--out", "run", "--minutes", "0")
    assert prepared.status == 0 and "stopped at step 0 of 2; the same command goes on" in prepared.err
    assert "the model is in" not in prepared.err and not Path("run/model").exists()
    ran = run("train", recipe, "--out", "run", "--minutes", "100")
    assert ran.status == 0 and "stopped" not in ran.err and "the model is in run/model" in ran.err


def test_a_run_that_ends_before_its_last_step_says_why(here: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, patience=2, learning_rate=1e-9, final_learning_rate=1e-9, steps=40, validate_every=1)
    ran = run("train", recipe, "--out", "run", "--threads", "1")
    said = "ended at step [23] of 40: the last 2 looks at the held-out texts were no better"
    assert ran.status == 0 and re.search(f"^{said}$", ran.err, re.MULTILINE)


def test_training_goes_on_without_a_font_for_the_curve(here: Path, tmp_path: Path) -> None:
    with patch("klieg.views.png.lower", side_effect=KliegError("this machine has no font.")):
        ran = run("train", write_recipe(tmp_path, steps=1), "--out", "run")
    assert ran.status == 0 and "no picture of the loss: this machine has no font." in ran.err
    assert not Path("run/loss.png").exists() and Path("run/model/model.safetensors").exists()
