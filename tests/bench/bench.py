#!/usr/bin/env python3
"""Measure backy against cp, on the images of workload.py.

  bench.py [--size 4G] [--runs 5] [--dir /dev/shm/backy-bench] [--only first,day] [--peers] [--json FILE]

Every run begins with `cp --sparse=always` of the first image, and every operation of that run is set in relation
to it: absolute times say more about the machine than about the program. The table has medians over the runs. What
is restored is compared byte by byte, outside of the timing. Nothing here asserts a time.

Making the images needs root (loop mounts); they stay in --dir until the end, or for the next call with --keep.

Operations, all of them without --only: cp, first, unchanged, day, restore-newest, restore-oldest, restore-near, scrub,
rm-oldest, rm-middle, plain-digest, sha256sum, qemu-img. Only when named, and each with a table of its own:

  peers   restic and borg, where installed (make bench-peers), beside the operations; as --peers
  levels  the first day's changes with each compression_level
  sparse  a huge sparse image (--sparse-size) against a dense one with the same data (--sparse-data)
  many    an archive of --revisions small revisions against one with a single one
  scale   a backup against chain length, image size and changed share; draws three plots in --plots
  cold    operations against a durable cp with cold caches; needs root and a --dir on a disk
  large   an image of --large-size, against a durable cp; needs a --dir on a disk
  mounts  what is read through a mount: see mounts.py
  python  the module in .venv against the command
  fleet   runs over --archives archives of 64 MiB against one backup of the same data; needs some 30 GiB
  copy    pulls over a pipe and over a slow line against a backup of the same day, rsync, and restic copy
  tracked sources that know what changed (--tracked-size, --sparse-data) against reading everything, and against other
          programs that do; --tracked-kinds has some of them only; needs root
  digest-tables
          an unchanged huge sparse image (--sparse-size, --sparse-data), by its path and as reflink:; needs root

--json takes everything that was measured, written anew after each subject: size, runs, cpus, kernel, python, targets
(ratios to cp, `peak_mib`, `bytes`, `sparse`, `cold`), and `measured`: by subject (`operations`, with
the peers, and the names above) an object with `samples`, by row of the table a list of them in the order of the runs. A
sample has run, wall_seconds, cpu_seconds, peak_bytes, written_bytes (by system calls), ratio (to cp), day, stored_bytes
(of archive or target afterwards), grown_bytes (of the archive), delta_bytes; null is what was not looked at. Subjects
with other figures have them beside `samples`: `bytes` of operations, `rates_mb`, `latencies_us` and `peaks_mib` of
mounts, `backup_ratios`, `read_ratios` and `import_seconds` of python, `tracked` and `digest-tables` of these.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import disk
import fleet
import interpreter
import mounts
import table
from levels import run_levels
from many import run_many
from measure import MIB, Results, allocated_bytes, remove
from operations import OPERATIONS, run_operations
from places import CHECKOUT, DAYS, Bench
from scale import run_scale
from second_copy import run_copy
from sparse import SPARSE_TARGET, run_sparse
from tables import run_tables
from tracked import KINDS, run_tracked
from workload import parse_size

# In this order; each measures, and returns what is to be printed.
SUBJECTS: dict[str, Callable[[Bench], str]] = {
    "operations": run_operations,
    "levels": run_levels,
    "sparse": run_sparse,
    "many": run_many,
    "scale": run_scale,
    "cold": disk.run_cold,
    "large": disk.run_large,
    "mounts": mounts.run_mounts,
    "python": interpreter.run_python,
    "fleet": fleet.run_fleet,
    "copy": run_copy,
    "tracked": run_tracked,
    "digest-tables": run_tables,
}
EXTRA = ("peers", *(subject for subject in SUBJECTS if subject != "operations"))
NEED_IMAGES = ("operations", "levels", "cold", "mounts", "python", "copy")
NEED_DISK = ("cold", "large")


def main() -> None:
    options = arguments()
    # Whoever ends it in another way than by Ctrl-C has it tidy up all the same.
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, lambda number, _: sys.exit(128 + number))
    bench = Bench(options)
    bench.root.mkdir(parents=True, exist_ok=True)
    wanted = chosen(options.only)
    measured = {}
    try:
        if not wanted.isdisjoint(NEED_DISK):
            disk.require_disk(bench)
        if not wanted.isdisjoint(NEED_IMAGES):
            warn_about_space(bench.root, parse_size(options.size))
            bench.prepare_images()
        for subject, run in SUBJECTS.items():
            if subject in wanted:
                bench.results = Results()
                print(f"\n{subject}\n\n{run(bench)}", flush=True)
                measured[subject] = bench.results.document()
                remove(bench.work, bench.scratch)
                if options.json:
                    options.json.write_text(json.dumps(document(options, measured), indent=2) + "\n")
    finally:
        remove(bench.work, bench.scratch, bench.filler.path)
        if not options.keep:
            remove(bench.images)
            # Not with rmtree: what else may be in a folder that somebody named is not ours.
            if bench.root.exists() and not any(bench.root.iterdir()):
                bench.root.rmdir()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="4G", help="size of the disk image (4G)")
    parser.add_argument("--runs", type=int, default=5, help="how often everything is measured (5)")
    parser.add_argument("--dir", default="/dev/shm/backy-bench", help="where all files go (a folder on tmpfs)")
    parser.add_argument("--only", type=parse_only, default={*OPERATIONS}, help="comma list of operations (all)")
    parser.add_argument("--peers", action="store_true", help="measure restic and borg as well")
    parser.add_argument("--sparse-size", default="1024G", help="size of the huge sparse image (1024G)")
    parser.add_argument("--sparse-data", default="2G", help="data in it (2G)")
    parser.add_argument("--tracked-size", default="100G", help="size of its image (100G)")
    parser.add_argument("--tracked-kinds", dest="tracked", type=parse_kinds, default=[*KINDS], help="sources (all)")
    parser.add_argument("--large-size", default="64G", help="size of the large image (64G)")
    parser.add_argument("--revisions", type=int, default=1000, help="revisions of an archive with many (1000)")
    parser.add_argument("--archives", type=int, default=200, help="archives of a fleet (200)")
    parser.add_argument("--plots", type=Path, default=CHECKOUT / "doc/plots", metavar="DIR", help="where plots go")
    parser.add_argument("--backy", type=Path, default=CHECKOUT / "target/release/backy", help="the binary")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured there")
    parser.add_argument("--keep", action="store_true", help="leave the images for the next call")
    options = parser.parse_args()
    if options.peers:
        options.only.add("peers")
    if not os.access(options.backy, os.X_OK):
        parser.error(f"{options.backy} is missing; make build makes it")
    return options


def parse_only(text: str) -> set[str]:
    wanted = {part.strip() for part in text.split(",") if part.strip()}
    unknown = wanted - {*OPERATIONS, *EXTRA}
    if unknown:
        raise argparse.ArgumentTypeError(
            f"unknown: {', '.join(sorted(unknown))}; there are {', '.join((*OPERATIONS, *EXTRA))}"
        )
    return wanted


def parse_kinds(text: str) -> list[str]:
    wanted = [part.strip() for part in text.split(",")]
    if not {*wanted} <= {*KINDS}:
        raise argparse.ArgumentTypeError(f"there are {', '.join(KINDS)}")
    return wanted


def chosen(only: set[str]) -> set[str]:
    """The subjects; operations and peers are one."""
    subjects = only & {*SUBJECTS}
    return subjects | {"operations"} if only - subjects else subjects


def warn_about_space(root: Path, size_bytes: int) -> None:
    """Images of four days, an archive and a target, each with about 0.6 of the size allocated."""
    needed = int(0.6 * size_bytes * (DAYS + 1 + 2.2))
    free = shutil.disk_usage(root).free
    made = allocated_bytes(root / "images") if (root / "images").exists() else 0
    if free + made < needed:
        print(
            f"bench: {root} has {free / MIB:.0f} MiB free, about {needed / MIB:.0f} MiB are needed: "
            "choose a smaller --size or another --dir",
            file=sys.stderr,
        )


def document(options: argparse.Namespace, measured: dict[str, Any]) -> dict[str, Any]:
    return {
        "size": options.size,
        "runs": options.runs,
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "targets": {
            **table.TARGETS,
            "peak_mib": table.PEAK_TARGET_MIB,
            "bytes": table.BYTES_TARGET,
            "sparse": SPARSE_TARGET,
            "cold": disk.COLD_TARGETS,
        },
        "measured": measured,
    }


if __name__ == "__main__":
    main()
