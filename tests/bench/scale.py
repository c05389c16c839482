"""What a backup costs against the length of the chain, the size of the image and the share that has changed.

All sizes are set in relation to --size, here given for 4G. What grows must be what changed, and the time to read the
source.

chain-length: 256 MiB, 1 MiB changed, with 1 to --revisions revisions in the archive.
image-size: 256 MiB to 4 GiB, 16 MiB changed.
changed-share: 1 GiB, of which nothing to all has changed.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from measure import MIB, allocated_bytes, measure, median, quiet
from noise import BLOCK, change_blocks, write_noise
from places import Bench
from plot import Panel, Series, svg
from table import cpu_cell, peak_note, seconds_cell
from workload import parse_size

CHAIN_LENGTHS = (1, 10, 30, 100, 300, 1000)
# Parts of --size.
SIZES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)
PERCENTS = (0, 1, 2, 5, 10, 20, 50, 100)


def run_scale(bench: Bench) -> str:
    scale = Scale(bench)
    bench.options.plots.mkdir(parents=True, exist_ok=True)
    parts = [
        scale.plotted("chain-length", "revisions in the archive", scale.chain_length()),
        scale.plotted("image-size", "size of the image, GiB", scale.image_size()),
        scale.plotted("changed-share", "changed blocks, %", scale.changed_share()),
    ]
    return "\n\n".join([*parts, peak_note(bench.results)])


class Scale:
    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.size_bytes = parse_size(bench.options.size)
        self.image = bench.scratch / "image"
        self.generator = random.Random(6)

    def begin(self, size_bytes: float) -> None:
        """An image, and an archive with one revision of it."""
        bench = self.bench
        bench.begin_scratch()
        bench.begin()
        write_noise(self.image, int(size_bytes), self.generator)
        bench.point_source_at(self.image)
        bench.new_archive()
        bench.configure()
        quiet(*bench.backy("backup"))

    def change(self, changed_bytes: float) -> None:
        change_blocks(self.image, int(changed_bytes) // BLOCK, self.generator)

    def backup(self, run: int, name: str) -> None:
        bench = self.bench
        before_bytes = allocated_bytes(bench.archive)
        sample = measure(run, bench.backy("backup"))
        sample.grown_bytes = allocated_bytes(bench.archive) - before_bytes
        bench.add(name, sample, bench.archive)

    def chain_length(self) -> dict[float, str]:
        """Where it measures, and what the samples are called; so do the others."""
        changed_bytes = self.size_bytes / 4096
        self.begin(self.size_bytes / 16)
        revisions, names = 1, {}
        for length in (length for length in CHAIN_LENGTHS if length <= self.bench.options.revisions):
            print(f"making {length} revisions", file=sys.stderr)
            for _ in range(length - revisions):
                self.change(changed_bytes)
                quiet(*self.bench.backy("backup"))
            names[float(length)] = f"chain-length {length}"
            # Each run lengthens the chain by one. A copy of the archive for each would lack the space kept in reserve.
            for run in range(self.bench.options.runs):
                self.change(changed_bytes)
                self.backup(run, names[length])
            revisions = max(revisions, length) + self.bench.options.runs
        return names

    def image_size(self) -> dict[float, str]:
        names = {}
        for part in SIZES:
            size_bytes = self.size_bytes * part
            name = f"image-size {size_bytes / MIB:g} MiB"
            names[size_bytes / (1024 * MIB)] = name
            self.begin(size_bytes)
            for run in range(self.bench.options.runs):
                self.change(self.size_bytes / 256)
                self.backup(run, name)
        return names

    def changed_share(self) -> dict[float, str]:
        names = {}
        for percent in PERCENTS:
            names[float(percent)] = f"changed-share {percent} %"
            self.begin(self.size_bytes / 4)
            for run in range(self.bench.options.runs):
                self.change(self.size_bytes / 4 * percent / 100)
                self.backup(run, names[percent])
        return names

    def plotted(self, subject: str, x_label: str, names: dict[float, str]) -> str:
        """Writes the plot; the table in Markdown."""
        results = self.bench.results.samples
        lines = [f"| {x_label} | seconds: median (min–max) | CPU s | stored MiB |", "|---|---|---|---|"]
        for place, name in names.items():
            grown_mib = median(sample.grown_bytes or 0 for sample in results[name]) / MIB
            lines.append(f"| {place:g} | {seconds_cell(results[name])} | {cpu_cell(results[name])} | {grown_mib:.2f} |")
        points = [(place, sample) for place, name in names.items() for sample in results[name]]
        wall = Series("elapsed", [(place, sample.wall_seconds) for place, sample in points])
        cpu = Series("CPU", [(place, sample.cpu_seconds) for place, sample in points])
        stored = Series("archive", [(place, (sample.grown_bytes or 0) / MIB) for place, sample in points])
        title = f"One backup, by {subject.replace('-', ' ')}"
        panels = [Panel("seconds", [wall, cpu]), Panel("MiB stored", [stored])]
        plots: Path = self.bench.options.plots
        (plots / f"{subject}.svg").write_text(svg(title, x_label, panels))
        return "\n".join(lines)
