from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime, timedelta
from io import BufferedReader
from os import PathLike
from pathlib import Path
from typing import Any, Literal, final, overload
from uuid import UUID

from typing_extensions import Self, TypeAlias, disjoint_base

from backy.io import RevisionFile
from backy.types import (
    FreezeKind,
    Level,
    Operation,
    Phase,
    ProblemKind,
    RunOperation,
    RunResult,
    Source,
    StepKind,
    TargetKind,
    Writable,
)

__all__ = [
    "Affected",
    "Alarm",
    "Archive",
    "BackupPlan",
    "BackupReport",
    "BlockRange",
    "Change",
    "Checked",
    "Coverage",
    "DrillReport",
    "Estimate",
    "ExportReport",
    "Extent",
    "Finding",
    "Freeze",
    "Health",
    "HostReport",
    "ImportReport",
    "Imported",
    "InProgress",
    "MaintenancePlan",
    "MaintenanceReport",
    "Mount",
    "OldArchive",
    "OldRevision",
    "Problem",
    "Progress",
    "Reader",
    "RebuildReport",
    "Report",
    "RestoreReport",
    "Revision",
    "RevisionStatus",
    "Run",
    "ScrubReport",
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
    "Verdict",
    "__version__",
    "check",
    "init_unseen",
    "main",
    "own_chunks",
]

__version__: str

_Path: TypeAlias = str | bytes | PathLike[str] | PathLike[bytes]
_Revision: TypeAlias = str | int | date | UUID | Revision | RevisionStatus
_Revisions: TypeAlias = _Revision | Iterable[_Revision]
_Callback: TypeAlias = Callable[[Progress], object] | None
_Wait: TypeAlias = str | float | timedelta | None

