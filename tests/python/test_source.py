"""Sources that are Python objects."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

import backy
from backy import Archive
from conftest import Made, content


class Source:
    """Bytes, and what was read of them."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.size = len(content)
        self.read: list[tuple[int, int]] = []
        self.lock = threading.Lock()

    def readinto_at(self, offset: int, buffer: memoryview) -> int:
        # Never all that is asked for: as much as there happens to be.
        part = self.content[offset : offset + min(len(buffer), 100_000)]
        buffer[: len(part)] = part
        with self.lock:
            self.read.append((offset, len(part)))
        return len(part)


class KnowingSource(Source):
    """Knows what has changed."""

    def __init__(self, content: bytes, changed: Any) -> None:
        super().__init__(content)
        self.changed = changed
        self.since: list[Any] = []

    def changed_extents(self, since: backy.Revision | None) -> Iterable[tuple[int, int]] | None:
        self.since.append(since)
        return self.changed  # type: ignore[no-any-return]


def new(tmp_path: Path) -> Archive:
    return Archive.init(tmp_path / "archive")


def test_an_object_is_backed_up(tmp_path: Path) -> None:
    """Every byte, of any size but none; and the manifest says what it was."""
    archive = new(tmp_path)
    with pytest.raises(backy.SourceError, match="empty"):
        archive.backup(source=Source(b""), force=True)
    for size in (1, 65536, 1_234_567):
        content = random.Random(size).randbytes(size)
        report = archive.backup(source=Source(content), force=True)
        assert report is not None
        with archive.open() as image:
            assert image.read() == content
    assert '"Python object"' in (archive.path / "manifest.json").read_text()


def test_only_changed_extents_are_read(tmp_path: Path) -> None:
    """changed_extents is asked once, with the newest revision; extents may come in any order and overlap."""
    archive = new(tmp_path)
    first = random.Random(1).randbytes(1_000_000)
    source = KnowingSource(first, None)
    archive.backup(source=source, force=True)
    assert source.since == [None]
    second = first[:200_000] + b"changed" + first[200_007:]
    source = KnowingSource(second, iter([(900_000, 10**9), (199_999, 5), (200_003, 10), (5, 0)]))
    archive.backup(source=source, force=True)
    assert [since.uuid for since in source.since] == [archive.revisions[1].uuid]
    assert sum(count for _, count in source.read) < 400_000
    with archive.open() as image:
        assert image.read() == second
    with archive.open(1) as image:
        assert image.read() == first


class SparseSource(KnowingSource):
    """Knows where it has holes, too."""

    def __init__(self, content: bytes, changed: Any, holes: Any) -> None:
        super().__init__(content, changed)
        self.given = holes

    def holes(self) -> Iterable[tuple[int, int]] | None:
        return self.given  # type: ignore[no-any-return]


def test_holes_are_not_read(tmp_path: Path) -> None:
    """Of the first backup, too; pairs may come in any order, overlap and end behind the source."""
    archive = new(tmp_path)
    content = bytearray(random.Random(3).randbytes(2_000_000))
    content[100_000:900_000] = bytes(800_000)
    content[1_500_000:] = bytes(500_000)
    source = SparseSource(bytes(content), None, iter([(1_500_000, 10**12), (300_000, 600_000), (100_000, 300_000)]))
    archive.backup(source=source, force=True)
    assert sum(count for _, count in source.read) < 1_000_000
    with archive.open() as image:
        assert image.read() == content


@pytest.mark.parametrize("holes", [None, [], [(0, 1)]])
def test_without_whole_blocks_that_are_zero_everything_is_read(tmp_path: Path, holes: Any) -> None:
    """A source may not know, or have no holes; a block with a hole in it is data."""
    archive = new(tmp_path)
    content = b"\0" + random.Random(4).randbytes(300_000)
    source = SparseSource(content, None, holes)
    archive.backup(source=source, force=True)
    assert sum(count for _, count in source.read) == len(content)
    with archive.open() as image:
        assert image.read() == content


def test_a_hole_has_changed_whatever_the_source_says(tmp_path: Path) -> None:
    """A bitmap that misses a disk which shrinks and grows again, for instance."""
    archive = new(tmp_path)
    first = random.Random(5).randbytes(1_000_000)
    archive.backup(source=Source(first), force=True)
    second = first[:262_144] + bytes(200_000) + first[462_144:]
    source = SparseSource(second, [], [(262_144, 200_000)])
    archive.backup(source=source, force=True)
    hole = second[262_144 : 262_144 + 196_608]
    with archive.open() as image:
        found = image.read()
    assert found[262_144 : 262_144 + len(hole)] == hole
    assert found[:262_144] == first[:262_144]
    with archive.open(1) as image:
        assert image.read() == first


@pytest.mark.parametrize("number", [0, 3])
def test_an_exception_of_a_source_is_raised_unchanged(copy: Made, number: int) -> None:
    """At the first read or a later one; the archive is as it was."""

    class Strange(Exception):
        pass

    class Failing(Source):
        def readinto_at(self, offset: int, buffer: memoryview) -> int:
            if len(self.read) >= number:
                raise Strange(offset)
            return super().readinto_at(offset, buffer)

    before = content(copy.path)
    with pytest.raises(Strange):
        Archive(copy.path).backup(source=Failing(bytes(1_000_000)), force=True)
    after = content(copy.path)
    assert [name for name in before if name.endswith((".qcow2", ".raw")) and after[name] != before[name]] == []
    archive = Archive(copy.path)
    assert len(archive.revisions) == 3
    for revision, expected in enumerate(copy.sources):
        with archive.open(revision) as image:
            assert image.read() == expected


