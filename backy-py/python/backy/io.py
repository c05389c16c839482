"""A revision as a file."""

from __future__ import annotations

import io
import threading

from backy import _alone as _alone  # refuses to be part of another program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path as _Path

    from _typeshed import WriteableBuffer as _WriteableBuffer

    from backy._backy import Reader as _Reader

__all__ = ["RevisionFile"]

_BUFFER_BYTES = 1 << 20


class RevisionFile(io.RawIOBase):
    """A revision that is open for reading; what backy.Archive.open() gives.

    Every byte is checked against its digest before it is given out: what is not right raises ArchiveDamagedError, whose
    `offset` says where. A read is short only at the end. It stays readable while backups are made.

    Several threads may use it: read_at() and readinto_at() have no position, and the others take turns.
    """

    def __init__(self, reader: _Reader, folder: _Path) -> None:
        """Made by backy.Archive.open()."""
        super().__init__()
        self._reader: _Reader | None = reader
        self._folder = folder
        self._size = reader.size
        self._revision = reader.uuid
        self._position = 0
        self._turn = threading.Lock()

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
        # Here, because it takes longer to import than all of backy.
        from ctypes import addressof, c_char

        reader = self._open()
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
                    return reader.fill_memory_at(offset, addressof(memory), flat.nbytes)
                finally:
                    del memory

    def readinto(self, buffer: _WriteableBuffer, /) -> int:
        """Fills the buffer from the position on; how many bytes that were, 0 at the end."""
        with self._turn:
            count = self.readinto_at(self._position, buffer)
            self._position += count
            return count

    def read(self, size: int | None = -1, /) -> bytes:
        """Up to `size` bytes from the position on, all that are left if it is negative or None; none at the end."""
        with self._turn:
            left = max(self._size - self._position, 0)
            wanted = left if size is None or size < 0 else min(size, left)
            content = self.read_at(self._position, wanted)
            self._position += len(content)
            return content

    def readall(self) -> bytes:
        """All that is left from the position on."""
        return self.read()

    def write(self, _data: object, /) -> int:
        """Raises io.UnsupportedOperation: a revision cannot be changed."""
        raise io.UnsupportedOperation("a revision cannot be written to")

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Moves the position; where it is then. It may be past the end."""
        self._open()
        with self._turn:
            if whence == io.SEEK_SET:
                start = 0
            elif whence == io.SEEK_CUR:
                start = self._position
            elif whence == io.SEEK_END:
                start = self._size
            else:
                raise ValueError(f"whence is {whence}; expected 0, 1 or 2")
            if start + offset < 0:
                raise ValueError(f"the position would be {start + offset}, before the beginning")
            self._position = start + offset
            return self._position

    def tell(self) -> int:
        """The position."""
        self._open()
        return self._position

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

    def _open(self) -> _Reader:
        reader = self._reader
        if reader is None:
            raise ValueError("I/O operation on closed file.")
        return reader

    def __repr__(self) -> str:
        closed = " closed" if self.closed else ""
        return f"<backy.io.RevisionFile{closed} {self.name!r}, {self._size} bytes>"


def _buffered(file: RevisionFile) -> io.BufferedReader:
    return io.BufferedReader(file, _BUFFER_BYTES)
