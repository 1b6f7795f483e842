"""klieg atlas: what it writes and shows, how it goes on, and one line for every mistake, with what was read kept."""

from __future__ import annotations

import csv
import errno
import gzip
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from test_cli import here, refused, run, tiny  # noqa: F401

from klieg.analysis.atlas import SCORES, Atlas
from klieg.analysis.behaviour import UNITS
from klieg.parallel import ALONE

TEXT = "I love you and the cat loves the moon. The moon and the cat love you, and you love the moon. "


@pytest.fixture
def corpus(here: Path) -> Path:  # noqa: F811
    """Documents of one to nine sentences."""
    path = here / "corpus.txt"
    path.write_text("\n\n".join(TEXT * n for n in range(1, 10)), "utf-8")
    return path


def atlas(folder: str = "out") -> Atlas:
    return Atlas.load(Path(folder) / "atlas.safetensors")


def test_an_atlas_is_written_and_shown(corpus: Path, tiny: Path) -> None:  # noqa: F811
    ran = run("atlas", tiny, corpus, "-o", "out")
    assert ran.status == 0, ran.err
    files = sorted(path.name for path in Path("out").iterdir())
    assert files == ["atlas.csv", "atlas.html", "atlas.safetensors", "atlas.svg"]
    found = atlas()
    assert f"{found.counts['tokens']:,} tokens in {found.counts['windows']} texts\n" in ran.err and found.whole
    assert found.window == 64
    assert "".join(f"wrote out/atlas.{kind}\n" for kind in ("csv", "svg", "html", "safetensors")) in ran.err
    lines = list(csv.DictReader(Path("out/atlas.csv").read_text("utf-8").splitlines()))
    assert {line["score"] for line in lines} == {score for score in SCORES if found.has(score)} >= {"induction", "entropy"}
    svg = Path("out/atlas.svg").read_text("utf-8")
    assert ElementTree.fromstring(svg).tag.endswith("svg") and "Induction" in svg
    shown = [line.split() for line in ran.text.splitlines()]
    best = found.table("induction")[:3]
    start = next(n for n, words in enumerate(shown) if words[0] == "induction")
    rows = [shown[start][1:], shown[start + 1], shown[start + 2]]
    for words, line in zip(rows, best, strict=True):
        assert words == [f"{line.layer}.{line.head}", f"{line.mean:.3f}", f"{line.low:.3f}", "…", f"{line.high:.3f}",
                         f"{line.chance:.3f}", str(line.texts)]


def test_units_are_said(corpus: Path, tiny: Path) -> None:  # noqa: F811
    ran = run("atlas", tiny, corpus, "-o", "out")
    others = {score: unit for score, unit in UNITS.items() if unit != "share"}
    said = ", ".join(f"{score} {'is ' * (n == 0)}in {unit}" for n, (score, unit) in enumerate(others.items()))
    assert said in " ".join(ran.text.split()) and said in Path("out/atlas.html").read_text("utf-8")
    assert said in " ".join(run("atlas", "--compare", "out", "out").text.split())
    assert "奈特" in run("atlas", "--compare", "out", "out", "--by", "entropy", "--lang", "zh").text
    assert "nats" not in run("atlas", "--compare", "out", "out", "--by", "previous").text


def test_it_goes_on_and_says_when_it_is_done(corpus: Path, tiny: Path) -> None:  # noqa: F811
    first = run("atlas", tiny, corpus, "-o", "out", "--tokens", "150", "--by", "positional", "--lang", "zh")
    assert first.status == 0 and "语料还没有读完" in first.err and "指标" in first.text
    assert "距离" in Path("out/atlas.svg").read_text("utf-8") and 150 <= atlas().counts["tokens"] < 214
    assert "nothing is left to read" in run("atlas", tiny, corpus, "-o", "out", "--tokens", "150").err
    more = run("atlas", tiny, corpus, "-o", "out")
    assert "going on after 1" in more.err and atlas().whole
    again = run("atlas", tiny, corpus, "-o", "out")
    assert "nothing is left to read" in again.err and again.out == more.out
    run("atlas", tiny, corpus, "-o", "other")
    assert all(torch.equal(x, atlas("other").sums[name]) for name, x in atlas().sums.items())


