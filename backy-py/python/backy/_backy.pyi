from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime, timedelta
from io import BufferedReader
from os import PathLike
from pathlib import Path
from typing import Any, Literal, final, overload
from uuid import UUID

from typing_extensions import Self, TypeAlias, disjoint_base

from backy.io import RevisionFile
from backy.protocols import Source, Writable

__all__ = [
    "Affected",
    "Alarm",
    "Archive",
    "BackupPlan",
    "BackupReport",
    "BlockRange",
    "Bookmark",
    "CancelToken",
    "Change",
    "Checked",
    "ConfigFile",
    "ConfigReport",
    "Coverage",
    "DrillReport",
    "Estimate",
    "ExportReport",
    "Extent",
    "FileLine",
    "Finding",
    "FleetJob",
    "FleetLimits",
    "FleetPlan",
    "FleetReport",
    "Freeze",
    "Health",
    "Hints",
    "HostReport",
    "IdleArchive",
    "ImportReport",
    "Imported",
    "InProgress",
    "JobReport",
    "LeftOut",
    "MaintenancePlan",
    "MaintenanceReport",
    "Mount",
    "Obstacle",
    "OriginStatus",
    "OldArchive",
    "OldRevision",
    "OriginStatus",
    "Problem",
    "Progress",
    "PullPlan",
    "PullReport",
    "Pulled",
    "Reader",
    "RbdDiffReport",
    "RebuildReport",
    "Report",
    "RestoreReport",
    "Revision",
    "RevisionStatus",
    "Run",
    "ScrubReport",
    "Setting",
    "SharedSpace",
    "Skipped",
    "SourceIdentity",
    "Space",
    "Status",
    "Step",
    "TagStatus",
    "TargetContent",
    "TargetLook",
    "UndoReport",
    "Unreported",
    "Verdict",
    "Wanted",
    "__version__",
    "_words",
    "check",
    "init_unseen",
    "main",
    "own_chunks",
    "pull",
    "run",
]

__version__: str

_Path: TypeAlias = str | PathLike[str]
_Revision: TypeAlias = str | int | date | UUID | Revision | RevisionStatus
_Revisions: TypeAlias = _Revision | Iterable[_Revision]
_Callback: TypeAlias = Callable[[Progress], object] | None
_Wait: TypeAlias = str | float | timedelta | None

