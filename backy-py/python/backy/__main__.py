"""The `backy` command: `python -m backy`, and the script that comes with the module."""

from __future__ import annotations

import signal
import sys

from backy import _again, _backy


def main() -> None:
    """Runs the command with the arguments of this process, and ends it with the command's exit status."""
    # The command has its own way with Ctrl-C; Python's would come on top of it. One that is ignored stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(_backy.main(sys.argv, _again.words()))


if __name__ == "__main__":
    main()
