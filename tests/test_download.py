"""Downloads from a server of the test's own: resumed, checked, unpacked; and the corpora that are named."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from klieg.bitexts import CORPORA as PAIRS
from klieg.bitexts import WMT14, read_pairs
from klieg.data import CORPORA as TEXTS
from klieg.download import CORPORA, UNCHECKED, Archive, download
from klieg.errors import KliegError
from klieg.recipe import PairSource

ENGLISH = "".join(f"line {n}\n" for n in range(3000)).encode()


def tar(files: dict[str, bytes]) -> bytes:
    body = io.BytesIO()
    with tarfile.open(fileobj=body, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return body.getvalue()


TAR = tar({"./training/a.en": ENGLISH, "training/a.de": ENGLISH.upper(), "training/a.fr": b"not wanted", "../evil": b"never"})


class Server(BaseHTTPRequestHandler):
    """Serves TAR; `asked` lists the ranges, `cut` ends an answer early, `ranges` says whether parts are served."""

    asked: ClassVar[list[str | None]] = []
    cut: int | None = None
    ranges = True

    def do_GET(self) -> None:
        begin = int((self.headers.get("Range") or "bytes=0-")[6:-1]) if self.ranges else 0
        self.asked.append(self.headers.get("Range"))
        self.send_response(206 if begin else 200 if "tgz" in self.path else 404)
        self.end_headers()
        self.wfile.write(TAR[begin:self.cut])

    def log_message(self, format: str, *given: object) -> None:
        pass


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(Server, "asked", [])
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def named(monkeypatch: pytest.MonkeyPatch, url: str, **changed: object) -> None:
    given = {"size": len(TAR), "sha256": hashlib.sha256(TAR).hexdigest(), "members": ("training/a.en", "training/a.de")}
    monkeypatch.setitem(CORPORA, "mine", ("mine", [Archive(url, **{**given, **changed})]))


def test_it_is_fetched_checked_and_unpacked(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named(monkeypatch, f"{address}/mine.tgz")
    told: list[tuple[str, int, int]] = []
    place = download("mine", tmp_path, lambda *said: told.append(said))
    assert told[-1] == ("mine.tgz", len(TAR), len(TAR))
    found = {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}
    assert found == {"training/a.en": ENGLISH, "training/a.de": ENGLISH.upper()} and not (tmp_path / "evil").exists()
    download("mine", tmp_path)
    assert len(Server.asked) == 1                                    # what is there is not asked for again
    (place / "training/a.de").unlink()
    download("mine", tmp_path)
    assert len(Server.asked) == 1 and (place / "training/a.de").read_bytes() == ENGLISH.upper()


@pytest.mark.parametrize("ranges", [True, False])
def test_a_transfer_that_broke_off_goes_on(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranges: bool) -> None:
    named(monkeypatch, f"{address}/mine.tgz")
    monkeypatch.setattr(Server, "ranges", ranges)
    monkeypatch.setattr(Server, "cut", 1000)
    with pytest.raises(KliegError, match="ended after 1,000 of"):
        download("mine", tmp_path)
    monkeypatch.setattr(Server, "cut", None)
    place = download("mine", tmp_path)
    assert Server.asked == [None, "bytes=1000-"] and (place / "training/a.en").read_bytes() == ENGLISH


def test_a_file_of_ones_own_is_as_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named(monkeypatch, "http://127.0.0.1:9/mine.tgz")
    with pytest.raises(KliegError, match=r"could not fetch .*put the file into .*archives yourself"):
        download("mine", tmp_path)
    (tmp_path / "archives/mine.tgz").write_bytes(TAR)
    assert (download("mine", tmp_path) / "training/a.en").read_bytes() == ENGLISH


def test_what_is_not_as_published_is_refused(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named(monkeypatch, f"{address}/mine.tgz", sha256="0" * 64)
    with pytest.raises(KliegError, match="is not what was published"):
        download("mine", tmp_path)
    assert not list((tmp_path / "archives").iterdir()) and not list((tmp_path / "mine").iterdir())
    own = tmp_path / "archives/mine.tgz"
    own.write_bytes(TAR)
    with pytest.raises(KliegError, match=r"is not what was published .* remove .*mine\.tgz"):
        download("mine", tmp_path)
    assert own.read_bytes() == TAR
    named(monkeypatch, f"{address}/mine.tgz", members=("training/a.xx",))
    with pytest.raises(KliegError, match=r"does not hold training/a\.xx"):
        download("mine", tmp_path)
    named(monkeypatch, f"{address}/nothing")
    with pytest.raises(KliegError, match="404"):
        download("mine", tmp_path / "other")
    named(monkeypatch, f"{address}/mine.tgz", size=10**18)
    with pytest.raises(KliegError, match="MB more"):
        download("mine", tmp_path / "full")


def test_a_single_file_is_taken_as_it_is(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named(monkeypatch, f"{address}/mine.tgz", members=())
    assert (download("mine", tmp_path) / "mine.tgz").read_bytes() == TAR


def test_every_name_is_a_corpus_or_told_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(KliegError, match=r"no checksum of 'tatoeba' .*docs/data\.md"):
        download("tatoeba", tmp_path)
    with pytest.raises(KliegError, match="Did you mean 'multi30k'"):
        download("multi30", tmp_path)
    known = {name if name != "wmt14-en-de" and name != "wmt14-en-fr" else "wmt14" for name in CORPORA}
    assert known | set(UNCHECKED) == set(PAIRS) | set(TEXTS)
    for _, archives in CORPORA.values():
        for archive in archives:
            assert archive.url.startswith("https://") and len(bytes.fromhex(archive.sha256)) == 32 and archive.size > 8000


def test_wmt14_is_read_where_it_is_laid_out(tmp_path: Path) -> None:
    """Each file that reading asks for is one that downloading brings."""
    for language, parts in WMT14.items():
        brought = {member for archive in CORPORA[f"wmt14-en-{language}"][1] for member in archive.members}
        asked = {f"{part}.{side}" for part in [*parts, "dev/newstest2013"] for side in ("en", language)}
        assert {name.removesuffix(".gz") for name in brought} == asked
        for name in brought:
            path = tmp_path / "wmt14" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            body = f"{name.removesuffix('.gz')}\n".encode()
            path.write_bytes(gzip.compress(body) if name.endswith(".gz") else body)
        pairs = list(read_pairs(PairSource("wmt14", "en", language), str(tmp_path), "train"))
        assert pairs == [(f"{part}.en", f"{part}.{language}") for part in parts]
        held = list(read_pairs(PairSource("wmt14", language, "en"), str(tmp_path), "validation"))
        assert held == [(f"dev/newstest2013.{language}", "dev/newstest2013.en")]
    with pytest.raises(KliegError, match="wmt14 has no en-zh; it has en with de and fr"):
        list(read_pairs(PairSource("wmt14", "en", "zh"), str(tmp_path), "train"))
