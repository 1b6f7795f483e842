"""What every command shares: what is written comes out whole, and a conversation's prompts go to whoever writes."""

from __future__ import annotations

import io
import sys

import pytest
from test_cli import Terminal

from klieg import shell


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
