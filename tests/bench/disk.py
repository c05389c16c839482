"""Measurements on a real disk, where what counts is what has been written for good.

`cp` is followed by the sync of its target, which backy does by itself.

cold: the operations, each command with cold caches.
large: an image that memory does not hold, as dense as it can be.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

from measure import MIB, measure, quiet, remove
from noise import BLOCK, change_blocks, noise
from operations import Operations
from places import Bench
from table import peak_note, table
from workload import parse_size

COLD_OPERATIONS = ("first", "unchanged", "day", "restore-newest", "restore-oldest", "scrub")
COLD_TARGETS = dict.fromkeys(COLD_OPERATIONS, 1.05)
LARGE_CHANGED = 0.01
# Digests, and what the file system takes for itself, to the size of the image.
LARGE_MARGIN = 0.02


def durable_copy(image: Path, target: Path) -> list[str | Path]:
    return ["sh", "-ec", 'cp --sparse=always "$1" "$2"; sync "$2"', "sh", image, target]


def require_disk(bench: Bench) -> None:
    shown = subprocess.run(["stat", "-f", "-c", "%T", bench.root], check=True, capture_output=True, text=True)
    if shown.stdout.strip() in ("tmpfs", "ramfs"):
        sys.exit(f"bench: {bench.root} is in memory; cold and large need a --dir on a disk")


def run_cold(bench: Bench) -> str:
    if os.geteuid() != 0:
        sys.exit("bench: cold needs root, to drop caches")
    cold = Cold(bench, {*COLD_OPERATIONS})
    for run in range(bench.options.runs):
        cold.one_run(run)
    return "\n\n".join([table(bench.results, COLD_TARGETS, bench.floor_bytes()), peak_note(bench.results)])


class Cold(Operations):
    def settle(self) -> None:
        """Cold caches on a machine that has been up for a while: nothing of ours in memory, and no memory free."""
        quiet("sync")
        for path in self.bench.root.rglob("*"):
            if path.is_file():
                evict(path)
        # Names and inodes.
        Path("/proc/sys/vm/drop_caches").write_text("2\n")
        self.bench.filler.fill()

    def copy(self) -> list[str | Path]:
        return durable_copy(self.bench.day(0), self.bench.target)


def evict(path: Path) -> None:
    """Takes a file whose content is on disk out of the page cache."""
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run_large(bench: Bench) -> str:
    image = bench.scratch / "large.img"
    size_bytes = parse_size(bench.options.large_size)
    bench.begin_scratch()
    require_room(bench, size_bytes)
    print(f"making {image}", file=sys.stderr)
    write_large(image, size_bytes)
    generator = random.Random(5)
    for run in range(bench.options.runs):
        large_run(bench, run, image, generator)
    return "\n\n".join([table(bench.results, {}, bench.floor_bytes()), peak_note(bench.results)])


def require_room(bench: Bench, size_bytes: int) -> None:
    """For the image and, one after the other, a copy of it and an archive."""
    needed = int(size_bytes * (2 + LARGE_CHANGED + LARGE_MARGIN))
    free = shutil.disk_usage(bench.root).free
    if free < needed:
        sys.exit(
            f"bench: {bench.root} has {free / MIB:.0f} MiB free, {needed / MIB:.0f} MiB are needed for an image of "
            f"{bench.options.large_size} and its archive: choose a smaller --large-size or another --dir"
        )


def write_large(image: Path, size_bytes: int) -> None:
    """The same noise over and over, with the number of the block at its beginning: no two blocks are equal."""
    piece = bytearray(noise(random.Random(4), MIB))
    with open(image, "wb") as file:
        for start in range(0, size_bytes, MIB):
            for offset in range(0, MIB, BLOCK):
                piece[offset : offset + 8] = ((start + offset) // BLOCK).to_bytes(8, "big")
            file.write(piece)
    quiet("sync", image)


def large_run(bench: Bench, run: int, image: Path, generator: random.Random) -> None:
    bench.begin()
    sample = measure(run, durable_copy(image, bench.target))
    bench.results.baselines[run] = sample.wall_seconds
    bench.add("cp", sample, bench.target)
    remove(bench.target)
    bench.point_source_at(image)
    bench.new_archive()
    for name in ("first", "unchanged"):
        bench.add(name, measure(run, bench.backy("backup", "--force")), bench.archive)
    change_blocks(image, int(image.stat().st_size * LARGE_CHANGED) // BLOCK, generator)
    quiet("sync", image)
    bench.add("1 % changed", measure(run, bench.backy("backup", "--force")), bench.archive)
    remove(bench.work)
