"""What tracked.py measures: kinds of sources, and beside each what others need for the same work."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from beside import Skipped
from measure import quiet

# A socket in it may have a path of 107 bytes; backy's names take the rest.
SCRATCH_PATH_BYTES = 23


def everybody(folder: Path) -> Path:
    """A folder that any user may write to."""
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


@dataclass
class Place:
    """Where a kind has its files, and the disk as a raw image."""

    folder: Path
    # What virtual machines overwrite during a backup.
    scratch: Path
    image: Path
    size_bytes: int
    data_bytes: int

    def scratch_setting(self) -> str:
        if len(str(self.scratch)) > SCRATCH_PATH_BYTES:
            raise Skipped(f"the path of a socket would be too long, use a shorter --dir: {self.scratch}")
        return f'scratch = "{self.scratch}"\n'

    def as_qcow2(self, name: str) -> Path:
        disk = self.folder / name
        quiet("qemu-img", "convert", "-f", "raw", "-O", "qcow2", self.image, disk)
        return disk

    def differs(self, driver: str) -> bool:
        """Whether an image has other content; `driver` is as `--image-opts` of QEMU has it."""
        raw = f"driver=raw,file.driver=file,file.filename={self.image}"
        compare = ["qemu-img", "compare", "-q", "--image-opts", raw, driver]
        return subprocess.run(compare, stdout=subprocess.DEVNULL, check=False).returncode != 0


class Peer:
    """Another program that makes backups of a disk by what has changed, and keeps what it makes."""

    name = ""

    def backup(self) -> list[str | Path]:
        """The next backup, the first of which reads everything; what is not to be measured is done here."""
        raise NotImplementedError

    def is_wrong(self) -> bool:
        """Whether the newest backup differs from the disk."""
        raise NotImplementedError


class Kind:
    """A source that knows what changed."""

    name = ""
    source = ""
    # Lines for `[tracking]`.
    settings = ""
    env: dict[str, str] | None = None
    peers: Sequence[Peer] = ()

    def write(self, offsets: Sequence[tuple[int, Path]], length: int) -> None:
        """Writes the content of files to places of the disk, each so many bytes, as a guest would."""
        raise NotImplementedError

    def processes(self) -> list[int]:
        """Those that do a part of the work and run all the time."""
        return []


class Reflink(Kind):
    name = "reflink"

    def __init__(self, place: Place) -> None:
        self.source = f"reflink:{place.image}"

    def write(self, offsets: Sequence[tuple[int, Path]], length: int) -> None:
        """The image is the one that all changes are made to first."""


@contextmanager
def reflink(place: Place) -> Iterator[Kind]:
    yield Reflink(place)
    for clone in place.image.parent.glob("backy.*"):
        clone.unlink()
