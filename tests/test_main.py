"""The program as a process: Ctrl-C anywhere, pipes that close, disks that fill. One line, and nothing half written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_train import write_recipe

from klieg.__main__ import stop

SOURCE = Path(__file__).parents[1] / "src"
STOPPED = "klieg: stopped.\n"
Start = Callable[..., subprocess.Popen]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the program in an empty folder, under what a shell does before it, and ends what a test left running."""
    running: list[subprocess.Popen] = []
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1", "COLUMNS": "100",
                   "LC_ALL": "C.UTF-8"}

    def start(*argv: str | Path, shell: str = 'exec "$@"') -> subprocess.Popen:
        command = ["sh", "-c", shell, "sh", sys.executable, "-m", "klieg", *map(str, argv)]
        running.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        env=environment, cwd=tmp_path, text=True))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            pipe.close()


def ended(process: subprocess.Popen, status: int) -> tuple[str, str]:
    """What the process still said; it ends by itself."""
    out, err = process.communicate(timeout=60)
    assert process.returncode == status, (process.returncode, out, err)
    return out, err


def interrupted(process: subprocess.Popen) -> tuple[str, str]:
    """Ctrl-C now."""
    process.send_signal(signal.SIGINT)
    return ended(process, 130)


@pytest.mark.parametrize("after", [0.15, 0.4, 0.8])
def test_ctrl_c_while_it_loads(after: float, start: Start) -> None:
    process = start("chat")
    time.sleep(after)
    assert interrupted(process) == ("", STOPPED)


@pytest.mark.parametrize(("argv", "environment", "said"), [
    ((), "LC_ALL=zh_CN.UTF-8", "klieg: 已停止。\n"), (("--lang", "zh"), "LC_ALL=C.UTF-8", "klieg: 已停止。\n"),
    (("--lang", "en"), "LC_ALL=zh_CN.UTF-8", STOPPED), (("--lang", "zh"), "PYTHONIOENCODING=ascii", "klieg: ????\n")])
def test_ctrl_c_is_told_in_the_language_of_the_command(argv: tuple[str, ...], environment: str, said: str,
                                                       start: Start) -> None:
    process = start("serve", "--no-browser", "--port", "0", *argv, shell=f'{environment} exec "$@"')
    address = process.stdout.readline()
    assert interrupted(process)[1] == said
    if said == "klieg: 已停止。\n":
        assert address.startswith("Klieg 的地址（按 Ctrl-C 结束）：http://127.0.0.1:")


def test_ctrl_c_while_it_generates(start: Start) -> None:
    process = start("generate", "Once upon a time", "--tokens", "490", "--temperature", "5", "--top-p", "1")
    assert process.stdout.read(20).startswith("Once upon a time")
    assert interrupted(process)[1] == STOPPED


def test_ctrl_c_while_it_serves(start: Start) -> None:
    process = start("serve", "--no-browser", "--port", "0")
    assert "Klieg is at http://127.0.0.1:" in process.stdout.readline()
    assert interrupted(process) == ("", STOPPED)


def test_ctrl_c_while_it_trains_loses_nothing_that_was_saved(start: Start, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, steps=100_000, validate_every=2, checkpoint_every=2)
    process = start("train", recipe, "--out", "run", "--threads", "1")
    while "step 6:" not in process.stderr.readline():
        assert process.poll() is None
    assert interrupted(process)[1].endswith(STOPPED)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert "model" not in names and not [name for name in names if "part" in name]
    again = start("train", recipe, "--out", "run", "--threads", "1")
    while "going on from step" not in (line := again.stderr.readline()):
        assert again.poll() is None
    assert int(line.split()[-1]) >= 6
    interrupted(again)


def test_ctrl_c_ends_a_module_that_swallows_it_and_interrupts_everything_else(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        stop(signal.SIGINT, None)
    (tmp_path / "swallows.py").write_text("import signal\ntry:\n    signal.raise_signal(signal.SIGINT)\n"
                                          "except KeyboardInterrupt:\n    pass\n")
    code = ("import signal; from klieg.__main__ import stop; signal.signal(signal.SIGINT, stop)\n"
            "import swallows; print('went on')")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=tmp_path,
                          env={"PYTHONPATH": str(SOURCE)})
    assert (done.returncode, done.stdout, done.stderr) == (130, "", STOPPED)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_goes_away_is_no_error(unbuffered: str, start: Start) -> None:
    long = " ".join(["love"] * 400)  # its JSON is more than a pipe holds
    process = start("explain", long, "--json", "-", shell=f'PYTHONUNBUFFERED={unbuffered} exec "$@"')
    assert process.stdout.readline() == "{\n"
    process.stdout.close()
    assert (process.wait(60), process.stderr.read()) == (1, "")


def test_a_full_disk_leaves_what_was_there(start: Start, tmp_path: Path) -> None:
    (tmp_path / "love.svg").write_text("the picture of yesterday")
    out, err = ended(start("explain", "I love you", "--svg", "love.svg", shell='ulimit -f 20; exec "$@"'), 1)
    assert out == "" and err.startswith("klieg: love.svg cannot be written: ") and err.count("\n") == 1
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"love.svg": "the picture of yesterday"}


def test_standard_output_that_is_full_or_closed(start: Start) -> None:
    full = ended(start("--help", shell='exec "$@" >/dev/full'), 1)
    assert full == ("", "klieg: standard output failed: no space left on device.\n")
    closed = ended(start("--help", shell='exec "$@" >&-'), 1)
    assert closed == ("", "klieg: standard output is closed; send it to a file or to /dev/null.\n")


def test_the_module_and_the_script_are_the_same_program(start: Start) -> None:
    asked = "explain", "--help"
    module, no_module = (ended(start(*asked), 0), ended(start("explain", "--helpp"), 2))
    script = [str(Path(sys.executable).parent / "klieg"), *asked]
    done = subprocess.run(script, capture_output=True, text=True, timeout=60,
                          env={**os.environ, "PYTHONPATH": str(SOURCE), "COLUMNS": "100"})
    assert (done.returncode, done.stdout, done.stderr) == (0, *module) and "Usage: klieg explain" in module[0]
    assert no_module == ("", "klieg: no such option: --helpp (Possible options: --head, --help, --html). "
                             "See klieg explain --help.\n")