def test_two_atlases_are_compared(corpus: Path, tiny: Path) -> None:  # noqa: F811
    assert run("atlas", tiny, corpus, "-o", "a", "--tokens", "300").status == 0
    corpus.write_text(TEXT.upper() * 20, "utf-8")
    assert run("atlas", tiny, corpus, "-o", "b", "--window", "32").status == 0
    ran = run("atlas", "--compare", "a", "b", COLUMNS="80")
    names, *lines = ran.text.splitlines()
    assert ran.status == 0 and names.split() == ["A:", "a", "B:", "b"] and "B - A" in lines[0]
    assert ran.err == "A was read in windows of 64 tokens and B of 32: scores depend on how long a text is\n"
    assert run("atlas", "--compare", "a", "a").err == ""
    assert [line.split() for line in lines] == [
        line.split() for line in run("atlas", "--compare", "a", "b", COLUMNS="160").text.splitlines()[1:]]
    one = run("atlas", "--compare", "a", "b", "--by", "previous", COLUMNS="80")
    rows = [line.split() for line in one.text.splitlines()[2:]]
    assert rows[0][0] == "previous" and len(rows) == 3
    layer, head = map(int, rows[0][1].split("."))
    means = [next(line.mean for line in atlas(name).table("previous") if (line.layer, line.head) == (layer, head))
             for name in "ab"]
    assert f"{means[0]:.3f}" in rows[0] and f"{means[1]:.3f}" in rows[0] and f"{means[1] - means[0]:+.3f}" in rows[0]


def test_atlases_of_two_corpora_add_up(corpus: Path, tiny: Path) -> None:  # noqa: F811
    documents = corpus.read_text("utf-8").split("\n\n")
    for name, part in (("a", documents[:4]), ("b", documents[4:]), ("both", documents)):
        Path(f"{name}.txt").write_text("\n\n".join(part), "utf-8")
        assert run("atlas", tiny, f"{name}.txt", "-o", name).status == 0
    ran = run("atlas", "--add", "a", "b", "-o", "sum")
    assert ran.status == 0, ran.err
    found, expected = atlas("sum"), atlas("both")
    assert found.counts == expected.counts and found.whole
    for name in ("texts", "sum", "squares"):     # the shuffle of `positional` is drawn by the number of a piece
        keep = [n for n, score in enumerate(SCORES) if score != "positional"]
        assert torch.allclose(found.sums[name][keep], expected.sums[name][keep], rtol=1e-6, atol=1e-9)
    refused(run("atlas", "--add", "a", "b", "-o", "sum"), "is there already")
    refused(run("atlas", "--add", "a", "a", "-o", "twice"), "count twice")
    refused(run("atlas", tiny, "a.txt", "-o", "sum"), "another corpus")


def test_random_tokens_need_no_corpus(tiny: Path, here: Path) -> None:  # noqa: F811
    ran = run("atlas", tiny, "--probe", "repeated", "-o", "out", "--tokens", "640")
    assert ran.status == 0, ran.err
    assert atlas().counts["tokens"] == 640 and atlas().identity["probe"] == "repeated" and "64 tokens" not in ran.err
    assert run("atlas", tiny, "--probe", "repeated", "-o", "out").status == 0
    assert atlas().whole and atlas().counts["windows"] == 64
    (here / "corpus.txt").write_text(TEXT, "utf-8")
    refused(run("atlas", tiny, "corpus.txt", "-o", "out"), "another corpus")


def test_what_was_not_read_to_its_end_says_so(corpus: Path, tiny: Path) -> None:  # noqa: F811
    from pyarrow import parquet

    for tokens, partial in (("100", True), ("99999", False)):
        assert run("atlas", tiny, corpus, "-o", "out", "--tokens", tokens, "--parquet", "--lang", "zh").status == 0
        assert ("语料还没有读完" in Path("out/atlas.svg").read_text("utf-8")) is partial
        assert ("语料还没有读完" in Path("out/atlas.html").read_text("utf-8")) is partial
        lines = list(csv.DictReader(Path("out/atlas.csv").read_text("utf-8").splitlines()))
        assert {line["whole"] for line in lines} == {str(not partial)}
        table = parquet.read_table("out/atlas.parquet")
        assert table.schema.metadata[b"whole"] == str(not partial).encode()
        assert table.to_pylist()[0]["mean"] == float(lines[0]["mean"]) and table.num_rows == len(lines)
        assert table.column_names == list(lines[0])


def test_parquet_without_pyarrow_is_refused_before_anything_is_read(corpus: Path, tiny: Path) -> None:  # noqa: F811
    with patch("klieg.analysis.atlas.columns.find_spec", return_value=None):
        refused(run("atlas", tiny, corpus, "-o", "out", "--parquet"), r"pip install .klieg\[atlas\]")
    assert not Path("out").exists()


