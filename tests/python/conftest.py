"""Archives to test with: one made by the `backy` command, and the golden ones of every format."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import backy

CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Made:
    """An archive, and what the source was at each backup, newest first."""

    path: Path
    sources: list[bytes]


def skip(why: str) -> None:
    """Skips the test, loudly; in CI that is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"nothing may be skipped in CI: {why}")
    pytest.skip(f"SKIPPED: {why}")


def can_mount() -> bool:
    """Whether tests may mount: FUSE, loop devices and ext4."""
    try:
        with open("/dev/fuse", "rb+", buffering=0):
            pass
        found = subprocess.run(["losetup", "--find"], capture_output=True, check=False)
    except OSError:
        return False
    return os.geteuid() == 0 and found.returncode == 0 and shutil.which("mke2fs") is not None


@pytest.fixture(scope="session")
def backy_bin() -> Path:
    """The command, as built: from $BACKY_BIN, or the checkout's debug build."""
    path = Path(os.environ.get("BACKY_BIN", CHECKOUT / "target/debug/backy"))
    if not path.exists():
        skip(f"{path} is not there; build it with: cargo build -p backy-cli")
    return path


@pytest.fixture(scope="session")
def made(backy_bin: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Three backups of a source that changes, grows to an odd size, and shrinks."""
    folder = tmp_path_factory.mktemp("made")
    source, archive = folder / "source.img", folder / "archive"
    first = b"".join(number.to_bytes(4, "big") * 16384 for number in range(8))
    second = first[:65536] + bytes(65536) + first[131072:] + b"grown by an odd number of bytes"
    third = second[: 4 * 65536]
    source.write_bytes(first)
    run(backy_bin, archive, "init", str(source))
    for content, tag in ((first, "first"), (second, "second"), (third, "third")):
        source.write_bytes(content)
        run(backy_bin, archive, "backup", "--tag", tag, "--tag", "every")
    return Made(archive, [third, second, first])


@pytest.fixture(autouse=True)
def against_the_format(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[None]:
    """Every archive that a test leaves is what doc/format.md says, by the checker that shares no code with backy."""
    yield
    checker = Path(os.environ.get("CHECK_ARCHIVE", CHECKOUT / "target/debug/check-archive"))
    if request.node.get_closest_marker("damages") or not checker.exists():
        return
    archives = [manifest.parent for manifest in tmp_path.glob("**/manifest.json")]
    done = subprocess.run([checker, *archives], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.fixture
def copy(made: Made, tmp_path: Path) -> Made:
    """The same, to be changed by the test."""
    path = tmp_path / "archive"
    shutil.copytree(made.path, path)
    return Made(path, made.sources)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty folder to mount on."""
    if not can_mount():
        skip("mounting needs root, FUSE and loop devices")
    place = tmp_path / "mnt"
    place.mkdir()
    return place


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """One backup of 64 MiB that does not compress: an operation on it takes long enough to be looked at."""
    folder = tmp_path_factory.mktemp("large")
    source = folder / "source.img"
    content = random.Random(5).randbytes(64 << 20)
    source.write_bytes(content)
    archive = backy.Archive.init(folder / "archive", source)
    archive.backup(force=True)
    return Made(archive.path, [content])


def run(backy_bin: Path, archive: Path, *arguments: str) -> None:
    subprocess.run([backy_bin, "-b", archive, *arguments], check=True, stdin=subprocess.DEVNULL)


def printed(backy_bin: Path, archive: Path, *arguments: str | Path) -> Any:
    """What the command prints with --json, whatever its exit status."""
    command = [backy_bin, "-b", archive, *arguments]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return json.loads(done.stdout)


def content(folder: Path) -> dict[str, bytes]:
    """All files of a folder but the lock's, which comes with the first writer."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "lock"}


def flip(file: Path, offset: int) -> None:
    """Damages one byte."""
    with file.open("r+b") as opened:
        opened.seek(offset)
        byte = opened.read(1)
        opened.seek(offset)
        opened.write(bytes([byte[0] ^ 255]))
