"""Where the program starts: `klieg`, and `python -m klieg` for launchers such as torchrun.

Nothing that takes time is loaded before Ctrl-C is looked after, so it ends in one line and status 130 anywhere.
"""

import os
import signal
import sys
from contextlib import suppress
from types import FrameType

from klieg.tongue import asked

# Not in the catalogue: this line is said while anything may be half loaded.
STOPPED = {"en": "klieg: stopped.\n", "zh": "klieg: 已停止。\n"}


def main() -> None:
    """The console script."""
    signal.signal(signal.SIGINT, stop)
    try:
        from klieg.cli import main as run
        run()
        status = 0
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _say_so()
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        # Not sys.exit(): Python ends by the signal, and not with 130, if it once came while a string was run as code.
        os._exit(130)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # what was to be done is done; only tidying up is left
    sys.exit(status)


def stop(number: int, frame: FrameType | None) -> None:
    """Ctrl-C. While a module loads nothing is half written, and libraries swallow exceptions there: it ends at once."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            _say_so()
            os._exit(130)
        frame = frame.f_back
    raise KeyboardInterrupt


def _say_so() -> None:
    """Past Python's own stream, which may be in the middle of a line."""
    os.write(2, STOPPED[asked()].encode(getattr(sys.stderr, "encoding", None) or "utf-8", "replace"))


if __name__ == "__main__":
    main()
