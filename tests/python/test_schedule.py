"""Scheduled tags now, waiting for the lock, and a backup beside another one."""

from __future__ import annotations

import fcntl
import logging
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

import backy
from backy import Archive
from conftest import Made


def archive_of(tmp_path: Path, size: int = 1 << 20) -> Archive:
    source = tmp_path / "source.img"
    source.write_bytes(bytes(range(256)) * (size // 256))
    return Archive.init(tmp_path / "archive", source)


def test_a_scheduled_tag_is_made_now(tmp_path: Path) -> None:
    """`as_` gives a tag as if it were due: it is not pinned, and must be one of the schedule."""
    archive = archive_of(tmp_path)
    archive.backup()
    made = archive.backup(as_=["daily"])
    assert made is not None
    assert (made.revision.tags, made.revision.pinned_tags) == (("daily",), ())
    with pytest.raises(backy.SpecificationError, match="hourly is not in the schedule"):
        archive.backup(as_=["hourly"])


def test_a_plan_says_when_the_next_is_due(tmp_path: Path) -> None:
    """None while one is due; afterwards the time and the tag, as status has them."""
    archive = archive_of(tmp_path)
    assert archive.backup(dry_run=True).next_due is None
    archive.backup()
    plan = archive.backup(dry_run=True)
    assert isinstance(plan.next_due, datetime)
    assert plan.next_tag == "daily"
    assert plan.next_due == archive.status().schedule[0].due_at


def test_pinning_a_scheduled_tag_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What the command warns of goes to the logger."""
    archive = archive_of(tmp_path)
    with caplog.at_level(logging.WARNING, "backy"):
        archive.backup(tags=["daily"])
    assert any("pinned" in record.message and "--as daily" in record.message for record in caplog.records)


@pytest.mark.parametrize("wait", [0.3, timedelta(seconds=0.3), "1s"])
def test_a_held_lock_is_waited_for(copy: Made, wait: float | timedelta | str) -> None:
    """Each call that changes an archive waits as long as it is told to, and no longer."""
    archive = Archive(copy.path)
    calls: list[Callable[[], object]] = [
        lambda: archive.backup(force=True, wait=wait),
        lambda: archive.maintenance(wait=wait),
        lambda: archive.scrub(wait=wait),
        lambda: archive.tag(0, ["kept"], wait=wait),
    ]
    for call in calls:
        with (copy.path / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            began = time.monotonic()
            with pytest.raises(backy.LockedError):
                call()
            assert time.monotonic() - began >= 0.3
            threading.Timer(0.1, lambda: fcntl.flock(lock, fcntl.LOCK_UN)).start()
            call()
    for wrong in (-1.0, float("nan"), "soon"):
        with pytest.raises(ValueError, match="wait"):
            archive.backup(wait=wrong)


def test_a_due_backup_beside_another_one_is_none(tmp_path: Path) -> None:
    """It is made by the other one; whoever wants one now is told who has the lock."""
    archive = archive_of(tmp_path, 8 << 20)
    thread = threading.Thread(target=lambda: archive.backup(limit_rate="4M"))
    thread.start()
    while archive.status().in_progress is None:
        time.sleep(0.01)
    assert archive.backup() is None
    with pytest.raises(backy.LockedError):
        archive.backup(force=True)
    thread.join()
    assert len(archive.revisions) == 1


def test_maintenance_says_why_far_more_stays(tmp_path: Path) -> None:
    """`excess` is a sentence when far more stays than the schedule keeps, else None."""
    archive = archive_of(tmp_path)
    archive.backup()
    assert archive.maintenance().excess is None
    config = archive.path / "backy.toml"
    text = config.read_text()
    config.write_text(text[: text.index("[schedule.")] + '[schedule.daily]\ninterval = "1d"\nkeep = 1\n')
    for _ in range(6):
        archive.backup(tags=["daily"])
    excess = archive.maintenance(dry_run=True).excess
    assert excess is not None
    assert "pinned by hand with a tag of the schedule" in excess
