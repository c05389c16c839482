"""Measure what is read through a mount: against the file itself, plain FUSE, and QEMU's export of the same chain.

One archive of day 0 of workload.py and 30 days on which 2.5 % of its blocks change. Every run mounts anew, so that
nothing is cached but the files of the archive in the page cache. `first` is before a mount has checked a block, `again`
after it has checked all of them, with the kernel's cache of the mount dropped. What is read is compared with what was
backed up, once.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from measure import MIB, quiet
from noise import BLOCK
from places import Bench

PAGE = 4096
DAYS = 30
CHANGED = 0.025
RANDOM_READS = 10_000
PATIENCE_SECONDS = 20

# The lowest rates and the highest latency that are accepted; the first is of plain FUSE, the last of the file itself.
PLAIN_TARGET = 0.9
OLD_TARGET_MB = 500
OLD_TARGET_US = 60
PASS_TARGET = 0.8


def run_mounts(bench: Bench) -> str:
    binary: Path = bench.options.backy
    mounts = Mounts(binary, binary.with_name("plain-fuse"), bench.root, bench.day(0))
    try:
        mounts.prepare()
        mounts.compare()
        for _ in range(bench.options.runs):
            mounts.one_run()
        mounts.clones()
        read = mounts.read
        bench.results.figures |= {
            "rates_mb": read.rates,
            "latencies_us": read.latencies,
            "peaks_mib": read.peaks,
        }
        return mounts.table()
    finally:
        mounts.close()


@dataclass
class Read:
    """Rates in MB/s and median latencies in microseconds, by what was read."""

    rates: dict[str, list[float]] = field(default_factory=dict)
    latencies: dict[str, list[float]] = field(default_factory=dict)
    peaks: dict[str, list[float]] = field(default_factory=dict)


def sequential(path: Path) -> float:
    """Reads a whole file; MB/s."""
    buffer = mmap.mmap(-1, MIB)
    file = os.open(path, os.O_RDONLY)
    try:
        begin = time.perf_counter()
        total = 0
        while count := os.readv(file, [buffer]):
            total += count
        return total / (time.perf_counter() - begin) / 1e6
    finally:
        os.close(file)
        buffer.close()


def at_random(path: Path, offsets: list[int]) -> float:
    """Reads pages here and there; the median of their latencies in microseconds."""
    buffer = mmap.mmap(-1, PAGE)
    file = os.open(path, os.O_RDONLY)
    try:
        taken = []
        for offset in offsets:
            begin = time.perf_counter_ns()
            os.preadv(file, [buffer], offset)
            taken.append(time.perf_counter_ns() - begin)
        return statistics.median(taken) / 1000
    finally:
        os.close(file)
        buffer.close()


def data_offsets(path: Path) -> list[int]:
    """Pages in what is not a hole, in a random order that is always the same."""
    pages: list[int] = []
    file = os.open(path, os.O_RDONLY)
    try:
        end = 0
        with contextlib.suppress(OSError):
            while True:
                start = os.lseek(file, end, os.SEEK_DATA)
                end = os.lseek(file, start, os.SEEK_HOLE)
                pages.extend(range(start // PAGE * PAGE, end // PAGE * PAGE, PAGE))
    finally:
        os.close(file)
    return random.Random(4).sample(pages, min(RANDOM_READS, len(pages)))


def drop_caches() -> None:
    Path("/proc/sys/vm/drop_caches").write_text("1\n")


def wait_for(path: Path) -> None:
    limit = time.monotonic() + PATIENCE_SECONDS
    while True:
        with contextlib.suppress(OSError):
            if path.stat().st_size > 0:
                return
        if time.monotonic() > limit:
            raise TimeoutError(path)
        time.sleep(0.01)


def peak_mib(process: int) -> float:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


class Mounts:
    """The archive, and the ways to read from it."""

    def __init__(self, backy: Path, plain: Path, root: Path, image: Path) -> None:
        self.backy = backy
        self.plain = plain
        self.first = image
        self.place = root / "mounts"
        self.archive = self.place / "archive"
        self.source = self.place / "source"
        self.mountpoint = self.place / "mnt"
        self.read = Read()

    def prepare(self) -> None:
        self.close()
        self.mountpoint.mkdir(parents=True)
        quiet("cp", "--sparse=always", self.first, self.source)
        quiet(self.backy, "-b", self.archive, "init", self.source)
        quiet(self.backy, "-b", self.archive, "backup", "--force")
        generator = random.Random(3)
        for _ in range(DAYS):
            self.change(generator)
            quiet(self.backy, "-b", self.archive, "backup", "--force")

    def change(self, generator: random.Random) -> None:
        size = self.source.stat().st_size
        with open(self.source, "r+b") as source:
            for _ in range(int(size * CHANGED) // BLOCK):
                source.seek(generator.randrange(size // BLOCK) * BLOCK)
                source.write(generator.randbytes(BLOCK // 2).hex().encode())

    def close(self) -> None:
        subprocess.run(["umount", "-l", self.mountpoint], check=False, stderr=subprocess.DEVNULL)
        shutil.rmtree(self.place, ignore_errors=True)

    @contextlib.contextmanager
    def serving(self, command: list[str | Path], path: Path) -> Iterator[int]:
        """Runs a server in front until it is unmounted."""
        server = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL)
        try:
            wait_for(path)
            yield server.pid
        finally:
            quiet("umount", self.mountpoint)
            server.wait(PATIENCE_SECONDS)

    def mounted(self, archive: Path, revision: str) -> tuple[list[str | Path], Path]:
        command: list[str | Path] = [self.backy, "-b", archive, "-q", "mount", "-f", self.mountpoint]
        return command, self.mountpoint / "by-number" / revision

    def note_rate(self, name: str, path: Path) -> None:
        self.read.rates.setdefault(name, []).append(sequential(path))

    def note_latency(self, name: str, path: Path, offsets: list[int]) -> None:
        self.read.latencies.setdefault(name, []).append(at_random(path, offsets))

    def note_mount(self, name: str, command: list[str | Path], path: Path, offsets: list[int]) -> None:
        with self.serving(command, path) as server:
            self.note_rate(f"{name}, first", path)
            self.note_rate(f"{name}, from the kernel's cache", path)
            drop_caches()
            self.note_rate(f"{name}, again", path)
            drop_caches()
            self.note_latency(f"{name}, again", path, offsets)
            self.read.peaks.setdefault(name, []).append(peak_mib(server))
        with self.serving(command, path):
            self.note_latency(f"{name}, first", path, offsets)

    def one_run(self) -> None:
        image = self.archive / "last.raw"
        offsets = data_offsets(image)
        self.note_rate("the file itself", image)
        self.note_latency("the file itself", image, offsets)
        plain: list[str | Path] = [self.plain, image, self.mountpoint]
        self.note_mount("plain FUSE", plain, self.mountpoint / "image", offsets)
        for name, revision in (("newest", "0"), ("oldest of 31", str(DAYS))):
            command, path = self.mounted(self.archive, revision)
            self.note_mount(name, command, path, offsets)
        self.qemu(offsets)

    def qemu(self, offsets: list[int]) -> None:
        if not shutil.which("qemu-storage-daemon"):
            print("SKIPPED: QEMU's export: qemu-storage-daemon is not installed")
            return
        export = self.place / "export"
        export.touch()
        find = [self.backy, "-b", self.archive, "find", "-r", str(DAYS)]
        delta = subprocess.run([str(part) for part in find], check=True, capture_output=True, text=True).stdout.strip()
        options = f"driver=qcow2,read-only=on,file.driver=file,file.filename={delta},node-name=d"
        daemon = subprocess.Popen(
            ["qemu-storage-daemon", "--blockdev", options]
            + ["--export", f"type=fuse,id=e,node-name=d,mountpoint={export},writable=off"]
        )
        try:
            wait_for(export)
            self.note_rate("QEMU's export of the oldest", export)
            drop_caches()
            self.note_latency("QEMU's export of the oldest", export, offsets)
        finally:
            daemon.terminate()
            daemon.wait(PATIENCE_SECONDS)

    def compare(self) -> None:
        """That what is read is right."""
        for revision, expected in (("0", self.source), (str(DAYS), self.first)):
            command, path = self.mounted(self.archive, revision)
            with self.serving(command, path):
                quiet("cmp", path, expected)

    def clones(self) -> None:
        """The newest revision where the archive is updated by clones, once all of it has been checked."""
        size = self.first.stat().st_size
        disk, folder = self.place / "disk", self.place / "xfs"
        folder.mkdir(exist_ok=True)
        with open(disk, "wb") as file:
            file.truncate(2 * size + 512 * MIB)
        quiet("mkfs.xfs", "-q", "-m", "reflink=1", disk)
        quiet("mount", "-o", "loop", disk, folder)
        try:
            archive = folder / "archive"
            quiet(self.backy, "-b", archive, "init", self.source)
            quiet(self.backy, "-b", archive, "backup", "--force")
            image = archive / "last.raw"
            sequential(image)
            command, path = self.mounted(archive, "0")
            with self.serving(command, path):
                sequential(path)
                for _ in range(3):
                    self.note_rate("the file itself on XFS", image)
                    self.note_rate("newest on XFS, passed through", path)
        finally:
            quiet("umount", folder)
            disk.unlink()

    def table(self) -> str:
        """In Markdown."""
        names = list(dict.fromkeys([*self.read.rates, *self.read.latencies]))
        lines = [
            "| read | MB/s: median (min–max) | 4 KiB at random: median of medians, µs |",
            "|---|---|---|",
        ]
        for name in names:
            rates, latencies = self.read.rates.get(name), self.read.latencies.get(name)
            rate = f"{statistics.median(rates):.0f} ({min(rates):.0f}–{max(rates):.0f})" if rates else ""
            latency = f"{statistics.median(latencies):.1f}" if latencies else ""
            lines.append(f"| {name} | {rate} | {latency} |")
        return "\n".join([*lines, "", *self.verdicts()])

    def verdicts(self) -> list[str]:
        def rate(name: str) -> float:
            return statistics.median(self.read.rates[name])

        newest = rate("newest, first") / rate("plain FUSE, first")
        oldest_us = statistics.median(self.read.latencies["oldest of 31, again"])
        verdicts = [
            f"- newest, first, to plain FUSE: {newest:.2f} (target ≥ {PLAIN_TARGET})",
            f"- oldest, sequential: {rate('oldest of 31, first'):.0f} MB/s (target ≥ {OLD_TARGET_MB})",
            f"- oldest, 4 KiB at random: {oldest_us:.0f} µs (target ≤ {OLD_TARGET_US})",
        ]
        if "newest on XFS, passed through" in self.read.rates:
            passed = rate("newest on XFS, passed through") / rate("the file itself on XFS")
            verdicts.append(f"- newest on XFS, to the file itself: {passed:.2f} (target ≥ {PASS_TARGET})")
        peaks = max(statistics.median(peaks) for name, peaks in self.read.peaks.items() if name != "plain FUSE")
        return [*verdicts, f"- peak memory of a mount: {peaks:.0f} MiB"]
