"""How long does `klieg explain "I love you"` take as a whole process, beside `import torch` alone?

    python benchmarks/startup.py [--runs 7]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time


def seconds(command: list[str], expect: str) -> float:
    """Wall time of one process, whose output must hold what it is run for."""
    started = time.perf_counter()
    out = subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8").stdout
    took = time.perf_counter() - started
    assert expect in out, f"{command} did not print {expect!r}"
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    given = parser.parse_args()
    explain = [sys.executable, "-m", "klieg", "explain", "I love you", "--lang", "en"]
    bare = [sys.executable, "-c", "import torch; print(torch.__version__)"]
    pairs = [(seconds(explain, "exact"), seconds(bare, ".")) for _ in range(given.runs + 1)][1:]
    print(f"klieg explain  {statistics.median(a for a, _ in pairs):6.2f} s   (median of {given.runs}, whole process)")
    print(f"import torch   {statistics.median(b for _, b in pairs):6.2f} s")
    print(f"ratio          {statistics.median(a / b for a, b in pairs):6.2f}   (bar: 2.0)")


if __name__ == "__main__":
    main()
