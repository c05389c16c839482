"""A revision as a file."""

from __future__ import annotations

import io
import warnings

from backy import _alone as _alone  # refuses to be part of another program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable as _Callable
    from pathlib import Path as _Path
    from typing import BinaryIO as _BinaryIO
    from typing import NoReturn as _NoReturn

    from _typeshed import WriteableBuffer as _WriteableBuffer

    from backy._backy import Reader as _Reader

    # As io.FileIO is declared: it has all that BinaryIO has, and is no subclass of it when it runs.
    class _Raw(io.RawIOBase, _BinaryIO): ...

else:
    _Raw = io.RawIOBase

__all__ = ["RevisionFile"]

_BUFFER_BYTES = 1 << 20


class RevisionFile(_Raw):
    """A revision that is open for reading; what backy.Archive.open() gives.

    Every byte is checked against its digest before it is given out: what is not right raises ArchiveDamagedError, whose
    `offset` says where. A read is short only at the end. It stays readable while backups are made.

    Several threads may use it, and so may a signal handler that comes in the middle of a read: read_at() and
    readinto_at() have no position, and a read moves the position before it begins, so that each gets bytes of its own.
    One that is dropped without close() warns with a ResourceWarning.
    In a child that this process forks, it is opened anew by the first read.
    """

    def __init__(self, reader: _Reader, folder: _Path) -> None:
        """Made by backy.Archive.open()."""
        super().__init__()
        # For readinto(). Not at the top, because it takes longer to import than all of backy; and not there, because a
        # signal handler that comes while it is being imported could not read.
        import ctypes  # noqa: F401

        self._reader: _Reader | None = reader
        self._folder = folder
        self._size = reader.size
        self._revision = reader.uuid

    @property
    def size(self) -> int:
        """Size of the revision in bytes."""
        return self._size

    @property
    def revision(self) -> str:
        """UUID of the revision."""
        return self._revision

    @property
    def name(self) -> str:
        """The archive's folder and the UUID, for messages."""
        return f"{self._folder}/{self._revision}"

    @property
    def mode(self) -> str:
        """Always "rb"."""
        return "rb"

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes at `offset`; fewer only at the end. The position stays."""
        return self._open().read_at(offset, size)

    def readinto_at(self, offset: int, buffer: _WriteableBuffer) -> int:
        """Fills the buffer from `offset` on; how many bytes that were, fewer only at the end. The position stays."""
        reader = self._open()
        return _fill(buffer, lambda address, size: reader.fill_memory_at(offset, address, size))

    def readinto(self, buffer: _WriteableBuffer, /) -> int:
        """Fills the buffer from the position on; how many bytes that were, 0 at the end."""
        return _fill(buffer, self._open().fill_memory)

    def read(self, size: int | None = -1, /) -> bytes:
        """Up to `size` bytes from the position on, all that are left if it is negative or None; none at the end."""
        return self._open().read(size)

    def readall(self) -> bytes:
        """All that is left from the position on."""
        return self.read()

    def write(self, _data: object, /) -> int:
        """Raises io.UnsupportedOperation: a revision cannot be changed."""
        raise io.UnsupportedOperation("a revision cannot be written to")

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Moves the position; where it is then. It may be past the end."""
        return self._open().seek(offset, whence)

    def tell(self) -> int:
        """The position."""
        return self._open().position

    def readable(self) -> bool:
        """True."""
        self._open()
        return True

    def seekable(self) -> bool:
        """True."""
        self._open()
        return True

    def close(self) -> None:
        """Lets go of the archive's files. What another thread is reading is read to its end."""
        self._reader = None
        super().close()

    def __del__(self) -> None:
        self._dealloc_warn(self)
        super().__del__()

    def _dealloc_warn(self, source: object) -> None:
        """Also called by an io.BufferedReader over it that is dropped, as of files of the standard library."""
        # One whose __init__ has failed has no reader.
        if getattr(self, "_reader", None) is not None:
            warnings.warn(f"unclosed file {source!r}", ResourceWarning, stacklevel=2, source=source)

    def _open(self) -> _Reader:
        reader = self._reader
        if reader is None:
            raise ValueError("I/O operation on closed file.")
        return reader

    def __reduce_ex__(self, _protocol: object, /) -> _NoReturn:
        raise TypeError("a backy.RevisionFile cannot be pickled or copied; call Archive.open() once more")

    def __repr__(self) -> str:
        closed = " closed" if self.closed else ""
        return f"<backy.io.RevisionFile{closed} {self.name!r}, {self._size} bytes>"


def _fill(buffer: _WriteableBuffer, fill: _Callable[[int, int], int]) -> int:
    """Calls `fill` with the address and the size of the buffer."""
    from ctypes import addressof, c_char

    with memoryview(buffer) as view:
        if view.readonly:
            raise TypeError("the buffer cannot be written to")
        if not view.c_contiguous:
            raise BufferError("the buffer is not in one piece")
        if view.nbytes == 0:
            return 0
        with view.cast("B") as flat:
            # Holds the memory where it is for as long as it lives.
            memory = (c_char * flat.nbytes).from_buffer(flat)
            try:
                return fill(addressof(memory), flat.nbytes)
            finally:
                del memory


def _buffered(file: RevisionFile) -> io.BufferedReader:
    return io.BufferedReader(file, _BUFFER_BYTES)
