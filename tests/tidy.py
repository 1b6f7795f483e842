"""The working tree is as tidy after a test as it was before: whatever a test writes, it writes to a folder of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ["", "docs", "recipes", "src", "src/klieg", "tests"]


def entries(root: Path) -> set[str]:
    """Files and folders that somebody sees; caches and the like hide behind a dot or two underscores."""
    there = [(folder, entry.name) for folder in FOLDERS if (root / folder).is_dir() for entry in os.scandir(root / folder)]
    return {f"{folder}/{name}" if folder else name for folder, name in there if not name.startswith((".", "__"))}


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    before = entries(ROOT)
    yield
    left = entries(ROOT) - before
    assert not left, f"a test has left {', '.join(sorted(left))} in the working tree; give it tmp_path, or the fixture `here`"
