"""What do the weights of every head of every layer cost in other tools, and how long a text can they take?

One model, one text, one forward pass: GPT-2 small's shape, random weights, float32. Every tool
runs in its own environment with the same torch and transformers, at its best setting. It gives
the weights as tensors, or statistics of them (entropy, column sums, the 16 largest of each row, a
map of 64 x 64 buckets, mean distance), or a page. Each measurement is a process of its own, the
tools take turns, and libraries, loading and a first short text are outside the clock. All answers
are compared with the formula in float64 by peers/truth.py. Linux only; one to two hours. Ctrl-C
ends it with the tables of what was measured until then.

    python benchmarks/peers.py [--quick] [--tools klieg,nnsight] [--lengths 64,256] [--environments FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent / "peers"
LENGTHS = (64, 256, 512, 1024, 2048, 4096, 8192, 16384)
QUICK = (64, 256, 512)
ROUNDS = 3
FAILS = "**fails**"
LONG = 60.0     # seconds of a measurement that is not repeated


@dataclass(frozen=True)
class Tool:
    """A script of peers/, what to install for it (None: it runs where this runs), and what to ask it for."""

    script: str
    package: str | None
    wants: dict[str, dict[str, str]]
    """What the script is asked for: the phases that it reports, and the line of the table for each."""


TOOLS = {
    "transformers": Tool("with_transformers.py", None, {
        "floor": {"floor": "transformers, sdpa: no weights, the floor"},
        "weights": {"weights": "transformers, eager: weights", "both": "the same, then statistics"},
        "statistics": {"statistics": "transformers, eager: statistics, layer by layer"}}),
    "klieg": Tool("with_klieg.py", None, {
        "statistics": {"statistics": "Klieg: statistics, and any weight when asked"}}),
    "transformer-lens": Tool("with_transformer_lens.py", "transformer-lens==4.3.0", {
        "weights": {"weights": "TransformerLens: weights", "both": "the same, then statistics"},
        "statistics": {"statistics": "TransformerLens: statistics, layer by layer"}}),
    "nnsight": Tool("with_nnsight.py", "nnsight==0.8.1", {
        "weights": {"weights": "nnsight: weights", "both": "the same, then statistics"},
        "statistics": {"statistics": "nnsight: statistics, layer by layer"}}),
    "bertviz": Tool("with_bertviz.py", "bertviz==1.4.1", {
        "page": {"page": "BertViz: page of all layers"},
        "layer": {"layer": "BertViz: page of one layer"}}),
}


@dataclass
class Measured:
    """Of one tool, one want and one length: what its processes reported."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    peaks: dict[str, list[int]] = field(default_factory=dict)
    page: int = 0
    failure: str | None = None
    worst: dict[str, float] = field(default_factory=dict)

    def add(self, facts: dict) -> None:
        """One line of job.py."""
        if phase := facts.get("phase"):
            self.seconds.setdefault(phase, []).append(facts["seconds"])
            self.peaks.setdefault(phase, []).append(facts["peak"])
            self.page = facts["page"] or self.page
        elif "failed" in facts:
            self.failure = facts["failed"]
        elif "wrong" in facts:
            self.failure = f"wrong: {facts['wrong']}"
            self.seconds.clear()
        else:
            self.worst = {name: max(value, self.worst.get(name, 0)) for name, value in facts.items()}

    def cell(self, phase: str) -> str:
        """Median seconds, GiB over the model's own, and MB of the page; * for a single call."""
        if phase not in self.seconds:
            return FAILS
        times = self.seconds[phase]
        shown = f"{statistics.median(times):.3g} s{'*' * (len(times) == 1)}, {max(self.peaks[phase]) / 2**30:.2f} GiB"
        return shown + (f", {self.page / 1e6:,.0f} MB" if self.page else "")


Results = dict[tuple[str, str], dict[int, Measured]]


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def pinned(package: str) -> str:
    """The version that this environment has, as a requirement."""
    return f"{package}=={version(package).split('+')[0]}"


