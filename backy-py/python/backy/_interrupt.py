"""What Ctrl-C means for an operation that is not in the main thread."""

from __future__ import annotations

import signal
import sys
import threading


def is_main() -> bool:
    """Whether this is the thread in which Python runs signal handlers."""
    return threading.get_ident() == threading.main_thread().ident


def stops_threads(has_come: bool) -> bool:
    """Whether an operation in this thread has to stop; `has_come`: SIGINT has come since it began."""
    return (has_come and _is_left_to_python()) or _is_ending()


def _is_left_to_python() -> bool:
    """Whether the program has no handler of its own for SIGINT. That of asyncio.run() cannot stop a thread."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        return True
    function = getattr(handler, "func", handler)
    return getattr(function, "__module__", None) == "asyncio.runners"


def _is_ending() -> bool:
    """Whether Python ends by an unhandled Ctrl-C, and waits for its threads, such as those of a pool with a queue."""
    last = getattr(sys, "last_type", None)
    if not (isinstance(last, type) and issubclass(last, KeyboardInterrupt)):
        return False
    return bool(getattr(threading, "_SHUTTING_DOWN", False)) or not threading.main_thread().is_alive()
