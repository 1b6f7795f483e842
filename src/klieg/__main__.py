"""Where the program starts: `klieg`, and `python -m klieg` for launchers such as torchrun.

Nothing is loaded before Ctrl-C is looked after, so it ends in one line and status 130 anywhere.
"""

import signal
import sys


def main() -> None:
    """The console script."""
    try:
        from klieg.cli import main as run
        run()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # What was asked for is done; only tidying up is left.
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print("klieg: stopped.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
