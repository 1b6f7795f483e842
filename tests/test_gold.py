"""Gold and Pharaoh lines, and the figures that were published for gold and links that lie side by side."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from klieg.analysis.alignment.gold import pharaoh, read_gold
from klieg.errors import KliegError

EVAL = Path(os.environ.get("KLIEG_DATA", "no such folder")) / "eval/alignment_awesome_align"


def test_lines_become_links_from_0(tmp_path: Path) -> None:
    (tmp_path / "one.gold").write_text("1-2 2-1 3p3\n\n2-2\n", "utf-8")
    gold = read_gold(tmp_path / "one.gold")
    assert gold.first == 1
    assert gold.sure == [{(0, 1), (1, 0)}, set(), {(1, 1)}]
    assert gold.possible == [{(0, 1), (1, 0), (2, 2)}, set(), {(1, 1)}]
    (tmp_path / "zero.gold").write_text("\ufeff1-2 2-0\r\n", "utf-8")
    assert read_gold(tmp_path / "zero.gold").sure == [{(1, 2), (2, 0)}]
    assert read_gold(tmp_path / "one.gold", first=0).sure[2] == {(2, 2)}
    assert gold.part([2]).sure == [{(1, 1)}] and gold.against([{(0, 1)}, set(), set()]).recall == 1 / 3


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    found = [{(3, 1), (0, 0), (10, 2)}, set()]
    assert pharaoh(found[0]) == "0-0 3-1 10-2"
    (tmp_path / "found").write_text("".join(pharaoh(links) + "\n" for links in found), "utf-8")
    assert read_gold(tmp_path / "found").sure == found


@pytest.mark.parametrize("line", ["1-2 a-3", "1:2", "-1-2", "1-", "1-2-3", "٣-1", "99999999999999-1"])
def test_a_line_that_is_none_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "gold").write_text(f"1-1\n{line}\n", "utf-8")
    with pytest.raises(KliegError, match=r"gold, line 2: .* is no link"):
        read_gold(tmp_path / "gold")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name in ("binary", "missing", "."):
        with pytest.raises(KliegError, match="cannot be read as gold"):
            read_gold(tmp_path / name)


@pytest.mark.skipif(not EVAL.is_dir(), reason="KLIEG_DATA has no eval/alignment_awesome_align")
@pytest.mark.parametrize(("name", "published"), [("enfr", 4.1), ("zhen", 13.3), ("roen", 20.8), ("jaen", 37.4)])
def test_the_links_of_awesome_align_have_its_published_error_rate(name: str, published: float) -> None:
    gold, found = read_gold(EVAL / f"{name}.gold"), read_gold(EVAL / f"{name}.awesome-align.out", first=0)
    assert gold.first == 1
    assert abs(100 * gold.against(found.possible).aer - published) < 0.06