def main(arguments: Sequence[str | PathLike[str]], itself: Sequence[str | PathLike[str]], /) -> int: ...
def _words() -> dict[str, list[str]]: ...
@final
class Archive:
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    @staticmethod
    def _at(path: str, trust: bool) -> Archive: ...
    def __new__(cls, path: _Path, *, trust: bool = False) -> Archive: ...
    @staticmethod
    def init(path: _Path, source: _Path | None = None, *, block_size: int = 65536, trust: bool = False) -> Archive: ...
    @staticmethod
    def import_(
        old: _Path,
        path: _Path,
        *,
        block_size: int | None = None,
        trust: bool = False,
        progress: _Callback = None,
        wait: _Wait = None,
    ) -> ImportReport: ...
    @staticmethod
    def rebuild(
        path: _Path,
        *,
        force: bool = False,
        trust: bool = False,
        progress: _Callback = None,
        wait: _Wait = None,
    ) -> RebuildReport: ...
    @property
    def path(self) -> Path: ...
    @property
    def source(self) -> Path | None: ...
    @property
    def revisions(self) -> list[Revision]: ...
    def select(self, revisions: _Revisions) -> list[Revision]: ...
    def find(self, revision: _Revision = "latest") -> Path: ...
    def status(self, revisions: _Revisions = "all") -> Status: ...
    @overload
    def backup(
        self,
        *,
        source: _Path | Source | None = None,
        force: bool = False,
        tags: Iterable[str] = (),
        progress: _Callback = None,
        limit_rate: int | str | None = None,
        check_space: bool = True,
        dry_run: Literal[False] = False,
        as_: Iterable[str] = (),
        wait: _Wait = None,
    ) -> BackupReport | None: ...
    @overload
    def backup(
        self,
        *,
        source: _Path | Source | None = None,
        force: bool = False,
        tags: Iterable[str] = (),
        progress: _Callback = None,
        limit_rate: int | str | None = None,
        check_space: bool = True,
        dry_run: Literal[True],
        as_: Iterable[str] = (),
        wait: _Wait = None,
    ) -> BackupPlan: ...
    @overload
    def backup(
        self,
        *,
        source: _Path | Source | None = None,
        force: bool = False,
        tags: Iterable[str] = (),
        progress: _Callback = None,
        limit_rate: int | str | None = None,
        check_space: bool = True,
        dry_run: bool,
        as_: Iterable[str] = (),
        wait: _Wait = None,
    ) -> BackupReport | BackupPlan | None: ...
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
    ) -> RestoreReport: ...
    def look_at_target(
        self, target: _Path, revision: _Revision = "latest", *, progress: _Callback = None
    ) -> TargetLook | None: ...
    def scrub(
        self,
        revisions: _Revisions = "all",
        *,
        check_only: bool = False,
        budget: str | timedelta | None = None,
        progress: _Callback = None,
        wait: _Wait = None,
    ) -> ScrubReport: ...
    @overload
    def maintenance(
        self,
        *,
        dry_run: Literal[False] = False,
        keep: int | None = None,
        confirm: bool = False,
        progress: _Callback = None,
        wait: _Wait = None,
    ) -> MaintenanceReport: ...
    @overload
    def maintenance(
        self,
        *,
        dry_run: Literal[True],
        keep: int | None = None,
        confirm: bool = False,
        progress: _Callback = None,
        wait: _Wait = None,
    ) -> MaintenancePlan: ...
    @overload
    def maintenance(
        self,
        *,
        dry_run: bool,
        keep: int | None = None,
        confirm: bool = False,
        progress: _Callback = None,
        wait: _Wait = None,
    ) -> MaintenanceReport | MaintenancePlan: ...
    @overload
    def rm(
        self,
        revisions: _Revisions,
        *,
        dry_run: Literal[False] = False,
        force: bool = False,
        progress: _Callback = None,
        wait: _Wait = None,
    ) -> MaintenanceReport: ...
    @overload
    def rm(
        self,
        revisions: _Revisions,
        *,
        dry_run: Literal[True],
        force: bool = False,
        progress: _Callback = None,
        wait: _Wait = None,
    ) -> MaintenancePlan: ...
    @overload
    def rm(
        self,
        revisions: _Revisions,
        *,
        dry_run: bool,
        force: bool = False,
        progress: _Callback = None,
        wait: _Wait = None,
    ) -> MaintenanceReport | MaintenancePlan: ...
    def tag(
        self,
        revision: _Revision,
        add: Iterable[str] = (),
        remove: Iterable[str] = (),
        *,
        wait: _Wait = None,
    ) -> tuple[str, ...]: ...
    def drill(
        self,
        revision: _Revision | None = None,
        *,
        command: Sequence[str] | Callable[[Path], object] | None = None,
        dir: _Path | None = None,
        timeout: str | float | timedelta | None = None,
        progress: _Callback = None,
        wait: _Wait = None,
    ) -> DrillReport: ...
    def export(
        self,
        path: _Path,
        revision: _Revision = "latest",
        *,
        level: int | None = None,
        progress: _Callback = None,
    ) -> ExportReport: ...
    @overload
    def open(self, revision: _Revision = "latest", *, buffered: Literal[False] = False) -> RevisionFile: ...
    @overload
    def open(self, revision: _Revision = "latest", *, buffered: Literal[True]) -> BufferedReader: ...
    @overload
    def open(self, revision: _Revision = "latest", *, buffered: bool) -> RevisionFile | BufferedReader: ...
    def mount(
        self,
        mountpoint: _Path,
        *,
        writable: bool = False,
        dir: _Path | None = None,
        gid: int | str | None = None,
        allow_other: bool = False,
        cache: int = 67108864,
    ) -> Mount: ...

@final
class Mount:
    @property
    def path(self) -> Path: ...
    @property
    def is_mounted(self) -> bool: ...
    def unmount(self, *, lazy: bool = False) -> None: ...
    def __enter__(self) -> Path: ...
    def __exit__(self, *_exception: object) -> None: ...

@final
class Progress:
    __match_args__ = ("phase", "bytes_done", "bytes_total")
    @staticmethod
    def _of(phase: str, bytes_done: int, bytes_total: int) -> Progress: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    @property
    def phase(self) -> Phase: ...
    @property
    def bytes_done(self) -> int: ...
    @property
    def bytes_total(self) -> int: ...

@final
class Reader:
    @property
    def size(self) -> int: ...
    @property
    def uuid(self) -> str: ...
    def read_at(self, offset: int, size: int, /) -> bytes: ...
    def fill_memory_at(self, offset: int, address: int, size: int, /) -> int: ...

@disjoint_base
class Report:
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self: ...
    def to_dict(self) -> dict[str, Any]: ...

@final
class Extent(Report):
    __match_args__ = ("offset", "len")
    @property
    def offset(self) -> int: ...
    @property
    def len(self) -> int: ...

@final
class BlockRange(Report):
    __match_args__ = ("first", "count")
    @property
    def first(self) -> int: ...
    @property
    def count(self) -> int: ...

