"""For the modules of 2014: how their names warn, and what they ask of an archive of today or of then.

An archive of today is a `backy.Archive`, cut into chunks of 4 MiB. One of 2014 has its own; it is only read.
"""

from __future__ import annotations

import abc
import collections.abc
import functools
import os
import typing
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import backy
from backy import _backy
from backy._blocksums import Blocksums, md5

CHUNK_SIZE = 4 << 20
"""Bytes of a chunk, but for the last one of an image. An archive of 2014 may have another size."""

Function = typing.TypeVar("Function", bound=collections.abc.Callable[..., typing.Any])


def deprecated(instead: str) -> collections.abc.Callable[[Function], Function]:
    """Makes each call warn at the line that called, naming what to use `instead`."""

    def mark(function: Function) -> Function:
        name = f"{function.__module__}.{function.__qualname__}".replace(".__init__", "")

        @functools.wraps(function)
        def warning(*arguments: typing.Any, **keywords: typing.Any) -> typing.Any:
            warnings.warn(f"{name} is of 2014: use {instead}", DeprecationWarning, stacklevel=2)
            return function(*arguments, **keywords)

        return cast("Function", warning)

    return mark


class NoSuchRevision(backy.NoSuchRevisionError, KeyError, IndexError):
    """What was raised for an unknown name, and for a number out of range."""

    def __str__(self) -> str:
        return str(self.args[0])


class ArchiveExists(backy.ArchiveExistsError, RuntimeError):
    """What `init` raises for an archive that is there already: in 2014 a RuntimeError."""


class OldArchiveExists(ArchiveExists, backy.ArchiveUnsupportedError):
    """The same for an archive of 2014."""


def alike(kind: type[backy.BackyError], error: backy.BackyError) -> backy.BackyError:
    """The same error as one of another class."""
    made = kind(str(error))
    for name in ("kind", "path", "offset", "revision", "errno", "filename"):
        setattr(made, name, getattr(error, name, None))
    return made


@dataclass(frozen=True)
class Facts:
    """What there is to know of a revision."""

    uuid: str
    timestamp: float
    checksum: str | None
    parent: str | None
    full: bool
    blocks: int
    filename: str
    info_filename: str


class Store(abc.ABC):
    """An archive, as its revisions of then need it. Revisions are named by UUID."""

    path: str
    source: str | None
    chunk_size = CHUNK_SIZE

    @abc.abstractmethod
    def read(self) -> list[Facts]:
        """The revisions that there are at this moment, oldest first."""

    @abc.abstractmethod
    def own_chunks(self, uuid: str) -> list[int]:
        """Numbers of the chunks in the revision's own file."""

    @abc.abstractmethod
    def blocksums(self, uuid: str) -> dict[int, str]:
        """The MD5 of each chunk in the revision's own file, by number; `bad:` before that of one that is bad."""

    @abc.abstractmethod
    def chunks(self, uuid: str, numbers: list[int]) -> Iterator[bytes]:
        """These chunks, checked."""

    @abc.abstractmethod
    def bad_chunks(self, uuids: list[str], mark: bool) -> dict[str, list[int]]:
        """Checks what the revisions store: which chunks of each are bad. With `mark` that is recorded."""

    @abc.abstractmethod
    def restore(self, uuid: str, target: str) -> None:
        """Writes a revision to a file or device, whatever is there."""

    @abc.abstractmethod
    def select(self, spec: str) -> list[str]:
        """The revisions that a specification of today names."""

    @abc.abstractmethod
    def to_write(self) -> backy.Archive:
        """The archive, for what changes it."""


