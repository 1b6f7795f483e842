"""Public parallel texts by name: fetched, compared with their published checksums, laid out as docs/data.md says.

A transfer that broke off goes on where it stopped. Only what a corpus needs is taken out of an archive,
file by file, and an archive that somebody else has put into FOLDER/archives is as good as a fetched one.
A corpus whose checksum nobody publishes is not fetched: there would be no telling what came.

Sources: sizes and SHA-256 of WMT's archives are those of TensorFlow Datasets (url_checksums/wmt14_translate.txt
and wmt15_translate.txt). For Multi30k torchtext publishes MD5 (experimental/datasets/raw); the SHA-256 here are
of files that have them.
"""

from __future__ import annotations

import hashlib
import http.client
import shutil
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from klieg.atomic import atomic
from klieg.errors import KliegError, nearest

BLOCK = 2**20          # bytes at a time
PATIENCE = 60          # seconds without a byte

Told = Callable[[str, int, int], None]
"""Hears a file's name, and how many of its bytes are there."""


@dataclass(frozen=True)
class Archive:
    """A file of the web; of a tar the `members` are taken out, and another file is taken as it is."""

    url: str
    size: int
    sha256: str
    members: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


def _wmt(address: str, size: int, sha256: str, *members: str) -> Archive:
    return Archive(f"https://www.statmt.org/{address}", size, sha256, members)


def _wmt14(language: str) -> list[Archive]:
    def both(stem: str, end: str = "") -> tuple[str, str]:
        return f"{stem}.{language}{end}", f"{stem}.en{end}"

    french = [
        _wmt("wmt13/training-parallel-un.tgz", 2_365_634_246,
             "29141b5c1eba149a94f7a59d3b1a834b2e47fe0f8758d68dcd77a3d3f497ee47", *both("un/undoc.2000.fr-en")),
        _wmt("wmt10/training-giga-fren.tar", 2_595_102_720,
             "3ff8319f6919393520559bfbc7ad6a747ec81b3abc7be9993b338d4b017b4d9a", *both("giga-fren.release2.fixed", ".gz"))]
    return [
        _wmt("wmt13/training-parallel-europarl-v7.tgz", 657_632_379,
             "0224c7c710c8a063dfd893b0cc0830202d61f4c75c17eb8e31836103d27d96e7", *both(f"training/europarl-v7.{language}-en")),
        _wmt("wmt13/training-parallel-commoncrawl.tgz", 918_311_367,
             "c7a74e2ea01ac6c920123108627e35278d4ccb5701e15428ffa34de86fa3a9e5", *both(f"commoncrawl.{language}-en")),
        _wmt("wmt14/training-parallel-nc-v9.tgz", 80_418_416,
             "cb8953f292298e6877ae433c98912b927cb0766b303f4540512ddd286c748485",
             *both(f"training/news-commentary-v9.{language}-en")),
        Archive("https://data.statmt.org/wmt19/translation-task/dev.tgz", 38_654_961,
                "7a7deccf82ebb05ba508dba5eb21356492224e8f630ec4f992132b029b4b25e7", both("dev/newstest2013")),
        *(french if language == "fr" else [])]


def _multi30k() -> list[Archive]:
    place = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw"
    known = {
        "train.de": (637_044, "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6"),
        "train.en": (568_929, "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f"),
        "train.fr": (604_242, "622e75069e9f4c577425c4f277116ce66e63a2401c0a2312d90073cb12379a3c"),
        "val.de": (24_681, "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a"),
        "val.en": (21_650, "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28"),
        "val.fr": (23_001, "ca3106f1a72390591d25f6c45cb4cd39dec4cd3f123e099748a3ce5256c160e9"),
        "test_2016_flickr.de": (22_890, "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8"),
        "test_2016_flickr.en": (21_077, "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9"),
        "test_2016_flickr.fr": (22_310, "6d326e188d259fb1d04ac19eae3af956559b3a0b93d7635e56c90987c40c8b90"),
        "test_2017_flickr.de": (21_471, "a2c89666db00c495cd8513b9d708d5a3acc205d7de312ef2bf5fb7ebc1540aee"),
        "test_2017_flickr.en": (19_138, "76a444ee25172e72695cddb13ae4a3bda59430617be88e0bb46b60504f054074"),
        "test_2017_flickr.fr": (20_434, "3ba671ceb2299f3304ffafefea7a833d08632fbaf0ba18546f8a2ec2391af496"),
        "test_2017_mscoco.de": (10_230, "799e4854c25d601cb6cb6be29eabe5667734c61ace2f495e03e429031a0bc338"),
        "test_2017_mscoco.en": (8_844, "aab300bfb4427697987e02cd0aacd44bfe8aa50456231b6474c08038bbed2b58"),
        "test_2017_mscoco.fr": (9_751, "754f3072ba9f124569ba5258b32730fc1d214bbf8e0c6dfb2b74401676220db0")}
    return [Archive(f"{place}/{name}.gz", size, sha256) for name, (size, sha256) in known.items()]