@final
class Revision(Report):
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
        "bad_blocks",
        "number",
        "damaged",
    )
    @property
    def uuid(self) -> str: ...
    @property
    def started(self) -> datetime: ...
    @property
    def finished(self) -> datetime: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def tags(self) -> tuple[str, ...]: ...
    @property
    def pinned_tags(self) -> tuple[str, ...]: ...
    @property
    def digest(self) -> str: ...
    @property
    def base(self) -> str | None: ...
    @property
    def file(self) -> Path: ...
    @property
    def read_bytes(self) -> int: ...
    @property
    def changed_bytes(self) -> int: ...
    @property
    def stored_bytes(self) -> int: ...
    @property
    def seconds(self) -> float: ...
    @property
    def bad_blocks(self) -> tuple[BlockRange, ...]: ...
    @property
    def number(self) -> int | None: ...
    @property
    def damaged(self) -> tuple[Extent, ...] | None: ...
    @property
    def timestamp(self) -> datetime: ...
    @property
    def size(self) -> int: ...

@final
class BackupReport(Report):
    __match_args__ = ("revision", "cloned", "bad_blocks", "healed_blocks")
    @property
    def revision(self) -> Revision: ...
    @property
    def cloned(self) -> bool: ...
    @property
    def bad_blocks(self) -> int: ...
    @property
    def healed_blocks(self) -> int: ...

@final
class BackupPlan(Report):
    __match_args__ = ("due", "tags", "room", "next_due", "next_tag")
    @property
    def due(self) -> bool: ...
    @property
    def tags(self) -> tuple[str, ...]: ...
    @property
    def room(self) -> Estimate | None: ...
    @property
    def next_due(self) -> datetime | None: ...
    @property
    def next_tag(self) -> str | None: ...

@final
class Estimate(Report):
    __match_args__ = ("expected_bytes", "most_bytes", "free_bytes")
    @property
    def expected_bytes(self) -> int | None: ...
    @property
    def most_bytes(self) -> int: ...
    @property
    def free_bytes(self) -> int | None: ...

@final
class UndoReport(Report):
    __match_args__ = ("archive", "revision", "saved_bytes", "seconds")
    @property
    def archive(self) -> Path: ...
    @property
    def revision(self) -> str: ...
    @property
    def saved_bytes(self) -> int: ...
    @property
    def seconds(self) -> float: ...

@final
class TargetContent(Report):
    __match_args__ = ("partition", "kind", "label", "written")
    @property
    def partition(self) -> int | None: ...
    @property
    def kind(self) -> str: ...
    @property
    def label(self) -> str | None: ...
    @property
    def written(self) -> datetime | None: ...

@final
class TargetLook(Report):
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
    def target(self) -> Path: ...
    @property
    def target_kind(self) -> TargetKind: ...
    @property
    def is_source(self) -> bool: ...
    @property
    def objection(self) -> str | None: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def changed(self) -> datetime | None: ...
    @property
    def contents(self) -> tuple[TargetContent, ...]: ...
    @property
    def compared_bytes(self) -> int: ...
    @property
    def differing_bytes(self) -> int: ...

@final
class RestoreReport(Report):
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
    def revision(self) -> str: ...
    @property
    def target(self) -> Path: ...
    @property
    def target_kind(self) -> TargetKind: ...
    @property
    def dry_run(self) -> bool: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def written_bytes(self) -> int: ...
    @property
    def written_extents(self) -> int: ...
    @property
    def unreadable(self) -> tuple[Extent, ...]: ...
    @property
    def digests_checked(self) -> bool: ...
    @property
    def is_exact(self) -> bool: ...
    @property
    def is_complete(self) -> bool: ...
    @property
    def changed_since(self) -> tuple[Extent, ...]: ...
    @property
    def undo(self) -> UndoReport | None: ...
    @property
    def seconds(self) -> float: ...

@final
class Affected(Report):
    __match_args__ = ("revision", "number", "extents")
    @property
    def revision(self) -> str: ...
    @property
    def number(self) -> int: ...
    @property
    def extents(self) -> tuple[Extent, ...]: ...

@final
class Finding(Report):
    __match_args__ = ("file", "blocks", "message", "affected", "repaired")
    @property
    def file(self) -> Path: ...
    @property
    def blocks(self) -> BlockRange | None: ...
    @property
    def message(self) -> str: ...
    @property
    def affected(self) -> tuple[Affected, ...]: ...
    @property
    def repaired(self) -> bool: ...

