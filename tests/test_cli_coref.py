"""klieg coref and klieg grammar: what they show and write, and one line for every mistake."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from test_cli import here, refused, run, tiny  # noqa: F401

from klieg.analysis.coreference import coreference, look
from klieg.analysis.coreference.riddles import posed, riddles
from klieg.analysis.grammar import contrast
from klieg.analysis.likelihood import Scorer
from klieg.analysis.reader import load
from klieg.views.coreference import WORDS
from klieg.views.glyphs import width

TEXT = "I love the cat and the moon, it loves you."
ASKED = "coref", TEXT, "--pronoun", "it", "--candidates", "moon, the cat"


def record(n: int, pronoun: str = "it", gap: str = "it") -> str:
    return f"I love the cat{n} and the moon{n}, {gap} loves you.\n{pronoun}\nthe cat{n}, the moon{n}\nthe cat{n}\n\n"


@pytest.fixture
def winograd(here: Path) -> Path:  # noqa: F811
    (here / "some.txt").write_text("".join(map(record, range(9))), "utf-8")
    return Path("some.txt")


def test_one_sentence(tiny: Path) -> None:  # noqa: F811
    ran = run(*ASKED, "--model", tiny)
    assert ran.status == 0, ran.err
    lines, riddle = ran.text.splitlines(), posed(TEXT, "it", ["moon", "the cat"])
    found = look(load(str(tiny)), riddle)
    assert lines[0].strip() == "how much of the weight that it puts on moon or cat is on moon"
    rows = [[float(x) for x in re.findall(r"\d\.\d\d", line)] for line in lines if line.startswith("layer")]
    shares = found.shares(0, riddle.right)
    assert [x for row in reversed(rows) for x in row] == pytest.approx(shares, abs=5.1e-3)
    assert f"{found.most(0, riddle.right)[0]} of 18 heads look most at moon" in ran.text
    assert "the model itself" in ran.text and "does not see what follows" in ran.text
    assert "does not see" not in run(*ASKED, "--model", tiny, "--at", "end").text


def test_one_sentence_in_chinese_and_in_files(tiny: Path, here: Path) -> None:  # noqa: F811
    chinese = run("coref", "小明看小红，她走了。", "--pronoun", "她", "--candidates", "小红，小明", "--model", tiny,
                  "--lang", "zh", COLUMNS="60")
    assert chinese.status == 0, chinese.err
    assert "她 落在 小红 / 小明 上的权重中，小红 所占的份额" in chinese.text and "18 个头中有" in chinese.text
    assert max(map(width, chinese.text.splitlines()[:8])) <= 60
    ran = run(*ASKED, "--model", tiny, "--json", "o.json", "--svg", "o.svg", "--png", "o.png")
    assert ran.status == 0 and ran.text == "" and ran.err.splitlines()[-3:] == ["wrote o.json", "wrote o.svg", "wrote o.png"]
    said = json.loads(Path("o.json").read_text("utf-8"))
    found = look(load(str(tiny)), posed(TEXT, "it", ["moon", "the cat"]))
    assert said == {**found.as_json(), "model": str(tiny), "text": TEXT, "pronoun": "it", "candidates": ["cat", "moon"],
                    "right": [False, True], "itself": said["itself"]} and sum(said["itself"]) == pytest.approx(1)
    assert said["heads"][7]["clause"] == found.weights[1, 0, 7].tolist() and said["heads"][7]["head"] == 1
    svg = Path("o.svg").read_text("utf-8")
    assert ElementTree.fromstring(svg).tag.endswith("svg") and "layer 2, head 5" in svg
    assert Path("o.png").read_bytes().startswith(b"\x89PNG")


def test_a_file_of_riddles(tiny: Path, winograd: Path) -> None:  # noqa: F811
    ran = run("coref", winograd, "--model", tiny)
    assert ran.status == 0, ran.err
    found = coreference(load(str(tiny)), riddles(winograd))
    head = f"head {found.chosen.layer}.{found.chosen.head}"
    for name, rate in (("on the part where it was chosen", found.development), ("on the other part", found.test)):
        assert re.search(rf"{head}, {name} +{100 * rate.share:.1f} %", ran.text), ran.text
    for name in ("chance", "nearest candidate before", "first candidate (subject)", "the model itself, whole text"):
        assert name in ran.text
    assert "the best of 162 tries" in ran.text and f"p = {found.p:.2f}" in ran.text
    zh = run("coref", winograd, "--model", tiny, "--lang", "zh").text
    assert all(text in zh for text in ("全部", "随机", "主语", "模型自己", "162 种组合", "符号检验"))
    files = run("coref", winograd, "--model", tiny, "--json", "f.json", "--svg", "f.svg")
    assert files.status == 0 and files.text == ""
    assert json.loads(Path("f.json").read_text("utf-8")) == found.as_json() | {"model": str(tiny)}
    assert "the best of 162 tries" in Path("f.svg").read_text("utf-8")


def test_a_masked_file_is_filled_by_the_bundled_model(tiny: Path, here: Path) -> None:  # noqa: F811
    masked = [record(n, "[MASK]", "[MASK]") for n in range(6)]
    (here / "masked.txt").write_text("".join([*masked, record(6, "[MASK]", "[MASK] or [MASK]")]), "utf-8")
    ran = run("coref", "masked.txt", "--model", tiny)
    assert ran.status == 0 and "left out: 1 with several gaps" in ran.text, ran.err


def test_grammar(tiny: Path, here: Path) -> None:  # noqa: F811
    lines = [{"sentence_good": "I love you", "sentence_bad": "you I love the", "linguistics_term": term, "UID": term}
             for term in ("binding", "my_own") for _ in range(3)]
    Path("p.jsonl").write_text("\n".join(map(json.dumps, lines)), "utf-8")
    ran = run("grammar", "p.jsonl", "--model", tiny)
    assert ran.status == 0, ran.err
    assert re.search(r"binding +(100\.0|0\.0) % ", ran.text) and "my_own" in ran.text
    assert re.search(r"chance is 50 % .* 6\n", ran.text)
    assert "约束" in run("grammar", "p.jsonl", "--model", tiny, "--lang", "zh").text
    said = json.loads(run("grammar", "p.jsonl", "--model", tiny, "--pairs", "2", "--json", "-").text)
    assert said["total"]["count"] == 4 and list(said["phenomena"]) == ["binding", "my_own"]


def test_two_sentences(tiny: Path, here: Path) -> None:  # noqa: F811
    asked = "grammar", "I love you", "you love the moon", "--model", tiny
    ran = run(*asked)
    assert ran.status == 0, ran.err
    found = contrast(Scorer.load(str(tiny)), "I love you", "you love the moon")
    assert ran.text.startswith(f"“{(found.one if found.difference > 0 else found.other).text}” is likelier by")
    numbers = [float(x) for x in re.findall(r"[+-]\d+\.\d\d", ran.text)]
    assert numbers == pytest.approx([*found.gains, found.difference], abs=5.1e-3)
    assert "更可能" in run(*asked, "--lang", "zh").text
    ran = run(*asked, "--json", "two.json", "--svg", "two.svg", "--png", "two.png")
    assert ran.status == 0 and ran.text == ""
    assert ran.err.splitlines() == ["wrote two.json", "wrote two.svg", "wrote two.png"]
    assert json.loads(Path("two.json").read_text("utf-8")) == json.loads(json.dumps(found.as_json()))
    ElementTree.fromstring(Path("two.svg").read_text("utf-8"))


def test_mistakes(tiny: Path, winograd: Path) -> None:  # noqa: F811
    model = "--model", tiny
    refused(run("coref", TEXT, *model), "needs its pronoun and its candidates; add --pronoun and --candidates")
    refused(run("coref", TEXT, "--pronoun", "it", *model), "add --candidates")
    refused(run("coref", TEXT, "--candidates", "a,b", *model), "add --pronoun")
    refused(run(*ASKED[:3], "she", *ASKED[4:], *model), "the pronoun 'she' is not in the text")
    refused(run(*ASKED[:5], "moon", *model), "at least two candidates")
    refused(run(*ASKED, "--at", "there", *model), "--at is 'there'; it must be one of pronoun, clause, end")
    refused(run(*ASKED, "--json", "-", "--svg", "-", *model), "would run together")
    refused(run("coref", "wsc", *model), "Did you mean 'wsc273'")
    refused(run("coref", "wsc273", *model), "no folder of texts is named")
    refused(run("coref", "wsc273", "--data", ".", *model), "eval/winograd/wsc273.txt is not there")
    winograd.write_text(record(1) + "oops\n" + record(2), "utf-8")
    refused(run("coref", winograd, *model, "--json", "out.json"), "some.txt, line 7: expected the pronoun")
    assert not Path("out.json").exists()
    refused(run("grammar", *model), "no folder of texts is named")
    refused(run("grammar", "I love you", *model), "there is no file 'I love you'; name a file of minimal pairs, or two")
    refused(run("grammar", "x" * 999, *model), "there is no file")
    refused(run("grammar", "I love you", "", *model), "the text is empty")
    refused(run("grammar", "I love you", "you", "--pairs", "2", *model), "--pairs and --data are for a file of pairs")
    refused(run("grammar", winograd, *model), "some.txt, line 1: expected a JSON object")
    refused(run("coref", *ASKED[1:], "--model", "translate"), "is a translator")
    refused(run("grammar", winograd, "--model", "nowhere"), "line 1")


@pytest.mark.parametrize("key", WORDS)
def test_both_languages_name_the_same_things(key: str) -> None:
    en, zh = (sorted(re.findall(r"\{([a-z:,]+)\}", text)) for text in WORDS[key])
    assert en == zh and all(WORDS[key])
