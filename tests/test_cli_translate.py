"""klieg translate and evaluate: what they write, and one line for every mistake, with nothing half written."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import threading
from dataclasses import asdict
from inspect import signature
from pathlib import Path
from unittest.mock import patch

import pytest
from rich.console import Console
from test_cli import Ran, Terminal, here, refused, run, tiny  # noqa: F401
from test_translate import taught

from klieg import models
from klieg.analysis.alignment import Reading, joined, read
from klieg.beam import Search
from klieg.commands import translate
from klieg.evaluate import perplexity, score
from klieg.generate import Sampling
from klieg.translate import Translator

LINES = ["cat sees dog.", "", "big moon.", "dog loves big cat."]
TEXT = "".join(f"{line}\n" for line in LINES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a translator into de and zh."""
    path = tmp_path_factory.mktemp("models") / "both"
    models.save(path, taught().model, taught().tokenizer)
    return path


@pytest.fixture
def expected(folder: Path) -> list[str]:
    return Translator.load(str(folder)).translate(LINES, "de")


def translated(folder: Path, *argv: str, **more: object) -> Ran:
    return run("translate", *argv, "--model", folder, *(() if "--to" in argv else ("--to", "de")), **more)


def as_lines(lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


# ---- klieg translate ----

def test_lines_come_out_in_their_order_wherever_they_come_from(folder: Path, here: Path, expected: list[str]) -> None:  # noqa: F811
    Path("in.txt").write_text(TEXT, "utf-8")
    assert len(set(expected)) == 4 and expected[1] == ""
    whole = Ran(0, as_lines(expected), "")
    assert translated(folder, said=TEXT) == whole
    assert translated(folder, "-", said=TEXT) == whole
    assert translated(folder, "--input", "-", said=TEXT) == whole
    assert translated(folder, "--input", "in.txt") == whole
    assert translated(folder, said=TEXT.removesuffix("\n")) == whole
    assert translated(folder, said="\ufeff" + TEXT.replace("\n", "\r\n")) == whole
    assert translated(folder, LINES[0]) == Ran(0, as_lines(expected[:1]), "")
    assert translated(folder, "\n".join(LINES)) == whole
    assert translated(folder, said="") == Ran(0, b"", "")
    assert translated(folder, said="\n\n") == Ran(0, b"\n\n", "")


def test_what_is_searched_is_what_was_asked_for(folder: Path) -> None:
    assert {name: signature(translate.translate).parameters[name].default for name in ("beam", "alpha", "beta")} == {
        name: getattr(Search(), name) for name in ("beam", "alpha", "beta")}
    translator = Translator.load(str(folder))
    for to, options in (("zh", Search()), ("de", Search(beam=1)), ("de", Search(beam=8, alpha=0.3, beta=0.2))):
        argv = ["--beam", options.beam, "--alpha", options.alpha, "--beta", options.beta, "--to", to]
        assert translated(folder, *argv, said=TEXT).out == as_lines(translator.translate(LINES, to, options))


def test_a_file_is_written_whole_with_a_bar_on_the_terminal(folder: Path, here: Path, expected: list[str]) -> None:  # noqa: F811
    Path("in.txt").write_text(TEXT, "utf-8")
    ran = translated(folder, "--input", "in.txt", "--output", "out.txt")
    assert ran == Ran(0, b"", "wrote out.txt\n") and Path("out.txt").read_bytes() == as_lines(expected)
    assert translated(folder, "-o", "two.txt", said=TEXT).status == 0
    assert Path("two.txt").read_bytes() == as_lines(expected)
    ran = translated(folder, "--input", "in.txt", "--output", "-", terminal=True)
    assert ran.out == as_lines(expected) and "lines" in ran.err and "3/3" in ran.err


def test_nothing_is_left_where_translating_fails(folder: Path, here: Path) -> None:  # noqa: F811
    Path("in.txt").write_text(TEXT, "utf-8")
    Path("out.txt").write_text("old", "utf-8")
    with patch("klieg.beam.search", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        translated(folder, "--input", "in.txt", "--output", "out.txt")
    refused(translated(folder, "--output", "out.txt", said=TEXT + "word " * 100), "line 5: ")
    assert Path("out.txt").read_text("utf-8") == "old" and {p.name for p in here.iterdir()} == {"in.txt", "out.txt"}


def test_standard_input_is_translated_as_it_comes(folder: Path, expected: list[str]) -> None:
    """Whoever writes a line gets its translation before he writes the next."""
    reader, writer = os.pipe()
    seen: list[bytes] = []
    with open(reader, "rb") as stdin, open(writer, "wb", buffering=0) as pen:  # noqa: PTH123
        out = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
        came = threading.Condition()

        def write(piece: str) -> None:
            with came:
                out.write(piece)
                came.notify()

        with patch.object(translate.shell, "write", write):
            work = translate._Work(Translator.load(str(folder)), "de", Search(), None, False)
            thread = threading.Thread(target=translate._deliver, args=(
                (work.done(part, first) for first, part in translate._arriving(stdin)), None))
            thread.start()
            for line in LINES:
                with came:
                    pen.write(f"{line[:3]}".encode())
                    pen.write(f"{line[3:]}\n".encode())
                    assert came.wait(60)
                    seen.append(out.buffer.getvalue())
            pen.close()
            thread.join(60)
    assert seen == [as_lines(expected[:n + 1]) for n in range(4)]


def test_lines_that_arrive_in_pieces_keep_their_numbers() -> None:
    text = "αβ\n\nγ" * 3 + "\nlast"
    for size in range(1, 9):
        with patch.object(translate, "CHUNK", size):
            parts = list(translate._arriving(io.BytesIO(text.encode())))
        assert [line for _, part in parts for line in part] == text.split("\n")
        assert [first for first, _ in parts] == [1 + sum(len(part) for _, part in parts[:n]) for n in range(len(parts))]


def test_the_best_of_each_line_with_rank_and_score(folder: Path) -> None:
    found = Translator.load(str(folder)).candidates(LINES, "de", Search(best=3))
    rows = [f"{rank}\t{c.score:.4f}\t{c.text}" for best in found for rank, c in enumerate(best)]
    assert len(rows) == 10 and "0\t0.0000\t" in rows
    assert translated(folder, "--n-best", "3", said=TEXT).out == as_lines(rows)


def test_texts_are_drawn_with_a_seed(folder: Path, expected: list[str]) -> None:
    hot = ("--sample", "--temperature", "2", "--top-k", "50", "--top-p", "0.99")
    runs = [translated(folder, *hot, "--seed", seed, said=TEXT) for seed in ("1", "1", "2")]
    assert runs[0] == runs[1] != runs[2] and runs[0].status == 0
    sampling = Sampling(temperature=2, top_k=50, top_p=0.99, seed=1)
    assert runs[0].out == as_lines(Translator.load(str(folder)).sample(LINES, sampling, "de"))
    with patch.object(translate, "CHUNK", 5):  # drawn the same in whatever pieces they come
        assert translated(folder, *hot, "--seed", "1", said=TEXT) == runs[0]
    assert translated(folder, "--sample", said=TEXT).status == 0


def test_a_conversation_goes_on_until_an_empty_line(folder: Path, expected: list[str]) -> None:
    said = f"{LINES[0]}\n{'word ' * 100}\n{LINES[2]}\n\n{LINES[3]}\n"
    plain = translated(folder, "--interactive", said=said)
    assert (plain.status, plain.out) == (0, as_lines([expected[0], expected[2]]))
    assert re.fullmatch("klieg: line 2: the text has .*\n", plain.err)
    shown = translated(folder, said=f"{LINES[0]}\n", terminal=True)
    assert shown.err.startswith("Write; an empty line ends.\n") and expected[0] in shown.text
    assert translated(folder, "--lang", "zh", said="", terminal=True).err.startswith("请输入；空行结束。")
    assert translated(folder, "--interactive", "--n-best", "2", said=f"{LINES[0]}\n").text.count("\n") == 2


@pytest.mark.parametrize(("argv", "said"), [
    ([""], "the text is empty"), ([" \n"], "only white space"), (["caf\udce9"], "Unicode"),
    (["word " * 100], "line 1: the text has .* tokens and the model has positions for 38 tokens; shorten it, or end"),
    (["hi", "--to", "fr"], "no language 'fr'. It writes de, zh"), (["hi", "--to", ""], "no language ''"),
    (["hi", "--model", "trnslate"], "no model 'trnslate'"), (["hi", "--model", "chat"], "of the kind llama does not translate"),
    (["hi", "--n-best", "6"], "6 hypotheses are wanted of a beam of 5"), (["hi", "--alpha", "-1"], "penalties are -1"),
    (["hi", "--seed", "1"], "--seed is for texts that are drawn; add --sample"), (["hi", "--top-k", "3"], "--top-k is for"),
    (["hi", "--sample", "--n-best", "2"], "--n-best is of a search"), (["hi", "--sample", "--top-p", "0"], "top-p is 0"),
    (["hi", "--input", "in.txt"], "exclude each other"), (["hi", "--interactive"], "exclude each other"),
    (["--interactive", "--output", "x.txt"], "not written to a file"), (["hi", "--lang", "de"], "en, zh"),
    (["--input", "absent.txt"], "absent.txt is not there"), (["--input", "."], "cannot be read .is a directory.; name a file"),
    (["--input", "bad.gz"], "bad.gz is damaged .Not a gzipped file"), (["--input", "bad.txt"], "not UTF-8 in line 2 at byte 4"),
    (["hi", "--output", "none/x.txt"], "make its folder first"), (["hi", "--output", "."], "is a folder"),
], ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "")
def test_a_mistake_is_one_line(argv: list[str], said: str, folder: Path, here: Path) -> None:  # noqa: F811
    Path("in.txt").write_text(TEXT, "utf-8")
    for name in ("bad.txt", "bad.gz"):
        Path(name).write_bytes(b"caf\xc3\xa9\ncaf\xe9\n")
    before = sorted(here.iterdir())
    refused(run("translate", *argv, *(() if "--model" in argv else ("--model", str(folder))),
                *(() if "--to" in argv else ("--to", "de"))), said)
    assert sorted(here.iterdir()) == before


def test_a_translator_of_several_languages_must_be_told(folder: Path) -> None:
    refused(run("translate", "hi", "--model", folder), "writes de, zh; say which, for example --to de")


def test_what_came_before_a_bad_line_is_there(folder: Path, expected: list[str]) -> None:
    with patch.object(translate, "CHUNK", len(TEXT)):
        ran = translated(folder, said=TEXT.encode() + b"caf\xe9\n")
    assert ran.status == 1 and ran.out == as_lines(expected) and "in line 5 at byte 4" in ran.err


@pytest.mark.parametrize(("bad", "said"), [
    (b"caf\xe9", "not UTF-8 in line 5 at byte 4"), (b"word " * 100, "line 5: the text has")])
def test_lines_that_come_together_with_a_bad_one_are_not_lost(bad: bytes, said: str, folder: Path, expected: list[str]) -> None:
    ran = translated(folder, said=TEXT.encode() + bad + b"\nmoon\n")
    assert ran.status == 1 and ran.out == as_lines(expected) and said in ran.err and ran.err.count("\n") == 1
    first = translated(folder, said=bad + b"\nmoon\n")
    refused(first, said.replace("line 5", "line 1"))


def test_a_bar_where_standard_input_goes_into_a_file(folder: Path, expected: list[str],
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translate.shell, "console", lambda error: Console(file=sys.stderr, force_terminal=True))
    ran = translated(folder, said=TEXT)
    assert ran.out == as_lines(expected) and "4/?" in ran.err
    assert translated(folder, said=TEXT.replace("\n", "\n\n"), terminal=True).err.count("/?") == 0


# ---- klieg evaluate ----

@pytest.fixture
def files(here: Path, folder: Path) -> dict[str, str]:  # noqa: F811
    """Sources, references and translations of a few lines."""
    texts = {"src": LINES, "ref": ["katze sieht hund.", "", "gross mond.", "hund liebt gross katze."],
             "hyp": ["katze sieht den hund.", "", "gross mond.", "hund liebt katze."]}
    for name, lines in texts.items():
        Path(f"{name}.txt").write_bytes(as_lines(lines))
    return texts


def test_evaluate_translates_and_scores(files: dict, folder: Path, expected: list[str]) -> None:
    argv = ("evaluate", "--model", folder, "--to", "de", "--source", "src.txt", "--reference", "ref.txt")
    ran = run(*argv, "--json", "-", "--output", "out.txt", "--beam", "5")
    said = json.loads(ran.out)
    assert ran.status == 0 and ran.err == "wrote out.txt\n" and Path("out.txt").read_bytes() == as_lines(expected)
    exact = asdict(score(expected, files["ref"], "de"))
    assert {name: said[name] for name in exact} == {**exact, "precisions": list(exact["precisions"])}
    exact_perplexity = asdict(perplexity(taught(), LINES, files["ref"], "de"))
    assert said["perplexity"].pop("word_is") == exact_perplexity.pop("word_is") == "word"
    assert said["perplexity"] == pytest.approx(exact_perplexity, rel=1e-4)
    assert said["sentences_per_second"] == pytest.approx(4 / said["seconds"]) and said["search"]["beam"] == 5
    shown = run(*argv)
    assert shown.err == "" and re.search(rf"^BLEU +{exact['bleu']:.2f}   ", shown.text)
    for part in (exact["bleu_signature"], f"{exact['chrf']:.2f}", exact["chrf_signature"],
                 f"{said['perplexity']['token']:.3f} a token ({said['perplexity']['tokens']} tokens of the model)",
                 f"{said['perplexity']['word']:.3f} a word (13 words)"):
        assert part in shown.text
    assert re.search(r"^sentences +4 in [\d.]+ s, [\d.]+ a second$", shown.text, re.MULTILINE)
    chinese = run(*argv, "--lang", "zh").text.splitlines()
    assert chinese[:4] == shown.text.splitlines()[:4]
    token, word, tokens = (said["perplexity"][name] for name in ("token", "word", "tokens"))
    assert chinese[4] == f"困惑度      按词元 {token:.3f}（模型的词元 {tokens} 个），按词 {word:.3f}（13 个）；两者都计入句末"
    assert re.fullmatch(r"句数        4，用时 [\d.]+ 秒，每秒 [\d.]+ 句", chinese[5]) and len(chinese) == 6


def test_evaluate_scores_what_is_translated_already(files: dict) -> None:
    argv = ("evaluate", "--hypotheses", "hyp.txt", "--reference", "ref.txt")
    shown, raw = run(*argv), run(*argv, "--tokenized")
    assert shown.text.startswith(f"BLEU        {score(files['hyp'], files['ref']).bleu:.2f}") and "tok:13a" in shown.text
    assert raw.text.startswith(f"BLEU        {score(files['hyp'], files['ref'], tokenized=True).bleu:.2f}")
    assert "tok:none" in raw.text and "perplexity" not in raw.text and raw.text.endswith("sentences   4\n")
    assert "model" not in json.loads(run(*argv, "--json", "-").out)


def test_chinese_references_are_cut_by_characters(files: dict, folder: Path) -> None:
    Path("zh.txt").write_bytes(as_lines(["猫看狗。", "", "大月。", "狗爱大猫。"]))
    shown = run("evaluate", "--model", folder, "--to", "zh", "--source", "src.txt", "--reference", "zh.txt")
    assert "tok:zh" in shown.text and "a character (16 characters)" in shown.text
    shown = run("evaluate", "--model", folder, "--to", "zh", "--source", "src.txt", "--reference", "zh.txt", "--lang", "zh")
    assert re.search(r"，按字符 [\d.]+（16 个）；", shown.text)


@pytest.mark.parametrize(("argv", "said"), [
    (["--hypotheses", "short.txt"], "short.txt ends after line 3 and ref.txt has 4 lines"),
    (["--source", "short.txt"], "short.txt ends after line 3"),
    (["--source", "src.txt", "-o", "out.txt", "--json", "./out.txt"], "--output and --json are the same file"),
    (["--source", "src.txt", "-o", "-", "--json", "-"], "would run together on standard output"),
    ([], "give either --source"), (["--source", "src.txt", "--hypotheses", "hyp.txt"], "give either --source"),
    (["--hypotheses", "hyp.txt", "--output", "x.txt"], "leave it away with --hypotheses"),
    (["--source", "absent.txt"], "absent.txt is not there"), (["--hypotheses", "bad.txt"], "not UTF-8 in line 1 at byte 4"),
    (["--source", "src.txt", "--to", "fr"], "no language 'fr'"), (["--source", "src.txt", "--model", "chta"], "model 'chta'"),
    (["--source", "src.txt", "--alpha", "-1"], "penalties"), (["--source", "src.txt", "--json", "none/x"], "its folder first"),
    (["--source", "empty.txt", "--reference", "empty.txt"], "empty.txt is empty, so .*; name a file"),
    (["--source", "long.txt", "--reference", "src.txt"], "line 3: the text has .* tokens"),
], ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "")
def test_a_mistake_in_evaluating_is_one_line(argv: list[str], said: str, files: dict, folder: Path, here: Path) -> None:  # noqa: F811
    long = b"a\nb\n" + b"word " * 99 + b"\nc\n"
    for name, body in (("short", b"a\nb\nc\n"), ("bad", b"caf\xe9\n"), ("empty", b""), ("long", long)):
        Path(f"{name}.txt").write_bytes(body)
    before = sorted(here.iterdir())
    rest = [part for name, value in (("--reference", "ref.txt"), ("--model", str(folder)), ("--to", "de")) if name not in argv
            for part in (name, value)]
    refused(run("evaluate", *argv, *rest), said)
    assert sorted(here.iterdir()) == before


# ---- klieg align ----

PAIRS = [("cat sees dog .", "katze sieht hund ."), ("dog loves cat .", "hund liebt katze ."), ("big moon .", "gross mond .")]


def pharaohs(found: list) -> bytes:
    return as_lines([" ".join(f"{s}-{t}" for s, t in sorted(one)) for one in found])


def test_align_reads_as_it_was_told_or_as_the_folder_says(folder: Path, here: Path, tmp_path: Path) -> None:  # noqa: F811
    both, sources, targets = Translator.load(str(folder)), *map(list, zip(*PAIRS, strict=True))
    Path("both.txt").write_text("".join(f"{s} ||| {t}\n" for s, t in PAIRS), "utf-8")
    middle = Reading.middle(both.model)
    forward = read(both.model, both.tokenizer, sources, targets, middle, "de")
    argv = ["align", "both.txt", "--model", folder, "--to", "de"]
    assert run(*argv) == Ran(0, pharaohs(joined(forward, None, sources, targets, "forward", 0)), "")
    learned = pharaohs(joined(forward, None, sources, targets, "union", 3))
    assert learned != pharaohs(joined(forward, None, sources, targets, "union", 0))
    assert run(*argv, "--rounds", "3", "--way", "union") == Ran(0, learned, "")
    back = read(both.model, both.tokenizer, targets, sources, middle, "zh")
    assert run(*argv, "--rounds", "3", "--way", "union", "--back", "zh").out == pharaohs(
        joined(forward, back, sources, targets, "union", 3))
    assert run(*argv, "--back", "zh").out == pharaohs(joined(forward, back, sources, targets, "grow-diag-final", 0))
    kept = tmp_path / "kept"
    models.save(kept, both.model, both.tokenizer)
    Reading(0, (1,), "union", 2).save(kept)
    there = read(both.model, both.tokenizer, sources, targets, Reading(0, (1,)), "de")
    argv[3] = kept
    assert run(*argv).out == pharaohs(joined(there, None, sources, targets, "union", 2))
    assert run(*argv, "--rounds", "0").out == pharaohs(joined(there, None, sources, targets, "union", 0))
    assert run(*argv, "--layer", "0").out == pharaohs(joined(read(both.model, both.tokenizer, sources, targets, Reading(
        0, tuple(range(both.model.heads))), "de"), None, sources, targets, "union", 2))


def test_align_prints_the_error_rate_against_gold(folder: Path, here: Path) -> None:  # noqa: F811
    Path("both.txt").write_text("".join(f"{s} ||| {t}\n" for s, t in PAIRS), "utf-8")
    argv = ["align", "both.txt", "--model", folder, "--to", "de", "--rounds", "1"]
    Path("gold").write_bytes(run(*argv).out)
    ran = run(*argv, "--gold", "gold")
    assert ran.out == Path("gold").read_bytes() and "AER 0.0 %, precision 100.0 %, recall 100.0 % of " in ran.err
    assert re.search(r"^AER 0\.0 %，精确率 100\.0 %，召回率 100\.0 %，确定的对应 \d+ 个；标准答案的词从 0 数起$",
                     run(*argv, "--gold", "gold", LC_ALL="zh_CN.UTF-8").err, re.MULTILINE)


def test_a_mistake_in_aligning_is_one_line(folder: Path, here: Path) -> None:  # noqa: F811
    Path("both.txt").write_text("cat ||| katze\ncat\n", "utf-8")
    argv = ["align", "both.txt", "--model", folder, "--to", "de"]
    refused(run(*argv), r"both\.txt, line 2 is not 'source \|\|\| target'")
    refused(run(*argv, "--rounds", "-1"), "rounds", 2)
    refused(run(*argv, "--way", "unoin"), "union", 1)