@final
class Coverage(Report):
    __match_args__ = ("verified_share", "oldest")
    @property
    def verified_share(self) -> float: ...
    @property
    def oldest(self) -> datetime | None: ...

@final
class ScrubReport(Report):
    __match_args__ = ("findings", "unknown_files", "is_clean", "read_bytes", "budget_bytes", "coverage", "seconds")
    @property
    def findings(self) -> tuple[Finding, ...]: ...
    @property
    def unknown_files(self) -> tuple[str, ...]: ...
    @property
    def is_clean(self) -> bool: ...
    @property
    def read_bytes(self) -> int: ...
    @property
    def budget_bytes(self) -> int | None: ...
    @property
    def coverage(self) -> Coverage: ...
    @property
    def seconds(self) -> float: ...

@final
class RebuildReport(Report):
    __match_args__ = ("revisions", "unknown")
    @property
    def revisions(self) -> tuple[str, ...]: ...
    @property
    def unknown(self) -> tuple[str, ...]: ...

@final
class Verdict(Report):
    __match_args__ = ("number", "uuid", "keep", "reason", "expired_tags")
    @property
    def number(self) -> int: ...
    @property
    def uuid(self) -> str: ...
    @property
    def keep(self) -> bool: ...
    @property
    def reason(self) -> str: ...
    @property
    def expired_tags(self) -> tuple[str, ...]: ...

@final
class Step(Report):
    __match_args__ = ("step", "revisions", "revision", "into", "to", "reason")
    @property
    def step(self) -> StepKind: ...
    @property
    def revisions(self) -> tuple[str, ...] | None: ...
    @property
    def revision(self) -> str | None: ...
    @property
    def into(self) -> str | None: ...
    @property
    def to(self) -> str | None: ...
    @property
    def reason(self) -> str | None: ...

@final
class MaintenancePlan(Report):
    __match_args__ = ("verdicts", "steps", "frees_bytes", "frozen", "excess")
    @property
    def frozen(self) -> tuple[Freeze, ...]: ...
    @property
    def excess(self) -> str | None: ...
    @property
    def verdicts(self) -> tuple[Verdict, ...]: ...
    @property
    def steps(self) -> tuple[Step, ...]: ...
    @property
    def frees_bytes(self) -> int: ...

@final
class MaintenanceReport(Report):
    __match_args__ = ("verdicts", "steps", "frees_bytes", "freed_bytes", "frozen", "excess", "confirmed", "seconds")
    @property
    def frozen(self) -> tuple[Freeze, ...]: ...
    @property
    def excess(self) -> str | None: ...
    @property
    def confirmed(self) -> tuple[Freeze, ...]: ...
    @property
    def verdicts(self) -> tuple[Verdict, ...]: ...
    @property
    def steps(self) -> tuple[Step, ...]: ...
    @property
    def frees_bytes(self) -> int: ...
    @property
    def freed_bytes(self) -> int: ...
    @property
    def seconds(self) -> float: ...

@final
class DrillReport(Report):
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
    def revision(self) -> str: ...
    @property
    def started(self) -> datetime: ...
    @property
    def seconds(self) -> float: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def read_bytes(self) -> int: ...
    @property
    def bytes_per_second(self) -> int: ...
    @property
    def command(self) -> str | None: ...
    @property
    def passed(self) -> bool: ...
    @property
    def message(self) -> str: ...

@final
class ExportReport(Report):
    __match_args__ = ("revision", "file", "size_bytes", "stored_bytes", "seconds")
    @property
    def revision(self) -> str: ...
    @property
    def file(self) -> Path: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def stored_bytes(self) -> int: ...
    @property
    def seconds(self) -> float: ...

@final
class Imported(Report):
    __match_args__ = ("uuid", "started", "size_bytes", "damaged")
    @property
    def uuid(self) -> str: ...
    @property
    def started(self) -> datetime: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def damaged(self) -> tuple[Extent, ...]: ...

@final
class Skipped(Report):
    __match_args__ = ("what", "why")
    @property
    def what(self) -> Path: ...
    @property
    def why(self) -> str: ...

@final
class ImportReport(Report):
    __match_args__ = ("imported", "present", "skipped", "notes", "is_complete")
    @property
    def imported(self) -> tuple[Imported, ...]: ...
    @property
    def present(self) -> tuple[Imported, ...]: ...
    @property
    def skipped(self) -> tuple[Skipped, ...]: ...
    @property
    def notes(self) -> tuple[str, ...]: ...
    @property
    def is_complete(self) -> bool: ...

