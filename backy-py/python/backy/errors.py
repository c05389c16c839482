"""The exceptions. The text of each is one line that names the file, what was found and what was expected.

Each that has a counterpart among Python's own exceptions is of that class, too.
"""

from __future__ import annotations

import errno
import os
import sys

from backy import _alone as _alone  # refuses to be part of another program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path as _Path
    from typing import Any as _Any
    from typing import Literal as _Literal

    _ErrorKind = _Literal[
        "error",
        "not-found",
        "no-space",
        "permission",
        "untrusted",
        "io",
        "no-archive",
        "archive-exists",
        "locked",
        "config",
        "specification",
        "no-such-revision",
        "source",
        "target",
        "mount",
        "damaged",
        "unsupported",
        "hook",
        "interrupted",
    ]

# Attributes of an OSError, which are not in its __dict__.
_OF_SYSTEM = ("errno", "strerror", "filename", "filename2")


class BackyError(Exception):
    """The class of everything that backy raises.

    An exception of your own source, target or callback is raised unchanged.
    """

    kind: _ErrorKind = "error"
    """The kind, as a word: see doc/scripting.md."""
    path: _Path | None = None
    """The file or folder that caused it, if there is one."""
    offset: int | None = None
    """Position in the revision of the bytes that cannot be read, if there are such."""
    revision: str | None = None
    """UUID of the revision that cannot be read, if there is one."""

    def __str__(self) -> str:
        # OSError would show its number instead.
        return str(self.args[0]) if self.args else self.__class__.__name__

    def __reduce__(self) -> tuple[_Any, ...]:
        """All attributes, which OSError would lose; of causes only those of backy: others may fit into no pickle."""
        state = dict(self.__dict__)
        # A pickle of a Path can be read by few other versions of Python.
        if self.path is not None:
            state["path"] = os.fspath(self.path)
        values = {name: getattr(self, name, None) for name in _OF_SYSTEM}
        state.update({name: value for name, value in values.items() if value is not None})
        if isinstance(self.__cause__, BackyError):
            state["__cause__"] = self.__cause__
        return type(self), self.args, state

    def __setstate__(self, state: dict[str, _Any] | None) -> None:
        # Here, because it takes longer to import than all of backy.
        from pathlib import Path

        for name, value in (state or {}).items():
            is_path = name == "path" and value is not None
            setattr(self, name, Path(value) if is_path else value)


class ArchiveNotFoundError(BackyError, FileNotFoundError):
    """There is no archive in the folder."""


class ArchiveExistsError(BackyError, FileExistsError):
    """There is an archive in the folder already."""


class LockedError(BackyError, BlockingIOError):
    """Somebody else is changing the archive; the text names who."""


class ArchiveAccessError(BackyError, OSError):
    """The system refused to read or write a file."""


class MissingFileError(ArchiveAccessError, FileNotFoundError):
    """A file does not exist."""


class AccessDeniedError(ArchiveAccessError, PermissionError):
    """A file may not be read or written by this user, or is on a read-only file system."""


class UntrustedError(BackyError, PermissionError):
    """Others than the caller and root can change the archive, so backy does not act on it; see `trust` of Archive."""


class NoSpaceError(ArchiveAccessError):
    """There is too little free space; `errno` is ENOSPC, EDQUOT or EFBIG."""


class ArchiveDamagedError(BackyError):
    """A file of the archive is not as it was written."""


class ArchiveUnsupportedError(BackyError):
    """The archive needs a newer version of backy; the text names what it needs."""


class ConfigError(BackyError, ValueError):
    """backy.toml is wrong, or names no source."""


class SpecificationError(BackyError, ValueError):
    """An argument is malformed or does not fit: a name of revisions, a tag, a combination of options."""


class NoSuchRevisionError(BackyError, LookupError):
    """There is no such revision, or more than one; the text lists what there is."""


class SourceError(BackyError, OSError):
    """The source cannot be read, or its size changed meanwhile."""


class TargetError(BackyError, OSError):
    """Writing to this target could destroy something."""


class MountError(BackyError, OSError):
    """The mountpoint cannot be used, or cannot be unmounted yet."""


class HookError(BackyError):
    """A hook of backy.toml failed or took too long; the text names it, and whether there is a revision."""


class CancelledError(BackyError):
    """A CancelToken stopped the call, or Ctrl-C did while it was not in the main thread; the archive is in order.

    Not a CancelledError of asyncio or concurrent.futures: the operation was stopped, its task or future was not.
    """


_CLASSES: dict[str, tuple[type[BackyError], int | None]] = {
    "no-archive": (ArchiveNotFoundError, errno.ENOENT),
    "archive-exists": (ArchiveExistsError, errno.EEXIST),
    "locked": (LockedError, errno.EAGAIN),
    "not-found": (MissingFileError, errno.ENOENT),
    "permission": (AccessDeniedError, errno.EACCES),
    "untrusted": (UntrustedError, errno.EPERM),
    "no-space": (NoSpaceError, errno.ENOSPC),
    "io": (ArchiveAccessError, errno.EIO),
    "damaged": (ArchiveDamagedError, None),
    "unsupported": (ArchiveUnsupportedError, None),
    "config": (ConfigError, None),
    "specification": (SpecificationError, None),
    "no-such-revision": (NoSuchRevisionError, None),
    "source": (SourceError, errno.EIO),
    "target": (TargetError, errno.EPERM),
    "mount": (MountError, errno.EBUSY),
    "hook": (HookError, None),
    "interrupted": (CancelledError, None),
}


def _make(
    kind: _ErrorKind,
    text: str,
    path: _Path | None,
    offset: int | None,
    revision: str | None,
    number: int | None,
) -> BackyError:
    """The exception for an error of the engine."""
    exception, usual_number = _CLASSES.get(kind, (BackyError, None))
    made = exception(text)
    # A kind of a newer engine is unknown here.
    made.kind = kind if kind in _CLASSES else "error"
    made.path = path
    made.offset = offset
    made.revision = revision
    is_of_system = issubclass(exception, OSError)
    if is_of_system:
        number = number or usual_number
        why = None if number is None else os.strerror(number)
        name = None if path is None else str(path)
        for attribute, value in (("errno", number), ("strerror", why), ("filename", name)):
            setattr(made, attribute, value)
    _in_context(made)
    return made


def _in_context(made: BaseException) -> None:
    """Gives an exception that native code raises the context that `raise` would give it: what is handled now."""
    handled = sys.exc_info()[1]
    if handled is None or made.__context__ is not None:
        return
    link: BaseException | None = handled
    while link is not None:
        if link is made:
            return
        link = link.__context__
    made.__context__ = handled