@pytest.mark.parametrize(
    ("answer", "error"), [(None, TypeError), ("x", TypeError), (10**9, ValueError), (-1, (TypeError, OverflowError))]
)
def test_an_answer_that_means_nothing_is_an_error(copy: Made, answer: Any, error: Any) -> None:
    """And no revision is made of it."""

    class Wrong(Source):
        def readinto_at(self, offset: int, buffer: memoryview) -> int:
            return answer  # type: ignore[no-any-return]

    with pytest.raises(error):
        Archive(copy.path).backup(source=Wrong(bytes(1000)), force=True)
    assert len(Archive(copy.path).revisions) == 3


def test_one_that_ends_too_early_is_an_error(copy: Made) -> None:
    """SourceError, which is an OSError."""
    source = Source(bytes(1000))
    source.size = 2000
    with pytest.raises(OSError, match="Source") as raised:
        Archive(copy.path).backup(source=source, force=True)
    assert isinstance(raised.value, backy.SourceError)


def test_an_object_that_is_no_source_is_refused(copy: Made) -> None:
    """With a sentence that says what is missing."""
    with pytest.raises(TypeError, match="readinto_at"):
        Archive(copy.path).backup(source=object(), force=True)  # type: ignore[call-overload]


class MarkingSource(SparseSource):
    """Keeps marks: the content of each is in `marks`, which outlives the object."""

    def __init__(self, content: bytes, marks: dict[str, bytes], identity: str = "one") -> None:
        super().__init__(content, None, None)
        self.marks = marks
        self.own = identity
        self.calls: list[str] = []

    def identity(self) -> str:
        return self.own

    def mark(self, revision: str) -> str | None:
        assert self.read == []
        self.calls.append("mark")
        self.marks[revision] = self.content
        return f"mark {revision}"

    def changed_extents(self, since: backy.Revision | None) -> Iterable[tuple[int, int]] | None:
        self.calls.append("changed_extents")
        assert since is not None
        assert since.bookmark is not None
        assert (since.bookmark.tracker, since.bookmark.id) == ("python", f"mark {since.uuid}")
        before = self.marks.get(since.uuid)
        if before is None:
            return None
        parts = [slice(at, at + 1000) for at in range(0, self.size, 1000)]
        return [(part.start, 1000) for part in parts if before[part] != self.content[part]]

    def settle(self, keep: str | None) -> None:
        self.calls.append("settle")
        for revision in list(self.marks):
            if revision != keep:
                del self.marks[revision]


def test_a_source_may_keep_marks(tmp_path: Path) -> None:
    """mark comes before any read, and settle leaves the mark of the newest revision alone."""
    archive = new(tmp_path)
    marks: dict[str, bytes] = {}
    content = random.Random(6).randbytes(3_000_000)
    for number in range(4):
        content = content[: number * 500_000] + b"changed" + content[number * 500_000 + 7 :]
        source = MarkingSource(content, marks)
        report = archive.backup(source=source, force=True)
        assert report is not None
        assert list(marks) == [report.revision.uuid]
        assert source.calls == ["mark", *(["changed_extents"] if number else []), "settle"]
        hints = report.revision.hints
        assert hints is not None
        assert (hints.since is None) == (number == 0)
        assert hints.compared_bytes == 0
        assert (sum(count for _, count in source.read) < 200_000) == (number > 0)
        with archive.open() as image:
            assert image.read() == content
    source = MarkingSource(content, marks)
    report = archive.backup(source=source, force=True, read_all=True)
    assert report is not None
    assert report.revision.hints is not None
    assert report.revision.hints.reason == "--read-all asks for it"
    assert sum(count for _, count in source.read) == len(content)


def test_doubts_about_marks_make_it_read_everything(tmp_path: Path) -> None:
    """Another source, a mark that is missing, one that could not be made: the reason is in the report."""
    archive = new(tmp_path)
    marks: dict[str, bytes] = {}
    content = random.Random(7).randbytes(1_000_000)
    archive.backup(source=MarkingSource(content, marks), force=True)

    def reason(source: MarkingSource) -> str:
        report = archive.backup(source=source, force=True)
        assert report is not None
        assert report.revision.hints is not None
        assert report.revision.hints.since is None
        assert sum(count for _, count in source.read) == len(content)
        return str(report.revision.hints.reason)

    assert "found two, expected one" in reason(MarkingSource(content, marks, "two"))
    marks.clear()
    assert "does not know what has changed" in reason(MarkingSource(content, marks, "two"))

    class Unmarked(MarkingSource):
        def mark(self, revision: str) -> str | None:
            return None

    assert "has made no mark" in reason(Unmarked(content, marks, "two"))
    assert "without a mark" in reason(MarkingSource(content, marks, "two"))


def test_a_failed_backup_leaves_the_marks_of_before(tmp_path: Path) -> None:
    """settle is called with the revision that is still the newest, or with None."""
    archive = new(tmp_path)
    marks: dict[str, bytes] = {}
    content = random.Random(8).randbytes(1_000_000)

    class Failing(MarkingSource):
        def readinto_at(self, offset: int, buffer: memoryview) -> int:
            raise OSError(5, "broken")

    with pytest.raises(OSError, match="broken"):
        archive.backup(source=Failing(content, marks), force=True)
    assert marks == {}
    archive.backup(source=MarkingSource(content, marks), force=True)
    kept = dict(marks)
    assert list(kept) == [archive.revisions[0].uuid]
    changed = b"x" * 10 + content[10:]
    with pytest.raises(OSError, match="broken"):
        archive.backup(source=Failing(changed, marks), force=True)
    assert marks == kept