class TodaysStore(Store):
    """A `backy.Archive`."""

    def __init__(self, archive: backy.Archive) -> None:
        self.archive = archive
        self.path = os.path.realpath(archive.path)
        source = archive.source
        self.source = None if source is None else os.path.realpath(source)

    def read(self) -> list[Facts]:
        newest_first = self.archive.revisions
        return [
            Facts(
                uuid=revision.uuid,
                timestamp=revision.timestamp.timestamp(),
                checksum=revision.digest,
                parent=newest_first[number - 1].uuid if number else None,
                full=number == 0,
                blocks=-(-revision.size // CHUNK_SIZE),
                filename=os.path.join(self.path, revision.file),
                info_filename=os.path.join(self.path, "manifest.json"),
            )
            for number, revision in reversed(list(enumerate(newest_first)))
        ]

    def own_chunks(self, uuid: str) -> list[int]:
        return _backy.own_chunks(self.path, uuid, CHUNK_SIZE)

    def blocksums(self, uuid: str) -> dict[int, str]:
        return Blocksums(self.own_chunks(uuid), functools.partial(self._md5, uuid))

    def _md5(self, uuid: str, number: int) -> str:
        try:
            (chunk,) = self.chunks(uuid, [number])
        except backy.ArchiveDamagedError:
            # What it should have is not known: today's digests are not MD5.
            return "bad:"
        return md5(chunk)

    def chunks(self, uuid: str, numbers: list[int]) -> Iterator[bytes]:
        with self.archive.open(uuid) as image:
            for number in numbers:
                image.seek(number * CHUNK_SIZE)
                yield image.read(CHUNK_SIZE)

    def bad_chunks(self, uuids: list[str], mark: bool) -> dict[str, list[int]]:
        bad: dict[str, set[int]] = {uuid: set() for uuid in uuids}
        report = self.archive.scrub(",".join(uuids), check_only=not mark) if uuids else None
        for finding in report.to_dict()["findings"] if report else []:
            for affected in finding["affected"] if not finding["repaired"] else []:
                for extent in affected["extents"]:
                    first, end = extent["offset"], extent["offset"] + extent["len"]
                    numbers = range(first // CHUNK_SIZE, -(-end // CHUNK_SIZE))
                    bad.get(affected["revision"], set()).update(numbers)
        return {uuid: sorted(numbers) for uuid, numbers in bad.items()}

    def restore(self, uuid: str, target: str) -> None:
        self.archive.restore(target, uuid, force=True)

    def select(self, spec: str) -> list[str]:
        return [revision.uuid for revision in self.archive.select(spec)]

    def to_write(self) -> backy.Archive:
        return self.archive


class StoreOf2014(Store):
    """An archive that backy made in 2014."""

    def __init__(self, path: str, archive: _backy.OldArchive) -> None:
        self.archive = archive
        self.path = path
        self.source = None if archive.source is None else os.path.realpath(os.path.join(path, archive.source))
        self.chunk_size = archive.block_size
        for file, why in archive.skipped:
            warnings.warn(f"{path}: {file} is left out: {why}", RuntimeWarning, stacklevel=2)

    def read(self) -> list[Facts]:
        return [
            Facts(
                uuid=revision.uuid,
                timestamp=revision.timestamp.timestamp(),
                checksum=revision.checksum,
                parent=revision.parent,
                full=revision.full,
                blocks=revision.blocks,
                filename=os.path.join(self.path, revision.uuid),
                info_filename=os.path.join(self.path, revision.uuid + ".rev"),
            )
            for revision in self.archive.revisions
        ]

    def own_chunks(self, uuid: str) -> list[int]:
        return next(revision.own_blocks for revision in self.archive.revisions if revision.uuid == uuid)

    def blocksums(self, uuid: str) -> dict[int, str]:
        return self.archive.blocksums(uuid)

    def chunks(self, uuid: str, numbers: list[int]) -> Iterator[bytes]:
        return (self.archive.read_block(uuid, number) for number in numbers)

    def bad_chunks(self, uuids: list[str], mark: bool) -> dict[str, list[int]]:
        bad = {uuid: [number for number in self.own_chunks(uuid) if self._is_bad(uuid, number)] for uuid in uuids}
        unmarked = {uuid: numbers for uuid, numbers in bad.items() if numbers}
        if mark and unmarked:
            raise self._read_only(f"found bad blocks that cannot be marked: {unmarked}")
        return bad

    def _is_bad(self, uuid: str, number: int) -> bool:
        try:
            self.archive.read_block(uuid, number)
        except backy.ArchiveDamagedError:
            return True
        return False

    def restore(self, uuid: str, target: str) -> None:
        self.archive.restore(uuid, target, force=True)

    def select(self, spec: str) -> list[str]:
        raise NoSuchRevision(f"{self.path}: there is no revision {spec!r}")

    def to_write(self) -> backy.Archive:
        raise self._read_only("this archive of 2014 is only read")

    def _read_only(self, what: str) -> backy.BackyError:
        text = f"{self.path}: {what}; bring it over into a new one with: backy -b NEW import {self.path}"
        error = backy.ArchiveUnsupportedError(text)
        error.kind, error.path = "unsupported", Path(self.path)
        return error


def open_store(path: str) -> Store:
    """The archive in a folder, of today or of 2014.

    Raises ArchiveNotFoundError where neither is.
    """
    try:
        return TodaysStore(backy.Archive(path))
    except backy.ArchiveNotFoundError:
        try:
            return StoreOf2014(path, _backy.OldArchive(path))
        except backy.BackyError:
            pass
        raise
