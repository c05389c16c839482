"""Archives as folders: what `Archive.mount` gives."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

import backy
from backy import Archive
from conftest import Made


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


def test_writes_to_a_mount_are_discarded(made: Made, place: Path) -> None:
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


def test_a_mount_that_has_ended_cannot_be_entered(made: Made, place: Path) -> None:
    """However it ended: what is in its place is the host's folder, which nobody must take for backups."""
    archive = Archive(made.path)
    mount = archive.mount(place)
    with mount:
        pass
    by_hand = archive.mount(place)
    subprocess.run(["umount", place], check=True)
    lazily = archive.mount(place)
    lazily.unmount(lazy=True)
    for ended in (mount, by_hand, lazily):
        with pytest.raises(ValueError, match="not mounted any more"), ended:
            pass
        assert not ended.is_mounted
        ended.unmount()


def test_a_mount_is_in_one_with_block_at_a_time(made: Made, place: Path) -> None:
    """The end of the inner one would take it away from the outer. After one that cannot unmount, another may follow."""
    mount = Archive(made.path).mount(place)
    with mount as folder:
        with pytest.raises(ValueError, match="'with' block already"), mount:
            pass
        assert (folder / "latest").exists()
    assert not mount.is_mounted
    mount = Archive(made.path).mount(place)
    file = os.open(place / "latest", os.O_RDONLY)
    with pytest.raises(backy.MountError, match="in use"), mount:
        pass
    os.close(file)
    with mount as folder:
        assert (folder / "latest").exists()


def test_memory_stays_when_mounting_again_and_again(made: Made, place: Path) -> None:
    """Nor does a file or a thread remain."""

    def resident_kib() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))

    archive, found = Archive(made.path), []
    for _ in range(4):
        for _ in range(40):
            with archive.mount(place) as folder:
                (folder / "latest").read_bytes()
        found.append((resident_kib(), len(os.listdir("/proc/self/fd"))))
    assert found[-1][0] - found[0][0] < 8000, found
    assert found[-1][1] == found[0][1], found


def test_a_mount_of_a_killed_process_is_unmounted(made: Made, place: Path) -> None:
    """Also when a file in it is still open; the same place can be used at once."""
    program = f"""
import backy, os
mount = backy.Archive({str(made.path)!r}).mount({str(place)!r})
print(flush=True)
os.read(0, 1)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        file = os.open(place / "latest", os.O_RDONLY)
        process.kill()
    try:
        with pytest.raises(OSError, match="not connected"):
            os.listdir(place)
        with Archive(made.path).mount(place) as folder:
            assert (folder / "latest").read_bytes() == made.sources[0]
    finally:
        # Nobody is there to take note of it.
        with contextlib.suppress(OSError):
            os.close(file)


@pytest.mark.parametrize(
    ("kind", "user", "advice"),
    [
        ("fuse.other", 0, "a file system of type fuse.other is here"),
        ("fuse.backy", 65534, "an archive that user 65534 has mounted is here"),
    ],
)
def test_a_dead_mount_of_somebody_else_is_left_alone(
    made: Made, place: Path, backy_bin: Path, kind: str, user: int, advice: str
) -> None:
    """By the module and by the command; the message says what to do."""
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id={user},group_id={user},allow_other".encode()
    mount = ctypes.CDLL(None, use_errno=True).mount
    assert mount(b"somebody", os.fsencode(place), kind.encode(), 0, options) == 0, os.strerror(ctypes.get_errno())
    os.close(device)
    try:
        with pytest.raises(backy.MountError, match=f"{advice}.*umount -l"):
            Archive(made.path).mount(place)
        command: list[str | Path] = [backy_bin, "-b", made.path, "mount", place]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 1
        assert advice in done.stderr
        assert kind in Path("/proc/self/mountinfo").read_text()
    finally:
        subprocess.run(["umount", "-l", place], check=True)
