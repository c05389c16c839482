"""Reports from JSON, and what they look like in Python: from_dict, match, repr."""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import backy
import every
from backy import Archive, Report
from conftest import Made, printed

MOST = 2**64 - 1


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    return every.instances(tmp_path_factory.mktemp("every"))


def test_from_dict_is_the_inverse_of_to_dict(reports: dict[str, list[Any]]) -> None:
    """For every class; also through the text of JSON, and with fields that only a newer version has."""
    for name, found in reports.items():
        kind: Any = every.classes()[name]
        for report in found:
            fields = report.to_dict()
            for given in (fields, json.loads(json.dumps(fields)), {"newer": {"a": [1, None]}, **fields}):
                again: Any = kind.from_dict(given)
                assert type(again) is kind
                for name_of in again.__match_args__:
                    assert getattr(again, name_of) == getattr(report, name_of) or name_of in ("number", "damaged")
                if "newer" not in given:
                    assert again == report
                    assert again.to_dict() == fields
            assert report.to_dict() == fields


def test_reports_are_read_from_the_json_of_the_command(made: Made, backy_bin: Path, tmp_path: Path) -> None:
    target, new = tmp_path / "target", tmp_path / "new"
    archive = tmp_path / "archive"
    Archive.import_(every.OLD, archive)
    commands: list[tuple[type[Report], tuple[str | Path, ...]]] = [
        (backy.Status, ("status", "--json")),
        (backy.ConfigReport, ("config", "--json")),
        (backy.HostReport, ("check", "--json", made.path)),
        (backy.FleetPlan, ("run", "--json", "--dry-run", made.path)),
        (backy.FleetReport, ("run", "--json", tmp_path)),
        (backy.BackupPlan, ("backup", "--json", "--dry-run", "-f")),
        (backy.RestoreReport, ("restore", "--json", target)),
        (backy.ScrubReport, ("scrub", "--json", "-n")),
        (backy.MaintenancePlan, ("maintenance", "--json", "-n", "-k", "1")),
        (backy.ExportReport, ("export", "--json", new)),
        (backy.RbdDiffReport, ("export", "--rbd-diff", "--json", tmp_path / "diff")),
    ]
    for kind, command in commands:
        fields = printed(backy_bin, made.path, *command)
        report = kind.from_dict(fields)
        assert report.to_dict() == fields, command
    drilled = printed(backy_bin, archive, "drill", "--json")
    assert Archive(archive).status().drill == backy.DrillReport.from_dict(drilled)
    fields = printed(backy_bin, archive, "rm", "--json", "--force", "1")
    assert backy.MaintenanceReport.from_dict(fields).to_dict() == fields


WRONG: list[tuple[type[Report], dict[str, Any], str]] = [
    (backy.Extent, {"offset": 0}, "Extent.from_dict: missing field `len`"),
    (backy.Extent, {"offset": "a", "len": 1}, "Extent.from_dict: offset: invalid type"),
    (backy.Extent, {"offset": -1, "len": 1}, "Extent.from_dict: offset: invalid value"),
    (backy.Extent, {"offset": 2**64, "len": 1}, "Extent.from_dict: offset: "),
    (backy.Extent, {"offset": 1.5, "len": 1}, "Extent.from_dict: offset: invalid type"),
    (backy.Extent, {"offset": True, "len": 1}, "Extent.from_dict: offset: invalid type"),
    (backy.Extent, {"offset": 0, "len": 1, "x": object()}, "Extent.from_dict: x: found object"),
    (backy.Extent, {"offset": 0, "len": 1, "x": [0, {"y": float("nan")}]}, r"Extent.from_dict: x\[1\].y: found NaN"),
    (backy.Extent, {"offset": 0, "len": 1, "x": {1: 2}}, "Extent.from_dict: x: found a key that is int"),
    (backy.Extent, {"offset": 0, "len": 1, "x": "\ud800"}, "Extent.from_dict: x: the text cannot be written as UTF-8"),
    (backy.Problem, {"kind": "No Kind", "level": "ok", "message": "", "advice": ""}, "Problem.from_dict: kind: found"),
    (backy.Problem, {"kind": "space", "level": "fine", "message": "", "advice": ""}, "Problem.from_dict: level: "),
    (backy.RebuildReport, {"revisions": ["no uuid"], "unknown": []}, r"RebuildReport.from_dict: revisions\[0\]: "),
    (backy.Coverage, {"oldest": "yesterday", "verified_share": 1.0}, "Coverage.from_dict: oldest: "),
]


