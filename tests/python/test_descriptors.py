"""How many files the module has open, and what it does when it may not open another: few, and an OSError."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

import backy
from backy import Archive
from conftest import can_mount, skip

BLOCK = 4096
REVISIONS = 60
"""Each has two files."""


@pytest.fixture(scope="module")
def long_chain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[bytes]]:
    """An archive of many revisions, and what the source was at each backup, newest first."""
    folder = tmp_path_factory.mktemp("long")
    source = folder / "source.img"
    content = bytearray(os.urandom(20 * BLOCK))
    source.write_bytes(content)
    archive = Archive.init(folder / "archive", source, block_size=BLOCK)
    states: list[bytes] = []
    for number in range(REVISIONS):
        at = number % 19 * BLOCK
        content[at : at + 8] = number.to_bytes(8, "big")
        source.write_bytes(content)
        archive.backup(force=True)
        states.insert(0, bytes(content))
    return folder / "archive", states


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@contextmanager
def no_more_files() -> Iterator[None]:
    """This process may not open another file."""
    held: list[int] = []
    with suppress(OSError):
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    try:
        yield
    finally:
        for descriptor in held:
            os.close(descriptor)


@contextmanager
def few_files(count: int) -> Iterator[None]:
    """This process may have so many files open."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_an_open_revision_takes_few_descriptors(long_chain: tuple[Path, list[bytes]]) -> None:
    """However many it reads through to; and many of them take little more."""
    path, states = long_chain
    archive = Archive(path)
    before = open_files()
    with archive.open("first") as first:
        assert open_files() - before <= 52
        assert first.read() == states[-1]
        assert open_files() - before <= 52
        files = [archive.open("first") for _ in range(20)]
        assert open_files() - before <= 52 + 20 * 3
        for file in files:
            assert file.read() == states[-1]
            file.close()
    assert open_files() <= before


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
import backy
archive = backy.Archive(sys.argv[1])
with archive.open("first") as file:
    content = file.read()
assert archive.scrub(check_only=True).is_clean
assert archive.drill("first").passed
archive.restore(sys.argv[2], "first")
assert open(sys.argv[2], "rb").read() == content
archive.export(sys.argv[3], "first")
files = [archive.open(number) for number in range(8)]
assert all(file.read(4096) for file in files)
if len(sys.argv) > 4:
    with archive.mount(sys.argv[4]) as folder:
        assert (folder / "by-number" / str(len(archive.revisions) - 1)).read_bytes() == content
assert archive.status().health.level in ("ok", "warning")
sys.stdout.buffer.write(content)
"""


def test_a_process_with_64_files_reads_120(long_chain: tuple[Path, list[bytes]], tmp_path: Path) -> None:
    """Reading, scrub, drill, restore, export and mount."""
    path, states = long_chain
    arguments = [str(path), str(tmp_path / "restored"), str(tmp_path / "exported")]
    if can_mount():
        (tmp_path / "mnt").mkdir()
        arguments.append(str(tmp_path / "mnt"))
    else:
        skip("mounting needs root, FUSE and loop devices")
    done = subprocess.run([sys.executable, "-c", LIMITED, *arguments], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == states[-1]


def test_too_many_open_files_are_an_error(long_chain: tuple[Path, list[bytes]], tmp_path: Path) -> None:
    """With the number of the system; nothing is said of the archive, and nothing recorded."""
    path, states = long_chain
    archive = Archive(path)
    before = archive.status()
    verbs: dict[str, Callable[[], object]] = {
        "open": lambda: archive.open("first"),
        "scrub": archive.scrub,
        "check": lambda: archive.scrub(check_only=True),
        "drill": lambda: archive.drill("first"),
        "restore": lambda: archive.restore(tmp_path / "restored", "first"),
        "export": lambda: archive.export(tmp_path / "exported", "first"),
        "status": archive.status,
        "backup": lambda: archive.backup(force=True),
        "rm": lambda: archive.rm("first"),
        "maintenance": lambda: archive.maintenance(keep=2),
        "backy.check": lambda: backy.check(path),
        "mount": lambda: archive.mount(tmp_path),
    }
    for name, verb in verbs.items():
        limited = pytest.raises(OSError, match="ulimit -n")
        with few_files(open_files() + 3), no_more_files(), limited as raised:
            verb()
        assert raised.value.errno == errno.EMFILE, name
        assert isinstance(raised.value, backy.BackyError), name
    after = archive.status()
    assert after.drill == before.drill
    assert [r.uuid for r in after.revisions] == [r.uuid for r in before.revisions]
    assert archive.scrub(check_only=True).is_clean
    with archive.open("first") as first:
        assert first.read() == states[-1]


def test_an_open_revision_is_read_without_a_free_descriptor(long_chain: tuple[Path, list[bytes]]) -> None:
    """What it needs is kept, whether or not it may be opened again."""
    path, states = long_chain
    with Archive(path).open("first") as first, few_files(open_files() + 3), no_more_files():
        assert first.read() == states[-1]


def test_an_open_revision_stays_readable_when_all_are_deleted(
    long_chain: tuple[Path, list[bytes]], tmp_path: Path
) -> None:
    """Also when most of its files were closed, and so many go at once that nobody looks in between."""
    import shutil

    path, states = long_chain
    copy = tmp_path / "copy"
    shutil.copytree(path, copy)
    archive = Archive(copy)
    with few_files(open_files() + 60):
        files = [archive.open(number) for number in (REVISIONS - 1, REVISIONS // 2, 4)]
        archive.maintenance(keep=2)
        assert len(archive.revisions) == 2
        for file, number in zip(files, (REVISIONS - 1, REVISIONS // 2, 4)):
            assert file.read() == states[number]
            file.close()
