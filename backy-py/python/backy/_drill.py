"""Asks a callable what it thinks of a restored revision, and takes the words of a command apart."""

from __future__ import annotations

import os
from pathlib import Path
from types import AsyncGeneratorType, CoroutineType, GeneratorType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable as _Callable
    from collections.abc import Sequence as _Sequence

_NOT_RUN: tuple[type, ...] = (AsyncGeneratorType, CoroutineType, GeneratorType)
_PLAIN = (bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset)


def words(command: _Sequence[str] | _Callable[[Path], object], limited: bool) -> list[str] | None:
    """The words of a command; None of a callable, which cannot be ended by force."""
    if callable(command):
        if limited:
            raise ValueError("timeout: a callable cannot be ended; give a command, a sequence of words")
        # Here, because it takes longer to import than the rest.
        import inspect

        for is_such in (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction):
            if is_such(command):
                raise TypeError("a callable that judges a revision is a plain function, without async and yield")
        return None
    if isinstance(command, (str, bytes, bytearray)):
        found = type(command).__name__
        raise TypeError(f"command: a sequence of words, such as ['fsck', '-n'], or a callable; not {found}")
    try:
        given = [os.fsdecode(word) if isinstance(word, bytes) else str(word) for word in command]
    except TypeError:
        found = type(command).__name__
        raise TypeError(f"command: found {found}, expected a sequence of words, or a callable") from None
    if not given:
        raise ValueError("the command has no words")
    return given


def judge(check: _Callable[[Path], object], file: str | os.PathLike[str]) -> tuple[str, str | None]:
    """The name of the callable, and why the drill does not pass: it passes on None and on what is true.

    Without arguments, which may be secret: the report is kept, and shown to others.
    """
    # One without a name, such as a functools.partial, has arguments in its repr.
    name = str(getattr(check, "__qualname__", type(check).__qualname__))
    answer = check(Path(file))
    if isinstance(answer, _NOT_RUN):
        if isinstance(answer, CoroutineType):
            answer.close()
        raise TypeError(f"{name}() returned a {type(answer).__name__}, which has not run; give a plain function")
    return name, None if answer is None or answer else f"{name}() returned {_shown(answer)}"


def _shown(answer: object) -> str:
    """What a callable returned. Of an object only the type, for its repr may show a secret."""
    found = type(answer)
    if found in _PLAIN:
        return repr(answer)
    return f"a false object of {found.__module__}.{found.__qualname__}"