CORPORA: dict[str, tuple[str, list[Archive]]] = {
    "wmt14-en-de": ("wmt14", _wmt14("de")), "wmt14-en-fr": ("wmt14", _wmt14("fr")), "multi30k": ("multi30k", _multi30k())}
"""The folder and the archives of each corpus."""

UNCHECKED = ("multi30k-tokenized", "tatoeba", "captions", "dialogues", "questions", "stories", "books", "sentences", "poems")


def download(name: str, out: Path, told: Told = lambda name, done, size: None) -> Path:
    """Brings a corpus into the folder `out`, where --data finds it; gives the corpus's own folder there."""
    if name in UNCHECKED:
        raise KliegError(f"no checksum of {name!r} is published, so Klieg does not fetch it; docs/data.md says where it comes "
                         "from and how its folder looks.")
    if name not in CORPORA:
        raise KliegError(f"no corpus {name!r}.{nearest(name, list(CORPORA))}")
    folder, archives = CORPORA[name]
    place, store = Path(out) / folder, Path(out) / "archives"
    try:
        for needed in (place, store):
            needed.mkdir(parents=True, exist_ok=True)
        for archive in archives:
            wanted = [place / member for member in archive.members or (archive.name,)]
            if not all(path.is_file() for path in wanted):
                _unpack(_fetched(archive, store, told), archive, place)
    except OSError as e:
        raise KliegError(f"{e.filename or out} cannot be written ({(e.strerror or str(e)).lower()}); choose another folder "
                         "with --out, or make room.") from None
    return place


def _fetched(archive: Archive, store: Path, told: Told) -> Path:
    """The whole archive with the right checksum, as it lies in the store. A wrong one goes if it was fetched here, and stays
    if somebody put it there."""
    path, part = store / archive.name, store / f"{archive.name}.part"
    if path.is_file():
        if (found := _sha256(path)) != archive.sha256:
            raise KliegError(f"{archive.name} is not what was published (SHA-256 {found[:12]}… and not "
                             f"{archive.sha256[:12]}…); remove {path}, and the same command fetches it.")
        return path
    have = part.stat().st_size if part.is_file() else 0
    free = shutil.disk_usage(store).free
    if archive.size - have > free:
        raise KliegError(f"{archive.name} needs {(archive.size - have) / 1e6:,.0f} MB more and {store} has "
                         f"{free / 1e6:,.0f} MB free; make room, or choose another folder with --out.")
    if have < archive.size:
        _transfer(archive, part, told)
    if (found := _sha256(part)) != archive.sha256:
        part.unlink()
        raise KliegError(f"{archive.name} is not what was published (SHA-256 {found[:12]}… and not {archive.sha256[:12]}…) "
                         "and was removed; give the same command to fetch it again.")
    part.replace(path)
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _transfer(archive: Archive, part: Path, told: Told) -> None:
    """Fetches what is missing of a file."""
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(archive.url, headers={"Range": f"bytes={have}-"} if have else {})
    done = have
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            done = have if answer.status == http.client.PARTIAL_CONTENT else 0    # others send it from the beginning
            with part.open("ab" if done else "wb") as file:
                for block in _blocks(answer):
                    file.write(block)
                    done += len(block)
                    told(archive.name, done, archive.size)
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as e:
        reason = getattr(e, "reason", e)
        if isinstance(e, urllib.error.HTTPError):
            e.close()
            reason = e
        raise KliegError(f"could not fetch {archive.url} ({str(reason) or type(e).__name__}; {done / 1e6:,.0f} of "
                         f"{archive.size / 1e6:,.0f} MB are there); give the same command to go on, or put the file into "
                         f"{part.parent} yourself.") from None
    if done < archive.size:
        raise KliegError(f"{archive.url} ended after {done:,} of {archive.size:,} bytes; give the same command to go on.")


def _blocks(stream: IO[bytes]) -> Iterator[bytes]:
    while block := stream.read(BLOCK):
        yield block


def _unpack(path: Path, archive: Archive, place: Path) -> None:
    """Takes the members out of an archive, each whole or not at all; nothing else of it is written."""
    if not archive.members:
        with path.open("rb") as file:
            _write(file, place / archive.name)
        return
    missing = set(archive.members)
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                name = str(PurePosixPath(member.name))
                stream = tar.extractfile(member) if name in missing and member.isfile() else None
                if stream is not None:
                    _write(stream, place / name)
                    missing.discard(name)
                if not missing:
                    return
    except (tarfile.TarError, EOFError, zlib.error) as e:
        raise KliegError(f"{path} is damaged ({e}); remove it and give the same command again.") from None
    raise KliegError(f"{path} does not hold {', '.join(sorted(missing))}; it is another archive of that name: remove it and "
                     "give the same command again.")


def _write(stream: IO[bytes], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as part, part.open("wb") as file:
        shutil.copyfileobj(stream, file, BLOCK)
