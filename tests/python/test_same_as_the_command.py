"""The command and the module make the same requests: same report, warnings and errors, same archive afterwards."""

from __future__ import annotations

import json
import logging
import re
import shlex
import shutil
import subprocess
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import backy
from backy import Archive
from backy.errors import BackyError, _make
from conftest import Made, flip
from test_reports import OLD

# Two runs differ in how long they take, in what else is on the disk, and in times and the names of new revisions.
DIFFERING = {"seconds", "expected_seconds", "behind_seconds", "overdue", "bytes_per_second", "free_bytes", "full_at"}
TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:[\d.]+)?Z?")
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
AGE = re.compile(r"\b\d+ (?:s|min) (?=old|ago)")


def normal(value: Any) -> Any:
    """The same without what two runs of the same request do not have in common."""
    if isinstance(value, dict):
        return {key: None if key in DIFFERING else normal(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [normal(item) for item in value]
    if isinstance(value, str):
        return AGE.sub("some time ", UUID.sub("UUID", TIME.sub("TIME", value)))
    return value


@dataclass(frozen=True)
class Place:
    """A folder with an archive, its source, and room for targets; the same for the command and for Python."""

    folder: Path

    @property
    def archive(self) -> Path:
        return self.folder / "archive"

    @property
    def source(self) -> Path:
        return self.folder / "source.img"

    @property
    def target(self) -> Path:
        return self.folder / "target"

    @property
    def origin(self) -> Path:
        return self.folder / "origin"

    @property
    def new(self) -> Path:
        return self.folder / "new"

    def open(self) -> Archive:
        return Archive(self.archive)


Prepare = Callable[[Place], object]
PASSES, FAILS = 0, 1


@dataclass(frozen=True)
class Row:
    """A request: the words of the command, the call in Python, and what is done to the archive before."""

    words: str
    call: Callable[[Place], Any]
    prepare: Prepare = lambda _: None
    error: type[BackyError] | None = None
    status: int = PASSES
    of_printed: Callable[[Any], Any] = lambda printed: printed
    # What the command prints as warnings of a report.
    warned_of: Callable[[Any], list[str]] = lambda report: []


def without_archive(place: Place) -> None:
    shutil.rmtree(place.archive)


def config(text: str) -> Prepare:
    """Adds text to backy.toml, in which {0} is the place's folder."""

    def add(place: Place) -> None:
        path = place.archive / "backy.toml"
        path.write_text(path.read_text() + text.format(place.folder))

    return add


def sharing(place: Place) -> None:
    (place.folder / "standard.toml").write_text('max_chain = 7\n[hooks]\nbefore = ["env", "PASSWORD=x"]\n')
    path = place.archive / "backy.toml"
    path.write_text('include = "../standard.toml"\n' + path.read_text())


def without_archive_but_settings(place: Place) -> None:
    sharing(place)
    without_archive(place)


def damage(place: Place) -> None:
    flip(place.archive / "last.raw", 140000)


def without_source(place: Place) -> None:
    place.source.unlink()


def with_target(place: Place) -> None:
    place.target.write_bytes(b"something else" * 1000)


def empty_source(place: Place) -> None:
    place.source.write_bytes(b"")


def qcow2_source(place: Place) -> None:
    without_archive(place)
    place.source.write_bytes(b"QFI\xfb\x00\x00\x00\x03" + bytes(65536))


def confirm(place: Place) -> None:
    """The command prints why nothing expires, which Python has in the report."""
    place.open().maintenance(confirm=True)


def with_origin(place: Place) -> None:
    """The archive becomes the origin of a copy that does not exist yet."""
    shutil.rmtree(place.origin, ignore_errors=True)
    place.archive.rename(place.origin)


def with_copy(place: Place) -> None:
    """The same with a copy that has the second of its revisions."""
    with_origin(place)
    backy.pull(place.archive, place.origin, revisions=1)


def with_target_of_a_push(place: Place) -> None:
    """A copy with the oldest revision."""
    shutil.rmtree(place.folder / "pushed", ignore_errors=True)
    backy.pull(place.folder / "pushed", place.archive, revisions="first")


def with_damaged_origin(place: Place) -> None:
    with_origin(place)
    flip(place.origin / "last.raw", 140000)


def with_other_blocks(place: Place) -> None:
    with_origin(place)
    Archive.init(place.archive, block_size=4096)


def missing(report: Any) -> list[str]:
    """The command's warnings about revisions that it should have pulled."""
    named = [each for each in report["left_out"] if each["requested"]]
    return [f"{report['origin']}: revision {each['uuid']} was not pulled: {each['why']}" for each in named]


def unpinned(place: Place) -> None:
    confirm(place)
    place.open().tag(2, remove=["every", "first"])


def source_inside(place: Place) -> None:
    without_archive(place)
    place.archive.mkdir()
    (place.archive / "source.img").write_bytes(bytes(4096))


def without_revisions(place: Place) -> None:
    without_archive(place)
    Archive.init(place.archive, place.source)


def declared(place: Place) -> None:
    """An archive with another one that is expected and not there yet."""
    another = place.folder / "another"
    shutil.rmtree(another, ignore_errors=True)
    (place.folder / "fleet.toml").write_text(
        f'archives = ["{place.archive}"]\njobs = 1\n'
        f'[groups]\nvg0 = 2\n[[archive]]\npath = "{another}"\nsource = "{place.source}"\n'
    )


# A host that takes the first byte and hangs up.
HANGS_UP = "sh -c 'head -c 1 >/dev/null; exit 1'"
SNAPSHOT = '\n[hooks]\nbefore = "true"\nsnapshot = "{0}/snapshot.img"\n'

ROWS = {
    "init": Row("init {source}", lambda p: Archive.init(p.archive, p.source) and None, without_archive),
    "init-without-a-source": Row("init", lambda p: Archive.init(p.archive) and None, without_archive),
    "init-with-a-block-size": Row(
        "init --block-size 4K {source}",
        lambda p: Archive.init(p.archive, p.source, block_size=4096) and None,
        without_archive,
    ),
    "init-with-a-later-source": Row(
        "init {folder}/later", lambda p: Archive.init(p.archive, p.folder / "later") and None, without_archive
    ),
    "init-with-an-image-in-another-format": Row(
        "init {source}", lambda p: Archive.init(p.archive, p.source) and None, qcow2_source
    ),
    "init-with-a-source-inside": Row(
        "init {archive}/source.img",
        lambda p: Archive.init(p.archive, p.archive / "source.img"),
        source_inside,
        error=backy.SourceError,
    ),
    "init-with-a-folder-as-source": Row(
        "init {folder}",
        lambda p: Archive.init(p.archive, p.folder),
        without_archive,
        error=backy.SourceError,
    ),
    "init-that-includes": Row(
        "init {source} --include {folder}/standard.toml",
        lambda p: Archive.init(p.archive, p.source, include=[p.folder / "standard.toml"]) and None,
        without_archive_but_settings,
    ),
    "init-that-includes-what-is-missing": Row(
        "init {source} --include {folder}/gone.toml",
        lambda p: Archive.init(p.archive, p.source, include=[p.folder / "gone.toml"]),
        without_archive,
        error=backy.ConfigError,
    ),
    "init-where-an-archive-is": Row(
        "init {source}", lambda p: Archive.init(p.archive, p.source), error=backy.ArchiveExistsError
    ),
    "backup": Row("backup", lambda p: p.open().backup()),
    "backup-force": Row("backup --force", lambda p: p.open().backup(force=True)),
    "backup-with-tags": Row("backup -t one -t two", lambda p: p.open().backup(tags=["one", "two"])),
    "backup-with-a-tag-of-the-schedule": Row("backup -t daily", lambda p: p.open().backup(tags=["daily"])),
    "backup-as-a-tag": Row("backup --as daily", lambda p: p.open().backup(as_=["daily"])),
    "backup-when-nothing-is-due": Row(
        "backup", lambda p: p.open().backup(), lambda p: p.open().backup(as_=["daily", "weekly", "monthly"])
    ),
    "backup-with-hooks": Row(
        "backup -f",
        lambda p: p.open().backup(force=True),
        config('\n[hooks]\nbefore = "cp {0}/source.img {0}/snapshot.img"\nsnapshot = "{0}/snapshot.img"\n'),
    ),
    "backup-plan": Row("backup -f --dry-run", lambda p: p.open().backup(force=True, dry_run=True)),
    "backup-plan-when-nothing-is-due": Row(
        "backup --dry-run",
        lambda p: p.open().backup(dry_run=True),
        lambda p: p.open().backup(as_=["daily", "weekly", "monthly"]),
    ),
    "backup-plan-with-a-tag-of-the-schedule": Row(
        "backup -t daily --dry-run", lambda p: p.open().backup(tags=["daily"], dry_run=True)
    ),
    "backup-plan-with-the-snapshot-of-a-hook": Row(
        "backup -f --dry-run", lambda p: p.open().backup(force=True, dry_run=True), config(SNAPSHOT)
    ),
    "backup-plan-without-a-source": Row(
        "backup -f --dry-run",
        lambda p: p.open().backup(force=True, dry_run=True),
        without_source,
        error=backy.SourceError,
    ),
    "backup-without-a-source": Row(
        "backup -f", lambda p: p.open().backup(force=True), without_source, error=backy.SourceError
    ),
    "backup-of-an-empty-source": Row(
        "backup -f", lambda p: p.open().backup(force=True), empty_source, error=backy.SourceError
    ),
    "backup-as-an-unknown-tag": Row(
        "backup --as hourly", lambda p: p.open().backup(as_=["hourly"]), error=backy.SpecificationError
    ),
    "backup-whose-hook-fails": Row(
        "backup -f",
        lambda p: p.open().backup(force=True),
        config('\n[hooks]\nbefore = "false"\n'),
        error=backy.HookError,
    ),
    "backup-with-a-broken-config": Row(
        "backup", lambda p: p.open().backup(), config("\nnonsense\n"), error=backy.ConfigError
    ),
    "backup-of-an-archive-that-others-can-change": Row(
        "backup -f",
        lambda p: p.open().backup(force=True),
        lambda p: p.archive.chmod(0o777),
        error=backy.UntrustedError,
    ),
    "status": Row("status", lambda p: p.open().status()),
    "status-of-some": Row("status 0,2", lambda p: p.open().status([0, 2])),
    "status-without-an-archive": Row(
        "status", lambda p: p.open().status(), without_archive, error=backy.ArchiveNotFoundError
    ),
    "status-of-a-damaged-manifest": Row(
        "status",
        lambda p: p.open().status(),
        lambda p: (p.archive / "manifest.json").write_text("{"),
        error=backy.ArchiveDamagedError,
    ),
    # It has an alarm.
    "check": Row("check {archive}", lambda p: backy.check(p.archive), status=1),
    "check-without-an-archive": Row("check {archive}", lambda p: backy.check(p.archive), without_archive, status=3),
    "check-with-a-fleet-file": Row(
        "check --fleet {folder}/fleet.toml",
        lambda p: backy.check(fleet=p.folder / "fleet.toml"),
        declared,
        status=2,
    ),
    "run": Row("run {archive}", lambda p: backy.run(p.archive)),
    "run-plan": Row("run --dry-run --jobs 2 {archive}", lambda p: backy.run(p.archive, jobs=2, dry_run=True)),
    "run-with-a-fleet-file": Row(
        "run --fleet {folder}/fleet.toml",
        lambda p: backy.run(fleet=p.folder / "fleet.toml"),
        declared,
    ),
    "run-plan-with-a-fleet-file": Row(
        "run --dry-run --fleet {folder}/fleet.toml",
        lambda p: backy.run(fleet=p.folder / "fleet.toml", dry_run=True),
        declared,
    ),
    "run-with-a-broken-fleet-file": Row(
        "run --fleet {folder}/fleet.toml",
        lambda p: backy.run(fleet=p.folder / "fleet.toml"),
        lambda p: (p.folder / "fleet.toml").write_text("nonsense\n"),
        error=backy.ConfigError,
    ),
    "run-with-a-fleet-file-that-names-nothing": Row(
        "run --fleet {folder}/fleet.toml",
        lambda p: backy.run(fleet=p.folder / "fleet.toml"),
        lambda p: (p.folder / "fleet.toml").write_text("jobs = 2\n"),
        error=backy.SpecificationError,
    ),
    "scrub": Row("scrub", lambda p: p.open().scrub()),
    "scrub-with-findings": Row("scrub", lambda p: p.open().scrub(), damage, status=FAILS),
    "scrub-without-changes": Row("scrub -n", lambda p: p.open().scrub(check_only=True), damage, status=FAILS),
    "scrub-one": Row("scrub 1", lambda p: p.open().scrub(1)),
    "scrub-some": Row("scrub first,tag:second", lambda p: p.open().scrub(["first", "tag:second"])),
    "scrub-all-and-one": Row("scrub all,1", lambda p: p.open().scrub(["all", 1])),
    "scrub-a-share": Row("scrub --budget 100%", lambda p: p.open().scrub(budget="100%")),
    "scrub-no-such-revision": Row("scrub 9", lambda p: p.open().scrub(9), error=backy.NoSuchRevisionError),
    "maintenance-plan": Row("maintenance -n -k 1", lambda p: p.open().maintenance(dry_run=True, keep=1), confirm),
    "maintenance": Row("maintenance", lambda p: p.open().maintenance(), confirm),
    "maintenance-keep": Row(
        "maintenance -k 1",
        lambda p: p.open().maintenance(keep=1),
        unpinned,
    ),
    "maintenance-with-a-broken-config": Row(
        "maintenance", lambda p: p.open().maintenance(), config("\nnonsense\n"), error=backy.ConfigError
    ),
    "rm": Row("rm --force 1", lambda p: p.open().rm(1, force=True)),
    "rm-plan": Row("rm -n --force 0,2", lambda p: p.open().rm([0, 2], force=True, dry_run=True)),
    "rm-pinned": Row("rm 1", lambda p: p.open().rm(1), error=backy.SpecificationError),
    "rm-pinned-plan": Row("rm -n 1", lambda p: p.open().rm(1, dry_run=True), error=backy.SpecificationError),
    "rm-all": Row("rm --force all", lambda p: p.open().rm("all", force=True), error=backy.SpecificationError),
    "tags": Row("tag 0", lambda p: p.open().tag(0), of_printed=lambda printed: printed["tags"]),
    "tag": Row(
        "tag 0 +kept -third",
        lambda p: p.open().tag(0, add=["kept"], remove=["third"]),
        of_printed=lambda printed: printed["tags"],
    ),
    "tag-that-is-not-there": Row(
        "tag 0 -first", lambda p: p.open().tag(0, remove=["first"]), error=backy.SpecificationError
    ),
    "tag-added-and-removed": Row(
        "tag 0 +third -third",
        lambda p: p.open().tag(0, add=["third"], remove=["third"]),
        error=backy.SpecificationError,
    ),
    "restore": Row("restore -r first {target}", lambda p: p.open().restore(p.target, "first")),
    "restore-plan": Row(
        "restore --dry-run --force {target}",
        lambda p: p.open().restore(p.target, dry_run=True, force=True),
        with_target,
    ),
    "restore-onto-a-file": Row(
        "restore {target}", lambda p: p.open().restore(p.target), with_target, error=backy.TargetError
    ),
    "restore-no-such-revision": Row(
        "restore -r tag:none {target}",
        lambda p: p.open().restore(p.target, "tag:none"),
        error=backy.NoSuchRevisionError,
    ),
    "restore-what-is-damaged": Row(
        "restore {target}", lambda p: p.open().restore(p.target), damage, error=backy.ArchiveDamagedError
    ),
    "export": Row("export -r 1 {new}", lambda p: p.open().export(p.new, 1)),
    "export-onto-a-file": Row(
        "export {target}", lambda p: p.open().export(p.target), with_target, error=backy.TargetError
    ),
    "drill": Row("drill 1", lambda p: p.open().drill(1)),
    "drill-with-a-command": Row("drill 1 -- true", lambda p: p.open().drill(1, command=["true"])),
    "drill-that-fails": Row("drill 1 -- false", lambda p: p.open().drill(1, command=["false"]), status=FAILS),
    "drill-without-revisions": Row(
        "drill",
        lambda p: p.open().drill(),
        without_revisions,
        error=backy.NoSuchRevisionError,
    ),
    "import": Row(f"import {OLD}", lambda p: Archive.import_(OLD, p.archive), without_archive),
    "import-into-another-archive": Row(
        f"import {OLD}", lambda p: Archive.import_(OLD, p.archive), error=backy.SpecificationError
    ),
    "import-what-is-no-folder": Row(
        "import {source}",
        lambda p: Archive.import_(p.source, p.archive),
        without_archive,
        error=backy.ArchiveAccessError,
    ),
    "import-what-is-no-archive": Row(
        "import {archive}",
        lambda p: Archive.import_(p.archive, p.archive),
        error=backy.SourceError,
    ),
    "pull-into-a-new-copy": Row("pull {origin}", lambda p: backy.pull(p.archive, p.origin), with_origin),
    "pull": Row("pull {origin}", lambda p: p.open().pull(p.origin), with_copy),
    "pull-of-some": Row(
        "pull -r 0,first {origin}",
        lambda p: p.open().pull(p.origin, revisions=[0, "first"]),
        with_copy,
        status=FAILS,
        warned_of=missing,
    ),
    "pull-plan": Row("pull --dry-run {origin}", lambda p: p.open().pull(p.origin, dry_run=True), with_copy),
    "pull-plan-of-a-new-copy": Row(
        "pull --dry-run -r 1 {origin}",
        lambda p: backy.pull(p.archive, p.origin, revisions=1, dry_run=True),
        with_origin,
    ),
    "pull-from-a-damaged-origin": Row(
        "pull {origin}", lambda p: backy.pull(p.archive, p.origin), with_damaged_origin, status=FAILS
    ),
    "pull-without-an-origin": Row(
        "pull {origin}/x", lambda p: p.open().pull(p.origin / "x"), error=backy.ArchiveNotFoundError
    ),
    "pull-from-itself": Row("pull {archive}", lambda p: p.open().pull(p.archive), error=backy.SourceError),
    "pull-of-other-blocks": Row(
        "pull {origin}", lambda p: p.open().pull(p.origin), with_other_blocks, error=backy.SpecificationError
    ),
    "pull-no-such-revision": Row(
        "pull -r 9 {origin}",
        lambda p: p.open().pull(p.origin, revisions=9),
        with_copy,
        error=backy.NoSuchRevisionError,
    ),
    "push": Row("push {folder}/pushed", lambda p: p.open().push(p.folder / "pushed"), with_target_of_a_push),
    "push-plan": Row(
        "push --dry-run -r 1 {folder}/pushed",
        lambda p: p.open().push(str(p.folder / "pushed"), revisions=1, dry_run=True),
        with_target_of_a_push,
    ),
    "push-to-itself": Row("push {archive}", lambda p: p.open().push(p.archive), error=backy.SourceError),
    "push-to-a-host-that-does-not-answer": Row(
        f'push --ssh "{HANGS_UP}" ssh://host/x',
        lambda p: p.open().push("ssh://host/x", ssh=HANGS_UP),
        error=backy.SourceError,
    ),
    "pull-from-a-host-that-does-not-answer": Row(
        f'pull --ssh "{HANGS_UP}" ssh://host/x',
        lambda p: p.open().pull("ssh://host/x", ssh=shlex.split(HANGS_UP)),
        error=backy.SourceError,
    ),
    "rebuild": Row(
        "scrub --rebuild",
        # The command scrubs it as well.
        lambda p: (Archive.rebuild(p.archive), p.open().scrub())[0],
        lambda p: (p.archive / "manifest.json").unlink(),
        of_printed=lambda printed: printed["rebuilt"],
        warned_of=lambda report: report["unknown"],
    ),
    "rebuild-what-is-readable": Row(
        "scrub --rebuild", lambda p: Archive.rebuild(p.archive), error=backy.SpecificationError
    ),
    "config": Row("config", lambda p: p.open().config()),
    "config-that-includes": Row("config", lambda p: p.open().config(), sharing),
    "config-with-mistakes": Row("config", lambda p: p.open().config(), config("\nnonsense\n"), status=FAILS),
    "config-without-the-file": Row(
        "config", lambda p: p.open().config(), lambda p: (p.archive / "backy.toml").unlink(), status=FAILS
    ),
    "config-without-an-archive": Row(
        "config", lambda p: p.open().config(), without_archive, error=backy.ArchiveNotFoundError
    ),
    "find": Row("find 1", lambda p: p.open().find(1)),
    "find-no-such-revision": Row("find 7", lambda p: p.open().find(7), error=backy.NoSuchRevisionError),
}

WITHOUT_JSON = ("init", "find")


@pytest.fixture
def place(made: Made, tmp_path: Path) -> Place:
    return Place(tmp_path)


def laid_out(place: Place, made: Made, row: Row) -> None:
    """Makes the place what the row begins with."""
    shutil.rmtree(place.archive, ignore_errors=True)
    for path in (place.target, place.new):
        path.unlink(missing_ok=True)
    place.source.write_bytes(made.sources[0])
    shutil.copytree(made.path, place.archive)
    toml = place.archive / "backy.toml"
    toml.write_text(toml.read_text().replace(str(made.path.parent / "source.img"), str(place.source)))
    row.prepare(place)


def left(place: Place) -> Any:
    """The archive afterwards."""
    try:
        return normal(place.open().status().to_dict())
    except BackyError as error:
        return type(error)


@dataclass
class Outcome:
    report: Any
    warnings: list[str]
    error: str | None
    archive: Any


def by_command(backy_bin: Path, place: Place, row: Row) -> tuple[Outcome, int]:
    places = {name: getattr(place, name) for name in ("folder", "archive", "source", "target", "origin", "new")}
    verb, *rest = shlex.split(row.words.format(**places))
    json_wanted = [] if verb in WITHOUT_JSON else ["--json"]
    command: list[str | Path] = [backy_bin, "-b", place.archive, verb, *json_wanted, *rest]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    said = done.stderr.splitlines()
    warned = [line.removeprefix("backy: warning: ") for line in said if line.startswith("backy: warning: ")]
    failed = [line.removeprefix("backy: error: ") for line in said if line.startswith("backy: error: ")]
    report: Any = None
    if verb == "find":
        report = done.stdout.strip() or None
    elif verb != "init" and done.stdout:
        report = row.of_printed(json.loads(done.stdout))
    return Outcome(report, warned, failed[0] if failed else None, left(place)), done.returncode


def by_python(place: Place, row: Row, caplog: pytest.LogCaptureFixture) -> tuple[Outcome, BackyError | None]:
    report, failed = None, None
    caplog.clear()
    with warnings.catch_warnings(record=True) as warned, caplog.at_level(logging.WARNING, "backy"):
        warnings.simplefilter("always")
        try:
            report = row.call(place)
        except BackyError as error:
            failed = error
    if isinstance(report, backy.Report):
        report = report.to_dict()
    elif isinstance(report, Path):
        report = str(report)
    logged = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    told = [str(warning.message) for warning in warned] + logged
    return Outcome(report, told, None if failed is None else str(failed), left(place)), failed


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.damages
def test_python_does_what_the_command_does(
    name: str, place: Place, made: Made, backy_bin: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each request, by both, on the same archive in the same place."""
    row = ROWS[name]
    laid_out(place, made, row)
    command, status = by_command(backy_bin, place, row)
    laid_out(place, made, row)
    python, error = by_python(place, row, caplog)
    assert type(error) is (row.error or type(None)), error
    assert command.archive == python.archive
    if row.error is None:
        assert status == row.status, command
        assert normal(command.report) == normal(python.report)
        assert command.warnings == python.warnings + row.warned_of(python.report)
    else:
        assert status == FAILS
        assert command.report is None
        # The command adds what to do.
        assert command.error is not None
        assert command.error.startswith(str(error)), error


def test_an_unknown_kind_of_error_is_the_base_class() -> None:
    """A newer engine may have kinds that this module does not know."""
    made_up: Any = "made-up"
    error = _make(made_up, "some text", None, None, None, None)
    assert type(error) is BackyError
    assert (error.kind, str(error)) == ("error", "some text")
