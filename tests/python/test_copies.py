"""Copies: what a pull does, returns and raises. What it has in common with other calls is tested with those."""

from __future__ import annotations

import logging
import pickle
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import backy
from backy import Archive, CancelToken, Progress, PullPlan, PullReport
from conftest import Made, content, flip, printed

BLOCK = 65536


def uuids(archive: Archive) -> list[str]:
    return [revision.uuid for revision in archive.revisions]


def images(archive: Archive) -> dict[str, bytes]:
    """The bytes of every revision."""
    found = {}
    for uuid in uuids(archive):
        with archive.open(uuid) as image:
            found[uuid] = image.read()
    return found


def as_origin(archive: Archive) -> list[Any]:
    """What a copy has in common with its origin."""
    return [(r.uuid, r.started, r.size_bytes, r.digest, r.tags, r.pinned_tags) for r in archive.revisions]


@pytest.fixture
def nightly(tmp_path: Path) -> Archive:
    """Four revisions of 2 MiB that do not compress; each has another block changed."""
    source, data = tmp_path / "source", bytearray(random.Random(3).randbytes(32 * BLOCK))
    source.write_bytes(data)
    archive = Archive.init(tmp_path / "origin", source)
    for night in range(4):
        data[night * BLOCK] ^= 1
        source.write_bytes(data)
        archive.backup(force=True, tags=[f"night-{night}"])
    return archive


def test_a_pull_creates_the_copy_and_then_adds_what_is_new(copy: Made, tmp_path: Path) -> None:
    """The same names, times, tags and bytes; nothing is pulled twice, and the origin is as it was."""
    origin, folder = Archive(copy.path), tmp_path / "copy"
    before = content(copy.path)
    first = backy.pull(folder, origin.path)
    made = Archive(folder)
    assert content(copy.path) == before
    assert [pulled.uuid for pulled in first.pulled] == list(reversed(uuids(origin)))
    assert (first.origin, first.present, first.left_out, first.is_complete) == (str(origin.path), 0, (), True)
    assert as_origin(made) == as_origin(origin)
    assert list(images(made).values()) == copy.sources
    origin.backup(force=True)
    second = made.pull(str(origin.path))
    assert [pulled.uuid for pulled in second.pulled] == [origin.revisions[0].uuid]
    assert second.present == 3
    third = backy.pull(str(folder), origin.path)
    assert (third.pulled, third.present) == ((), 4)
    assert images(made) == images(origin)
    assert made.scrub().is_clean


def test_a_plan_is_what_a_pull_does(nightly: Archive, tmp_path: Path) -> None:
    """For a copy that is not there, too, and changes nothing."""
    folder = tmp_path / "copy"
    plan = backy.pull(folder, nightly.path, dry_run=True)
    assert isinstance(plan, PullPlan)
    assert not folder.exists()
    report = backy.pull(folder, nightly.path)
    assert isinstance(report, PullReport)
    assert [wanted.uuid for wanted in plan.pull] == [pulled.uuid for pulled in report.pulled]
    assert [wanted.size_bytes for wanted in plan.pull] == [pulled.size_bytes for pulled in report.pulled]
    nightly.backup(force=True)
    before = content(folder)
    again = Archive(folder).pull(nightly.path, dry_run=True)
    assert [wanted.uuid for wanted in again.pull] == [nightly.revisions[0].uuid]
    assert again.present == 4
    assert content(folder) == before


def test_revisions_are_those_of_the_origin(nightly: Archive, tmp_path: Path) -> None:
    """By whatever names one. Older ones cannot be added, which is in the report."""
    newest, _, second, oldest = nightly.revisions
    folder = tmp_path / "copy"
    for name in ("tag:night-1", second, second.uuid, 2, [second]):
        plan = backy.pull(folder, nightly.path, revisions=name, dry_run=True)
        assert [wanted.uuid for wanted in plan.pull] == [second.uuid]
    assert backy.pull(folder, nightly.path, revisions=second).is_complete
    copy = Archive(folder)
    report = copy.pull(nightly.path, revisions=[newest, oldest])
    assert [pulled.uuid for pulled in report.pulled] == [newest.uuid]
    (left_out,) = report.left_out
    assert (left_out.uuid, left_out.started, left_out.requested) == (oldest.uuid, oldest.started, True)
    assert left_out.why
    assert not report.is_complete
    # Nobody named those that are left out now.
    report = copy.pull(nightly.path)
    assert [each.requested for each in report.left_out] == [False, False]
    assert report.is_complete
    with pytest.raises(backy.NoSuchRevisionError):
        copy.pull(nightly.path, revisions="tag:none")


