"""Refuses subinterpreters, before anything native is loaded.

The native half belongs to the interpreter that loads it first. If that were a subinterpreter, such as one of mod_wsgi
or of concurrent.interpreters, no other one could use backy any more, the main one included.
"""

from __future__ import annotations

import sys
from importlib import import_module


def check() -> None:
    """Raises ImportError in a subinterpreter."""
    name = "_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters"
    try:
        interpreters = import_module(name)
    except ImportError:
        # A build without them.
        return
    # Since Python 3.13 with a second value, which says who made it.
    if interpreters.get_current() != interpreters.get_main():
        raise ImportError(
            "backy works in the main interpreter of a process only, and this is a subinterpreter; "
            "use a process of its own instead (for mod_wsgi: WSGIApplicationGroup %{GLOBAL})",
            name="backy",
        )