@pytest.mark.parametrize(("kind", "fields", "why"), WRONG)
def test_a_malformed_report_is_refused_by_the_name_of_the_field(
    kind: type[Report], fields: dict[str, Any], why: str
) -> None:
    with pytest.raises(backy.SpecificationError, match=why):
        kind.from_dict(fields)


def test_a_field_deep_in_a_report_is_named(made: Made) -> None:
    fields = Archive(made.path).status().to_dict()
    fields["revisions"][1]["tags"] = ["fine", 5]
    with pytest.raises(ValueError, match=r"Status.from_dict: revisions\[1\].tags\[1\]: invalid type"):
        backy.Status.from_dict(fields)


def test_no_field_can_be_left_out_that_a_report_needs(reports: dict[str, list[Any]]) -> None:
    """What is not refused is None or empty then: never made up."""
    for name, found in reports.items():
        fields = found[0].to_dict()
        for field in fields:
            rest = {key: value for key, value in fields.items() if key != field}
            report = None
            with contextlib.suppress(backy.SpecificationError):
                report = every.classes()[name].from_dict(rest)
            if report is None:
                with pytest.raises(backy.SpecificationError, match=f"`{field}`"):
                    every.classes()[name].from_dict(rest)
            else:
                assert report.to_dict().get(field) in (None, [], {}, {"bad_blocks": []}), (name, field)


def test_other_types_than_dicts_and_reports_are_type_errors() -> None:
    wrong: list[Any] = [[], None, "{}", 5]
    for given in wrong:
        with pytest.raises(TypeError, match="fields: found"):
            backy.Status.from_dict(given)
    with pytest.raises(TypeError, match="backy.Report is no report"):
        Report.from_dict({})
    deep: Any = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(ValueError, match="nested too deep"):
        backy.Extent.from_dict({"offset": 0, "len": 1, "x": deep})


def test_a_kind_of_problem_that_a_newer_version_has_is_kept() -> None:
    fields = {"kind": "from-the-future", "level": "warning", "message": "m", "advice": "a"}
    problem = backy.Problem.from_dict(fields)
    assert problem.kind == "from-the-future"  # type: ignore[comparison-overlap]
    assert problem.to_dict() == fields


