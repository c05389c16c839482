"""Archives as folders: what `Archive.mount` gives."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import backy
from backy import Archive
from conftest import Made, can_mount, skip


@pytest.fixture
def place(tmp_path: Path) -> Path:
    if not can_mount():
        skip("mounting needs root, FUSE and loop devices")
    place = tmp_path / "mnt"
    place.mkdir()
    return place


def test_a_with_block_mounts_and_unmounts(made: Made, place: Path) -> None:
    """Every revision is a file meanwhile."""
    archive = Archive(made.path)
    with archive.mount(place) as folder:
        assert folder == place
        for number, expected in enumerate(made.sources):
            assert (folder / "by-number" / str(number)).read_bytes() == expected
        with pytest.raises(OSError, match="Read-only"):
            open(folder / "latest", "r+b").close()
    assert list(place.iterdir()) == []


def test_what_is_written_is_thrown_away(made: Made, place: Path) -> None:
    """With writable=True; the archive stays as it is."""
    archive = Archive(made.path)
    with archive.mount(place, writable=True) as folder:
        with open(folder / "latest", "r+b") as image:
            image.write(b"trial")
        assert (folder / "latest").read_bytes()[:5] == b"trial"
    with archive.open() as unchanged:
        assert unchanged.read() == made.sources[0]


def test_the_members_of_a_group_may_read(made: Made, place: Path) -> None:
    """gid= is a name or a number; without it, nobody but the one who mounts may."""
    archive = Archive(made.path)
    for gid, mode in ((None, 0o400), (7, 0o440), ("root", 0o440)):
        with archive.mount(place, gid=gid) as folder:
            found = (folder / "latest").stat()
        assert (found.st_mode & 0o777, found.st_gid) == (mode, 7 if gid == 7 else 0)
    with pytest.raises(ValueError, match="no-such-group"):
        archive.mount(place, gid="no-such-group")


def test_one_that_is_in_use_stays_until_it_is_taken_away(made: Made, place: Path) -> None:
    """MountError is an OSError; lazy=True takes it away at once."""
    mount = Archive(made.path).mount(place)
    file = os.open(place / "latest", os.O_RDONLY)
    try:
        with pytest.raises(backy.MountError, match="in use"):
            mount.unmount()
        assert mount.is_mounted
        mount.unmount(lazy=True)
        assert list(place.iterdir()) == []
    finally:
        os.close(file)
    mount.unmount()
    assert not mount.is_mounted


def test_a_place_that_is_none_is_an_error(made: Made, place: Path) -> None:
    """It names the mountpoint."""
    with pytest.raises(backy.MountError, match="no such folder") as raised:
        Archive(made.path).mount(place / "nowhere")
    assert raised.value.path == place / "nowhere"
