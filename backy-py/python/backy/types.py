"""Types for annotations: the words that properties can have, and what can be a source or a target.

>>> from backy.types import Level
>>> def colour(level: Level) -> str:
...     return {"ok": "green", "warning": "yellow", "unknown": "purple", "critical": "red"}[level]

`backy.Source` and `backy.Writable` are here, too. Words may be added by newer versions.
"""

from __future__ import annotations

from typing import Literal, Protocol, Union, runtime_checkable

__all__ = [
    "ErrorKind",
    "FreezeKind",
    "Level",
    "Operation",
    "Phase",
    "ProblemKind",
    "RunOperation",
    "RunResult",
    "Source",
    "StepKind",
    "TargetKind",
    "Writable",
]

Level = Literal["ok", "warning", "unknown", "critical"]
"""How bad something is; `unknown` only of an archive that cannot be opened."""

ProblemKind = Literal[
    "unreadable",
    "config",
    "no-source",
    "no-backup",
    "overdue",
    "unwritable",
    "clock",
    "failed",
    "interrupted",
    "missing-file",
    "replaced-image",
    "damage",
    "set-aside",
    "drill",
    "scrub",
    "chain",
    "space",
    "unusual-change",
    "exposed",
    "mismatch",
    "unknown-file",
    "excess",
]
"""What a problem is about; doc/scripting.md has what each means."""

FreezeKind = Literal["unusual-change", "damage"]
"""What keeps revisions from expiring."""

Phase = Literal[
    "recover",
    "check-old-archive",
    "backup",
    "scrub",
    "merge",
    "check-target",
    "compare-target",
    "save-target",
    "restore",
    "export",
    "drill",
]
"""What an operation is doing."""

TargetKind = Literal["new-file", "file", "block-device", "stream"]
"""What a restore writes to."""

Operation = Literal["backup", "remove", "merge"]
"""What is under way, or was interrupted."""

RunOperation = Literal["backup", "maintenance", "scrub"]
"""A command of which status knows the last run."""

RunResult = Literal["ok", "failed", "interrupted"]
"""How a run ended."""

StepKind = Literal["remove", "merge", "roll-back", "standalone"]
"""A step of a maintenance plan."""

ErrorKind = Literal[
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
"""The kind of a BackyError; `error` of one that backy did not raise itself."""


@runtime_checkable
class Source(Protocol):
    """What `Archive.backup` reads when it is given as `source` and is no path.

    It is called by several threads. If it also has `changed_extents(since)`, that is called once, with the newest Revision or
    None. It gives pairs of offset and length in which something may have changed since that revision was made, or None if it
    does not know. A `name`, if it has one, stands for it in reports.
    """

    @property
    def size(self) -> int:
        """Bytes that it has."""

    def readinto_at(self, offset: int, buffer: memoryview, /) -> int:
        """Write bytes from `offset` on to the beginning of `buffer`; how many, 0 only at the end."""


@runtime_checkable
class Writable(Protocol):
    """What `Archive.restore` writes to when it is given as `target` and is no path: a binary file, a socket's file and the like."""

    def write(self, content: bytes, /) -> Union[int, None]:
        """Write bytes; how many, or None when it is not blocking and would have to."""
