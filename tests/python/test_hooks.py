"""Hooks of backy.toml around backups made by the module."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import backy
from backy import Archive

SIZE = 1 << 20


class Counting:
    """A source of zeros and its number of reads."""

    size = SIZE

    def __init__(self, log: Path, fails: bool = False) -> None:
        self.log = log
        self.fails = fails

    def readinto_at(self, offset: int, buffer: memoryview) -> int:
        if self.fails:
            raise RuntimeError("a source that fails")
        with self.log.open("a") as log:
            log.write("read\n")
        buffer[:] = b"x" * len(buffer)
        return len(buffer)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def archive(tmp_path: Path, log: Path) -> Archive:
    source = tmp_path / "source"
    # More than is read at a time, so that a limit on the rate holds it up.
    source.write_bytes(os.urandom(8 * SIZE))
    archive = Archive.init(tmp_path / "archive", source)
    with (archive.path / "backy.toml").open("a") as config:
        config.write(f"\n[hooks]\nbefore = '''echo before $BACKY_SOURCE >> {log}'''\n")
        config.write(f"after = '''echo after $BACKY_RESULT >> {log}'''\n")
    return archive


def test_hooks_run_around_any_source(archive: Archive, log: Path, tmp_path: Path) -> None:
    """For the configured source, another one, and an object of Python; not for a dry run."""
    plan = archive.backup(dry_run=True)
    assert plan.room is not None
    assert plan.room.expected_bytes is not None
    assert SIZE <= plan.room.expected_bytes <= plan.room.most_bytes
    assert not log.exists()
    archive.backup()
    archive.backup(source=tmp_path / "source", force=True)
    told = f"before {tmp_path / 'source'}\nafter ok\n"
    assert log.read_text() == told * 2
    log.unlink()
    archive.backup(source=Counting(log), force=True)
    assert log.read_text() == "before\nread\nafter ok\n"


def test_a_failed_hook_is_logged_and_raised(archive: Archive, log: Path) -> None:
    """What a source raises comes out as it is, and 'after' hears of it; a hook that fails is a HookError."""
    with pytest.raises(RuntimeError, match="a source that fails"):
        archive.backup(source=Counting(log, fails=True), force=True)
    assert log.read_text() == "before\nafter failed\n"
    config = archive.path / "backy.toml"
    config.write_text(config.read_text().replace("after = '''", "after = '''false; exit 7; "))
    with pytest.raises(backy.HookError, match=r"exit status: 7; revision .* was made nevertheless"):
        archive.backup(force=True)
    assert len(archive.revisions) == 1
    config.write_text(config.read_text().replace("before = '''", "before = '''exit 8; "))
    with pytest.raises(backy.HookError, match="exit status: 8; no backup was made") as raised:
        archive.backup(force=True)
    assert raised.value.kind == "hook"
    assert len(archive.revisions) == 1


def test_after_runs_when_the_backup_is_stopped(archive: Archive, log: Path) -> None:
    """An exception of the callback, as Ctrl-C raises one."""

    def stop(progress: backy.Progress) -> None:
        if progress.bytes_total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        archive.backup(force=True, limit_rate="1M", progress=stop)
    assert log.read_text().endswith("after interrupted\n")
    assert archive.revisions == []


def test_a_killed_script(archive: Archive, log: Path) -> None:
    """With SIGKILL, 'after' is run by the guard, which finds the module where the script has found it."""
    reached = archive.path.parent / "reached"
    script = f"""
import sys
sys.path[:] = {sys.path!r}
import backy

class Endless:
    # Never read to its end, however slow or fast the machine is.
    size = {SIZE}

    def readinto_at(self, offset: int, buffer: memoryview) -> int:
        open({str(reached)!r}, "w").close()
        sys.stdin.read()
        raise RuntimeError("it was to be killed")

backy.Archive({str(archive.path)!r}).backup(force=True, source=Endless())
"""
    command = [sys.executable, "-I", "-c", script]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        # It has begun to read: the hook 'before' was run, and 'after' has to be.
        while not reached.exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
    # Returns when the guard has ended, too, which holds standard error.
    _, said = process.communicate(timeout=300)
    assert log.read_text() == "before\nafter interrupted\n"
    assert b"the backup was killed; its hook 'after' was run" in said
    archive.backup(force=True)
    assert len(archive.revisions) == 1