@pytest.mark.parametrize("body,said", [(b"", "no text of 8 tokens.*it is empty"), (b"\n\n\f\n", "it is empty"),
                                       (os.urandom(3000).replace(b"\n", b"\0") + b"\0\xff", "pieces that are no UTF-8 text"),
                                       (b"I", "texts of fewer than 8 tokens")], ids=["empty", "blank", "junk", "short"])
def test_a_corpus_without_text_is_one_line_and_leaves_nothing(body: bytes, said: str, corpus: Path, tiny: Path) -> None:  # noqa: F811
    corpus.write_bytes(body)
    refused(run("atlas", tiny, corpus, "-o", "out"), said)
    assert not Path("out").exists()


def test_mistakes_are_one_line(corpus: Path, tiny: Path) -> None:  # noqa: F811
    refused(run("atlas", tiny, "none.txt", "-o", "out"), "no corpus in 'none.txt'")
    refused(run("atlas", "chta", corpus, "-o", "out"), "Did you mean 'chat'")
    refused(run("atlas", tiny, corpus), "-o atlas")
    refused(run("atlas", tiny, corpus, "-o", corpus), "corpus.txt")
    refused(run("atlas", tiny, corpus, "-o", "out", "--by", "inductoin"), "must be one of previous")
    refused(run("atlas", tiny, corpus, "-o", "out", "--window", "65"), "windows of 8 to 64")
    refused(run("atlas", "--compare", "a", "b"), "no atlas in a")
    refused(run("atlas", "--compare", "a", "b", "-o", "out"), "leave --out and --add away")
    refused(run("atlas", "--compare", "a", "b", "--window", "8"), "leave --window away")
    refused(run("atlas", "--add", "a", "-o", "out"), "name another one beside a")
    refused(run("atlas", tiny, "-o", "out"), "an atlas needs a corpus")
    refused(run("atlas", tiny, corpus, "--probe", "repeated", "-o", "new"), "leave it away")
    refused(run("atlas", tiny, corpus, "--probe", "needles", "-o", "new"), "must be one of repeated, needle")
    refused(run("atlas", tiny, corpus, "--probe", "needle", "-o", "new"), "no room for a needle")
    refused(run("atlas", tiny, corpus, "-o", "out", "--by", "next"), "no text had anything of 'next'")
    refused(run("atlas", "chat", corpus, "-o", "out"), r"atlas of another model than 'chat'; choose another folder\.$")
    corpus.write_text(TEXT, "utf-8")
    refused(run("atlas", tiny, corpus, "-o", "out"), "atlas of another corpus")
    packed = corpus.with_suffix(".txt.gz")
    packed.write_bytes(gzip.compress(TEXT.encode())[:-9])
    refused(run("atlas", tiny, packed, "-o", "new"), "damaged")
    assert not Path("new").exists()


def test_a_full_disk_is_one_line_and_keeps_the_last_checkpoint(corpus: Path, tiny: Path) -> None:  # noqa: F811
    saved, usual = [], Path.write_bytes

    def full(self: Path, body: bytes) -> int:
        if self.suffix == ".safetensors":
            saved.append(self)
            if len(saved) == 2:
                usual(self, body[:100])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))
        return usual(self, body)

    every = (None, None, 2, None, ALONE)
    with patch.object(Path, "write_bytes", full), patch("klieg.analysis.atlas.census.read.__defaults__", every):
        ran = run("atlas", tiny, corpus, "-o", "out")
    refused(ran, "no space left on device.*atlas.safetensors has what was saved last")
    kept = atlas()
    assert kept.counts["windows"] >= 2 and not kept.whole
    shown = run("atlas", tiny, corpus, "-o", "out", "--tokens", "1")
    assert shown.status == 0 and "partial" in Path("out/atlas.html").read_text("utf-8") and "goes on" in shown.err
    assert run("atlas", tiny, corpus, "-o", "out").status == 0
    assert run("atlas", tiny, corpus, "-o", "other").status == 0
    assert all(torch.equal(x, atlas("other").sums[name]) for name, x in atlas().sums.items())


