"""Archives that others can change are read, and not acted on unless the caller says so."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import backy
from backy import Archive, UntrustedError
from conftest import CHECKOUT, Made, content, skip

STRANGER = 4711
OLD = CHECKOUT / "tests/legacy/scrub-consistent"
ORIGIN = CHECKOUT / "tests/golden/format-1"


def changing(archive: Archive, trust: bool) -> list[Callable[[], object]]:
    """All that changes an archive or runs its hooks."""
    return [
        lambda: archive.backup(force=True),
        lambda: archive.scrub(),
        lambda: archive.maintenance(),
        lambda: archive.rm(2, force=True),
        lambda: archive.tag(0, add=["x"]),
        lambda: archive.drill(0),
        lambda: archive.pull(shutil.copytree(archive.path, archive.path.parent / "origin", dirs_exist_ok=True)),
        lambda: Archive.rebuild(archive.path, force=True, trust=trust),
    ]


def making(archive: Archive, place: Path, trust: bool) -> list[Callable[[], object]]:
    """All that makes an archive in a place. One is restored over a file there."""
    target = place / "target"
    return [
        lambda: Archive.init(place / "new", trust=trust),
        lambda: Archive.import_(OLD, place / "imported", trust=trust),
        lambda: backy.pull(place / "pulled", ORIGIN, trust=trust),
        lambda: Archive(ORIGIN, trust=trust).push(place / "pushed"),
        lambda: archive.restore(target, 1, force=True, undo=place / "undo"),
    ]


def are_refused(calls: list[Callable[[], object]], found: str) -> None:
    for call in calls:
        with pytest.raises(UntrustedError, match=found) as raised:
            call()
        assert isinstance(raised.value, PermissionError)
        assert raised.value.kind == "untrusted"
        assert raised.value.path is not None


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder that everybody can write to, with a file in it."""
    place = tmp_path / "place"
    place.mkdir()
    (place / "target").write_bytes(b"as it was")
    place.chmod(0o777)
    return place


def test_an_archive_that_others_can_change_is_not_acted_on(copy: Made, tmp_path: Path) -> None:
    """Each call that would change the archive raises, and what only reads works."""
    copy.path.chmod(0o702)
    archive = Archive(copy.path)
    before = content(copy.path)
    are_refused(changing(archive, trust=False), "every user may write to it; expected only root")
    assert content(copy.path) == before
    assert "exposed" in [problem.kind for problem in archive.status().health.problems]
    assert not archive.scrub(check_only=True).findings
    assert archive.backup(force=True, dry_run=True).due
    archive.restore(tmp_path / "new.img")
    assert (tmp_path / "new.img").read_bytes() == copy.sources[0]
    with archive.open("1") as image:
        assert image.read() == copy.sources[1]


def test_no_archive_is_made_where_others_can_write(copy: Made, place: Path) -> None:
    """Neither a new one, nor one of what a restore overwrites, which then overwrites nothing."""
    are_refused(making(Archive(copy.path), place, trust=False), "place: not trusted: every user")
    assert [file.name for file in place.iterdir()] == ["target"]
    assert (place / "target").read_bytes() == b"as it was"


def test_trust_is_an_argument(copy: Made, place: Path) -> None:
    """With it, each of those calls works."""
    copy.path.chmod(0o702)
    archive = Archive(copy.path, trust=True)
    for call in changing(archive, trust=True) + making(archive, place, trust=True):
        call()


def test_a_config_of_another_user_runs_nothing(copy: Made, tmp_path: Path) -> None:
    """Neither its hooks nor its text file, until it is trusted."""
    if os.geteuid() != 0:
        skip("only root can give files to another user")
    config, proof, figures = copy.path / "backy.toml", tmp_path / "proof", tmp_path / "figures.prom"
    with config.open("a") as file:
        file.write(f"\n[hooks]\nbefore = '''touch {proof}'''\n[monitoring]\ntextfile = '{figures}'\n")
    os.chown(config, STRANGER, STRANGER)
    found = f"backy.toml: not trusted: it belongs to user {STRANGER}"
    are_refused(changing(Archive(copy.path), trust=False), found)
    assert not proof.exists()
    assert not figures.exists()
    Archive(copy.path, trust=True).backup(force=True)
    assert proof.exists()
    assert figures.exists()


def test_links_of_others_lead_to_no_source_and_no_target(copy: Made, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        skip("only root can give files to another user")
    link = tmp_path / "link"
    (tmp_path / "disk").write_bytes(b"x" * 4096)
    link.symlink_to(tmp_path / "disk")
    os.chown(link, STRANGER, STRANGER, follow_symlinks=False)
    archive = Archive(copy.path)
    found = f"this symbolic link belongs to user {STRANGER}"
    with pytest.raises(backy.SourceError, match=found):
        archive.backup(source=link, force=True)
    with pytest.raises(backy.SourceError, match=found):
        Archive.init(tmp_path / "another", link)
    with pytest.raises(backy.TargetError, match=found):
        archive.restore(link, force=True)
    assert (tmp_path / "disk").read_bytes() == b"x" * 4096
    os.chown(link, 0, 0, follow_symlinks=False)
    archive.backup(source=link, force=True)
