"""klieg map, heads and zoom: what they write and show, and one line for every mistake, with nothing half written."""

from __future__ import annotations

import errno
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from test_cli import here, refused, run  # noqa: F401
from test_foreign import saved

import klieg
from klieg import reading, shell
from klieg.trace import Trace
from klieg.views.glyphs import width
from klieg.views.statistics import STATISTICS

BOOK = "I love you and the cat loves the moon. "


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("models") / "llama", "llama")


@pytest.fixture
def book(here: Path) -> Path:  # noqa: F811
    """A text of fewer tokens than the model has positions."""
    path = here / "book.txt"
    path.write_text(BOOK * 2, "utf-8")
    return path


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, llama: Path) -> Path:
    """A trace that klieg map wrote."""
    folder = tmp_path_factory.mktemp("kept")
    (folder / "book.txt").write_text(BOOK * 2, "utf-8")
    ran = run("map", folder / "book.txt", "--model", llama, "-o", folder / "map.klieg", "--map", "8")
    assert ran.status == 0, ran.err
    return folder / "map.klieg"


def dense(folder: Path, text: str) -> tuple[list[int], tuple[torch.Tensor, ...]]:
    """The ids and the weights of every layer (1, h, i, j) by transformers in eager mode and float64."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ids = AutoTokenizer.from_pretrained(folder)(text).input_ids
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float64)
    return ids, model(torch.tensor([ids]), output_attentions=True).attentions


# ---- klieg map ----

def test_a_long_text_has_a_finer_map(book: Path, llama: Path, monkeypatch) -> None:
    assert [reading.buckets(n) for n in (1, 32_768, 32_769, 100_003, 131_072, 10**6)] == [256, 256, 257, 782, 1024, 1024]
    monkeypatch.setattr(reading, "FEWEST", 3)
    monkeypatch.setattr(reading, "TOKENS", 10)
    assert run("map", book, "--model", llama, "-o", "map.klieg").status == 0
    call = Trace.load(Path("map.klieg")).calls[0]
    assert call.survey.map_mean.shape[2:] == (-(-call.queries // 10), -(-call.keys // 10))


def test_map_writes_a_trace_of_the_models_own_weights(book: Path, llama: Path) -> None:
    ran = run("map", book, "--model", llama, "-o", "map.klieg", "--top", "4", "--map", "8")
    assert ran.status == 0, ran.err
    found, (ids, maps) = Trace.load("map.klieg"), dense(llama, BOOK * 2)
    assert found.ids == ids and found.text == BOOK * 2 and found.certificate.passed
    for layer, whole in enumerate(maps):
        call = found[layer]
        assert call.survey.map_mean.shape[2:] == (8, 8) and call.survey.top_keys.shape[3] == 4
        for head in range(4):
            torch.testing.assert_close(call.weights(head).double(), whole[0, head], rtol=0, atol=1e-5)
        torch.testing.assert_close(call.survey.received.double(), whole.sum(2), rtol=1e-4, atol=1e-5)
    assert "tokens · 2 layers × 4 heads · 2 K/V groups\n" in ran.err
    assert re.search(r"keeps the surveys, about [\d.]+ KB, and q and k of all layers, about [\d.]+ KB, in map.klieg\n", ran.err)
    assert ran.err.endswith("wrote map.klieg\n")
    assert "✓ exact" in ran.text and "klieg heads map.klieg" in ran.text and "strongest links" in ran.text
    command = re.search(r"klieg (zoom map\.klieg .*)", ran.text)[1].split()
    assert run(*command).status == 0


def test_what_it_says_next_is_in_chinese_too(book: Path, llama: Path) -> None:
    ran = run("map", book, "--model", llama, "-o", "map.klieg", "--keep", "0", "--lang", "zh", COLUMNS="60")
    assert "看得最远的头" in ran.text and "最强的链接" in ran.text and "每个头：klieg heads map.klieg" in ran.text
    assert "已核对全部 8 个头" in ran.text
    first, second = ran.err.splitlines()[:2]
    assert re.fullmatch(r"[\d,]+ 个词元 · 2 层 × \d+ 头 · \d+ 个键值组", first)
    assert re.fullmatch(r"保留统计（约 .+）以及第 0 层的 q 和 k（约 .+），存入 map\.klieg", second)


def test_a_bundled_model_is_traced_whole(book: Path) -> None:
    ran = run("map", book, "-o", "map.klieg")
    assert ran.status == 0, ran.err
    found = Trace.load("map.klieg")
    assert found.model == "chat" and found[0].v is not None and found[0].survey is not None
    assert run("map", book, "-o", "map.klieg", "--tokens", "5").status == 0
    assert len(Trace.load("map.klieg").tokens) == 5


@pytest.mark.parametrize(("keep", "layers"), [("none", set()), ("1", {1}), ("0,1", {0, 1}), ("all", {0, 1})])
def test_q_and_k_are_kept_for_the_layers_asked_for(keep: str, layers: set[int], book: Path, llama: Path) -> None:
    ran = run("map", book, "--model", llama, "-o", "map.klieg", "--keep", keep, "--map", "8")
    found = Trace.load("map.klieg")
    assert {call.layer for call in found.calls if call.q is not None} == layers and len(found.calls) == 2
    assert ("zoom map.klieg" in ran.text) and run("heads", "map.klieg").status == 0
    assert "were not kept" not in ran.err
    if 0 not in layers:
        refused(run("zoom", "map.klieg", "0.0", "--rows", "3:9"), r"q and k were not kept.*--keep 0")


def test_some_layers_and_some_tokens(book: Path, llama: Path) -> None:
    assert run("map", book, "--model", llama, "-o", "map.klieg", "--layers", "1", "--tokens", "7").status == 0
    found = Trace.load("map.klieg")
    assert [call.layer for call in found.calls] == [1] and len(found.tokens) == 7
    refused(run("zoom", "map.klieg", "0.0"), "no layer 0; the model has layers 1")


@pytest.mark.parametrize(("model", "most"), [("chat", 512), ("llama", 40)])
def test_what_is_offered_for_a_text_that_is_too_long_is_there(model: str, most: int, here: Path, llama: Path) -> None:  # noqa: F811
    argv = ["--model", llama if model == "llama" else model, "-o", "map.klieg", "--map", "8"]
    refused(run("map", "-", *argv, said=BOOK * 60), rf"shorten it, or take its first tokens only with --tokens {most}\.$")
    assert run("map", "-", *argv, "--tokens", str(most), said=BOOK * 60).status == 0
    assert len(Trace.load("map.klieg").tokens) == most
    refused(run("heads", argv[1], "-", said=BOOK * 60), r"shorten it\.$")


def test_a_translator_is_traced_where_it_is_told_the_language(here: Path) -> None:  # noqa: F811
    for argv in (["map", "-", "--model", "translate", "-o", "map.klieg"], ["heads", "translate", "-"]):
        refused(run(*argv, said="I love you"), r"explain TEXT --model translate --to zh --save FILE\.klieg")
    assert run("explain", "I love you", "--model", "translate", "--to", "zh", "--save", "love.klieg").status == 0
    lines = run("heads", "love.klieg", COLUMNS="100").text.splitlines()
    assert len(next(line for line in lines if "cross" in line).split()) == 5 + 4


def test_standard_input_is_a_text_too(here: Path, llama: Path) -> None:  # noqa: F811
    assert run("map", "-", "--model", llama, "-o", "map.klieg", said=BOOK).status == 0
    assert Trace.load("map.klieg").text == BOOK


def test_q_and_k_that_take_much_of_the_memory_go_beside_the_trace(book: Path, llama: Path, here: Path) -> None:  # noqa: F811
    with patch.object(reading, "free_memory", return_value=0):
        ran = run("map", book, "--model", llama, "-o", "map.klieg")
    assert ran.status == 0 and {p.name for p in here.iterdir()} == {"book.txt", "map.klieg"}
    assert Trace.load("map.klieg")[0].q is not None


def test_what_there_was_no_memory_for_is_said(book: Path, llama: Path) -> None:
    with patch("klieg.watching.store.free_memory", return_value=0):
        ran = run("map", book, "--model", llama, "-o", "map.klieg", "--map", "8")
    assert ran.status == 0 and "q and k of layer 0 were not kept: " in ran.err and "were not kept" not in ran.text
    assert Trace.load("map.klieg")[0].q is None and "klieg zoom map.klieg" in ran.text


@pytest.mark.parametrize(("argv", "said"), [
    (["absent.txt"], r"no text in 'absent.txt' \(no such file\)"), (["."], r"no text in '.' \(is a directory\)"),
    (["binary.txt"], "binary.txt is not UTF-8 at byte 1"), (["empty.txt"], "the text is empty"),
    (["blank.txt"], "only white space"), (["long.txt"], "positions for 40 tokens.*--tokens 40"),
    (["book.txt", "--model", "chta"], "Did you mean 'chat'"), (["book.txt", "--model", "."], "config.json is missing"),
    (["book.txt", "--layers", "0,x"], "--layers is '0,x'.*for example 0,5"), (["book.txt", "--layers", "9"], "names layer 9"),
    (["book.txt", "--keep", "some"], "--keep is 'some'.*all, none, or layers"),
    (["book.txt", "--keep", "7"], "--keep names layer 7"),
    (["book.txt", "--lang", "de"], "en, zh"), (["book.txt", "-o", "-"], "--out writes a file"),
    (["book.txt", "-o", "."], "is a folder"), (["book.txt", "-o", "none/map.klieg"], "make its folder first"),
    (["book.txt", "-o", "book.txt/map.klieg"], "cannot be written"),
    (["book.txt", "--model", "chat", "--keep", "0"], "comes with Klieg and is traced whole"),
    (["book.txt", "--model", "chat", "--layers", "0"], "traced whole"),
])
def test_a_mistake_is_one_line_and_writes_nothing(argv: list[str], said: str, book: Path, here: Path, llama: Path) -> None:  # noqa: F811
    (here / "binary.txt").write_bytes(b"a\xff\x00")
    (here / "empty.txt").write_bytes(b"")
    (here / "blank.txt").write_bytes(b" \n ")
    (here / "long.txt").write_text("the " * 60)
    before = sorted(here.iterdir())
    argv = argv if "--model" in argv else [*argv, "--model", str(llama)]
    refused(run("map", *argv, *([] if "-o" in argv else ["-o", "map.klieg"])), said)
    assert sorted(here.iterdir()) == before


def test_a_disk_that_is_too_small_is_known_before(book: Path, llama: Path, here: Path) -> None:  # noqa: F811
    with patch("shutil.disk_usage", return_value=SimpleNamespace(free=1000)):
        ran = run("map", book, "--model", llama, "-o", "map.klieg")
    assert ran.status == 1 and "needs about" in ran.err and "1.0 KB are free there" in ran.err
    assert {p.name for p in here.iterdir()} == {"book.txt"}


def test_a_disk_that_fills_leaves_what_was_there(book: Path, llama: Path, here: Path) -> None:  # noqa: F811
    (here / "map.klieg").write_text("old")
    with patch("klieg.tracefile._safetensors", side_effect=OSError(errno.ENOSPC, "No space left on device")):
        ran = run("map", book, "--model", llama, "-o", "map.klieg")
    assert ran.status == 1 and "free some space" in ran.err and (here / "map.klieg").read_text() == "old"
    assert {p.name for p in here.iterdir()} == {"book.txt", "map.klieg"}


def test_a_very_long_text_is_refused_before_it_is_read(book: Path, llama: Path) -> None:
    with patch.object(shell, "MOST_TEXT", 10):
        refused(run("map", book, "--model", llama, "-o", "map.klieg"), "holds more than 10 bytes")


# ---- klieg heads ----

def test_heads_of_a_trace_are_those_of_the_map(kept: Path, llama: Path) -> None:
    said = json.loads(run("heads", kept, "--json", "-").out)
    _, maps = dense(llama, BOOK * 2)
    for layer, whole in enumerate(maps):
        assert said["calls"][layer]["first"] == pytest.approx(whole[0, :, :, 0].mean(1).tolist(), abs=1e-5)
        assert said["calls"][layer]["sharpest"] == pytest.approx(whole[0].amax(-1).mean(1).tolist(), abs=1e-5)
    table = run("heads", kept, terminal=True)
    assert all(name in table.text for name in STATISTICS) and "\x1b[" in table.text
    grid = run("heads", kept, "--by", "first")
    assert f"{said['calls'][1]['first'][3]:.2f}" in grid.text and "K/V group 1" in grid.text


@pytest.mark.parametrize("language", ["en", "zh"])
def test_eighty_columns_hold_a_line_for_every_head(kept: Path, language: str) -> None:
    lines = run("heads", kept, "--lang", language, COLUMNS="80").text.splitlines()
    found = Trace.load(kept)
    assert len(lines) == 2 + sum(call.heads for call in found.calls) and max(map(width, lines)) <= 80
    wide = run("heads", kept, "--lang", language, COLUMNS="200").text.splitlines()
    assert [line.rstrip() for line in lines] == [line.rstrip() for line in wide]


def test_heads_of_a_model_that_reads_a_text(llama: Path, kept: Path) -> None:
    ran = run("heads", llama, BOOK * 2, "--json", "-")
    assert ran.err == ""
    alone, stored = json.loads(ran.out), json.loads(run("heads", kept, "--json", "-").out)
    assert alone["calls"][0]["entropy"] == pytest.approx(stored["calls"][0]["entropy"], rel=1e-6)
    assert json.loads(run("heads", "chat", "-", "--json", "-", said="I love you").out)["tokens"] == 4


def test_heads_of_what_explain_saved(here: Path) -> None:  # noqa: F811
    klieg.trace("chat", "I love you").save("love.klieg")
    assert "layer 5" in run("heads", "love.klieg", "--by", "own").text


@pytest.mark.parametrize("command", [["heads", "{}"], ["heads", "{}", "--by", "own"], ["zoom", "{}", "1.2"]])
def test_pictures_are_written(command: list[str], kept: Path, here: Path) -> None:  # noqa: F811
    argv = [part.format(kept) for part in command]
    ran = run(*argv, "--svg", "a.svg", "--png", "a.png", "--dark")
    assert (ran.status, ran.out, ran.err) == (0, b"", "wrote a.svg\nwrote a.png\n")
    ElementTree.parse("a.svg")
    assert Path("a.png").read_bytes()[:4] == b"\x89PNG"
    assert run(*argv, "--svg", "-").out.startswith(b"<svg")
    refused(run(*argv, "--svg", "-", "--json", "-"), "--json - and --svg - would run together")


# ---- klieg zoom ----

def test_zoom_gives_the_weights_of_the_model(kept: Path, llama: Path) -> None:
    said = json.loads(run("zoom", kept, "1.2", "--rows", "3:9", "--keys", "0:7", "--json", "-").out)
    _, maps = dense(llama, BOOK * 2)
    exact = maps[1][0, 2, 3:9, 0:7]
    torch.testing.assert_close(torch.tensor(said["max"], dtype=torch.float64), exact, rtol=0, atol=1e-5)
    halves = json.loads(run("zoom", kept, "1.2", "--rows", "3:9", "--keys", "0:6", "--size", "2", "--json", "-").out)
    means = exact[:, :6].unflatten(0, (2, 3)).unflatten(2, (2, 3)).mean((1, 3))
    torch.testing.assert_close(torch.tensor(halves["mean"], dtype=torch.float64), means, rtol=0, atol=1e-5)
    shown = run("zoom", kept, "1.2", "--rows", "3:9", "--keys", "0:7")
    assert "each cell one weight" in shown.text and "strongest links" in shown.text
    assert "mean weight" in run("zoom", kept, "0.0", "--size", "4", "--mean", "--scale", "linear").text


@pytest.mark.parametrize(("argv", "said"), [
    (["heads", "absent.klieg"], "no trace 'absent.klieg'; if it is a model, give a text"),
    (["heads", "{kept}", "I love you"], "is a trace and has its own text"), (["heads", "{kept}", "--by", "colour"], "--by is"),
    (["heads", "junk.klieg"], "not a whole trace"), (["heads", "{llama}", ""], "empty"), (["heads", "chta", "hi"], "chat"),
    (["heads", "{kept}", "--lang", "de"], "en, zh"),
    (["zoom", "absent.klieg", "0.0"], "no trace"), (["zoom", "junk.klieg", "0.0"], "not a whole trace"),
    (["zoom", "{kept}", "0"], "must be LAYER.HEAD"), (["zoom", "{kept}", "0.x"], "must be LAYER.HEAD"),
    (["zoom", "{kept}", "9.0"], "no layer 9"), (["zoom", "{kept}", "0.9"], "no head 9"),
    (["zoom", "{kept}", "0.0", "--rows", "5"], "FROM:TO"), (["zoom", "{kept}", "0.0", "--rows", "9:5"], "no rows 9:5"),
    (["zoom", "{kept}", "0.0", "--keys", "0:999"], "no keys 0:999; layer 0 has keys 0:"),
    (["zoom", "{kept}", "0.0", "--scale", "no-first"], "log, linear"),
    (["zoom", "{kept}", "0.0", "--kind", "cross"], "no attention of kind 'cross'"),
])
def test_other_mistakes_are_one_line_too(argv: list[str], said: str, kept: Path, llama: Path, here: Path) -> None:  # noqa: F811
    Path("junk.klieg").write_bytes(b"PK junk")
    refused(run(*(part.format(kept=kept, llama=llama) for part in argv)), said)
    assert {p.name for p in here.iterdir()} == {"junk.klieg"}
