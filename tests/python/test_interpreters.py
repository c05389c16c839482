"""Subinterpreters: refused with a reason, and the main interpreter is none the worse for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from conftest import Made

PROGRAM = """
import sys
try: import _interpreters as interpreters
except ImportError: import _xxsubinterpreters as interpreters
kind = sys.argv[2]
if sys.argv[3] == "main first":
    import backy
if sys.version_info >= (3, 13):
    made = interpreters.create(kind)
else:
    made = interpreters.create(isolated=kind == "isolated")
for _ in range(2):
    failed = interpreters.run_string(made, '''
try: import backy
except ImportError as error: assert "main interpreter" in str(error) and error.name == "backy", error
else: raise AssertionError("it was imported")
''')
    assert failed is None, failed
interpreters.destroy(made)
import backy
assert len(backy.Archive(sys.argv[1]).revisions) == 3
"""


@pytest.mark.parametrize("kind", ["legacy", "isolated"])
@pytest.mark.parametrize("order", ["main first", "subinterpreter first"])
def test_a_subinterpreter_is_refused(kind: str, order: str, made: Made) -> None:
    """Whichever imports first, of either kind, again and again; the main interpreter works afterwards."""
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(made.path), kind, order]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
