"""A huge sparse image of which little has changed: sources that know what changed against the same read as a whole.

On an XFS of its own, as the file system has to clone. The other measures are what only those changes cost, to read and
to write durably, and what others need that make backups of the same disk by what has changed. One kind of source after
the other, as the disks of all would take much space. There is none for thin volumes, which need a device mapper.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from beside import Skipped, cpu_seconds, until
from ceph import fast_rbd, rbd
from domains import libvirt
from kinds import Kind, Peer, Place, everybody, reflink
from machines import qcow2, qmp
from measure import MIB, Results, measure, median, quiet, remove
from noise import BLOCK, noise
from places import Bench
from table import mark, peak_note, table
from workload import parse_size

CHANGED_BYTES = 100 * MIB
# Of the time of reading everything, of that of the changes alone, and seconds where nothing changed.
TARGETS = {"whole": 0.05, "changes": 3.0, "unchanged": 1.0}
KINDS: dict[str, Callable[[Place], AbstractContextManager[Kind]]] = {
    "reflink": reflink,
    "qcow2": qcow2,
    "qmp": qmp,
    "libvirt": libvirt,
    "rbd": rbd,
    "rbd-fast": fast_rbd,
}


def run_tracked(bench: Bench) -> str:
    lines: list[str] = []
    with scratch_folder(bench) as scratch, clonable(bench, "tracked") as folder:
        disk = Disk(bench, folder, parse_size(bench.options.tracked_size))
        for name in bench.options.tracked:
            place = Place(folder / name, scratch, disk.image, disk.size_bytes, disk.data_bytes)
            place.folder.mkdir()
            try:
                with KINDS[name](place) as kind:
                    lines += Tracked(bench, disk, kind, place.folder).run()
            except Skipped as why:
                print(f"SKIPPED: {name}: {why}", file=sys.stderr)
            remove(place.folder)
            # What is free in the file system is not free in the one below by itself.
            quiet("fstrim", folder)
    lines = [table(bench.results, {}, bench.floor_bytes()), peak_note(bench.results), "\n".join(lines)]
    return "\n\n".join(lines)


@contextmanager
def scratch_folder(bench: Bench) -> Iterator[Path]:
    """Not with the other files, as its path may not be long."""
    scratch = bench.root.resolve() / "s"
    remove(scratch)
    everybody(scratch)
    try:
        yield scratch
    finally:
        remove(scratch)


@contextmanager
def clonable(bench: Bench, name: str) -> Iterator[Path]:
    """An XFS in a sparse file."""
    if os.geteuid() != 0:
        sys.exit(f"bench: {name} needs root, to mount a file system that clones")
    place = bench.root.resolve() / name
    remove(place)
    place.mkdir(parents=True)
    image, folder = place / "disk", place / "mounted"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(400 << 30)
    quiet("mkfs.xfs", "-q", image)
    quiet("mount", "-o", "loop,noatime", image, folder)
    try:
        yield folder
    finally:
        # What was ended a moment ago may still have files open.
        until(f"unmounted: {folder}", lambda: subprocess.run(["umount", folder], check=False).returncode == 0)
        remove(place)


class Disk:
    """What all kinds have as their disk, as a raw image: a piece of data now and then."""

    def __init__(self, bench: Bench, folder: Path, size_bytes: int) -> None:
        self.image = folder / "vm.img"
        self.changes = folder / "changes"
        self.pieces_folder = folder / "pieces"
        self.generator = random.Random(11)
        self.size_bytes, self.data_bytes = size_bytes, parse_size(bench.options.sparse_data)
        self.pieces = max(1, self.data_bytes // MIB)
        self.stride = self.size_bytes // self.pieces // MIB * MIB
        with self.image.open("wb") as image:
            image.truncate(self.size_bytes)
            for number in range(self.pieces):
                image.seek(number * self.stride)
                image.write(noise(self.generator, MIB))

    def change(self, kind: Kind) -> None:
        """New content for random blocks of the data, in both images; the same bytes in a file of their own."""
        blocks = range(self.pieces * MIB // BLOCK)
        places = self.generator.sample(blocks, min(len(blocks) // 2, CHANGED_BYTES // BLOCK))
        offsets: list[tuple[int, Path]] = []
        self.pieces_folder.mkdir()
        with self.image.open("r+b") as image, self.changes.open("wb") as changes:
            for place in sorted(places):
                piece, within = divmod(place * BLOCK, MIB)
                content = noise(self.generator, BLOCK)
                offset = piece * self.stride + within
                image.seek(offset)
                image.write(content)
                changes.write(content)
                name = self.pieces_folder / str(offset)
                name.write_bytes(content)
                offsets.append((offset, name))
        kind.write(offsets, BLOCK)
        remove(self.pieces_folder)

    def must_equal(self, revision: Path, what: str) -> None:
        """Where there is data; reading all the holes would take minutes."""
        with self.image.open("rb") as image, revision.open("rb") as other:
            for number in range(self.pieces):
                image.seek(number * self.stride)
                other.seek(number * self.stride)
                if image.read(MIB) != other.read(MIB):
                    sys.exit(f"bench: {what} gave wrong bytes")


class Tracked:
    """One kind of source."""

    def __init__(self, bench: Bench, disk: Disk, kind: Kind, folder: Path) -> None:
        self.bench, self.disk, self.kind = bench, disk, kind
        self.copy = folder / "copy"
        self.archives = {name: folder / name.replace(" ", "-") for name in (kind.name, whole(kind.name))}

    def run(self) -> list[str]:
        quiet("sync")
        name = self.kind.name
        for archive_name, archive in self.archives.items():
            quiet(self.bench.options.backy, "-b", archive, "init", self.kind.source, env=self.kind.env)
            mode = "" if archive_name == name else 'mode = "off"\n'
            with (archive / "backy.toml").open("a") as config:
                config.write(f"[tracking]\n{self.kind.settings}{mode}")
            self.backup(0, archive_name, "first")
        for peer in self.kind.peers:
            self.peer(0, peer, "first")
        for run in range(self.bench.options.runs):
            self.one_run(run)
        for peer in self.kind.peers:
            if peer.is_wrong():
                sys.exit(f"bench: {peer.name} of {name} gave wrong bytes")
        return ratios(self.bench.results, name, [peer.name for peer in self.kind.peers])

    def one_run(self, run: int) -> None:
        name = self.kind.name
        # What the run before has left in memory would be written by the first command that makes anything durable.
        quiet("sync")
        self.backup(run, name, "unchanged")
        for peer in self.kind.peers:
            self.peer(run, peer, "unchanged")
        self.disk.change(self.kind)
        quiet("sync")
        alone = ["dd", f"if={self.disk.changes}", f"of={self.copy}", "bs=1M", "conv=fsync", "status=none"]
        self.measure(run, alone, f"{name} changes alone", self.copy)
        for archive in (name, whole(name)) if run % 2 else (whole(name), name):
            self.backup(run, archive, "changed")
            self.disk.must_equal(self.archives[archive] / "last.raw", archive)
        for peer in self.kind.peers:
            self.peer(run, peer, "changed")

    def backup(self, run: int, name: str, what: str) -> None:
        archive = self.archives[name]
        self.measure(run, [self.bench.options.backy, "-b", archive, "backup", "--force"], f"{name} {what}", archive)

    def peer(self, run: int, peer: Peer, what: str) -> None:
        self.measure(run, peer.backup(), f"{peer.name} {self.kind.name} {what}")

    def measure(self, run: int, command: Sequence[str | Path], name: str, stored: Path | None = None) -> None:
        self.bench.filler.fill()
        before = cpu_seconds(self.kind.processes())
        sample = measure(run, command, self.kind.env)
        sample.cpu_seconds += cpu_seconds(self.kind.processes()) - before
        self.bench.add(name, sample, stored)


def whole(kind: str) -> str:
    """The archive of the same source that reads everything."""
    return f"{kind} whole"


def ratios(results: Results, kind: str, peers: list[str]) -> list[str]:
    def ratio(one: str, other: str) -> float:
        return median(a.wall_seconds / b.wall_seconds for a, b in zip(results.samples[one], results.samples[other]))

    texts = {
        "whole": "100 MiB changed, against reading everything: {:.3f} x",
        "changes": "100 MiB changed, against reading and writing only those: {:.2f} x",
        "unchanged": "nothing changed: {:.2f} s",
    }
    found = {
        "whole": ratio(f"{kind} changed", f"{whole(kind)} changed"),
        "changes": ratio(f"{kind} changed", f"{kind} changes alone"),
        "unchanged": median(sample.wall_seconds for sample in results.samples[f"{kind} unchanged"]),
    }
    lines = [
        f"{kind}: {text.format(found[name])}, target ≤ {TARGETS[name]}{mark(found[name] <= TARGETS[name])}."
        for name, text in texts.items()
    ]
    for peer in peers:
        for what in ("changed", "unchanged"):
            found[f"{peer} {what}"] = ratio(f"{kind} {what}", f"{peer} {kind} {what}")
            lines.append(f"{kind}: {what}, against {peer}: {found[f'{peer} {what}']:.2f} x.")
    figures = results.figures.setdefault("tracked", {})
    figures.update({f"{kind} {name}": figure for name, figure in found.items()})
    return lines
