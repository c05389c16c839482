"""backy.run: what is due in many archives, each job in a process of its own."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

import backy
from backy import Archive

FLEET = Path("/etc/backy/fleet.toml")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two archives that were never backed up."""
    for name in ("one", "two"):
        source = tmp_path / f"{name}.img"
        source.write_bytes(name.encode() * 50_000)
        Archive.init(tmp_path / "archives" / name, source)
    return tmp_path / "archives"


def hook(archive: Path, command: str) -> None:
    with (archive / "backy.toml").open("a") as config:
        config.write(f"\n[hooks]\nbefore = '''{command}'''\n")


def counts(folder: Path) -> list[int]:
    return [len(Archive(archive).revisions) for archive in sorted(folder.iterdir())]


def results(report: Any) -> dict[tuple[str, str], str]:
    return {(job.archive.name, job.operation): job.result for job in report.jobs}


def test_a_plan_lists_what_is_due_and_a_run_does_it(folder: Path) -> None:
    plan = backy.run(folder, jobs=3, dry_run=True)
    assert [(job.archive, job.operation) for job in plan.jobs] == [(folder / name, "backup") for name in ("one", "two")]
    assert plan.jobs[0].command == ("backy", "-b", str(folder / "one"), "backup")
    assert (plan.jobs[0].due_since, plan.jobs[0].overdue, plan.jobs[0].group) == (None, None, None)
    assert (plan.limits.jobs, plan.limits.groups, plan.until) == (3, {}, None)
    assert (plan.idle, plan.problems) == ((), ())
    assert counts(folder) == [0, 0]

    report = backy.run(folder)
    assert report.is_ok
    assert (report.archives, report.interrupted, report.problems) == (2, False, ())
    assert results(report) == {("one", "backup"): "ok", ("two", "backup"): "ok"}
    for job in report.jobs:
        assert job.revision == Archive(job.archive).revisions[0].uuid
        assert job.read_bytes == len(job.archive.name) * 50_000
        assert (job.attempts, job.message) == (1, None)
    assert report.started <= report.finished

    plan = backy.run(folder / "one", folder / "two", dry_run=True)
    assert plan.jobs == ()
    assert [idle.archive.name for idle in plan.idle] == ["one", "two"]
    assert plan.idle[0].next_due is not None
    assert plan.idle[0].next_due > plan.planned
    assert backy.run(folder).jobs == ()