@final
class SourceIdentity(Report):
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
    def path(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def wwid(self) -> str | None: ...
    @property
    def serial(self) -> str | None: ...
    @property
    def dm_uuid(self) -> str | None: ...
    @property
    def loop_file(self) -> str | None: ...
    @property
    def partition_uuid(self) -> str | None: ...
    @property
    def partition_table_uuid(self) -> str | None: ...
    @property
    def file_system_uuid(self) -> str | None: ...
    @property
    def inode(self) -> int | None: ...
    @property
    def born(self) -> datetime | None: ...
    @property
    def container(self) -> str | None: ...
    @property
    def backing_file(self) -> str | None: ...

@final
class InProgress(Report):
    __match_args__ = ("operation", "revision", "started")
    @property
    def operation(self) -> Operation: ...
    @property
    def revision(self) -> str: ...
    @property
    def started(self) -> datetime: ...

@final
class RevisionStatus(Report):
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
    )
    @property
    def number(self) -> int: ...
    @property
    def uuid(self) -> str: ...
    @property
    def started(self) -> datetime: ...
    @property
    def finished(self) -> datetime: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def digest(self) -> str: ...
    @property
    def file(self) -> Path: ...
    @property
    def base(self) -> str | None: ...
    @property
    def tags(self) -> tuple[str, ...]: ...
    @property
    def pinned_tags(self) -> tuple[str, ...]: ...
    @property
    def read_bytes(self) -> int: ...
    @property
    def changed_bytes(self) -> int: ...
    @property
    def stored_bytes(self) -> int: ...
    @property
    def seconds(self) -> float: ...
    @property
    def damaged(self) -> tuple[Extent, ...]: ...
    @property
    def bad_blocks(self) -> tuple[BlockRange, ...]: ...
    @property
    def timestamp(self) -> datetime: ...
    @property
    def size(self) -> int: ...

@final
class Problem(Report):
    __match_args__ = ("kind", "level", "message", "advice")
    @property
    def kind(self) -> ProblemKind: ...
    @property
    def level(self) -> Level: ...
    @property
    def message(self) -> str: ...
    @property
    def advice(self) -> str: ...

@final
class Health(Report):
    __match_args__ = ("level", "summary", "problems")
    @property
    def level(self) -> Level: ...
    @property
    def summary(self) -> str: ...
    @property
    def problems(self) -> tuple[Problem, ...]: ...

@final
class TagStatus(Report):
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
    def tag(self) -> str: ...
    @property
    def interval_seconds(self) -> int: ...
    @property
    def keep(self) -> int: ...
    @property
    def revisions(self) -> int: ...
    @property
    def last(self) -> datetime | None: ...
    @property
    def due_at(self) -> datetime | None: ...
    @property
    def overdue_at(self) -> datetime | None: ...
    @property
    def critical_at(self) -> datetime | None: ...
    @property
    def level(self) -> Level: ...

@final
class Run(Report):
    __match_args__ = ("operation", "started", "finished", "result", "error")
    @property
    def operation(self) -> RunOperation: ...
    @property
    def started(self) -> datetime: ...
    @property
    def finished(self) -> datetime: ...
    @property
    def result(self) -> RunResult: ...
    @property
    def error(self) -> str | None: ...

@final
class Space(Report):
    __match_args__ = ("used_bytes", "free_bytes", "size_bytes", "growth_bytes_per_day", "full_at")
    @property
    def used_bytes(self) -> int: ...
    @property
    def free_bytes(self) -> int: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def growth_bytes_per_day(self) -> int | None: ...
    @property
    def full_at(self) -> datetime | None: ...

@final
class Change(Report):
    __match_args__ = ("share", "usual_share", "limit_share")
    @property
    def share(self) -> float: ...
    @property
    def usual_share(self) -> float: ...
    @property
    def limit_share(self) -> float: ...

@final
class Alarm(Report):
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
    )
    @property
    def revision(self) -> str: ...
    @property
    def raised(self) -> datetime: ...
    @property
    def changed_bytes(self) -> int: ...
    @property
    def usual_bytes(self) -> int: ...
    @property
    def confirmed(self) -> datetime | None: ...
    @property
    def lost_bytes(self) -> int | None: ...
    @property
    def had_bytes(self) -> int | None: ...
    @property
    def other_source(self) -> str | None: ...
    @property
    def shrunk_from_bytes(self) -> int | None: ...

