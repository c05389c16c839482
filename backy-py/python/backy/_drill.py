"""Asks a callable what it thinks of a restored revision, and takes the words of a command apart."""

from __future__ import annotations

import os
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable as _Callable
    from collections.abc import Sequence as _Sequence


def words(command: _Sequence[str] | _Callable[[Path], object], limited: bool) -> list[str] | None:
    """The words of a command; None of a callable, which cannot be ended by force."""
    if callable(command):
        if limited:
            raise ValueError("timeout: a callable cannot be ended; give a command, a sequence of words")
        return None
    if isinstance(command, str):
        raise TypeError("a command is a sequence of words, such as ['fsck', '-n'], or a callable; not a str")
    try:
        given = [str(word) for word in command]
    except TypeError:
        found = type(command).__name__
        raise TypeError(f"command: found {found}, expected a sequence of words, or a callable") from None
    if not given:
        raise ValueError("the command has no words")
    return given


def judge(check: _Callable[[Path], object], file: str | os.PathLike[str]) -> tuple[str, str | None]:
    """The name of the callable, and why the drill does not pass; None when it was content.

    Without arguments, which may be secret: the report is kept, and shown to others.
    """
    # One without a name, such as a functools.partial, has arguments in its repr.
    name = str(getattr(check, "__qualname__", type(check).__qualname__))
    return name, f"{name}() gave False" if check(Path(file)) is False else None
