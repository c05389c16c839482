"""The process that sees to it that the hook 'after' is run, also when this one is killed."""

from __future__ import annotations

import sys
from pathlib import Path

# By the folder of this package, for the script that makes a backup may have found it in a place of its own.
_PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from backy import _backy
sys.exit(_backy.main(["backy", "--hook-guard"], []))
"""


def words() -> list[str]:
    """What is started to have a guard; nothing in a program that only has Python in it, whose hooks run without one."""
    if not sys.executable:
        return []
    return [sys.executable, "-c", _PROGRAM, str(Path(__file__).resolve().parents[1])]