def extreme(value: Any) -> Any:
    """The same with the largest numbers."""
    if isinstance(value, dict):
        return {key: extreme(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [extreme(inner) for inner in value]
    return MOST if isinstance(value, int) and not isinstance(value, bool) else value


def test_no_number_makes_a_report_panic(reports: dict[str, list[Any]]) -> None:
    """A report with the largest numbers everywhere is refused or can be looked at, in every property."""
    tried = 0
    for name, found in reports.items():
        for fields in (extreme(found[0].to_dict()), *one_by_one(found[0].to_dict())):
            try:
                report = every.classes()[name].from_dict(fields)
            except backy.SpecificationError:
                continue
            tried += 1
            repr(report)
            for property_name in dir(report):
                getattr(report, property_name)
    assert tried > 50


def one_by_one(fields: dict[str, Any]) -> list[dict[str, Any]]:
    """One field at a time with the largest numbers."""
    changed = []
    for field, value in fields.items():
        given = copy.deepcopy(fields)
        given[field] = extreme(value)
        changed.append(given)
        if isinstance(value, int):
            changed.append({**given, field: 2**63 - 1})
    return changed


def test_match_args_are_the_properties_in_their_order(reports: dict[str, list[Any]]) -> None:
    assert backy.Extent.__match_args__ == ("offset", "len")
    assert backy.Progress.__match_args__ == ("phase", "bytes_done", "bytes_total")
    aliases = {"Revision": {"timestamp", "size"}, "RevisionStatus": {"timestamp", "size"}}
    for name, found in reports.items():
        kind = type(found[0])
        properties = {
            member
            for member, what in vars(kind).items()
            if not member.startswith("_") and not callable(what) and hasattr(what, "__get__")
        }
        properties -= {"from_dict"}
        assert set(kind.__match_args__) == properties - aliases.get(name, set()), name
        assert len(set(kind.__match_args__)) == len(kind.__match_args__)
        fields = [field for field in found[0].to_dict() if field in kind.__match_args__]
        assert fields, name


MATCHED = """
def told(report):
    match report:
        case backy.Health("ok", summary):
            return f"fine: {summary}"
        case backy.Health(level="critical", problems=(backy.Problem(kind), *_)):
            return f"bad: {kind}"
        case backy.Extent(offset, length):
            return offset + length
"""


def test_a_match_statement_takes_reports_apart(reports: dict[str, list[Any]]) -> None:
    if sys.version_info < (3, 10):
        # The statement is newer than the oldest Python that backy works with.
        pytest.skip("match needs Python 3.10")
    names: dict[str, Any] = {"backy": backy}
    exec(MATCHED, names)
    told = names["told"]
    health = reports["Status"][0].health
    assert health.level == "critical"
    assert told(health) == f"bad: {health.problems[0].kind}"
    assert told(backy.Health.from_dict({"level": "ok", "summary": "all", "problems": []})) == "fine: all"
    assert told(backy.Extent.from_dict({"offset": 5, "len": 7})) == 12
    assert told(backy.BlockRange.from_dict({"first": 5, "count": 7})) is None


def test_reprs_have_values_as_python_writes_them(made: Made) -> None:
    extent = backy.Extent.from_dict({"offset": 5, "len": 7})
    assert repr(extent) == "<backy.Extent offset=5 len=7>"
    plan = Archive(made.path).backup(dry_run=True, force=True)
    assert repr(plan).startswith("<backy.BackupPlan due=True tags=() room=<backy.Estimate expected_bytes=")
    assert "next_due=None next_tag=None>" in repr(plan)
    status = Archive(made.path).status()
    shown = repr(status)
    assert f"archive={made.path!r} " in shown
    assert "in_progress=None " in shown
    assert f"health=<backy.Health level={status.health.level!r} ...> healthy={status.healthy} " in shown
    assert "revisions=<3 backy.RevisionStatus> " in shown
    assert f"checked={status.checked!r} " in shown
    assert isinstance(status.checked, datetime)
    assert "prometheus=" not in shown
    for word in ("true", "false", "null"):
        assert f"={word}" not in shown
    assert "\n" not in shown
    long = backy.Skipped.from_dict({"what": "w", "why": "x" * 5000})
    assert len(repr(long)) < 300


def test_every_repr_is_one_short_line(reports: dict[str, list[Any]]) -> None:
    for name, found in reports.items():
        for report in found:
            assert repr(report).startswith(f"<backy.{name} ")
            assert repr(report).endswith(">")
            assert "\n" not in repr(report)
            assert len(repr(report)) < 4000
            assert "=true" not in repr(report)
            assert "=null" not in repr(report)


def test_both_views_of_a_revision_have_the_same_names(made: Made) -> None:
    """One function works with either; what both have is the same."""
    names = [set(backy.Revision.__match_args__), set(backy.RevisionStatus.__match_args__)]
    assert names[0] == names[1]
    archive = Archive(made.path)
    for revision, status in zip(archive.revisions, archive.status().revisions):
        for name in (*sorted(names[0]), "timestamp", "size"):
            assert getattr(revision, name) == getattr(status, name), name
        assert revision.timestamp == revision.started
        assert revision.size == revision.size_bytes
        assert archive.find(status) == archive.find(revision)
    assert archive.select("1")[0].number == 1


@pytest.mark.damages
def test_a_revision_knows_its_unreadable_bytes(made: Made, tmp_path: Path) -> None:
    """As status does: its own bad blocks, those of newer ones that it reads through to, and a file that is gone."""
    archive = Archive(shutil.copytree(made.path, tmp_path / "archive"))
    with (archive.path / "last.raw").open("r+b") as image:
        image.seek(140000)
        image.write(b"broken")
    archive.scrub()
    revisions, statuses = archive.revisions, archive.status().revisions
    assert [revision.damaged for revision in revisions] == [status.damaged for status in statuses]
    assert [revision.bad_blocks for revision in revisions] == [status.bad_blocks for status in statuses]
    assert revisions[0].damaged
    assert revisions[2].damaged
    assert not revisions[2].bad_blocks
    (archive.path / f"{revisions[1].uuid}.qcow2").unlink()
    gone = archive.revisions[1]
    assert gone.damaged is not None
    assert sum(extent.len for extent in gone.damaged) == gone.size_bytes
    assert backy.Revision.from_dict(gone.to_dict()).damaged is None
    assert backy.Revision.from_dict(gone.to_dict()).number is None
    assert timedelta(0) <= gone.finished - gone.started
