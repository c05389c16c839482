"""How the command is started once more: to run hooks, also when this process is killed, or to serve a mount."""

from __future__ import annotations

import sys
from pathlib import Path

# By the folder of this package, for the script that makes a backup may have found it in a place of its own. Told what
# to do by -c or -m, Python looks for modules in the current folder first. That may be anybody's, so it is left out
# before anything is looked for; sys is there already. The option -P does the same, but only since Python 3.11.
_PROGRAM = """
import sys
sys.path[:] = [sys.argv[1], *(folder for folder in sys.path if folder.startswith("/"))]
sys.argv[:2] = ["backy"]
from backy.__main__ import main
main()
"""


def words() -> list[str]:
    """What is started, before the arguments of the command; nothing in a program that only has Python in it."""
    if not sys.executable:
        return []
    return [sys.executable, "-c", _PROGRAM, str(Path(__file__).resolve().parents[1])]
