"""What a method reports is what the command prints with --json, and its properties say the same."""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import backy
from backy import Archive
from conftest import CHECKOUT, Made, flip, printed

# What depends on the rest of the machine: two calls one after the other need not find the same.
ELSEWHERE = {"free_bytes", "full_at"}
# What two runs of the same operation do not have in common: times, and the names of what is made.
VARYING = {"seconds", "bytes_per_second", "started", "finished", "at", "oldest", "uuid", "revision"}
OLD = CHECKOUT / "tests/legacy/scrub-consistent"

Call = Callable[[Archive], Any]


def masked(value: Any, mask: set[str]) -> Any:
    """The same with the type in place of what varies, and without the age of what was just made."""
    if isinstance(value, dict):
        hidden = mask | ELSEWHERE
        return {
            key: type(inner).__name__ if key in hidden and not isinstance(inner, dict) else masked(inner, mask)
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [masked(inner, mask) for inner in value]
    return re.sub(r"\b\d+ s old\b", "just made", value) if isinstance(value, str) else value


CASES: dict[str, tuple[Call, list[str], set[str]]] = {
    "status": (lambda a: a.status(), ["status"], {"checked"}),
    "status-of-some": (lambda a: a.status("1..2"), ["status", "1..2"], {"checked"}),
    "backup": (lambda a: a.backup(tags=["new"]), ["backup", "-t", "new"], VARYING),
    "backup-that-is-not-due": (lambda a: a.backup(), ["backup"], set()),
    "backup-plan": (lambda a: a.backup(force=True, dry_run=True), ["backup", "-f", "--dry-run"], set()),
    "restore-plan": (
        lambda a: a.restore(a.path.parent / "target", "tag:first", dry_run=True, force=True),
        ["restore", "-r", "tag:first", "--dry-run", "--force", "TARGET"],
        {"seconds"},
    ),
    "restore-with-undo": (
        lambda a: a.restore(a.path.parent / "target", 2, force=True, undo=a.path.parent / "undo"),
        ["restore", "-r", "2", "--force", "--undo", "UNDO", "TARGET"],
        {"seconds", "revision", "saved_bytes"},
    ),
    "drill": (
        lambda a: a.drill(1, command=["cmp", "-n", "100", "{}", "{}"]),
        ["drill", "-r", "1", "--", "cmp", "-n", "100", "{}", "{}"],
        VARYING,
    ),
    "export": (lambda a: a.export(a.path.parent / "new.qcow2", 1), ["export", "-r", "1", "NEW"], {"seconds"}),
    "export-rbd-diff": (
        lambda a: a.export_rbd_diff(a.path.parent / "new.qcow2", 1, since=2),
        ["export", "--rbd-diff", "-r", "1", "--from", "2", "NEW"],
        {"seconds"},
    ),
    "maintenance": (lambda a: a.maintenance(keep=1), ["maintenance", "-k", "1"], {"seconds"}),
    "maintenance-plan": (
        lambda a: a.maintenance(keep=1, dry_run=True),
        ["maintenance", "-k", "1", "-n"],
        set(),
    ),
    "rm": (lambda a: a.rm("1", force=True), ["rm", "--force", "1"], {"seconds"}),
    "rm-of-the-newest": (lambda a: a.rm(0, force=True), ["rm", "--force", "0"], {"seconds"}),
    "rm-plan": (lambda a: a.rm(["1"], force=True, dry_run=True), ["rm", "--force", "-n", "1"], set()),
    "scrub": (lambda a: a.scrub(), ["scrub"], {"seconds", "oldest"}),
    "scrub-n": (lambda a: a.scrub(check_only=True), ["scrub", "-n"], {"seconds"}),
}


@pytest.mark.parametrize(
    ("name", "damaged"),
    [(name, False) for name in CASES]
    # These are an error then, without a report.
    + [(name, True) for name in CASES if not name.startswith(("restore", "export"))],
)
@pytest.mark.damages
def test_to_dict_is_the_json_of_the_command(
    name: str, damaged: bool, made: Made, backy_bin: Path, tmp_path: Path
) -> None:
    """Each operation, by both, on the same archive in the same place, also with a block that cannot be read."""
    call, arguments, mask = CASES[name]
    archive, target = tmp_path / "archive", tmp_path / "target"
    places = {"TARGET": target, "UNDO": tmp_path / "undo", "NEW": tmp_path / "new.qcow2"}
    results = []
    for by_python in (True, False):
        for path in (archive, places["UNDO"]):
            shutil.rmtree(path, ignore_errors=True)
        places["NEW"].unlink(missing_ok=True)
        shutil.copytree(made.path, archive)
        target.write_bytes(made.sources[0])
        if damaged:
            flip(archive / "last.raw", 140000)
            # Both tell when it was changed.
            os.utime(archive / "last.raw", (1_800_000_000, 1_800_000_000))
        if by_python:
            report = call(Archive(archive))
            results.append(None if report is None else report.to_dict())
        else:
            words = [arguments[0], "--json", *(str(places.get(word, word)) for word in arguments[1:])]
            results.append(printed(backy_bin, archive, *words))
    assert masked(results[0], mask) == masked(results[1], mask)


def test_an_import_reports_the_json_of_the_command(backy_bin: Path, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    report = Archive.import_(OLD, one)
    assert report.to_dict() == printed(backy_bin, other, "import", "--json", OLD)
    assert report.is_complete
    assert [revision.uuid for revision in report.imported] == [r.uuid for r in reversed(Archive(one).revisions)]
    again = Archive.import_(OLD, one)
    assert again.to_dict() == printed(backy_bin, other, "import", "--json", OLD)
    assert again.present == report.imported


def test_a_rebuild_reports_the_json_of_the_command(copy: Made, backy_bin: Path) -> None:
    (copy.path / "manifest.json").unlink()
    report = Archive.rebuild(copy.path)
    (copy.path / "manifest.json").unlink()
    assert report.to_dict() == printed(backy_bin, copy.path, "scrub", "--rebuild", "--json")["rebuilt"]
    assert list(report.revisions) == [revision.uuid for revision in Archive(copy.path).revisions]
    with pytest.raises(backy.SpecificationError, match="is readable"):
        Archive.rebuild(copy.path)
    assert Archive.rebuild(copy.path, force=True).revisions == report.revisions


def plain(value: Any) -> Any:
    """What a property shows, as --json has it."""
    if isinstance(value, backy.Report):
        return value.to_dict()
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


@pytest.mark.damages
def test_properties_are_the_values_of_to_dict(copy: Made) -> None:
    """Of every report and every report in it; and no field is without a property."""
    archive = Archive(copy.path)
    archive.drill(0)
    flip(copy.path / "last.raw", 140000)
    found = archive.scrub()
    assert found.findings
    archive.restore(copy.path.parent / "target", 1, keep_going=True)
    fresh = Archive.init(copy.path.parent / "fresh", copy.path.parent / "target")
    gone = copy.path.parent / "gone"
    reports: list[Any] = [
        found,
        backy.run(fresh.path, gone, dry_run=True),
        backy.run(fresh.path, gone),
        backy.run(fresh.path, dry_run=True),
        archive.status(),
        archive.config(),
        backy.check(copy.path),
        archive.maintenance(keep=1, dry_run=True),
        archive.rm("0,1", force=True, dry_run=True),
        archive.backup(force=True),
        archive.rm("1", force=True),
        archive.restore(copy.path.parent / "target", 1, force=True, undo=copy.path.parent / "undo"),
        archive.export(copy.path.parent / "x.qcow2"),
        archive.export_rbd_diff(copy.path.parent / "x.diff", since=1),
        Archive.init(copy.path.parent / "copy", origin=str(copy.path)).status(),
        Archive.import_(OLD, copy.path.parent / "imported"),
        backy.pull(copy.path.parent / "pulled", copy.path, revisions="latest", dry_run=True),
        backy.pull(copy.path.parent / "pulled", copy.path, revisions="latest"),
        backy.pull(copy.path.parent / "pulled", copy.path),
    ]
    seen = set()
    while reports:
        report = reports.pop()
        seen.add(type(report))
        for field, expected in report.to_dict().items():
            if isinstance(report, backy.Revision) and not hasattr(report, field):
                # As manifest.json has it; the properties are those of old.
                continue
            shown = getattr(report, field)
            if isinstance(shown, datetime):
                assert shown.utcoffset() == timedelta(0)
                assert expected.startswith(f"{shown:%Y-%m-%dT%H:%M:%S}")
                continue
            assert plain(shown) == expected, (type(report), field)
            items = shown if isinstance(shown, tuple) else [shown]
            reports += [item for item in items if isinstance(item, backy.Report)]
    never = {backy.BackupPlan, backy.RebuildReport, backy.InProgress, backy.Skipped, backy.Revision}
    # Those of an archive with an alarm are in test_verdict.py.
    never |= {backy.Alarm, backy.Change, backy.Estimate, backy.Unreported}
    # And what a source reports in test_source.py.
    never |= {backy.Hints, backy.Bookmark}
    # And what a restore would overwrite in test_times.py.
    never |= {backy.TargetLook, backy.TargetContent}
    classes = {value for value in vars(backy).values() if inspect.isclass(value)}
    classes = {value for value in classes if issubclass(value, backy.Report)}
    assert classes - seen - never == {backy.Report}


def test_reports_cannot_be_changed_and_compare_by_value(made: Made) -> None:
    archive = Archive(made.path)
    one, other = archive.status("0"), archive.status("0")
    assert one.revisions[0] == other.revisions[0]
    assert hash(one.revisions[0]) == hash(other.revisions[0])
    assert one.revisions[0] != archive.status("1").revisions[0]
    # They say when they were made.
    assert one != other
    assert one != one.to_dict()
    with pytest.raises(AttributeError):
        one.archive = Path("/")  # type: ignore[misc]
    with pytest.raises(TypeError):
        backy.Report()
    for report in (one, one.revisions[0], one.health, one.coverage):
        assert repr(report).startswith(f"<backy.{type(report).__name__} ")


def test_a_step_has_its_revisions(copy: Made) -> None:
    archive = Archive(copy.path)
    newest, middle, oldest = (revision.uuid for revision in archive.revisions)
    (roll_back,) = archive.rm("0", force=True, dry_run=True).steps
    assert (roll_back.step, roll_back.revision, roll_back.to) == ("roll-back", newest, middle)
    assert roll_back.revisions is None
    (removal,) = archive.rm("2", force=True, dry_run=True).steps
    assert (removal.step, removal.revisions, removal.into) == ("remove", (oldest,), None)
    (merge_step,) = archive.rm("1", force=True, dry_run=True).steps
    assert (merge_step.step, merge_step.revisions, merge_step.into) == ("merge", (middle,), oldest)


def test_everything_is_documented() -> None:
    """Every class, method and property that can be had has a docstring."""
    for name in backy.__all__:
        value = getattr(backy, name)
        assert getattr(value, "__doc__", None), name
        if not inspect.isclass(value):
            continue
        for member, what in vars(value).items():
            public = not member.startswith("_") and (callable(what) or hasattr(what, "__get__"))
            assert not public or what.__doc__, f"{name}.{member}"


def test_json_of_a_status_is_as_documented(made: Made) -> None:
    status = Archive(made.path).status()
    assert json.loads(json.dumps(status.to_dict())) == status.to_dict()
    assert status.schema == 1
    assert status.healthy == (status.health.level == "ok")


def test_a_drill_keeps_no_arguments(made: Made, tmp_path: Path) -> None:
    """Neither of a command nor of a callable, whatever they think of the revision."""
    archive = Archive(shutil.copytree(made.path, tmp_path / "archive"))
    secret = "hunter2secret"
    look = partial(lambda path, password: False, password=secret)
    for command, program in ((["false", secret], "false"), (["true", secret], "true"), (look, "partial")):
        # Of one revision: a drill that failed is shown until the same revision passes.
        report = archive.drill("0", command=command)
        assert report.command == program
        assert archive.status().drill == report
        told = report.message + (archive.path / "manifest.json").read_text()
        assert secret not in told + (archive.path / "history.jsonl").read_text()
