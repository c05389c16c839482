"""The verdict from Python: on one archive, on many, as a file for node_exporter; and what an alarm holds back."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import backy
from backy import Archive
from conftest import Made, printed

BLOCK = 65536


def usual(path: Path, nights: int = 7) -> tuple[Archive, Path]:
    """An archive with backups that each have one changed block of twelve, and its source."""
    source = path / "source.img"
    content = bytearray(random.Random(1).randbytes(12 * BLOCK))
    source.write_bytes(content)
    archive = Archive.init(path / "archive", source=source)
    for night in range(nights):
        content[night * BLOCK] ^= 1
        source.write_bytes(content)
        archive.backup(force=True)
    return archive, source


def test_an_alarm_stops_expiry_until_it_is_confirmed(tmp_path: Path) -> None:
    archive, source = usual(tmp_path)
    assert archive.status().healthy
    source.write_bytes(random.Random(2).randbytes(12 * BLOCK))
    archive.backup(force=True)
    status = archive.status()
    (alarm,), (freeze,), (problem,) = status.alarms, status.frozen, status.health.problems
    assert alarm.revision == freeze.revision == archive.revisions[0].uuid
    assert (alarm.changed_bytes, alarm.usual_bytes, alarm.confirmed) == (12 * BLOCK, BLOCK, None)
    assert (freeze.kind, problem.kind, problem.level) == ("unusual-change", "unusual-change", "warning")
    assert status.change is not None
    assert status.change.share > status.change.limit_share > status.change.usual_share
    assert status.nagios.startswith("BACKY WARNING - revision 0 is unusual")
    held = archive.maintenance(keep=3)
    assert (held.frozen, held.confirmed, len(archive.revisions)) == ((freeze,), (), 8)
    done = archive.maintenance(keep=3, confirm=True)
    assert (done.frozen, done.confirmed, len(archive.revisions)) == ((), (freeze,), 3)
    assert archive.status().healthy
    assert archive.status().alarms[0].confirmed is not None


@pytest.mark.damages
def test_check_is_the_json_of_the_command(tmp_path: Path, backy_bin: Path) -> None:
    """Of a good archive and one that cannot be opened; the figures have both."""
    usual(tmp_path, 2)
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "manifest.json").write_text("{}")
    report = backy.check(tmp_path)
    levels = [(each.archive.name, each.health.level) for each in report.archives]
    assert levels == [("bad", "unknown"), ("archive", "ok")]
    assert report.archives[0].status is None
    assert (report.level, report.healthy) == ("unknown", False)
    by_command = printed(backy_bin, tmp_path, "check", "--json", tmp_path)
    assert by_command["summary"] == report.summary
    assert by_command["archives"][0] == report.archives[0].to_dict()
    assert report.nagios.startswith("BACKY UNKNOWN - 2 archives: 1 ok, 1 unknown; ")
    assert f'backy_status{{archive="{bad}"}} 3\n' in report.prometheus
    (tmp_path / "an empty one").mkdir()
    by_pattern = backy.check(tmp_path / "a*", tmp_path / "no*")
    found = [(each.archive.name, each.health.level) for each in by_pattern.archives]
    assert found == [("an empty one", "unknown"), ("no*", "unknown"), ("archive", "ok")]
    with pytest.raises(TypeError):
        backy.check(5)  # type: ignore[arg-type]


def test_the_textfile_is_written_by_what_changes_the_archive(tmp_path: Path) -> None:
    """Also when nothing was due, and when it failed."""
    archive, source = usual(tmp_path, 2)
    textfile = tmp_path / "node.prom"
    with (archive.path / "backy.toml").open("a") as config:
        config.write(f'[monitoring]\ntextfile = "{textfile}"\n')
    for call in (
        archive.backup,
        lambda: archive.maintenance(keep=9),
        archive.scrub,
        lambda: archive.tag(0, ["mine"]),
        archive.drill,
        lambda: archive.rm(1),
    ):
        textfile.unlink(missing_ok=True)
        call()
        assert f'backy_status{{archive="{archive.path}"}} 0\n' in textfile.read_text()
    textfile.unlink()
    archive.backup(dry_run=True)
    archive.status()
    assert not textfile.exists()
    source.unlink()
    with pytest.raises(backy.BackyError):
        archive.backup(force=True)
    assert f'backy_status{{archive="{archive.path}"}} 1\n' in textfile.read_text()
    (problem,) = archive.status().health.problems
    assert problem.kind == "failed"


def test_a_copy_has_an_origin(made: Made, tmp_path: Path) -> None:
    copy = Archive.init(tmp_path / "copy", origin=str(made.path))
    status = copy.status()
    assert status.source is None
    assert status.origin is not None
    assert (status.origin.url, status.origin.last_pull) == (str(made.path), None)
    assert status.origin.interval_seconds == 86400
    assert [problem.kind for problem in status.health.problems] == ["no-backup"]
    with pytest.raises(backy.ConfigError, match="is a copy of"):
        copy.backup()
    plan = backy.run(copy.path, dry_run=True)
    assert [job.operation for job in plan.jobs] == ["pull"]
    with pytest.raises(ValueError, match="ssh://HOST/PATH"):
        Archive.init(tmp_path / "other", origin="host:/srv/a")
    with pytest.raises(TypeError, match="^origin: "):
        Archive.init(tmp_path / "other", origin=made.path)  # type: ignore[arg-type]
    assert Archive(made.path).status().origin is None
