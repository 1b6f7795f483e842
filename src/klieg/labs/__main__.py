"""A lab in a process of its own, which can be ended at any moment: what it found, or why it refused, as one line of JSON.

    python -m klieg.labs ages
"""

from __future__ import annotations

import sys

from klieg.errors import KliegError
from klieg.labs import find
from klieg.labs.written import refusal, write


def main(name: str) -> int:
    """The status with which the process ends: 1 for a refusal."""
    status = 0
    try:
        line = write(find(name).run())
    except KliegError as error:
        line, status = refusal(error), 1
    sys.stdout.buffer.write(f"{line}\n".encode())
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
