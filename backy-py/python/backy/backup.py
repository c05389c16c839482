"""Archives as scripts of 2014 know them, over `backy.Archive`, which is for new scripts.

Works with the archives of today, and reads those of 2014. Each use warns with a DeprecationWarning that names what to
use instead. What has changed since then is in doc/python.md.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import time

import backy
from backy import _backy
from backy._then import (
    CHUNK_SIZE,
    ArchiveExists,
    NoSuchRevision,
    OldArchiveExists,
    Store,
    alike,
    deprecated,
    open_store,
)
from backy.revision import DeltaRevision as DeltaRevision
from backy.revision import FullRevision as FullRevision
from backy.revision import Revision as Revision
from backy.revision import described

__all__ = ["Backup", "format_timestamp"]

LOOK_SECONDS = 0.2
"""How often it is looked whether something is still mounted."""


@deprecated("backy.Revision.timestamp, a datetime")
def format_timestamp(ts: float) -> str:
    """Seconds since 1970 as local date and time, such as `2014-03-31 15:28:03`."""
    return _format(ts)


class Backup:
    """The folder of one source's backups. It may not be there yet: `init` makes it.

    Raises ArchiveNotFoundError from whatever needs an archive where none is, and ArchiveUnsupportedError, which names
    `backy import`, from what would change one of 2014.
    """

    CHUNKSIZE = CHUNK_SIZE
    """Bytes of a chunk in an archive of today."""

    @deprecated("backy.Archive")
    def __init__(self, path: str) -> None:
        self._path = os.path.realpath(path)

    def __repr__(self) -> str:
        return f"backy.backup.Backup({self._path!r})"

    @property
    @deprecated("backy.Archive.path")
    def path(self) -> str:
        """The folder, without symbolic links."""
        return self._path

    @property
    @deprecated("backy.Archive.source")
    def source(self) -> str | None:
        """What is backed up, without symbolic links; None where nothing is configured."""
        return self._store().source

    @property
    @deprecated("backy.Archive.revisions")
    def revisions(self) -> dict[str, Revision]:
        """The revisions that there are at this moment, by UUID."""
        return {each._facts.uuid: each for each in self._history()}

    @property
    @deprecated("backy.Archive.revisions")
    def revision_history(self) -> list[Revision]:
        """The revisions that there are at this moment, oldest first."""
        return self._history()

    @deprecated("backy.Archive.init")
    def init(self, source: str) -> None:
        """Makes the archive. The source need not be there yet; a relative path is one from the archive's folder.

        Raises an ArchiveExistsError that is a RuntimeError, too, when there is one already.
        """
        try:
            with contextlib.suppress(backy.ArchiveNotFoundError):
                self._store().to_write()
            _backy.init_unseen(self._path, os.path.realpath(os.path.join(self._path, source)))
        except backy.ArchiveUnsupportedError as error:
            raise alike(OldArchiveExists, error) from error
        except backy.ArchiveExistsError as error:
            raise alike(ArchiveExists, error) from error

    @deprecated("backy.Archive.backup(force=True)")
    def backup(self, source: str | None = None) -> None:
        """Makes a revision now, whatever the schedule says: of `source`, or of what is configured."""
        self._store().to_write().backup(source=source, force=True)

    @deprecated("backy.Archive.restore")
    def restore(self, target: str, revision: str | int) -> None:
        """Writes a revision to a file or device, whatever is there. As Revision.restore."""
        store = self._store()
        store.restore(self._find(store, revision)._facts.uuid, target)

    @deprecated("backy.Archive.scrub")
    def scrub(self, revision: str | int, markbad: bool = False) -> None:
        """Checks what revisions store, 'all' or one, and prints which of their chunks are bad. As Revision.scrub."""
        store = self._store()
        uuids = [each._facts.uuid for each in self._find_all(store, revision)]
        for uuid, numbers in store.bad_chunks(uuids, markbad).items():
            for number in numbers:
                print(f"{uuid}: chunk {number:06d} is bad")

    @deprecated("backy.Archive.maintenance")
    def maintenance(self, keep: int) -> None:
        """Lets all but the newest `keep` revisions go; none when that is 0."""
        if keep < 0:
            raise ValueError(f"keep: found {keep}, expected a number from 0 on")
        archive = self._store().to_write()
        if keep > 0:
            archive.maintenance(keep=keep)

    @deprecated("backy.Archive.status")
    def status(self) -> None:
        """Prints a line for each revision, oldest first: when it was made, chunks in its own file, its UUID."""
        store = self._store()
        total = 0
        history = store.read()
        print("== Revisions")
        for facts in history:
            stored = facts.blocks if facts.full else len(store.own_chunks(facts.uuid))
            total += stored
            print(_format(facts.timestamp), stored, facts.uuid, sep="\t")
        print()
        print("== Summary")
        print(f"{len(history)} revisions, {total} blocks (about {total // max(len(history), 1)} each)")

    @deprecated("backy.Archive.mount")
    def mount(self, mountpoint: str) -> None:
        """Shows every revision as a file, until somebody unmounts it. One of 2014 has to be imported first."""
        mount = self._store().to_write().mount(mountpoint)
        with mount:
            while mount.is_mounted:
                time.sleep(LOOK_SECONDS)

    @deprecated("backy.Archive.revisions")
    def find_revision(self, spec: str | int) -> Revision:
        """The revision that is meant: 'last', a number (0 is the newest) or a UUID.

        In an archive of today it may also be named as for the command.

        Raises KeyError, which is an IndexError as well, when there is none.
        """
        return self._find(self._store(), spec)

    @deprecated("backy.Archive.select")
    def find_revisions(self, spec: str | int) -> list[Revision]:
        """All revisions for 'all', oldest first, or the one that is meant, as in find_revision."""
        return self._find_all(self._store(), spec)

    def _store(self) -> Store:
        return open_store(self._path)

    def _history(self) -> list[Revision]:
        store = self._store()
        return [described(self, store, facts) for facts in store.read()]

    def _find(self, store: Store, spec: str | int) -> Revision:
        found = self._find_all(store, spec)
        if len(found) == 1 and spec != "all":
            return found[0]
        raise NoSuchRevision(f"{self._path}: revision {spec!r}: found {len(found)}, expected one")

    def _find_all(self, store: Store, spec: str | int) -> list[Revision]:
        history = [described(self, store, facts) for facts in store.read()]
        by_uuid = {each._facts.uuid: each for each in history}
        if spec == "all":
            return history
        if spec in by_uuid:
            return [by_uuid[str(spec)]]
        try:
            number = 0 if spec in ("last", "latest") else int(spec)
        except ValueError:
            try:
                return [by_uuid[uuid] for uuid in reversed(store.select(str(spec)))]
            except backy.BackyError as error:
                raise NoSuchRevision(str(error)) from error
        if 0 <= number < len(history):
            return [history[-1 - number]]
        raise NoSuchRevision(f"{self._path}: there is no revision {number}: it has {len(history)}, counted from 0")


def _format(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")  # noqa: DTZ006
