"""What every command shares: what is written comes out whole, and a conversation's prompts go to whoever writes."""

from __future__ import annotations

import io
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_cli import Terminal
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from klieg import shell
from klieg.errors import Follows, KliegError


class Slow(io.RawIOBase):
    """A device that takes five bytes at a time, and in all so many as it has room for."""

    def __init__(self, room: int = 1000) -> None:
        self.taken, self.room = b"", room

    def writable(self) -> bool:
        return True

    def write(self, body: bytes) -> int:
        if not (part := bytes(body[:min(5, self.room - len(self.taken))])):
            raise OSError(28, "No space left on device")
        self.taken += part
        return len(part)


def test_all_of_a_text_is_written_where_python_runs_unbuffered(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Slow()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(device, "utf-8", write_through=True))
    print("first", end=" ")
    shell.write("我爱你。" * 9 + "\n")
    assert device.taken.decode() == "first " + "我爱你。" * 9 + "\n"


def test_a_disk_that_becomes_full_is_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Slow(12)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(device, "utf-8", write_through=True))
    with pytest.raises(OSError, match="No space left"):
        shell.write("a line that is longer than that\n")


@pytest.mark.parametrize(("reads", "writes", "out", "err"), [
    (Terminal, Terminal, "› ", "\n"), (Terminal, io.TextIOWrapper, "", "› \n"), (io.TextIOWrapper, Terminal, "", ""),
    (io.TextIOWrapper, io.TextIOWrapper, "", "")])
def test_only_a_terminal_is_shown_the_prompt(reads: type, writes: type, out: str, err: str,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    streams = [kind(io.BytesIO(body), "utf-8", write_through=True) for kind, body in (
        (reads, b" one \ntwo\n"), (writes, b""), (io.TextIOWrapper, b""))]
    for name, stream in zip(("stdin", "stdout", "stderr"), streams, strict=True):
        monkeypatch.setattr(sys, name, stream)
    assert [shell.ask("› ") for _ in range(4)] == ["one", "two", "", ""]
    shown = [stream.buffer.getvalue().decode() for stream in streams[1:]]
    assert shown[0] == out * 4 and shown[1].replace("\n", "") == err[:-1] * 4 and shown[1].count("\n") == 2 * err.count("\n")


def test_marks_and_line_ends_of_another_system_are_no_part_of_a_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    assert shell.text_of(str(tmp_path / "text")) == "one\r\ntwo"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbfone\r\n"), "utf-8", newline=""))
    assert shell.given("-") == "one"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbfone\r\ntwo\r\n"), "utf-8"))
    assert [shell.ask("") for _ in range(3)] == ["one", "two", ""]


def ended(error: Exception) -> object:
    """The status of a process whose command ends in an error."""
    def invoke(context: object) -> None:
        raise error

    with pytest.raises(SystemExit) as end:
        shell.run(SimpleNamespace(make_context=lambda name, words: nullcontext(), invoke=invoke))
    return end.value.code


def test_of_several_processes_one_tells_and_torchrun_gives_that_as_the_cause(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """In torch's own reading of the file that it names."""
    waited: list[float] = []
    monkeypatch.setattr(shell.time, "sleep", waited.append)
    said = []
    for name, error in (("0", KliegError("a.toml: 中 \x1b is wrong.")), ("1", Follows("process 1 ends."))):
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / name))
        assert ended(error) == 1
        said.append(ChildFailedError("klieg", {0: ProcessFailure(0, 7, 1, str(tmp_path / name))}).format_msg())
    assert capsys.readouterr().err == "klieg: a.toml: 中 \ufffd is wrong.\n" and waited == [shell.HEARD]
    for text, line in zip(said, ("a.toml: 中 \ufffd is wrong.", "process 1 ends."), strict=True):
        assert text.splitlines()[-2].split(": ", 1) == ["  traceback ", f"klieg: {line}"]


def test_where_torchrun_names_no_file_a_mistake_is_told_and_no_more(
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for place in (None, "", "/nowhere/at/all"):
        monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)
        if place is not None:
            monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", place)
        assert ended(KliegError("so it is.")) == 1 and capsys.readouterr().err == "klieg: so it is.\n"
