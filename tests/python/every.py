"""A real report of every class, for tests of what all of them have in common."""

from __future__ import annotations

import inspect
import random
import shutil
from pathlib import Path
from typing import Any

import backy
from backy import Archive, Report
from conftest import CHECKOUT, flip

BLOCK = 65536
OLD = CHECKOUT / "tests/legacy/scrub-consistent"


def classes() -> dict[str, type[Report]]:
    """All classes of reports by their names, but for the one that they have in common."""
    found = {name: value for name, value in vars(backy).items() if inspect.isclass(value)}
    return {name: value for name, value in found.items() if issubclass(value, Report) and value is not Report}


def alarming(folder: Path) -> Archive:
    """An archive with an alarm, a drill, and a run of each command."""
    source = folder / "source.img"
    content = bytearray(random.Random(1).randbytes(12 * BLOCK))
    source.write_bytes(content)
    archive = Archive.init(folder / "alarming", source=source)
    for night in range(7):
        content[night * BLOCK] ^= 1
        source.write_bytes(content)
        archive.backup(force=True, tags=["manual"], as_=["daily"])
    source.write_bytes(random.Random(2).randbytes(12 * BLOCK))
    archive.backup(force=True)
    archive.drill(0)
    archive.maintenance()
    return archive


def damaged(archive: Archive) -> Archive:
    """The same with a block of the newest revision that cannot be read, nor in any older one."""
    flip(archive.path / "last.raw", 11 * BLOCK + 5)
    return archive


class Asking:
    """A source that looks at the archive while it is read."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self.content = (archive.path.parent / "source.img").read_bytes()
        self.seen: list[Any] = []

    @property
    def size(self) -> int:
        return len(self.content)

    def readinto_at(self, offset: int, buffer: memoryview, /) -> int:
        if not self.seen:
            self.seen.append(self.archive.status())
        part = self.content[offset : offset + len(buffer)]
        buffer[: len(part)] = part
        return len(part)


class Lying:
    """A source that keeps marks, and never reports a change."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.size = len(content)

    def readinto_at(self, offset: int, buffer: memoryview, /) -> int:
        part = self.content[offset : offset + len(buffer)]
        buffer[: len(part)] = part
        return len(part)

    def mark(self, revision: str) -> str:
        return revision

    def changed_extents(self, since: backy.Revision | None) -> list[tuple[int, int]]:
        return []


def tracked(folder: Path) -> Archive:
    """An archive of a source that has not reported a change."""
    archive = Archive.init(folder / "tracked")
    archive.backup(source=Lying(b"a" * 200_000), force=True)
    archive.backup(source=Lying(b"a" * 100_000 + b"b" * 100_000), force=True, read_all=True)
    return archive


def instances(folder: Path) -> dict[str, list[Any]]:
    """Reports by the names of their classes; those in reports among them. The archives there are damaged."""
    archive = alarming(folder)
    asking = Asking(archive)
    disk = folder / "disk.img"
    disk.write_bytes(b"\0" * 1080 + b"\x53\xef" + bytes(100_000))
    old = shutil.copytree(OLD, folder / "old")
    (old / "0123.rev").write_text("no revision")
    imported = Archive.import_(old, folder / "imported")
    whole = Archive(folder / "imported")
    (whole.path / "manifest.json").unlink()
    one, two = (Archive.init(folder / "fleet" / name, disk) for name in ("one", "two"))
    one.backup()
    found: list[Any] = [
        backy.run(one.path, two.path, folder / "gone", dry_run=True),
        backy.run(one.path, two.path, folder / "gone"),
        archive.backup(force=True, dry_run=True),
        archive.backup(source=asking, force=True),
        *asking.seen,
        tracked(folder).status(),
        archive.look_at_target(disk),
        archive.restore(disk, 1, force=True, undo=folder / "undo", keep_going=True),
        archive.export(folder / "new.qcow2", 0),
        archive.export_rbd_diff(folder / "new.diff", 0),
        backy.pull(folder / "pulled", archive.path, revisions=1, dry_run=True),
        backy.pull(folder / "pulled", archive.path, revisions=1),
        backy.pull(folder / "pulled", archive.path),
        damaged(archive).scrub(),
        archive.status(),
        Archive.init(folder / "copy", origin=str(archive.path)).status(),
        archive.config(),
        backy.check(archive.path),
        archive.maintenance(keep=2, dry_run=True),
        archive.rm("3", force=True, dry_run=True),
        archive.rm("5", force=True),
        *archive.revisions,
        imported,
        Archive.rebuild(folder / "imported"),
    ]
    by_class: dict[str, list[Any]] = {}
    while found:
        report = found.pop()
        if isinstance(report, tuple):
            found += report
        elif isinstance(report, Report):
            by_class.setdefault(type(report).__name__, []).append(report)
            shown = {name: getattr(report, name) for name in type(report).__match_args__}  # type: ignore[attr-defined]
            found += [value for value in shown.values() if isinstance(value, (tuple, Report))]
    missing = set(classes()) - set(by_class)
    assert not missing, missing
    return by_class
