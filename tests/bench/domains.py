"""A disk of a libvirt domain, with a libvirtd of the bench's own: nothing of the machine's own libvirt is touched."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from beside import Skipped, answers, asked, require, running, until
from kinds import Kind, Peer, Place, everybody
from machines import MACHINE, PACKAGES, guest
from measure import quiet
from places import CHECKOUT

# It runs libvirtd in a mount namespace of its own; the tests have it, too.
DAEMON = CHECKOUT / "tests/tests/real/harness/libvirtd.sh"
DOMAIN = "vm"
# virtnbdbackup makes no backup of a domain that has checkpoints of others.
SECOND = "second"
DISK = "vda"

# `virsh backup-begin` does not wait.
PUSH = """
set -eu
virsh -q backup-begin "$1" "$2.backup" --checkpointxml "$2.checkpoint"
until virsh -q domjobinfo "$1" | grep -q 'Job type: *None'; do sleep 0.05; done
[ -z "$3" ] || virsh -q checkpoint-delete "$1" "$3"
sync "$2"
"""


# virtnbdbackup says much, and leaves it to the kernel when to write.
TO_DISK = """
folder=$1
shift
export TMPDIR="$folder"
"$@" 2>"$folder/said" || { cat "$folder/said" >&2; exit 1; }
sync -f "$folder"
"""


class Daemon:
    """A libvirtd and its domains, in which no guest runs: what it would write is written by the monitor."""

    def __init__(self, place: Place, domains: Sequence[str]) -> None:
        self.place, self.domains = place, domains
        self.folder = place.folder / "daemon"
        # `qemu+unix` would have virtnbdbackup ask for a password.
        self.uri = f"qemu:///system?socket={self.folder}/socket/libvirt-sock"
        self.env = {**os.environ, "LIBVIRT_DEFAULT_URI": self.uri}

    def start(self, domain: str) -> None:
        disk = self.place.as_qcow2(f"{domain}.qcow2")
        definition = self.place.folder / f"{domain}.xml"
        definition.write_text(
            f"<domain type='qemu'><name>{domain}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>"
            "<os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features><devices>"
            f"<emulator>/usr/bin/{MACHINE}</emulator><disk type='file' device='disk'>"
            f"<driver name='qemu' type='qcow2' discard='unmap'/><source file='{disk}'/>"
            f"<target dev='{DISK}' bus='virtio'/></disk></devices></domain>"
        )
        quiet("virsh", "-q", "define", definition, env=self.env)
        quiet("virsh", "-q", "start", domain, "--paused", env=self.env)

    def write(self, domain: str, offsets: Sequence[tuple[int, Path]], length: int) -> None:
        commands = [f"write -s {file} {offset} {length}" for offset, file in offsets]
        lines = [guest("virtio-disk0", command) for command in (*commands, "flush")]
        script = "".join(f"qemu-monitor-command {domain} --hmp '{line}'\n" for line in lines)
        said = asked("virsh", "-q", env=self.env, stdin=script).strip()
        if "rror" in said:
            sys.exit(f"bench: {said[-500:]}")

    def machines(self) -> list[int]:
        """The processes of QEMU."""
        files = [self.folder / "run/qemu" / f"{domain}.pid" for domain in self.domains]
        return [int(file.read_text()) for file in files if file.exists()]

    def end_machines(self) -> None:
        """The daemon does not take them with it."""
        for machine in self.machines():
            process = Path(f"/proc/{machine}")
            if process.exists():
                os.kill(machine, signal.SIGKILL)
                until("a machine has ended", partial(is_gone, process))


class Push(Peer):
    """libvirt's own incremental backup: QEMU writes a qcow2 file for each."""

    name = "backup-begin"

    def __init__(self, place: Place) -> None:
        self.place = place
        self.made: list[Path] = []
        # libvirt's user of QEMU writes there.
        self.folder = everybody(place.folder / "pushed")

    def backup(self) -> list[str | Path]:
        number = len(self.made)
        target = self.folder / f"{number}.qcow2"
        before = f"peer.{number - 1}" if self.made else ""
        since = f"<incremental>{before}</incremental>" if before else ""
        target.with_suffix(".qcow2.backup").write_text(
            f"<domainbackup mode='push'>{since}<disks><disk name='{DISK}' type='file'><driver type='qcow2'/>"
            f"<target file='{target}'/></disk></disks></domainbackup>"
        )
        target.with_suffix(".qcow2.checkpoint").write_text(
            f"<domaincheckpoint><name>peer.{number}</name><disks><disk name='{DISK}' checkpoint='bitmap'/></disks>"
            "</domaincheckpoint>"
        )
        self.made.append(target)
        return ["sh", "-c", PUSH, "sh", DOMAIN, target, before]

    def is_wrong(self) -> bool:
        for before, increment in zip(self.made, self.made[1:]):
            quiet("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", before, increment)
        return self.place.differs(f"driver=qcow2,file.driver=file,file.filename={self.made[-1]}")


