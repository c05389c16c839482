"""What can be a source or a target besides a path: `backy.Source` and `backy.Writable`."""

from __future__ import annotations

import typing

from backy import _alone as _alone  # refuses to be part of another program

__all__ = ["Source", "Writable"]


@typing.runtime_checkable
class Source(typing.Protocol):
    """What `Archive.backup` reads when it is given as `source` and is no path.

    Several threads call it. If it also has `holes()`, that is called once, and gives pairs of offset and length that
    are zero, or None if it does not know. If it has `changed_extents(since)`, that is called once, with the newest
    Revision or None. It gives pairs of offset and length in which something may have changed since that revision was
    made, or None if it does not know; holes count as zero in any case. A `name`, if it has one, stands for it in
    reports.
    """

    @property
    def size(self) -> int:
        """Bytes that it has."""

    def readinto_at(self, offset: int, buffer: memoryview, /) -> int:
        """Write bytes from `offset` on to the beginning of `buffer`; how many, 0 only at the end."""


@typing.runtime_checkable
class Writable(typing.Protocol):
    """What `Archive.restore` writes to when it is given as `target` and is no path, such as a binary file."""

    def write(self, content: bytes, /) -> int | None:
        """Write bytes; how many, or None when it is not blocking and would have to."""