@pytest.mark.slow
def test_killed_at_any_moment_and_started_again_it_counts_everything_once(corpus: Path, tiny: Path) -> None:  # noqa: F811
    corpus.write_text("\n\n".join(TEXT * (1 + n % 9) for n in range(300)), "utf-8")
    command = [sys.executable, "-m", "klieg", "atlas", str(tiny), str(corpus), "-o"]
    for seconds in (0.2, 0.7, 1.5):
        process = subprocess.Popen([*command, "killed"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 60
        while not Path("killed/atlas.safetensors").exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = atlas("killed")
    assert before.counts["windows"] > 0
    subprocess.run([*command, "killed"], check=True, capture_output=True)
    subprocess.run([*command, "whole"], check=True, capture_output=True)
    killed, whole = atlas("killed"), atlas("whole")
    assert killed.whole and killed.counts == whole.counts
    assert all(torch.equal(x, whole.sums[name]) for name, x in killed.sums.items())


def grammar(path: Path, sentences: int = 12) -> Path:
    """"The cat (never) loves the moon." as a treebank."""
    blocks = []
    for n in range(sentences):
        words = [("The", 2, "det"), ("cat", 3, "nsubj"), ("loves", 0, "root"), ("the", 5, "det"), ("moon", 3, "obj"),
                 (".", 3, "punct")]
        if n % 3 == 0:
            words = [("The", 2, "det"), ("cat", 4, "nsubj"), ("never", 4, "advmod"), ("loves", 0, "root"), ("the", 6, "det"),
                     ("moon", 4, "obj"), (".", 4, "punct")]
        blocks.append("".join(f"{at}\t{form}\t_\t_\t_\t_\t{head}\t{name}\t_\t{'SpaceAfter=No' if form == 'moon' else '_'}\n"
                              for at, (form, head, name) in enumerate(words, 1)))
    path.write_text("\n".join(blocks), "utf-8")
    return path


def test_a_treebank_is_read_for_grammar(tiny: Path, here: Path) -> None:  # noqa: F811
    from pyarrow import parquet

    from klieg.analysis.reader import load
    from klieg.analysis.syntax import Syntax, syntax
    from klieg.analysis.treebank import read_treebank

    path = grammar(here / "some.conllu")
    ran = run("atlas", tiny, path, "-o", "out", "--parquet")
    assert ran.status == 0, ran.err
    found = syntax(load(str(tiny)), read_treebank(path))
    assert {each.name for each in Path("out").iterdir()} == {f"syntax.{x}" for x in ("csv", "html", "json", "parquet", "svg")}
    assert Syntax.load("out/syntax.json").as_json() == found.as_json()
    lines = list(csv.DictReader(Path("out/syntax.csv").read_text("utf-8").splitlines()))
    assert [float(line["share"]) for line in lines] == [line.share for line in found.lines()]
    assert parquet.read_table("out/syntax.parquet").column("baseline").to_pylist() == [line.baseline for line in found.lines()]
    rows = [line.split() for line in ran.text.splitlines()[1:]]
    for words, relation in zip(rows, found.ways(), strict=True):
        assert words[:3] == [relation.name, relation.to, f"{relation.best.layer}.{relation.best.head}"]
        assert words[3] == f"{100 * relation.chosen.share:.1f}" and words[-1] == str(relation.chosen.count)
        assert words[-5:-3] == [f"{relation.offset:+d}:", f"{100 * relation.baseline.share:.1f}"]
    assert "12 sentences; heads and offsets were chosen on every second one" in ran.err and "p < 0.05" in ran.err
    page = Path("out/syntax.html").read_text("utf-8")
    assert page.count("<tr>") == 1 + len(lines) and page.count("<svg") == len(found.ways()) and "sign test" in page
    zh = run("atlas", tiny, path, "-o", "out", "--by", "obj", "--lang", "zh")
    assert zh.status == 0 and "支配词" in zh.text and "依存关系" in zh.text and "共 12 句" in zh.err
    svg = Path("out/syntax.svg").read_text("utf-8")
    assert ElementTree.fromstring(svg).tag.endswith("svg") and "obj：" in svg
    Path("some.conllu.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert run("atlas", tiny, "some.conllu.gz", "-o", "packed").text == ran.text


def test_a_wrong_treebank_is_one_line(tiny: Path, here: Path) -> None:  # noqa: F811
    path = grammar(here / "some.conllu")
    refused(run("atlas", tiny, path, "-o", "out", "--tokens", "9"), "sentence by sentence; leave --tokens away")
    refused(run("atlas", tiny, path, "-o", "out", "--by", "nsubi"), "no relation 'nsubi' in both halves. Did you mean 'nsubj'?")
    refused(run("atlas", tiny, path), "-o atlas")
    assert not Path("out").exists()
    path.write_text(path.read_text("utf-8").replace("\t3\tobj", "\tx\tobj", 1), "utf-8")
    refused(run("atlas", tiny, path, "-o", "out"), "line 13: column 7 is 'x'")
    refused(run("atlas", tiny, grammar(path, 1), "-o", "out"), "stands in both")
    refused(run("atlas", tiny, "none.conllu", "-o", "out"), "none.conllu cannot be read")
    (here / "file").write_text("", "utf-8")
    refused(run("atlas", tiny, grammar(path), "-o", "file/out"), "file/out")