def environment(tool: Tool, folder: Path) -> str:
    """The Python of a tool's own environment, made if it is not there; RuntimeError if it cannot be made."""
    if tool.package is None:
        return sys.executable
    wanted = [pinned("torch"), pinned("transformers"), tool.package]
    home = folder / tool.package.replace("==", "-")
    ready, python = home / "ready", str(home / "bin/python")
    if ready.exists() and ready.read_text().split() == wanted:
        return python
    say(f"installing {tool.package}")
    venv.create(home, clear=True, with_pip=True)
    # make hands its own constraints to every pip; they are Klieg's and not this tool's.
    given = {name: value for name, value in os.environ.items() if not name.startswith("PIP_") or "CONSTRAINT" not in name}
    for packages in (wanted[:1], wanted):       # torch first and alone, so that nothing asks for another one
        done = subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages],
                              capture_output=True, text=True, env=given)
        if done.returncode:
            raise RuntimeError(last_line(done.stderr, "ERROR: ") or f"pip ended with {done.returncode}")
    ready.write_text("\n".join(wanted))
    return python


def last_line(output: str, start: str = "") -> str:
    """The last line that says something and begins with `start`."""
    return next((line.strip() for line in reversed(output.splitlines()) if line.strip() and line.startswith(start)), "")


