"""File objects as targets of a restore."""

from __future__ import annotations

import io
import os

_PLAIN = (bool, int, float, complex)


def is_file(target: object) -> bool:
    """Whether it is a file object; a path that can also write is a path."""
    return hasattr(target, "write") and not isinstance(target, (str, bytes, os.PathLike))


def check(target: object) -> None:
    """Raises what its write() would raise later: nothing has begun yet."""
    what = name(target)
    if not callable(getattr(target, "write", None)):
        raise TypeError(f"{what} has no write() that can be called")
    if getattr(target, "closed", False) is True:
        raise ValueError(f"I/O operation on closed file: {what}")
    is_text = isinstance(target, io.TextIOBase) or isinstance(getattr(target, "encoding", None), str)
    if is_text:
        has_bytes = " or give its .buffer" if hasattr(target, "buffer") else ""
        raise TypeError(f"{what} takes text, not bytes; open it in binary mode{has_bytes}")
    writable = getattr(target, "writable", None)
    if callable(writable) and not writable():
        raise io.UnsupportedOperation(f"{what} is not open for writing")


def name(target: object, _answer: object = None) -> str:
    """What messages call it."""
    own = getattr(target, "name", None)
    return own if isinstance(own, str) else f"{type(target).__qualname__} object"


def answer(_target: object, given: object) -> str:
    """What its write() returned. Only numbers are shown: anything else may be what was to be written."""
    if isinstance(given, int) and given.bit_length() > 100:
        return f"a number of {given.bit_length()} bits"
    if type(given) in _PLAIN:
        return repr(given)
    return f"an object of {type(given).__module__}.{type(given).__qualname__}"
