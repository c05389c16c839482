"""Backups of block devices: makes, keeps, checks and reads them, as the `backy` command does.

>>> import backy
>>> archive = backy.Archive("/srv/backup/mynode")
>>> report = archive.backup(force=True, tags=["manual"])
>>> for revision in archive.revisions:
...     print(revision.started, revision.size_bytes, revision.tags)
>>> with archive.open("tag:manual") as image:
...     boot_sector = image.read(512)

Start with help(backy.Archive). Every error of backy is a BackyError.
"""

__distribution__ = "backy-disk"

# First: by what stands above, it refuses to work among the files of another distribution.
from backy import _alone as _alone
from backy import _interpreter

_interpreter.check()

from backy._backy import (  # noqa: E402
    Affected,
    Alarm,
    Archive,
    BackupPlan,
    BackupReport,
    BlockRange,
    CancelToken,
    Change,
    Checked,
    ConfigFile,
    ConfigReport,
    Coverage,
    DrillReport,
    Estimate,
    ExportReport,
    Extent,
    FileLine,
    Finding,
    FleetJob,
    FleetLimits,
    FleetPlan,
    FleetReport,
    Freeze,
    Health,
    HostReport,
    IdleArchive,
    Imported,
    ImportReport,
    InProgress,
    JobReport,
    LeftOut,
    MaintenancePlan,
    MaintenanceReport,
    Mount,
    Obstacle,
    OriginStatus,
    Problem,
    Progress,
    Pulled,
    PullPlan,
    PullReport,
    RbdDiffReport,
    RebuildReport,
    Report,
    RestoreReport,
    Revision,
    RevisionStatus,
    Run,
    ScrubReport,
    Setting,
    SharedSpace,
    Skipped,
    SourceIdentity,
    Space,
    Status,
    Step,
    TagStatus,
    TargetContent,
    TargetLook,
    UndoReport,
    Verdict,
    Wanted,
    __version__,
    check,
    pull,
    run,
)
from backy.errors import (  # noqa: E402
    AccessDeniedError,
    ArchiveAccessError,
    ArchiveDamagedError,
    ArchiveExistsError,
    ArchiveNotFoundError,
    ArchiveUnsupportedError,
    BackyError,
    CancelledError,
    ConfigError,
    HookError,
    LockedError,
    MissingFileError,
    MountError,
    NoSpaceError,
    NoSuchRevisionError,
    SourceError,
    SpecificationError,
    TargetError,
    UntrustedError,
)
from backy.io import RevisionFile  # noqa: E402

TYPE_CHECKING = False
if TYPE_CHECKING:
    from backy.protocols import Source, Writable


def __getattr__(name: str) -> object:
    # Not imported before somebody asks: typing takes longer to import than all of backy.
    if name in {"Source", "Writable"}:
        from backy import protocols

        return getattr(protocols, name)
    raise AttributeError(f"module 'backy' has no attribute {name!r}")


__all__ = [
    "AccessDeniedError",
    "Affected",
    "Alarm",
    "Archive",
    "ArchiveAccessError",
    "ArchiveDamagedError",
    "ArchiveExistsError",
    "ArchiveNotFoundError",
    "ArchiveUnsupportedError",
    "BackupPlan",
    "BackupReport",
    "BackyError",
    "BlockRange",
    "CancelToken",
    "CancelledError",
    "Change",
    "Checked",
    "ConfigError",
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
    "HookError",
    "HostReport",
    "IdleArchive",
    "ImportReport",
    "Imported",
    "InProgress",
    "JobReport",
    "LeftOut",
    "LockedError",
    "MaintenancePlan",
    "MaintenanceReport",
    "MissingFileError",
    "Mount",
    "MountError",
    "NoSpaceError",
    "NoSuchRevisionError",
    "Obstacle",
    "OriginStatus",
    "Problem",
    "Progress",
    "PullPlan",
    "PullReport",
    "Pulled",
    "RbdDiffReport",
    "RebuildReport",
    "Report",
    "RestoreReport",
    "Revision",
    "RevisionFile",
    "RevisionStatus",
    "Run",
    "ScrubReport",
    "Setting",
    "SharedSpace",
    "Skipped",
    "Source",
    "SourceError",
    "SourceIdentity",
    "Space",
    "SpecificationError",
    "Status",
    "Step",
    "TagStatus",
    "TargetContent",
    "TargetLook",
    "TargetError",
    "UndoReport",
    "UntrustedError",
    "Verdict",
    "Wanted",
    "Writable",
    "__version__",
    "check",
    "pull",
    "run",
]
