"""Revisions as scripts of 2014 know them, over `backy.Archive`. For new scripts there is `backy.Revision`.

Each use warns with a DeprecationWarning that names what to use instead. What has changed since then is in
doc/python.md.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from typing import TYPE_CHECKING

from backy._then import Facts, Store, deprecated

if TYPE_CHECKING:
    from backy.backup import Backup as _Backup

__all__ = ["DeltaRevision", "FullRevision", "Revision"]


class Revision:
    """The state of the source at one time: a FullRevision or a DeltaRevision, as it was when it was looked up.

    They come from `backy.backup.Backup`.
    """

    type: str
    """'full' for one whose file is the raw image, which only the newest is; 'delta' for the others."""

    def __init__(self, backup: _Backup, store: Store, facts: Facts) -> None:
        self.backup = backup
        self._store = store
        self._facts = facts

    @classmethod
    @deprecated("backy.Revision")
    def select_type(cls, type: str) -> builtins.type[Revision]:
        """The class of a type: 'full' or 'delta'."""
        for kind in (FullRevision, DeltaRevision):
            if kind.type == type:
                return kind
        raise ValueError(f"type: found {type!r}, expected 'full' or 'delta'")

    def __repr__(self) -> str:
        return f"<{self.__class__.__module__}.{self.__class__.__name__} {self._facts.uuid}>"

    @property
    @deprecated("backy.Revision.uuid")
    def uuid(self) -> str:
        """Its name."""
        return self._facts.uuid

    @property
    @deprecated("backy.Revision.timestamp")
    def timestamp(self) -> float:
        """When it was made, in seconds since 1970."""
        return self._facts.timestamp

    @property
    @deprecated("backy.Revision.digest")
    def checksum(self) -> str | None:
        """Its digest; of a revision in an archive of 2014 the MD5 of the image, or None where none is recorded."""
        return self._facts.checksum

    @property
    @deprecated("backy.Revision.base")
    def parent(self) -> str | None:
        """UUID of the next newer revision, which most deltas read through to; None for the newest."""
        return self._facts.parent

    @property
    @deprecated("backy.Revision.size")
    def blocks(self) -> int:
        """How many chunks its image has: of 4 MiB, or what an archive of 2014 says. The last one may be short."""
        return self._facts.blocks

    @property
    @deprecated("backy.Archive.open")
    def blocksums(self) -> dict[int, str]:
        """The MD5 of each chunk in its own file, by number. One that is bad has `bad:` before it.

        In an archive of today an MD5 is computed when it is looked at, which reads the chunk; `len` reads none. Which
        one a bad chunk should have is not known there: it is `bad:` alone. In an archive of 2014 they are as recorded.
        """
        return self._store.blocksums(self._facts.uuid)

    @property
    @deprecated("backy.Archive.find")
    def filename(self) -> str:
        """The file that holds it. That of a delta is a qcow2 today."""
        return self._facts.filename

    @property
    @deprecated("backy.Archive.revisions")
    def info_filename(self) -> str:
        """The file that describes it: of all revisions today the manifest, of one of 2014 its `.rev`."""
        return self._facts.info_filename

    @deprecated("backy.Archive.scrub")
    def scrub(self, markbad: bool = True) -> list[int]:
        """Checks its own file: the numbers of the chunks that are bad, ascending.

        With `markbad` findings are recorded, and repaired where possible; a repaired block is not bad. In an archive
        of 2014 nothing can be marked: then bad chunks are an error, unless `markbad` is false.
        """
        return self._store.bad_chunks([self._facts.uuid], markbad)[self._facts.uuid]

    @deprecated("backy.Archive.restore")
    def restore(self, target: str) -> None:
        """Writes it to a file or device, whatever is there; only what differs is written.

        A device that is mounted or too small is refused, and so is a file in the archive.
        """
        self._store.restore(self._facts.uuid, target)

    @deprecated("backy.Archive.rm")
    def remove(self) -> None:
        """Removes it from the archive. What others read from it is merged into them; the only revision stays."""
        self._store.to_write().rm(self._facts.uuid, force=True)

    @deprecated("backy.Archive.open")
    def iterchunks(self, full: bool = False) -> Iterator[tuple[int, bytes]]:
        """Number and content of its chunks, ascending.

        With `full`, or of a full one, those of the whole image. Otherwise only those in its own file: where something
        has changed since.
        """
        return self._iterchunks(full)

    def _iterchunks(self, full: bool) -> Iterator[tuple[int, bytes]]:
        every = full or self._facts.full
        numbers = list(range(self._facts.blocks)) if every else self._store.own_chunks(self._facts.uuid)
        yield from zip(numbers, self._store.chunks(self._facts.uuid, numbers))

    @deprecated("backy.Archive.open")
    def getChunk(self, i: int) -> bytes:  # noqa: N802
        """Content of the chunk with this number; nothing past the end."""
        if i < 0:
            raise ValueError(f"chunk {i}: expected a number from 0 on")
        if i >= self._facts.blocks:
            return b""
        return b"".join(self._store.chunks(self._facts.uuid, [i]))


class FullRevision(Revision):
    """One whose file is the raw image."""

    type = "full"


class DeltaRevision(Revision):
    """One whose file has what has changed since, and that reads the rest from its parent."""

    type = "delta"


def described(backup: _Backup, store: Store, facts: Facts) -> Revision:
    """The revision that is described so."""
    return (FullRevision if facts.full else DeltaRevision)(backup, store, facts)
