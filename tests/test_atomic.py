"""Writing whole or not at all: failures, full disks and kills leave the old one or the new one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from klieg.atomic import atomic
from klieg.errors import KliegError


def script(body: str, folder: Path) -> subprocess.Popen:
    """Another Python process that runs `body` on a folder."""
    start = ("import sys, time\nfrom pathlib import Path\nfrom klieg.atomic import atomic\n"
             "from klieg.errors import KliegError\nfolder = Path(sys.argv[1])\n")
    return subprocess.Popen([sys.executable, "-c", start + body, str(folder)], text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_file_takes_its_place_and_nothing_is_left(tmp_path) -> None:
    target = tmp_path / "a.txt"
    for text in ("one", "two"):
        with atomic(target) as path:
            path.write_text(text)
            assert path.parent == tmp_path and path != target and path.suffix == ".txt"
            assert not target.exists() or target.read_text() == "one"
        assert target.read_text() == text
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_after_a_failure_the_old_one_stands(tmp_path, error: type[BaseException]) -> None:
    (tmp_path / "a").write_text("old")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x").write_text("old")
    with pytest.raises(error), atomic(tmp_path / "a") as path:
        path.write_text("new")
        raise error
    with pytest.raises(error), atomic(tmp_path / "d", folder=True) as path:
        (path / "x").write_text("new")
        raise error
    assert names(tmp_path) == ["a", "d"]
    assert (tmp_path / "a").read_text() == (tmp_path / "d" / "x").read_text() == "old"


def test_a_block_that_writes_nothing_is_an_error(tmp_path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(KliegError, match="cannot be written"), atomic(tmp_path / "a"):
        pass
    assert (tmp_path / "a").read_text() == "old"


@pytest.mark.parametrize("exchange", [True, False], ids=["in one step", "by two renames"])
def test_a_folder_is_exchanged_whole(tmp_path, exchange: bool, monkeypatch) -> None:
    if not exchange:
        monkeypatch.setattr("ctypes.CDLL", lambda *a, **k: object())
    for generation in ("one", "two"):
        with atomic(tmp_path / "d", folder=True) as path:
            (path / "sub").mkdir()
            (path / "sub" / generation).write_text(generation)
        assert names(tmp_path) == ["d"] and names(tmp_path / "d" / "sub") == [generation]


def test_a_link_is_written_through_and_devices_and_folders_are_left_alone(tmp_path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with atomic(tmp_path / "link") as path:
        path.write_text("new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    for place, folder, words in (("pipe", False, "it is a device"), (".", False, "it is a folder"),
                                 ("real", True, "it is a file")):
        with pytest.raises(KliegError, match=words), atomic(tmp_path / place, folder=folder):
            raise AssertionError("the block must not run")
    assert names(tmp_path) == ["link", "pipe", "real"]


def test_unwritable_places_are_one_line(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "no" / "x.svg", tmp_path / "file" / "x.svg", tmp_path / ("x" * 300)):
        with pytest.raises(KliegError, match="cannot be written") as caught, atomic(place) as path:
            path.write_text("x")
        assert "\n" not in str(caught.value) and str(place) in str(caught.value)
    assert names(tmp_path) == ["file"]


def test_a_full_disk_leaves_nothing(tmp_path) -> None:
    process = script("import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
                     "try:\n    with atomic(folder / 'a') as path:\n        path.write_bytes(b'x' * 1_000_000)\n"
                     "except KliegError as e:\n    print(e)\n", tmp_path)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert out == f"{tmp_path / 'a'} cannot be written: file too large; files may not become so large here.\n"
    assert names(tmp_path) == []


def test_a_killed_writer_leaves_the_old_file_and_the_next_one_cleans_up(tmp_path) -> None:
    (tmp_path / "a").write_text("old")
    process = script("with atomic(folder / 'a') as path:\n    path.write_text('half')\n"
                     "    print('there', flush=True)\n    time.sleep(60)\n", tmp_path)
    assert process.stdout.readline() == "there\n"
    process.kill()
    process.communicate()
    assert (tmp_path / "a").read_text() == "old"
    assert len(names(tmp_path)) == 2, "the killed process could not clean up"
    with atomic(tmp_path / "a") as path:
        path.write_text("new")
    assert names(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "new"


def test_a_living_writer_is_not_disturbed(tmp_path) -> None:
    other = tmp_path / f".a.{os.getppid()}.klieg-part"
    other.write_text("somebody is at it")
    with atomic(tmp_path / "a") as path:
        path.write_text("new")
    assert other.exists()