class Virtnbdbackup(Peer):
    name = "virtnbdbackup"

    def __init__(self, place: Place, daemon: Daemon) -> None:
        self.place, self.daemon = place, daemon
        self.folder = place.folder / "virtnbdbackup"

    def backup(self) -> list[str | Path]:
        level = "inc" if self.folder.exists() else "full"
        where: list[str | Path] = ["-U", self.daemon.uri, "-d", SECOND, "-o", self.folder, "-S", self.place.scratch]
        program = ["virtnbdbackup", *where, "-f", self.place.scratch / "nbd", "-l", level, "-n"]
        return ["sh", "-c", TO_DISK, "sh", self.place.folder, *program]

    def is_wrong(self) -> bool:
        target = self.place.folder / "restored"
        restore: list[str | Path] = ["virtnbdrestore", "-U", self.daemon.uri, "-i", self.folder, "-o", target, "-n"]
        quiet("sh", "-c", TO_DISK, "sh", self.place.folder, *restore)
        restored = next(file for file in target.iterdir() if file.name.startswith(SECOND))
        return self.place.differs(f"driver=qcow2,file.driver=file,file.filename={restored}")


class Libvirt(Kind):
    name = "libvirt"

    def __init__(self, place: Place, daemon: Daemon) -> None:
        self.daemon = daemon
        self.source = f"libvirt:{DOMAIN}/{DISK}"
        self.settings = place.scratch_setting()
        self.env = daemon.env
        self.peers = [Push(place)]
        if SECOND in daemon.domains:
            self.peers.append(Virtnbdbackup(place, daemon))

    def write(self, offsets: Sequence[tuple[int, Path]], length: int) -> None:
        for domain in self.daemon.domains:
            self.daemon.write(domain, offsets, length)

    def processes(self) -> list[int]:
        return self.daemon.machines()


def is_gone(path: Path) -> bool:
    return not path.exists()


@contextmanager
def libvirt(place: Place) -> Iterator[Kind]:
    require({**PACKAGES, MACHINE: "qemu-system-x86", "libvirtd": "libvirt-daemon", "virsh": "libvirt-clients"})
    domains = [DOMAIN]
    try:
        require({"virtnbdbackup": "virtnbdbackup"})
        domains.append(SECOND)
    except Skipped as why:
        print(f"SKIPPED: libvirt: {why}", file=sys.stderr)
    place.scratch_setting()
    daemon, log = Daemon(place, domains), place.folder / "libvirtd.log"
    command = ["unshare", "-m", "--propagation", "private", "sh", "-c", DAEMON.read_text(), "sh"]
    with running(*command, daemon.folder, place.folder / "cache", log=log):
        try:
            until("libvirtd answers", lambda: answers("virsh", "-q", "version", env=daemon.env), log)
            for domain in domains:
                daemon.start(domain)
            yield Libvirt(place, daemon)
        finally:
            daemon.end_machines()
