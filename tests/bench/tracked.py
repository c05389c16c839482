"""A huge sparse image of which little has changed: sources that know what changed against the same read as a whole.

On an XFS of its own, as the file system has to clone. The other measure is what only those changes cost, to read and to
write durably.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from measure import MIB, Results, measure, median, quiet, remove
from noise import BLOCK, noise
from places import Bench
from table import mark, peak_note, table
from workload import parse_size

CHANGED_BYTES = 100 * MIB
# Of the time of reading everything, of that of the changes alone, and seconds where nothing changed.
TARGETS = {"whole": 0.05, "changes": 3.0, "unchanged": 1.0}


def run_tracked(bench: Bench) -> str:
    if os.geteuid() != 0:
        sys.exit("bench: tracked needs root, to mount a file system that clones")
    with mounted(bench.scratch.parent / "tracked") as folder:
        tracked = Tracked(bench, folder)
        tracked.prepare()
        for run in range(bench.options.runs):
            tracked.one_run(run)
    return "\n\n".join([table(bench.results, {}, bench.floor_bytes()), peak_note(bench.results), ratios(bench.results)])


@contextmanager
def mounted(place: Path) -> Iterator[Path]:
    """An XFS in a sparse file."""
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
        quiet("umount", folder)
        remove(place)


class Tracked:
    def __init__(self, bench: Bench, folder: Path) -> None:
        self.bench = bench
        self.image = folder / "vm.img"
        self.qcow2 = folder / "vm.qcow2"
        self.changes = folder / "changes"
        self.copy = folder / "copy"
        self.pieces_folder = folder / "pieces"
        self.sources = {"reflink": f"reflink:{self.image}", "qcow2": f"qcow2:{self.qcow2}"}
        self.archives = {name: folder / name for kind in self.sources for name in (kind, whole(kind))}
        self.stride = 0
        self.pieces = 0
        self.generator = random.Random(11)

    def prepare(self) -> None:
        options = self.bench.options
        size_bytes, data_bytes = parse_size(options.tracked_size), parse_size(options.sparse_data)
        self.pieces = max(1, data_bytes // MIB)
        self.stride = size_bytes // self.pieces // MIB * MIB
        with self.image.open("wb") as image:
            image.truncate(size_bytes)
            for number in range(self.pieces):
                image.seek(number * self.stride)
                image.write(noise(self.generator, MIB))
        quiet("qemu-img", "convert", "-f", "raw", "-O", "qcow2", self.image, self.qcow2)
        self.pieces_folder.mkdir()
        quiet("sync")
        for kind, source in self.sources.items():
            for name in (kind, whole(kind)):
                archive = self.archives[name]
                quiet(options.backy, "-b", archive, "init", source)
                if name != kind:
                    with (archive / "backy.toml").open("a") as config:
                        config.write('[tracking]\nmode = "off"\n')
                self.bench.add(f"{name} first", measure(0, self.command(archive)), archive)

    def command(self, archive: Path) -> list[str | Path]:
        return [self.bench.options.backy, "-b", archive, "backup", "--force"]

    def one_run(self, run: int) -> None:
        archives = self.archives
        for kind in self.sources:
            self.bench.add(f"{kind} unchanged", measure(run, self.command(archives[kind])), archives[kind])
        self.change()
        quiet("sync")
        alone = ["dd", f"if={self.changes}", f"of={self.copy}", "bs=1M", "conv=fsync", "status=none"]
        self.bench.add("changes alone", measure(run, alone), self.copy)
        for kind in self.sources:
            for name in (kind, whole(kind)) if run % 2 else (whole(kind), kind):
                self.bench.add(f"{name} changed", measure(run, self.command(archives[name])), archives[name])
                self.compare(archives[name] / "last.raw", name)

    def compare(self, revision: Path, what: str) -> None:
        """Where there is data; reading all the holes would take minutes."""
        with self.image.open("rb") as image, revision.open("rb") as other:
            for number in range(self.pieces):
                image.seek(number * self.stride)
                other.seek(number * self.stride)
                if image.read(MIB) != other.read(MIB):
                    sys.exit(f"bench: {what} gave wrong bytes")

    def change(self) -> None:
        """New content for random blocks of the data, in both images; the same bytes in a file of their own."""
        places = self.generator.sample(range(self.pieces * MIB // BLOCK), CHANGED_BYTES // BLOCK)
        commands: list[str] = []
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
                commands += ["-c", f"write -s {name} {offset} {BLOCK}"]
        quiet("qemu-io", "-f", "qcow2", *commands, self.qcow2)
        for name in self.pieces_folder.iterdir():
            name.unlink()


def whole(kind: str) -> str:
    """The archive of the same source that reads everything."""
    return f"{kind} whole"


def ratios(results: Results) -> str:
    def ratio(one: str, other: str) -> float:
        return median(a.wall_seconds / b.wall_seconds for a, b in zip(results.samples[one], results.samples[other]))

    texts = {
        "whole": "100 MiB changed, against reading everything: {:.3f} x",
        "changes": "100 MiB changed, against reading and writing only those: {:.2f} x",
        "unchanged": "nothing changed: {:.2f} s",
    }
    lines: list[str] = []
    figures: dict[str, float] = {}
    for kind in ("reflink", "qcow2"):
        found = {
            "whole": ratio(f"{kind} changed", f"{whole(kind)} changed"),
            "changes": ratio(f"{kind} changed", "changes alone"),
            "unchanged": median(sample.wall_seconds for sample in results.samples[f"{kind} unchanged"]),
        }
        figures.update({f"{kind} {name}": figure for name, figure in found.items()})
        lines += [
            f"{kind}: {text.format(found[name])}, target ≤ {TARGETS[name]}{mark(found[name] <= TARGETS[name])}."
            for name, text in texts.items()
        ]
    results.figures["tracked"] = figures
    return "\n".join(lines)