def test_a_job_that_fails_is_in_the_report_and_raises_nothing(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is tried again at the end; the other archive is backed up, and what cannot be read is a problem."""
    hook(folder / "one", f"echo tried >> {tmp_path}/tries; echo no snapshot >&2; exit 3")
    with caplog.at_level(logging.INFO, "backy"):
        report = backy.run(folder, tmp_path / "gone")
    assert not report.is_ok
    assert results(report) == {("one", "backup"): "failed", ("two", "backup"): "ok"}
    failed = report.jobs[-1]
    assert failed.attempts == 3
    assert failed.message is not None
    assert "before" in failed.message
    assert (tmp_path / "tries").read_text() == "tried\n" * 3
    (problem,) = report.problems
    assert problem.archive == tmp_path / "gone"
    assert counts(folder) == [0, 1]
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert f"{folder / 'one'}: backup failed (3 attempts): {failed.message}" in warned
    assert any(str(tmp_path / "gone") in text for text in warned)
    noted = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert f"{folder / 'two'}: backup finished" in noted
    assert any("is tried again" in text for text in noted)


class Finished(logging.Handler):
    """Calls something when the first job has finished."""

    def __init__(self, then: Any) -> None:
        super().__init__()
        self.then = then

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().endswith("backup finished"):
            self.then()


@pytest.mark.parametrize("how", ["token", "signal"])
def test_a_run_that_is_stopped_leaves_all_in_order(how: str, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What was done stays; the job at work ends in order; the exception has the report."""
    hook(folder / "one", "sleep 60")
    token = backy.CancelToken()
    stop = token.cancel if how == "token" else lambda: os.kill(os.getpid(), signal.SIGINT)
    handler = Finished(lambda: threading.Timer(0.3, stop).start())
    logger = logging.getLogger("backy")
    logger.addHandler(handler)
    began = time.monotonic()
    try:
        with (
            caplog.at_level(logging.INFO, "backy"),
            pytest.raises(backy.CancelledError if how == "token" else KeyboardInterrupt) as raised,
        ):
            backy.run(folder, jobs=2, cancel=token)
    finally:
        logger.removeHandler(handler)
    assert time.monotonic() - began < 30
    report = raised.value.report  # type: ignore[attr-defined]
    assert isinstance(report, backy.FleetReport)
    assert report.interrupted
    assert not report.is_ok
    assert results(report) == {("one", "backup"): "interrupted", ("two", "backup"): "ok"}
    assert counts(folder) == [0, 1]
    assert Archive(folder / "one").status().lock_holder is None


def test_a_fleet_file_names_archives_and_what_is_expected(folder: Path, tmp_path: Path) -> None:
    """A declared archive that is missing is critical, and made by the run, which writes the figures."""
    fleet, third = tmp_path / "fleet.toml", folder / "three"
    fleet.write_text(
        f'archives = ["{folder}"]\njobs = 2\ntextfile = "{tmp_path}/backy.prom"\n[groups]\nvg0 = 3\n'
        f'[[archive]]\npath = "{third}"\nsource = "{tmp_path}/one.img"\n'
    )
    host = backy.check(fleet=fleet)
    (missing,) = (checked for checked in host.archives if checked.archive == third)
    assert (host.level, missing.health.level, missing.status) == ("critical", "critical", None)
    plan = backy.run(fleet=fleet, dry_run=True)
    assert (plan.limits.jobs, plan.limits.groups) == (2, {"vg0": 3})
    assert ("three", "init") in {(job.archive.name, job.operation) for job in plan.jobs}
    report = backy.run(fleet=fleet)
    assert report.is_ok
    assert results(report)[("three", "init")] == results(report)[("three", "backup")] == "ok"
    assert counts(folder) == [1, 1, 1]
    assert "backy_fleet_run_success 1" in (tmp_path / "backy.prom").read_text()
    assert {checked.health.level for checked in backy.check(fleet=fleet).archives} == {"ok"}
    # Folders besides the file choose among its archives.
    assert [checked.archive for checked in backy.check(third, fleet=fleet).archives] == [third]


def test_figures_that_cannot_be_written_are_a_warning(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fleet = tmp_path / "fleet.toml"
    fleet.write_text(f'archives = ["{folder}"]\ntextfile = "{tmp_path}/gone/backy.prom"\n')
    assert backy.run(fleet=fleet).is_ok
    assert any(f"{tmp_path}/gone/backy.prom" in record.getMessage() for record in caplog.records)


@pytest.mark.skipif(FLEET.exists(), reason="this machine has a fleet")
@pytest.mark.parametrize("call", [backy.run, backy.check])
def test_without_any_archive_the_error_says_what_to_give(call: Any, tmp_path: Path) -> None:
    with pytest.raises(backy.SpecificationError, match="no archive was given, and there is no /etc/backy/fleet.toml"):
        call()
    empty = tmp_path / "fleet.toml"
    empty.write_text("jobs = 2\n")
    with pytest.raises(backy.SpecificationError, match="fleet.toml: names no archive"):
        call(fleet=empty)
    empty.chmod(0o666)
    with pytest.raises(backy.UntrustedError):
        call(fleet=empty)


def test_nothing_starts_too_late(folder: Path) -> None:
    """A datetime is local without a zone, as everywhere in Python; text is the next such time of day."""
    for past in (datetime.now(), datetime.now(timezone.utc) - timedelta(hours=1)):
        report = backy.run(folder, until=past)
        assert set(results(report).values()) == {"not-started"}
    assert counts(folder) == [0, 0]
    plan = backy.run(folder, until="06:00", dry_run=True)
    assert plan.until is not None
    assert plan.planned < plan.until <= plan.planned + timedelta(hours=25)
    assert plan.until.astimezone().strftime("%H:%M") == "06:00"


def test_folders_may_be_relative(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert backy.run("archives/o*").archives == 1
    assert backy.check(Path("archives")).archives[0].archive.is_absolute()
    assert counts(folder) == [1, 0]


def test_archives_that_others_can_change_need_trust(folder: Path) -> None:
    (folder / "one").chmod(0o777)
    (folder / "two").chmod(0o777)
    refused = backy.run(folder)
    assert not refused.is_ok
    assert counts(folder) == [0, 0]
    assert backy.run(folder, trust=True).is_ok
    assert counts(folder) == [1, 1]


def test_a_program_that_only_has_python_in_it_runs_no_jobs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing there can start a process for a job; the plan needs none."""
    monkeypatch.setattr(sys, "executable", "")
    assert len(backy.run(folder, dry_run=True).jobs) == 2
    with pytest.raises(RuntimeError, match="sys.executable"):
        backy.run(folder)
