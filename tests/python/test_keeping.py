"""Budgets, drills with commands, undo archives and tags: what the command can, the module can."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import backy
from backy import Archive
from conftest import Made

BLOCK = 65536


def is_alive(process: str) -> bool:
    try:
        stat = Path("/proc", process.strip(), "stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}


def test_processes_that_a_command_started_end_with_it(copy: Made, tmp_path: Path) -> None:
    """Also what is in a session of its own, when the command has ended by itself."""
    archive, note = Archive(copy.path), tmp_path / "process"
    line = f"setsid sleep 100 & echo $! > {note} # {{}}"
    assert archive.drill(command=["sh", "-c", line]).passed
    assert not is_alive(note.read_text())


def test_a_command_has_a_time_limit(copy: Made) -> None:
    """Of the argument or of the config; a callable has none, and cannot be given one."""
    archive = Archive(copy.path)
    command = ["sh", "-c", "sleep 100 # {}"]
    began = time.monotonic()
    report = archive.drill(command=command, timeout="1s")
    assert not report.passed
    assert report.message == "'sh' did not end within 1 s and was stopped"
    with (copy.path / "backy.toml").open("a") as config:
        config.write('\n[drill]\ntimeout = "1s"\n')
    assert not archive.drill(command=command).passed
    assert time.monotonic() - began < 60
    assert archive.drill(command=["sh", "-c", "sleep 2 # {}"], timeout="none").passed
    with pytest.raises(ValueError, match="callable"):
        archive.drill(command=lambda path: True, timeout="1s")
    with pytest.raises(ValueError, match="soon"):
        archive.drill(command=command, timeout="soon")


def test_a_budget_reports_how_much_it_covers(copy: Made) -> None:
    archive = Archive(copy.path)
    whole = archive.scrub(budget="100%")
    assert whole.budget_bytes
    half = archive.scrub(budget="50%").budget_bytes
    assert half is not None
    assert abs(half - whole.budget_bytes / 2) <= 1
    assert archive.scrub(budget="1h").budget_bytes is None
    assert archive.scrub().budget_bytes is None


def test_undoing_keeps_later_changes(copy: Made, tmp_path: Path) -> None:
    archive, target = Archive(copy.path), tmp_path / "target"
    former = bytearray(copy.sources[2])
    former[2 * BLOCK] ^= 1
    target.write_bytes(former)
    archive.restore(target, "first", force=True, undo=tmp_path / "undo")
    now = bytearray(target.read_bytes())
    now[5 * BLOCK + 7] ^= 1
    target.write_bytes(now)
    undo = Archive(tmp_path / "undo")
    assert undo.status().healthy
    assert undo.scrub().is_clean
    with pytest.raises(ValueError, match="undo archive"):
        undo.backup(source=target, force=True)
    report = undo.restore(target)
    assert report.is_complete
    assert not report.is_exact
    assert [(extent.offset, extent.len) for extent in report.changed_since] == [(5 * BLOCK, BLOCK)]
    former[5 * BLOCK + 7] ^= 1
    assert target.read_bytes() == bytes(former)


def test_tags_are_refused_and_unpinned_as_by_the_command(copy: Made) -> None:
    archive = Archive(copy.path)
    before = archive.revisions[0].tags
    with pytest.raises(backy.BackyError, match="range"):
        archive.tag(0, add=["a..b"])
    with pytest.raises(backy.BackyError, match="range"):
        archive.backup(tags=["a..b"], dry_run=True)
    archive.tag(0, add=["mine"])
    assert archive.tag(0, remove=["mine"]) == tuple(before)
