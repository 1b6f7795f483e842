"""Files and folders that are written whole or not at all.

What is written goes beside its target, is synced to the disk and renamed, so that a full disk,
Ctrl-C or a kill at any moment leaves the old one or the new one, never half of one.

    with atomic(Path("map.svg")) as path:
        path.write_text(svg)
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from klieg.errors import KliegError


@contextlib.contextmanager
def atomic(path: Path, folder: bool = False) -> Iterator[Path]:
    """Yields a name beside `path`; what is written there takes its place when the block ends well.

    The name ends as the target's does, for libraries that go by it. With folder=True it
    is an empty folder, and a previous folder is exchanged for it: in one step on Linux (renameat2);
    elsewhere by two renames, and a kill between them leaves the previous folder beside its place as
    `.NAME.PID.old`. After a failure nothing new is left, and an OSError becomes a KliegError.
    What a killed process left behind is removed by the next writer in the same folder.
    """
    target = Path(os.path.realpath(path))
    part = target.with_name(f".{target.stem}.{os.getpid()}.klieg-part{target.suffix}")
    try:
        _refuse_other_kinds(target, folder)
        _sweep(target.parent)
        if folder:
            part.mkdir()
        yield part
        _sync(part)
        if folder and target.exists():
            _exchange(part, target)
        else:
            part.replace(target)
        _sync_entry(target.parent)
    except OSError as e:
        raise KliegError(f"{path} cannot be written: {_reason(e)}.") from None
    finally:
        _remove(part)


def _refuse_other_kinds(target: Path, folder: bool) -> None:
    """A folder is never replaced by a file, nor a device or a pipe by anything."""
    kind = "folder" if target.is_dir() else "file" if target.is_file() else "device"
    wanted = "folder" if folder else "file"
    if os.path.lexists(target) and kind != wanted:
        raise KliegError(f"{target} cannot be written: it is a {kind}; name a {wanted}.")


def _sweep(folder: Path) -> None:
    """Removes what writers that are no longer alive have left here."""
    for left in folder.glob(".*.klieg-part*"):
        pid = re.search(r"\.(\d+)\.klieg-part", left.name)
        if pid and not _alive(int(pid[1])):
            _remove(left)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _sync(path: Path) -> None:
    """Flushes a file, or a folder with all that is in it, to the disk."""
    if path.is_dir():
        for child in path.iterdir():
            _sync(child)
    _sync_entry(path)


def _sync_entry(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _exchange(new: Path, old: Path) -> None:
    """Swaps two folders; the previous one is then under the new one's name, and removed with it."""
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is not None and rename(here, os.fsencode(new), here, os.fsencode(old), exchange) == 0:
        return
    away = old.with_name(f".{old.name}.{os.getpid()}.old")
    old.rename(away)
    try:
        new.rename(old)
    except OSError:
        away.rename(old)
        raise
    _remove(away)


def _remove(path: Path) -> None:
    """Removes what is there, as far as it can be."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _reason(error: OSError) -> str:
    """Why writing failed, in words, with what to do."""
    advice = {errno.ENOSPC: "; free some space", errno.EFBIG: "; files may not become so large here",
              errno.ENOENT: "; make its folder first", errno.EACCES: "; choose another place",
              errno.EROFS: "; choose another place"}
    return f"{(error.strerror or str(error)).lower()}{advice.get(error.errno or 0, '')}"
