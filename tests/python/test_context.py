"""What backy raises keeps what was being handled, as what Python raises does; nothing of it reaches standard error."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import backy
from backy import Archive, CancelToken
from conftest import Made, can_mount, flip, skip


def handling(call: Callable[[], Any]) -> BaseException:
    """What a call raises while a ValueError is handled."""
    try:
        try:
            raise ValueError("the first")
        except ValueError:
            call()
    except BaseException as error:
        return error
    pytest.fail("nothing was raised")


@pytest.mark.damages
def test_the_context_is_the_handled_exception(copy: Made, tmp_path: Path) -> None:
    """In every call, short or long; the cause and the way of the exception stay."""
    archive, cancelled = Archive(copy.path), CancelToken()
    cancelled.cancel()
    flip(copy.path / "last.raw", 3 * 65536)

    def raising(_state: object) -> None:
        raise KeyError("of the callback")

    with archive.open() as image:
        calls: list[Callable[[], Any]] = [
            lambda: Archive(tmp_path / "none"),
            lambda: Archive.init(copy.path),
            lambda: archive.find("feedfeed"),
            lambda: archive.select("9"),
            lambda: archive.open("tag:none"),
            lambda: archive.restore(tmp_path),
            lambda: archive.export(copy.path / "last.raw"),
            lambda: archive.tag("9"),
            lambda: archive.rm("all"),
            lambda: archive.scrub(progress=raising),
            lambda: archive.scrub(cancel=cancelled),
            lambda: archive.backup(source=tmp_path / "none", force=True),
            lambda: archive.maintenance(keep=1, wait=-1),
            lambda: archive.mount(tmp_path / "none"),
            lambda: archive.drill(0, timeout="soon"),
            lambda: image.read(),
        ]
        for number, call in enumerate(calls):
            error = handling(call)
            assert isinstance(error.__context__, ValueError), (number, error)
            assert error.__context__.args == ("the first",)
            assert error.__context__.__context__ is None, "no cycle"
            assert error.__cause__ is None
            assert error.__traceback__ is not None


def test_without_one_that_is_handled_there_is_no_context(tmp_path: Path) -> None:
    with pytest.raises(backy.ArchiveNotFoundError) as raised:
        Archive(tmp_path)
    assert raised.value.__context__ is None


def test_a_with_block_of_a_mount_keeps_the_context(made: Made, tmp_path: Path) -> None:
    """When it cannot be unmounted, the exception that left the block is not lost."""
    if not can_mount():
        skip("no FUSE")
    mount = Archive(made.path).mount(tmp_path)
    file = (tmp_path / "latest").open("rb")
    try:
        with pytest.raises(backy.MountError) as raised, mount:
            raise KeyError("the first")
        assert isinstance(raised.value.__context__, KeyError)
    finally:
        mount.unmount(lazy=True)
        file.close()


UNUSUAL = """
import os, sys
import backy
archive, source = backy.Archive(sys.argv[1]), sys.argv[2]
content = bytearray(os.path.getsize(source))
for number in range(8):
    content[number * 65536] ^= 1
    open(source, "wb").write(content)
    archive.backup(force=True)
open(source, "wb").write(os.urandom(len(content)))
archive.backup(force=True)
with open(os.path.join(sys.argv[1], "last.raw"), "r+b") as image:
    image.write(b"rotten")
archive.scrub(check_only=True)
archive.scrub()
archive.drill(0)
"""


@pytest.mark.damages
def test_nothing_reaches_standard_error(tmp_path: Path) -> None:
    """Of an unusual backup and of damage, with no logging set up; a program that sets it up gets all of it."""
    source = tmp_path / "source"
    source.write_bytes(bytes(4 << 20))
    archive = Archive.init(tmp_path / "archive", source)
    command = [sys.executable, "-X", "dev", "-W", "ignore", "-c", UNUSUAL, str(archive.path), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    command[-3] = "import logging; logging.basicConfig(level=logging.INFO)\n" + UNUSUAL
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "WARNING:backy:" in done.stderr