def process(python: str, script: str, *given: object, minutes: float) -> tuple[list[dict], str | None]:
    """Run a script of peers/ to its end: the lines it reported, and how it ended if not well."""
    # Nothing is fetched from a hub, and progress bars are not part of the job.
    offline = {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    child = subprocess.Popen([python, str(HERE / script), *map(str, given)], text=True, env={**os.environ, **offline},
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    ended = None
    try:
        output, errors = child.communicate(timeout=minutes * 60)
    except subprocess.TimeoutExpired:
        child.kill()
        output, errors = child.communicate()
        ended = f"not done after {minutes:g} minutes"
    except BaseException:
        child.kill()
        raise
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    if ended is None and child.returncode < 0:
        ended = f"killed by signal {-child.returncode}"
    elif ended is None and child.returncode:
        ended = last_line(errors) or f"ended with {child.returncode}"
    return lines, ended


def asked(names: list[str]) -> Iterator[tuple[str, str]]:
    return ((name, want) for name in names for want in TOOLS[name].wants)


def run(names: list[str], lengths: list[int], pythons: dict[str, str], broken: dict[str, str],
        folder: Path, given: argparse.Namespace) -> Results:
    """Every tool at every length, in turns, until it fails, or until Ctrl-C."""
    results: Results = {key: {} for key in asked(names)}
    with suppress(KeyboardInterrupt):
        fill(results, lengths, pythons, broken, folder, given)
    # What was being measured has nothing to tell.
    return {key: {length: one for length, one in measured.items() if one.seconds or one.failure}
            for key, measured in results.items()}


def fill(results: Results, lengths: list[int], pythons: dict[str, str], broken: dict[str, str], folder: Path,
         given: argparse.Namespace) -> None:
    """Adds what each process measured to the results."""
    failed = {(name, want) for name, want in results if name in broken}
    for length in lengths:
        if failed == set(results):
            break
        say(f"{length} tokens: the formula in float64")
        _, ended = process(sys.executable, "truth.py", folder, length, minutes=60)
        if ended:
            say(f"nothing to compare with at {length} tokens, and no longer text is tried: {ended}")
            break
        for turn in range(given.rounds):
            for name, want in (key for key in results if key not in failed):
                measured = results[name, want].setdefault(length, Measured())
                if turn and any(seconds[0] > LONG for seconds in measured.seconds.values()):
                    continue
                lines, ended = process(pythons[name], TOOLS[name].script, folder, want, length, given.memory,
                                       minutes=given.minutes)
                for facts in lines:
                    measured.add(facts)
                measured.failure = measured.failure or ended
                first, *_ = TOOLS[name].wants[want]
                if first not in measured.seconds:
                    failed.add((name, want))
                say(f"  {name} {want}: {measured.failure or measured.cell(first)}")


def rows(results: Results) -> Iterator[tuple[str, str, str, dict[int, Measured]]]:
    """Of each row of the tables: its tool, phase and label, and what was measured by length."""
    for (name, want), measured in results.items():
        for phase, label in TOOLS[name].wants[want].items():
            yield name, phase, label, measured


def costs(results: Results, lengths: list[int]) -> str:
    """Seconds and memory by length, up to the first that fails."""
    made = ["| | " + " | ".join(f"{length:,}" for length in lengths) + " |", "|---|" + "---|" * len(lengths)]
    for _, phase, label, measured in rows(results):
        cells = [measured[length].cell(phase) if length in measured else "" for length in lengths]
        if FAILS in cells:
            cells[cells.index(FAILS) + 1:] = [""] * (len(cells) - cells.index(FAILS) - 1)
        made.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(made)


def ends(results: Results, broken: dict[str, str]) -> str:
    """How far each tool goes, how it fails there, and how far its numbers are from float64."""
    made = ["| | first length that fails | how | error of weights | of statistics |", "|---|---|---|---|---|"]
    for name, phase, label, measured in rows(results):
        length, how = next(((f"{n:,}", one.failure) for n, one in measured.items() if phase not in one.seconds),
                           ("none of these", ""))
        if name in broken:
            length, how = "cannot be installed", broken[name]
        # A message stays one line, and says nothing of where this machine keeps its files.
        how = re.sub(r"(/[\w.+-]+){2,}/", "", " ".join(how.split())).replace("|", "\\|")
        errors = [[one.worst[kind] for one in measured.values() if kind in one.worst] for kind in ("weights", "statistics")]
        shown = " | ".join(f"{max(values):.1e}" if values else "–" for values in errors)
        made.append(f"| {label} | {length} | {how} | {shown} |")
    return "\n".join(made)


def free() -> float:
    """GiB of memory that nobody uses."""
    found = re.search(r"MemAvailable:\s*(\d+)", Path("/proc/meminfo").read_text())
    return int(found[1]) / 2**20


def machine(memory: float) -> str:
    """What the figures belong to."""
    import torch

    info = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*: (.*)", info)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (f"{model[1] if model else platform.machine()}, {torch.get_num_threads()} threads, {total:.0f} GiB of which "
            f"a process may take {memory:g}; Python {platform.python_version()}, torch {version('torch')}, transformers "
            f"{version('transformers')}, {', '.join(tool.package for tool in TOOLS.values() if tool.package)}; {date.today()}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"only lengths {QUICK} and one round: does the script work?")
    parser.add_argument("--tools", default=",".join(TOOLS), help="with commas; default: all")
    parser.add_argument("--lengths", help="tokens, with commas; multiples of 64")
    parser.add_argument("--rounds", type=int, help=f"processes for each measurement; default {ROUNDS}")
    parser.add_argument("--memory", type=float, default=round(0.95 * free(), 1), help="GiB that a process may take; "
                        "default: most of what is free")
    parser.add_argument("--minutes", type=float, default=30, help="that a process may take")
    parser.add_argument("--environments", type=Path, default=Path(tempfile.gettempdir()) / "klieg-peers",
                        help="folder for the tools' environments, some 4 GB; kept")
    given = parser.parse_args()
    given.tools = given.tools.split(",")
    given.lengths = [int(n) for n in given.lengths.split(",")] if given.lengths else list(QUICK if given.quick else LENGTHS)
    given.rounds = given.rounds or (1 if given.quick else ROUNDS)
    if unknown := set(given.tools) - set(TOOLS):
        parser.error(f"no such tool: {', '.join(sorted(unknown))}; there are {', '.join(TOOLS)}")
    if any(length < 64 or length % 64 for length in given.lengths):
        parser.error("lengths are multiples of 64")
    return given


def main() -> None:
    given = arguments()
    pythons, broken = {}, {}
    for name in given.tools:
        try:
            pythons[name] = environment(TOOLS[name], given.environments)
        except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
            broken[name] = str(error)
            say(f"{name} cannot be installed: {error}")
    with tempfile.TemporaryDirectory(prefix="klieg-peers-") as folder:
        results = run(given.tools, sorted(given.lengths), pythons, broken, Path(folder), given)
    lengths = [length for length in sorted(given.lengths) if any(length in measured for measured in results.values())]
    print(costs(results, lengths))
    print("\nMedian seconds of up to nine calls, * of one; peak memory beyond the model's own; size of the page.\n")
    print(f"{ends(results, broken)}\n\nErrors are the largest difference from the formula in float64, of statistics as a "
          f"part of their largest value.\n\n{machine(given.memory)}")


if __name__ == "__main__":
    main()
