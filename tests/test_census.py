"""Reading a corpus into a tally, shared by several processes: the numbers of one, and nothing counted twice or lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from apart import PATIENCE, died, free, together
from test_atlas import atlas, corpus, reader, texts, tokenizer  # noqa: F401
from test_cli import here, refused, run, tiny  # noqa: F401

from klieg.analysis.atlas import Atlas, empty, gather, scored
from klieg.analysis.atlas.census import _gone_on, leftover, read, shared
from klieg.analysis.atlas.corpus import Corpus
from klieg.analysis.atlas.probes import Plain
from klieg.analysis.reader import Reader, load
from klieg.errors import KliegError
from klieg.parallel import Group, group

TEXT = "I love you and the cat loves the moon. The moon and the cat love you, and you love the moon. "


def same(found: Atlas, expected: Atlas) -> None:
    assert found.counts == expected.counts and (found.place, found.whole) == (expected.place, expected.whole)
    for name, x in expected.sums.items():
        assert torch.allclose(found.sums[name], x, rtol=1e-6, atol=1e-9), name


@pytest.mark.parametrize("size", [2, 3, 50])
@pytest.mark.parametrize("tokens", [None, 200])
def test_the_shares_add_up_to_what_one_process_reads(reader: Reader, corpus: Corpus, size: int, tokens: int | None) -> None:  # noqa: F811
    one, total = empty(reader, corpus, 32), empty(reader, corpus, 32)
    gather(one, reader, corpus, tokens)
    for rank in range(size):
        part = empty(reader, corpus, 32)
        gather(part, reader, corpus, tokens, group=Group(rank, size))
        assert part.counts["windows"] < one.counts["windows"] and part.place == one.place
        total.take(part)
    total.place, total.whole = one.place, one.whole
    same(total, one)


def test_the_windows_of_one_piece_are_shared_too(reader: Reader, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "one.txt").write_text(TEXT * 8, "utf-8")
    source, found = Corpus(tmp_path / "one.txt"), []
    for rank in range(2):
        found.append(empty(reader, source, 32))
        gather(found[rank], reader, source, group=Group(rank, 2))
    windows = [part.counts["windows"] + part.counts["short"] for part in found]
    assert len(list(source.pieces())) == 1 and sum(windows) > 4 and abs(windows[0] - windows[1]) <= 1


def test_a_fault_is_counted_by_one_process(reader: Reader, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "some.jsonl").write_text("".join(f'{{"text": "{TEXT}"}}\nno JSON {n}\n' for n in range(5)), "utf-8")
    parts = []
    for rank in range(3):
        source = Corpus(tmp_path / "some.jsonl")
        parts.append(empty(reader, source, 32))
        gather(parts[rank], reader, source, group=Group(rank, 3))
    assert sum(part.counts["broken"] for part in parts) == 5


def test_parts_of_another_number_of_processes_are_refused_and_added_ones_go(reader: Reader, corpus: Corpus,  # noqa: F811
                                                                           tmp_path: Path) -> None:
    path, base = tmp_path / "atlas.safetensors", empty(reader, corpus, 32)
    part = empty(reader, corpus, 32)
    gather(part, reader, corpus, 100, tmp_path / "atlas.part-1-of-2.safetensors", group=Group(1, 2))
    leftover(path, base, 2)
    assert _gone_on(tmp_path / "atlas.part-1-of-2.safetensors", empty(reader, corpus, 32)).counts == part.counts
    for other in (empty(reader, corpus, 16), empty(Reader(reader.decoder(), reader.tokenizer, "tiny", "new"), corpus, 32)):
        with pytest.raises(KliegError, match="share of another model, corpus or window"):
            _gone_on(tmp_path / "atlas.part-1-of-2.safetensors", other)
    with pytest.raises(KliegError, match=r"share of 2 processes.*--nproc-per-node 2"):
        leftover(path, base, 1)
    base.place = part.place      # as if it had been added, and the process killed before it could remove it
    leftover(path, base, 1)
    assert not list(tmp_path.iterdir())


def work(rank: int, port: int, model: str, texts: str, path: str, dies: int | None) -> None:  # noqa: F811
    """What each of two processes does, up to 300 tokens and then to the end; process 1 kills itself after so many windows."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    reader, source, place = load(model), Corpus(texts), Path(path)  # noqa: F811

    def reading(part: Atlas, mine: Path, most: int | None) -> None:
        def visit(text: object, seed: int) -> None:
            if dies is not None and rank == 1 and part.counts["windows"] >= dies:
                os.kill(os.getpid(), signal.SIGKILL)
            scored(part, reader)(text, seed)

        read(part, source, Plain(reader), visit, most, mine, every=2, group=two)

    with group(cards=False) as two:
        for name, tokens in (("some", 300), ("whole", None)):
            base = (Atlas.load(place) if place.exists() else empty(reader, source, 32)) if rank == 0 else None
            found = shared(base, place, empty(reader, source, 32 if rank == 0 else None), reading, tokens, two)
            assert (found is None) == (rank == 1)
            if found is not None:
                found.save(place.with_name(f"{name}.safetensors"))


def test_two_processes_one_of_which_is_killed_find_what_one_finds(tiny: Path, corpus: Corpus, tmp_path: Path) -> None:  # noqa: F811
    path, own = tmp_path / "atlas.safetensors", load(str(tiny))
    one, some = empty(own, corpus, 32), empty(own, corpus, 32)
    gather(one, own, corpus)
    gather(some, own, corpus, 300)
    given = str(tiny), str(corpus.path), str(path)
    assert died(work, free(), *given, 3)                                # killed between two checkpoints
    assert not path.exists()
    assert Atlas.load(tmp_path / "atlas.part-1-of-2.safetensors").counts["windows"] == 2
    assert together(work, free(), *given, None)
    same(Atlas.load(tmp_path / "some.safetensors"), some)
    for name in ("whole", "atlas"):
        same(Atlas.load(tmp_path / f"{name}.safetensors"), one)
    assert not list(tmp_path.glob("*.part-*"))


@pytest.mark.slow
def test_torchrun_shares_a_corpus_and_survives_a_kill(here: Path, tiny: Path) -> None:  # noqa: F811
    (here / "corpus.txt").write_text("\n\n".join(TEXT * (1 + n % 9) for n in range(160)), "utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "klieg", "atlas",
               str(tiny), "corpus.txt", "-o", "two"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment,
                               start_new_session=True)
    until = time.monotonic() + PATIENCE
    wait_for(lambda: bool(list(Path("two").glob("atlas.part-*"))) or process.poll() is not None, until)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    refused(run("atlas", tiny, "corpus.txt", "-o", "two"), r"share of 2 processes")
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("wrote two/atlas.csv") == 1
    assert run("atlas", tiny, "corpus.txt", "-o", "one").status == 0
    same(*(Atlas.load(Path(name) / "atlas.safetensors") for name in ("two", "one")))
    assert not list(Path("two").glob("*.part-*"))


def wait_for(there: Callable[[], bool], until: float) -> None:
    while not there() and time.monotonic() < until:
        time.sleep(0.02)
