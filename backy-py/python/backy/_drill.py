"""Asks a command or a callable what it thinks of a restored revision."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable as _Callable
    from collections.abc import Sequence as _Sequence


def judge(
    command: _Sequence[str] | _Callable[[Path], object], file: str | os.PathLike[str]
) -> tuple[str, str | None]:
    """The name of the program or callable, and why the drill does not pass; None when the command was content.

    Without arguments, which may be secret: the report is kept, and shown to others.
    """
    path = Path(file)
    if callable(command):
        # One without a name, such as a functools.partial, has arguments in its repr.
        name = str(getattr(command, "__qualname__", type(command).__qualname__))
        return name, f"{name}() gave False" if command(path) is False else None
    if isinstance(command, str):
        raise TypeError("a command is a sequence of words, such as ['fsck', '-n'], or a callable; not a str")
    given = [str(word) for word in command]
    if not given:
        raise ValueError("the command has no words")
    words = [word.replace("{}", str(path)) for word in given]
    if words == given:
        words.append(str(path))
    # What it says goes to standard error, as with the command.
    status = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=2).returncode
    program = given[0]
    if status < 0:
        return program, f"'{program}' was ended by signal {-status}"
    return program, f"'{program}' ended with exit status: {status}" if status else None