@pytest.mark.damages
def test_what_the_origin_has_lost_is_in_the_report(
    nightly: Archive, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is raised: all revisions are in the copy, all other bytes are right, and the log has a warning."""
    newest = nightly.revisions[0].uuid
    whole = images(nightly)
    flip(nightly.path / "last.raw", 20 * BLOCK + 5)
    nightly.scrub()
    with caplog.at_level(logging.WARNING, "backy"):
        report = backy.pull(tmp_path / "copy", nightly.path)
    copy = Archive(tmp_path / "copy")
    assert uuids(copy) == uuids(nightly)
    assert not report.is_complete
    assert report.pulled[0].damaged == (backy.Extent.from_dict({"offset": 20 * BLOCK, "len": BLOCK}),)
    assert any(str(nightly.path) in record.getMessage() for record in caplog.records)
    with copy.open(newest) as image:
        assert image.read(20 * BLOCK) == whole[newest][: 20 * BLOCK]
        with pytest.raises(backy.ArchiveDamagedError):
            image.read(1)
        image.seek(21 * BLOCK)
        assert image.read() == whole[newest][21 * BLOCK :]
    assert pickle.loads(pickle.dumps(report)) == report


def test_an_origin_that_does_not_fit_is_an_error(nightly: Archive, tmp_path: Path) -> None:
    """One that is no archive, that is the copy itself, or that has blocks of another size; no file is changed."""
    folder = tmp_path / "copy"
    with pytest.raises(backy.ArchiveNotFoundError):
        backy.pull(folder, tmp_path / "nowhere")
    assert not folder.exists()
    with pytest.raises(backy.SourceError, match="archive to pull into"):
        nightly.pull(nightly.path)
    large = Archive.init(tmp_path / "large", block_size=2 * BLOCK)
    with pytest.raises(backy.SpecificationError, match="blocks"):
        large.pull(nightly.path)
    backy.pull(folder, nightly.path)
    before = content(folder)
    with pytest.raises(backy.ArchiveNotFoundError):
        Archive(folder).pull(str(nightly.path) + "\udcff")
    after = content(folder)
    # Only the history has something new: that the origin was not there.
    assert len(after.pop("history.jsonl")) > len(before.pop("history.jsonl"))
    assert after == before


def test_a_copy_that_was_deleted_is_an_error_of_the_method(nightly: Archive, tmp_path: Path) -> None:
    """Archive.pull() creates no archive: its folder may be the mountpoint of a disk that is not there."""
    backy.pull(tmp_path / "copy", nightly.path)
    copy = Archive(tmp_path / "copy")
    shutil.rmtree(copy.path)
    for dry_run in (True, False):
        with pytest.raises(backy.ArchiveNotFoundError):
            copy.pull(nightly.path, dry_run=dry_run)
    assert not copy.path.exists()


def test_a_pull_that_is_stopped_continues(large: Made, tmp_path: Path) -> None:
    """The first revision stays, the second one is pulled by the next call."""
    origin = Archive(shutil.copytree(large.path, tmp_path / "origin"))
    folder, token = tmp_path / "copy", CancelToken()
    backy.pull(folder, origin.path)
    copy = Archive(folder)
    before = uuids(copy)
    source = tmp_path / "source"
    for night in range(2):
        source.write_bytes(random.Random(night).randbytes(32 << 20))
        origin.backup(source=source, force=True)
    phases = set()

    def progress(state: Progress) -> None:
        phases.add(state.phase)
        token.cancel()

    with pytest.raises(backy.CancelledError):
        copy.pull(origin.path, cancel=token, progress=progress, limit_rate="16M")
    assert phases == {"backup"}
    assert uuids(copy) == before
    assert copy.scrub(check_only=True).is_clean

    def after_one(_state: Progress) -> None:
        if len(copy.revisions) == len(before) + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy.pull(origin.path, progress=after_one, limit_rate="32M")
    assert uuids(copy) == uuids(origin)[1:]
    copy.pull(origin.path)
    assert images(copy) == images(origin)


def test_what_has_arrived_is_not_received_again(large: Made, tmp_path: Path) -> None:
    """After a stop in the middle of the first revision, the report has how much of it was there."""
    folder, (size, some) = tmp_path / "copy", (64 << 20, 16 << 20)

    def progress(state: Progress) -> None:
        if state.bytes_done >= some:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        backy.pull(folder, large.path, revisions="first", limit_rate="32M", progress=progress)
    assert Archive(folder).revisions == []
    report = Archive(folder).pull(large.path, revisions="first")
    (pulled,) = report.pulled
    assert pulled.reused_bytes >= some // 2
    assert pulled.received_bytes + pulled.reused_bytes == size
    assert Archive(folder).scrub().is_clean


def test_a_pull_takes_no_longer_than_its_rate_and_checks_the_space(nightly: Archive, tmp_path: Path) -> None:
    report = backy.pull(tmp_path / "copy", nightly.path, revisions="first", limit_rate=1 << 20, check_space=False)
    (pulled,) = report.pulled
    assert pulled.received_bytes == 32 * BLOCK
    # A burst passes at once.
    assert pulled.seconds > 0.5
    with pytest.raises(ValueError, match="^limit_rate: "):
        Archive(tmp_path / "copy").pull(nightly.path, limit_rate="fast")


def test_the_command_reports_the_same(nightly: Archive, backy_bin: Path, tmp_path: Path) -> None:
    """The JSON of the command is the report's, and can be read as one."""
    one, other = tmp_path / "one", tmp_path / "other"
    plan = printed(backy_bin, other, "pull", nightly.path, "--json", "--dry-run")
    assert backy.pull(one, nightly.path, dry_run=True).to_dict() == plan
    assert PullPlan.from_dict(plan).to_dict() == plan
    report, fields = backy.pull(one, nightly.path).to_dict(), printed(backy_bin, other, "pull", nightly.path, "--json")
    assert PullReport.from_dict(fields).to_dict() == fields
    for pulled in report["pulled"] + fields["pulled"]:
        pulled["seconds"] = 0
    assert report == fields


def test_an_os_path_is_a_folder_whatever_its_name(
    nightly: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A colon in it makes no address of another machine; in text it does."""
    monkeypatch.chdir(tmp_path)
    nightly.path.rename("host:backup")
    report = backy.pull("copy", Path("host:backup"))
    assert report.origin == "host:backup"
    assert Archive("host:backup").push(Path("host:copy")).is_complete
    assert uuids(Archive("copy")) == uuids(Archive("host:copy")) == uuids(Archive("host:backup"))
    for address in ("host:backup", "ssh://", "ssh://-oProxyCommand=x/y", "http://host/x"):
        with pytest.raises(backy.SpecificationError, match="^origin: .*ssh://"):
            Archive("copy").pull(address)
        with pytest.raises(backy.SpecificationError, match="^to: .*ssh://"):
            Archive("copy").push(address)


@pytest.mark.parametrize("wrong", ["", " ", "ssh 'x", [], [""], ["ssh", "a\0b"]])
def test_a_program_that_cannot_be_one_is_refused(wrong: Any, nightly: Archive, tmp_path: Path) -> None:
    with pytest.raises(backy.SpecificationError, match="^ssh: "):
        backy.pull(tmp_path / "copy", "ssh://host/x", ssh=wrong)
    with pytest.raises(backy.SpecificationError, match="^ssh: "):
        nightly.push("ssh://host/x", ssh=wrong)


@pytest.mark.parametrize("wrong", [5, b"ssh", [5], {"ssh": 1}])
def test_a_program_of_another_type_is_refused(wrong: Any, nightly: Archive) -> None:
    with pytest.raises(TypeError, match="^ssh: "):
        nightly.pull("ssh://host/x", ssh=wrong)


@pytest.fixture
def ssh(backy_bin: Path, tmp_path: Path) -> Path:
    """Plays ssh: runs the command on this machine, and prints a line as a host does that greets."""
    program, folder = tmp_path / "ssh", tmp_path / "bin"
    folder.mkdir()
    (folder / "backy").symlink_to(backy_bin)
    program.write_text(
        '#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done\necho "welcome to $2" >&2\nshift 2\n'
        f'PATH="{folder}:$PATH" exec sh -c "$*"\n'
    )
    program.chmod(0o755)
    return program


def test_a_copy_of_another_machine(
    nightly: Archive, ssh: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Pulled and pushed through a pipe: the same revisions, and what the other machine prints is in the log."""
    pulled, pushed = tmp_path / "pulled", tmp_path / "pushed"
    origin = f"ssh://me@host{nightly.path}"
    with caplog.at_level(logging.INFO, "backy"):
        report = backy.pull(pulled, origin, ssh=[str(ssh)], revisions="first")
        assert (report.origin, report.is_complete, len(report.pulled)) == (origin, True, 1)
        assert ("INFO", "welcome to me@host") in [(each.levelname, each.getMessage()) for each in caplog.records]
    copy = Archive(pulled)
    assert len(copy.pull(origin, ssh=str(ssh)).pulled) == 3
    assert as_origin(copy) == as_origin(nightly)
    assert images(copy) == images(nightly)
    plan = nightly.push(f"ssh://host{pushed}", ssh=str(ssh), dry_run=True, revisions=[0, 1])
    assert [wanted.uuid for wanted in plan.pull] == list(reversed(uuids(nightly)[:2]))
    assert not pushed.exists()
    report = nightly.push(f"ssh://host{pushed}", ssh=str(ssh), limit_rate="100M")
    assert isinstance(report, PullReport)
    assert [pulled.uuid for pulled in report.pulled] == list(reversed(uuids(nightly)))
    assert as_origin(Archive(pushed)) == as_origin(nightly)
    assert images(Archive(pushed)) == images(nightly)


def test_the_error_has_what_ssh_printed(nightly: Archive, ssh: Path, tmp_path: Path) -> None:
    """Where nobody answers, where there is no archive, and where ssh itself is not there."""
    program = ["sh", "-c", "echo Permission denied >&2; exit 255"]
    calls: tuple[Callable[..., Any], ...] = (nightly.push, nightly.pull)
    for call in calls:
        with pytest.raises(backy.SourceError, match="^ssh://host/x: .*Permission denied"):
            call("ssh://host/x", ssh=program)
        with pytest.raises(backy.BackyError, match="/no/such/program"):
            call("ssh://host/x", ssh="/no/such/program")
    with pytest.raises(backy.BackyError, match="nowhere"):
        nightly.pull(f"ssh://host{tmp_path}/nowhere", ssh=str(ssh))


@pytest.mark.parametrize("verb", ["pull", "push"])
def test_a_host_that_does_not_answer_is_left(verb: str, nightly: Archive, tmp_path: Path) -> None:
    """By a token, soon; its ssh is ended, too."""
    token, begun = CancelToken(), tmp_path / "begun"
    program = ["sh", "-c", f"echo $$ > {begun}; exec sleep 1000"]

    def stop() -> None:
        deadline = time.monotonic() + 60
        while not begun.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)
        token.cancel()

    thread = threading.Thread(target=stop)
    thread.start()
    began = time.monotonic()
    with pytest.raises(backy.CancelledError):
        getattr(nightly, verb)("ssh://host/x", ssh=program, cancel=token)
    thread.join()
    assert time.monotonic() - began < 30
    process = begun.read_text().strip()
    assert subprocess.run(["kill", "-0", process], capture_output=True, check=False).returncode != 0
