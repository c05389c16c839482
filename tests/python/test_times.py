"""Revisions named by times, and what a restore would overwrite."""

from __future__ import annotations

import os
from datetime import date, datetime, timedelta, timezone
from pathlib import Path

import pytest

import backy
from backy import Archive
from conftest import Made


def test_a_time_names_the_newest_revision_that_is_not_younger(made: Made) -> None:
    """A datetime with or without a zone, a date, and text as the command takes it."""
    archive = Archive(made.path)
    newest, *_, oldest = archive.revisions
    second = timedelta(seconds=1)
    for revision in archive.revisions:
        for zone in (timezone.utc, timezone(timedelta(hours=5))):
            assert archive.find(revision.timestamp.astimezone(zone)) == archive.find(revision)
        naive = revision.timestamp.astimezone().replace(tzinfo=None)
        assert archive.find(naive) == archive.find(revision)
    for later in (datetime(2999, 1, 1), date(2999, 1, 1), "2999-01-01", "today"):
        assert archive.find(later) == archive.find(newest)
    # Where several are meant, those that were made then.
    day = newest.timestamp.astimezone().date()
    assert newest in archive.select(day)
    assert archive.select(day) == archive.select(str(day))
    with pytest.raises(backy.NoSuchRevisionError, match="no revision was made on"):
        archive.select(date(2999, 1, 1))
    with pytest.raises(ValueError, match="is a moment"):
        archive.rm(datetime(2999, 1, 1), dry_run=True)
    with pytest.raises(backy.NoSuchRevisionError, match="the oldest was made on"):
        archive.find(oldest.timestamp - second)
    with pytest.raises(backy.NoSuchRevisionError, match="2001-02-03"):
        archive.find(date(2001, 2, 3))
    with pytest.raises(ValueError, match="no such day"):
        archive.find("2026-02-30")
    with pytest.raises(TypeError, match="a datetime, a date"):
        archive.find(1.5)  # type: ignore[arg-type]


def test_look_at_target_shows_the_content_that_a_restore_would_overwrite(tmp_path: Path) -> None:
    """A look changes nothing, and says what a person has to know."""
    source = tmp_path / "source"
    content = bytearray(os.urandom(1 << 20))
    source.write_bytes(content)
    archive = Archive.init(tmp_path / "archive", source)
    archive.backup(force=True)
    assert archive.look_at_target(tmp_path / "new") is None
    content[300_000:300_010] = bytes(10)
    source.write_bytes(content)
    look = archive.look_at_target(source)
    assert look is not None
    assert (look.target, look.target_kind, look.is_source) == (source, "file", True)
    assert look.objection is None
    assert (look.size_bytes, look.compared_bytes, look.differing_bytes) == (1 << 20, 1 << 20, 1 << 16)
    assert look.contents == ()
    assert look.changed is not None
    assert look.changed.timestamp() == pytest.approx(source.stat().st_mtime, abs=0.001)
    assert source.read_bytes() == content
    other = tmp_path / "other"
    other.write_bytes(b"\0" * 1080 + b"\x53\xef" + bytes(100_000))
    look = archive.look_at_target(other)
    assert look is not None
    assert look.objection == "it is not the source"
    assert [(it.partition, it.kind, it.label, it.written) for it in look.contents] == [(None, "ext2", None, None)]
    content_of_other = {"partition": None, "kind": "ext2", "label": None, "written": None}
    assert look.to_dict()["contents"] == [content_of_other]
    with pytest.raises(backy.TargetError):
        archive.look_at_target(tmp_path / "archive" / "last.raw")
    source.write_bytes(content[:-1])
    with pytest.raises(backy.TargetError, match="not the source that was backed up"):
        archive.restore(source)
    archive.restore(source, force=True, check_space=False)
    assert archive.look_at_target(source) is not None


def test_a_source_that_is_not_there_yet_is_a_warning(tmp_path: Path) -> None:
    """Backups fail until it is there."""
    source = tmp_path / "later"
    with pytest.warns(UserWarning, match="does not exist yet"):
        archive = Archive.init(tmp_path / "archive", source)
    assert archive.source == source
    with pytest.raises(backy.SourceError):
        archive.backup()


def test_a_tilde_makes_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python does not expand it either."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="expanduser"):
        Archive.init("~/archive")
    assert list(tmp_path.iterdir()) == []
