"""An image of Ceph RBD, with a cluster of the bench's own: a monitor, a manager and one disk, which is a sparse file.

It listens on 127.0.0.1 only and asks for no keys.
"""

from __future__ import annotations

import json
import socket
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from beside import Skipped, answers, asked, require, running, until
from kinds import Kind, Peer, Place
from measure import quiet
from places import CHECKOUT

# The tests have it, too.
TEMPLATE = CHECKOUT / "tests/tests/real/harness/ceph.conf"
PACKAGES = {
    "ceph": "ceph-common",
    "rbd": "ceph-common",
    "monmaptool": "ceph-common",
    "ceph-mon": "ceph-mon",
    "ceph-mgr": "ceph-mgr",
    "ceph-osd": "ceph-osd",
    "qemu-img": "qemu-utils",
    "qemu-io": "qemu-utils",
}
POOL = "images"
IMAGE = f"{POOL}/vm"

# A snapshot, the changes since the one before, which then goes.
EXPORT = """
set -eu
rbd -c "$1" snap create --no-progress "$2@$4"
rbd -c "$1" export-diff --no-progress ${5:+--from-snap "$5"} "$2@$4" "$3"
[ -z "$5" ] || rbd -c "$1" snap rm --no-progress "$2@$5"
sync "$3"
"""


class Cluster:
    def __init__(self, place: Place, stack: ExitStack) -> None:
        self.stack = stack
        self.folder = place.folder / "cluster"
        for name in ("mon", "mgr", "osd", "mds", "run", "log"):
            (self.folder / name).mkdir(parents=True)
        self.conf = self.folder / "ceph.conf"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        values = {
            "FOLDER": self.folder,
            "FSID": uuid.uuid4(),
            "PORT": port,
            "STORE": "bluestore",
            "DISK_BYTES": 4 * place.data_bytes + (8 << 30),
        }
        conf = TEMPLATE.read_text()
        for name, value in values.items():
            conf = conf.replace(f"@{name}@", str(value))
        self.conf.write_text(conf)
        self.start_monitor(f"[v2:127.0.0.1:{port}]")
        self.start_disk()
        quiet(*self.ceph("osd", "pool", "create", POOL, "8", "8"))
        quiet(*self.rbd("pool", "init", POOL))

    def ceph(self, *arguments: str | Path) -> list[str | Path]:
        return ["ceph", "-c", self.conf, "--connect-timeout", "10", *arguments]

    def rbd(self, *arguments: str | Path) -> list[str | Path]:
        return ["rbd", "-c", self.conf, *arguments]

    def start_monitor(self, address: str) -> None:
        monmap = self.folder / "monmap"
        quiet("monmaptool", "-c", self.conf, "--create", "--addv", "a", address, monmap)
        quiet("ceph-mon", "-c", self.conf, "--mkfs", "-i", "a", "--monmap", monmap)
        self.start("ceph-mon", "a")
        until("Ceph's monitor answers", lambda: answers(*self.ceph("quorum_status")), self.log("ceph-mon"))
        self.start("ceph-mgr", "x")

    def start_disk(self) -> None:
        disk = str(uuid.uuid4())
        quiet(*self.ceph("osd", "new", disk, "0"))
        quiet("ceph-osd", "-c", self.conf, "-i", "0", "--mkfs", "--osd-uuid", disk)
        quiet(*self.ceph("osd", "crush", "add", "osd.0", "1.0", "root=default", "host=localhost"))
        self.start("ceph-osd", "0")
        until("Ceph's disk is up", self.has_disk, self.log("ceph-osd"))

    def has_disk(self) -> bool:
        state = json.loads(asked(*self.ceph("--format", "json", "osd", "stat")))
        return bool(state["num_up_osds"] == 1)

    def start(self, daemon: str, name: str) -> None:
        daemon_runs = running(daemon, "-c", self.conf, "-f", "-i", name, log=self.log(daemon))
        self.stack.enter_context(daemon_runs)

    def log(self, daemon: str) -> Path:
        return self.folder / "log" / f"{daemon}.out"

    def driver(self, image: str) -> str:
        """As `--image-opts` of QEMU has it."""
        pool, name = image.split("/")
        return f"driver=rbd,pool={pool},image={name},conf={self.conf}"

    def create(self, image: str, size_bytes: int) -> None:
        quiet(*self.rbd("create", "--size", f"{size_bytes}B", image))


class ExportDiff(Peer):
    """Ceph's own incremental backup, a file for each."""

    name = "export-diff"

    def __init__(self, place: Place, cluster: Cluster) -> None:
        self.place, self.cluster = place, cluster
        self.made: list[Path] = []

    def backup(self) -> list[str | Path]:
        number = len(self.made)
        target = self.place.folder / f"{number}.diff"
        before = f"peer.{number - 1}" if self.made else ""
        self.made.append(target)
        return ["sh", "-c", EXPORT, "sh", self.cluster.conf, IMAGE, target, f"peer.{number}", before]

    def is_wrong(self) -> bool:
        copy = f"{POOL}/copy"
        self.cluster.create(copy, self.place.size_bytes)
        for diff in self.made:
            quiet(*self.cluster.rbd("import-diff", "--no-progress", diff, copy))
        return self.place.differs(self.cluster.driver(copy))


class Rbd(Kind):
    name = "rbd"

    def __init__(self, place: Place, cluster: Cluster) -> None:
        self.cluster = cluster
        self.source = f"rbd:{IMAGE}:conf={cluster.conf}"
        self.peers = [ExportDiff(place, cluster)]
        cluster.create(IMAGE, place.size_bytes)
        convert = ["qemu-img", "convert", "-f", "raw", "-n", "--target-is-zero", "--target-image-opts"]
        quiet(*convert, place.image, cluster.driver(IMAGE))

    def write(self, offsets: Sequence[tuple[int, Path]], length: int) -> None:
        commands: list[str] = []
        for offset, file in offsets:
            commands += ["-c", f"write -s {file} {offset} {length}"]
        quiet("qemu-io", *commands, "--image-opts", self.cluster.driver(IMAGE))


class FastRbd(Rbd):
    """The object map is believed."""

    name = "rbd-fast"
    settings = "fast_diff = true\n"


@contextmanager
def rbd(place: Place) -> Iterator[Kind]:
    with cluster(place) as own:
        yield Rbd(place, own)


@contextmanager
def fast_rbd(place: Place) -> Iterator[Kind]:
    with cluster(place) as own:
        yield FastRbd(place, own)


@contextmanager
def cluster(place: Place) -> Iterator[Cluster]:
    require(PACKAGES)
    opened = ["qemu-img", "info", "--image-opts", "driver=rbd,pool=x,image=x,conf=/nonexistent"]
    if b"Unknown driver" in subprocess.run(opened, capture_output=True, check=False).stderr:
        raise Skipped("QEMU has no driver for it (package qemu-block-extra, of the version of qemu-utils)")
    with ExitStack() as stack:
        yield Cluster(place, stack)