@final
class Freeze(Report):
    __match_args__ = ("kind", "revision", "message")
    @property
    def kind(self) -> FreezeKind: ...
    @property
    def revision(self) -> str: ...
    @property
    def message(self) -> str: ...

@final
class Status(Report):
    __match_args__ = (
        "schema",
        "archive",
        "source",
        "last_source",
        "block_size",
        "in_progress",
        "lock_holder",
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
    def schema(self) -> int: ...
    @property
    def archive(self) -> Path: ...
    @property
    def source(self) -> Path | None: ...
    @property
    def last_source(self) -> SourceIdentity | None: ...
    @property
    def block_size(self) -> int: ...
    @property
    def in_progress(self) -> InProgress | None: ...
    @property
    def lock_holder(self) -> str | None: ...
    @property
    def coverage(self) -> Coverage: ...
    @property
    def drill(self) -> DrillReport | None: ...
    @property
    def revisions(self) -> tuple[RevisionStatus, ...]: ...
    @property
    def health(self) -> Health: ...
    @property
    def healthy(self) -> bool: ...
    @property
    def checked(self) -> datetime: ...
    @property
    def revision_count(self) -> int: ...
    @property
    def damaged_count(self) -> int: ...
    @property
    def newest(self) -> RevisionStatus | None: ...
    @property
    def schedule(self) -> tuple[TagStatus, ...]: ...
    @property
    def last_runs(self) -> tuple[Run, ...]: ...
    @property
    def last_scrub(self) -> datetime | None: ...
    @property
    def unchecked_since(self) -> datetime | None: ...
    @property
    def chain_length(self) -> int: ...
    @property
    def long_chain(self) -> int: ...
    @property
    def space(self) -> Space | None: ...
    @property
    def change(self) -> Change | None: ...
    @property
    def alarms(self) -> tuple[Alarm, ...]: ...
    @property
    def frozen(self) -> tuple[Freeze, ...]: ...
    @property
    def nagios(self) -> str: ...
    @property
    def prometheus(self) -> str: ...

@final
class SharedSpace(Report):
    __match_args__ = ("archives", "used_bytes", "free_bytes", "size_bytes", "growth_bytes_per_day", "full_at")
    @property
    def archives(self) -> int: ...
    @property
    def used_bytes(self) -> int: ...
    @property
    def free_bytes(self) -> int: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def growth_bytes_per_day(self) -> int | None: ...
    @property
    def full_at(self) -> datetime | None: ...

@final
class Checked(Report):
    __match_args__ = ("archive", "health", "status")
    @property
    def archive(self) -> Path: ...
    @property
    def health(self) -> Health: ...
    @property
    def status(self) -> Status | None: ...

@final
class HostReport(Report):
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
    def schema(self) -> int: ...
    @property
    def checked(self) -> datetime: ...
    @property
    def level(self) -> Level: ...
    @property
    def summary(self) -> str: ...
    @property
    def archives(self) -> tuple[Checked, ...]: ...
    @property
    def file_systems(self) -> tuple[SharedSpace, ...]: ...
    @property
    def problems(self) -> tuple[Problem, ...]: ...
    @property
    def healthy(self) -> bool: ...
    @property
    def nagios(self) -> str: ...
    @property
    def prometheus(self) -> str: ...

def check(*folders: _Path) -> HostReport: ...

# For the modules of 2014, backy.backup and backy.revision.

def init_unseen(path: _Path, source: _Path) -> None: ...
def own_chunks(path: _Path, revision: str, chunk_size: int) -> list[int]: ...
@final
class OldArchive:
    def __new__(cls, path: _Path) -> OldArchive: ...
    @property
    def source(self) -> str | None: ...
    @property
    def block_size(self) -> int: ...
    @property
    def revisions(self) -> list[OldRevision]: ...
    @property
    def skipped(self) -> list[tuple[str, str]]: ...
    def read_block(self, revision: str, number: int) -> bytes: ...
    def restore(self, revision: str, target: _Path, *, force: bool = False, progress: _Callback = None) -> int: ...

@final
class OldRevision:
    @property
    def uuid(self) -> str: ...
    @property
    def timestamp(self) -> datetime: ...
    @property
    def checksum(self) -> str | None: ...
    @property
    def parent(self) -> str | None: ...
    @property
    def full(self) -> bool: ...
    @property
    def blocks(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def own_blocks(self) -> list[int]: ...