# Words that properties can have; newer versions may add some. A test compares them with the engine's lists.
_FreezeKind: TypeAlias = Literal["unusual-change", "damage"]
_JobOperation: TypeAlias = Literal["init", "backup", "pull", "maintenance", "scrub"]
_JobResult: TypeAlias = Literal["ok", "failed", "skipped", "interrupted", "not-started"]
_Level: TypeAlias = Literal["ok", "warning", "unknown", "critical"]
_Operation: TypeAlias = Literal["backup", "remove", "merge"]
_Phase: TypeAlias = Literal[
    "recover",
    "check-old-archive",
    "compare-source",
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
_ProblemKind: TypeAlias = Literal[
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
    "stuck",
    "expected",
    "tracking",
]
_RunOperation: TypeAlias = Literal["backup", "maintenance", "scrub", "pull"]
_RunResult: TypeAlias = Literal["ok", "failed", "interrupted"]
_StepKind: TypeAlias = Literal["remove", "merge", "roll-back", "standalone"]
_TargetKind: TypeAlias = Literal["new-file", "file", "block-device", "stream"]

def main(arguments: Sequence[_Path], itself: Sequence[_Path], /) -> int:
    """Run the command with these arguments, the first of which is its own name; the exit status.

    `itself` are the words that start the command once more, for what continues in the background.
    """
def _words() -> dict[str, list[str]]: ...
@final
class Archive:
    """The folder of one source's backups.

    Each call reads the archive anew. A call that changes it holds the lock until it returns, and raises LockedError
    when somebody else has it. All other calls need no lock: a backup may run meanwhile.

    Wherever you name a revision: a number (0 is the newest), text as the command takes it ("latest", "first", "1",
    "tag:weekly", a UUID or at least 4 hex digits of its beginning, "2026-11-28", "2026-11-28 02:00", "yesterday"), a
    uuid.UUID, a datetime or date for the newest that was not made after it, a Revision or a RevisionStatus. Where you
    name several: text such as "all", "tag:weekly" for all that have it, "yesterday" for all that were made then,
    "0..3" or "0,2", or an iterable of what names one.

    Calls that change the archive take `wait`: how long to wait while somebody else changes it, in seconds, as a
    timedelta, or as text such as "10m". Without it, LockedError is raised at once.

    Long calls let other threads run. `progress` is called with a Progress, at most ten times a second, in the thread
    that called. Ctrl-C, an exception of `progress`, or the CancelToken that you pass as `cancel` stops the operation
    in order; then KeyboardInterrupt, that exception, or CancelledError is raised. What comes too late, because the
    operation has finished, never hides its report: see "Stopping a call" in doc/python.md. Messages go to the logger
    "backy".

    Calls that change the archive or run its hooks raise UntrustedError when others than the caller and root can
    change its folder, one above it or backy.toml, unless `trust` is true: whoever can do that decides what is read
    and run. Calls that only read do not check that.

    `path`: the folder. Two archives are equal when their folders and `trust` are. An archive can be pickled and
    copied, as for a process of a pool; the copy reads the folder at its first call.

    Raises ArchiveNotFoundError where there is no archive, another BackyError where it cannot be read.
    """

    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    @staticmethod
    def _at(path: str, trust: bool) -> Archive: ...
    def __new__(cls, path: _Path, *, trust: bool = False) -> Archive: ...
    @staticmethod
    def init(
        path: _Path,
        source: _Path | None = None,
        *,
        origin: str | None = None,
        include: Iterable[_Path] = (),
        block_size: int = 65536,
        trust: bool = False,
    ) -> Archive:
        """Create an archive in a folder, which is created if it does not exist.

        `source` is the block device or file to back up. Without it, set it in backy.toml before the first backup.
        `origin` is another archive that the new one is to be a copy of, in place of a source: an absolute path, or
        ssh://HOST/PATH.
        `include`: files with settings for several archives, which its backy.toml includes. `block_size` is the unit of
        comparison and storage in bytes, a power of two from 4096 to 2097152.

        A source that does not exist yet, or that holds an image in another format, is accepted with a UserWarning.

        Raises ArchiveExistsError when there is an archive already, SourceError when the source cannot be read or is
        inside the archive, ConfigError when a file cannot be included.

        `path`: the folder. `trust`: also when others than the caller and root can change it.
        """
    @staticmethod
    def import_(
        old: _Path,
        path: _Path,
        *,
        block_size: int | None = None,
        trust: bool = False,
        progress: _Callback = None,
        cancel: CancelToken | None = None,
        wait: _Wait = None,
    ) -> ImportReport:
        """Import an archive that backy made in 2014: its revisions, oldest first, with their names and times.

        `old` is only read. The archive at `path` is created if there is none. Every block is checked against its MD5
        in the old archive. The report names what could not be imported; its is_complete is False then. Call it again
        to continue an import that was interrupted.

        `block_size`: the unit of a new archive in bytes, if not the usual one. `trust`: also when others than the
        caller and root can change the folder.
        `progress` is called with a Progress while it lasts. `cancel`: a CancelToken that stops it.
        `wait`: how long to wait for the lock: seconds, a timedelta or text such as "10m".
        """
    @staticmethod
    def rebuild(
        path: _Path,
        *,
        force: bool = False,
        trust: bool = False,
        progress: _Callback = None,
        cancel: CancelToken | None = None,
        wait: _Wait = None,
    ) -> RebuildReport:
        """Rebuild a lost or damaged manifest.json from the digest files and the deltas.

        What only the manifest knew is lost, such as tags that were added later; the report lists it. `force`: also when
        the manifest is readable. Scrub the archive afterwards.

        `path`: the folder of the archive. `trust`: also when others than the caller and root can change it.
        `progress` is called with a Progress while it lasts. `cancel`: a CancelToken that stops it.
        `wait`: how long to wait for the lock: seconds, a timedelta or text such as "10m".
        """
    @property
    def path(self) -> Path:
        """The folder, absolute."""
    @property
    def source(self) -> Path | None:
        """The configured source; None when there is none."""
    @property
    def revisions(self) -> list[Revision]:
        """The revisions, newest first.

        Each access reads the archive, so that it shows a backup made meanwhile.
        """
    def select(self, revisions: _Revisions) -> list[Revision]:
        """The named revisions, newest first. Raises NoSuchRevisionError when there are none.

        `revisions`: which ones, as help(backy.Archive) says.
        """
    def find(self, revision: _Revision = "latest") -> Path:
        """The path of the file that holds a revision: the newest is a raw image, an older one a qcow2 overlay.

        `revision`: which one, as help(backy.Archive) says.
        """
    def status(self, revisions: _Revisions = "all") -> Status:
        """Inventory and health, from the files alone; also while a backup runs.

        `revisions`: which ones to list, as help(backy.Archive) says; the verdict is always about all.
        """
    @overload
    def backup(
        self,
        *,
        source: _Path | Source | None = None,
        force: bool = False,
        tags: Iterable[str] = (),
        progress: _Callback = None,
        cancel: CancelToken | None = None,
        limit_rate: int | str | None = None,
        check_space: bool = True,
        dry_run: Literal[False] = False,
        as_: Iterable[str] = (),
        wait: _Wait = None,
        read_all: bool = False,
    ) -> BackupReport | None:
        """Back up the source if a backup is due; None when none is.

        The schedule in backy.toml decides when a backup is due. `force` makes one whatever the schedule says, and so do
        `tags`, which pin the revision until they are removed. `limit_rate`: read at most so many bytes of the source
        a second, such as 1048576 or "100M". `dry_run`: only report whether a backup is due, as a BackupPlan. A backup
        that is not expected to fit on the disk does not start (NoSpaceError), unless `check_space` is false.

        `as_`: tags of the schedule to give as if they were due now; they expire as usual. When a backup is due and
        another one of this archive is running, that one makes it, and the call returns None.

        `read_all`: read all of the source, whatever it reports about changes.

        The hooks of backy.toml run around the reading of any source; HookError when one of them fails.

        `source`: the configured one unless given: a path, or an object that gives bytes. Such an object has `size`,
        in bytes, and `readinto_at(offset, buffer)`, which writes to the buffer and returns how many bytes it has
        written: 0 only at the end. Several threads call it. An exception of the object stops the backup, leaves the
        archive as it was, and is raised unchanged.

        If the object has `holes()`, that is called once, and returns pairs of offset and length that are zero, or None
        if it does not know. If it has `changed_extents(since)`, that is called once, with the newest Revision or None,
        and returns pairs of offset and length in which something may have changed since that one was made; or None if
        it does not know. Holes count as zero whether or not they have changed according to that.

        If the object has `mark(revision)`, it keeps marks: that is called with the UUID of the revision before anything
        is read, and returns a text that identifies the mark, or None if it cannot make one. From then on the object is
        read as it was at the mark. Only then `holes` and `changed_extents` are called, the latter only if the newest
        revision has a mark and `identity()`, if there is one, returns the same text as then. `settle(keep)` is called
        at the end, however that is, with the UUID of the revision whose mark is still needed, or None: all other marks
        of this archive can go. doc/sources.md says when everything is read, and what is compared in any case.

        `progress` is called with a Progress while it lasts. `cancel`: a CancelToken that stops it.
        `wait`: how long to wait for the lock: seconds, a timedelta or text such as "10m".
        """
    @overload
    def backup(
        self,
        *,
        source: _Path | Source | None = None,
        force: bool = False,
        tags: Iterable[str] = (),
        progress: _Callback = None,
        cancel: CancelToken | None = None,
        limit_rate: int | str | None = None,
        check_space: bool = True,
        dry_run: Literal[True],
        as_: Iterable[str] = (),
        wait: _Wait = None,
        read_all: bool = False,
    ) -> BackupPlan:
        """Back up the source if a backup is due; None when none is.

        The schedule in backy.toml decides when a backup is due. `force` makes one whatever the schedule says, and so do
        `tags`, which pin the revision until they are removed. `limit_rate`: read at most so many bytes of the source
        a second, such as 1048576 or "100M". `dry_run`: only report whether a backup is due, as a BackupPlan. A backup
        that is not expected to fit on the disk does not start (NoSpaceError), unless `check_space` is false.

        `as_`: tags of the schedule to give as if they were due now; they expire as usual. When a backup is due and
        another one of this archive is running, that one makes it, and the call returns None.

        `read_all`: read all of the source, whatever it reports about changes.

        The hooks of backy.toml run around the reading of any source; HookError when one of them fails.

        `source`: the configured one unless given: a path, or an object that gives bytes. Such an object has `size`,
        in bytes, and `readinto_at(offset, buffer)`, which writes to the buffer and returns how many bytes it has
        written: 0 only at the end. Several threads call it. An exception of the object stops the backup, leaves the
        archive as it was, and is raised unchanged.

        If the object has `holes()`, that is called once, and returns pairs of offset and length that are zero, or None
        if it does not know. If it has `changed_extents(since)`, that is called once, with the newest Revision or None,
        and returns pairs of offset and length in which something may have changed since that one was made; or None if
        it does not know. Holes count as zero whether or not they have changed according to that.

        If the object has `mark(revision)`, it keeps marks: that is called with the UUID of the revision before anything
        is read, and returns a text that identifies the mark, or None if it cannot make one. From then on the object is
        read as it was at the mark. Only then `holes` and `changed_extents` are called, the latter only if the newest
        revision has a mark and `identity()`, if there is one, returns the same text as then. `settle(keep)` is called
        at the end, however that is, with the UUID of the revision whose mark is still needed, or None: all other marks
        of this archive can go. doc/sources.md says when everything is read, and what is compared in any case.

        `progress` is called with a Progress while it lasts. `cancel`: a CancelToken that stops it.
        `wait`: how long to wait for the lock: seconds, a timedelta or text such as "10m".
        """
    @overload
    def backup(
        self,
        *,
        source: _Path | Source | None = None,
        force: bool = False,
        tags: Iterable[str] = (),
        progress: _Callback = None,
        cancel: CancelToken | None = None,
        limit_rate: int | str | None = None,
        check_space: bool = True,
        dry_run: bool,
        as_: Iterable[str] = (),
        wait: _Wait = None,
        read_all: bool = False,
    ) -> BackupReport | BackupPlan | None:
        """Back up the source if a backup is due; None when none is.

        The schedule in backy.toml decides when a backup is due. `force` makes one whatever the schedule says, and so do
        `tags`, which pin the revision until they are removed. `limit_rate`: read at most so many bytes of the source
        a second, such as 1048576 or "100M". `dry_run`: only report whether a backup is due, as a BackupPlan. A backup
        that is not expected to fit on the disk does not start (NoSpaceError), unless `check_space` is false.

        `as_`: tags of the schedule to give as if they were due now; they expire as usual. When a backup is due and
        another one of this archive is running, that one makes it, and the call returns None.

        `read_all`: read all of the source, whatever it reports about changes.

        The hooks of backy.toml run around the reading of any source; HookError when one of them fails.

        `source`: the configured one unless given: a path, or an object that gives bytes. Such an object has `size`,
        in bytes, and `readinto_at(offset, buffer)`, which writes to the buffer and returns how many bytes it has
        written: 0 only at the end. Several threads call it. An exception of the object stops the backup, leaves the
        archive as it was, and is raised unchanged.

        If the object has `holes()`, that is called once, and returns pairs of offset and length that are zero, or None
        if it does not know. If it has `changed_extents(since)`, that is called once, with the newest Revision or None,
        and returns pairs of offset and length in which something may have changed since that one was made; or None if
        it does not know. Holes count as zero whether or not they have changed according to that.

        If the object has `mark(revision)`, it keeps marks: that is called with the UUID of the revision before anything
        is read, and returns a text that identifies the mark, or None if it cannot make one. From then on the object is
        read as it was at the mark. Only then `holes` and `changed_extents` are called, the latter only if the newest
        revision has a mark and `identity()`, if there is one, returns the same text as then. `settle(keep)` is called
        at the end, however that is, with the UUID of the revision whose mark is still needed, or None: all other marks
        of this archive can go. doc/sources.md says when everything is read, and what is compared in any case.

        `progress` is called with a Progress while it lasts. `cancel`: a CancelToken that stops it.
        `wait`: how long to wait for the lock: seconds, a timedelta or text such as "10m".
        """
    def restore(
        self,
        target: _Path | Writable,
        revision: _Revision = "latest",
        *,
        force: bool = False,
        keep_going: bool = False,
        dry_run: bool = False,
        undo: _Path | None = None,
        check_space: bool = True,
        progress: _Callback = None,
        cancel: CancelToken | None = None,
    ) -> RestoreReport:
        """Restore a revision to a file, a device, or a binary file object.

        On an existing target, only blocks that differ are written; every block is verified before. A target that is
        mounted or otherwise in use, too small, or in the archive is refused (TargetError). `force` overwrites a file
        that exists, or a device that is not blank, even if it is not the source. The source needs no `force` when it
        is the one that was backed up, of a size that it had then, and no other process has it open.

        backy writes a file object from the beginning of the revision to its end, and takes no force, dry_run and undo
        with it. One that is closed, in text mode, or not open for writing is refused before anything begins. An
        exception of its write() is raised unchanged; when write() returns None that is a BlockingIOError, and when it
        returns anything but how many bytes it has written a TargetError.

        `keep_going`: fill unreadable blocks with zeros, list them in the report, and continue. `dry_run`: do
        everything but write. `undo`: a folder in which to create an archive of what is overwritten; restoring that
        brings it back.
        `check_space=False`: start even if the target seems to have too little space.

        `target`: a path, or a binary file object. `revision`: which one, as help(backy.Archive) says.
        `progress` is called with a Progress while it lasts. `cancel`: a CancelToken that stops it.
        """
    def look_at_target(
        self,
        target: _Path,
        revision: _Revision = "latest",
        *,
        progress: _Callback = None,
        cancel: CancelToken | None = None,
    ) -> TargetLook | None:
        """What a restore to a file or device would overwrite: what it is, what is on it, and how much of it differs.
        None when it would overwrite nothing.

        Changes nothing. The command shows this before it asks. Raises TargetError when `restore` would, even with
        `force`.

        `target`: the path of the file or device. `revision`: which one, as help(backy.Archive) says.
        `progress` is called with a Progress while it lasts. `cancel`: a CancelToken that stops it.
        """
    def scrub(
        self,
        revisions: _Revisions = "all",
        *,
        check_only: bool = False,
        budget: str | timedelta | None = None,
        progress: _Callback = None,
        cancel: CancelToken | None = None,
        wait: _Wait = None,
    ) -> ScrubReport:
        """Verify stored data and repair what can be repaired.

        Reads every stored block once and compares it with its digest; checks files, headers and tables as well.
        Findings are in the report and recorded: status is critical until they are repaired. `check_only`: change and
        record nothing, without the lock. `budget`: stop reading after a time ("30m", "4h") or a share of the stored
        bytes ("10%"); blocks that were not verified for the longest time come first. A budget of time may also be a
        timedelta; a number alone could mean either, and is refused.

        `revisions`: which ones, as help(backy.Archive) says.
        `progress` is called with a Progress while it lasts. `cancel`: a CancelToken that stops it.
        `wait`: how long to wait for the lock: seconds, a timedelta or text such as "10m".
        """
    @overload
    def maintenance(
        self,
        *,
        dry_run: Literal[False] = False,
        keep: int | None = None,
        confirm: bool = False,
        progress: _Callback = None,
        cancel: CancelToken | None = None,
        wait: _Wait = None,
    ) -> MaintenanceReport:
        """Delete revisions that the schedule no longer keeps; only the plan with `dry_run`.

        `keep`: keep so many of the newest revisions, whatever the schedule says. `confirm`: first confirm all alarms
        and all damage that status reports; nothing expires while they are unconfirmed.

        `progress` is called with a Progress while it lasts. `cancel`: a CancelToken that stops it.
        `wait`: how long to wait for the lock: seconds, a timedelta or text such as "10m".
        """
    @overload
    def maintenance(
        self,
        *,
        dry_run: Literal[True],
        keep: int | None = None,
        confirm: bool = False,
        progress: _Callback = None,
        cancel: CancelToken | None = None,
        wait: _Wait = None,
    ) -> MaintenancePlan:
        """Delete revisions that the schedule no longer keeps; only the plan with `dry_run`.

        `keep`: keep so many of the newest revisions, whatever the schedule says. `confirm`: first confirm all alarms
        and all damage that status reports; nothing expires while they are unconfirmed.

        `progress` is called with a Progress while it lasts. `cancel`: a CancelToken that stops it.
        `wait`: how long to wait for the lock: seconds, a timedelta or text such as "10m".
        """
    @overload
    def maintenance(
        self,
        *,
        dry_run: bool,
        keep: int | None = None,
        confirm: bool = False,
        progress: _Callback = None,
        cancel: CancelToken | None = None,
        wait: _Wait = None,
    ) -> MaintenanceReport | MaintenancePlan:
        """Delete revisions that the schedule no longer keeps; only the plan with `dry_run`.

        `keep`: keep so many of the newest revisions, whatever the schedule says. `confirm`: first confirm all alarms
        and all damage that status reports; nothing expires while they are unconfirmed.

        `progress` is called with a Progress while it lasts. `cancel`: a CancelToken that stops it.
        `wait`: how long to wait for the lock: seconds, a timedelta or text such as "10m".
        """
    @overload
    def pull(
        self,
        origin: _Path | None = None,
        *,
        revisions: _Revisions | None = None,
        ssh: str | Sequence[str] | None = None,
        limit_rate: int | str | None = None,
        check_space: bool = True,
        dry_run: Literal[False] = False,
        progress: _Callback = None,
        cancel: CancelToken | None = None,
        wait: _Wait = None,
    ) -> PullReport:
        """Pull revisions of another archive into this one, its copy; only the plan with `dry_run`.

        Takes over, oldest first, the revisions of the origin that are newer than the newest one here, with their names,
        times and tags. Reads only blocks that differ, and stores a revision only if its digest is that of the origin.
        This archive keeps and expires revisions by its own schedule. The origin is neither locked nor changed.

        The report names what is missing; its is_complete is False then. A block that the origin has lost raises
        nothing: the revision is stored, and nobody can read the block here either. After an error or a stop, the
        revisions that were pulled stay, and the next pull continues. To create a copy use backy.pull().

        Raises SourceError when the origin cannot be reached, has other content under the same name or sends what it did
        not offer, SpecificationError when its blocks have another size, NoSuchRevisionError when it lacks a revision
        that `revisions` names, ArchiveNotFoundError when there is no archive.

        `origin`: the other archive: a path, or "ssh://[USER@]HOST[:PORT]/PATH"; without it, the `url` in [origin] of
        backy.toml. `revisions`: which ones of the origin, as help(backy.Archive) says; without it, all that are newer
        than those here and that the schedule here keeps.
        `ssh`: the program that connects to another machine, and its arguments, such as "ssh -i KEY" or a sequence of
        words; nobody is asked for a password. `limit_rate`: read at most so many bytes of the origin a second, such as
        1048576 or "100M". `check_space=False`: start even if a revision is not expected to fit on the disk.
        `progress` is called with a Progress while it lasts, for one revision after the other. `cancel`: a CancelToken
        that stops it.
        `wait`: how long to wait for the lock: seconds, a timedelta or text such as "10m".
        """
    @overload
    def pull(
        self,
        origin: _Path | None = None,
        *,
        revisions: _Revisions | None = None,
        ssh: str | Sequence[str] | None = None,
        limit_rate: int | str | None = None,
        check_space: bool = True,
        dry_run: Literal[True],
        progress: _Callback = None,
        cancel: CancelToken | None = None,
        wait: _Wait = None,
    ) -> PullPlan:
        """Pull revisions of another archive into this one, its copy; only the plan with `dry_run`.

        Takes over, oldest first, the revisions of the origin that are newer than the newest one here, with their names,
        times and tags. Reads only blocks that differ, and stores a revision only if its digest is that of the origin.
        This archive keeps and expires revisions by its own schedule. The origin is neither locked nor changed.

        The report names what is missing; its is_complete is False then. A block that the origin has lost raises
        nothing: the revision is stored, and nobody can read the block here either. After an error or a stop, the
        revisions that were pulled stay, and the next pull continues. To create a copy use backy.pull().

        Raises SourceError when the origin cannot be reached, has other content under the same name or sends what it did
        not offer, SpecificationError when its blocks have another size, NoSuchRevisionError when it lacks a revision
        that `revisions` names, ArchiveNotFoundError when there is no archive.

        `origin`: the other archive: a path, or "ssh://[USER@]HOST[:PORT]/PATH"; without it, the `url` in [origin] of
        backy.toml. `revisions`: which ones of the origin, as help(backy.Archive) says; without it, all that are newer
        than those here and that the schedule here keeps.
        `ssh`: the program that connects to another machine, and its arguments, such as "ssh -i KEY" or a sequence of
        words; nobody is asked for a password. `limit_rate`: read at most so many bytes of the origin a second, such as
        1048576 or "100M". `check_space=False`: start even if a revision is not expected to fit on the disk.
        `progress` is called with a Progress while it lasts, for one revision after the other. `cancel`: a CancelToken
        that stops it.
        `wait`: how long to wait for the lock: seconds, a timedelta or text such as "10m".
        """
    @overload
    def pull(
        self,
        origin: _Path | None = None,
        *,
        revisions: _Revisions | None = None,
        ssh: str | Sequence[str] | None = None,
        limit_rate: int | str | None = None,
        check_space: bool = True,
        dry_run: bool,
        progress: _Callback = None,
        cancel: CancelToken | None = None,
        wait: _Wait = None,
    ) -> PullReport | PullPlan:
        """Pull revisions of another archive into this one, its copy; only the plan with `dry_run`.

        Takes over, oldest first, the revisions of the origin that are newer than the newest one here, with their names,
        times and tags. Reads only blocks that differ, and stores a revision only if its digest is that of the origin.
        This archive keeps and expires revisions by its own schedule. The origin is neither locked nor changed.

        The report names what is missing; its is_complete is False then. A block that the origin has lost raises
        nothing: the revision is stored, and nobody can read the block here either. After an error or a stop, the
        revisions that were pulled stay, and the next pull continues. To create a copy use backy.pull().

        Raises SourceError when the origin cannot be reached, has other content under the same name or sends what it did
        not offer, SpecificationError when its blocks have another size, NoSuchRevisionError when it lacks a revision
        that `revisions` names, ArchiveNotFoundError when there is no archive.

        `origin`: the other archive: a path, or "ssh://[USER@]HOST[:PORT]/PATH"; without it, the `url` in [origin] of
        backy.toml. `revisions`: which ones of the origin, as help(backy.Archive) says; without it, all that are newer
        than those here and that the schedule here keeps.
        `ssh`: the program that connects to another machine, and its arguments, such as "ssh -i KEY" or a sequence of
        words; nobody is asked for a password. `limit_rate`: read at most so many bytes of the origin a second, such as
        1048576 or "100M". `check_space=False`: start even if a revision is not expected to fit on the disk.
        `progress` is called with a Progress while it lasts, for one revision after the other. `cancel`: a CancelToken
        that stops it.
        `wait`: how long to wait for the lock: seconds, a timedelta or text such as "10m".
        """
    @overload
    def push(
        self,
        to: _Path,
        *,
        revisions: _Revisions | None = None,
        ssh: str | Sequence[str] | None = None,
        limit_rate: int | str | None = None,
        dry_run: Literal[False] = False,
        progress: _Callback = None,
        cancel: CancelToken | None = None,
        wait: _Wait = None,
    ) -> PullReport:
        """Push revisions of this archive to its copy, which is created if there is none; only the plan with `dry_run`.

        The copy pulls them, as Archive.pull() there would: see there. For hosts that the copy cannot reach. Can only
        add revisions. Returns the PullReport of the copy, or its PullPlan.

        Raises SourceError when the other machine cannot be reached, refuses, or reports an error.

        `to`: where the copy is: a path, or "ssh://[USER@]HOST[:PORT]/PATH". `revisions`: which ones, as
        help(backy.Archive) says; without it, all that are newer than those of the copy and that its schedule keeps.
        `ssh`: the program that connects to another machine, and its arguments, such as "ssh -i KEY" or a sequence of
        words; nobody is asked for a password. `limit_rate`: send at most so many bytes a second, such as 1048576 or
        "100M".
        `progress` is called with a Progress while a copy on this machine pulls. `cancel`: a CancelToken that stops it.
        `wait`: how long to wait for the lock of a copy on this machine: seconds, a timedelta or text such as "10m".
        """
    @overload
    def push(
        self,
        to: _Path,
        *,
        revisions: _Revisions | None = None,
        ssh: str | Sequence[str] | None = None,
        limit_rate: int | str | None = None,
        dry_run: Literal[True],
        progress: _Callback = None,
        cancel: CancelToken | None = None,
        wait: _Wait = None,
    ) -> PullPlan:
        """Push revisions of this archive to its copy, which is created if there is none; only the plan with `dry_run`.

        The copy pulls them, as Archive.pull() there would: see there. For hosts that the copy cannot reach. Can only
        add revisions. Returns the PullReport of the copy, or its PullPlan.

        Raises SourceError when the other machine cannot be reached, refuses, or reports an error.

        `to`: where the copy is: a path, or "ssh://[USER@]HOST[:PORT]/PATH". `revisions`: which ones, as
        help(backy.Archive) says; without it, all that are newer than those of the copy and that its schedule keeps.
        `ssh`: the program that connects to another machine, and its arguments, such as "ssh -i KEY" or a sequence of
        words; nobody is asked for a password. `limit_rate`: send at most so many bytes a second, such as 1048576 or
        "100M".
        `progress` is called with a Progress while a copy on this machine pulls. `cancel`: a CancelToken that stops it.
        `wait`: how long to wait for the lock of a copy on this machine: seconds, a timedelta or text such as "10m".
        """
    @overload
    def push(
        self,
        to: _Path,
        *,
        revisions: _Revisions | None = None,
        ssh: str | Sequence[str] | None = None,
        limit_rate: int | str | None = None,
        dry_run: bool,
        progress: _Callback = None,
        cancel: CancelToken | None = None,
        wait: _Wait = None,
    ) -> PullReport | PullPlan:
        """Push revisions of this archive to its copy, which is created if there is none; only the plan with `dry_run`.

        The copy pulls them, as Archive.pull() there would: see there. For hosts that the copy cannot reach. Can only
        add revisions. Returns the PullReport of the copy, or its PullPlan.

        Raises SourceError when the other machine cannot be reached, refuses, or reports an error.

        `to`: where the copy is: a path, or "ssh://[USER@]HOST[:PORT]/PATH". `revisions`: which ones, as
        help(backy.Archive) says; without it, all that are newer than those of the copy and that its schedule keeps.
        `ssh`: the program that connects to another machine, and its arguments, such as "ssh -i KEY" or a sequence of
        words; nobody is asked for a password. `limit_rate`: send at most so many bytes a second, such as 1048576 or
        "100M".
        `progress` is called with a Progress while a copy on this machine pulls. `cancel`: a CancelToken that stops it.
        `wait`: how long to wait for the lock of a copy on this machine: seconds, a timedelta or text such as "10m".
        """
    @overload
    def rm(
        self,
        revisions: _Revisions,
        *,
        dry_run: Literal[False] = False,
        force: bool = False,
        progress: _Callback = None,
        cancel: CancelToken | None = None,
        wait: _Wait = None,
    ) -> MaintenanceReport:
        """Delete revisions by hand; only the plan with `dry_run`.

        Blocks that older revisions need are merged into those first. One revision has to stay. `force`: also pinned
        ones.

        `revisions`: which ones, as help(backy.Archive) says.
        `progress` is called with a Progress while it lasts. `cancel`: a CancelToken that stops it.
        `wait`: how long to wait for the lock: seconds, a timedelta or text such as "10m".
        """
    @overload
    def rm(
        self,
        revisions: _Revisions,
        *,
        dry_run: Literal[True],
        force: bool = False,
        progress: _Callback = None,
        cancel: CancelToken | None = None,
        wait: _Wait = None,
    ) -> MaintenancePlan:
        """Delete revisions by hand; only the plan with `dry_run`.

        Blocks that older revisions need are merged into those first. One revision has to stay. `force`: also pinned
        ones.

        `revisions`: which ones, as help(backy.Archive) says.
        `progress` is called with a Progress while it lasts. `cancel`: a CancelToken that stops it.
        `wait`: how long to wait for the lock: seconds, a timedelta or text such as "10m".
        """
    @overload
    def rm(
        self,
        revisions: _Revisions,
        *,
        dry_run: bool,
        force: bool = False,
        progress: _Callback = None,
        cancel: CancelToken | None = None,
        wait: _Wait = None,
    ) -> MaintenanceReport | MaintenancePlan:
        """Delete revisions by hand; only the plan with `dry_run`.

        Blocks that older revisions need are merged into those first. One revision has to stay. `force`: also pinned
        ones.

        `revisions`: which ones, as help(backy.Archive) says.
        `progress` is called with a Progress while it lasts. `cancel`: a CancelToken that stops it.
        `wait`: how long to wait for the lock: seconds, a timedelta or text such as "10m".
        """
    def tag(
        self,
        revision: _Revision,
        add: Iterable[str] = (),
        remove: Iterable[str] = (),
        *,
        cancel: CancelToken | None = None,
        wait: _Wait = None,
    ) -> tuple[str, ...]:
        """Add and remove tags of a revision; returns all that it has then, sorted.

        An added tag is pinned: it does not expire, and maintenance keeps the revision until the tag is removed.

        `revision`: which one, as help(backy.Archive) says. `add`, `remove`: iterables of tags. `cancel`: a
        CancelToken that stops it. `wait`: how long to wait for the lock: seconds, a timedelta or text such as "10m".
        """
    def drill(
        self,
        revision: _Revision | None = None,
        *,
        command: Sequence[str] | Callable[[Path], object] | None = None,
        dir: _Path | None = None,
        timeout: str | float | timedelta | None = None,
        progress: _Callback = None,
        cancel: CancelToken | None = None,
        wait: _Wait = None,
    ) -> DrillReport:
        """Test a restore of a revision, one at random unless you name it. Recorded, so that status shows it.

        Reads the whole revision and verifies every block. With a `command`, a sequence of words, it also restores the
        revision to a temporary read-only file in the folder `dir` and runs the command on it: "{}" in its words
        stands for the path of the file, or the path becomes the last word. `command` may also be a callable: it is
        called with the path, and the drill passes if it returns None or something true. The file is deleted in any
        case. After `timeout` ("90s", "30m", "4h", or "none"; without it what backy.toml says, or a day) the command
        is ended, with all that it has started; what it has started is also ended when it ends by itself. There is no
        time limit for a callable.
        `timeout` may also be a number of seconds, or a timedelta.

        `revision`: which one, as help(backy.Archive) says; without it one at random.
        `progress` is called with a Progress while it lasts. `cancel`: a CancelToken that stops it.
        `wait`: how long to wait for the lock: seconds, a timedelta or text such as "10m".
        """
    def export(
        self,
        path: _Path,
        revision: _Revision = "latest",
        *,
        level: int | None = None,
        progress: _Callback = None,
        cancel: CancelToken | None = None,
    ) -> ExportReport:
        """Write a revision as one compressed qcow2 file that needs no other. `path` must not exist yet.

        `level`: how hard to compress, from 1 (fast) to 19 (small); without it that of backy.toml.
        `revision`: which one, as help(backy.Archive) says.
        `progress` is called with a Progress while it lasts. `cancel`: a CancelToken that stops it.
        """
    def export_rbd_diff(
        self,
        target: _Path | Writable,
        revision: _Revision = "latest",
        *,
        since: _Revision | None = None,
        progress: _Callback = None,
        cancel: CancelToken | None = None,
    ) -> RbdDiffReport:
        """Write a revision in the format "rbd diff v1": `rbd import-diff` makes a snapshot of it, named by its UUID.

        `since`: the revision that the image in Ceph has already, as such a snapshot; then there is only what differs
        from it. Without it there is all data, for an empty image. The format has no checksum: compare what arrives
        with the `sha256` of the report. A path must not exist yet. After an error, what was written to a file object
        is not complete, and no reader takes it for complete.

        `target`: a path, or a binary file object. `revision`: which one, as help(backy.Archive) says.
        `progress` is called with a Progress while it lasts. `cancel`: a CancelToken that stops it.
        """
    def config(self) -> ConfigReport:
        """The settings that apply, and the file and line that each comes from: backy.toml with the files that it includes.

        Problems with the settings are in its errors.
        """
    @overload
    def open(self, revision: _Revision = "latest", *, buffered: Literal[False] = False) -> RevisionFile:
        """Open a revision as a file: read, readinto, seek, and the rest of io.RawIOBase.

        Every byte is checked against its digest before it is returned; one that is not right raises
        ArchiveDamagedError. Several threads may read from it. `buffered`: an io.BufferedReader over that, for many
        small reads.

        `revision`: which one, as help(backy.Archive) says.
        """
    @overload
    def open(self, revision: _Revision = "latest", *, buffered: Literal[True]) -> BufferedReader:
        """Open a revision as a file: read, readinto, seek, and the rest of io.RawIOBase.

        Every byte is checked against its digest before it is returned; one that is not right raises
        ArchiveDamagedError. Several threads may read from it. `buffered`: an io.BufferedReader over that, for many
        small reads.

        `revision`: which one, as help(backy.Archive) says.
        """
    @overload
    def open(self, revision: _Revision = "latest", *, buffered: bool) -> RevisionFile | BufferedReader:
        """Open a revision as a file: read, readinto, seek, and the rest of io.RawIOBase.

        Every byte is checked against its digest before it is returned; one that is not right raises
        ArchiveDamagedError. Several threads may read from it. `buffered`: an io.BufferedReader over that, for many
        small reads.

        `revision`: which one, as help(backy.Archive) says.
        """
    def mount(
        self,
        mountpoint: _Path,
        *,
        writable: bool = False,
        dir: _Path | None = None,
        gid: int | str | None = None,
        allow_other: bool = False,
        cache: int = 67108864,
    ) -> Mount:
        """Show every revision as a file in the folder `mountpoint`, until it is unmounted.

        For a `with` block, which gives the Path of the mountpoint and unmounts at its end. There is a raw image for
        each revision, named by its UUID, with UUID.partitions besides it; latest, by-number, by-date and by-tag lead
        to them. Threads of this process serve it. `writable`: let programs write to the files; temporary files in the
        folder `dir` take what they write, and are deleted. `gid`: let the members of this group, a name or a number,
        read it as well.
        `allow_other`: let other users in, of whom only root may read. `cache`: how many bytes of what was read to
        keep in memory.
        """

@final
class CancelToken:
    """Stops calls of backy from any thread: give it to them as `cancel`, and call cancel().

    A call that is stopped puts the archive in order and raises CancelledError. One that has finished its work by then
    returns its report. A token stays cancelled: a call that gets a cancelled one raises at once, before it begins.

    One token may stop many calls. As a context manager it cancels when an exception, such as KeyboardInterrupt, leaves
    the block. cancel() may be called in a signal handler.
    """

    def __new__(cls) -> CancelToken: ...
    def cancel(self) -> None:
        """Stop every call that has this token, now and later. Returns at once; the calls end a moment later."""

    @property
    def is_cancelled(self) -> bool:
        """Whether cancel() has been called."""

    def __enter__(self) -> CancelToken: ...
    def __exit__(self, *exception: object) -> None: ...

@final
class Mount:
    """An archive that is mounted: what Archive.mount() gives, for a `with` block.

    When nothing refers to it any more it is taken from its place. In a child that this process forks it can be looked
    at; the child neither takes it away when it ends, nor may it.
    """

    @property
    def path(self) -> Path:
        """The folder where it is mounted."""
    @property
    def is_mounted(self) -> bool:
        """Whether it is still in its place: not after unmount(), nor after `umount`."""
    def unmount(self, *, lazy: bool = False) -> None:
        """Take it away; nothing happens when that has been done.

        Raises MountError when it is still in use after some seconds, or in a child of the process that has mounted
        it; then it stays. `lazy`: take it from its place at once; programs keep what they have open,
        as long as this process lives.
        """
    def __enter__(self) -> Path: ...
    def __exit__(self, *_exception: object) -> None: ...

@final
class Progress:
    """How far an operation is: what a progress callback is given, at most ten times a second, and once at the end."""

    __match_args__ = ("phase", "bytes_done", "bytes_total")
    @staticmethod
    def _of(phase: str, bytes_done: int, bytes_total: int) -> Progress: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    @property
    def phase(self) -> _Phase:
        """What is being done: "backup", "scrub", "restore", "merge", "recover", "export", "drill", "save-target",
        "compare-source", "compare-target", "check-target" or "check-old-archive". An operation may have several
        phases, each with bytes of its own.
        """
    @property
    def bytes_done(self) -> int:
        """Bytes done so far in this phase."""
    @property
    def bytes_total(self) -> int:
        """Bytes that this phase has to do."""

@final
class Reader:
    """A revision that is open for reading; see backy.io.RevisionFile, which is made of it."""

    @property
    def size(self) -> int:
        """Size of the revision in bytes."""
    @property
    def uuid(self) -> str:
        """UUID of the revision."""
    @property
    def position(self) -> int:
        """Where the next read() or fill_memory() begins."""
    def seek(self, offset: int, whence: int, /) -> int:
        """Moves the position; where it is then."""
    def read(self, size: int | None, /) -> bytes:
        """Up to `size` bytes from the position on, all that are left if it is negative or None."""
    def fill_memory(self, address: int, size: int, /) -> int:
        """As fill_memory_at, from the position on."""
    def read_at(self, offset: int, size: int, /) -> bytes:
        """Up to `size` bytes at `offset`; fewer only at the end of the revision."""
    def fill_memory_at(self, offset: int, address: int, size: int, /) -> int:
        """Fills `size` bytes of memory from `address` on, which nobody else may use meanwhile; how many bytes that were."""

@disjoint_base
class Report:
    """What an operation found out: properties, and `to_dict()` with what the command prints with `--json`.

    Cannot be changed. Two are equal when all they say is equal. Can be pickled and copied, and taken apart by
    `match`, with its properties in their order.
    """

    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Makes a report of what `to_dict()` gave, or of what the command prints with --json.

        `fields`: a dict. Fields that this version does not know are ignored, so that what a newer version printed can
        be read. Raises SpecificationError, which names the field, where one is missing or cannot be what it is. A
        path that is no UTF-8 does not come back from JSON; a pickle keeps it.
        """
    def to_dict(self) -> dict[str, Any]:
        """All of it as dicts, lists, numbers and strings: what the command prints with --json."""

@final
class Extent(Report):
    """A stretch of bytes."""

    __match_args__ = ("offset", "len")
    @property
    def offset(self) -> int:
        """Position of the first byte."""
    @property
    def len(self) -> int:
        """Number of bytes."""

@final
class BlockRange(Report):
    """A stretch of blocks of a file."""

    __match_args__ = ("first", "count")
    @property
    def first(self) -> int:
        """Number of the first block."""
    @property
    def count(self) -> int:
        """How many blocks."""

@final
class Bookmark(Report):
    """A mark at the source: there the source was what the revision holds."""

    __match_args__ = ("tracker", "id", "identity", "granularity")
    @property
    def tracker(self) -> str:
        """What keeps it: "python" for an object, "reflink" for a clone, "rbd" and "lvm-thin" for a snapshot, "libvirt"
        for a checkpoint, "qcow2" and "qmp" for a bitmap, "command" for a program of the config.
        """
    @property
    def id(self) -> str:
        """What distinguishes it from another mark with the same name; of an object what `mark` returned."""
    @property
    def identity(self) -> str:
        """What distinguishes the source from another one; of an object what `identity` returned."""
    @property
    def granularity(self) -> int:
        """Changes are reported in units of so many bytes."""

@final
class Hints(Report):
    """How much of the source a backup did not read, because the source reported no change."""

    __match_args__ = ("since", "skipped_bytes", "compared_bytes", "reason")
    @property
    def since(self) -> str | None:
        """UUID of the revision since which the source reported changes; None when everything was read."""
    @property
    def skipped_bytes(self) -> int:
        """Bytes that were not read, apart from holes."""
    @property
    def compared_bytes(self) -> int:
        """Bytes that were read and compared although the source reported no change."""
    @property
    def reason(self) -> str | None:
        """Why everything was read, or None."""

@final
class Revision(Report):
    """The state of the source at one time. Equal to another that has the same UUID.

    `started` and `size_bytes` are what `RevisionStatus` and JSON call them; `timestamp` and `size` are older
    names for them, which both classes have as well.
    """

    __match_args__ = (
        "uuid",
        "started",
        "finished",
        "size_bytes",
        "tags",
        "pinned_tags",
        "digest",
        "base",
        "file",
        "read_bytes",
        "changed_bytes",
        "stored_bytes",
        "seconds",
        "hints",
        "bookmark",
        "bad_blocks",
        "number",
        "damaged",
    )
    @property
    def uuid(self) -> str:
        """Its name, in lower case with hyphens."""
    @property
    def started(self) -> datetime:
        """When its backup began, with zone UTC."""
    @property
    def finished(self) -> datetime:
        """When its backup was committed, with zone UTC."""
    @property
    def size_bytes(self) -> int:
        """Size of the image in bytes."""
    @property
    def tags(self) -> tuple[str, ...]:
        """Why it exists, sorted: schedules that were due, and words given by hand."""
    @property
    def pinned_tags(self) -> tuple[str, ...]:
        """The tags that were given by hand, and stay until they are removed by hand."""
    @property
    def digest(self) -> str:
        """SHA-256 over the SHA-256s of its blocks, 64 hex digits; the README in the archive explains how to check it."""
    @property
    def base(self) -> str | None:
        """UUID of the next newer revision, which it reads through to; None for the newest and for a standalone one."""
    @property
    def file(self) -> Path:
        """The file that holds it, within the archive's folder."""
    @property
    def read_bytes(self) -> int:
        """Bytes that its backup read from the source."""
    @property
    def changed_bytes(self) -> int:
        """Bytes in blocks that differed from the revision before."""
    @property
    def stored_bytes(self) -> int:
        """Bytes that its backup added on disk; may be negative."""
    @property
    def seconds(self) -> float:
        """Seconds that its backup took."""
    @property
    def hints(self) -> Hints | None:
        """What its backup did not read, because the source reported no change; None if the source reports none."""
    @property
    def bookmark(self) -> Bookmark | None:
        """The mark at the source that stands for it, or None."""
    @property
    def bad_blocks(self) -> tuple[BlockRange, ...]:
        """Blocks of its own file that are known to be bad; `damaged` has what that costs, in bytes."""
    @property
    def number(self) -> int | None:
        """Its number when the archive was read, 0 being the newest; None when it was read from JSON."""
    @property
    def damaged(self) -> tuple[Extent, ...] | None:
        """Stretches that could not be read from it when the archive was read. None when that is not known: when it
        was read from JSON, or when the files could not be looked at.
        """
    @property
    def timestamp(self) -> datetime:
        """The older name of `started`."""
    @property
    def size(self) -> int:
        """The older name of `size_bytes`."""

@final
class BackupReport(Report):
    """What a backup did."""

    __match_args__ = ("revision", "cloned", "bad_blocks", "healed_blocks")
    @property
    def revision(self) -> Revision:
        """The new revision."""
    @property
    def cloned(self) -> bool:
        """Whether the image was updated on a clone."""
    @property
    def bad_blocks(self) -> int:
        """Blocks of the revision before that were found to be rotten."""
    @property
    def healed_blocks(self) -> int:
        """Blocks that were known to be bad and that the source still had; they are right again."""

@final
class BackupPlan(Report):
    """What a backup would do now."""

    __match_args__ = ("due", "tags", "room", "next_due", "next_tag")
    @property
    def due(self) -> bool:
        """Whether a revision would be made."""
    @property
    def tags(self) -> tuple[str, ...]:
        """The tags that it would get, sorted."""
    @property
    def room(self) -> Estimate | None:
        """The space that it would take; None when none is due."""
    @property
    def next_due(self) -> datetime | None:
        """When the next one is due, if none is made now; None without a schedule."""
    @property
    def next_tag(self) -> str | None:
        """The tag that is due then."""

@final
class Estimate(Report):
    """How much space a backup takes while it is made."""

    __match_args__ = ("expected_bytes", "most_bytes", "free_bytes")
    @property
    def expected_bytes(self) -> int | None:
        """Expected bytes; None when there is nothing to estimate them from."""
    @property
    def most_bytes(self) -> int:
        """The most that it can be."""
    @property
    def free_bytes(self) -> int | None:
        """What is free; None where nobody can say."""

@final
class UndoReport(Report):
    """Where what a restore has overwritten is kept."""

    __match_args__ = ("archive", "revision", "saved_bytes", "seconds")
    @property
    def archive(self) -> Path:
        """Folder of the archive with it; restoring from that brings it back."""
    @property
    def revision(self) -> str:
        """UUID of its only revision."""
    @property
    def saved_bytes(self) -> int:
        """Bytes in the blocks that were saved."""
    @property
    def seconds(self) -> float:
        """Seconds that it took."""

@final
class TargetContent(Report):
    """A file system on the target of a restore."""

    __match_args__ = ("partition", "kind", "label", "written")
    @property
    def partition(self) -> int | None:
        """The number of the partition that it is in, or None when there are no partitions."""
    @property
    def kind(self) -> str:
        """What it is, such as "ext4"."""
    @property
    def label(self) -> str | None:
        """The name that somebody gave it, or None."""
    @property
    def written(self) -> datetime | None:
        """When it was last written to, if it notes that; else None."""

@final
class TargetLook(Report):
    """What a restore would overwrite."""

    __match_args__ = (
        "target",
        "target_kind",
        "is_source",
        "objection",
        "size_bytes",
        "changed",
        "contents",
        "compared_bytes",
        "differing_bytes",
    )
    @property
    def target(self) -> Path:
        """Where it is."""
    @property
    def target_kind(self) -> _TargetKind:
        """What it is: "file" or "block-device"."""
    @property
    def is_source(self) -> bool:
        """Whether it is the configured source of an archive that can be trusted."""
    @property
    def objection(self) -> str | None:
        """Why only `force` overwrites it; None when it is the source that was backed up, and nobody else has it open."""
    @property
    def size_bytes(self) -> int:
        """How long it is, in bytes."""
    @property
    def changed(self) -> datetime | None:
        """When a file was last written to, or the file system of a device, if that notes it; else None."""
    @property
    def contents(self) -> tuple[TargetContent, ...]:
        """The file systems on it."""
    @property
    def compared_bytes(self) -> int:
        """Bytes of the revision that were compared with it: all, or samples from everywhere."""
    @property
    def differing_bytes(self) -> int:
        """Those of them that differ, in whole blocks."""

@final
class RestoreReport(Report):
    """What a restore did, or a dry run would have done."""

    __match_args__ = (
        "revision",
        "target",
        "target_kind",
        "dry_run",
        "size_bytes",
        "written_bytes",
        "written_extents",
        "unreadable",
        "digests_checked",
        "is_exact",
        "is_complete",
        "changed_since",
        "undo",
        "seconds",
    )
    @property
    def revision(self) -> str:
        """UUID of the revision."""
    @property
    def target(self) -> Path:
        """Where it was written; Path("-") for a stream."""
    @property
    def target_kind(self) -> _TargetKind:
        """What the target was: "new-file", "file", "block-device" or "stream"."""
    @property
    def dry_run(self) -> bool:
        """Whether nothing was written."""
    @property
    def size_bytes(self) -> int:
        """Size of the revision in bytes."""
    @property
    def written_bytes(self) -> int:
        """Bytes that were written; the others were right already."""
    @property
    def written_extents(self) -> int:
        """Stretches in which they are."""
    @property
    def unreadable(self) -> tuple[Extent, ...]:
        """Stretches that could not be read right and are zero, ascending; only with keep_going."""
    @property
    def digests_checked(self) -> bool:
        """Whether the digests of the revision were right as a whole. If not, more than `unreadable` may be wrong."""
    @property
    def is_exact(self) -> bool:
        """Whether the target has become exactly the revision; only with keep_going, or from an undo archive, can it
        be False.
        """
    @property
    def is_complete(self) -> bool:
        """Whether all that the archive has of the revision is in the target now; only with keep_going can it be False."""
    @property
    def changed_since(self) -> tuple[Extent, ...]:
        """Stretches that an undo archive does not hold and that somebody has changed since; they stay as they are.
        Ascending.
        """
    @property
    def undo(self) -> UndoReport | None:
        """Where what was overwritten is kept, or None."""
    @property
    def seconds(self) -> float:
        """Seconds that it took."""

@final
class Affected(Report):
    """A revision that a finding costs something."""

    __match_args__ = ("revision", "number", "extents")
    @property
    def revision(self) -> str:
        """UUID of the revision."""
    @property
    def number(self) -> int:
        """Its number, 0 being the newest."""
    @property
    def extents(self) -> tuple[Extent, ...]:
        """What of it cannot be read."""

@final
class Finding(Report):
    """Something that is not as it was written."""

    __match_args__ = ("file", "blocks", "message", "affected", "repaired")
    @property
    def file(self) -> Path:
        """The file, within the archive's folder."""
    @property
    def blocks(self) -> BlockRange | None:
        """The blocks in it that are bad, or None when it is not about blocks."""
    @property
    def message(self) -> str:
        """What was found, and what was expected."""
    @property
    def affected(self) -> tuple[Affected, ...]:
        """Which revisions cannot be read in full because of it."""
    @property
    def repaired(self) -> bool:
        """Whether it has been repaired."""

@final
class Coverage(Report):
    """How much of what is stored has been verified by scrubs, and since when."""

    __match_args__ = ("verified_share", "oldest")
    @property
    def verified_share(self) -> float:
        """Share of the blocks of all files that were ever verified, from 0 to 1."""
    @property
    def oldest(self) -> datetime | None:
        """The longest time ago that a block was last verified; None when some never were."""

@final
class ScrubReport(Report):
    """What a scrub found and did."""

    __match_args__ = ("findings", "unknown_files", "is_clean", "read_bytes", "budget_bytes", "coverage", "seconds")
    @property
    def findings(self) -> tuple[Finding, ...]:
        """All findings: old ones that remain, new ones, and those that were repaired."""
    @property
    def unknown_files(self) -> tuple[str, ...]:
        """Names of files with a name that an archive uses, of which the manifest knows nothing. They are kept."""
    @property
    def is_clean(self) -> bool:
        """Whether every finding has been repaired."""
    @property
    def read_bytes(self) -> int:
        """Bytes of content that were read and checked."""
    @property
    def budget_bytes(self) -> int | None:
        """Stored bytes that a budget which is a share allowed to be read; None without one."""
    @property
    def coverage(self) -> Coverage:
        """How much of what is stored has been verified."""
    @property
    def seconds(self) -> float:
        """Seconds that it took."""

@final
class RebuildReport(Report):
    """What a new manifest has, and what it lacks."""

    __match_args__ = ("revisions", "unknown")
    @property
    def revisions(self) -> tuple[str, ...]:
        """UUIDs of the revisions in it, newest first."""
    @property
    def unknown(self) -> tuple[str, ...]:
        """What could not be known, in sentences."""

@final
class Verdict(Report):
    """What is to become of one revision, and why."""

    __match_args__ = ("number", "uuid", "keep", "reason", "expired_tags")
    @property
    def number(self) -> int:
        """Its number before anything is done; 0 is the newest."""
    @property
    def uuid(self) -> str:
        """Its name."""
    @property
    def keep(self) -> bool:
        """Whether it stays."""
    @property
    def reason(self) -> str:
        """What keeps it, or what has expired."""
    @property
    def expired_tags(self) -> tuple[str, ...]:
        """Tags that it loses, also when it stays."""

@final
class Step(Report):
    """A step of a plan. What is not part of such a step is None."""

    __match_args__ = ("step", "revisions", "revision", "into", "to", "reason")
    @property
    def step(self) -> _StepKind:
        """"remove", "merge", "roll-back" or "standalone"."""
    @property
    def revisions(self) -> tuple[str, ...] | None:
        """remove, merge: UUIDs of the revisions to delete."""
    @property
    def revision(self) -> str | None:
        """roll-back: UUID of the newest, which is deleted. standalone: of the one that becomes independent of all
        others.
        """
    @property
    def into(self) -> str | None:
        """merge: UUID of the one that takes over what it reads from those that are deleted."""
    @property
    def to(self) -> str | None:
        """roll-back: UUID of the one that is the newest then."""
    @property
    def reason(self) -> str | None:
        """standalone: why."""

@final
class MaintenancePlan(Report):
    """What maintenance, or the removal of revisions, would do."""

    __match_args__ = ("verdicts", "steps", "frees_bytes", "frozen", "excess")
    @property
    def frozen(self) -> tuple[Freeze, ...]:
        """Why nothing expires, although the schedule would let it."""
    @property
    def excess(self) -> str | None:
        """Why far more revisions stay than the schedule keeps, as a sentence; None when they do not."""
    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """For each revision, newest first, whether it stays, and why."""
    @property
    def steps(self) -> tuple[Step, ...]:
        """What is done, in order."""
    @property
    def frees_bytes(self) -> int:
        """Estimate of the bytes on disk that come free; negative when more are needed."""

@final
class MaintenanceReport(Report):
    """What maintenance, or the removal of revisions, did."""

    __match_args__ = ("verdicts", "steps", "frees_bytes", "freed_bytes", "frozen", "excess", "confirmed", "seconds")
    @property
    def frozen(self) -> tuple[Freeze, ...]:
        """Why nothing expired, although the schedule would let it."""
    @property
    def excess(self) -> str | None:
        """Why far more revisions stay than the schedule keeps, as a sentence; None when they do not."""
    @property
    def confirmed(self) -> tuple[Freeze, ...]:
        """What was confirmed before."""
    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """For each revision that there was, newest first, whether it stayed, and why."""
    @property
    def steps(self) -> tuple[Step, ...]:
        """What was done, in order."""
    @property
    def frees_bytes(self) -> int:
        """Bytes that the plan expected to free."""
    @property
    def freed_bytes(self) -> int:
        """Bytes on disk that came free."""
    @property
    def seconds(self) -> float:
        """Seconds that it took."""

@final
class DrillReport(Report):
    """What a test restore found."""

    __match_args__ = (
        "revision",
        "started",
        "seconds",
        "size_bytes",
        "read_bytes",
        "bytes_per_second",
        "command",
        "passed",
        "message",
    )
    @property
    def revision(self) -> str:
        """UUID of the revision."""
    @property
    def started(self) -> datetime:
        """When it began, with zone UTC."""
    @property
    def seconds(self) -> float:
        """Seconds that reading or restoring took, without the command."""
    @property
    def size_bytes(self) -> int:
        """Size of the revision in bytes."""
    @property
    def read_bytes(self) -> int:
        """Bytes that were read and checked; zero blocks are not read."""
    @property
    def bytes_per_second(self) -> int:
        """Those a second."""
    @property
    def command(self) -> str | None:
        """What was run on the restored revision, or None."""
    @property
    def passed(self) -> bool:
        """Whether every byte was right and the command succeeded."""
    @property
    def message(self) -> str:
        """One sentence."""

@final
class ExportReport(Report):
    """What an export did."""

    __match_args__ = ("revision", "file", "size_bytes", "stored_bytes", "seconds")
    @property
    def revision(self) -> str:
        """UUID of the revision."""
    @property
    def file(self) -> Path:
        """The file that was made."""
    @property
    def size_bytes(self) -> int:
        """Size of the revision in bytes."""
    @property
    def stored_bytes(self) -> int:
        """Bytes that the file takes on disk."""
    @property
    def seconds(self) -> float:
        """Seconds that it took."""

@final
class RbdDiffReport(Report):
    """What was exported for Ceph."""

    __match_args__ = (
        "revision",
        "since",
        "file",
        "size_bytes",
        "stream_bytes",
        "data_bytes",
        "zero_bytes",
        "sha256",
        "seconds",
    )
    @property
    def revision(self) -> str:
        """UUID of the revision, and the name of the snapshot that `rbd import-diff` makes."""
    @property
    def since(self) -> str | None:
        """UUID of the revision that the image has to have already, or None."""
    @property
    def file(self) -> Path:
        """The file that was made; "-" for a file object."""
    @property
    def size_bytes(self) -> int:
        """Size of the revision in bytes."""
    @property
    def stream_bytes(self) -> int:
        """Bytes that were written."""
    @property
    def data_bytes(self) -> int:
        """Bytes of the revision that are among them."""
    @property
    def zero_bytes(self) -> int:
        """Bytes that become zero."""
    @property
    def sha256(self) -> str:
        """SHA-256 of what was written, 64 hex digits."""
    @property
    def seconds(self) -> float:
        """Seconds that it took."""

@final
class Imported(Report):
    """A revision that was imported."""

    __match_args__ = ("uuid", "started", "size_bytes", "damaged")
    @property
    def uuid(self) -> str:
        """Its name, the old one."""
    @property
    def started(self) -> datetime:
        """When it was made, with zone UTC."""
    @property
    def size_bytes(self) -> int:
        """Exact size of its image in bytes."""
    @property
    def damaged(self) -> tuple[Extent, ...]:
        """Stretches of the image whose right content is not known."""

@final
class Skipped(Report):
    """Something of an archive of 2014 that was not imported."""

    __match_args__ = ("what", "why")
    @property
    def what(self) -> Path:
        """A file of the old archive."""
    @property
    def why(self) -> str:
        """The reason."""

@final
class ImportReport(Report):
    """What an import did."""

    __match_args__ = ("imported", "present", "skipped", "notes", "is_complete")
    @property
    def imported(self) -> tuple[Imported, ...]:
        """The revisions that were brought over, oldest first."""
    @property
    def present(self) -> tuple[Imported, ...]:
        """Those that an earlier import had brought over already, oldest first."""
    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """What was left out."""
    @property
    def notes(self) -> tuple[str, ...]:
        """What else was found, as sentences."""
    @property
    def is_complete(self) -> bool:
        """Whether all that there was is in the archive now, and right."""

@final
class PullReport(Report):
    """What a pull did."""

    __match_args__ = ("origin", "pulled", "present", "left_out", "notes", "is_complete")
    @property
    def origin(self) -> str:
        """The origin: a path or a URL."""
    @property
    def pulled(self) -> tuple[Pulled, ...]:
        """The revisions that were pulled, oldest first."""
    @property
    def present(self) -> int:
        """How many revisions of the origin the copy had already."""
    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """Revisions that the copy does not have and that were not pulled, oldest first."""
    @property
    def notes(self) -> tuple[str, ...]:
        """Other observations, as sentences."""
    @property
    def is_complete(self) -> bool:
        """Whether nothing is missing: every revision that `revisions` names is in the copy, and the origin had every
        block of those that were pulled.
        """

@final
class Pulled(Report):
    """A revision that was pulled."""

    __match_args__ = ("uuid", "started", "size_bytes", "received_bytes", "reused_bytes", "stored_bytes", "seconds", "damaged")
    @property
    def uuid(self) -> str:
        """Its name, the same as at the origin."""
    @property
    def started(self) -> datetime:
        """When its backup began, with zone UTC."""
    @property
    def size_bytes(self) -> int:
        """Size of its image in bytes."""
    @property
    def received_bytes(self) -> int:
        """Bytes of blocks that the origin sent."""
    @property
    def reused_bytes(self) -> int:
        """Bytes of blocks that had arrived with an earlier pull, which was interrupted."""
    @property
    def stored_bytes(self) -> int:
        """How many more bytes the files of the copy take on disk than before; negative when they take fewer."""
    @property
    def seconds(self) -> float:
        """Seconds that it took."""
    @property
    def damaged(self) -> tuple[Extent, ...]:
        """Stretches of it that the origin has lost. Nobody can read them in the copy either."""

@final
class LeftOut(Report):
    """A revision of the origin that a pull leaves out."""

    __match_args__ = ("uuid", "started", "why", "requested")
    @property
    def uuid(self) -> str:
        """Its name."""
    @property
    def started(self) -> datetime:
        """When its backup began, with zone UTC."""
    @property
    def why(self) -> str:
        """The reason."""
    @property
    def requested(self) -> bool:
        """Whether `revisions` names it, so that the copy is not complete without it."""

@final
class PullPlan(Report):
    """What a pull would do now."""

    __match_args__ = ("origin", "pull", "present", "left_out", "notes")
    @property
    def origin(self) -> str:
        """The origin: a path or a URL."""
    @property
    def pull(self) -> tuple[Wanted, ...]:
        """The revisions to pull, oldest first."""
    @property
    def present(self) -> int:
        """How many revisions of the origin the copy has already."""
    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """Revisions that the copy does not have and that would not be pulled, oldest first."""
    @property
    def notes(self) -> tuple[str, ...]:
        """Other observations, as sentences."""

@final
class Wanted(Report):
    """A revision to pull."""

    __match_args__ = ("uuid", "started", "size_bytes")
    @property
    def uuid(self) -> str:
        """Its name."""
    @property
    def started(self) -> datetime:
        """When its backup began, with zone UTC."""
    @property
    def size_bytes(self) -> int:
        """Size of its image in bytes."""

@final
class SourceIdentity(Report):
    """What was backed up."""

    __match_args__ = (
        "path",
        "kind",
        "wwid",
        "serial",
        "dm_uuid",
        "loop_file",
        "partition_uuid",
        "partition_table_uuid",
        "file_system_uuid",
        "inode",
        "born",
        "container",
        "backing_file",
    )
    @property
    def path(self) -> str:
        """Its path, or its name when it has no path."""
    @property
    def kind(self) -> str:
        """As in the manifest, such as "file", "block device" or "qcow2 image"."""
    @property
    def wwid(self) -> str | None:
        """World wide name of the disk, if it is known."""
    @property
    def serial(self) -> str | None:
        """Serial number of the disk, if it is known."""
    @property
    def dm_uuid(self) -> str | None:
        """What the device mapper calls the volume, if it is one."""
    @property
    def loop_file(self) -> str | None:
        """The file that a loop device shows."""
    @property
    def partition_uuid(self) -> str | None:
        """Of the partition, if it is one."""
    @property
    def partition_table_uuid(self) -> str | None:
        """Of the partition table that it begins with."""
    @property
    def file_system_uuid(self) -> str | None:
        """Of the file system, encrypted volume or physical volume that it begins with."""
    @property
    def inode(self) -> int | None:
        """Inode number of a file."""
    @property
    def born(self) -> datetime | None:
        """When the file was made, with zone UTC."""
    @property
    def container(self) -> str | None:
        """The format of a disk image that it is, such as "qcow2"."""
    @property
    def backing_file(self) -> str | None:
        """The file that this image needs, which is not backed up with it."""

@final
class InProgress(Report):
    """An operation that is under way, or was interrupted."""

    __match_args__ = ("operation", "revision", "started")
    @property
    def operation(self) -> _Operation:
        """"backup", "remove" or "merge"."""
    @property
    def revision(self) -> str:
        """UUID of the revision that is made, removed or appended to."""
    @property
    def started(self) -> datetime:
        """When it began, with zone UTC."""

@final
class RevisionStatus(Report):
    """One revision, as status sees it. Has every name that a `Revision` has."""

    __match_args__ = (
        "number",
        "uuid",
        "started",
        "finished",
        "size_bytes",
        "digest",
        "file",
        "base",
        "tags",
        "pinned_tags",
        "read_bytes",
        "changed_bytes",
        "stored_bytes",
        "seconds",
        "damaged",
        "bad_blocks",
        "hints",
        "bookmark",
    )
    @property
    def number(self) -> int:
        """0 is the newest."""
    @property
    def uuid(self) -> str:
        """Its name."""
    @property
    def started(self) -> datetime:
        """When its backup began, with zone UTC."""
    @property
    def finished(self) -> datetime:
        """When its backup was committed, with zone UTC."""
    @property
    def size_bytes(self) -> int:
        """Exact size of the image in bytes."""
    @property
    def digest(self) -> str:
        """Digest of the revision, 64 hex digits."""
    @property
    def file(self) -> Path:
        """The file that holds it, within the archive's folder."""
    @property
    def base(self) -> str | None:
        """UUID of the next newer revision, which it reads through to, or None."""
    @property
    def tags(self) -> tuple[str, ...]:
        """Its tags, sorted."""
    @property
    def pinned_tags(self) -> tuple[str, ...]:
        """Those that were given by hand, sorted."""
    @property
    def read_bytes(self) -> int:
        """Bytes that its backup read from the source."""
    @property
    def changed_bytes(self) -> int:
        """Bytes in blocks that differed from the revision before."""
    @property
    def stored_bytes(self) -> int:
        """Bytes that its backup added on disk; may be negative."""
    @property
    def seconds(self) -> float:
        """Seconds that its backup took."""
    @property
    def damaged(self) -> tuple[Extent, ...]:
        """Stretches that cannot be read from it."""
    @property
    def hints(self) -> Hints | None:
        """What its backup did not read, because the source reported no change; None if the source reports none."""
    @property
    def bookmark(self) -> Bookmark | None:
        """The mark at the source that stands for it, or None."""
    @property
    def bad_blocks(self) -> tuple[BlockRange, ...]:
        """Blocks of its own file that are known to be bad; `damaged` has what that costs, in bytes."""
    @property
    def timestamp(self) -> datetime:
        """The same as `started`, as an older name of `Revision`."""
    @property
    def size(self) -> int:
        """The same as `size_bytes`, as an older name of `Revision`."""

@final
class Problem(Report):
    """A problem, and what to do about it."""

    __match_args__ = ("kind", "level", "message", "advice")
    @property
    def kind(self) -> _ProblemKind:
        """What it is about, a word that does not change: "overdue", "damage", "space" and so on."""
    @property
    def level(self) -> _Level:
        """"warning" or "critical"; of an archive that cannot be opened "unknown"."""
    @property
    def message(self) -> str:
        """The problem, as a sentence."""
    @property
    def advice(self) -> str:
        """What to do."""

@final
class Health(Report):
    """The verdict on the backups, with what is behind it."""

    __match_args__ = ("level", "summary", "problems")
    @property
    def level(self) -> _Level:
        """"ok", "warning" or "critical": the worst of the problems. Of an archive that cannot be opened "unknown"."""
    @property
    def summary(self) -> str:
        """One line: the verdict and the most important reason."""
    @property
    def problems(self) -> tuple[Problem, ...]:
        """The problems, worst first."""

@final
class TagStatus(Report):
    """How a tag of the schedule stands."""

    __match_args__ = (
        "tag",
        "interval_seconds",
        "keep",
        "revisions",
        "last",
        "due_at",
        "overdue_at",
        "critical_at",
        "level",
    )
    @property
    def tag(self) -> str:
        """The tag."""
    @property
    def interval_seconds(self) -> int:
        """Seconds from one revision with it to the next."""
    @property
    def keep(self) -> int:
        """How many revisions keep it."""
    @property
    def revisions(self) -> int:
        """How many have it."""
    @property
    def last(self) -> datetime | None:
        """When the last one with it began, or None."""
    @property
    def due_at(self) -> datetime | None:
        """From when on it is due; None when it is due because no revision has it, and in a copy."""
    @property
    def overdue_at(self) -> datetime | None:
        """From when on it is overdue, or None."""
    @property
    def critical_at(self) -> datetime | None:
        """From when on that is critical, or None."""
    @property
    def level(self) -> _Level:
        """"ok", "warning" or "critical"."""

@final
class OriginStatus(Report):
    """Where a copy comes from, and whether it is up to date."""

    __match_args__ = (
        "url",
        "interval_seconds",
        "last_pull",
        "left_out",
        "behind_seconds",
        "due_at",
        "overdue_at",
        "critical_at",
        "level",
    )
    @property
    def url(self) -> str:
        """The path or URL of the origin."""
    @property
    def interval_seconds(self) -> int:
        """Seconds from one pull to the next."""
    @property
    def last_pull(self) -> datetime | None:
        """When the last successful pull began, or None."""
    @property
    def left_out(self) -> int | None:
        """How many revisions it left out that are newer than the newest one here; None if not known."""
    @property
    def behind_seconds(self) -> int | None:
        """Seconds since the newest revision began; None without revisions."""
    @property
    def due_at(self) -> datetime | None:
        """From when on a pull is due; None when it is due because there was none."""
    @property
    def overdue_at(self) -> datetime | None:
        """From when on it is overdue, or None."""
    @property
    def critical_at(self) -> datetime | None:
        """From when on that is critical, or None."""
    @property
    def level(self) -> _Level:
        """"ok", "warning" or "critical"."""

@final
class Run(Report):
    """A command that has ended, from the history."""

    __match_args__ = ("operation", "started", "finished", "result", "error")
    @property
    def operation(self) -> _RunOperation:
        """"backup", "maintenance", "scrub" or "pull"."""
    @property
    def started(self) -> datetime:
        """When it began, with zone UTC."""
    @property
    def finished(self) -> datetime:
        """When it ended, with zone UTC."""
    @property
    def result(self) -> _RunResult:
        """"ok", "failed" or "interrupted"."""
    @property
    def error(self) -> str | None:
        """Why it failed, or None."""

@final
class Space(Report):
    """Space on the archive's file system."""

    __match_args__ = ("used_bytes", "free_bytes", "size_bytes", "growth_bytes_per_day", "full_at")
    @property
    def used_bytes(self) -> int:
        """Bytes that the archive's files take on disk."""
    @property
    def free_bytes(self) -> int:
        """Bytes that may still be written there."""
    @property
    def size_bytes(self) -> int:
        """All that fits into the file system."""
    @property
    def growth_bytes_per_day(self) -> int | None:
        """Bytes by which the archive grows a day; None when too little is known."""
    @property
    def full_at(self) -> datetime | None:
        """When the file system will be full at this rate, or None."""

@final
class Change(Report):
    """How much had changed in the newest revision, and how much is usual."""

    __match_args__ = ("share", "usual_share", "limit_share")
    @property
    def share(self) -> float:
        """Share of the image, from 0 to 1."""
    @property
    def usual_share(self) -> float:
        """The median of the earlier ones."""
    @property
    def limit_share(self) -> float:
        """Above this it is unusual."""

@final
class Alarm(Report):
    """A revision of which far more had changed than usual."""

    __match_args__ = (
        "revision",
        "raised",
        "changed_bytes",
        "usual_bytes",
        "confirmed",
        "lost_bytes",
        "had_bytes",
        "other_source",
        "shrunk_from_bytes",
        "unreported",
    )
    @property
    def revision(self) -> str:
        """UUID of the revision."""
    @property
    def raised(self) -> datetime:
        """When it was noticed, with zone UTC."""
    @property
    def changed_bytes(self) -> int:
        """Bytes in blocks that differed from the revision before."""
    @property
    def usual_bytes(self) -> int:
        """As many would have been usual."""
    @property
    def confirmed(self) -> datetime | None:
        """When somebody confirmed that it is in order, or None."""
    @property
    def lost_bytes(self) -> int | None:
        """Bytes of data of the revision before that are gone, where these are most of it."""
    @property
    def had_bytes(self) -> int | None:
        """Bytes of data that the revision before had, where lost_bytes is known."""
    @property
    def other_source(self) -> str | None:
        """How the source differs from the one that was backed up before, where it is another one."""
    @property
    def unreported(self) -> Unreported | None:
        """Changes that the source had not reported, where there are any."""
    @property
    def shrunk_from_bytes(self) -> int | None:
        """Size in bytes of the revision before, where the source has become shorter."""

@final
class Unreported(Report):
    """Changes that a source did not report. The revision of the alarm is right there; earlier ones may not be."""

    __match_args__ = ("blocks", "since")
    @property
    def blocks(self) -> tuple[BlockRange, ...]:
        """The blocks."""
    @property
    def since(self) -> datetime:
        """When they were last compared: revisions made later may hold older content there."""

@final
class Freeze(Report):
    """What keeps anything from expiring."""

    __match_args__ = ("kind", "revision", "message")
    @property
    def kind(self) -> _FreezeKind:
        """"unusual-change" or "damage"."""
    @property
    def revision(self) -> str:
        """UUID of the revision that it is about."""
    @property
    def message(self) -> str:
        """One sentence."""

@final
class Status(Report):
    """Inventory and health of an archive."""

    __match_args__ = (
        "schema",
        "archive",
        "source",
        "last_source",
        "origin",
        "block_size",
        "in_progress",
        "lock_holder",
        "progress_at",
        "coverage",
        "drill",
        "revisions",
        "health",
        "healthy",
        "checked",
        "revision_count",
        "damaged_count",
        "newest",
        "schedule",
        "last_runs",
        "last_scrub",
        "unchecked_since",
        "chain_length",
        "long_chain",
        "space",
        "change",
        "alarms",
        "frozen",
        "nagios",
        "prometheus",
    )
    @property
    def schema(self) -> int:
        """Version of to_dict(): fields may be added within a version, never removed or changed."""
    @property
    def archive(self) -> Path:
        """The archive's folder."""
    @property
    def source(self) -> Path | None:
        """What is backed up, as configured; None when the config cannot be read or names none."""
    @property
    def last_source(self) -> SourceIdentity | None:
        """What was backed up last, or None."""
    @property
    def origin(self) -> OriginStatus | None:
        """Of a copy: where it comes from, and whether it is up to date; or None."""
    @property
    def block_size(self) -> int:
        """Block size in bytes."""
    @property
    def in_progress(self) -> InProgress | None:
        """The operation that is under way, or was interrupted if there is no lock_holder; or None."""
    @property
    def lock_holder(self) -> str | None:
        """Who changes the archive at this moment, or None."""
    @property
    def progress_at(self) -> datetime | None:
        """When that one last made progress, to about ten seconds, with zone UTC; None without a lock_holder."""
    @property
    def coverage(self) -> Coverage:
        """What scrubs have checked."""
    @property
    def drill(self) -> DrillReport | None:
        """The last test restore, or None."""
    @property
    def revisions(self) -> tuple[RevisionStatus, ...]:
        """The revisions that were asked for, newest first."""
    @property
    def health(self) -> Health:
        """Whether the backups are healthy, and why not."""
    @property
    def healthy(self) -> bool:
        """Whether there is no problem: the level of the health is "ok"."""
    @property
    def checked(self) -> datetime:
        """When all this was so, with zone UTC."""
    @property
    def revision_count(self) -> int:
        """How many revisions there are, whichever were asked for."""
    @property
    def damaged_count(self) -> int:
        """How many of them cannot be read in full."""
    @property
    def newest(self) -> RevisionStatus | None:
        """The newest of them, or None."""
    @property
    def schedule(self) -> tuple[TagStatus, ...]:
        """How each tag of the schedule stands, that with the shortest interval first."""
    @property
    def last_runs(self) -> tuple[Run, ...]:
        """The last run of backup, of maintenance and of scrub, as far as the history knows."""
    @property
    def last_scrub(self) -> datetime | None:
        """When a scrub last read anything of what there is now, or None."""
    @property
    def unchecked_since(self) -> datetime | None:
        """Since when something stored has not been checked, or None."""
    @property
    def chain_length(self) -> int:
        """The most deltas on each other that a revision is read through."""
    @property
    def long_chain(self) -> int:
        """As many are not too many."""
    @property
    def space(self) -> Space | None:
        """Space on the file system, or None."""
    @property
    def change(self) -> Change | None:
        """How much had changed in the newest revision; None when too little is known of what is usual."""
    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """Revisions of which unusually much had changed, confirmed or not."""
    @property
    def frozen(self) -> tuple[Freeze, ...]:
        """What keeps anything from expiring."""
    @property
    def nagios(self) -> str:
        """The line of a Nagios plugin, as status --check prints it."""
    @property
    def prometheus(self) -> str:
        """The figures in the text format of Prometheus, as status --prometheus prints them."""

@final
class SharedSpace(Report):
    """A file system with all archives on it that were looked at."""

    __match_args__ = ("archives", "used_bytes", "free_bytes", "size_bytes", "growth_bytes_per_day", "full_at")
    @property
    def archives(self) -> int:
        """How many they are."""
    @property
    def used_bytes(self) -> int:
        """Bytes that their files take on disk."""
    @property
    def free_bytes(self) -> int:
        """Bytes that may still be written there."""
    @property
    def size_bytes(self) -> int:
        """All that fits into it."""
    @property
    def growth_bytes_per_day(self) -> int | None:
        """Bytes by which they grow a day; None when that is known of none."""
    @property
    def full_at(self) -> datetime | None:
        """When it will be full at this rate, or None."""

@final
class Checked(Report):
    """The verdict on one of many archives."""

    __match_args__ = ("archive", "health", "status")
    @property
    def archive(self) -> Path:
        """Its folder."""
    @property
    def health(self) -> Health:
        """The verdict; its level is "unknown" when the archive cannot be opened."""
    @property
    def status(self) -> Status | None:
        """What is behind it, without the revisions; None when the archive cannot be opened."""

@final
class ConfigReport(Report):
    """The settings of an archive."""

    __match_args__ = ("schema", "archive", "files", "settings", "errors")
    @property
    def schema(self) -> int:
        """Version of to_dict(): fields may be added within a version, never removed or changed."""
    @property
    def archive(self) -> Path:
        """The archive's folder, without symbolic links."""
    @property
    def files(self) -> tuple[ConfigFile, ...]:
        """backy.toml, then the files that it includes, in the order in which they are read."""
    @property
    def settings(self) -> tuple[Setting, ...]:
        """The settings that apply, in the order of the manual page; without defaults if there are errors."""
    @property
    def errors(self) -> tuple[str, ...]:
        """Why the settings cannot be used, a sentence for each problem."""

@final
class ConfigFile(Report):
    """A file with settings."""

    __match_args__ = ("file", "included_by")
    @property
    def file(self) -> Path:
        """Its path, as it is given where it is included."""
    @property
    def included_by(self) -> FileLine | None:
        """Where it is included; None for backy.toml."""

@final
class FileLine(Report):
    """A line of a file."""

    __match_args__ = ("file", "line")
    @property
    def file(self) -> Path:
        """The file."""
    @property
    def line(self) -> int:
        """The line, counted from 1."""

@final
class Setting(Report):
    """A setting that applies."""

    __match_args__ = ("key", "value", "is_shortened", "origin")
    @property
    def key(self) -> str:
        """Its name with that of its table, such as "schedule.daily.keep"."""
    @property
    def value(self) -> str | int | tuple[str, ...]:
        """Its value, as it is written: text, a number, a truth value or a tuple of texts."""
    @property
    def is_shortened(self) -> bool:
        """Whether the value is only a part: arguments of hooks are left out, since they may be secret."""
    @property
    def origin(self) -> FileLine | Literal["default"]:
        """The FileLine that sets it, or "default"."""

@final
class HostReport(Report):
    """The verdicts on many archives."""

    __match_args__ = (
        "schema",
        "checked",
        "level",
        "summary",
        "archives",
        "file_systems",
        "problems",
        "healthy",
        "nagios",
        "prometheus",
    )
    @property
    def schema(self) -> int:
        """Version of to_dict(): fields may be added within a version, never removed or changed."""
    @property
    def checked(self) -> datetime:
        """When all this was so, with zone UTC."""
    @property
    def level(self) -> _Level:
        """"ok", "warning", "unknown" or "critical": the worst there is."""
    @property
    def summary(self) -> str:
        """One line."""
    @property
    def archives(self) -> tuple[Checked, ...]:
        """The archives, worst first, then by folder."""
    @property
    def file_systems(self) -> tuple[SharedSpace, ...]:
        """The file systems that they are on."""
    @property
    def problems(self) -> tuple[Problem, ...]:
        """Problems that several of them share."""
    @property
    def healthy(self) -> bool:
        """Whether there is no problem: the level is "ok"."""
    @property
    def nagios(self) -> str:
        """The line of a Nagios plugin, as check --nagios prints it."""
    @property
    def prometheus(self) -> str:
        """The figures in the text format of Prometheus, as check --prometheus prints them."""

@final
class FleetPlan(Report):
    """What a run would do now."""

    __match_args__ = ("schema", "planned", "until", "limits", "jobs", "idle", "problems")
    @property
    def schema(self) -> int:
        """Version of to_dict(): fields may be added within a version, never removed or changed."""
    @property
    def planned(self) -> datetime:
        """When it was made, with zone UTC."""
    @property
    def until(self) -> datetime | None:
        """Nothing starts later; None without a limit."""
    @property
    def limits(self) -> FleetLimits:
        """How many jobs run at a time."""
    @property
    def jobs(self) -> tuple[FleetJob, ...]:
        """The jobs, in the order in which they would start."""
    @property
    def idle(self) -> tuple[IdleArchive, ...]:
        """Archives in which nothing is due."""
    @property
    def problems(self) -> tuple[Obstacle, ...]:
        """What cannot be worked on, and expectations of fleet.toml that are not met."""

@final
class FleetLimits(Report):
    """How many jobs of a run may run at a time."""

    __match_args__ = ("jobs", "groups")
    @property
    def jobs(self) -> int:
        """Of all archives together."""
    @property
    def groups(self) -> dict[str, int]:
        """Of the archives of each group, by its name. A group without an entry has one job at a time."""

@final
class FleetJob(Report):
    """One operation that is due on one archive."""

    __match_args__ = ("archive", "operation", "why", "due_since", "overdue", "group", "machine", "expected_seconds", "command")
    @property
    def archive(self) -> Path:
        """The archive's folder, without symbolic links."""
    @property
    def operation(self) -> _JobOperation:
        """"init", "backup", "maintenance" or "scrub"."""
    @property
    def why(self) -> str:
        """Why it is due."""
    @property
    def due_since(self) -> datetime | None:
        """Since when it has been due, with zone UTC; None if it has never been done."""
    @property
    def overdue(self) -> float | None:
        """How late it is, in units of its interval; None if it has never been done."""
    @property
    def group(self) -> str | None:
        """The group in the archive's backy.toml, whose archives share a limit; or None."""
    @property
    def machine(self) -> str | None:
        """The virtual machine whose disk is backed up, as "libvirt:DOMAIN". Its disks that are due at once, and of one
        group, have one backup point. None for anything else.
        """
    @property
    def expected_seconds(self) -> float | None:
        """How many seconds it is expected to take; None if nothing is known."""
    @property
    def command(self) -> tuple[str, ...]:
        """The words of the command that does it, for programs that start it themselves."""

@final
class IdleArchive(Report):
    """An archive in which nothing is due."""

    __match_args__ = ("archive", "why", "next_due")
    @property
    def archive(self) -> Path:
        """Its folder, without symbolic links."""
    @property
    def why(self) -> str:
        """Why nothing is due."""
    @property
    def next_due(self) -> datetime | None:
        """When the next backup is due, with zone UTC; None if none is scheduled."""

@final
class Obstacle(Report):
    """Something that keeps a run from its work on one archive, or from a whole list of them."""

    __match_args__ = ("archive", "message")
    @property
    def archive(self) -> Path:
        """The archive's folder, or what else is concerned, such as a pattern or fleet.toml."""
    @property
    def message(self) -> str:
        """What was found, in one line."""

@final
class FleetReport(Report):
    """What a run did."""

    __match_args__ = ("schema", "started", "finished", "archives", "jobs", "problems", "interrupted", "is_ok")
    @property
    def schema(self) -> int:
        """Version of to_dict(): fields may be added within a version, never removed or changed."""
    @property
    def started(self) -> datetime:
        """When it began, with zone UTC."""
    @property
    def finished(self) -> datetime:
        """When it ended, with zone UTC."""
    @property
    def archives(self) -> int:
        """How many archives it checked."""
    @property
    def jobs(self) -> tuple[JobReport, ...]:
        """The jobs, in the order in which they ended."""
    @property
    def problems(self) -> tuple[Obstacle, ...]:
        """What it could not work on, and expectations of fleet.toml that are not met."""
    @property
    def interrupted(self) -> bool:
        """Whether it was stopped on request."""
    @property
    def is_ok(self) -> bool:
        """Whether no job failed, there is no problem, and nobody stopped it."""

@final
class JobReport(Report):
    """How one job of a run ended."""

    __match_args__ = (
        "archive",
        "operation",
        "result",
        "attempts",
        "message",
        "seconds",
        "revision",
        "read_bytes",
        "stored_bytes",
    )
    @property
    def archive(self) -> Path:
        """The archive's folder."""
    @property
    def operation(self) -> _JobOperation:
        """"init", "backup", "maintenance" or "scrub"."""
    @property
    def result(self) -> _JobResult:
        """"ok", "failed", "skipped", "interrupted" or "not-started"."""
    @property
    def attempts(self) -> int:
        """How often it was tried."""
    @property
    def message(self) -> str | None:
        """Why it failed or was skipped, in one line; or None."""
    @property
    def seconds(self) -> float:
        """How many seconds the last attempt took."""
    @property
    def revision(self) -> str | None:
        """UUID of the revision that it made, or None."""
    @property
    def read_bytes(self) -> int | None:
        """Bytes that it read, of the source or of stored data; or None."""
    @property
    def stored_bytes(self) -> int | None:
        """Bytes on disk that it added, negative if it freed some; or None."""

def check(*folders: _Path, fleet: _Path | None = None, cancel: CancelToken | None = None) -> HostReport:
    """The verdict on many archives: each folder is one, or has some directly below it, or is a pattern such as
    '/srv/*/backup'. Without folders, on those that fleet.toml names; one that it expects and that is missing, has
    another source or was never backed up is critical.

    Nothing is locked or changed. What cannot be read is "unknown", and hides no other. `folders`: paths or
    patterns. `fleet`: a fleet.toml, by default /etc/backy/fleet.toml if there are no `folders`. `cancel`: a
    CancelToken that stops it.
    """
@overload
def run(
    *folders: _Path,
    fleet: _Path | None = None,
    jobs: int | None = None,
    until: str | datetime | None = None,
    dry_run: Literal[False] = False,
    trust: bool = False,
    cancel: CancelToken | None = None,
) -> FleetReport:
    """Does what is due in many archives: makes the backup, the maintenance and the scrub that are due in each, the most
    overdue backup first, and makes archives that fleet.toml declares and that do not exist. Returns a FleetReport;
    with `dry_run` the FleetPlan, which only lists the jobs.

    Each job is a process of its own. One that fails is tried again, at most twice, after all others; a job that still
    fails raises nothing: `is_ok` of the report is False then. Failed jobs, problems and messages of jobs go to the
    logger "backy".

    `folders`: archives, folders that hold archives, or patterns such as '/srv/*/backup'; without any, what fleet.toml
    names. `fleet`: that file, by default /etc/backy/fleet.toml if there are no `folders`. `jobs`: how many run at a
    time; by default as many as fleet.toml sets, or one for each core, at most four. `until`: nothing starts after
    this time of day, such as "06:00", or after this datetime. `trust`: also for archives and a fleet.toml that others
    than the caller and root can change.

    `cancel`: a CancelToken that stops it, as Ctrl-C does: all jobs end in order, what is done stays done, and the
    attribute `report` of the exception is the FleetReport.
    """
@overload
def run(
    *folders: _Path,
    fleet: _Path | None = None,
    jobs: int | None = None,
    until: str | datetime | None = None,
    dry_run: Literal[True],
    trust: bool = False,
    cancel: CancelToken | None = None,
) -> FleetPlan:
    """Does what is due in many archives: makes the backup, the maintenance and the scrub that are due in each, the most
    overdue backup first, and makes archives that fleet.toml declares and that do not exist. Returns a FleetReport;
    with `dry_run` the FleetPlan, which only lists the jobs.

    Each job is a process of its own. One that fails is tried again, at most twice, after all others; a job that still
    fails raises nothing: `is_ok` of the report is False then. Failed jobs, problems and messages of jobs go to the
    logger "backy".

    `folders`: archives, folders that hold archives, or patterns such as '/srv/*/backup'; without any, what fleet.toml
    names. `fleet`: that file, by default /etc/backy/fleet.toml if there are no `folders`. `jobs`: how many run at a
    time; by default as many as fleet.toml sets, or one for each core, at most four. `until`: nothing starts after
    this time of day, such as "06:00", or after this datetime. `trust`: also for archives and a fleet.toml that others
    than the caller and root can change.

    `cancel`: a CancelToken that stops it, as Ctrl-C does: all jobs end in order, what is done stays done, and the
    attribute `report` of the exception is the FleetReport.
    """
@overload
def run(
    *folders: _Path,
    fleet: _Path | None = None,
    jobs: int | None = None,
    until: str | datetime | None = None,
    dry_run: bool,
    trust: bool = False,
    cancel: CancelToken | None = None,
) -> FleetReport | FleetPlan:
    """Does what is due in many archives: makes the backup, the maintenance and the scrub that are due in each, the most
    overdue backup first, and makes archives that fleet.toml declares and that do not exist. Returns a FleetReport;
    with `dry_run` the FleetPlan, which only lists the jobs.

    Each job is a process of its own. One that fails is tried again, at most twice, after all others; a job that still
    fails raises nothing: `is_ok` of the report is False then. Failed jobs, problems and messages of jobs go to the
    logger "backy".

    `folders`: archives, folders that hold archives, or patterns such as '/srv/*/backup'; without any, what fleet.toml
    names. `fleet`: that file, by default /etc/backy/fleet.toml if there are no `folders`. `jobs`: how many run at a
    time; by default as many as fleet.toml sets, or one for each core, at most four. `until`: nothing starts after
    this time of day, such as "06:00", or after this datetime. `trust`: also for archives and a fleet.toml that others
    than the caller and root can change.

    `cancel`: a CancelToken that stops it, as Ctrl-C does: all jobs end in order, what is done stays done, and the
    attribute `report` of the exception is the FleetReport.
    """

# For the modules of 2014, backy.backup and backy.revision.

def init_unseen(path: _Path, source: _Path) -> None:
    """Makes an archive of a source that need not be there yet, as was possible in 2014."""
@overload
def pull(
    path: _Path,
    origin: _Path,
    *,
    revisions: _Revisions | None = None,
    ssh: str | Sequence[str] | None = None,
    limit_rate: int | str | None = None,
    check_space: bool = True,
    dry_run: Literal[False] = False,
    trust: bool = False,
    progress: _Callback = None,
    cancel: CancelToken | None = None,
    wait: _Wait = None,
) -> PullReport:
    """Pull revisions of another archive into the copy at `path`, which is created if there is none. Returns a PullReport;
    with `dry_run` the PullPlan.

    For a copy that exists it is the same as Archive.pull(); help(backy.Archive.pull) has more. A new copy gets the
    block size of the origin, and the standard schedule in its backy.toml.

    `path`: the folder of the copy. `origin`: the other archive: a path, or "ssh://[USER@]HOST[:PORT]/PATH".
    `revisions`: which ones of the origin, as help(backy.Archive) says; without it, all that are newer than those of
    the copy and that its schedule keeps. `ssh`: the program that connects to another machine, and its arguments, such
    as "ssh -i KEY" or a sequence of words. `limit_rate`: read at most so many bytes of the origin a second, such as
    1048576 or "100M". `check_space=False`: start even if a revision is not expected to fit on the disk. `trust`: also
    when others than the caller and root can change the folder.
    `progress` is called with a Progress while it lasts. `cancel`: a CancelToken that stops it.
    `wait`: how long to wait for the lock: seconds, a timedelta or text such as "10m".
    """
@overload
def pull(
    path: _Path,
    origin: _Path,
    *,
    revisions: _Revisions | None = None,
    ssh: str | Sequence[str] | None = None,
    limit_rate: int | str | None = None,
    check_space: bool = True,
    dry_run: Literal[True],
    trust: bool = False,
    progress: _Callback = None,
    cancel: CancelToken | None = None,
    wait: _Wait = None,
) -> PullPlan:
    """Pull revisions of another archive into the copy at `path`, which is created if there is none. Returns a PullReport;
    with `dry_run` the PullPlan.

    For a copy that exists it is the same as Archive.pull(); help(backy.Archive.pull) has more. A new copy gets the
    block size of the origin, and the standard schedule in its backy.toml.

    `path`: the folder of the copy. `origin`: the other archive: a path, or "ssh://[USER@]HOST[:PORT]/PATH".
    `revisions`: which ones of the origin, as help(backy.Archive) says; without it, all that are newer than those of
    the copy and that its schedule keeps. `ssh`: the program that connects to another machine, and its arguments, such
    as "ssh -i KEY" or a sequence of words. `limit_rate`: read at most so many bytes of the origin a second, such as
    1048576 or "100M". `check_space=False`: start even if a revision is not expected to fit on the disk. `trust`: also
    when others than the caller and root can change the folder.
    `progress` is called with a Progress while it lasts. `cancel`: a CancelToken that stops it.
    `wait`: how long to wait for the lock: seconds, a timedelta or text such as "10m".
    """
@overload
def pull(
    path: _Path,
    origin: _Path,
    *,
    revisions: _Revisions | None = None,
    ssh: str | Sequence[str] | None = None,
    limit_rate: int | str | None = None,
    check_space: bool = True,
    dry_run: bool,
    trust: bool = False,
    progress: _Callback = None,
    cancel: CancelToken | None = None,
    wait: _Wait = None,
) -> PullReport | PullPlan:
    """Pull revisions of another archive into the copy at `path`, which is created if there is none. Returns a PullReport;
    with `dry_run` the PullPlan.

    For a copy that exists it is the same as Archive.pull(); help(backy.Archive.pull) has more. A new copy gets the
    block size of the origin, and the standard schedule in its backy.toml.

    `path`: the folder of the copy. `origin`: the other archive: a path, or "ssh://[USER@]HOST[:PORT]/PATH".
    `revisions`: which ones of the origin, as help(backy.Archive) says; without it, all that are newer than those of
    the copy and that its schedule keeps. `ssh`: the program that connects to another machine, and its arguments, such
    as "ssh -i KEY" or a sequence of words. `limit_rate`: read at most so many bytes of the origin a second, such as
    1048576 or "100M". `check_space=False`: start even if a revision is not expected to fit on the disk. `trust`: also
    when others than the caller and root can change the folder.
    `progress` is called with a Progress while it lasts. `cancel`: a CancelToken that stops it.
    `wait`: how long to wait for the lock: seconds, a timedelta or text such as "10m".
    """
def own_chunks(path: _Path, revision: str, chunk_size: int) -> list[int]:
    """Numbers of the chunks of a revision that its own file has something of, ascending: of the newest all, of an older
    one those with what has changed since.
    """
@final
class OldArchive:
    """An archive of 2014, which is only read.

    Raises BackyError where none is.
    """

    def __new__(cls, path: _Path) -> OldArchive: ...
    @property
    def source(self) -> str | None:
        """What was backed up, as it was written."""
    @property
    def block_size(self) -> int:
        """Size of a block in bytes."""
    @property
    def revisions(self) -> list[OldRevision]:
        """The revisions, oldest first."""
    @property
    def skipped(self) -> list[tuple[str, str]]:
        """Files that cannot be used, each with the reason."""
    def blocksums(self, revision: str) -> dict[int, str]:
        """What is recorded of the blocks in the revision's own file, by number, as it is written there."""
    def read_block(self, revision: str, number: int) -> bytes:
        """The block of a revision with this number; it has the MD5 that is recorded for it."""
    def restore(self, revision: str, target: _Path, *, force: bool = False, progress: _Callback = None) -> int:
        """Writes a revision to a file or device, after all of it has been checked; its size in bytes."""

@final
class OldRevision:
    """A revision of 2014."""

    @property
    def uuid(self) -> str:
        """Its name."""
    @property
    def timestamp(self) -> datetime:
        """When it was made, with zone UTC."""
    @property
    def checksum(self) -> str | None:
        """MD5 of its image in hex digits, where one is recorded."""
    @property
    def parent(self) -> str | None:
        """The newer revision that a delta reads through to."""
    @property
    def full(self) -> bool:
        """Whether its data file is its image."""
    @property
    def blocks(self) -> int:
        """How many blocks its image has."""
    @property
    def size(self) -> int:
        """Size of its image in bytes."""
    @property
    def own_blocks(self) -> list[int]:
        """Numbers of the blocks in its own data file, ascending."""
