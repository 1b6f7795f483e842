"""Gold sets of coreference as they are written, and one line for what is written otherwise."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from klieg.analysis.coreference.riddles import SETS, Riddle, in_development, marked, posed, riddles
from klieg.errors import KliegError

DATA = Path(os.environ.get("KLIEG_DATA", "no such folder"))
HEADER = "ID\tText\tPronoun\tPronoun-offset\tA\tA-offset\tA-coref\tB\tB-offset\tB-coref\tURL\n"


def named(riddle: Riddle) -> tuple[str, list[str], str]:
    """The pronoun, the candidates and the right one, as they are written."""
    phrases = [riddle.phrase(place) for place in riddle.candidates]
    return riddle.phrase(riddle.pronoun), phrases, phrases[riddle.right.index(True)]


def schema(n: int) -> str:
    """Two twins."""
    return "".join(f"The cup{n} does not fit into the box{n} because it is too {size}.\r\nit\r\nThe cup{n}, the box{n}\n"
                   f"{answer}\n\n" for size, answer in (("big", f"The cup{n}"), ("small", f"the box{n}")))


@pytest.fixture
def winograd(tmp_path: Path) -> Path:
    path = tmp_path / "some.txt"
    path.write_text("\ufeff" + "".join(map(schema, range(8))), "utf-8")
    return path


def test_winograd_riddles(winograd: Path) -> None:
    found = riddles(winograd)
    every = [*found.development, *found.test]
    assert len(every) == 16 and not found.own_split and not found.left_out
    one = next(riddle for riddle in every if "cup0" in riddle.text and "small" in riddle.text)
    assert named(one) == ("it", ["cup0", "box0"], "box0")


def test_both_parts_are_disjoint_and_twins_stay_together(winograd: Path) -> None:
    found = riddles(winograd)
    groups = [{riddle.group for riddle in part} for part in (found.development, found.test)]
    assert not groups[0] & groups[1] and not set(found.development) & set(found.test)
    assert all(len([r for r in part if r.group == group]) == 2 for part, names in
               zip((found.development, found.test), groups, strict=True) for group in names)
    assert all(in_development(riddle) for riddle in found.development) and not any(map(in_development, found.test))
    # The rule looks at the group alone, not at the order.
    lines = winograd.read_text("utf-8-sig").splitlines()
    winograd.write_text("\n".join(line for n in range(len(lines) - 5, -1, -5) for line in lines[n:n + 5]), "utf-8")
    assert set(riddles(winograd).test) == set(found.test)


def test_what_cannot_be_placed_is_counted(winograd: Path) -> None:
    more = ("The man lifted his son because it was light.\nit\nthe man,the boy\nthe boy\n\n"
            "Sam's drawing hung by Sam because it was dear.\nit\nSam's drawing, Sam's\nSam's drawing\n\n"
            "The man told [MASK] that [MASK] slept.\n[MASK]\nthe man,man\nman\n\n")
    winograd.write_text(winograd.read_text("utf-8-sig") + more, "utf-8")
    assert riddles(winograd).left_out == {"absent": 1, "overlap": 1, "gaps": 1}


def test_masked_pronouns_are_put_in(tmp_path: Path) -> None:
    masked = schema(0).replace(" it ", " [MASK] ").replace("\nit\r", "\n[MASK]\r")
    (tmp_path / "m.txt").write_text(masked + schema(1) + schema(2) + schema(3), "utf-8")
    found = riddles(tmp_path / "m.txt", likeliest=lambda choices: [
        next(n for n, text in enumerate(texts) if " its " in text) for texts in choices])
    assert sum("because its is" in riddle.text for riddle in [*found.development, *found.test]) == 2
    with pytest.raises(KliegError, match=r"\[MASK\] where their pronoun was"):
        riddles(tmp_path / "m.txt")


@pytest.mark.parametrize(("line", "text", "wanted"), [
    (1, "", "a sentence"), (2, "they", "the pronoun, or"), (2, "", "the pronoun, or"), (3, "The cup0", "two or more"),
    (3, "The cup0,", "two or more"), (4, "the lid", "one of the candidates"), (5, "more", "a blank line")])
def test_a_line_of_five_that_is_wrong_is_named(winograd: Path, line: int, text: str, wanted: str) -> None:
    lines = winograd.read_text("utf-8-sig").splitlines()
    lines[9 + line] = text
    winograd.write_text("\n".join(lines), "utf-8")
    with pytest.raises(KliegError, match=rf"some.txt, line {10 + line}: expected {wanted}"):
        riddles(winograd)


def row(n: int, first: str = "TRUE", second: str = "FALSE", **other: str) -> str:
    text = f"Ann{n} met Eve{n} when she left."
    cells = {"id": f"test-{n}", "text": text, "pronoun": "she", "at": str(text.index("she")), "a": f"Ann{n}", "a at": "0",
             "a right": first, "b": f"Eve{n}", "b at": str(text.index("Eve")), "b right": second, "url": "http://x"}
    return "\t".join((cells | {key.replace("_", " "): value for key, value in other.items()}).values()) + "\n"


def test_gap(tmp_path: Path) -> None:
    path = tmp_path / "gap.tsv"
    path.write_text(HEADER + "".join(row(n) for n in range(9)) + row(9, "FALSE", "TRUE") + row(10, "FALSE", "FALSE")
                    + row(11, a="Ann11 met", a_at="0", b="met", b_at="6"), "utf-8")
    found = riddles(path)
    every = [*found.development, *found.test]
    assert len(every) == 10 and found.left_out == {"neither": 1, "overlap": 1} and {r.facet for r in every} == {"feminine"}
    assert named(next(r for r in every if "Ann9" in r.text)) == ("she", ["Ann9", "Eve9"], "Eve9")


@pytest.mark.parametrize(("bad", "wanted"), [
    (row(1, a_at="1"), "A-offset to be where 'Ann1' starts"), (row(1, at="x"), "Pronoun-offset to be where"),
    (row(1, b=""), "B-offset"), (row(1, at="²"), "Pronoun-offset"), (row(1, "YES"), "TRUE or FALSE"),
    ("1\tShe left.\n", "11 columns with tabs between, not 2")])
def test_a_line_of_gap_that_is_wrong_is_named(tmp_path: Path, bad: str, wanted: str) -> None:
    (tmp_path / "gap.tsv").write_text(HEADER + row(0) + bad, "utf-8")
    with pytest.raises(KliegError, match=rf"gap.tsv, line 3: expected {wanted}"):
        riddles(tmp_path / "gap.tsv")
    (tmp_path / "gap.tsv").write_text(row(0), "utf-8")
    with pytest.raises(KliegError, match=r"gap.tsv, line 1: expected the header ID Text"):
        riddles(tmp_path / "gap.tsv")


def line(text: str, candidate: str, pronoun: str, label: object) -> str:
    target = {"span1_text": candidate, "span1_index": text.index(candidate), "span2_text": pronoun,
              "span2_index": text.rindex(pronoun)}
    return json.dumps({"target": target, "label": label, "text": text}, ensure_ascii=False) + "\n"


def test_cluewsc_puts_the_lines_of_a_pronoun_together(tmp_path: Path) -> None:
    texts = [f"小明{n}号把书给了小红，因为她想看。" for n in range(8)]
    path = tmp_path / "clue.json"
    said = (("小红", "true"), ("书", "false"), ("小明", "false"))
    path.write_text("".join(line(text, name, "她", label) for name, label in said for text in texts)
                    + line("他说他来。", "他", "他", "true"), "utf-8")
    found = riddles(path)
    every = [*found.development, *found.test]
    assert len(every) == 8 and {len(r.candidates) for r in every} == {3} and found.left_out == {"alone": 1}
    assert named(every[0]) == ("她", ["小明", "书", "小红"], "小红")


@pytest.mark.parametrize("bad", ["{", "[1]", '{"text": "a"}', line("小红说她来", "小红", "她", True),
                                 line("小红说她来", "小红", "她", "true").replace("小红说", "小明说"),
                                 line("小红说她来", "小红", "她", "true").replace(': 0', ': -5'),
                                 line("小红说她来", "小红", "她", "true").replace('"小红", "span1', '7, "span1')])
def test_a_line_of_cluewsc_that_is_wrong_is_named(tmp_path: Path, bad: str) -> None:
    (tmp_path / "c.jsonl").write_text(line("小红说她来", "小红", "她", "true") + bad, "utf-8")
    with pytest.raises(KliegError, match=r"c.jsonl, line 2: expected a JSON object with"):
        riddles(tmp_path / "c.jsonl")


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(KliegError, match=r"no set or file 'wsc'. Did you mean 'wsc273'"):
        riddles("wsc")
    with pytest.raises(KliegError, match="pass --data FOLDER"):
        riddles("gap")
    with pytest.raises(KliegError, match=r"wsc273.txt is not there; see docs/data.md"):
        riddles("wsc273", tmp_path)
    for name, body, said in (("a.csv", b"x", "ends in none of"), ("a.txt", b"\xff\xfe\x00", "cannot be read as UTF-8"),
                             ("b.txt", b"", "0 riddles to choose a head on"), ("c.txt", schema(1).encode(), "larger set")):
        (tmp_path / name).write_bytes(body)
        with pytest.raises(KliegError, match=said):
            riddles(tmp_path / name)


def test_a_riddle_of_ones_own() -> None:
    text = "The animal didn't cross the street because it was too tired."
    assert named(posed(text, "it", ["street", "The animal"])) == ("it", ["animal", "street"], "street")
    assert named(posed("小明把书给了小红，因为她想看。", "她", ["小红", "小明"])) == ("她", ["小明", "小红"], "小红")
    assert posed("It saw it.", "it", ["saw", "It"]).pronoun == (7, 9)
    for pronoun, names, said in (("she", ["animal", "street"], "pronoun 'she' is not"), ("it", ["animal"], "two candidates"),
                                 ("it", ["animal", "road"], "'road' is not"), ("it", ["animal", "it"], "'it' is not"),
                                 ("it", ["animal", "animal didn't"], "share words"), ("it", ["animal", "animal"], "two")):
        with pytest.raises(KliegError, match=said):
            posed(text, pronoun, names)


@pytest.mark.skipif(not (DATA / "eval").is_dir(), reason="KLIEG_DATA has no eval")
@pytest.mark.parametrize("name", SETS)
def test_the_public_sets(name: str) -> None:
    """Every record is a riddle or counted as left out; gaps are filled with the first form here, as that is quick."""
    found = riddles(name, DATA, lambda choices: [0 for _ in choices])
    every = [*found.development, *found.test]
    assert not set(found.development) & set(found.test) and found.own_split == (name == "gap") and name in SETS
    if name != "gap":
        assert not {r.group for r in found.development} & {r.group for r in found.test}
    files = [(DATA / file).read_text("utf-8") for file in found.files]
    if name.startswith("w"):
        records = [record.split("\n") for record in files[0].replace("[MASK] 's", "[MASK]").strip().split("\n\n")]
        # Some records come twice, their candidates with and without an article.
        single = [(record[0], *(frozenset(name.lower().strip().removeprefix("the ") for name in line.split(","))
                                for line in record[2:4])) for record in records if record[0].count("[MASK]") == 1]
        assert found.left_out["gaps"] == len(records) - len(single)
        expected = len(set(single)) * (1 if name == "wsc273" else 2)
    elif name == "gap":
        expected = sum(len(file.strip().split("\n")) - 1 for file in files)
    else:
        rows = [json.loads(line) for file in files for line in file.strip().split("\n")]
        expected = len({(row["text"], row["target"]["span2_index"]) for row in rows})
    assert len(every) + sum(found.left_out.values()) - found.left_out["gaps"] == expected
    assert all(len(r.candidates) >= 2 and any(r.right) and not all(r.right) for r in every)
    facets = {"winobias": {"pro", "anti"}, "winogender": {"feminine", "masculine"}, "gap": {"feminine", "masculine"}}
    assert {r.facet for r in every} == facets.get(name, {""})


def test_a_riddle_by_its_places() -> None:
    text = "The dog saw a cat; it ran"
    one = marked(text, (19, 21), [(14, 17), (4, 7)])
    assert named(one) == ("it", ["dog", "cat"], "cat") and named(marked(text, (19, 21), [(14, 17), (4, 7)], 1))[2] == "dog"
    for pronoun, candidates, right, says in (
            ((19, 21), [(4, 7)], 0, "at least two"), ((19, 21), [(4, 7), (4, 7)], 0, "at least two"),
            ((19, 21), [(4, 7), (14, 17)], 2, "at least two"), ((19, 99), [(4, 7), (14, 17)], 0, "no words at 19 to 99"),
            ((3, 4), [(4, 7), (14, 17)], 0, "no words at 3 to 4"), ((19, 21), [(4, 7), (6, 10)], 0, "share words"),
            ((19, 21), [(4, 7), (18, 20)], 0, "share words")):
        with pytest.raises(KliegError, match=says) as error:
            marked(text, pronoun, candidates, right)
        assert error.value.zh
