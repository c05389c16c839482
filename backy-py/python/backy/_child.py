"""Ends a child that was forked in a callback and has come back into a call, where it cannot go on."""

from __future__ import annotations

import os
import sys
import traceback

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn as _NoReturn


def end(error: BaseException | None) -> _NoReturn:
    """Ends this process at once: as its parent continues the call, nothing above it may be done twice.

    With the status of a SystemExit; with 1 and a message when it has raised something else, or has just returned.
    """
    code: object = 1
    try:
        if isinstance(error, SystemExit):
            code = error.code
        elif error is not None:
            traceback.print_exception(type(error), error, error.__traceback__)
        else:
            print(
                "backy: a child that was forked in a callback has returned from it; it is ended here, since the call "
                "is its parent's. End it with os._exit()",
                file=sys.stderr,
            )
        if code is not None and not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    finally:
        os._exit((code or 0) & 0xFF if isinstance(code, int) or code is None else 1)
