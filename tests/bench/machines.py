"""Disks of QEMU: in a qcow2 image that nothing has open, and of a virtual machine that runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from beside import require, running, until
from kinds import Kind, Peer, Place
from measure import quiet
from qmp import Monitor

PROGRAM = Path(__file__).resolve().parent / "qemu_backup.py"
PACKAGES = {"qemu-img": "qemu-utils", "qemu-io": "qemu-utils", "qemu-nbd": "qemu-utils"}
MACHINE = "qemu-system-x86_64"


class BlockdevBackup(Peer):
    """QEMU's own incremental backup, each over the one before."""

    name = "blockdev-backup"

    def __init__(self, place: Place, *disk: str | Path) -> None:
        self.place, self.disk = place, disk
        self.made: list[Path] = []

    def backup(self) -> list[str | Path]:
        target = self.place.folder / f"increment-{len(self.made)}.qcow2"
        before: list[str | Path] = ["--before", self.made[-1]] if self.made else []
        self.made.append(target)
        size = ["--size", str(self.place.size_bytes)]
        return [sys.executable, PROGRAM, *self.disk, *size, *before, "disk", target]

    def is_wrong(self) -> bool:
        return self.place.differs(f"driver=qcow2,file.driver=file,file.filename={self.made[-1]}")


class Qcow2(Kind):
    name = "qcow2"

    def __init__(self, place: Place) -> None:
        self.disk = place.as_qcow2("vm.qcow2")
        self.source = f"qcow2:{self.disk}"
        self.peers = [BlockdevBackup(place, "--image", self.disk)]

    def write(self, offsets: Sequence[tuple[int, Path]], length: int) -> None:
        commands: list[str] = []
        for offset, file in offsets:
            commands += ["-c", f"write -s {file} {offset} {length}"]
        quiet("qemu-io", "-f", "qcow2", *commands, self.disk)


@contextmanager
def qcow2(place: Place) -> Iterator[Kind]:
    require({**PACKAGES, "qemu-storage-daemon": "qemu-system-common"})
    yield Qcow2(place)


class Qmp(Kind):
    """A machine in which no guest runs: what it would write is written by the monitor."""

    name = "qmp"

    def __init__(self, place: Place, monitor: Path, process: int) -> None:
        self.monitor, self.process = monitor, process
        self.source = f"qmp:{monitor}/virtio0"
        self.settings = place.scratch_setting()
        self.peers = [BlockdevBackup(place, "--monitor", monitor)]

    def processes(self) -> list[int]:
        return [self.process]

    def write(self, offsets: Sequence[tuple[int, Path]], length: int) -> None:
        with Monitor.at(self.monitor) as monitor:
            for command in (*(f"write -s {file} {offset} {length}" for offset, file in offsets), "flush"):
                line = guest("virtio0", command)
                said = monitor.ask("human-monitor-command", {"command-line": line})
                # What it does say goes to where QEMU says things.
                if said:
                    sys.exit(f"bench: {command}: {said}")


def guest(device: str, command: str) -> str:
    """A line for the monitor that does as the guest with a device does."""
    return f'qemu-io -d /machine/peripheral/{device}/virtio-backend "{command}"'


@contextmanager
def qmp(place: Place) -> Iterator[Kind]:
    require({**PACKAGES, MACHINE: "qemu-system-x86"})
    disk, socket, log = place.as_qcow2("vm.qcow2"), place.folder / "vm.qmp", place.folder / "vm.log"
    file = {"driver": "file", "filename": str(disk), "discard": "unmap"}
    node = {"driver": "qcow2", "node-name": "disk", "discard": "unmap", "file": file}
    # Without KVM, which not every machine has: it never runs an instruction.
    machine = [MACHINE, "-S", "-machine", "pc,accel=tcg", "-m", "32", "-nodefaults", "-display", "none"]
    monitor = ["-qmp", f"unix:{socket},server=on,wait=off"]
    drive = ["-blockdev", json.dumps(node), "-device", "virtio-blk-pci,drive=disk,id=virtio0"]
    with running(*machine, *monitor, *drive, log=log) as process:
        until("QEMU listens", lambda: socket.exists() or process.poll() is not None, log)
        if process.poll() is not None:
            sys.exit(f"bench: {log.read_text()}")
        yield Qmp(place, socket, process.pid)
