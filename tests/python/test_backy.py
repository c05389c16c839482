"""The `backy` module shows what is in an archive, and says clearly what is wrong with one."""

import hashlib
import json
import shutil
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

import backy
from conftest import CHECKOUT, Made, run

GOLDEN = sorted((CHECKOUT / "tests/golden").glob("format-*"))


def digest(image: bytes, block_bytes: int = 65536) -> str:
    """A revision's digest, computed as the archive's README says."""
    total = hashlib.sha256()
    for offset in range(0, len(image), block_bytes):
        total.update(hashlib.sha256(image[offset : offset + block_bytes]).digest())
    return total.hexdigest()


def manifest(archive: Path) -> Any:
    return json.loads((archive / "manifest.json").read_text())


def test_revisions_are_listed_newest_first(made: Made) -> None:
    revisions = backy.Archive(made.path).revisions
    assert [revision.size for revision in revisions] == [len(source) for source in made.sources]
    assert [revision.digest for revision in revisions] == [digest(source) for source in made.sources]
    for revision, tag in zip(revisions, ("third", "second", "first")):
        assert {"every", tag} <= set(revision.tags)


def test_uuids_tags_and_timestamps_are_those_of_the_manifest(made: Made) -> None:
    stored = manifest(made.path)["revisions"]
    revisions = backy.Archive(made.path).revisions
    assert [revision.uuid for revision in revisions] == [entry["uuid"] for entry in stored]
    assert [revision.tags for revision in revisions] == [tuple(sorted(entry["tags"])) for entry in stored]
    for revision, entry in zip(revisions, stored):
        # Python before 3.11 reads neither the Z nor nanoseconds.
        seconds = datetime.strptime(entry["started"][:19], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=timezone.utc)
        assert revision.timestamp.replace(microsecond=0) == seconds


def test_timestamps_have_zone_utc_and_are_recent(made: Made) -> None:
    for revision in backy.Archive(made.path).revisions:
        assert revision.timestamp.utcoffset() == timedelta(0)
        assert timedelta(0) <= datetime.now(timezone.utc) - revision.timestamp < timedelta(hours=1)


def test_a_revision_cannot_be_changed(made: Made) -> None:
    revision = backy.Archive(made.path).revisions[0]
    for name in ("uuid", "timestamp", "size", "tags", "digest", "anything"):
        with pytest.raises(AttributeError):
            setattr(revision, name, None)


def test_equal_revisions_are_equal_and_work_in_sets(made: Made) -> None:
    archive = backy.Archive(made.path)
    assert archive.revisions == archive.revisions
    assert len({*archive.revisions, *archive.revisions}) == len(made.sources)
    assert archive.revisions[0] != archive.revisions[1]


def test_reprs_name_the_archive(made: Made) -> None:
    archive = backy.Archive(made.path)
    assert repr(archive) == f"backy.Archive({str(made.path)!r})"
    newest = archive.revisions[0]
    assert newest.uuid in repr(newest)
    assert f"{newest.timestamp:%Y-%m-%dT%H:%M:%S}Z" in repr(newest)
    assert f"{newest.size} bytes" in repr(newest)
    assert "every, third" in repr(newest)


def test_an_open_archive_shows_a_later_backup(made: Made, backy_bin: Path, tmp_path: Path) -> None:
    copy = tmp_path / "archive"
    shutil.copytree(made.path, copy)
    archive = backy.Archive(copy)
    before = archive.revisions
    run(backy_bin, copy, "backup", "--tag", "later")
    now = archive.revisions
    assert now[1:] == before
    assert "later" in now[0].tags


def test_a_lost_manifest_is_an_error_that_names_it(made: Made, tmp_path: Path) -> None:
    copy = tmp_path / "archive"
    shutil.copytree(made.path, copy)
    archive = backy.Archive(copy)
    (copy / "manifest.json").unlink()
    with pytest.raises(backy.ArchiveDamagedError, match="manifest.json"):
        archive.revisions  # noqa: B018


@pytest.mark.parametrize("kind", [str, Path])
def test_paths_are_taken_as_text_and_as_path(made: Made, kind: type) -> None:
    archive = backy.Archive(kind(made.path))
    assert archive.path == made.path
    assert isinstance(archive.path, Path)


def test_no_archive_is_a_file_not_found_error_that_names_the_folder(tmp_path: Path) -> None:
    for missing in (tmp_path, tmp_path / "not-there"):
        with pytest.raises(backy.ArchiveNotFoundError, match=str(missing)) as caught:
            backy.Archive(missing)
        assert isinstance(caught.value, backy.BackyError)
        assert isinstance(caught.value, FileNotFoundError)
        assert "\n" not in str(caught.value)


@pytest.mark.damages
def test_a_damaged_manifest_is_an_error_that_names_it(made: Made, tmp_path: Path) -> None:
    copy = tmp_path / "archive"
    shutil.copytree(made.path, copy)
    file = copy / "manifest.json"
    file.write_text(file.read_text().replace('"third"', '"thirD"'))
    with pytest.raises(backy.ArchiveDamagedError, match="manifest.json"):
        backy.Archive(copy)


@pytest.mark.damages
def test_a_newer_format_is_refused_as_unsupported(made: Made, tmp_path: Path) -> None:
    copy = tmp_path / "archive"
    shutil.copytree(made.path, copy)
    file = copy / "manifest.json"
    file.write_text(file.read_text().replace('"format": 1,', '"format": 999,'))
    with pytest.raises(backy.ArchiveUnsupportedError, match="999"):
        backy.Archive(copy)


def test_a_wrong_argument_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        backy.Archive(17)  # type: ignore[arg-type]


def test_threads_may_share_an_archive(made: Made) -> None:
    archive = backy.Archive(made.path)
    expected, seen = archive.revisions, []
    threads = [threading.Thread(target=lambda: seen.append(archive.revisions)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [expected] * len(threads)


def test_the_version_is_that_of_the_workspace() -> None:
    assert f'version = "{backy.__version__}"' in (CHECKOUT / "Cargo.toml").read_text()


def test_there_is_a_golden_archive() -> None:
    assert GOLDEN, "tests/golden/format-1 is missing"


@pytest.mark.parametrize("golden", GOLDEN, ids=[golden.name for golden in GOLDEN])
def test_golden_archives_of_every_format_can_be_read(golden: Path) -> None:
    stored = manifest(golden)["revisions"]
    revisions = backy.Archive(golden).revisions
    assert revisions
    assert len(revisions) == len(stored)
    for revision, entry in zip(revisions, stored):
        assert revision.uuid == entry["uuid"]
        assert revision.size == entry["size_bytes"]
        assert revision.digest == entry["digest"]
        assert revision.tags == tuple(sorted(entry["tags"]))
    # An undo archive has holes on purpose.
    if "undo" not in manifest(golden)["compatible"]:
        newest = (golden / "last.raw").read_bytes()
        assert digest(newest, manifest(golden)["block_size"]) == revisions[0].digest
